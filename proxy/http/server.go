package http

import (
	"bytes"
	"encoding/base64"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http/h1"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/observe"
)

// discardLimit is how much of a request body is read and thrown away after an early response, to keep the connection.
const discardLimit = 64 << 10

// server is a client's HTTP/1.1 connection. Between requests it holds nothing but itself.
type server struct {
	front
	w   *Worker
	c   *conn.Conn
	cfg *Config
	origin
	x      *Exchange // being read or answered
	*codec           // of x
	keep   bool      // another request may follow the one being answered
	busy   bool      // Data is under way
	late   bool      // at is a deadline
	stuck  bool      // the next request waits for answers that the client does not take

	served uint32
	timer  loop.Timer
	at     int64 // the deadline of the request head, or of the whole request; else since when the connection is idle
	ends   int64 // when the connection has served its time
}

// codec is what a server needs while it has an exchange.
type codec struct {
	dec h1.Decoder
	enc h1.Encoder
}

// origin is what requests of one client connection have in common and is worth keeping from one to the next.
type origin struct {
	xfcc   []byte         // the client's element of x-forwarded-client-cert
	parts  ClientCertPart // in xfcc
	memory Memory
}

// Memory is what the peer metadata filter remembers of a connection, client's or upstream's.
type Memory struct {
	Hash uint64 // of the last metadata
	Peer *observe.Peer
}

// Serve makes the server of an accepted connection: of HTTP/2 where TLS has agreed on it, else of HTTP/1.1, which gives way
// to the other when the client begins with its preface. The caller hands the connection over to it.
func (w *Worker) Serve(c *conn.Conn, cfg *Config) conn.Handler {
	if cfg.Codec == HTTP2Codec || cfg.Codec == AutoCodec && speaksHTTP2(c) {
		return w.newServer2(c, cfg)
	}
	s := &server{w: w, c: c, cfg: cfg}
	s.front.enter(w, s)
	s.timer.Fire = s.expired
	s.at = w.loop.Now()
	s.ends = cfg.ends(w.loop)
	w.loop.Arm(&s.timer, min(s.at+cfg.idle(), s.ends))
	return s
}

func (s *server) Open(*conn.Conn) {}

// Data reads requests, one after the other: the next one when the one before is answered.
func (s *server) Data(c *conn.Conn, b []byte) (used int) {
	if s.until != 0 && s.x == nil {
		c.Close()
		return 0
	}
	if s.served == 0 && s.x == nil && s.cfg.Codec == AutoCodec && b[0] == 'P' {
		switch n := min(len(b), len(preface)); {
		case string(b[:n]) != preface[:n]:
		case n < len(preface):
			s.awaitHead()
			return 0
		default:
			return s.giveWay(b)
		}
	}
	s.busy = true
	for !c.Ended() && (!c.Paused() || s.x != nil && s.dec.Whole()) { // else who pauses at the last byte waits for another one
		x := s.x
		if x == nil {
			if used == len(b) {
				break
			}
			if s.full() { // answers too small to be held back are many by now
				s.stuck = true
				c.Pause()
				s.limit(s.cfg.unread())
				break
			}
			if s.enough(s.w.loop) {
				c.Yield()
				break
			}
			s.share(s.w.loop)
			x = s.accept()
		} else if x.is(requestDone) && !x.is(tunnelling) {
			break
		}
		n, data, ev := s.dec.Step(b[used:])
		used += n
		if ev == h1.More {
			s.await(x)
			break
		}
		switch ev {
		case h1.Head:
			s.late = false
			if to := s.upgrade(x); to != nil {
				return used + to.Data(c, b[used:])
			}
			s.head(x)
		case h1.Data:
			x.requestData(data, s.last(x, data))
		case h1.End:
			s.late = false
			x.requestEnd()
			if x.is(responded) && s.x == x {
				s.done(x)
			}
		case h1.Failed:
			s.refuse(x)
		}
	}
	s.busy = false
	return used
}

// giveWay hands the connection to the server of HTTP/2: its client speaks that.
func (s *server) giveWay(b []byte) (used int) {
	s.timer.Stop()
	s.front.exit(s.w)
	to := s.w.newServer2(s.c, s.cfg)
	s.c.SetHandler(to)
	to.Open(s.c)
	return to.Data(s.c, b)
}

var switching = []byte("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")

// upgrade hands the connection, and a request that asks for that (RFC 7540 section 3.2), to the server of HTTP/2; nil: it
// goes on as it is.
func (s *server) upgrade(x *Exchange) *server2 {
	text, ok := s.dec.AsksHTTP2()
	if !ok || s.cfg.Codec != AutoCodec || s.c.Info().TLS != nil || s.until != 0 || s.w.drained[s.cfg.Direction] {
		return nil
	}
	var buf [256]byte
	text = bytes.TrimRight(text, "=") // which it should not have
	if base64.RawURLEncoding.DecodedLen(len(text)) > len(buf) {
		return nil
	}
	n, err := base64.RawURLEncoding.Decode(buf[:], text)
	if err != nil || n%6 != 0 {
		return nil
	}
	s.timer.Stop()
	s.front.exit(s.w)
	s.w.codecs.Put(s.codec)
	s.x, s.codec = nil, nil
	s.c.Write(switching)
	to := s.w.newServer2(s.c, s.cfg)
	s.c.SetHandler(to)
	to.Open(s.c)
	to.adoptRequest(x, buf[:n])
	return to
}

func (s *server) accept() *Exchange {
	x := s.w.newExchange(s, s.cfg, s.c.Info(), &s.origin)
	s.codec = s.w.newCodec()
	s.dec.StartRequest(&x.Request, &x.RequestTrailers, &x.arena, s.cfg.Limits, &s.cfg.HTTP1)
	s.enc.Names = s.cfg.HTTP1.Names
	s.x = x
	return x
}

// last reports whether data is the end of the request: nothing follows a body of known length.
func (s *server) last(x *Exchange, data []byte) bool {
	return int64(x.Received)+int64(len(data)) == x.Request.ContentLength
}

func (s *server) head(x *Exchange) {
	if x.Request.NoBody {
		s.dec.Step(nil) // End
		x.flags |= requestDone
		x.RequestEnded = s.w.loop.Now()
	} else if t := s.cfg.RequestTimeout; t > 0 {
		s.limit(t)
	}
	x.begin()
}

// await bounds the wait for the rest of a request head.
func (s *server) await(x *Exchange) {
	if !x.is(begun) {
		s.awaitHead()
	}
}

func (s *server) awaitHead() {
	if s.late {
		return
	}
	t := s.cfg.HeaderTimeout
	if t == 0 {
		t = DefaultHeaderTimeout
	}
	if t > 0 {
		s.limit(t)
	}
}

func (s *server) limit(t time.Duration) {
	s.at, s.late = s.w.loop.Now()+int64(t), true
	s.rearm()
}

// rearm lets expired look again when something may be due. Arming for every request would cost more than looking now and then.
func (s *server) rearm() {
	now := s.w.loop.Now()
	at := now + s.cfg.idle()
	switch {
	case s.late:
		at = min(at, s.at) // when the deadline was met, the connection is idle from then on
	case s.x == nil:
		at = s.at + s.cfg.idle()
	}
	if s.ends > now {
		at = min(at, s.ends)
	}
	s.w.loop.Arm(&s.timer, at)
}

// expired serves several purposes, whichever is due: idle connection, slow head, slow request, age.
func (s *server) expired() {
	s.c.Blame()
	now := s.w.loop.Now()
	switch x := s.x; {
	case x == nil && s.late && now >= s.at: // in the middle of a preface of HTTP/2, or stuck
		s.c.Close()
		return
	case x == nil:
		if now < s.at+s.cfg.idle() && (now < s.ends || s.cfg.SafeMaxDuration) {
			break
		}
		s.c.Close()
		return
	case s.late && now >= s.at && !x.is(begun):
		x.unreadable(causes.RequestHeaderTimeout, "", causes.RequestHeaderTimeout.Status())
		return
	case s.late && now >= s.at && !x.is(responded):
		x.Reply(causes.RequestTimeout)
		return
	case s.late && now >= s.at: // discarding
		s.c.Close()
		return
	}
	s.rearm()
}

// refuse answers what is not a valid request.
func (s *server) refuse(x *Exchange) {
	r := s.dec.Reason()
	if x.is(begun) { // the body is broken
		s.keep = false
		switch {
		case x.is(responded):
			s.c.Close()
		default:
			x.Details = "http1." + r.String()
			x.ReplyWith(causes.DownstreamProtocolError, r.Status(), x.arena.CopyString(causes.DownstreamProtocolError.Body()))
		}
		return
	}
	switch r {
	case h1.MissingHost:
		x.unreadable(causes.MissingHost, "", r.Status())
		return
	case h1.LowVersion:
		x.unreadable(causes.LowVersion, "", r.Status())
		return
	}
	x.unreadable(unreadable(r.Status()), "http1."+r.String(), r.Status())
}

// unreadable is why a request that is answered with status is not taken.
func unreadable(status int) causes.Cause {
	if status == causes.RequestHeadTooLarge.Status() {
		return causes.RequestHeadTooLarge
	}
	return causes.DownstreamProtocolError
}

// EOF: a client that closes its side is taken to be gone, as Envoy does: work for it ends.
func (s *server) EOF(c *conn.Conn) {
	x := s.x
	switch {
	case x == nil:
		c.Close()
	case x.is(tunnelling):
		x.clientTunnelEnd()
	default:
		s.gone(causes.DownstreamDisconnected)
		c.Close()
	}
}

// gone ends the exchange of a client that went away.
func (s *server) gone(c causes.Cause) {
	x := s.x
	if x == nil {
		return
	}
	s.x = nil
	if x.is(begun) && !x.is(responded) {
		x.clientGone(c, "") // done finds that the exchange is not ours any more
	}
	s.release(x)
}

func (s *server) Drained(c *conn.Conn) {
	if s.stuck {
		s.stuck, s.late = false, false
		s.at = s.w.loop.Now()
		c.Resume()
	}
	if s.x != nil {
		s.x.downstreamDrained()
	}
}

func (s *server) Closed(_ *conn.Conn, why conn.Why) {
	c := causes.DownstreamDisconnected
	if why.Kind == conn.Panicked {
		c = causes.InternalError
	}
	s.gone(c)
	s.timer.Stop()
	s.front.exit(s.w)
}

func (s *server) touch() {
	if s.x != nil {
		s.x.use()
	}
}

func (s *server) direction() Direction { return s.cfg.Direction }

func (s *server) drain() {} // the next response says so

func (s *server) closeIdle(since int64) {
	if s.x == nil && s.at <= since {
		s.c.Close()
	}
}

func (s *server) adopt(next func(*Config, *conn.Info) *Config, grace int64) bool {
	cfg := next(s.cfg, s.c.Info())
	if cfg == nil || cfg == s.cfg {
		return cfg != nil
	}
	if s.cfg = cfg; s.x != nil && s.x.is(begun) {
		s.x.judgeAgain(cfg, grace)
	}
	return true
}

// leave: the response to a request that was read is the last, and says so if it has not begun.
func (s *server) leave() {
	if s.x != nil && s.x.is(begun) {
		s.keep = false
		return
	}
	s.cut(causes.NoCause)
}

func (s *server) cut(c causes.Cause) {
	s.c.Blame()
	endless := s.x != nil && s.x.is(headSent) && s.enc.UntilClose()
	if s.gone(c); endless {
		s.c.Reset() // as abort
		return
	}
	s.c.Close()
}

// The downstream of an exchange.

func (s *server) writeInterim(x *Exchange) {
	out := s.w.room(s.c.Out(), h1.ResponseRoom(&x.Response))
	s.c.SetOut(s.enc.Response(out, &x.Response, &x.Request, true))
}

func (s *server) askBody(*Exchange) {
	s.c.Write(continueHead)
}

var continueHead = []byte("HTTP/1.1 100 Continue\r\n\r\n")

func (s *server) writeHead(x *Exchange) {
	s.keep = s.dec.KeepAlive() && !s.w.drained[s.cfg.Direction] && s.until == 0 && x.Response.Status != 101 && s.w.loop.Now() < s.ends &&
		// What follows a CONNECT was meant for a tunnel, and must not be read as a request.
		x.Request.Method != message.CONNECT &&
		(s.cfg.MaxRequests == 0 || s.served+1 < s.cfg.MaxRequests) &&
		// A local reply while the client still sends: can the rest be read and thrown away, and will it come?
		(x.is(requestDone) || x.up != nil || s.discardable(x) && x.Cause != causes.RequestTimeout && x.Cause != causes.StreamIdleTimeout)
	out := s.w.room(s.c.Out(), h1.ResponseRoom(&x.Response))
	s.c.SetOut(s.enc.Response(out, &x.Response, &x.Request, s.keep))
}

// discardable reports whether the rest of the request is known to be small and on its way.
func (s *server) discardable(x *Exchange) bool {
	q := &x.Request
	return q.ContentLength != message.Unknown && q.ContentLength-int64(x.Received) <= discardLimit && !q.Continue
}

func (s *server) writeData(_ *Exchange, b []byte, _ bool) { s.w.writeBody(s.c, &s.enc, b) }

func (s *server) writeEnd(x *Exchange) {
	if !s.w.writeEnd(s.c, &s.enc, x.trailersToSend()) {
		s.keep = false
	}
}

func (s *server) abort(*Exchange) {
	s.keep = false
	if s.enc.UntilClose() {
		s.c.Reset() // an orderly end would look like the end of the response
	} else {
		s.c.Close()
	}
}

func (s *server) blame()             { s.c.Blame() }
func (s *server) remembers() *Memory { return &s.memory }

func (s *server) tunnel(x *Exchange) {
	s.dec.Tunnel()
	s.c.Kick()
}

func (s *server) endTunnel(*Exchange) { s.c.CloseWrite() }

func (s *server) pause(*Exchange)  { s.c.Pause() }
func (s *server) resume(*Exchange) { s.c.Resume() }
func (s *server) full() bool       { return s.c.Buffered() > conn.HighWater }

// done is called when the exchange is over, and again when the rest of its request was read.
func (s *server) done(x *Exchange) {
	if s.x != x {
		return // the client is gone
	}
	if !s.c.Ended() && s.keep && !x.is(requestDone) {
		if s.discardable(x) {
			x.unpauseDown()
			s.limit(DefaultHeaderTimeout)
			return
		}
		s.keep = false
	}
	x.unpauseDown()
	s.x = nil
	s.release(x)
	if !s.keep {
		s.c.Close()
		return
	}
	s.served++
	s.late = false
	s.at = s.w.loop.Now()
	if !s.busy && s.c.Kept() > 0 {
		s.c.Kick()
	}
}

func (s *server) release(x *Exchange) {
	s.w.codecs.Put(s.codec)
	s.codec = nil
	s.w.recycle(x)
}
