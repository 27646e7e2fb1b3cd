package http

import (
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http/h2"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/loop"
)

const (
	// streamHigh and streamLow bound what a stream keeps for a peer that does not open its window: above the one the
	// source pauses, below the other it goes on. With 100 such streams a connection holds 6 MiB.
	streamHigh = 64 << 10
	streamLow  = 16 << 10
	// sendAtOnce bounds a stream's turn; the machine cuts it into frames.
	sendAtOnce = 64 << 10
	// stuckWater is when a connection's input waits for its output. Bodies stop at conn.HighWater already; what is above
	// are answers to a peer that sends much and reads nothing. Were both marks one, two proxies that have much for each
	// other could wait for each other for ever.
	stuckWater = 2 * conn.HighWater
	// connWindow lets 64 streams of the default window stand still before the others on their connection do.
	connWindow = 16 << 20
	// tickEvery is how often a machine with something open hears the time.
	tickEvery = int64(5e9)
)

// session is what both ends of HTTP/2 have in common: a connection with its machine and streams.
type session struct {
	w      *Worker
	c      *conn.Conn
	m      h2.Machine
	side   side
	server bool
	first  *stream
	count  int
	turn   loop.TurnNode
	timer  loop.Timer
	stuck  bool // input waits for output
	sated  bool // input waits for the next turn

	idleSince int64 // 0: there are streams
	tickAt    int64 // 0: nothing to tick for
	headBy    int64 // when the peer's preface or header block must be complete; 0: none is under way
	pingAt    int64 // when to ask whether the peer is there; 0: never
	pongBy    int64 // when it must have answered; 0: it was not asked
}

// side is the server or the client of a session.
type side interface {
	conn.Handler
	event(ev h2.Event)
	drained(st *stream) // st takes bytes again
	released()          // a stream less, or the machine has moved on
	quit(h2.Code)       // end the connection with a reason for the peer
	due() int64         // when expired must be called for the side's own purposes; 0: never
	expired(now int64)
	options() *cluster.HTTP2Options
}

func (ss *session) init(w *Worker, s side, server bool) {
	ss.w, ss.side, ss.server = w, s, server
	ss.turn.Do = ss.pump
	ss.timer.Fire = ss.onTimer
}

// begin starts the clocks of a connection that is open.
func (ss *session) begin(c *conn.Conn) {
	ss.c = c
	ss.idleSince = ss.w.loop.Now()
	if p := ss.side.options().PingEvery; p > 0 {
		ss.pingAt = ss.idleSince + int64(p)
	}
	ss.arm()
}

func (ss *session) room(n int) []byte { return ss.w.room(ss.c.Out(), n) }

// full reports whether bodies must wait.
func (ss *session) full() bool { return ss.c.Buffered() > conn.HighWater }

// Data gives the machine what the peer sent.
func (ss *session) Data(c *conn.Conn, b []byte) (used int) {
	now := ss.w.loop.Now()
	for !c.Ended() {
		if c.Buffered() > stuckWater {
			ss.stuck = true
			c.Pause()
			break
		}
		out, n, ev := ss.m.Step(ss.room(h2.StepRoom), b[used:], now)
		c.SetOut(out)
		used += n
		if ev.Kind == h2.More {
			break
		}
		if ss.dispatch(ev); ss.sated {
			ss.sated = false
			c.Yield()
			break
		}
	}
	if ss.headBy != 0 {
		ss.arm()
	}
	ss.side.released()
	ss.w.loop.AtTurnEnd(&ss.turn)
	return used
}

// dispatch contains a panic: it costs the exchange in whose name it happened, not the connection.
func (ss *session) dispatch(ev h2.Event) {
	switch ev.Kind {
	case h2.None, h2.More:
		return
	case h2.Pong:
		ss.pongBy = 0
		return
	}
	var x *Exchange
	var gen uint32
	if ev.Stream != nil {
		if st, _ := ev.Stream.Owner.(*stream); st != nil && st.x != nil {
			x, gen = st.x, st.x.gen
		}
	}
	defer ss.contain(x, gen)
	ss.side.event(ev)
}

func (ss *session) contain(x *Exchange, gen uint32) {
	switch v := recover(); {
	case v == nil:
	case x == nil || x.gen != gen:
		panic(v) // the connection's own
	default:
		ss.w.loop.Recovered(v)
		x.crash()
	}
}

// pump is the turn's share of what waits in the streams.
func (ss *session) pump() {
	ss.c.Blame()
	for !ss.c.Ended() && !ss.full() {
		s := ss.m.Ready()
		if s == nil {
			return
		}
		s.Owner.(*stream).send()
	}
}

func (ss *session) Drained(c *conn.Conn) {
	if ss.stuck {
		ss.stuck = false
		c.Resume()
	}
	ss.pump()
	for st := ss.first; st != nil; {
		next := st.next
		st.drained()
		st = next
	}
}

// arm sets the timer to what is due first.
func (ss *session) arm() {
	first := ss.side.due()
	for _, at := range [...]int64{ss.tickAt, ss.headBy, ss.pingAt, ss.pongBy} {
		if at != 0 && (first == 0 || at < first) {
			first = at
		}
	}
	if first != 0 {
		ss.w.loop.Arm(&ss.timer, first)
	} else {
		ss.timer.Stop()
	}
}

// tick makes the machine hear the time for as long as it has a reason.
func (ss *session) tick() {
	if ss.tickAt == 0 {
		ss.tickAt = ss.w.loop.Now() + tickEvery
		ss.arm()
	}
}

func (ss *session) onTimer() {
	ss.c.Blame()
	now := ss.w.loop.Now()
	if ss.pongBy != 0 && now >= ss.pongBy {
		ss.side.quit(h2.NoError)
		return
	}
	if ss.pingAt != 0 && now >= ss.pingAt {
		o := ss.side.options()
		ss.c.SetOut(ss.m.Ping(ss.room(h2.ControlRoom), uint64(now)))
		ss.pongBy, ss.pingAt = now+int64(o.PingTimeout), now+int64(o.PingEvery)
	}
	if ss.headBy != 0 && now >= ss.headBy {
		ss.side.quit(h2.EnhanceYourCalm)
		return
	}
	if ss.tickAt != 0 && now >= ss.tickAt {
		ss.tickAt = 0
		if ss.count > 0 || ss.m.Draining() {
			ss.tickAt = now + tickEvery
		}
		out, ev := ss.m.Tick(ss.room(h2.StepRoom), now)
		ss.c.SetOut(out)
		ss.dispatch(ev)
	}
	if due := ss.side.due(); due != 0 && now >= due && !ss.c.Ended() {
		ss.side.expired(now)
	}
	if ss.side.released(); !ss.c.Ended() {
		ss.w.loop.AtTurnEnd(&ss.turn)
		ss.arm()
	}
}

// goAway tells the peer why the connection is about to be closed.
func (ss *session) goAway(code h2.Code) {
	ss.c.SetOut(ss.m.Close(ss.room(h2.ControlRoom), code))
}

// stream is one exchange on an HTTP/2 connection: the downstream of a request that came by it, or the upstream of an attempt.
type stream struct {
	ss         *session
	s          *h2.Stream
	x          *Exchange
	next, prev *stream

	out      []byte // of the body, waiting for windows and its turn, from off on
	off      int
	trailers *message.Headers // behind out; nil: none
	flags    streamFlags
	code     h2.Code // for the peer, should it be released early
	held     int     // bytes of the peer's body whose window is not given back, because it is to pause
	timer    loop.Timer
	base     uint64 // what the kernel had taken when the request was written
}

type streamFlags uint8

const (
	ending  streamFlags = 1 << iota // our message ends behind out
	ended                           // it was written to its end
	over                            // the exchange is complete and waits for out to leave
	paused                          // the peer's body
	spoke                           // the peer has begun its response
	reused                          // the connection was used before
	heading                         // the peer's head is under way
)

func (st *stream) is(f streamFlags) bool { return st.flags&f != 0 }

// newStream adds a stream to the session.
func (ss *session) newStream() *stream {
	st, ok := ss.w.streams.Get()
	if !ok {
		st = &stream{}
		st.timer.Fire = st.expired
	}
	st.ss, st.next = ss, ss.first
	if ss.first != nil {
		ss.first.prev = st
	}
	ss.first = st
	ss.count++
	ss.idleSince = 0
	ss.tick()
	return st
}

// release gives the stream back: nothing is read or written for it any more.
func (st *stream) release() {
	ss := st.ss
	if st.s != nil {
		ss.c.SetOut(ss.m.Release(ss.room(h2.ControlRoom), st.s, st.code))
	}
	if st.prev != nil {
		st.prev.next = st.next
	} else {
		ss.first = st.next
	}
	if st.next != nil {
		st.next.prev = st.prev
	}
	st.timer.Stop()
	ss.w.loop.Buffers().Put(st.out)
	*st = stream{timer: st.timer}
	ss.w.streams.Put(st)
	if ss.count--; ss.count == 0 {
		ss.idleSince = ss.w.loop.Now()
	}
	ss.side.released()
}

func (st *stream) queued() int { return len(st.out) - st.off }

// writeData sends a part of the body, or keeps it until there is room. last says that nothing but writeEnd follows.
func (st *stream) writeData(_ *Exchange, b []byte, last bool) {
	if st.is(ending | ended) {
		return
	}
	ss := st.ss
	if st.s != nil && st.queued() == 0 && !ss.full() {
		out, n := ss.m.Data(ss.room(h2.DataRoom(len(b))), st.s, b, last)
		ss.c.SetOut(out)
		if b = b[n:]; len(b) == 0 {
			if last {
				st.flags |= ended
			}
			return
		}
	}
	if last {
		st.flags |= ending
	}
	if st.off > 0 && len(st.out)+len(b) > cap(st.out) { // who reads slowly never empties it
		st.out = st.out[:copy(st.out, st.out[st.off:])]
		st.off = 0
	}
	st.out = ss.w.loop.Buffers().Append(st.out, b)
	if st.s != nil {
		st.wait()
	}
}

// wait asks for the stream's turn.
func (st *stream) wait() {
	st.ss.m.Wait(st.s)
	st.ss.w.loop.AtTurnEnd(&st.ss.turn)
}

// endMessage ends our message, with trailers if there are any.
func (st *stream) endMessage(trailers *message.Headers) {
	if st.is(ending | ended) {
		return
	}
	if trailers != nil && trailers.Len() > 0 {
		st.trailers = trailers
	}
	st.flags |= ending
	if st.queued() == 0 && st.s != nil {
		st.writeLast()
	}
}

// writeLast writes what ends the message when nothing is queued.
func (st *stream) writeLast() {
	ss := st.ss
	st.flags |= ended
	if st.trailers != nil {
		ss.c.SetOut(ss.m.Trailers(ss.room(h2.TrailersRoom(st.trailers)), st.s, st.trailers))
		return
	}
	out, _ := ss.m.Data(ss.room(h2.DataRoom(0)), st.s, nil, true)
	ss.c.SetOut(out)
}

// send is the stream's turn.
func (st *stream) send() {
	ss := st.ss
	b := st.out[st.off:]
	last := st.is(ending) && st.trailers == nil
	if len(b) > sendAtOnce {
		b, last = b[:sendAtOnce], false
	}
	out, n := ss.m.Data(ss.room(h2.DataRoom(len(b))), st.s, b, last)
	ss.c.SetOut(out)
	st.off += n
	if st.queued() > 0 {
		if n == len(b) {
			ss.m.Wait(st.s)
		}
		if n > 0 {
			st.drained()
		}
		return
	}
	ss.w.loop.Buffers().Put(st.out)
	st.out, st.off = nil, 0
	switch {
	case last:
		st.flags |= ended
	case st.is(ending):
		st.writeLast()
	}
	if st.is(over) {
		st.conclude()
		return
	}
	st.drained()
}

// drained lets the source go on once it is worth it.
func (st *stream) drained() {
	if st.queued() <= streamLow && !st.ss.full() && st.x != nil && !st.is(over) {
		st.ss.side.drained(st)
	}
}

// received accounts for n bytes of the peer's body that were passed on.
func (st *stream) received(n int) {
	if st.is(paused) {
		st.held += n
		return
	}
	st.consumed(n)
}

func (st *stream) consumed(n int) {
	if n > 0 {
		ss := st.ss
		ss.c.SetOut(ss.m.Consumed(ss.room(h2.ControlRoom), st.s, n))
	}
}

func (st *stream) pause(*Exchange) { st.flags |= paused }

func (st *stream) resume(*Exchange) {
	st.flags &^= paused
	n := st.held
	st.held = 0
	st.consumed(n)
}

func (st *stream) full() bool { return st.queued() > streamHigh || st.ss.full() }

// Ready hears that a panic happened in the stream's name (loop.Handler); see blame.
func (st *stream) Ready(ev loop.Events) {
	if ev&loop.Panicked != 0 && st.x != nil {
		st.x.crash()
	}
}
