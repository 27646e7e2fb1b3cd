// Package pool keeps one worker's connections to endpoints: it lends idle ones,
// or those that carry several requests at once and have room; dials more within
// the cluster's limits, and closes what is idle for too long, used often enough,
// or not wanted any more.
//
// A request enters by Get with its Waiter; a Member (a connection with the codec
// on it) is lent at once or later, or a Failure says why there is none. The
// borrower gives it back by Release, or closes it. A Pool belongs to one worker;
// pools of one process share a Group, because cluster.Limits hold for all of
// them together: where a limit makes one worker wait, others give up idle
// connections, and shared ones after the requests on them.
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

// defaultConnect is Istio's connectTimeout, for a cluster that does not say.
const defaultConnect = 10 * time.Second

// ownIdle is how long a connection on behalf of one client stays open for it: nobody else can use it, and most
// clients that are silent for so long are gone.
const ownIdle = time.Minute

// Member is the handler of a pooled connection. It embeds an Item and calls
// Opened and Closed on it when its connection says so.
type Member interface {
	conn.Handler
	Pooled() *Item
	// Goodbye: the connection carries nothing and is about to be closed.
	Goodbye()
}

// Options are a Pool's collaborators.
type Options struct {
	Loop *loop.Loop
	// Group is shared by the pools of all workers; nil means that this is the only one.
	Group *Group
	// Totals counts connections; nil: nobody wants to know.
	Totals *cluster.Totals
	// Target says how to reach an endpoint.
	Target func(c *cluster.Cluster, e *cluster.Endpoint, p cluster.Protocol) conn.Target
	// New makes the handler of a connection about to be dialled. streams is how many requests may wait for it, to be
	// carried side by side: 1 for HTTP/1.1; 0: as many as the last one to the endpoint could carry.
	New func(c *cluster.Cluster, p cluster.Protocol) (m Member, streams uint32)
}

// Pool is one worker's connections.
type Pool struct {
	o        Options
	hosts    []*host // by Endpoint.ID
	dynamic  map[dynamicKey]*host
	blocked  map[*cluster.Limits][]*host // want to dial and may not
	granted  *cluster.Limits             // another worker left its place under this limit to us
	draining bool
}

// dynamicKey names an endpoint that is in no list: the original destination of a connection.
type dynamicKey struct {
	cluster  cluster.ID
	addr     netip.AddrPort
	path     string
	protocol cluster.Protocol
	behalf   cluster.Behalf
}

func keyOf(c *cluster.Cluster, e *cluster.Endpoint, proto cluster.Protocol) dynamicKey {
	k := dynamicKey{cluster: c.ID, addr: e.Addr, path: e.Path, protocol: proto}
	if e.Behalf != nil {
		k.behalf = *e.Behalf
	}
	return k
}

// New makes an empty pool.
func New(o Options) *Pool {
	if o.Group == nil {
		o.Group = &Group{}
	}
	if o.Totals == nil {
		o.Totals = &cluster.Totals{}
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

// Client is who waits for a connection. Exactly one of Connected and NotConnected comes, later than Get, unless the Waiter is
// cancelled.
type Client interface {
	// Connected lends m.
	Connected(m Member)
	// NotConnected: the connection that was dialled for the oldest waiter did not open. local is our address on it if there was one, and
	// TLS did not come about.
	NotConnected(local netip.AddrPort, why conn.Why)
	// Abandoned: the endpoint left its cluster, and a program that is gone may never answer. The client may Cancel and
	// choose another one, or go on waiting.
	Abandoned()
	// Silent: the endpoint has not answered for a while to the connection that is being made. The client may Cancel and choose another
	// one, or go on waiting. Until then (by the loop's clock) others are to be chosen where there are any.
	Silent(until int64)
}

// Waiter is a place in the queue, embedded in the Client. The zero value with Client set is ready.
type Waiter struct {
	Client Client

	host       *host
	next, prev *Waiter
	fresh      bool // see Pool.Get
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

// Get lends a connection to e that speaks proto (not Downstream) and has room for a request, or queues w. fresh says
// that only a new connection will do, because one was just found dead.
func (p *Pool) Get(c *cluster.Cluster, e *cluster.Endpoint, proto cluster.Protocol, w *Waiter, fresh bool) (Member, Result) {
	h := p.host(c, e, proto)
	h.cluster = c
	if !fresh {
		if it := h.find(); it != nil {
			it.lend()
			return it.member, Lent
		}
	}
	if l := e.Limits; !cluster.Acquire(&l.Pending, &l.MaxPending) {
		l.PendingOverflow.Add(1)
		h.tidy()
		return nil, Overflow
	}
	w.fresh = fresh
	h.queue(w)
	h.dialMore()
	return nil, Waiting
}

// OriginalDst returns the endpoint of cluster c at an address that no list names. It has no ID, and lives as long as
// connections or requests use it.
func (p *Pool) OriginalDst(c *cluster.Cluster, addr netip.AddrPort) *cluster.Endpoint {
	e := cluster.Endpoint{ID: -1, Addr: addr, Limits: c.Limits}
	if known := p.known(c, &e); known != nil {
		return known
	}
	if len(c.Transports) > 0 {
		e.Transport.Store(c.Transports[len(c.Transports)-1].Transport) // the default is the last
	}
	return &e
}

// OnBehalf returns e as an endpoint of its own for one client, whose connections nobody else uses. It has no ID, like
// an original destination.
func (p *Pool) OnBehalf(c *cluster.Cluster, e *cluster.Endpoint, b cluster.Behalf) *cluster.Endpoint {
	own := &cluster.Endpoint{ID: -1, Addr: e.Addr, Path: e.Path, Also: e.Also, Host: e.Host, Workload: e.Workload, Limits: e.Limits, Behalf: &b}
	return p.like(c, own, e)
}

// At returns e at another address, which leads to one of its like. It has no ID, like an original destination.
func (p *Pool) At(c *cluster.Cluster, addr netip.AddrPort, e *cluster.Endpoint) *cluster.Endpoint {
	return p.like(c, &cluster.Endpoint{ID: -1, Addr: addr, Limits: e.Limits}, e)
}

// like returns own, or what is known by its key, which is secured as e is.
func (p *Pool) like(c *cluster.Cluster, own, e *cluster.Endpoint) *cluster.Endpoint {
	if known := p.known(c, own); known != nil {
		own = known
	}
	own.Transport.Store(e.Transport.Load())
	return own
}

func (p *Pool) known(c *cluster.Cluster, e *cluster.Endpoint) *cluster.Endpoint {
	for _, proto := range [...]cluster.Protocol{cluster.HTTP1, cluster.HTTP2, cluster.Negotiated, cluster.Raw} {
		if h := p.dynamic[keyOf(c, e, proto)]; h != nil {
			return h.endpoint
		}
	}
	return nil
}

// host finds or makes the place of an endpoint. An ID may have gone to another endpoint since an exchange chose e: then
// e is treated like one that is in no list.
func (p *Pool) host(c *cluster.Cluster, e *cluster.Endpoint, proto cluster.Protocol) *host {
	first := p.first(e)
	for h := first; h != nil; h = h.next {
		if h.protocol == proto {
			return h
		}
	}
	if first != nil && first.retired == nil || e.ID >= 0 && !e.Gone.Load() {
		for int(e.ID) >= len(p.hosts) {
			p.hosts = append(p.hosts, nil)
		}
		h := newHost(p, c, e, proto)
		h.next = first
		p.hosts[e.ID] = h
		return h
	}
	key := keyOf(c, e, proto)
	h := p.dynamic[key]
	if h == nil {
		h = newHost(p, c, e, proto)
		h.dynamic = true
		p.dynamic[key] = h
	}
	return h
}

// first is the first host of an endpoint; nil: there is none, or another endpoint has its number now.
func (p *Pool) first(e *cluster.Endpoint) *host {
	if e.ID >= 0 && int(e.ID) < len(p.hosts) {
		if h := p.hosts[e.ID]; h != nil && h.endpoint == e {
			return h
		}
	}
	return nil
}

// Retire forgets an endpoint that left its cluster: idle connections are closed, lent ones when they come back, and who
// waits for one may go elsewhere. unused is called when nothing of it is left on this worker.
func (p *Pool) Retire(e *cluster.Endpoint, unused func()) {
	h := p.first(e)
	if h == nil {
		unused()
		return
	}
	r := &retirement{unused: unused}
	for at := h; at != nil; at = at.next {
		at.retired = r
		r.hosts++
	}
	for h != nil {
		next := h.next
		h.closeIdle(0)
		for w := h.head; w != nil; {
			after := w.next
			w.Client.Abandoned() // may take w out of the queue, and no other
			w = after
		}
		h.tidy()
		h = next
	}
}

// Drain closes idle connections, and lent ones when they come back: the worker is about to stop.
func (p *Pool) Drain() {
	p.draining = true
	p.CloseIdle()
}

// CloseIdle closes idle connections: their descriptors are needed.
func (p *Pool) CloseIdle() { p.each(func(h *host) { h.closeIdle(0) }) }

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
		for ; h != nil; h = h.next {
			do(h)
		}
	}
	for _, h := range p.dynamic {
		do(h)
	}
}

// evict makes a connection that counts against l give its place to others than by, and reports whether it found one: an
// idle one, which closes now, or else one that carries several requests, which closes after them. by is nil if another
// worker asks.
func (p *Pool) evict(l *cluster.Limits, by *host) bool {
	var idle, shared *Item
	p.each(func(h *host) {
		for _, it := range h.idle {
			if idle == nil && it.limits == l {
				idle = it
			}
		}
		for _, it := range h.shared {
			if shared == nil && it.limits == l && h != by {
				shared = it
			}
		}
	})
	switch {
	case idle != nil:
		idle.Leave()
	case shared != nil:
		shared.yields = true
		shared.Leave()
	}
	return idle != nil || shared != nil
}
