package upsock

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/weirmesh/weir/local/netns"
)

// Terminal is a pseudo terminal through which a program of the mesh uses the one this
// process has.
type Terminal struct {
	controller, terminal *os.File
	outer                *os.File
	state                *term.State
	copied               chan struct{}
}

// NewTerminal makes one behind in and out, which are this process's terminal: its keys go
// to the program uninterpreted until Close.
func NewTerminal(in, out *os.File) (*Terminal, error) {
	t := &Terminal{outer: in, copied: make(chan struct{})}
	var err error
	if t.controller, t.terminal, err = netns.OpenPTY(); err != nil {
		return nil, fmt.Errorf("opening a pseudo terminal: %w", err)
	}
	t.Resize()
	if t.state, err = term.MakeRaw(int(in.Fd())); err != nil {
		t.controller.Close()
		t.terminal.Close()
		return nil, fmt.Errorf("taking over the terminal: %w", err)
	}
	go func() {
		_, _ = io.Copy(t.controller, in) // ends with this process
	}()
	go func() {
		defer close(t.copied)
		_, _ = io.Copy(out, t.controller)
	}()
	return t, nil
}

// Stdio is the program's end.
func (t *Terminal) Stdio() [3]*os.File { return [3]*os.File{t.terminal, t.terminal, t.terminal} }

// Resize tells the program how large the outer terminal is; call it on SIGWINCH.
func (t *Terminal) Resize() {
	if size, err := unix.IoctlGetWinsize(int(t.outer.Fd()), unix.TIOCGWINSZ); err == nil {
		_ = unix.IoctlSetWinsize(int(t.controller.Fd()), unix.TIOCSWINSZ, size)
	}
}

// Close shows what the program has still written, once it has ended, and gives the
// terminal back.
func (t *Terminal) Close() error {
	t.terminal.Close() // the last one: the other end reads as closed
	<-t.copied
	t.controller.Close()
	return term.Restore(int(t.outer.Fd()), t.state)
}
