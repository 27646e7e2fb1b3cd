package netns

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Process is a process started in the tree, and its process group.
type Process struct {
	pid    int
	table  *processes
	done   chan struct{}
	status syscall.WaitStatus // once done
}

// PID is the process's id in the tree's PID namespace.
func (p *Process) PID() int { return p.pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait returns how the process ended, once it has. What it left behind in its process
// group has been killed.
func (p *Process) Wait() syscall.WaitStatus {
	<-p.done
	return p.status
}

// Signal sends sig to the process and its group, so that it reaches a program behind a
// shell. A process that has ended is os.ErrProcessDone.
func (p *Process) Signal(sig syscall.Signal) error {
	p.table.mu.Lock() // while it is not reaped the id is the process's
	defer p.table.mu.Unlock()
	if p.table.running[p.pid] != p {
		return os.ErrProcessDone
	}
	return unix.Kill(-p.pid, sig)
}

// processes starts processes and reaps whatever ends in the PID namespace: orphans become
// children of its first process.
type processes struct {
	null *os.File

	mu      sync.Mutex
	running map[int]*Process
	reaped  chan struct{} // a round of reaping is over
}

func newProcesses() (*processes, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	t := &processes{null: null, running: map[int]*Process{}, reaped: make(chan struct{}, 1)}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	go func() {
		for range ended {
			t.reap()
			select {
			case t.reaped <- struct{}{}:
			default:
			}
		}
	}()
	return t, nil
}

// reap collects every process that has ended and reports whether none is left.
func (t *processes) reap() (none bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return true
		case pid == 0:
			return false
		}
		if p := t.running[pid]; p != nil {
			delete(t.running, pid)
			// The id stays taken while the group has members; ids are given out in a circle, so
			// without members it is not yet another's.
			_ = unix.Kill(-pid, unix.SIGKILL)
			p.status = status
			close(p.done)
		}
	}
}

// end asks every process of the namespace to end, and kills what has not within grace.
func (t *processes) end(grace time.Duration) {
	_ = unix.Kill(-1, unix.SIGTERM)
	late := time.After(grace)
	for !t.reap() {
		select {
		case <-t.reaped:
		case <-late:
			_ = unix.Kill(-1, unix.SIGKILL)
			late = nil
		}
	}
}

// start forks on whichever thread in runs its function.
func (t *processes) start(c Command, ids idMapping, in func(func() error) error) (*Process, error) {
	if len(c.Argv) == 0 {
		return nil, errors.New("starting a process: no command")
	}
	path, err := lookPath(c.Argv[0], c.Env)
	if err != nil {
		return nil, err
	}
	files := append([]*os.File{c.Stdin, c.Stdout, c.Stderr}, c.Files...)
	attr := &syscall.ProcAttr{
		Dir:   c.Dir,
		Env:   c.Env,
		Files: make([]uintptr, len(files)),
		Sys: &syscall.SysProcAttr{
			Cloneflags:                 unix.CLONE_NEWUSER,
			UidMappings:                ids.uid,
			GidMappings:                ids.gid,
			GidMappingsEnableSetgroups: ids.setgroups,
			Credential:                 ids.credential,
			Setsid:                     true,
			Setctty:                    c.TTY,
		},
	}
	for i, f := range files {
		attr.Files[i] = cmp.Or(f, t.null).Fd()
	}
	p := &Process{table: t, done: make(chan struct{})}
	err = in(func() (err error) {
		t.mu.Lock() // reap must not see the child before the table does
		defer t.mu.Unlock()
		if p.pid, err = syscall.ForkExec(path, c.Argv, attr); err == nil {
			t.running[p.pid] = p
		}
		return err
	})
	runtime.KeepAlive(files)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", c.Argv[0], err)
	}
	return p, nil
}

// lookPath finds a program as a shell with the environment env would.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, name)
		if fi, err := os.Stat(file); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("starting %s: %w in PATH %s", name, os.ErrNotExist, path)
}

// OpenPTY makes a terminal: what is written to one end is typed at the other. Give
// terminal to a Command as Stdin, Stdout and Stderr, with TTY, and close it after the
// start; controller reads as closed when the last process of the terminal is gone.
func OpenPTY() (controller, terminal *os.File, err error) {
	controller, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			controller.Close()
		}
	}()
	raw, err := controller.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var errno syscall.Errno
	var fd uintptr
	err = raw.Control(func(c uintptr) {
		var unlock int32
		if _, _, errno = unix.Syscall(unix.SYS_IOCTL, c, unix.TIOCSPTLCK, uintptr(unsafe.Pointer(&unlock))); errno != 0 {
			return
		}
		// By descriptor: /dev/pts may be another one than controller's.
		fd, _, errno = unix.Syscall(unix.SYS_IOCTL, c, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	})
	if err == nil && errno != 0 {
		err = errno
	}
	if err != nil {
		return nil, nil, fmt.Errorf("opening a terminal: %w", err)
	}
	return controller, os.NewFile(fd, "terminal"), nil
}
