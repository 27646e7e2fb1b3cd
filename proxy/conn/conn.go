// Package conn is one connection: a socket on a loop, its output and kept input,
// back-pressure, half-close and the ways it can end.
//
// What enters: bytes and events of the peer, through the loop; Write, Close and
// the like from the owner. What leaves: calls to the owner's Handler. All of it
// happens on the loop's thread; a Conn has no lock and must not be touched from
// another goroutine.
//
// No method of Conn calls the Handler: every callback comes from the loop, so an
// owner is never re-entered while it is in the middle of something.
//
// An idle connection owns no buffer. Reading uses the loop's scratch buffer; only
// bytes that the handler did not use, and bytes that the peer did not take yet,
// are held, in buffers of the loop's pool.
//
// With TLS (Target.TLS, StartTLS) all of this means plaintext: the handshake runs on a
// goroutine, records are opened and sealed on the loop.
package conn

import (
	"net/netip"
	"syscall"
	"time"

	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/tls"
)

// HighWater and LowWater bound the output kept for a peer that reads slowly. The
// owner stops producing when Buffered exceeds HighWater and goes on at Drained.
// 256 KiB is more than a bandwidth-delay product of 1 Gbit/s × 2 ms; a quarter
// of it is still enough to keep the peer busy while the source starts again.
const (
	HighWater = 256 << 10
	LowWater  = 64 << 10
)

const (
	// readsPerTurn bounds what one connection may read (4 × 64 KiB) before others
	// get their turn, however often it is resumed in one.
	readsPerTurn = 4
	// directWrite is the size from which a write goes to the kernel at once instead
	// of through the output buffer: copying 16 KiB costs about what a call does.
	directWrite = 16 << 10
	// Linger is how long Close waits for an accepted connection's peer to finish.
	// Closing a socket with unread input sends RST, which can destroy the last
	// response on its way (RFC 9112, section 9.6).
	Linger = time.Second
	// flushLimit is how long Close goes on offering output to a peer that takes nothing.
	flushLimit = 10 * time.Second
)

// Handler is the owner of a connection.
type Handler interface {
	// Open: the connection can be used; dialled ones are connected, and where TLS
	// is used the handshake is done. Writing is allowed before, too. Called once.
	Open(c *Conn)
	// Data shows input and returns how much of it was used. b is valid during the
	// call only. What is not used is kept, at most loop.ScratchSize bytes of it,
	// and shown again with more behind it, or at Kick or Resume. Once that much is
	// kept, nothing is read until a call of Kick or Resume gets some of it used.
	Data(c *Conn, b []byte) (used int)
	// EOF: the peer will send no more (FIN, or close_notify), and everything was
	// shown, as often as Yield, Kick and Resume asked for. Kept bytes can still be
	// asked for by Kick. Writing goes on; the connection closes by itself once
	// CloseWrite is done too. Called at most once.
	EOF(c *Conn)
	// Drained: Buffered fell to LowWater or less after having been above HighWater.
	Drained(c *Conn)
	// Closed is the last call, exactly once for every connection, whoever ended it.
	// The socket is closed and Buffered is zero.
	Closed(c *Conn, why Why)
}

// Info is what is known about a connection. It belongs to the Conn.
type Info struct {
	Local, Remote netip.AddrPort // invalid where the socket is a Unix one
	// Original is where the client wanted to connect, before capture redirected it.
	Original netip.AddrPort
	// Direct is who connected, where a PROXY protocol header said on whose behalf: that is
	// in Remote then. nil otherwise: few connections have one, and every idle one pays.
	Direct *netip.AddrPort
	// OriginalSource, where set, has connections made for this one carry its client's address.
	OriginalSource *OriginalSource
	// ServerName is the SNI of a ClientHello that was looked at, in lower case, whoever
	// terminates the TLS.
	ServerName string
	// TLS is what the handshake established; nil on a plaintext connection.
	TLS *tls.Peer
	// Holder, where set, is told once when the socket of the connection is closed: whoever
	// counts connections.
	Holder Holder
}

// OriginalSource says how a connection takes on a client's address: with IP_TRANSPARENT,
// which needs privileges, and under a packet mark that brings the answers back (TPROXY).
type OriginalSource struct {
	Mark uint32
	Port bool // and its port, which must be free then
}

// Source is the local address of connections that carry the client's; invalid: any.
func (i *Info) Source() netip.AddrPort {
	switch s := i.OriginalSource; {
	case s == nil || !i.Remote.IsValid():
		return netip.AddrPort{}
	case s.Port:
		return i.Remote
	}
	return netip.AddrPortFrom(i.Remote.Addr(), 0)
}

// Asked is the address that the client connected to, as it sees it.
func (i *Info) Asked() netip.AddrPort {
	if i.Original.IsValid() {
		return i.Original
	}
	return i.Local
}

// Holder counts open connections.
type Holder interface{ Release() }

// Conn is one connection.
type Conn struct {
	l     *loop.Loop
	h     Handler
	fd    int
	token loop.Token
	state state
	left  int32 // while aborting: what had not arrived the last time,
	asked uint8 // and how often that was the same
	reads uint8 // how often it was read from in the turn
	turn  uint16

	in     []byte // input shown and not used
	out    []byte // output not yet sent, from outOff on
	outOff int

	timer loop.Timer    // connect timeout, later the limits of Close
	work  loop.TurnNode // Open, showing kept input, reading on, Closed
	flush loop.TurnNode
	dial  *dialing // until connected
	tls   *secured // nil: plaintext

	splice *splice // input goes to another connection
	source *Conn   // whose splice goes here

	why      *Why // nil: it goes on
	received uint64
	sent     uint64
	info     Info
}

type state uint32

const (
	connecting  state = 1 << iota
	handshaking       // the socket is connected, TLS is not
	open              // Open was called
	paused
	unread     // the kernel may hold input we stopped reading
	hungUp     // the end of input is near: read until it shows
	eof        // the peer half-closed
	eofShown   // the handler knows
	kick       // show the kept bytes
	showing    // Data is being called
	blocked    // the kernel takes no output until the next Writable
	high       // Buffered was above HighWater; Drained is owed
	closeWrite // half-close once the output is flushed
	finSent
	closing  // Close was called: flush, linger, then end
	aborting // Abort was called: closing, and RST instead of FIN
	dead     // the socket is closed; Closed is owed or was called
	told     // Closed was called
	dialled  // we are the client
)

func (c *Conn) is(s state) bool { return c.state&s != 0 }

// Accept makes a connection of an accepted socket, which it owns from now on.
// h.Open is called at the end of this turn. TCP_NODELAY and keepalive are
// inherited from the listening socket and not set here.
func Accept(l *loop.Loop, fd int, info Info, h Handler) *Conn {
	c := newConn(l, h)
	c.info = info
	c.adopt(fd)
	l.AtTurnEnd(&c.work)
	return c
}

func newConn(l *loop.Loop, h Handler) *Conn {
	c := &Conn{l: l, h: h, fd: -1}
	c.work.Do = c.doWork
	c.flush.Do = c.doFlush
	return c
}

func (c *Conn) adopt(fd int) {
	c.fd = fd
	token, err := c.l.Register(fd, (*ready)(c))
	if err != nil {
		c.fail(Why{Kind: SocketFailed, Err: err})
		return
	}
	c.token = token
}

// Loop is the loop the connection lives on.
func (c *Conn) Loop() *loop.Loop { return c.l }

// Info describes the connection; the caller may fill in what it learns.
func (c *Conn) Info() *Info { return &c.info }

// Blame makes c the culprit should the callback under way panic, for timers and
// posted functions that work for it (see loop.Blame).
func (c *Conn) Blame() { c.l.Blame((*ready)(c)) }

// SetHandler gives the connection to another owner, which is called from now on
// and gets no Open for a connection that is open already. Kick shows it what is kept.
func (c *Conn) SetHandler(h Handler) { c.h = h }

// HandOver gives the connection to another owner as if it were new: at the end of
// the turn h hears Open, then Data with what is kept.
func (c *Conn) HandOver(h Handler) {
	c.h = h
	if !c.is(dead | closing) {
		c.state &^= open | paused | eofShown
		c.Kick()
	}
}

// Received is the number of bytes read from the peer so far; with TLS, of plaintext.
func (c *Conn) Received() uint64 { return c.received }

// Sent is the number of bytes the kernel took for the peer so far; with TLS, of
// plaintext that was sealed.
func (c *Conn) Sent() uint64 { return c.sent }

// Kept is the number of input bytes shown and not used.
func (c *Conn) Kept() int { return len(c.in) }

// Unanswered reports that the peer has not accepted the connection yet, nor refused it.
func (c *Conn) Unanswered() bool { return c.is(connecting) }

// Ended reports that the connection is closed or closing, locally or by an error:
// nothing written from now on can arrive.
func (c *Conn) Ended() bool { return c.is(closing | dead) }

// ready keeps Ready out of Conn's method set: only the loop may call it.
type ready Conn

func (r *ready) Ready(ev loop.Events) { (*Conn)(r).onEvents(ev) }

func (c *Conn) onEvents(ev loop.Events) {
	if ev&(loop.Panicked|loop.Ending) != 0 {
		k := LoopEnded
		if ev&loop.Panicked != 0 {
			k = Panicked
		}
		c.fail(Why{Kind: k})
		if c.is(told) {
			return
		}
		c.tellClosed() // now: the turn may not come to an end for us
		return
	}
	if c.is(dead) {
		return
	}
	if c.is(connecting) {
		c.connectResult(ev)
		return
	}
	if ev&loop.Writable != 0 && c.is(blocked) {
		c.state &^= blocked
		c.l.AtFlush(&c.flush)
	}
	if ev&(loop.HangUp|loop.Error) != 0 {
		c.state |= hungUp
	}
	if ev&(loop.Readable|loop.HangUp|loop.Error) != 0 {
		c.state |= unread
		if ev&loop.Error != 0 && c.is(paused) {
			// Nobody reads, so nobody would learn of the reset.
			if e := c.l.Poller().SocketError(c.fd); e != 0 {
				c.fail(whyOf(e))
				return
			}
		}
		if c.is(handshaking) {
			c.feed()
			return
		}
		c.read()
	}
}

// read takes input from the kernel until there is none, the handler pauses, or
// the turn's share is used up.
func (c *Conn) read() {
	if c.splice != nil && (!c.is(closing) || c.splice.held > 0) {
		c.pump()
		return
	}
	if now := uint16(c.l.Turns()); c.turn != now {
		c.turn, c.reads = now, 0
	}
	for ; c.reads < readsPerTurn; c.reads++ {
		if !c.wantsInput() || c.is(kick) { // what is kept is shown first
			return
		}
		scratch := c.l.Scratch()
		kept := copy(scratch, c.in)
		if kept == len(scratch) {
			return // full: only Kick or Resume can make room
		}
		var n int
		if c.tls != nil && !c.is(closing) {
			n = c.fillTLS(scratch[kept:])
		} else {
			n = c.fill(scratch[kept:])
		}
		if c.is(dead) {
			return
		}
		c.received += uint64(n)
		if n > 0 && !c.is(closing) { // closing: lingering, discard
			c.show(scratch[:kept+n])
		}
		if c.is(eof) {
			c.atEOF()
			return
		}
		if c.splice != nil {
			break // from the next turn on
		}
	}
	if c.is(unread) {
		c.l.NextTurn(&c.work)
	}
}

// fill reads from the socket. It clears unread when the kernel has no more, sets
// eof at the end, and ends the connection on errors.
func (c *Conn) fill(dst []byte) int {
	for {
		n, e := c.l.Poller().Read(c.fd, dst)
		switch {
		case e == syscall.EINTR:
			continue
		case e == syscall.EAGAIN:
			c.state &^= unread
		case e != 0:
			c.fail(whyOf(e))
		case n == 0:
			c.state = c.state&^(unread|hungUp) | eof
		case n < len(dst) && !c.is(hungUp):
			// A short read emptied the socket; what comes later is a new event. Not so
			// when the end was announced: it shows as a read of 0.
			c.state &^= unread
		}
		return n
	}
}

// wantsInput: somebody looks at input, and the kernel may have some.
func (c *Conn) wantsInput() bool {
	if c.state&(unread|eof|dead) != unread {
		return false
	}
	if c.is(closing) {
		return true
	}
	return c.state&(paused|open) == open
}

// show offers b, the kept bytes and more, and keeps what is left.
func (c *Conn) show(b []byte) {
	c.state |= showing
	used := c.h.Data(c, b)
	c.state &^= showing
	if c.state&(dead|closing) != 0 {
		return
	}
	rest := b[used:]
	pool := c.l.Buffers()
	if len(rest) == 0 {
		if c.in != nil {
			pool.Put(c.in)
			c.in = nil
		}
		return
	}
	if cap(c.in) < len(rest) {
		pool.Put(c.in)
		c.in = pool.Get(len(rest))
	}
	// b may be c.in itself: copying down is what append does to overlapping slices.
	c.in = append(c.in[:0], rest...)
}

func (c *Conn) atEOF() {
	if c.is(closing) {
		c.tryEnd()
		return
	}
	if c.state&(eof|eofShown|paused|open|dead|kick) != eof|open { // kick: doWork shows what is kept and comes back
		return
	}
	c.state |= eofShown
	c.h.EOF(c)
	c.tryEnd()
}

// doWork runs at a turn's end or in the next turn, for whatever could not be done
// where it was asked for.
func (c *Conn) doWork() {
	c.Blame()
	if c.is(dead) {
		if !c.is(told) {
			c.tellClosed()
		}
		return
	}
	if c.is(connecting) {
		return
	}
	if c.is(handshaking) {
		c.feedKept()
		c.feed()
		return
	}
	if !c.is(open) && !c.is(closing) {
		c.state |= open
		c.h.Open(c)
	}
	if c.is(kick) && !c.is(paused) && !c.is(closing|dead) {
		c.state &^= kick
		if len(c.in) > 0 {
			c.show(c.in)
		}
	}
	c.read()
	if c.is(eof) {
		c.atEOF()
	}
}

// Pause stops reading: no Data and no EOF until Resume. Resets are still noticed.
func (c *Conn) Pause() { c.state |= paused }

// Paused reports whether reading is stopped.
func (c *Conn) Paused() bool { return c.is(paused) }

// Resume goes on reading, at the end of this turn: first the kept bytes are shown.
func (c *Conn) Resume() {
	if c.is(paused) {
		c.state &^= paused
		c.Kick()
	}
}

// Yield shows the kept bytes again in the next turn: for a handler that has done enough for one.
func (c *Conn) Yield() {
	if !c.is(dead) {
		c.state |= kick
		c.l.NextTurn(&c.work)
	}
}

// Kick shows the kept bytes again, at the end of this turn.
func (c *Conn) Kick() {
	if !c.is(dead) {
		c.state |= kick
		c.l.AtTurnEnd(&c.work)
	}
}
