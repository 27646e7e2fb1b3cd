package mem

import (
	"errors"
	"io"
	"net/netip"
	"syscall"

	"github.com/weirmesh/weir/proxy/loop"
)

// Peer is the test's end of a connection. Its methods act at once; what the loops
// make of it shows after Step.
type Peer struct{ s *sock }

// Listener is the test's listening socket.
type Listener struct{ s *sock }

// Dial connects to a listening socket of a loop or of the test. Whether it was
// accepted shows after Step.
func (n *Net) Dial(to netip.AddrPort) (*Peer, error) {
	return n.DialFrom(netip.AddrPort{}, to, netip.AddrPort{})
}

// DialFrom connects from a given address (port 0: any; invalid: loopback), and
// redirected: the accepting side sees original, where valid, as the destination
// that the client wanted.
func (n *Net) DialFrom(from, to, original netip.AddrPort) (*Peer, error) {
	s := n.newSock(loop.TCP(to).Family())
	if from.IsValid() {
		s.local = loop.TCP(from)
	}
	s.original = original
	n.connect(s, loop.TCP(to))
	if s.err != 0 || !s.connected {
		err := s.err
		if err == 0 {
			err = syscall.ETIMEDOUT
		}
		s.close()
		return nil, err
	}
	return &Peer{s}, nil
}

// Listen opens a listening socket for the test.
func (n *Net) Listen(at netip.AddrPort) (*Listener, error) { return n.ListenAt(loop.TCP(at)) }

// ListenAt is Listen for any kind of address.
func (n *Net) ListenAt(at loop.Addr) (*Listener, error) {
	s := n.newSock(at.Family())
	s.local = at
	if e := s.listen(128); e != 0 {
		s.close()
		return nil, e
	}
	return &Listener{s}, nil
}

// Accept returns the next connection, or nil.
func (l *Listener) Accept() *Peer {
	if len(l.s.queue) == 0 {
		return nil
	}
	q := l.s.queue[0]
	l.s.queue = l.s.queue[1:]
	return &Peer{q}
}

// Addr is where the listener listens.
func (l *Listener) Addr() netip.AddrPort { return l.s.local.AddrPort }

// Close stops listening and resets what was not accepted.
func (l *Listener) Close() { l.s.close() }

// Send writes b; a count below len(b) means that the other side's buffer is full.
func (p *Peer) Send(b []byte) (int, error) {
	n, e := p.s.write(b)
	return n, nilErrno(e)
}

// Recv takes everything that has arrived. err is io.EOF once the other side has
// ended and nothing is left, or the errno of a reset; nil means more may come.
func (p *Peer) Recv() ([]byte, error) {
	var got []byte
	var b [4096]byte
	for {
		n, e := p.s.read(b[:])
		got = append(got, b[:n]...)
		switch {
		case e == syscall.EAGAIN:
			return got, nil
		case e != 0:
			return got, e
		case n == 0:
			return got, io.EOF
		}
	}
}

// RecvUpTo takes at most max bytes, to be a slow reader. Errors as with Recv.
func (p *Peer) RecvUpTo(max int) ([]byte, error) {
	b := make([]byte, max)
	n, e := p.s.read(b)
	switch {
	case e == syscall.EAGAIN:
		return nil, nil
	case e == 0 && n == 0:
		return nil, io.EOF
	}
	return b[:n], nilErrno(e)
}

// Take copies what has arrived into b and returns how much, without allocating.
func (p *Peer) Take(b []byte) int {
	n, _ := p.s.read(b)
	return n
}

// Pending is how many received bytes wait for Recv.
func (p *Peer) Pending() int { return len(p.s.in) }

// CloseWrite half-closes.
func (p *Peer) CloseWrite() { p.s.shutdown() }

// Close closes; with unread input that is a reset.
func (p *Peer) Close() { p.s.close() }

// Reset sends RST.
func (p *Peer) Reset() {
	p.s.abort = true
	p.s.close()
}

// Local is the address of this end.
func (p *Peer) Local() netip.AddrPort { return p.s.local.AddrPort }

// Remote is the address of the other end.
func (p *Peer) Remote() netip.AddrPort { return p.s.remote.AddrPort }

func nilErrno(e syscall.Errno) error {
	if e == 0 || errors.Is(e, syscall.EAGAIN) {
		return nil
	}
	return e
}
