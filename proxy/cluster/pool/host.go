package pool

import (
	"time"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/loop"
)

// host is one endpoint's connections on this worker.
type host struct {
	pool     *Pool
	endpoint *cluster.Endpoint
	cluster  *cluster.Cluster // as last seen
	dynamic  bool

	idle       []*Item // the one used last is lent first, so that the others may time out
	busy       int
	connecting int

	waiting    int
	head, tail *Waiter

	sweep   loop.Timer
	retired func() // set by Retire
	blocked bool   // is in pool.blocked
}

func newHost(p *Pool, c *cluster.Cluster, e *cluster.Endpoint) *host {
	h := &host{pool: p, endpoint: e, cluster: c}
	h.sweep.Fire = h.expire
	return h
}

// Item is the pool's part of a Member.
type Item struct {
	Conn     *conn.Conn
	Endpoint *cluster.Endpoint

	host   *host
	limits *cluster.Limits
	member Member
	state  itemState
	reused bool
	served uint32
	opened int64
	since  int64 // idle since
}

type itemState uint8

const (
	dialling itemState = iota
	idling
	lent
	closing
	gone
)

// Reused reports that the connection has served a request before: its peer may have closed it just now.
func (it *Item) Reused() bool { return it.reused }

// Served is the number of requests that ended on the connection.
func (it *Item) Served() uint32 { return it.served }

func (it *Item) lend() {
	it.state = lent
	it.reused = it.served > 0
	it.host.busy++
}

// Opened tells that the connection is ready; the oldest waiter gets it.
func (it *Item) Opened() {
	if it.state != dialling {
		return
	}
	h := it.host
	h.connecting--
	it.opened = h.pool.o.Loop.Now()
	it.settle()
}

// Release gives a lent connection back, ready for another request. It may be lent to the next waiter within the call.
func (it *Item) Release() {
	if it.state != lent {
		return
	}
	h := it.host
	h.busy--
	it.served++
	it.settle()
}

// settle finds the next use of a connection that is ready: a waiter, the idle list, or none.
func (it *Item) settle() {
	h, p := it.host, it.host.pool
	switch {
	case it.worn():
		it.drop()
		h.dialMore() // for waiters that counted on it
	case h.head != nil:
		w := h.head
		h.take(w)
		it.lend()
		w.Client.Connected(it.member)
	case p.draining || h.retired != nil || h.endpoint.Gone.Load():
		it.drop()
	case p.o.Group.wanted(it.limits):
		it.drop() // somebody waits for the place it takes
	default:
		it.state = idling
		it.since = p.o.Loop.Now()
		h.idle = append(h.idle, it)
		if !h.sweep.Armed() {
			p.o.Loop.Arm(&h.sweep, it.since+int64(h.idleTimeout()))
		}
	}
}

// worn reports that the connection has served its number of requests or its time.
func (it *Item) worn() bool {
	c := it.host.cluster
	return c.MaxRequestsPerConn > 0 && it.served >= c.MaxRequestsPerConn ||
		c.MaxConnectionDuration > 0 && it.host.pool.o.Loop.Now() >= it.opened+int64(c.MaxConnectionDuration)
}

// Last reports that the request about to be sent is the last one the connection may serve.
func (it *Item) Last() bool {
	m := it.host.cluster.MaxRequestsPerConn
	return m > 0 && it.served+1 >= m
}

func (it *Item) drop() {
	it.state = closing
	it.Conn.Close()
}

// Discard closes a lent connection that cannot be used again. hard resets it, which also tells the peer at once.
func (it *Item) Discard(hard bool) {
	if it.state != lent {
		return
	}
	it.host.busy--
	it.state = closing
	if hard {
		it.Conn.Reset()
	} else {
		it.Conn.Close()
	}
}

// Closed tells that the connection has ended. A borrower learns it by itself, from the call it makes this in.
func (it *Item) Closed(why conn.Why) {
	h, was := it.host, it.state
	if was == gone {
		return
	}
	it.state = gone
	it.limits.Connections.Add(-1)
	switch was {
	case dialling:
		h.connecting--
		if w := h.head; w != nil {
			h.take(w)
			w.Client.NotConnected(why)
		}
	case idling:
		for i, x := range h.idle {
			if x == it {
				h.idle = append(h.idle[:i], h.idle[i+1:]...)
				break
			}
		}
	case lent:
		h.busy--
	}
	h.dialMore()
	h.pool.o.Group.freed(it.limits, h.pool)
	h.tidy()
}

func (h *host) idleTimeout() time.Duration {
	if h.cluster.IdleTimeout > 0 {
		return h.cluster.IdleTimeout
	}
	return defaultIdle
}

// expire closes what has been idle for too long; the oldest come first.
func (h *host) expire() {
	now, limit := h.pool.o.Loop.Now(), int64(h.idleTimeout())
	n := 0
	for n < len(h.idle) && h.idle[n].since+limit <= now {
		n++
	}
	h.closeIdle(len(h.idle) - n)
	if len(h.idle) > 0 {
		h.pool.o.Loop.Arm(&h.sweep, h.idle[0].since+limit)
	}
}

// closeIdle closes the oldest idle connections and keeps the youngest.
func (h *host) closeIdle(keep int) {
	n := len(h.idle) - keep
	for _, it := range h.idle[:n] {
		it.drop()
	}
	copy(h.idle, h.idle[n:])
	clear(h.idle[keep:])
	h.idle = h.idle[:keep]
}

// queue appends w. Its place in max_pending_requests was taken by the caller.
func (h *host) queue(w *Waiter) {
	w.host, w.next, w.prev = h, nil, h.tail
	if h.tail != nil {
		h.tail.next = w
	} else {
		h.head = w
	}
	h.tail = w
	h.waiting++
}

// take removes w from the queue.
func (h *host) take(w *Waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		h.head = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		h.tail = w.prev
	}
	w.host, w.next, w.prev = nil, nil, nil
	h.waiting--
	h.endpoint.Limits.Pending.Add(-1)
}

// dialMore dials until as many connections are on their way as requests wait, or the limit is reached.
func (h *host) dialMore() {
	p, l := h.pool, h.endpoint.Limits
	for h.connecting < h.waiting {
		if !cluster.Acquire(&l.Connections, &l.MaxConnections) {
			// Once more after asking to be told: a place may have become free in between.
			if p.block(h); !cluster.Acquire(&l.Connections, &l.MaxConnections) {
				if !p.evict(l) {
					p.o.Group.evictElsewhere(l, p)
				}
				return
			}
		}
		m := p.o.New()
		it := m.Pooled()
		*it = Item{Endpoint: h.endpoint, host: h, limits: l, member: m}
		h.connecting++
		it.Conn = conn.Dial(p.o.Loop, p.o.Target(h.cluster, h.endpoint), m)
	}
}

// tidy gives up a host of which nothing is left.
func (h *host) tidy() {
	if h.busy > 0 || h.connecting > 0 || h.waiting > 0 || len(h.idle) > 0 {
		return
	}
	p := h.pool
	switch {
	case h.dynamic:
		if key := (dynamicKey{h.cluster.ID, h.endpoint.Addr}); p.dynamic[key] == h {
			delete(p.dynamic, key)
		}
	case h.retired != nil:
		if p.hosts[h.endpoint.ID] == h {
			p.hosts[h.endpoint.ID] = nil
		}
		unused := h.retired
		h.retired = nil
		unused()
	default:
		return
	}
	h.sweep.Stop()
}
