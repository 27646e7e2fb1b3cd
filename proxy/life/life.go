// Package life ends a proxy in good order: after its application, with nothing lost of
// what is under way, and no later than need be.
//
// What happens (SIGTERM, a call of /drain or /quitquitquit) and what is seen (how much is
// under way, whether the application still has sockets) enter; what to do leaves: ask
// clients to go, exit. Machine decides, as a pure function of events and a clock that is
// given; Run watches and acts, on one goroutine.
//
// The rule: at the end clients from outside are asked to go, and served on, because some
// have not heard yet that there are others; the application's own calls go on until it is
// gone. Then the proxy goes, at once where nobody ever called, after MinimumDrain where
// somebody did.
package life

import (
	"fmt"
	"time"
)

// Options say how a proxy ends.
type Options struct {
	// Last says that whoever ends us ends the application first: a native sidecar, or a
	// gateway, which has none.
	Last bool
	// Termination is how long to go on at most without the application: for what is under
	// way if it is known to be gone, else for a sign of it.
	Termination time.Duration
	// Minimum is how long clients have to hear that we go, from when they are asked to, if
	// any ever called, or Always.
	Minimum time.Duration
	Always  bool
	// UntilZero puts no limit of ours on waiting for what is under way, and has the end of
	// that be the end of the application.
	UntilZero bool
}

// Application is what is seen of the application.
type Application uint8

// What is seen.
const (
	Unknown Application = iota // this system does not tell
	Absent                     // it has no socket
	Present                    // it listens, or has a connection
)

// View is what is seen at a moment.
type View struct {
	Active      int  // exchanges and relayed connections under way
	Called      bool // somebody from outside has connected, ever
	Application Application
}

// Event is what happens.
type Event uint8

// Events.
const (
	Look      Event = iota // time has passed
	Terminate              // SIGTERM: the pod ends
	Interrupt              // SIGINT, or SIGTERM again: do not wait
	Drain                  // the end is near (a preStop hook): clients should go
	Quit                   // the application says that it has done its work
)

func (e Event) String() string {
	return [...]string{"look", "terminate", "interrupt", "drain", "quit"}[e]
}

// Do is what is to be done now.
type Do struct {
	Drain bool // ask clients from outside to go
	Exit  bool
	Why   string // of an Exit
}

// Machine is how far the end has come. Its zero value, with Options, serves.
type Machine struct {
	Options
	drained time.Time // since when clients are asked to go
	ending  time.Time // since when the end is wanted
	seen    time.Time // when the application last was there
	gone    bool      // it is known to be
	told    bool      // to end, by a signal
	over    bool
}

// Ending reports whether the end has begun, so that time matters.
func (m *Machine) Ending() bool { return !m.ending.IsZero() }

// Watches reports whether it matters at e whether the application is there.
func (m *Machine) Watches(e Event) bool {
	return !m.gone && !m.Last && (m.Ending() || e == Terminate)
}

// Step takes an event.
func (m *Machine) Step(now time.Time, e Event, v View) (do Do) {
	if m.over {
		return Do{}
	}
	switch e {
	case Interrupt:
		return m.exit("told to end at once")
	case Terminate, Quit:
		if e == Terminate {
			if m.told {
				return m.exit("told to end twice")
			}
			m.told = true
		}
		if m.ending.IsZero() {
			m.ending, m.gone = now, m.Last
		}
		m.gone = m.gone || e == Quit
		fallthrough
	case Drain:
		if m.drained.IsZero() {
			m.drained, do.Drain = now, true
		}
	}
	if m.Ending() {
		if why := m.done(now, v); why != "" {
			exit := m.exit(why)
			exit.Drain = do.Drain
			return exit
		}
	}
	return do
}

func (m *Machine) exit(why string) Do {
	m.over = true
	return Do{Exit: true, Why: why}
}

// done is why there is nothing to wait for any more; "" if there is.
func (m *Machine) done(now time.Time, v View) string {
	if !m.gone && v.Application == Present {
		m.seen = now
		return ""
	}
	if (v.Called || m.Always) && now.Sub(m.drained) < m.Minimum {
		return ""
	}
	if v.Active == 0 && (m.gone || m.UntilZero) {
		return "nothing is under way"
	}
	since := m.ending
	if m.seen.After(since) {
		since = m.seen
	}
	switch waited := now.Sub(since); {
	case waited < m.Termination, m.UntilZero:
		return ""
	case v.Active > 0:
		return fmt.Sprintf("%d exchanges are under way after %v", v.Active, m.Termination)
	}
	return fmt.Sprintf("no sign of the application for %v", m.Termination)
}
