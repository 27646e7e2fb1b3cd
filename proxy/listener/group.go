package listener

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weirmesh/weir/proxy/loop"
)

// Group is the listeners of a process: the acceptors of all workers and the sockets
// they share. Apply, Drain and Local may be called from any goroutine, one call at a time.
type Group struct {
	source  ListenSource
	sockets loop.Sockets
	log     *slog.Logger
	workers []*Acceptor
	peers   *Peers

	// MaxConnections limits open connections over all listeners and workers, but for those
	// with IgnoreGroupLimit; 0 is no limit. Set it before the first Apply.
	MaxConnections int64

	open    atomic.Int64 // what counts for it
	mu      sync.Mutex
	table   *Table                  // the newest
	drained bool                    // nothing is listened on any more
	bound   map[loop.Addr]loop.Addr // as configured → as the kernel says
	counts  map[string]*atomic.Int64
}

// NewGroup makes a group of the workers' acceptors. sockets are those of the kernel, or
// of the network in memory that the workers' loops are on; peers may be nil.
func NewGroup(source ListenSource, sockets loop.Sockets, peers *Peers, log *slog.Logger, workers ...*Acceptor) *Group {
	if peers == nil {
		peers = NewPeers()
	}
	g := &Group{source: source, sockets: sockets, log: log, workers: workers, peers: peers, table: &Table{},
		bound: map[loop.Addr]loop.Addr{}, counts: map[string]*atomic.Int64{}}
	for _, w := range workers {
		w.group = g
	}
	return g
}

// Apply makes t the listeners of all workers: sockets of addresses that t does not
// have are closed once nobody waits in or for their accept queues, new ones are opened, the others
// stay as they are. Connections go on under the Table they came with. live is
// closed when every worker uses t. Errors name addresses that could not be opened;
// everything else is applied nevertheless, and the next Apply tries again. After a Drain t
// is for the connections there are.
func (g *Group) Apply(t *Table) (live <-chan struct{}, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.apply(t)
}

func (g *Group) apply(t *Table) (live <-chan struct{}, err error) {
	g.table = t
	var errs []error
	fresh := make([]map[loop.Addr]int, len(g.workers))
	for i := range fresh {
		fresh[i] = map[loop.Addr]int{}
	}
	wanted := map[loop.Addr]bool{}
	counts := map[string]*atomic.Int64{}
	for _, c := range t.Configs {
		if c.count == nil { // workers may be reading one that was applied before
			if c.count = g.counts[c.Name]; c.count == nil {
				c.count = new(atomic.Int64)
			}
		}
		counts[c.Name] = c.count
		for i, ch := range c.Chains {
			if ch.MaxConnections == 0 {
				continue
			}
			key := fmt.Sprintf("%s\x00%s\x00%d", c.Name, ch.Name, i)
			if ch.count == nil {
				if ch.count = g.counts[key]; ch.count == nil {
					ch.count = new(atomic.Int64)
				}
			}
			counts[key] = ch.count
		}
		if g.drained {
			continue
		}
		for _, a := range c.Binds {
			wanted[a] = true
			if _, ok := g.bound[a]; ok {
				continue
			}
			fds, err := g.listen(a, SocketOptions{Transparent: c.Transparent, FreeBind: c.FreeBind, Backlog: c.Backlog})
			if err != nil {
				if len(c.Binds) > 1 && a.Family() == loop.IPv6 && (errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL)) {
					g.log.Info("listener has no IPv6 address here", "listener", c.Name, "err", err)
					continue
				}
				errs = append(errs, fmt.Errorf("listener %q: %w", c.Name, err))
				continue
			}
			g.bound[a] = g.sockets.Local(fds[0])
			for i, fd := range fds {
				if a.Path == "" {
					// Inherited by what is accepted.
					g.sockets.Set(fd, loop.NoDelay, 1)
					c.Keepalive.Set(g.sockets, fd)
				}
				fresh[i][a] = fd
			}
		}
	}
	g.counts = counts
	for a := range g.bound {
		if !wanted[a] {
			delete(g.bound, a)
		}
	}
	done := make(chan struct{})
	var left atomic.Int64
	left.Store(int64(len(g.workers)))
	finish := func() {
		if left.Add(-1) == 0 {
			close(done)
		}
	}
	drained := g.drained
	for i, w := range g.workers {
		if !w.l.Post(func() { w.apply(t, fresh[i], drained); finish() }) {
			for _, fd := range fresh[i] {
				g.sockets.Close(fd)
			}
			finish()
		}
	}
	return done, errors.Join(errs...)
}

// listen opens the sockets of an address. A socket that is about to leave it may still be there: it is not shared where there is one worker.
func (g *Group) listen(a loop.Addr, o SocketOptions) (fds []int, err error) {
	for range 3 {
		fds, err = g.source.Listen(a, len(g.workers), o)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return fds, err
		}
		for _, w := range g.workers {
			done := make(chan struct{})
			if w.l.Post(func() { w.hurry(a); close(done) }) {
				select {
				case <-done:
				case <-time.After(lastWords): // a loop that does not run yet, or has much to do
				}
			}
		}
	}
	return fds, err
}

// Drain stops accepting on all workers, for good: what waits in the accept queues is
// taken first. Open connections go on.
func (g *Group) Drain() (done <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.drained = true
	done, _ = g.apply(g.table)
	return done
}

// Local is the address that a configured one was bound to, which differs in a port of 0.
func (g *Group) Local(configured loop.Addr) (loop.Addr, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a, ok := g.bound[configured]
	return a, ok
}

// Connections is the number of open connections of a listener, over all workers.
func (g *Group) Connections(listener string) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.counts[listener]; c != nil {
		return c.Load()
	}
	return 0
}

// Open is the number of open connections, but for those with IgnoreGroupLimit.
func (g *Group) Open() int64 { return g.open.Load() }

// idler is the worker that should take the next connection instead of w, or w. The
// kernel spreads connections by hash, which is fair on average only: a few long
// connections can all land on one worker. Small differences are left alone, because
// moving costs a wake-up.
func (g *Group) idler(w *Acceptor) *Acceptor {
	if len(g.workers) == 1 {
		return w
	}
	least := slices.MinFunc(g.workers, func(a, b *Acceptor) int { return int(a.open.Load() - b.open.Load()) })
	if n := least.open.Load(); w.open.Load() > n+4+n/8 {
		return least
	}
	return w
}
