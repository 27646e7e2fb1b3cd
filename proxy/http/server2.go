package http

import (
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http/h2"
	"github.com/weirmesh/weir/proxy/http/message"
)

// server2 is a client's HTTP/2 connection; each of its streams is the downstream of an exchange.
type server2 struct {
	session
	front
	cfg *Config
	origin
	opened uint32 // streams so far
	ends   int64  // when the connection has served its time
	idleAt int64  // when to look whether it is idle
	// headBy is for the rest of a frame.
	partial bool
}

// preface is what a client that speaks HTTP/2 begins with (RFC 9113 section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// speaksHTTP2 reports whether TLS agreed on HTTP/2, under its own name or the mesh's.
func speaksHTTP2(c *conn.Conn) bool {
	t := c.Info().TLS
	return t != nil && (t.ALPN == "h2" || t.ALPN == "istio-h2")
}

func (w *Worker) newServer2(c *conn.Conn, cfg *Config) *server2 {
	s := &server2{cfg: cfg}
	s.init(w, s, true)
	s.c = c
	s.front.enter(w, s)
	return s
}

func (s *server2) options() *cluster.HTTP2Options { return &s.cfg.HTTP2 }

func (s *server2) Open(c *conn.Conn) {
	o := &s.cfg.HTTP2
	s.begin(c)
	s.ends = s.cfg.ends(s.w.loop)
	s.idleAt = s.idleSince + s.cfg.idle()
	s.headBy = s.idleSince + int64(s.headerTimeout())
	s.c.SetOut(s.m.StartServer(s.room(startRoom), &h2.Options{
		MaxStreams: int(o.MaxStreams), HeadBytes: s.cfg.Limits.HeadBytes, Fields: s.cfg.Limits.Fields, TableSize: o.TableSize,
		StreamWindow: o.StreamWindow, ConnWindow: windowOr(o.ConnWindow), ExtendedConnect: len(s.cfg.Upgrades) > 0, Streams: &s.w.h2streams,
	}, s.w.loop.Now()))
	s.arm()
}

// startRoom is what the beginning of a connection needs: preface, SETTINGS and WINDOW_UPDATE.
const startRoom = 256

func windowOr(n uint32) uint32 {
	if n == 0 {
		return connWindow
	}
	return n
}

func (s *server2) headerTimeout() time.Duration {
	switch t := s.cfg.HeaderTimeout; {
	case t == 0:
		return DefaultHeaderTimeout
	case t > 0:
		return t
	}
	return forEver
}

func (s *server2) event(ev h2.Event) {
	switch ev.Kind {
	case h2.Open:
		s.open(ev.Stream)
		return
	case h2.Settings:
		s.headBy = 0 // the preface is complete; no header block is under way
		return
	case h2.GoAway:
		return // it opens no more streams, and closes by itself
	case h2.Failed:
		s.lost(causes.DownstreamProtocolError, ev.Reason)
		s.c.Close()
		return
	}
	st := ev.Stream.Owner.(*stream)
	x := st.x
	switch ev.Kind {
	case h2.Head:
		s.headBy = 0
		st.flags &^= heading
		if ev.End || asksTunnel(&x.Request) {
			x.flags |= requestDone
			x.RequestEnded = s.w.loop.Now()
			if asksTunnel(&x.Request) && ev.End {
				x.flags |= clientEOF
			}
		} else if t := s.cfg.RequestTimeout; t > 0 {
			s.w.loop.Arm(&st.timer, s.w.loop.Now()+int64(t))
		}
		x.begin()
	case h2.Data:
		n := len(ev.Data)
		if n > 0 && x.awaitsTunnel() {
			st.code = h2.ProtocolError
			st.gone(causes.DownstreamProtocolError, "http2.data_before_tunnel")
			return
		}
		if n > 0 {
			x.requestData(ev.Data, ev.End && !x.is(tunnelling))
		}
		if st.x != x || st.s != ev.Stream {
			return // it is over, and the machine gives the window back
		}
		st.received(n)
		if ev.End {
			st.requestEnd()
		}
	case h2.Trailers:
		st.requestEnd()
	case h2.Refuse:
		s.headBy = 0
		x.unreadable(unreadable(ev.Reason.Status()), "http2."+ev.Reason.String(), ev.Reason.Status())
	case h2.Reset:
		s.reset(st, ev)
	}
}

func (s *server2) open(hs *h2.Stream) {
	s.share(s.w.loop)
	s.sated = s.enough(s.w.loop)
	st := s.newStream()
	st.s, hs.Owner = hs, st
	x := s.w.newExchange(st, s.cfg, s.c.Info(), &s.origin)
	st.x = x
	st.flags = heading
	hs.Request(&x.Request, &x.RequestTrailers, &x.arena)
	s.headBy, s.partial = s.w.loop.Now()+int64(s.headerTimeout()), false
	if s.opened++; s.opened == s.cfg.MaxRequests || s.w.drained[s.cfg.Direction] {
		s.drain()
	}
}

// adoptRequest makes the first stream of a request that came in HTTP/1.1, complete, with the settings of its client.
func (s *server2) adoptRequest(x *Exchange, settings []byte) {
	hs, out, r := s.m.Upgrade(s.room(h2.ControlRoom), settings, s.w.loop.Now())
	s.c.SetOut(out)
	if r != h2.OK {
		s.w.recycle(x)
		s.quit(r.Code())
		return
	}
	st := s.newStream()
	st.s, hs.Owner = hs, st
	st.x, x.down, x.origin = x, st, &s.origin
	x.flags |= requestDone
	x.RequestEnded = s.w.loop.Now()
	s.opened = 1
	if s.opened == s.cfg.MaxRequests {
		s.drain()
	}
	x.begin()
}

func (st *stream) requestEnd() {
	x := st.x
	if !st.is(over) { // else it bounds what is left of the response
		st.timer.Stop()
	}
	switch {
	case x.is(tunnelling):
		x.clientTunnelEnd()
	case x.awaitsTunnel():
		x.flags |= clientEOF
	default:
		x.requestEnd()
	}
}

// awaitsTunnel: the request is there, asks for a tunnel and is not answered.
func (x *Exchange) awaitsTunnel() bool {
	return x.flags&(requestDone|tunnelling|responded) == requestDone
}

// reset: a stream was ended by the client, or by what the client did.
func (s *server2) reset(st *stream, ev h2.Event) {
	if st.is(heading) {
		s.headBy = 0
	}
	if ev.Reason == h2.PeerReset {
		st.gone(causes.DownstreamReset, "")
	} else {
		st.gone(causes.DownstreamProtocolError, "http2."+ev.Reason.String())
	}
}

// gone ends an exchange that nobody waits for any more.
func (st *stream) gone(c causes.Cause, details string) {
	st.flags |= ending | ended
	if x := st.x; x.is(responded) || !x.is(begun) {
		st.conclude()
	} else {
		x.clientGone(c, details)
	}
}

// lost ends all exchanges: the client is gone, or has lost its senses.
func (s *server2) lost(c causes.Cause, why h2.Reason) {
	details := ""
	if c == causes.DownstreamProtocolError {
		details = "http2." + why.String()
	}
	for st := s.first; st != nil; st = s.first {
		st.gone(c, details)
	}
}

// EOF: a client that closes its side is taken to be gone, as with HTTP/1.1.
func (s *server2) EOF(c *conn.Conn) {
	s.lost(causes.DownstreamDisconnected, h2.OK)
	c.Close()
}

func (s *server2) Closed(_ *conn.Conn, why conn.Why) {
	c := causes.DownstreamDisconnected
	if why.Kind == conn.Panicked {
		c = causes.InternalError
	}
	s.lost(c, h2.OK)
	s.timer.Stop()
	s.front.exit(s.w)
}

func (s *server2) drained(st *stream) { st.x.downstreamDrained() }

// released closes the connection when nothing is open and no more is to come.
func (s *server2) released() {
	if s.count == 0 && s.m.Closing() && !s.c.Ended() {
		s.c.Close()
	}
}

func (s *server2) due() int64 {
	return min(s.ends, s.idleAt)
}

func (s *server2) expired(now int64) {
	if now >= s.ends {
		s.ends = forEver
		s.drain()
	}
	switch {
	case now < s.idleAt:
	case s.idleSince == 0:
		s.idleAt = now + s.cfg.idle()
	case now >= s.idleSince+s.cfg.idle():
		s.quit(h2.NoError)
	default:
		s.idleAt = s.idleSince + s.cfg.idle()
	}
}

func (s *server2) quit(code h2.Code) {
	s.goAway(code)
	s.lost(causes.DownstreamDisconnected, h2.OK)
	s.c.Close()
}

// Data reads nothing from who may not stay before leave has drawn the line.
func (s *server2) Data(c *conn.Conn, b []byte) (used int) {
	if s.until != 0 {
		s.leave()
	}
	used = s.session.Data(c, b)
	s.awaitFrame(used, used < len(b) && !s.stuck)
	return used
}

// awaitFrame bounds the wait for the rest of a frame as that for the rest of a head: who sends half a frame must not make
// us keep it for as long as a connection may be idle.
func (s *server2) awaitFrame(used int, partial bool) {
	switch {
	case !partial:
		if s.partial {
			s.partial, s.headBy = false, 0
		}
	case s.headBy == 0 || s.partial && used > 0:
		s.partial, s.headBy = true, s.w.loop.Now()+int64(s.headerTimeout())
		s.arm()
	}
}

func (s *server2) adopt(next func(*Config, *conn.Info) *Config, grace int64) bool {
	cfg := next(s.cfg, s.c.Info())
	if cfg == nil || cfg == s.cfg {
		return cfg != nil
	}
	s.cfg = cfg
	for st := s.first; st != nil; st = st.next {
		if st.x != nil && st.x.is(begun) {
			st.x.judgeAgain(cfg, grace)
		}
	}
	return true
}

// leave takes no stream that was not opened until now, unlike drain: the client knows that those were not touched.
func (s *server2) leave() {
	if s.c.Blame(); !s.m.Closing() {
		s.goAway(h2.NoError)
	}
	s.released()
}

func (s *server2) cut(c causes.Cause) {
	s.c.Blame()
	for st := s.first; st != nil; st = s.first {
		st.code = h2.Cancel
		st.gone(c, "")
	}
	s.c.Close()
}

func (s *server2) touch() {
	for st := s.first; st != nil; st = st.next {
		if st.x != nil {
			st.x.use()
		}
	}
}

func (s *server2) direction() Direction { return s.cfg.Direction }

// drain asks the client to open no more streams.
func (s *server2) drain() {
	if !s.m.Draining() {
		s.c.SetOut(s.m.Drain(s.room(h2.ControlRoom), s.w.loop.Now()))
		s.tick()
	}
}

func (s *server2) closeIdle(since int64) {
	if s.count == 0 && s.idleSince <= since {
		s.quit(h2.NoError)
	}
}

// The downstream of an exchange.

func (st *stream) writeInterim(x *Exchange) { st.response(&x.Response) }

func (st *stream) writeHead(x *Exchange) {
	if st.is(ended) {
		return
	}
	st.response(&x.Response)
	if x.Response.NoBody {
		st.flags |= ending | ended
	}
}

func (st *stream) response(p *message.Response) {
	ss := st.ss
	ss.c.SetOut(ss.m.Response(ss.room(h2.ResponseRoom(p)), st.s, p))
}

func (st *stream) askBody(*Exchange) {
	p := &st.ss.w.goOn
	p.Status = 100
	st.response(p)
}

func (st *stream) writeEnd(x *Exchange) {
	switch {
	case st.ss.server:
		st.endMessage(x.trailersToSend())
	case x.is(tunnelling): // has none (RFC 9113 section 8.5)
		st.endMessage(nil)
	default:
		st.endMessage(&x.RequestTrailers)
	}
}

func (st *stream) abort(*Exchange) {
	st.flags |= ending | ended
	st.out, st.off = st.out[:0], 0
	if st.code == h2.NoError {
		st.code = h2.InternalError
	}
}

func (st *stream) blame() { st.ss.w.loop.Blame(st) }

func (st *stream) remembers() *Memory {
	switch s := st.ss.side.(type) {
	case *server2:
		return &s.memory
	case *client2:
		return &s.memory
	}
	return nil
}

func (st *stream) tunnel(*Exchange) {}

// endTunnel: the upstream of a tunnel half-closed.
func (st *stream) endTunnel(x *Exchange) { st.endMessage(x.trailersToSend()) }

// done is called when the exchange is over. It stays until what is queued has left.
func (st *stream) done(x *Exchange) {
	if st.x != x {
		return
	}
	st.endMessage(x.trailersToSend()) // of a tunnel: of anything else it is written
	if st.is(ended) {
		st.conclude()
		return
	}
	st.flags |= over
	// The client may never open its window.
	st.ss.w.loop.Arm(&st.timer, st.ss.w.loop.Now()+int64(x.Config.unread()))
}

// conclude forgets the exchange and its stream.
func (st *stream) conclude() {
	if c, ok := st.ss.side.(*client2); ok {
		st.release()
		c.Release()
		return
	}
	x, w := st.x, st.ss.w
	st.x = nil
	st.release()
	w.recycle(x)
}

// expired: the request did not come in time, or what is left of the response did not leave.
func (st *stream) expired() {
	st.blame()
	switch x := st.x; {
	case st.is(over):
		st.abort(x)
		st.code = h2.Cancel
		st.conclude()
	case x == nil:
	case !x.is(responded):
		x.Reply(causes.RequestTimeout)
	}
}
