package loop

import (
	"fmt"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawWaitMillis is how long a wait may hide from the scheduler. Longer saves
// hand-overs at low rates (below 250 wake-ups a second there are always
// some), and keeps a thread from the rest of the process that much longer.
const rawWaitMillis = 4

const wakeIndex = -1

// epoll is the Poller of Linux. System calls that cannot block go through
// RawSyscall: telling the scheduler costs more than many of them.
type epoll struct {
	sockets
	ep, wake int
	events   [maxEvents]unix.EpollEvent
}

// NewPoller makes the kernel's poller.
func NewPoller() (Poller, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("creating epoll descriptor: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(ep)
		return nil, fmt.Errorf("creating wake-up descriptor: %w", err)
	}
	// Edge-triggered: every write is a new event, so the counter is never read.
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: wakeIndex}
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, wake, &ev); err != nil {
		unix.Close(ep)
		unix.Close(wake)
		return nil, fmt.Errorf("registering wake-up descriptor: %w", err)
	}
	return &epoll{ep: ep, wake: wake}, nil
}

func (p *epoll) Add(fd int, t Token) syscall.Errno {
	ev := unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET,
		Fd:     int32(t), Pad: int32(t >> 32),
	}
	_, _, e := syscall.RawSyscall6(syscall.SYS_EPOLL_CTL, uintptr(p.ep), unix.EPOLL_CTL_ADD, uintptr(fd), uintptr(unsafe.Pointer(&ev)), 0, 0)
	return e
}

func (p *epoll) Wait(out []Event, timeout int64, raw bool) int {
	ms := int64(-1)
	if timeout >= 0 {
		ms = min((timeout+int64(time.Millisecond)-1)/int64(time.Millisecond), 1<<30)
	}
	first := int64(0)
	if raw {
		first = rawWaitMillis
		if ms >= 0 {
			first = min(first, ms)
		}
	}
	events := uintptr(unsafe.Pointer(&p.events))
	limit := uintptr(min(len(out), len(p.events)))
	n, _, e := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(p.ep), events, limit, uintptr(first), 0, 8)
	if n == 0 && e == 0 && ms != first {
		if ms > 0 {
			ms -= first
		}
		n, _, e = syscall.Syscall6(syscall.SYS_EPOLL_PWAIT, uintptr(p.ep), events, limit, uintptr(ms), 0, 8)
	}
	if e != 0 {
		// EINTR: the runtime asks this thread to stop (garbage collection,
		// preemption); the collector waits until it gets a safe point.
		runtime.Gosched()
		return 0
	}
	k := 0
	for i := range p.events[:n] {
		ev := &p.events[i]
		if ev.Fd == wakeIndex {
			continue
		}
		var r Events
		if ev.Events&unix.EPOLLIN != 0 {
			r |= Readable
		}
		if ev.Events&unix.EPOLLOUT != 0 {
			r |= Writable
		}
		if ev.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP) != 0 {
			r |= HangUp
		}
		if ev.Events&unix.EPOLLERR != 0 {
			r |= Error
		}
		out[k] = Event{Token(uint32(ev.Fd)) | Token(uint32(ev.Pad))<<32, r}
		k++
	}
	return k
}

var one = [8]byte{0: 1}

func (p *epoll) Wake() {
	// Native byte order does not matter: any non-zero number is an event.
	syscall.RawSyscall(syscall.SYS_WRITE, uintptr(p.wake), uintptr(unsafe.Pointer(&one)), 8)
}

func (p *epoll) Now() int64      { return monotonic() }
func (p *epoll) Wall() time.Time { return time.Now() }

func (p *epoll) End() {
	unix.Close(p.ep)
	unix.Close(p.wake)
}
