package process

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// The kernel sends no signal on the parent's death; the next CleanUp has to do.
func attributes(tty bool) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Setctty: tty}
}

func boot() string {
	s, err := unix.Sysctl("kern.bootsessionuuid")
	if err != nil {
		return "unknown"
	}
	return s
}

func birth(pid int) (born, bool) {
	k, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil || int(k.Proc.P_pid) != pid {
		return born{}, false
	}
	return born{boot(), fmt.Sprintf("%d.%06d", k.Proc.P_starttime.Sec, k.Proc.P_starttime.Usec)}, true
}

// Members are the processes of a group.
func Members(group int) (pids []int) {
	ks, err := unix.SysctlKinfoProcSlice("kern.proc.pgrp", group)
	if err != nil {
		return nil
	}
	for i := range ks {
		pids = append(pids, int(ks[i].Proc.P_pid))
	}
	return pids
}
