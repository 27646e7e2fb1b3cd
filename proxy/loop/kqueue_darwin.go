package loop

import (
	"fmt"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// kqueue is the Poller of Darwin. It keeps `weir up` alive on a Mac; system
// calls go through libSystem as Apple demands, so there is no raw waiting.
type kqueue struct {
	sockets
	kq     int
	tokens []Token // by descriptor
	events [maxEvents]unix.Kevent_t
}

// NewPoller makes the kernel's poller.
func NewPoller() (Poller, error) {
	kq, err := unix.Kqueue()
	if err != nil {
		return nil, fmt.Errorf("creating kqueue: %w", err)
	}
	unix.CloseOnExec(kq)
	add := []unix.Kevent_t{{Ident: 0, Filter: unix.EVFILT_USER, Flags: unix.EV_ADD | unix.EV_CLEAR}}
	if _, err := unix.Kevent(kq, add, nil, nil); err != nil {
		unix.Close(kq)
		return nil, fmt.Errorf("registering wake-up event: %w", err)
	}
	return &kqueue{kq: kq}, nil
}

func (p *kqueue) Add(fd int, t Token) syscall.Errno {
	for fd >= len(p.tokens) {
		p.tokens = append(p.tokens, make([]Token, len(p.tokens)+64)...)
	}
	p.tokens[fd] = t
	add := [...]unix.Kevent_t{
		{Ident: uint64(fd), Filter: unix.EVFILT_READ, Flags: unix.EV_ADD | unix.EV_CLEAR},
		{Ident: uint64(fd), Filter: unix.EVFILT_WRITE, Flags: unix.EV_ADD | unix.EV_CLEAR},
	}
	_, err := unix.Kevent(p.kq, add[:], nil, nil)
	return errnoOf(err)
}

func (p *kqueue) Wait(out []Event, timeout int64, _ bool) int {
	var ts *unix.Timespec
	if timeout >= 0 {
		t := unix.NsecToTimespec(timeout)
		ts = &t
	}
	n, err := unix.Kevent(p.kq, nil, p.events[:min(len(out), len(p.events))], ts)
	if err != nil {
		runtime.Gosched()
		return 0
	}
	k := 0
	for i := range p.events[:n] {
		ev := &p.events[i]
		var r Events
		switch ev.Filter {
		case unix.EVFILT_READ:
			r = Readable
		case unix.EVFILT_WRITE:
			r = Writable
		default: // the wake-up
			continue
		}
		if ev.Flags&unix.EV_EOF != 0 {
			r |= HangUp
			if ev.Fflags != 0 {
				r |= Error
			}
		}
		out[k] = Event{p.tokens[ev.Ident], r}
		k++
	}
	return k
}

func (p *kqueue) Wake() {
	trigger := []unix.Kevent_t{{Ident: 0, Filter: unix.EVFILT_USER, Fflags: unix.NOTE_TRIGGER}}
	unix.Kevent(p.kq, trigger, nil, nil)
}

func (p *kqueue) Now() int64      { return monotonic() }
func (p *kqueue) Wall() time.Time { return time.Now() }
func (p *kqueue) End()            { unix.Close(p.kq) }
