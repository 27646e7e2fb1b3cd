// Package memnet is a network in memory for tests: listeners and buffered connections
// with deadlines that behave like TCP's, inside one process.
//
// Unlike net.Pipe a write returns once the bytes fit the buffer, so protocols in which
// both sides may write first do not deadlock; unlike real sockets a goroutine that waits
// here is durably blocked for testing/synctest, so time can be advanced over it. Every
// method may be called from any goroutine.
package memnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
)

// backlog is how many connections may wait to be accepted. It is far above what tests
// open at once, so that a full queue means that nobody accepts.
const backlog = 4096

var errBacklog = errors.New("accept queue is full")

// Network is a set of listeners, each under an address of free form ("control:15012").
// The zero value has none.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*listener
	dials     int
}

// Listen opens a listener. Its address is free again once it is closed.
func (n *Network) Listen(address string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[address] != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: addr(address), Err: syscall.EADDRINUSE}
	}
	l := &listener{net: n, addr: addr(address), queue: make(chan *conn, backlog)}
	if n.listeners == nil {
		n.listeners = map[string]*listener{}
	}
	n.listeners[address] = l
	return l, nil
}

// DialContext connects to the listener at address, without waiting for it to accept, and
// is refused where there is none. It has the shape that http.Transport wants.
func (n *Network) DialContext(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: addr(address), Err: err}
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	l := n.listeners[address]
	if l == nil {
		return fail(syscall.ECONNREFUSED)
	}
	n.dials++
	ours, theirs := pipe(addr(fmt.Sprintf("client-%d", n.dials)), l.addr)
	select {
	case l.queue <- theirs:
		return ours, nil
	default:
		return fail(errBacklog)
	}
}

type listener struct {
	net   *Network
	addr  addr
	queue chan *conn // closed, under net.mu, by Close
}

func (l *listener) Accept() (net.Conn, error) {
	c, ok := <-l.queue
	if !ok {
		return nil, &net.OpError{Op: "accept", Net: network, Addr: l.addr, Err: net.ErrClosed}
	}
	return c, nil
}

// Close refuses further connections and closes those not yet accepted.
func (l *listener) Close() error {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	if l.net.listeners[string(l.addr)] != l {
		return &net.OpError{Op: "close", Net: network, Addr: l.addr, Err: net.ErrClosed}
	}
	delete(l.net.listeners, string(l.addr))
	close(l.queue)
	for c := range l.queue {
		c.Close()
	}
	return nil
}

func (l *listener) Addr() net.Addr { return l.addr }

const network = "mem"

type addr string

func (addr) Network() string  { return network }
func (a addr) String() string { return string(a) }
