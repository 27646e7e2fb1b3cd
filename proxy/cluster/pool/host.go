package pool

import (
	"cmp"
	"slices"
	"time"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/loop"
)

// host is one endpoint's connections of one protocol on this worker.
type host struct {
	pool     *Pool
	endpoint *cluster.Endpoint
	protocol cluster.Protocol
	cluster  *cluster.Cluster // as last seen
	dynamic  bool
	next     *host // of the same endpoint, another protocol

	idle       []*Item // the one used last is lent first, so that the others may time out
	shared     []*Item // carry requests and may take more, or might when one has ended
	busy       int
	connecting int
	promised   uint64 // requests that the connecting ones will take
	learned    uint32 // how many the last connection could take; 0: there was none

	waiting    int
	head, tail *Waiter

	sweep   loop.Timer
	probe   *Item       // the oldest that is being dialled, as long as nobody has answered
	quiet   loop.Timer  // when that takes too long
	retired *retirement // set by Retire
	blocked bool        // is in pool.blocked
}

// retirement is shared by the hosts of an endpoint that left.
type retirement struct {
	hosts  int // not empty yet
	unused func()
}

func newHost(p *Pool, c *cluster.Cluster, e *cluster.Endpoint, proto cluster.Protocol) *host {
	h := &host{pool: p, endpoint: e, cluster: c, protocol: proto}
	h.sweep.Fire = h.expire
	h.quiet.Fire = h.silent
	return h
}

// find is a connection that takes another request now, nil if there is none.
func (h *host) find() *Item {
	for i := len(h.shared) - 1; i >= 0; i-- {
		it := h.shared[i]
		if it.active >= it.streams {
			continue
		}
		if !it.worn() {
			return it
		}
		it.Leave() // and is not in the list any more
		i = min(i, len(h.shared))
	}
	if n := len(h.idle); n > 0 && h.idle[n-1].streams > 0 {
		it := h.idle[n-1]
		h.idle[n-1] = nil
		h.idle = h.idle[:n-1]
		return it
	}
	return nil
}

// share puts a connection into the list of those that may take more, or out of it.
func (h *host) share(it *Item, in bool) {
	if it.shared == in {
		return
	}
	if it.shared = in; in {
		h.shared = append(h.shared, it)
	} else {
		i := slices.Index(h.shared, it)
		h.shared = slices.Delete(h.shared, i, i+1)
	}
}

// unlist takes a connection out of the idle list.
func (h *host) unlist(it *Item) {
	if i := slices.Index(h.idle, it); i >= 0 {
		h.idle = slices.Delete(h.idle, i, i+1)
	}
}

func (h *host) idleTimeout() time.Duration {
	if h.endpoint.Behalf != nil {
		return min(ownIdle, cmp.Or(h.cluster.IdleTimeout, defaultIdle))
	}
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
	h.idle = slices.Delete(h.idle, 0, n)
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

// waiter is the oldest who may have it, nil if there is none.
func (h *host) waiter(it *Item) *Waiter {
	w := h.head
	for w != nil && w.fresh && it.kept {
		w = w.next
	}
	return w
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

// dialMore dials until the connections on their way suffice for the requests that wait, or the limit is reached.
func (h *host) dialMore() {
	p, l := h.pool, h.endpoint.Limits
	for h.promised < uint64(h.waiting) {
		if !p.place(l) {
			// Once more after asking to be told: a place may have become free in between.
			if p.block(h); !p.place(l) {
				l.CxOverflow.Add(1)
				if !p.evict(l, h) {
					p.o.Group.evictElsewhere(l, p)
				}
				return
			}
		}
		m, streams := p.o.New(h.cluster, h.protocol)
		if streams == 0 {
			streams = max(h.learned, 1)
		}
		it := m.Pooled()
		*it = Item{Endpoint: h.endpoint, host: h, limits: l, member: m, streams: streams}
		p.o.Totals.Of(h.cluster.ID).Connections++
		h.connecting++
		h.promised += uint64(streams)
		it.Conn = conn.Dial(p.o.Loop, p.o.Target(h.cluster, h.endpoint, h.protocol), m)
		if h.probe == nil {
			h.probe = it
			p.o.Loop.Arm(&h.quiet, p.o.Loop.Now()+int64(cluster.Silence))
		}
	}
}

// silent is called when the oldest connection that is being made should have been accepted. It goes on being made, and tells when
// the endpoint is there again; who waits for it may go elsewhere, and whoever comes does.
func (h *host) silent() {
	it := h.probe
	if it == nil || it.state != dialling || !it.Conn.Unanswered() {
		return // it is being secured, which may take what it takes
	}
	now := h.pool.o.Loop.Now()
	until := now + int64(cmp.Or(h.cluster.ConnectTimeout, defaultConnect)+cluster.Avoided)
	h.endpoint.Hush(now, until)
	for w, last := h.head, h.tail; w != nil; {
		after := w.next
		if w == last {
			after = nil // who comes back to the queue stands behind
		}
		w.Client.Silent(until) // may take w out of the queue, and no other
		w = after
	}
}

// answered takes note of what became of a connection that was being made.
func (h *host) answered(it *Item, why conn.Why, open bool) {
	if h.probe == it {
		h.probe = nil
		h.quiet.Stop()
	}
	switch {
	case h.endpoint.Silent.Load() == 0 && why.Kind != conn.ConnectTimeout: // which may be shorter than silence
	case open || why.Kind == conn.ConnectRefused:
		h.endpoint.Silent.Store(0)
	case h.probe == nil:
		now := h.pool.o.Loop.Now()
		h.endpoint.Hush(now, now+int64(cluster.Avoided))
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
		if key := keyOf(h.cluster, h.endpoint, h.protocol); p.dynamic[key] == h {
			delete(p.dynamic, key)
		}
	case h.retired != nil:
		for at := &p.hosts[h.endpoint.ID]; *at != nil; at = &(*at).next {
			if *at == h {
				*at = h.next
				break
			}
		}
		r := h.retired
		h.retired = nil
		if r.hosts--; r.hosts == 0 {
			r.unused()
		}
	default:
		return
	}
	h.sweep.Stop()
	h.quiet.Stop()
}
