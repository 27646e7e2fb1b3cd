package listener_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/loop"
)

// welcome writes one byte to whoever comes, and closes.
type welcome struct{}

func (welcome) Open(c *conn.Conn) {
	c.Write([]byte{'x'})
	c.Close()
}
func (welcome) Data(_ *conn.Conn, b []byte) int { return len(b) }
func (welcome) EOF(*conn.Conn)                  {}
func (welcome) Drained(*conn.Conn)              {}
func (welcome) Closed(*conn.Conn, conn.Why)     {}

// between is a poller that does something at the worst moment: when it has found an accept queue empty, and nobody knows yet.
type between struct {
	loop.Poller
	empty     func()
	listening map[int]bool
	closed    atomic.Int64 // of those that listened
}

func (p *between) Accept(fd int) (int, loop.Addr, syscall.Errno) {
	p.listening[fd] = true
	n, a, e := p.Poller.Accept(fd)
	if e == syscall.EAGAIN {
		p.empty()
	}
	return n, a, e
}

func (p *between) Close(fd int) {
	if p.listening[fd] {
		delete(p.listening, fd)
		p.closed.Add(1)
	}
	p.Poller.Close(fd)
}

// A client connects after the last look into the accept queue of a listener that goes, and before its socket is closed: it is served or
// refused, as if it had come a little earlier or later. (The kernel resets who is in the queue of a socket that is closed.)
func TestNobodyIsLostWhenAListenerGoes(t *testing.T) {
	kernel, err := loop.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	pid := os.Getpid()
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(1 + pid>>8&127), byte(pid), 3}), 10082)
	var late []int // connections from that moment
	var watching atomic.Bool
	poller := &between{Poller: kernel, listening: map[int]bool{}, empty: func() {
		if !watching.Load() || len(late) == 10 {
			return
		}
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Error(err)
			return
		}
		if err := syscall.Connect(fd, &syscall.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}); err != nil && !errors.Is(err, syscall.EINPROGRESS) {
			t.Error(err)
		}
		late = append(late, fd)
	}}
	ctx, cancel := context.WithCancel(t.Context())
	l := loop.New(poller, loop.Options{})
	var running sync.WaitGroup
	running.Go(func() { _ = l.Run(ctx) })
	defer running.Wait()
	defer cancel()
	g := listener.NewGroup(listener.Sockets{Sockets: loop.Kernel()}, loop.Kernel(), nil, slog.New(slog.DiscardHandler),
		listener.NewAcceptor(l, listener.Options{Serve: func(*conn.Conn, listener.Arrival) conn.Handler { return welcome{} }}))
	apply := func(there bool) {
		var configs []*listener.Config
		if there {
			configs = append(configs, &listener.Config{Name: "l", Address: at, Binds: []loop.Addr{loop.TCP(at)}, Chains: []*listener.Chain{{Name: "c"}}})
		}
		table, err := listener.NewTable(configs)
		if err != nil {
			t.Fatal(err)
		}
		live, err := g.Apply(table)
		if err != nil {
			t.Fatal(err)
		}
		<-live
	}
	// ask is what becomes of a connection: nil is an answer.
	ask := func(c net.Conn) error {
		defer func() { _ = c.Close() }()
		_, err := c.Read(make([]byte, 1))
		return err
	}

	apply(true)
	if c, err := net.Dial("tcp", at.String()); err != nil || ask(c) != nil {
		t.Fatal("there is no listener", err)
	}
	watching.Store(true)
	apply(false)
	watching.Store(false)
	var mine []int
	done := make(chan struct{})
	l.Post(func() { mine, late = late, nil; close(done) })
	<-done
	if len(mine) == 0 {
		t.Error("the accept queue was never empty")
	}
	for _, fd := range mine {
		f := os.NewFile(uintptr(fd), "late")
		// Reading waits for the connection, as long as the kernel goes on trying to make it.
		if _, err := f.Read(make([]byte, 1)); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a client that came when the listener went: %v", err)
		}
		_ = f.Close()
	}
	if _, err := net.Dial("tcp", at.String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a client that comes later: %v, want that it is refused", err)
	}

	// Who comes back at once has the port alone: the socket that leaves hears nobody.
	apply(true)
	apply(false)
	before := poller.closed.Load()
	apply(true)
	if n := poller.closed.Load() - before; n != 1 {
		t.Errorf("%d sockets were closed when the listener came back, want that which was leaving", n)
	}
	if c, err := net.Dial("tcp", at.String()); err != nil || ask(c) != nil {
		t.Error("the listener is not back", err)
	}
}

// Where sockets are made in another network namespace, one at a path is made here all the same; a name of a namespace
// would be of the wrong one.
func TestUnixSocketsNeedNoBroker(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fds, err := listener.Broker{}.Listen(loop.Addr{Path: path}, 2, listener.SocketOptions{})
	if err != nil || len(fds) != 1 {
		t.Fatal(fds, err)
	}
	defer loop.Kernel().Close(fds[0])
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := (listener.Broker{}).Listen(loop.Addr{Path: "@s"}, 1, listener.SocketOptions{}); err == nil || !strings.Contains(err.Error(), "path in the file system") {
		t.Errorf("a name: %v", err)
	}
}
