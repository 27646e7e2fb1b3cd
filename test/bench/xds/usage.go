package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// usage is what a process has used.
type usage struct {
	cpu       time.Duration
	rss, most float64 // MB
}

// usageOf reads /proc (proc(5)); nothing for pid 0.
func usageOf(pid int) (u usage) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+2:]))
	for _, s := range f[11:13] { // utime and stime, in ticks of 10 ms
		n, err := strconv.Atoi(s)
		if err != nil {
			return u
		}
		u.cpu += time.Duration(n) * 10 * time.Millisecond
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
		switch {
		case err != nil:
		case name == "VmRSS":
			u.rss = kb / 1024
		case name == "VmHWM":
			u.most = kb / 1024
		}
	}
	return u
}
