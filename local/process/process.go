// Package process starts programs of this machine as groups that end with it.
//
// Commands enter; running processes leave. Each leads a session, and so a process group,
// of its own: the terminal's Ctrl-C does not reach it, signals reach everything it
// started, and when it ends what it left behind in the group is killed. On Linux the
// kernel kills it when this process dies, however that happens; what it had started
// itself is ended by the next CleanUp, from the file in which a Starter records its groups.
//
// A Starter is safe for concurrent use.
package process

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Command is a program to start.
type Command struct {
	// Argv[0] is a path, or a name looked up in Env's PATH.
	Argv []string
	Env  []string
	Dir  string // "": this process's
	// Output takes standard output and error. Stdio, if its first is not nil, is inherited
	// instead. The caller keeps both.
	Output io.Writer
	Stdio  [3]*os.File
	TTY    bool       // Stdio is a terminal, to become the controlling one
	Files  []*os.File // inherited as descriptors 3, 4, …
}

// Starter starts processes.
type Starter struct {
	record string
	calls  chan func()
	mu     sync.Mutex // guards the file
}

// NewStarter makes one that records what it starts in a file ("": nowhere). Its thread
// lives as long as this process.
func NewStarter(record string) *Starter {
	s := &Starter{record: record, calls: make(chan func())}
	go func() {
		// The kernel's signal on the parent's death comes when the thread that started the
		// child ends; this one never does.
		runtime.LockOSThread()
		for f := range s.calls {
			f()
		}
	}()
	return s
}

// Process is a started program.
type Process struct {
	cmd    *exec.Cmd
	copied chan struct{} // its output has ended
	done   chan struct{}
	err    error // once done
	mu     sync.Mutex
	ended  bool
}

// outputTail is how long output may still come after a program ended, from something it
// started that left its group. It must be enough for what is already in the pipe, on a
// machine that is busy.
const outputTail = time.Second

// Start starts c.
func (s *Starter) Start(c Command) (*Process, error) {
	if len(c.Argv) == 0 {
		return nil, errors.New("starting a process: no command")
	}
	path, err := LookPath(c.Argv[0], c.Env)
	if err != nil {
		return nil, err
	}
	p := &Process{cmd: &exec.Cmd{Path: path, Args: c.Argv, Env: c.Env, Dir: c.Dir, ExtraFiles: c.Files, SysProcAttr: attributes(c.TTY)}, done: make(chan struct{}), copied: make(chan struct{})}
	if c.Env == nil {
		p.cmd.Env = []string{}
	}
	var write *os.File
	if c.Stdio[0] != nil {
		p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = c.Stdio[0], c.Stdio[1], c.Stdio[2]
		close(p.copied)
	} else {
		if write, err = Pipe(c.Output, p.copied); err != nil {
			return nil, err
		}
		defer write.Close()
		p.cmd.Stdout, p.cmd.Stderr = write, write
	}
	started := make(chan error)
	s.calls <- func() { started <- p.cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", c.Argv[0], rootCause(err))
	}
	s.remember(p.cmd.Process.Pid)
	go p.reap()
	return p, nil
}

// rootCause drops the path that os/exec puts before the reason.
func rootCause(err error) error {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err
	}
	return err
}

// Pipe returns the end to be inherited by a program whose output shall go to w, and
// closes ended when everybody who inherited it has closed it. The caller closes its own.
func Pipe(w io.Writer, ended chan<- struct{}) (*os.File, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() {
		_, _ = io.Copy(cmp.Or[io.Writer](w, io.Discard), read)
		read.Close()
		close(ended)
	}()
	return write, nil
}

func (p *Process) reap() {
	err := p.cmd.Wait()
	p.mu.Lock()
	p.ended = true
	// The id stays taken while the group has members, and ids are given out in a circle: it
	// is not yet another's.
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	p.mu.Unlock()
	WaitOutput(p.copied)
	p.err = err
	close(p.done)
}

// WaitOutput waits for the end of a Pipe whose program has ended, within reason.
func WaitOutput(ended <-chan struct{}) {
	select {
	case <-ended:
	case <-time.After(outputTail):
	}
}

// Wait returns how the process ended; an *exec.ExitError tells its status. It may be
// called more than once.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Pid is the id of the process and of its group.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends sig to the process and its group.
func (p *Process) Signal(sig os.Signal) error {
	number, ok := sig.(syscall.Signal)
	if !ok {
		return fmt.Errorf("signal %v cannot be sent", sig)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return os.ErrProcessDone
	}
	return syscall.Kill(-p.Pid(), number)
}

// Kill kills the group, if the process has not ended.
func (p *Process) Kill() { _ = p.Signal(syscall.SIGKILL) }

// Ended reports whether the process has ended.
func (p *Process) Ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// LookPath finds a program as a shell with the environment env would.
func LookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := defaultPath
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
	return "", fmt.Errorf("starting %s: there is no such program in PATH %s", name, path)
}
