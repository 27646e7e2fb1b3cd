package conn_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/loop"
)

// kernelLoop runs a loop on the real kernel until the test ends.
func kernelLoop(t testing.TB) *loop.Loop {
	t.Helper()
	p, err := loop.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	l := loop.New(p, loop.Options{Census: new(loop.Census)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := l.Registered(); n != 0 {
			t.Errorf("%d descriptors still registered after the end", n)
		}
	})
	return l
}

// listen accepts connections on l and makes a Conn of each.
func listen(t testing.TB, l *loop.Loop, at netip.AddrPort, h func() conn.Handler) netip.AddrPort {
	t.Helper()
	bound := make(chan netip.AddrPort)
	l.Post(func() {
		p := l.Poller()
		fd, _ := p.Socket(loop.TCP(at).Family())
		p.Set(fd, loop.NoDelay, 1)
		if e := p.Bind(fd, loop.TCP(at)); e != 0 {
			bound <- netip.AddrPort{}
			return
		}
		p.Listen(fd, 128)
		a := &acceptor{l: l, fd: fd, h: h}
		a.token, _ = l.Register(fd, a)
		bound <- p.Local(fd).AddrPort
	})
	a := <-bound
	if !a.IsValid() {
		t.Skipf("cannot bind %v here", at)
	}
	return a
}

type acceptor struct {
	l     *loop.Loop
	fd    int
	token loop.Token
	h     func() conn.Handler
}

func (a *acceptor) Ready(ev loop.Events) {
	if ev&loop.Ending != 0 {
		a.l.Close(a.token, a.fd)
		return
	}
	for {
		fd, remote, e := a.l.Poller().Accept(a.fd)
		if e != 0 {
			return
		}
		conn.Accept(a.l, fd, conn.Info{Remote: remote.AddrPort}, a.h())
	}
}

// A megabyte there and back over IPv4 and IPv6, half-closed by the client, as
// seen by the standard library.
func TestKernelEcho(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(at, func(t *testing.T) {
			l := kernelLoop(t)
			a := listen(t, l, netip.MustParseAddrPort(at), func() conn.Handler { return echo{} })
			c, err := net.Dial("tcp", a.String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
			go func() {
				c.Write(want)
				c.(*net.TCPConn).CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
		})
	}
}

// waiter turns a dialled connection's callbacks into channels.
type waiter struct {
	open   chan *conn.Conn
	data   chan string
	closed chan conn.Why
}

func newWaiter() waiter {
	return waiter{make(chan *conn.Conn, 1), make(chan string, 100), make(chan conn.Why, 1)}
}
func (w waiter) Open(c *conn.Conn)                 { w.open <- c }
func (w waiter) Data(_ *conn.Conn, b []byte) int   { w.data <- string(b); return len(b) }
func (w waiter) EOF(c *conn.Conn)                  { c.CloseWrite() }
func (w waiter) Drained(*conn.Conn)                {}
func (w waiter) Closed(_ *conn.Conn, why conn.Why) { w.closed <- why }

func TestKernelDial(t *testing.T) {
	l := kernelLoop(t)
	unix := filepath.Join(t.TempDir(), "s")
	for _, network := range []string{"tcp", "unix"} {
		at := "127.0.0.1:0"
		if network == "unix" {
			at = unix
		}
		ln, err := net.Listen(network, at)
		if err != nil {
			t.Fatal(err)
		}
		target := loop.Addr{Path: at}
		if network == "tcp" {
			target = loop.TCP(ln.Addr().(*net.TCPAddr).AddrPort())
		}
		w := newWaiter()
		l.Post(func() {
			c := conn.Dial(l, conn.Target{Addr: target, Keepalive: conn.Keepalive{On: true, Idle: time.Minute, Interval: time.Second, Count: 3}}, w)
			c.Write([]byte("early"))
		})
		s, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 5)
		if _, err := io.ReadFull(s, b); err != nil || string(b) != "early" {
			t.Errorf("%s: read %q, %v", network, b, err)
		}
		c := <-w.open
		local := make(chan netip.AddrPort)
		l.Post(func() { local <- c.Info().Local })
		if got := <-local; network == "tcp" && got != s.RemoteAddr().(*net.TCPAddr).AddrPort() {
			t.Errorf("local address %v, the server sees %v", got, s.RemoteAddr())
		}
		s.Write([]byte("hello"))
		if got := <-w.data; got != "hello" {
			t.Errorf("%s: received %q", network, got)
		}
		s.Close()
		if why := <-w.closed; why.Kind != conn.Finished {
			t.Errorf("%s: closed: %v", network, why)
		}
		ln.Close()

		w = newWaiter()
		l.Post(func() { conn.Dial(l, conn.Target{Addr: target}, w) })
		if why := <-w.closed; why.Kind != conn.ConnectRefused || !why.Kind.BeforeOpen() {
			t.Errorf("%s: nobody listens: %v", network, why)
		}
	}
}

// A reset by the peer is told as one.
func TestKernelReset(t *testing.T) {
	l := kernelLoop(t)
	w := newWaiter()
	a := listen(t, l, netip.MustParseAddrPort("127.0.0.1:0"), func() conn.Handler { return w })
	c, err := net.Dial("tcp", a.String())
	if err != nil {
		t.Fatal(err)
	}
	<-w.open
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
	if why := <-w.closed; why.Kind != conn.ResetByPeer {
		t.Errorf("closed: %v", why)
	}
}

func BenchmarkKernelEcho(b *testing.B) {
	l := kernelLoop(b)
	a := listen(b, l, netip.MustParseAddrPort("127.0.0.1:0"), func() conn.Handler { return echo{} })
	const conns = 16
	b.SetBytes(1024)
	b.ReportAllocs()
	var wg sync.WaitGroup
	b.ResetTimer()
	for range conns {
		c, err := net.Dial("tcp", a.String())
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() {
			defer c.Close()
			msg := make([]byte, 1024)
			for range b.N / conns {
				c.Write(msg)
				if _, err := io.ReadFull(c, msg); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
