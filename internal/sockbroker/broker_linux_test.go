package sockbroker

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func newClient(t *testing.T, s *Server, r Rights) *Client {
	t.Helper()
	f, err := s.Connect(r)
	if err != nil {
		t.Fatal(err)
	}
	return client(t, f)
}

func client(t *testing.T, f *os.File) *Client {
	t.Helper()
	c, err := NewClient(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func newServer(t *testing.T) *Server {
	s := &Server{Allow: func(a netip.AddrPort) bool { return a.Addr().IsLoopback() }}
	t.Cleanup(s.Close)
	return s
}

// listener gives a descriptor to package net, which checks on the way that it listens.
func listener(t *testing.T, fd int) net.Listener {
	t.Helper()
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func addrPort(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }

func TestSocketsAreFreshAndUsable(t *testing.T) {
	c := newClient(t, newServer(t), 0)
	for _, k := range []struct {
		kind   Kind
		family Family
		domain int
		typ    int
	}{
		{Stream, IPv4, unix.AF_INET, unix.SOCK_STREAM},
		{Stream, IPv6, unix.AF_INET6, unix.SOCK_STREAM},
		{Datagram, IPv4, unix.AF_INET, unix.SOCK_DGRAM},
		{Datagram, IPv6, unix.AF_INET6, unix.SOCK_DGRAM},
	} {
		fds, err := c.Sockets(k.kind, k.family, 3)
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			domain, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
			typ, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
			status, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
			if domain != k.domain || typ != k.typ || status&unix.O_NONBLOCK == 0 || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("%v IPv%d: domain %d, type %d, status %#x, flags %#x", k.kind, k.family, domain, typ, status, flags)
			}
			unix.Close(fd)
		}
	}
}

func TestListen(t *testing.T) {
	c := newClient(t, newServer(t), MayListen)
	fds, err := c.Listen(netip.MustParseAddrPort("127.0.0.1:0"), 2, true)
	if err != nil {
		t.Fatal(err)
	}
	addr := addrPort(listener(t, fds[0]).Addr())
	if other := addrPort(listener(t, fds[1]).Addr()); other != addr {
		t.Errorf("port 0 became %v and %v", addr, other)
	}

	// Three more workers on the same port, and the port of the other family.
	fds, err = c.Listen(addr, 3, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		listener(t, fd)
	}
	if fds, err = c.Listen(netip.AddrPortFrom(netip.IPv6Loopback(), addr.Port()), 1, false); err != nil {
		t.Error(err)
	} else {
		listener(t, fds[0])
	}
	if fds, err = c.Bind(addr, 2, true); err != nil {
		t.Error(err)
	} else {
		closeAll(fds)
	}

	if _, err := c.Listen(addr, 1, false); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a port in use: %v, want EADDRINUSE", err)
	}
	if _, err := c.Sockets(Stream, IPv4, 1); err != nil {
		t.Errorf("after a failed request: %v", err)
	}
}

func TestNetTypes(t *testing.T) {
	c := newClient(t, newServer(t), MayListen)
	for _, ip := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
		l, err := c.Listener(netip.AddrPortFrom(ip, 0))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		p, err := c.PacketConn(addrPort(l.Addr()))
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		go func() {
			if a, err := l.Accept(); err == nil {
				_, _ = io.Copy(a, a)
				a.Close()
			}
		}()
		go func() {
			b := make([]byte, 8)
			if n, from, err := p.ReadFrom(b); err == nil {
				_, _ = p.WriteTo(b[:n], from)
			}
		}()
		for _, network := range []string{"tcp", "udp"} {
			conn, err := c.DialContext(t.Context(), network, l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 4)
			if _, err := conn.Write([]byte("ping")); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(conn, b); err != nil || string(b) != "ping" {
				t.Errorf("%s %v: %q, %v", network, ip, b, err)
			}
			conn.Close()
		}
	}
}

func TestDialFailures(t *testing.T) {
	c := newClient(t, newServer(t), MayListen)
	l, err := c.Listener(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := c.DialContext(t.Context(), "tcp", l.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens: %v", err)
	}
	if _, err := c.DialContext(t.Context(), "tcp", "localhost:80"); err == nil {
		t.Error("a name was dialled")
	}
	if _, err := c.DialContext(t.Context(), "unix", "127.0.0.1:80"); err == nil {
		t.Error("a Unix socket was dialled")
	}

	// A listener whose queue is full lets connects hang.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.AddrPortFrom(netip.AddrFrom4(sa.(*unix.SockaddrInet4).Addr), uint16(sa.(*unix.SockaddrInet4).Port)).String()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	for range 10 {
		var conn net.Conn
		if conn, err = c.DialContext(ctx, "tcp", addr); err != nil {
			break
		}
		defer conn.Close()
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a connect that hangs: %v, want the context's error", err)
	}
}

func TestRights(t *testing.T) {
	s := newServer(t)
	loopback, elsewhere := netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddrPort("0.0.0.0:0")
	listen := func(c *Client, a netip.AddrPort) error {
		fds, err := c.Listen(a, 1, false)
		closeAll(fds)
		return err
	}
	wantErr := func(what string, err error, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}

	none := newClient(t, s, 0)
	wantErr("listening without the right", listen(none, loopback), syscall.EACCES)
	_, err := none.Fork(0)
	wantErr("forking without the right", err, syscall.EACCES)

	all := newClient(t, s, MayListen|MayFork)
	wantErr("listening where it is not allowed", listen(all, elsewhere), syscall.EACCES)
	wantErr("listening", listen(all, loopback), nil)
	f, err := all.Fork(0)
	if err != nil {
		t.Fatal(err)
	}
	child := client(t, f)
	wantErr("listening in a fork without the right", listen(child, loopback), syscall.EACCES)
	if fds, err := child.Sockets(Stream, IPv4, 1); err != nil {
		t.Error(err)
	} else {
		closeAll(fds)
	}

	f, err = newClient(t, s, MayFork).Fork(MayFork | MayListen)
	if err != nil {
		t.Fatal(err)
	}
	wantErr("a fork with more rights than its maker", listen(client(t, f), loopback), syscall.EACCES)
}

func TestNonsenseEndsTheConnection(t *testing.T) {
	f, err := newServer(t).Connect(0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := unixConn(f)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	// With a descriptor, which must not stay in the server.
	if _, _, err := c.WriteMsgUnix([]byte("GET / HTTP/1.1"), syscall.UnixRights(int(r.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	r.Close()
	b := make([]byte, 1024)
	n, err := c.Read(b)
	if err != nil || !errors.Is(parseReply(b[:n]), syscall.EINVAL) {
		t.Errorf("reply %q, %v", b[:n], err)
	}
	if _, err := c.Read(b); !errors.Is(err, io.EOF) {
		t.Errorf("after nonsense: %v, want EOF", err)
	}
	if _, err := w.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("somebody still holds the descriptor sent: %v", err)
	}
}

func TestClientOfAClosedServerFails(t *testing.T) {
	s := newServer(t)
	c := newClient(t, s, 0)
	s.Close()
	if _, err := c.Sockets(Stream, IPv4, 1); err == nil {
		t.Error("a socket from a closed server")
	}
	if _, err := s.Connect(0); !errors.Is(err, net.ErrClosed) {
		t.Errorf("connecting to a closed server: %v", err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	s := newServer(t)
	c := newClient(t, s, MayFork)
	for i := 1; i < maxConnections; i++ {
		f, err := s.Connect(0)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		t.Cleanup(func() { f.Close() })
	}
	if _, err := c.Fork(0); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("one connection too many: %v", err)
	}
}

func TestServerMakesSocketsWhereItIsTold(t *testing.T) {
	s := newServer(t)
	failed := errors.New("namespace gone")
	var calls atomic.Int32
	s.In = func(f func() error) error {
		if calls.Add(1) > 1 {
			return failed
		}
		return f()
	}
	c := newClient(t, s, 0)
	fds, err := c.Sockets(Stream, IPv4, MaxBatch)
	closeAll(fds)
	if err != nil || calls.Load() != 1 {
		t.Errorf("%d calls, %v; want one for the whole batch", calls.Load(), err)
	}
	if _, err := c.Sockets(Stream, IPv4, 1); err == nil || calls.Load() != 2 {
		t.Errorf("%d calls, %v; want the error of In", calls.Load(), err)
	}
}

func TestPool(t *testing.T) {
	s := newServer(t)
	c := newClient(t, s, 0)
	p := NewPool(c, Stream, IPv4, 4)
	if _, ok := p.Take(); ok {
		t.Error("a socket before Run")
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error)
	go func() { ran <- p.Run(ctx) }()
	seen := map[int]bool{}
	for range 20 { // five times what the pool holds
		fd, err := p.Wait(ctx)
		if err != nil || seen[fd] {
			t.Fatalf("socket %d, %v; had %v", fd, err, seen)
		}
		seen[fd] = true
	}
	for fd := range seen {
		unix.Close(fd)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, ok := p.Take(); ok {
		t.Error("a socket after Run")
	}
	if _, err := p.Wait(context.Background()); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait after Run: %v", err)
	}
}

func TestPoolEndsWithTheServer(t *testing.T) {
	s := newServer(t)
	p := NewPool(newClient(t, s, 0), Stream, IPv4, 2)
	ran := make(chan error)
	go func() { ran <- p.Run(context.Background()) }()
	fd, err := p.Wait(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	s.Close()
	for err == nil { // what was ready is still handed out
		if fd, err = p.Wait(context.Background()); err == nil {
			unix.Close(fd)
		}
	}
	if e := <-ran; e == nil || !errors.Is(err, e) {
		t.Errorf("Run: %v, Wait: %v", e, err)
	}
}

func BenchmarkSockets(b *testing.B) {
	s := &Server{}
	defer s.Close()
	f, err := s.Connect(0)
	if err != nil {
		b.Fatal(err)
	}
	c, err := NewClient(f)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for b.Loop() {
		fds, err := c.Sockets(Stream, IPv4, 16)
		if err != nil {
			b.Fatal(err)
		}
		closeAll(fds)
	}
}
