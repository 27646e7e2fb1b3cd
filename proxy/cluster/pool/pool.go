// Package pool keeps one worker's connections to endpoints: it lends idle ones,
// dials more within the cluster's limits, and closes what is idle for too long,
// used often enough, or not wanted any more.
//
// A request enters by Get with its Waiter; a Member (a connection with the codec
// on it) is lent at once or later, or a Failure says why there is none. The
// borrower gives it back by Release, or closes it. A Pool belongs to one worker;
// pools of one process share a Group, because cluster.Limits hold for all of
// them together: where a limit makes one worker wait, others give up idle
// connections.
package pool

import (
	"net/netip"
	"time"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/loop"
)

// defaultIdle is Envoy's idle timeout of upstream connections, for a cluster that does not say.
const defaultIdle = time.Hour

// Member is the handler of a pooled connection. It embeds an Item and calls
// Opened, and Closed or Failed, on it when its connection says so.
type Member interface {
	conn.Handler
	Pooled() *Item
}

// Options are a Pool's collaborators.
type Options struct {
	Loop *loop.Loop
	// Group is shared by the pools of all workers; nil means that this is the only one.
	Group *Group
	// Target says how to reach an endpoint.
	Target func(c *cluster.Cluster, e *cluster.Endpoint) conn.Target
	// New makes the handler of a connection about to be dialled.
	New func() Member
}

// Pool is one worker's connections.
type Pool struct {
	o        Options
	hosts    []*host // by Endpoint.ID
	dynamic  map[dynamicKey]*host
	blocked  map[*cluster.Limits][]*host // want to dial and may not
	draining bool
}

// dynamicKey names an endpoint that is in no list: the original destination of a connection.
type dynamicKey struct {
	cluster cluster.ID
	addr    netip.AddrPort
}

// New makes an empty pool.
func New(o Options) *Pool {
	if o.Group == nil {
		o.Group = &Group{}
	}
	p := &Pool{o: o, dynamic: map[dynamicKey]*host{}, blocked: map[*cluster.Limits][]*host{}}
	o.Group.join(p)
	return p
}

// Result is what Get answers.
type Result uint8

const (
	Lent     Result = iota // the Member is the caller's
	Waiting                // the Waiter will hear
	Overflow               // too many wait already (max_pending_requests)
)

// Client is who waits for a connection. Exactly one of the calls comes, later than Get, unless the Waiter is cancelled.
type Client interface {
	// Connected lends m.
	Connected(m Member)
	// NotConnected: the connection that was dialled for the oldest waiter did not open.
	NotConnected(why conn.Why)
}

// Waiter is a place in the queue, embedded in the Client. The zero value with Client set is ready.
type Waiter struct {
	Client Client

	host       *host
	next, prev *Waiter
}

// Waiting reports whether the waiter is in a queue.
func (w *Waiter) Waiting() bool { return w.host != nil }

// Cancel leaves the queue. A connection that is being dialled is kept for others.
func (w *Waiter) Cancel() {
	if h := w.host; h != nil {
		h.take(w)
		h.tidy()
	}
}

// Get lends an idle connection to e, or queues w. fresh says that an idle connection will not do, because one was just
// found dead.
func (p *Pool) Get(c *cluster.Cluster, e *cluster.Endpoint, w *Waiter, fresh bool) (Member, Result) {
	h := p.host(c, e)
	h.cluster = c
	if n := len(h.idle); n > 0 && !fresh {
		it := h.idle[n-1]
		h.idle[n-1] = nil
		h.idle = h.idle[:n-1]
		it.lend()
		return it.member, Lent
	}
	if l := e.Limits; !cluster.Acquire(&l.Pending, &l.MaxPending) {
		h.tidy()
		return nil, Overflow
	}
	h.queue(w)
	h.dialMore()
	return nil, Waiting
}

// OriginalDst returns the endpoint of cluster c at an address that no list names. It has no ID, and lives as long as
// connections or requests use it.
func (p *Pool) OriginalDst(c *cluster.Cluster, addr netip.AddrPort) *cluster.Endpoint {
	if h := p.dynamic[dynamicKey{c.ID, addr}]; h != nil {
		return h.endpoint
	}
	e := &cluster.Endpoint{ID: -1, Addr: addr, Limits: c.Limits}
	if len(c.Transports) > 0 {
		e.Transport.Store(c.Transports[len(c.Transports)-1].Transport) // the default is the last
	}
	return e
}

// host finds or makes the place of an endpoint. An ID may have gone to another endpoint since an exchange chose e: then
// e is treated like one that is in no list.
func (p *Pool) host(c *cluster.Cluster, e *cluster.Endpoint) *host {
	if e.ID >= 0 && int(e.ID) < len(p.hosts) {
		if h := p.hosts[e.ID]; h != nil && h.endpoint == e {
			return h
		}
	}
	if e.ID >= 0 && !e.Gone.Load() {
		for int(e.ID) >= len(p.hosts) {
			p.hosts = append(p.hosts, nil)
		}
		h := newHost(p, c, e)
		p.hosts[e.ID] = h
		return h
	}
	key := dynamicKey{c.ID, e.Addr}
	h := p.dynamic[key]
	if h == nil {
		h = newHost(p, c, e)
		h.dynamic = true
		p.dynamic[key] = h
	}
	return h
}

// Retire forgets an endpoint that left its cluster: idle connections are closed, lent ones when they come back. unused is
// called when nothing of it is left on this worker.
func (p *Pool) Retire(e *cluster.Endpoint, unused func()) {
	if e.ID < 0 || int(e.ID) >= len(p.hosts) || p.hosts[e.ID] == nil || p.hosts[e.ID].endpoint != e {
		unused()
		return
	}
	h := p.hosts[e.ID]
	h.retired = unused
	h.closeIdle(0)
	h.tidy()
}

// Drain closes idle connections, and lent ones when they come back: the worker is about to stop.
func (p *Pool) Drain() {
	p.draining = true
	p.each(func(h *host) { h.closeIdle(0) })
}

// Counts are the connections of a pool, for the admin page and tests.
type Counts struct{ Idle, Busy, Connecting, Waiting int }

// Counts sums over all endpoints.
func (p *Pool) Counts() (n Counts) {
	p.each(func(h *host) {
		n.Idle += len(h.idle)
		n.Busy += h.busy
		n.Connecting += h.connecting
		n.Waiting += h.waiting
	})
	return n
}

func (p *Pool) each(do func(*host)) {
	for _, h := range p.hosts {
		if h != nil {
			do(h)
		}
	}
	for _, h := range p.dynamic {
		do(h)
	}
}

// evict closes one idle connection that counts against l, of any endpoint, and reports whether there was one.
func (p *Pool) evict(l *cluster.Limits) bool {
	found := false
	p.each(func(h *host) {
		if found {
			return
		}
		for i, it := range h.idle {
			if it.limits == l {
				h.idle = append(h.idle[:i], h.idle[i+1:]...)
				it.drop()
				found = true
				return
			}
		}
	})
	return found
}
