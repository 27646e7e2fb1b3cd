// Package supervise keeps programs running: starts them, restarts them with back-off
// when they end, stops them in good order, and gathers what they print.
//
// A function that starts the program enters (how it is started, in which namespace, is
// the caller's business); states leave through a callback, output through Logs. Each
// program is kept by one goroutine (Keep); Logs is shared.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

const (
	// firstDelay doubles with every quick end up to maxDelay: a program that crashes at
	// once costs a start a minute at most, a single crash is hardly noticed.
	firstDelay = 200 * time.Millisecond
	maxDelay   = time.Minute
	// stable is how long a program must live for its next end to count as the first.
	stable = 30 * time.Second
)

// Process is a started program.
type Process interface {
	// Wait returns how the program ended: nil for exit status 0.
	Wait() error
	Signal(sig os.Signal) error
	Pid() int
}

// Phase is where a kept program is.
type Phase string

// Phases.
const (
	Running    Phase = "running"
	BackingOff Phase = "backing off"
	Stopping   Phase = "stopping"
	Stopped    Phase = "stopped"
)

// State is reported whenever it changes.
type State struct {
	Phase    Phase
	Pid      int
	Restarts int
	// Last is how the program ended the last time, in a sentence; "" if it never did.
	Last string
	// Retry is when it is started again, while BackingOff.
	Retry time.Time
}

// Program says what to keep running.
type Program struct {
	// Start starts it. An error is treated like a program that ended at once.
	Start func() (Process, error)
	// Grace is how long it may take to end after SIGTERM before it is killed.
	Grace time.Duration
	// Changed is told every new State, from Keep's goroutine; may be nil.
	Changed func(State)
	// Once does not start it again when it ends.
	Once bool
}

// Keep runs p until ctx ends, then stops it: SIGTERM, and after Grace SIGKILL. With Once
// it returns when the program has ended, with the program's error.
func Keep(ctx context.Context, p Program) error {
	tell := func(s State) {
		if p.Changed != nil {
			p.Changed(s)
		}
	}
	s := State{}
	delay := firstDelay
	for {
		began := time.Now()
		proc, err := p.Start()
		if err == nil {
			s.Phase, s.Pid, s.Retry = Running, proc.Pid(), time.Time{}
			tell(s)
			var stopping bool
			err, stopping = wait(ctx, proc, p.Grace, func() { s.Phase = Stopping; tell(s) })
			s.Pid, s.Last = 0, Describe(err)
			if stopping {
				s.Phase = Stopped
				tell(s)
				return nil
			}
		} else {
			s.Last = fmt.Sprintf("could not be started: %v", err)
		}
		if p.Once || ctx.Err() != nil {
			s.Phase = Stopped
			tell(s)
			return err
		}
		if time.Since(began) >= stable {
			delay = firstDelay
		}
		s.Phase, s.Restarts, s.Retry = BackingOff, s.Restarts+1, time.Now().Add(delay)
		tell(s)
		t := time.NewTimer(delay)
		select {
		case <-ctx.Done():
			t.Stop()
			s.Phase, s.Retry = Stopped, time.Time{}
			tell(s)
			return nil
		case <-t.C:
		}
		delay = min(2*delay, maxDelay)
	}
}

// wait returns when the process ended; stopping says that it was asked to.
func wait(ctx context.Context, proc Process, grace time.Duration, asked func()) (err error, stopping bool) {
	ended := make(chan error, 1)
	go func() { ended <- proc.Wait() }()
	select {
	case err := <-ended:
		return err, false
	case <-ctx.Done():
	}
	asked()
	_ = proc.Signal(syscall.SIGTERM) // it may just have ended; Wait tells
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case err := <-ended:
		return err, true
	case <-t.C:
		_ = proc.Signal(syscall.SIGKILL)
		return <-ended, true
	}
}

// Describe says how a program ended.
func Describe(err error) string {
	if err == nil {
		return "ended by itself with status 0"
	}
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return fmt.Sprintf("ended with status %d", exit.ExitCode())
	}
	return "ended: " + err.Error()
}
