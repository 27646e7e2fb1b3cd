package tcp_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/tcp"
)

// kernelRelay relays connections to its address to an application, over the kernel's
// sockets, until the test ends.
func kernelRelay(t *testing.T, app loop.Addr, o tcp.Options) (at string) {
	at, _ = countedRelay(t, app, o)
	return at
}

// counted is a Poller that counts the bytes that splices took from sockets, and from pipes.
type counted struct {
	loop.Poller
	spliced *atomic.Int64
}

func (c counted) Splice(in, out, n int) (int, syscall.Errno) {
	n, e := c.Poller.Splice(in, out, n)
	c.spliced.Add(int64(n))
	return n, e
}

func countedRelay(t *testing.T, app loop.Addr, o tcp.Options) (at string, spliced *atomic.Int64) {
	t.Helper()
	poller, err := loop.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	spliced = new(atomic.Int64)
	o.Loop = loop.New(counted{poller, spliced}, loop.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- o.Loop.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil || o.Loop.Registered() != 0 {
			t.Errorf("%v, %d descriptors registered", err, o.Loop.Registered())
		}
	})
	c := newCluster(1, "app", "127.0.0.1:1")
	c.Endpoints[0].Addr, c.Endpoints[0].Path = app.AddrPort, app.Path
	p := &proxy{t: t, clusters: map[cluster.ID]*cluster.Cluster{1: c}}
	w := tcp.NewWorker(o)
	a := listener.NewAcceptor(o.Loop, listener.Options{Serve: func(c *conn.Conn, _ listener.Arrival) conn.Handler { return w.Serve(c, to(1), p) }})
	g := listener.NewGroup(listener.Sockets{Sockets: loop.Kernel()}, loop.Kernel(), nil, slog.New(slog.DiscardHandler), a)
	lc := listener.Config{Name: "l", Binds: []loop.Addr{loop.TCP(netip.MustParseAddrPort("127.0.0.1:0"))}, Chains: []*listener.Chain{{}}}
	table, err := listener.NewTable([]*listener.Config{&lc})
	if err != nil {
		t.Fatal(err)
	}
	live, err := g.Apply(table)
	if err != nil {
		t.Fatal(err)
	}
	<-live
	local, _ := g.Local(lc.Binds[0])
	return local.String(), spliced
}

// application accepts one connection and serves it.
func application(t *testing.T, network, addr string, serve func(c net.Conn)) net.Addr {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		defer c.Close()
		serve(c)
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr()
}

func tcpAddr(a net.Addr) loop.Addr { return loop.TCP(a.(*net.TCPAddr).AddrPort()) }

func connect(t *testing.T, at string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// Bulk and half-close over the kernel's sockets and pipes, to an address and to a Unix
// socket.
func TestKernelRelay(t *testing.T) {
	data := make([]byte, 32<<20)
	for i := range data {
		data[i] = byte(i * 7 >> 5)
	}
	for network, addr := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "app.sock")} {
		t.Run(network, func(t *testing.T) {
			app := application(t, network, addr, func(c net.Conn) {
				q, _ := io.ReadAll(c)
				c.Write(q)
				c.Write(data)
			})
			to := loop.Addr{Path: addr}
			if network == "tcp" {
				to = tcpAddr(app)
			}
			at, spliced := countedRelay(t, to, tcp.Options{})
			c := connect(t, at)
			c.Write([]byte("question"))
			c.CloseWrite()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, append([]byte("question"), data...)) {
				t.Errorf("received %d bytes of %d, or others; %v", len(got), len(data)+8, err)
			}
			if n := spliced.Load() / 2; runtime.GOOS == "linux" && n < int64(len(data))/2 {
				t.Errorf("of %d bytes only %d were spliced", len(data), n)
			}
		})
	}
}

// A reset of the application reaches the client as one, behind everything that was said
// before it, however slowly the client reads.
func TestKernelResetIsPassedOn(t *testing.T) {
	const size = 300_000 // in the proxy and in its socket towards the client
	received := 0
	app := application(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
		c.Write(make([]byte, size))
		raw, _ := c.(*net.TCPConn).SyscallConn()
		for left := 1; left > 0; runtime.Gosched() { // a reset destroys what has not arrived
			raw.Control(func(fd uintptr) { left = loop.Kernel().Unsent(int(fd)) })
		}
		c.(*net.TCPConn).SetLinger(0)
	})
	c := connect(t, kernelRelay(t, tcpAddr(app), tcp.Options{}))
	c.SetReadBuffer(64 << 10)
	b := make([]byte, 20_000)
	var err error
	for n := 0; err == nil; received += n {
		n, err = c.Read(b)
	}
	if received != size || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("received %d bytes of %d, then %v; want a reset", received, size, err)
	}

	reset := make(chan error, 1)
	app = application(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
		c.Write([]byte("x"))
		var b [1]byte
		_, err := c.Read(b[:])
		reset <- err
	})
	c = connect(t, kernelRelay(t, tcpAddr(app), tcp.Options{}))
	c.Read(b[:1])
	c.SetLinger(0)
	c.Close()
	if err := <-reset; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the application saw %v, want a reset", err)
	}
}
