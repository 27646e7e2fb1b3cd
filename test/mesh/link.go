package mesh

import (
	"context"
	"net"
	"strings"
	"sync"
	"time"
)

// Link is the network between a proxy and the control plane: configuration goes over it,
// requests do not. It may lose its connections, or let nothing through, or next to nothing.
type Link struct {
	mu      sync.Mutex
	passes  passes
	changed chan struct{} // closed when passes changes
	open    map[*linked]bool
}

type passes int

const (
	everything passes = iota
	aByteASecond
	nothing
)

func newLink() *Link { return &Link{changed: make(chan struct{}), open: map[*linked]bool{}} }

// Partition lets nothing through from now on, and tells nobody: what was sent waits.
func (l *Link) Partition() { l.set(nothing) }

// Slow lets one byte a second through on each connection, in each direction.
func (l *Link) Slow() { l.set(aByteASecond) }

// Heal lets everything through, and first what waited.
func (l *Link) Heal() { l.set(everything) }

// Break ends the connections there are.
func (l *Link) Break() {
	l.mu.Lock()
	var all []*linked
	for c := range l.open {
		all = append(all, c)
	}
	l.mu.Unlock()
	for _, c := range all {
		_ = c.Close()
	}
}

func (l *Link) set(p passes) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.passes = p
	close(l.changed)
	l.changed = make(chan struct{})
}

// dial is for grpc.WithContextDialer.
func (l *Link) dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(addr, "unix://"))
	if err != nil {
		return nil, err
	}
	x := &linked{Conn: c, l: l, closed: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[x] = true
	return x, nil
}

// linked is a connection over a Link.
type linked struct {
	net.Conn
	l       *Link
	once    sync.Once
	closed  chan struct{}
	arrived []byte // not let through yet; of the one reader
	buf     [16 << 10]byte
}

// through waits until some of n bytes may pass, and says how many.
func (c *linked) through(n int) (int, error) {
	for {
		c.l.mu.Lock()
		passes, changed := c.l.passes, c.l.changed
		c.l.mu.Unlock()
		var second <-chan time.Time
		switch passes {
		case everything:
			return n, nil
		case aByteASecond:
			second = time.After(time.Second)
		}
		select {
		case <-second:
			return 1, nil
		case <-changed:
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
}

func (c *linked) Read(p []byte) (int, error) {
	if len(c.arrived) == 0 {
		n, err := c.Conn.Read(c.buf[:])
		if err != nil {
			return 0, err
		}
		c.arrived = c.buf[:n]
	}
	n, err := c.through(min(len(p), len(c.arrived)))
	n = copy(p[:n], c.arrived)
	c.arrived = c.arrived[n:]
	return n, err
}

func (c *linked) Write(p []byte) (int, error) {
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

func (c *linked) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.l.mu.Lock()
		delete(c.l.open, c)
		c.l.mu.Unlock()
	})
	return c.Conn.Close()
}
