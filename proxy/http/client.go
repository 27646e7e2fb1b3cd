package http

import (
	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/cluster/pool"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http/h1"
	"github.com/weirmesh/weir/proxy/http/message"
)

// client is an HTTP/1.1 connection to an endpoint, a member of the pool.
type client struct {
	pool.Item
	w      *Worker
	x      *Exchange // whose request it carries
	dec    h1.Decoder
	enc    h1.Encoder
	base   uint64 // what the kernel had taken when the request began
	silent bool   // nothing of the response has come
	sent   bool   // the request is written to its end
	final  bool   // the last request of the connection
	memory Memory
}

// carrier is a Member that carries exchanges.
type carrier interface {
	pool.Member
	serve(x *Exchange) // it was lent for x's request
}

// newClient makes the handler of a connection that is about to be dialled; see pool.Options.
func (w *Worker) newClient(c *cluster.Cluster, p cluster.Protocol) (pool.Member, uint32) {
	switch p {
	case cluster.HTTP2:
		return w.newClient2(c), streamsOf(c)
	case cluster.Negotiated:
		return &negotiating{w: w, cluster: c}, 0
	case cluster.Raw:
		return &raw{w: w}, 1
	default:
		return &client{w: w}, 1
	}
}

func (c *client) Pooled() *pool.Item { return &c.Item }
func (c *client) Goodbye()           {}
func (c *client) Open(*conn.Conn)    { c.Item.Opened(1) }

// serve carries x's request: c was lent for it.
func (c *client) serve(x *Exchange) {
	c.x, x.up = x, c
	c.base, c.silent, c.sent, c.final = c.Conn.Sent(), true, false, c.Last()
	x.lent(&c.Item)
	x.UpstreamHTTP = message.HTTP11
	c.dec.StartResponse(&x.Response, &x.ResponseTrailers, &x.arena, x.Cluster.ResponseLimits, &x.Cluster.HTTP1, &x.Request)
	c.enc.Names = x.Cluster.HTTP1.Names
	x.showWebSocketKey()
	out := c.w.room(c.Conn.Out(), h1.RequestRoom(&x.Request))
	c.Conn.SetOut(c.enc.Request(out, &x.Request, c.final))
	if len(x.body) > 0 {
		c.writeData(x, x.body, false)
	}
	if len(x.body) > replayLimit || x.retry == nil && x.follows() == nil && !c.Reused() {
		x.dropBody()
	}
	if x.is(requestDone) {
		c.writeEnd(x)
	} else if !c.full() {
		x.unpauseDown()
	}
}

// Types of TLS records with which an endpoint answers plaintext (RFC 8446, 5.1).
const alertRecord, handshakeRecord = 21, 22

// Data reads the response.
func (c *client) Data(cc *conn.Conn, b []byte) (used int) {
	x := c.x
	if x == nil {
		// Nobody asked: an idle connection must be silent.
		cc.Close()
		return len(b)
	}
	if c.silent && c.Reused() && c.Conn.Sent() == c.base {
		// It answers what it was not asked yet: to take that for the answer would shift all further ones.
		c.x = nil
		c.Discard(true)
		x.upstreamFailed(causes.UpstreamTerminated, "", true, true, true)
		return len(b)
	}
	c.silent = false
	for !cc.Paused() || c.dec.Whole() { // else who pauses at the last byte waits for another one
		n, data, ev := c.dec.Step(b[used:])
		used += n
		switch ev {
		case h1.More:
			return used
		case h1.Head:
			if !x.responseHead() || c.x != x {
				return len(b)
			}
			if x.Response.Status < 200 && x.Response.Status != 101 {
				x.Response.Reset()
			}
		case h1.Data:
			x.responseData(data, int64(x.Sent)+int64(len(data)) == x.Response.ContentLength)
			if c.x != x {
				return len(b)
			}
		case h1.End:
			// Bytes behind the response belong to no request: the peer and we disagree.
			reuse := c.dec.KeepAlive() && c.sent && !c.final && used == len(b)
			c.end(x, reuse)
			return len(b)
		case h1.Failed:
			reason := c.dec.Reason()
			c.x = nil
			c.Discard(true)
			text := "http1." + reason.String()
			// The first byte tells, however the answer was cut: none of a status line is a control character.
			if x.Response.Status == 0 && len(b) > 0 && (b[0] == alertRecord || b[0] == handshakeRecord) {
				text = "http1.answer_in_TLS"
			}
			x.upstreamFailed(causes.UpstreamProtocolError, text, false, false, false)
			return len(b)
		}
	}
	return used
}

// end hands the complete response over and gives the connection back.
func (c *client) end(x *Exchange, reuse bool) {
	c.x = nil
	x.responseEnd() // x may be in use for another request now
	if reuse {
		c.Conn.Resume()
		c.Release()
	} else {
		c.Discard(false)
	}
}

func (c *client) EOF(cc *conn.Conn) {
	x := c.x
	if x == nil {
		cc.Close()
		return
	}
	ev := c.dec.EOF()
	switch t := cc.Info().TLS; {
	case ev == h1.End && x.is(tunnelling):
		x.upstreamTunnelEnd()
	case ev == h1.End && (t == nil || !t.Truncated): // without close_notify it may not be the end (RFC 8446 section 6.1)
		c.end(x, false)
	default:
		c.x = nil
		untouched, reused := c.Conn.Sent() == c.base, c.Reused()
		c.Discard(true)
		x.upstreamFailed(causes.UpstreamTerminated, "", untouched, c.silent, reused)
	}
}

func (c *client) Drained(*conn.Conn) {
	if c.x != nil {
		c.x.upstreamDrained()
	}
}

func (c *client) Closed(_ *conn.Conn, why conn.Why) {
	x := c.x
	c.x = nil
	c.Item.Closed(why)
	if x != nil {
		cause, text := why.Upstream()
		x.upstreamFailed(cause, text, c.Conn.Sent() == c.base, c.silent, c.Reused())
	}
}

// The upstream of an exchange.

func (c *client) writeData(_ *Exchange, b []byte, _ bool) { c.w.writeBody(c.Conn, &c.enc, b) }

func (c *client) writeEnd(x *Exchange) {
	c.sent = true
	if x.is(tunnelling) {
		c.Conn.CloseWrite()
		return
	}
	c.w.writeEnd(c.Conn, &c.enc, &x.RequestTrailers)
}

func (c *client) remembers() *Memory { return &c.memory }

func (c *client) tunnel(*Exchange) { c.enc.Tunnel() }

func (c *client) cancel(*Exchange) {
	c.x = nil
	c.Discard(true)
}

func (c *client) finish(*Exchange) {
	c.x = nil
	c.Discard(false)
}

func (c *client) pause(*Exchange)  { c.Conn.Pause() }
func (c *client) resume(*Exchange) { c.Conn.Resume() }
func (c *client) full() bool       { return c.Conn.Buffered() > conn.HighWater }

// writeBody writes a part of a body with its framing. Without chunks there is nothing to add, and large parts reach the
// kernel without a copy.
func (w *Worker) writeBody(c *conn.Conn, e *h1.Encoder, b []byte) {
	if len(b) == 0 {
		return // as a chunk it would end the body
	}
	if !e.Chunked() {
		if _, ok := e.Prefix(nil, len(b)); ok {
			c.Write(b)
		}
		return
	}
	out, _ := e.Prefix(w.room(c.Out(), 18), len(b))
	c.SetOut(out)
	c.Write(b)
	c.SetOut(e.Suffix(w.room(c.Out(), 2)))
}

// writeEnd ends a message; it reports false if the peer can only tell by the end of the connection, or not at all.
func (w *Worker) writeEnd(c *conn.Conn, e *h1.Encoder, trailers *message.Headers) bool {
	if !e.Chunked() {
		_, complete := e.End(nil, nil)
		return complete
	}
	out, complete := e.End(w.room(c.Out(), h1.TrailersRoom(trailers)), trailers)
	c.SetOut(out)
	return complete
}
