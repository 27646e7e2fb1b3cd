// Package mem is a network in memory with virtual time, and the Poller that
// connects a loop to it: the whole data plane runs on it in tests, step by step
// and always the same way.
//
// What enters: loops made over Net.Poller, and the test's own ends of connections
// (Peer, Listener). What leaves: what the peers received. Step lets every loop
// work until none has anything to do; Advance moves the clock. A Net is driven by
// one goroutine; only Wake and the goroutines that loops start themselves
// (handshakes) run beside it, and Step waits for those.
package mem

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/weirmesh/weir/proxy/loop"
)

// Net is one network: sockets, addresses and a clock. Make it with New.
type Net struct {
	// SegmentSize is how much one Read returns at most; 0 is no limit. 1 shows every
	// parser every cut.
	SegmentSize int
	// Buffer is how many bytes a socket takes before its peer reads them; Write says
	// EAGAIN beyond. The default is 64 KiB.
	Buffer int
	// LateAcks: what was sent is acknowledged when it is read, not at once.
	LateAcks bool
	// Descriptors is how many sockets the loops can hold at once (EMFILE beyond); 0 is no limit.
	Descriptors int

	now       int64
	socks     []*sock // by descriptor
	listening map[loop.Addr]*group
	silent    map[loop.Addr]bool
	loops     []*member
	port      uint16
	open      int             // sockets
	numbered  int             // of them, those a loop holds
	pipes     map[int]*[]byte // both ends of each
	pipesMade int

	mu   sync.Mutex
	wake *sync.Cond
	rung uint64 // counts Wake calls
}

type member struct {
	l *loop.Loop
	p *poller
}

// group is the sockets that listen on one address (SO_REUSEPORT). The kernel hashes
// connections over them; here they take turns.
type group struct {
	socks []*sock
	next  int
}

func (g *group) take() *sock {
	if g == nil {
		return nil
	}
	g.next++
	return g.socks[g.next%len(g.socks)]
}

// start is the clock of a new Net; not zero, because Now never is.
const start = int64(time.Second)

// Epoch is the wall clock of a new Net.
var Epoch = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// firstFD keeps descriptors of a Net apart from real ones in messages.
const (
	firstFD   = 1000
	firstPipe = 1_000_000
)

// New makes an empty network.
func New() *Net {
	n := &Net{Buffer: 64 << 10, now: start, port: 40000,
		listening: map[loop.Addr]*group{}, silent: map[loop.Addr]bool{}, pipes: map[int]*[]byte{}}
	n.wake = sync.NewCond(&n.mu)
	return n
}

// Loop makes a loop on the network. Options.Seed is 1 unless set, so that random
// choices repeat.
func (n *Net) Loop(o loop.Options) *loop.Loop {
	if o.Seed == 0 {
		o.Seed = 1
	}
	p := &poller{n: n}
	l := loop.New(p, o)
	n.loops = append(n.loops, &member{l, p})
	return l
}

// Elapsed is the virtual time that has passed since New.
func (n *Net) Elapsed() time.Duration { return time.Duration(n.now - start) }

// Step lets the loops work until none has anything to do at the present time.
// Handshake goroutines are waited for. It panics if the loops do not come to rest.
func (n *Net) Step() {
	for range 1_000_000 {
		seen := n.rings()
		worked := false
		for _, m := range n.loops {
			for !m.p.ended && m.l.Step() {
				worked = true
			}
		}
		if !worked && !n.awaitRing(seen) {
			return
		}
	}
	panic("mem: the loops do not come to rest: something calls itself without end")
}

func (n *Net) rings() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.rung
}

// awaitRing waits while goroutines of the loops work, until one posts (true) or
// all are at rest (false, unless one posted before it went to rest).
func (n *Net) awaitRing(seen uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.rung == seen {
		away := slices.ContainsFunc(n.loops, func(m *member) bool { return !m.p.ended && m.l.Away() > 0 })
		if !away {
			// Read after Away: whoever posted and went to rest rang before.
			return n.rung != seen
		}
		// Going to rest does not ring; look again soon.
		t := time.AfterFunc(200*time.Microsecond, n.wake.Broadcast)
		n.wake.Wait()
		t.Stop()
	}
	return true
}

// Next moves the clock to the next timer of any loop, and steps. It reports
// whether there was one.
func (n *Net) Next() bool {
	at, ok := n.nextTimer()
	if ok {
		n.now = max(n.now, at)
		n.Step()
	}
	return ok
}

func (n *Net) nextTimer() (at int64, ok bool) {
	for _, m := range n.loops {
		if m.p.ended {
			continue
		}
		if t, has := m.l.NextTimer(); has && (!ok || t < at) {
			at, ok = t, true
		}
	}
	return at, ok
}

// Advance lets d pass, with a Step at every timer on the way.
func (n *Net) Advance(d time.Duration) {
	n.Step()
	until := n.now + int64(d)
	for {
		at, ok := n.nextTimer()
		if !ok || at > until {
			break
		}
		n.now = max(n.now, at)
		n.Step()
	}
	n.now = until
	n.Step()
}

// Silence makes connections to a get no answer at all (true), or lifts that.
func (n *Net) Silence(a netip.AddrPort, silent bool) { n.silent[loop.TCP(a)] = silent }

// Open is the number of open sockets, for leak checks.
func (n *Net) Open() int { return n.open }

// Pipes is the number of open pipes, for leak checks.
func (n *Net) Pipes() int { return len(n.pipes) / 2 }

// PipesMade is how many pipes were ever made.
func (n *Net) PipesMade() int { return n.pipesMade }

// Sockets are the socket calls of the network without a loop, for what makes
// listening sockets beside the loops.
func (n *Net) Sockets() loop.Sockets { return &poller{n: n} }

func (n *Net) newSock(f loop.Family) *sock {
	n.open++
	return &sock{n: n, fd: -1, family: f}
}

// number gives s a descriptor: the lowest free one, as kernels do, because reuse
// finds stale events. Only sockets that a loop holds have one.
func (n *Net) number(s *sock) syscall.Errno {
	if n.Descriptors > 0 && n.numbered >= n.Descriptors {
		return syscall.EMFILE
	}
	n.numbered++
	i := slices.Index(n.socks, nil)
	if i < 0 {
		i = len(n.socks)
		n.socks = append(n.socks, nil)
	}
	n.socks[i] = s
	s.fd = firstFD + i
	return 0
}

// sock is the open socket with a descriptor. A use after close is a bug of the caller.
func (n *Net) sock(fd int) *sock {
	i := fd - firstFD
	if i < 0 || i >= len(n.socks) || n.socks[i] == nil {
		panic(fmt.Sprintf("mem: use of descriptor %d, which is not open", fd))
	}
	return n.socks[i]
}

func (n *Net) ephemeral(like loop.Addr) loop.Addr {
	n.port++
	ip := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if like.Family() == loop.IPv6 {
		ip = netip.IPv6Loopback()
	}
	return loop.TCP(netip.AddrPortFrom(ip, n.port))
}

// listener finds who listens for a: the exact address, then a wildcard.
func (n *Net) listener(a loop.Addr) *sock {
	if g := n.listening[a]; g != nil || a.Path != "" {
		return g.take()
	}
	if a.Addr().Is4() {
		if s := n.listening[loop.TCP(netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port()))]; s != nil {
			return s.take()
		}
	}
	return n.listening[loop.TCP(netip.AddrPortFrom(netip.IPv6Unspecified(), a.Port()))].take()
}

// connect joins a to a listener's queue, or says why not.
func (n *Net) connect(a *sock, to loop.Addr) syscall.Errno {
	if !to.IsValid() {
		return syscall.EINVAL
	}
	if a.family != to.Family() {
		return syscall.EAFNOSUPPORT
	}
	a.remote = to
	if n.silent[to] {
		return syscall.EINPROGRESS
	}
	ln := n.listener(to)
	if ln == nil || len(ln.queue) >= ln.backlog {
		// The refusal comes as an event, as from a kernel.
		a.err = syscall.ECONNREFUSED
		a.raise(loop.Error | loop.HangUp | loop.Writable | loop.Readable)
		return syscall.EINPROGRESS
	}
	b := n.newSock(a.family)
	if !a.local.IsValid() || a.local.Port() == 0 && a.local.Path == "" {
		e := n.ephemeral(to)
		if a.local.IsValid() {
			e = loop.TCP(netip.AddrPortFrom(a.local.Addr(), e.Port()))
		}
		a.local = e
	}
	b.local, b.remote, b.original = to, a.local, a.original
	a.peer, b.peer = b, a
	a.connected, b.connected = true, true
	ln.queue = append(ln.queue, b)
	ln.raise(loop.Readable)
	a.raise(loop.Writable)
	return syscall.EINPROGRESS
}
