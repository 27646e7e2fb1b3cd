package pool

import (
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/cluster/outlier"
	"github.com/weirmesh/weir/proxy/conn"
)

// Item is the pool's part of a Member: one connection, which carries one request at a time or several.
type Item struct {
	Conn     *conn.Conn
	Endpoint *cluster.Endpoint

	host    *host
	limits  *cluster.Limits
	member  Member
	state   itemState
	reused  bool
	kept    bool   // a request on it has ended: its peer may close it while nobody looks
	leaving bool   // takes no further request
	yields  bool   // leaves because somebody else waits for its place
	shared  bool   // is in host.shared
	streams uint32 // how many requests it may carry at once; while dialling: how many waiters count on it
	active  uint32
	taken   uint32 // requests it was lent for
	opened  int64
	since   int64 // idle since
}

type itemState uint8

const (
	dialling itemState = iota
	idling
	lent
	closing
	gone
)

// Reused reports that the connection was lent before: its peer may have closed it just now.
func (it *Item) Reused() bool { return it.reused }

// Carried is how many requests the connection was lent for before the last one, and when it opened, on the loop's clock.
func (it *Item) Carried() (requests uint32, opened int64) { return it.taken - 1, it.opened }

// Last reports that the connection may serve no request after those it was lent for.
func (it *Item) Last() bool {
	m := it.host.cluster.MaxRequestsPerConn
	return m > 0 && it.taken >= m
}

// worn reports that the connection has served its number of requests or its time.
func (it *Item) worn() bool {
	d := it.host.cluster.MaxConnectionDuration
	return it.Last() || d > 0 && it.host.pool.o.Loop.Now() >= it.opened+int64(d)
}

// Become gives the place of a connection that is not open yet to m: whoever speaks the protocol that was agreed on. The
// caller makes m the connection's handler.
func (it *Item) Become(m Member) {
	to := m.Pooled()
	*to = *it
	if it.host.probe == it {
		it.host.probe = to
	}
	to.member = m
	it.state = gone
}

// Opened tells that the connection is ready and may carry so many requests at once; the oldest waiters get it.
func (it *Item) Opened(streams uint32) {
	if it.state != dialling {
		return
	}
	h := it.host
	h.answered(it, conn.Why{}, true)
	h.connecting--
	h.promised -= uint64(it.streams)
	it.state = idling
	it.opened = h.pool.o.Loop.Now()
	it.streams = streams
	h.learned = streams
	it.settle()
	h.dialMore() // if it carries less than was hoped
}

// SetStreams changes how many requests the connection may carry at once.
func (it *Item) SetStreams(n uint32) {
	if it.state != idling && it.state != lent {
		return
	}
	it.streams = n
	it.host.learned = n
	if it.state == lent {
		it.settle()
	}
}

func (it *Item) lend() {
	if it.state != lent {
		it.state = lent
		it.host.busy++
	}
	it.reused = it.taken > 0
	it.active++
	it.taken++
	if it.streams > 1 {
		it.host.share(it, true)
	}
}

// Release tells that a request it was lent for has ended and the connection is ready for another one. It may be lent to
// the next waiter within the call.
func (it *Item) Release() {
	if it.state == lent {
		it.active--
		it.kept = true
		it.settle()
	}
}

// Leave lends the connection no more. It closes when the requests it carries have ended.
func (it *Item) Leave() {
	it.leaving = true
	switch it.state {
	case idling:
		it.host.unlist(it)
		it.drop()
	case lent:
		it.settle()
	case dialling, closing, gone:
	}
}

// settle finds the next use of a connection that is ready: waiters, more requests, the idle list, or none.
func (it *Item) settle() {
	h, p := it.host, it.host.pool
	for it.active < it.streams && !it.leaving && !it.worn() {
		w := h.waiter(it)
		if w == nil {
			break
		}
		h.take(w)
		it.lend()
		w.Client.Connected(it.member)
		if it.state != lent {
			return // its borrower has settled it
		}
	}
	switch {
	case it.worn():
		it.leaving = true
	case it.active > 0 && it.streams > 1 && p.othersWant(h, it.limits):
		// It may never become idle: whoever waits for its place gets it when the requests on it have ended.
		it.leaving, it.yields = true, true
	}
	if it.active > 0 {
		h.share(it, it.streams > 1 && !it.leaving)
		return
	}
	if it.state == lent {
		h.busy--
		h.share(it, false)
	}
	switch {
	case it.leaving:
		if it.drop(); !it.yields {
			h.dialMore() // for waiters that counted on it
		}
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

// drop closes a connection that carries nothing.
func (it *Item) drop() {
	it.state = closing
	it.member.Goodbye()
	it.Conn.Close()
}

// Discard closes a lent connection that cannot be used again, with everything on it. hard resets it, which also tells the peer at once.
func (it *Item) Discard(hard bool) {
	if it.state != lent {
		return
	}
	it.host.busy--
	it.host.share(it, false)
	it.state = closing
	if hard {
		it.Conn.Reset()
	} else {
		it.Conn.Close()
	}
}

// Closed tells that the connection has ended. Its borrowers learn it by themselves, from the call it makes this in.
func (it *Item) Closed(why conn.Why) {
	h, was := it.host, it.state
	if was == gone {
		return
	}
	it.state = gone
	place := it.limits
	if it.yields && h.pool.o.Group.pass(place, h.pool) {
		place = nil // it counts for another worker now
	} else {
		place.Connections.Add(-1)
	}
	switch was {
	case dialling:
		h.answered(it, why, false)
		if why.Kind.BeforeOpen() {
			it.limits.ConnectFail.Add(1)
		}
		if why.Kind == conn.ConnectTimeout {
			it.limits.ConnectTimeout.Add(1)
		}
		h.connecting--
		h.promised -= uint64(it.streams)
		// Those who counted on it hear that it failed, and may choose another endpoint.
		if h.head == nil && why.Kind.BeforeOpen() { // they went elsewhere, and nobody else says it
			h.cluster.Report(h.endpoint, outlier.LocalFailure, 0, h.pool.o.Loop.Now())
		}
		for n := min(uint64(it.streams), uint64(h.waiting)); n > 0 && h.head != nil; n-- {
			w := h.head
			h.take(w)
			w.Client.NotConnected(it.Conn.Info().Local, why)
		}
	case idling:
		h.unlist(it)
	case lent:
		h.busy--
		h.share(it, false)
	case closing, gone:
	}
	if !it.yields {
		h.dialMore()
	} else if h.promised < uint64(h.waiting) {
		h.pool.block(h) // behind those it gave its place to
	}
	if place != nil {
		h.pool.o.Group.freed(place, h.pool)
	}
	h.tidy()
}
