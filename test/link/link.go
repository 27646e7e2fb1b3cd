// Package link is a network between proxies and a control plane that does what networks do:
// it loses connections, lets nothing through and tells nobody, or next to nothing.
//
// A Link makes connections (Dial, for grpc.WithContextDialer) and holds what passes on them
// as it is told. It may be used by any number of goroutines.
package link

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Link is one network.
type Link struct {
	now  atomic.Pointer[condition]
	far  atomic.Int64 // how long what arrives is on its way, in nanoseconds
	mu   sync.Mutex
	open map[*conn]bool
}

// condition is how the network is until changed is closed.
type condition struct {
	passes  passes
	changed chan struct{}
}

type passes int

const (
	everything passes = iota
	aByteASecond
	nothing
)

// New makes a Link that lets everything through.
func New() *Link {
	l := &Link{open: map[*conn]bool{}}
	l.now.Store(&condition{everything, make(chan struct{})})
	return l
}

// Partition lets nothing through from now on, and tells nobody: what was sent waits.
func (l *Link) Partition() { l.set(nothing) }

// Slow lets one byte a second through on each connection, in each direction.
func (l *Link) Slow() { l.set(aByteASecond) }

// Far keeps everything that arrives from now on for so long, one thing after the other.
func (l *Link) Far(d time.Duration) { l.far.Store(int64(d)) }

// Heal lets everything through, and first what waited.
func (l *Link) Heal() { l.set(everything) }

// Break ends the connections there are.
func (l *Link) Break() {
	l.mu.Lock()
	var all []*conn
	for c := range l.open {
		all = append(all, c)
	}
	l.mu.Unlock()
	for _, c := range all {
		_ = c.Close()
	}
}

func (l *Link) set(p passes) {
	close(l.now.Swap(&condition{p, make(chan struct{})}).changed)
}

// Dial connects to host:port or unix:PATH.
func (l *Link) Dial(ctx context.Context, addr string) (net.Conn, error) {
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", strings.TrimPrefix(path, "//")
	}
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	x := &conn{Conn: c, l: l, closed: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[x] = true
	return x, nil
}

// conn is a connection over a Link.
type conn struct {
	net.Conn
	l       *Link
	once    sync.Once
	closed  chan struct{}
	arrived []byte // not let through yet; of the one reader
	buf     [16 << 10]byte
}

// through waits until some of n bytes may pass, and says how many.
func (c *conn) through(n int) (int, error) {
	for {
		now := c.l.now.Load()
		var second <-chan time.Time
		switch now.passes {
		case everything:
			return n, nil
		case aByteASecond:
			second = time.After(time.Second)
		}
		select {
		case <-second:
			return 1, nil
		case <-now.changed:
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
}

func (c *conn) Read(p []byte) (int, error) {
	if len(c.arrived) == 0 {
		n, err := c.Conn.Read(c.buf[:])
		if err != nil {
			return 0, err
		}
		c.arrived = c.buf[:n]
		if far := c.l.far.Load(); far > 0 {
			select {
			case <-time.After(time.Duration(far)):
			case <-c.closed:
				return 0, net.ErrClosed
			}
		}
	}
	n, err := c.through(min(len(p), len(c.arrived)))
	n = copy(p[:n], c.arrived)
	c.arrived = c.arrived[n:]
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n, err := c.through(len(p) - done)
		if err != nil {
			return done, err
		}
		n, err = c.Conn.Write(p[done : done+n])
		if done += n; err != nil {
			return done, err
		}
	}
	return len(p), nil
}

func (c *conn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.l.mu.Lock()
		delete(c.l.open, c)
		c.l.mu.Unlock()
	})
	return c.Conn.Close()
}
