package http

import (
	"math"
	"slices"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/cluster/pool"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http/h2"
	"github.com/weirmesh/weir/proxy/http/message"
)

// client2 is an HTTP/2 connection to an endpoint, a member of the pool; each of its streams is the upstream of an attempt.
type client2 struct {
	session
	pool.Item
	cluster *cluster.Cluster
	early   []*stream // wait for the peer's SETTINGS: it may not take extended CONNECT
	settled bool      // they have come
	left    bool      // the peer said GOAWAY
	memory  Memory
}

// earlyStreams is how many requests a connection carries before its peer has said how many it takes; what a peer is asked
// to take at least (RFC 9113 section 6.5.2).
const earlyStreams = 100

func (w *Worker) newClient2(c *cluster.Cluster) *client2 {
	m := &client2{cluster: c}
	m.init(w, m, false)
	return m
}

// streamsOf is how many requests the cluster lets a connection carry.
func streamsOf(c *cluster.Cluster) uint32 {
	if n := c.HTTP2.MaxStreams; n > 0 {
		return n
	}
	return math.MaxInt32 // Envoy's default
}

func (c *client2) options() *cluster.HTTP2Options { return &c.cluster.HTTP2 }
func (c *client2) Pooled() *pool.Item             { return &c.Item }

// Goodbye is described at pool.Member.
func (c *client2) Goodbye() { c.goAway(h2.NoError) }

func (c *client2) Open(cc *conn.Conn) {
	o := &c.cluster.HTTP2
	c.begin(cc)
	c.c.SetOut(c.m.StartClient(c.room(startRoom), &h2.Options{
		HeadBytes: c.cluster.ResponseLimits.HeadBytes, Fields: c.cluster.ResponseLimits.Fields, TableSize: o.TableSize, StreamWindow: o.StreamWindow, ConnWindow: windowOr(o.ConnWindow), Streams: &c.w.h2streams,
	}, c.w.loop.Now()))
	c.tick()
	c.Item.Opened(min(earlyStreams, streamsOf(c.cluster)))
}

// serve carries x's request on a stream of its own: c was lent for it.
func (c *client2) serve(x *Exchange) {
	st := c.newStream()
	st.x, x.up = x, st
	st.base = c.Conn.Sent()
	if c.Reused() {
		st.flags = reused
	}
	x.lent(&c.Item)
	x.UpstreamHTTP = message.HTTP2
	if x.Request.Upgrade == nil || c.m.ConnectProtocol() {
		if c.write(st); x.up != st {
			return
		}
	} else if c.early = append(c.early, st); c.settled {
		c.settle()
		return
	}
	complete := x.is(requestDone)
	if len(x.body) > 0 {
		st.writeData(x, x.body, complete && x.RequestTrailers.Len() == 0)
	}
	if len(x.body) > replayLimit {
		x.dropBody()
	}
	if complete && !asksTunnel(&x.Request) {
		st.writeEnd(x)
	} else if !st.full() {
		x.unpauseDown()
	}
}

// write sends the head of the request.
func (c *client2) write(st *stream) {
	x := st.x
	q := &x.Request
	x.hideWebSocketKey()
	s, out := c.m.Request(c.room(h2.RequestRoom(q)), q, &x.Response, &x.ResponseTrailers, &x.arena, c.w.loop.Now())
	c.c.SetOut(out)
	if s == nil { // it takes no more, and lent all the same
		c.fail(st, causes.UpstreamRefused, "", true)
		return
	}
	st.s, s.Owner = s, st
	if q.NoBody && !asksTunnel(q) {
		st.flags |= ending | ended
	}
}

// asksTunnel reports whether a request's connection becomes a tunnel when it succeeds.
func asksTunnel(q *message.Request) bool { return q.Upgrade != nil || q.Method == message.CONNECT }

func (c *client2) event(ev h2.Event) {
	switch ev.Kind {
	case h2.Settings:
		c.settings()
		return
	case h2.GoAway:
		c.left = true
		c.Leave()
		return
	case h2.Failed:
		c.abandon(causes.UpstreamProtocolError, "http2."+ev.Reason.String())
		return
	}
	st := ev.Stream.Owner.(*stream)
	x := st.x
	if x == nil { // it only waits for its rest to leave
		if ev.Kind == h2.Reset {
			st.conclude()
		}
		return
	}
	switch ev.Kind {
	case h2.Interim:
		st.flags |= spoke
		if x.responseHead() && st.x == x {
			x.Response.Reset()
		}
	case h2.Head:
		st.flags |= spoke
		if !x.responseHead() || st.x != x {
			return
		}
		if ev.End {
			c.end(st)
		}
	case h2.Data:
		n := len(ev.Data)
		if n > 0 {
			x.responseData(ev.Data, ev.End && !x.is(tunnelling))
		}
		if st.x != x || st.s != ev.Stream {
			return
		}
		st.received(n)
		if ev.End {
			c.end(st)
		}
	case h2.Trailers:
		c.end(st)
	case h2.Reset:
		st.flags |= ending | ended
		c.reset(st, ev)
	}
}

// settings: the peer says what it takes.
func (c *client2) settings() {
	c.settled = true
	c.settle()
	c.SetStreams(min(streamsOf(c.cluster), uint32(min(c.count+c.m.Capacity(), math.MaxInt32))))
}

// settle sends the requests that waited for the peer to say whether it takes them.
func (c *client2) settle() {
	early := c.early
	c.early = nil
	for _, st := range early {
		if !c.m.ConnectProtocol() {
			c.fail(st, causes.UpstreamProtocolError, "http2.no_extended_connect", true)
			continue
		}
		x := st.x
		if c.write(st); x.up != st {
			continue
		}
		if st.queued() > 0 {
			st.wait()
		} else if st.is(ending) {
			st.writeLast()
		}
	}
}

func (c *client2) reset(st *stream, ev h2.Event) {
	switch {
	case ev.Retry && c.left:
		c.fail(st, causes.UpstreamGoingAway, "", true)
	case ev.Retry:
		c.fail(st, causes.UpstreamRefused, "", true)
	case ev.Reason == h2.PeerReset:
		c.fail(st, causes.UpstreamReset, "", false)
	default:
		c.fail(st, causes.UpstreamProtocolError, "http2."+ev.Reason.String(), false)
	}
}

// end hands the complete response over and gives the place of its stream back.
func (c *client2) end(st *stream) {
	x := st.x
	if x.is(tunnelling) {
		x.upstreamTunnelEnd()
		return
	}
	st.leave()
	x.responseEnd() // x may be in use for another request now
	c.Release()
}

// fail tells an attempt that it failed.
func (c *client2) fail(st *stream, cause causes.Cause, text string, untouched bool) {
	if st.x == nil {
		st.conclude()
		return
	}
	x, silent, again := st.x, !st.is(spoke), st.is(reused)
	st.leave()
	x.upstreamFailed(cause, text, untouched, silent, again)
	c.Release()
}

// lost tells all attempts that the connection has ended.
func (c *client2) lost(cause causes.Cause, text string) {
	for st := c.first; st != nil; st = c.first {
		c.fail(st, cause, text, c.Conn.Sent() == st.base)
	}
}

// abandon closes the connection and tells all attempts.
func (c *client2) abandon(cause causes.Cause, text string) {
	c.Discard(false)
	c.c.Close()
	c.lost(cause, text)
}

func (c *client2) quit(code h2.Code) {
	c.goAway(code)
	c.abandon(causes.UpstreamTerminated, "")
}

// leave gives the stream back before the exchange goes on without it.
func (st *stream) leave() {
	if c := st.ss.side.(*client2); st.s == nil {
		c.early = slices.DeleteFunc(c.early, func(e *stream) bool { return e == st })
	}
	st.x.up = nil
	st.x, st.code = nil, h2.Cancel
	st.release()
}

func (c *client2) EOF(*conn.Conn) { c.abandon(causes.UpstreamTerminated, "") }

func (c *client2) Closed(_ *conn.Conn, why conn.Why) {
	c.timer.Stop()
	c.Item.Closed(why)
	cause, text := why.Upstream()
	c.lost(cause, text)
}

func (c *client2) drained(st *stream) { st.x.upstreamDrained() }
func (c *client2) released()          {}
func (c *client2) due() int64         { return 0 }
func (c *client2) expired(int64)      {}

// The upstream of an exchange.

func (st *stream) cancel(*Exchange) {
	c := st.ss.side.(*client2)
	st.leave()
	c.Release()
}

// finish lets what is queued leave: that the upstream has ended its side does not mean that it has stopped reading.
func (st *stream) finish(x *Exchange) {
	if st.endMessage(nil); st.is(ended) {
		st.cancel(x)
		return
	}
	st.x, st.code = nil, h2.Cancel
	st.flags |= over
	st.ss.w.loop.Arm(&st.timer, st.ss.w.loop.Now()+int64(x.Config.unread()))
}

// negotiating waits for what TLS agrees on.
type negotiating struct {
	pool.Item
	w       *Worker
	cluster *cluster.Cluster
}

func (n *negotiating) Pooled() *pool.Item          { return &n.Item }
func (n *negotiating) Goodbye()                    {}
func (n *negotiating) Data(*conn.Conn, []byte) int { return 0 }
func (n *negotiating) EOF(c *conn.Conn)            { c.Close() }
func (n *negotiating) Drained(*conn.Conn)          {}

func (n *negotiating) Open(c *conn.Conn) {
	var m carrier = &client{w: n.w}
	if speaksHTTP2(c) {
		m = n.w.newClient2(n.cluster)
	}
	n.Become(m)
	c.SetHandler(m)
	m.Open(c)
}

func (n *negotiating) Closed(_ *conn.Conn, why conn.Why) { n.Item.Closed(why) }
