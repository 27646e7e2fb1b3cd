package process

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

func attributes(tty bool) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Setctty: tty, Pdeathsig: syscall.SIGKILL}
}

func boot() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// stat returns fields of /proc/PID/stat from the third on (proc(5)): the second, the
// program's name, may contain anything.
func stat(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	i := strings.LastIndexByte(string(b), ')')
	if i < 0 {
		return nil
	}
	return strings.Fields(string(b[i+1:]))
}

func birth(pid int) (born, bool) {
	f := stat(pid)
	if len(f) < 20 {
		return born{}, false
	}
	return born{boot(), f[19]}, true // field 22, starttime
}

// Members are the living processes of a group.
func Members(group int) (pids []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if f := stat(pid); len(f) > 2 && f[2] == strconv.Itoa(group) && f[0] != "Z" { // field 5, pgrp
			pids = append(pids, pid)
		}
	}
	return pids
}
