package process

import (
	"bufio"
	"fmt"
	"os"
	"syscall"
	"time"
)

// born names one life of a process id: when it began, and in which boot.
type born struct {
	Boot  string
	Start string
}

// remember appends a line to the record. Without it a crash of this process may leave
// something behind, nothing worse.
func (s *Starter) remember(pid int) {
	if s.record == "" {
		return
	}
	b, ok := birth(pid)
	if !ok {
		return // it has ended already
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := os.OpenFile(s.record, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, "%d %s %s\n", pid, b.Boot, b.Start)
}

// cleanUpTime bounds waiting for killed processes to be gone.
const cleanUpTime = time.Second

// CleanUp kills what is left of the groups in a record whose writer is dead, and returns
// how many groups there were.
func CleanUp(record string) int {
	f, err := os.Open(record)
	if err != nil {
		return 0
	}
	defer f.Close()
	var left []int
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var pid int
		var b born
		if _, err := fmt.Sscan(lines.Text(), &pid, &b.Boot, &b.Start); err != nil || pid <= 1 || b.Boot != boot() {
			continue
		}
		if now, ok := birth(pid); ok && now != b {
			continue // the id is somebody else's by now
		}
		if len(Members(pid)) > 0 && syscall.Kill(-pid, syscall.SIGKILL) == nil {
			left = append(left, pid)
		}
	}
	for deadline := time.Now().Add(cleanUpTime); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		busy := false
		for _, pid := range left {
			busy = busy || len(Members(pid)) > 0
		}
		if !busy {
			break
		}
	}
	return len(left)
}
