package mem

import (
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/weirmesh/weir/proxy/loop"
)

// sock is one socket. Bytes wait in the receiver.
type sock struct {
	n        *Net
	fd       int // -1: in a queue, or the test's
	closed   bool
	family   loop.Family
	local    loop.Addr
	remote   loop.Addr
	original netip.AddrPort

	p      *poller // nil: nobody watches (a Peer does not)
	token  loop.Token
	events loop.Events // raised and not yet reported

	peer      *sock
	connected bool
	in        []byte
	finIn     bool // the peer will send no more
	finOut    bool
	full      bool // a write was refused or cut: Writable is owed
	err       syscall.Errno
	abort     bool // ResetOnClose

	listens bool
	backlog int
	queue   []*sock
	options map[loop.Option]int
}

func (s *sock) raise(ev loop.Events) {
	if s.p == nil {
		return
	}
	if s.events == 0 {
		s.p.ready = append(s.p.ready, s)
	}
	s.events |= ev
}

func (s *sock) read(b []byte) (int, syscall.Errno) {
	if s.err != 0 && len(s.in) == 0 {
		e := s.err
		s.err = 0
		s.finIn = true // a second read sees the end, as in a kernel
		return 0, e
	}
	if len(s.in) == 0 {
		if s.finIn {
			return 0, 0
		}
		if !s.connected {
			return 0, syscall.ENOTCONN
		}
		return 0, syscall.EAGAIN
	}
	if z := s.n.SegmentSize; z > 0 && len(b) > z {
		b = b[:z]
	}
	k := copy(b, s.in)
	s.in = s.in[:copy(s.in, s.in[k:])]
	if len(s.in) > 0 && s.n.SegmentSize > 0 {
		// The rest arrives as a further segment.
		s.raise(loop.Readable)
	}
	if p := s.peer; p != nil && p.full {
		p.full = false
		p.raise(loop.Writable)
	}
	return k, 0
}

func (s *sock) write(b []byte) (int, syscall.Errno) {
	if s.err != 0 {
		e := s.err
		s.err = 0
		s.finOut = true
		return 0, e
	}
	if s.finOut || s.connected && s.peer == nil {
		return 0, syscall.EPIPE
	}
	if !s.connected {
		return 0, syscall.EAGAIN
	}
	k := min(len(b), max(s.n.Buffer-len(s.peer.in), 0))
	if k < len(b) {
		s.full = true
	}
	if k == 0 && len(b) > 0 {
		return 0, syscall.EAGAIN
	}
	s.peer.in = append(s.peer.in, b[:k]...)
	s.peer.raise(loop.Readable)
	return k, 0
}

func (s *sock) shutdown() syscall.Errno {
	if !s.connected {
		return syscall.ENOTCONN
	}
	if !s.finOut && s.peer != nil {
		s.peer.finIn = true
		s.peer.raise(loop.Readable | loop.HangUp)
	}
	s.finOut = true
	return 0
}

// reset is RST arriving at s. Linux lets what came before be read still, others do not;
// nobody may count on it.
func (s *sock) reset() {
	s.err = syscall.ECONNRESET
	s.in = nil
	s.peer = nil
	s.raise(loop.Readable | loop.Writable | loop.HangUp | loop.Error)
}

func (s *sock) close() {
	n := s.n
	if s.closed {
		return
	}
	s.closed = true
	n.open--
	if s.fd >= 0 {
		n.socks[s.fd-firstFD] = nil
		n.numbered--
	}
	if s.p != nil {
		s.p.ready = slices.DeleteFunc(s.p.ready, func(x *sock) bool { return x == s })
		s.p = nil
	}
	if s.listens {
		g := n.listening[s.local]
		if g.socks = slices.DeleteFunc(g.socks, func(x *sock) bool { return x == s }); len(g.socks) == 0 {
			delete(n.listening, s.local)
		}
		for _, q := range s.queue {
			q.abort = true
			q.close()
		}
		return
	}
	p := s.peer
	if p == nil {
		return
	}
	s.peer = nil
	if s.abort || len(s.in) > 0 {
		p.reset() // closing with unread input resets, as TCP does
		return
	}
	p.peer = nil
	if !s.finOut {
		p.finIn = true
		p.raise(loop.Readable | loop.HangUp)
	}
}

// poller is a loop's view of the Net.
type poller struct {
	n     *Net
	ready []*sock
	ended bool
}

func (p *poller) Add(fd int, t loop.Token) syscall.Errno {
	s := p.n.sock(fd)
	s.p, s.token, s.events = p, t, 0
	if s.listens {
		if len(s.queue) > 0 {
			s.raise(loop.Readable)
		}
		return 0
	}
	var ev loop.Events
	if len(s.in) > 0 {
		ev |= loop.Readable
	}
	if s.finIn {
		ev |= loop.Readable | loop.HangUp
	}
	if s.err != 0 {
		ev |= loop.Readable | loop.Writable | loop.HangUp | loop.Error
	}
	if s.connected && !s.full {
		ev |= loop.Writable
	}
	if ev != 0 {
		s.raise(ev)
	}
	return 0
}

// Wait never waits: Net.Step drives the loops.
func (p *poller) Wait(out []loop.Event, _ int64, _ bool) int {
	k := min(len(out), len(p.ready))
	for i, s := range p.ready[:k] {
		out[i] = loop.Event{Token: s.token, Ev: s.events}
		s.events = 0
	}
	p.ready = p.ready[:copy(p.ready, p.ready[k:])]
	return k
}

func (p *poller) Wake() {
	p.n.mu.Lock()
	p.n.rung++
	p.n.wake.Broadcast()
	p.n.mu.Unlock()
}

func (p *poller) Now() int64      { return p.n.now }
func (p *poller) Wall() time.Time { return Epoch.Add(p.n.Elapsed()) }
func (p *poller) End()            { p.ended = true }

func (p *poller) Socket(f loop.Family) (int, syscall.Errno) {
	s := p.n.newSock(f)
	if e := p.n.number(s); e != 0 {
		s.close()
		return -1, e
	}
	return s.fd, 0
}

func (p *poller) Set(fd int, o loop.Option, v int) syscall.Errno {
	if o == loop.Deaf { // nothing is ever on its way here
		return syscall.ENOPROTOOPT
	}
	s := p.n.sock(fd)
	if o == loop.ResetOnClose {
		s.abort = v != 0
	}
	if s.options == nil {
		s.options = map[loop.Option]int{}
	}
	s.options[o] = v
	return 0
}

func (p *poller) Bind(fd int, a loop.Addr) syscall.Errno {
	p.n.sock(fd).local = a
	return 0
}

func (p *poller) Unlink(string) {}

func (p *poller) Listen(fd, backlog int) syscall.Errno { return p.n.sock(fd).listen(backlog) }

func (s *sock) listen(backlog int) syscall.Errno {
	n := s.n
	if !s.local.IsValid() {
		return syscall.EINVAL
	}
	if s.local.Path == "" && s.local.Port() == 0 {
		s.local = loop.TCP(netip.AddrPortFrom(s.local.Addr(), n.ephemeral(s.local).Port()))
	}
	g := n.listening[s.local]
	if g == nil {
		g = &group{}
		n.listening[s.local] = g
	} else if s.options[loop.ReusePort] == 0 || g.socks[0].options[loop.ReusePort] == 0 {
		return syscall.EADDRINUSE
	}
	g.socks = append(g.socks, s)
	s.listens, s.backlog = true, backlog
	return 0
}

func (p *poller) Accept(fd int) (int, loop.Addr, syscall.Errno) {
	s := p.n.sock(fd)
	if len(s.queue) == 0 {
		return -1, loop.Addr{}, syscall.EAGAIN
	}
	q := s.queue[0]
	if e := p.n.number(q); e != 0 {
		return -1, loop.Addr{}, e // the connection stays in the queue
	}
	s.queue = slices.Delete(s.queue, 0, 1)
	return q.fd, q.remote, 0
}

func (p *poller) Connect(fd int, a loop.Addr) syscall.Errno { return p.n.connect(p.n.sock(fd), a) }

func (p *poller) Read(fd int, b []byte) (int, syscall.Errno)  { return p.n.sock(fd).read(b) }
func (p *poller) Write(fd int, b []byte) (int, syscall.Errno) { return p.n.sock(fd).write(b) }

func (p *poller) Write2(fd int, a, b []byte) (int, syscall.Errno) {
	s := p.n.sock(fd)
	k, e := s.write(a)
	if e != 0 || k < len(a) {
		return k, e
	}
	j, e := s.write(b)
	if e != 0 && k > 0 {
		return k, 0
	}
	return k + j, e
}

func (p *poller) Shutdown(fd int, how int) syscall.Errno {
	if how == syscall.SHUT_RD {
		return 0
	}
	return p.n.sock(fd).shutdown()
}

func (p *poller) Close(fd int) {
	if fd >= firstPipe {
		delete(p.n.pipes, fd)
		return
	}
	p.n.sock(fd).close()
}

// Pipes have an even and an odd descriptor, read end first.
func (p *poller) Pipe() (int, int, syscall.Errno) {
	r := firstPipe + 2*p.n.pipesMade
	p.n.pipesMade++
	b := new([]byte)
	p.n.pipes[r], p.n.pipes[r+1] = b, b
	return r, r + 1, 0
}

func (p *poller) Splice(in, out, n int) (int, syscall.Errno) {
	if out >= firstPipe {
		b := p.n.pipes[out]
		if cap(*b) == 0 {
			*b = make([]byte, 0, 64<<10)
		}
		room := (*b)[len(*b):cap(*b)]
		if len(room) == 0 {
			return 0, syscall.EAGAIN
		}
		k, e := p.n.sock(in).read(room[:min(n, len(room))])
		*b = (*b)[:len(*b)+k]
		return k, e
	}
	b := p.n.pipes[in]
	k, e := p.n.sock(out).write((*b)[:min(n, len(*b))])
	*b = (*b)[:copy(*b, (*b)[k:])]
	return k, e
}

func (p *poller) SocketError(fd int) syscall.Errno {
	s := p.n.sock(fd)
	e := s.err
	s.err = 0
	return e
}

// Unsent is what the peer has not read: nobody acknowledges earlier here.
func (p *poller) Unsent(fd int) int {
	if to := p.n.sock(fd).peer; to != nil && p.n.LateAcks {
		return len(to.in)
	}
	return 0
}

func (p *poller) Local(fd int) loop.Addr  { return p.n.sock(fd).local }
func (p *poller) Remote(fd int) loop.Addr { return p.n.sock(fd).remote }

func (p *poller) OriginalDst(fd int) (netip.AddrPort, syscall.Errno) {
	if o := p.n.sock(fd).original; o.IsValid() {
		return o, 0
	}
	return netip.AddrPort{}, syscall.ENOENT
}
