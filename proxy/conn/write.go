package conn

import (
	"syscall"
	"time"

	"github.com/weirmesh/weir/proxy/loop"
)

// Write sends b. Small writes are collected and leave at the end of the turn in
// one call; a large one is offered to the kernel at once, together with what was
// collected. What cannot be sent is copied. Errors come by Closed; after Close,
// CloseWrite or the end of the connection, b is dropped.
func (c *Conn) Write(b []byte) {
	if c.state&(dead|closing|closeWrite) != 0 || len(b) == 0 {
		return
	}
	if len(b) >= directWrite && c.state&(connecting|handshaking|blocked) == 0 {
		if b = c.send(b); len(b) == 0 {
			return
		}
		if c.is(dead) {
			return
		}
	}
	if c.outOff > 0 && len(c.out)+len(b) > cap(c.out) {
		c.compact()
	}
	c.SetOut(c.l.Buffers().Append(c.out, b))
}

// Out is the output collected so far, to append to and nothing else (its
// beginning may be sent already); give the result to SetOut before any other
// call. Use Loop().Buffers().Append where it may outgrow its buffer.
func (c *Conn) Out() []byte {
	if c.out == nil {
		c.out = c.l.Buffers().Get(0)
	} else if c.outOff > len(c.out)/2 {
		c.compact() // moves less than was sent since the last time
	}
	return c.out
}

func (c *Conn) compact() {
	c.out = c.out[:copy(c.out, c.out[c.outOff:])]
	c.outOff = 0
}

// SetOut puts back what Out returned, longer than before. After Close, CloseWrite
// or the end of the connection, what was appended is dropped.
func (c *Conn) SetOut(b []byte) {
	if c.is(dead) {
		c.out = b
		c.releaseOut()
		return
	}
	if c.is(closing | closeWrite) {
		c.out = b[:len(c.out)]
		return
	}
	c.out = b
	if c.Buffered() > HighWater {
		c.state |= high
	}
	if c.state&(connecting|handshaking|blocked) == 0 {
		c.l.AtFlush(&c.flush)
	}
}

// Buffered is the number of bytes the kernel has not taken yet; with TLS, records
// that wait to be sent included.
func (c *Conn) Buffered() int {
	n := len(c.out) - c.outOff
	if c.tls != nil {
		n += c.tls.unsent()
	}
	if c.source != nil {
		n += c.source.splice.held
	}
	return n
}

// CloseWrite half-closes: what was written is sent, then the end is announced.
// Reading goes on.
func (c *Conn) CloseWrite() {
	if c.state&(dead|closing|closeWrite) == 0 {
		c.state |= closeWrite
		c.l.AtFlush(&c.flush)
	}
}

// Close ends the connection in order: what was written is sent, and an accepted
// connection then waits, at most Linger, for its peer to finish. No callback
// but Closed comes after it.
func (c *Conn) Close() { c.end(Why{Kind: ClosedHere}) }

func (c *Conn) end(why Why) {
	if c.is(dead | closing) {
		return
	}
	if c.is(connecting | handshaking) {
		c.fail(why)
		return
	}
	c.why = &why
	c.state |= closing
	if c.splice != nil && c.splice.held == 0 {
		c.unsplice()
	}
	c.dropInput()
	c.within(flushLimit)
	c.l.AtFlush(&c.flush)
}

// Abort is Close for an owner that knows its stream to be cut short: what was written is
// delivered, and then the peer learns by RST that it was not all. No callback but Closed
// comes after it.
func (c *Conn) Abort() {
	if !c.is(dead | closing) {
		c.state |= aborting
		c.end(Why{Kind: ResetHere})
	}
}

// abort is the last part of Abort. RST overtakes what the kernel has not delivered, so
// that is waited for, by looking after 1, 2, 4 … 4096 ms without progress, together about
// as long as Close waits for a peer that takes nothing.
func (c *Conn) abort() {
	const most = 13
	left := int32(c.l.Poller().Unsent(c.fd))
	if left != c.left {
		c.left, c.asked = left, 0
	}
	if left > 0 && c.asked < most {
		c.within(time.Millisecond << c.asked)
		c.asked++
		return
	}
	c.l.Poller().Set(c.fd, loop.ResetOnClose, 1)
	c.fail(*c.why)
}

// Reset ends the connection at once with RST and drops what was not sent.
func (c *Conn) Reset() {
	if c.is(dead) {
		return
	}
	if c.fd >= 0 && !c.is(connecting) {
		c.l.Poller().Set(c.fd, loop.ResetOnClose, 1)
	}
	c.fail(Why{Kind: ResetHere})
}

// doFlush is the write of this turn.
func (c *Conn) doFlush() {
	c.l.Blame((*ready)(c))
	if c.is(dead | connecting) {
		return
	}
	if !c.is(blocked) {
		before := c.Buffered()
		if c.send(nil); c.Buffered() > HighWater {
			c.state |= high // records are longer than what SetOut saw
		}
		if c.is(closing) && c.Buffered() < before {
			c.within(flushLimit)
		}
	}
	if c.is(dead | handshaking) {
		return
	}
	if c.is(high) && c.Buffered() <= LowWater {
		c.state &^= high
		if !c.is(closing) && c.is(open) {
			c.h.Drained(c)
			if c.is(dead) {
				return
			}
		}
	}
	if c.source != nil && !c.is(blocked) {
		if c.source.pump(); c.is(dead) {
			return
		}
	}
	if c.Buffered() > 0 {
		return
	}
	if c.is(aborting) {
		c.abort()
		return
	}
	if c.state&(closeWrite|closing) != 0 && !c.is(finSent) {
		if c.tls != nil && !c.tls.sealEnd(c) {
			return // close_notify waits for the socket, or failed
		}
		c.state |= finSent
		if !c.is(closing) || !c.is(dialled|eof) {
			if e := c.l.Poller().Shutdown(c.fd, syscall.SHUT_WR); e != 0 && e != syscall.ENOTCONN {
				c.fail(whyOf(e))
				return
			}
		}
		if c.is(closing) {
			c.within(Linger)
			c.state |= unread
			c.l.AtTurnEnd(&c.work) // discard what is there already
		}
	}
	c.tryEnd()
}

// tryEnd closes the socket once nothing is left to do on it.
func (c *Conn) tryEnd() {
	switch {
	case c.is(dead) || !c.is(finSent) || c.Buffered() > 0:
	case c.is(closing) && c.is(dialled|eof):
		c.fail(*c.why)
	case c.is(closeWrite) && c.is(eofShown):
		c.fail(Why{Kind: Finished})
	}
}

// send offers the collected output and b behind it to the kernel, and returns
// what is left of b. The collected part keeps its rest itself.
func (c *Conn) send(b []byte) []byte {
	if c.tls != nil {
		return c.sendTLS(b)
	}
	p := c.l.Poller()
	for {
		head := c.out[c.outOff:]
		var n int
		var e syscall.Errno
		switch {
		case len(head) == 0 && len(b) == 0:
			c.releaseOut()
			return nil
		case len(b) == 0:
			n, e = p.Write(c.fd, head)
		case len(head) == 0:
			n, e = p.Write(c.fd, b)
		default:
			n, e = p.Write2(c.fd, head, b)
		}
		switch e {
		case 0:
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			c.state |= blocked
			if len(head) == 0 {
				c.releaseOut()
			}
			return b
		default:
			c.fail(whyOf(e))
			return nil
		}
		c.sent += uint64(n)
		fromHead := min(n, len(head))
		c.outOff += fromHead
		b = b[n-fromHead:]
		// A short write filled the socket; trying again would only say EAGAIN, and
		// the Writable event comes either way. Trying costs little and is
		// certain, so the loop goes on.
	}
}

func (c *Conn) releaseOut() {
	if c.out != nil {
		c.l.Buffers().Put(c.out)
		c.out, c.outOff = nil, 0
	}
}

func (c *Conn) dropInput() {
	if c.in != nil {
		if !c.is(showing) { // else Data may still be looking at it
			c.l.Buffers().Put(c.in)
		}
		c.in = nil
	}
}

// within has expired called after d. An idle connection waits for nothing and does without the timer's function.
func (c *Conn) within(d time.Duration) {
	if c.timer.Fire == nil {
		c.timer.Fire = c.expired
	}
	c.l.Arm(&c.timer, c.l.Now()+int64(d))
}

func (c *Conn) idleTimer() {
	c.timer.Stop()
	c.timer.Fire = nil
}

// expired: the one timer means different things in the life of a connection.
func (c *Conn) expired() {
	c.l.Blame((*ready)(c))
	switch {
	case c.is(dead):
	case c.is(connecting):
		c.fail(Why{Kind: ConnectTimeout})
	case c.is(handshaking):
		c.fail(Why{Kind: HandshakeTimeout})
	case c.is(aborting) && c.Buffered() == 0:
		c.abort()
	case c.is(finSent):
		c.fail(*c.why)
	default:
		// The peer takes nothing: RST tells it that the rest is lost.
		c.l.Poller().Set(c.fd, loop.ResetOnClose, 1)
		c.fail(Why{Kind: FlushTimeout})
	}
}

// fail closes the socket now and lets Closed be called at the end of the turn.
func (c *Conn) fail(why Why) {
	if c.is(dead) {
		return
	}
	switch {
	case c.is(closing) && c.why.Kind == HandshakeFailed:
		why = *c.why // that the alert did not arrive is not news
	case c.is(handshaking) && (why.Kind == ResetByPeer || why.Kind == Failed):
		why = Why{Kind: HandshakeFailed, Err: interrupted(why.Errno)}
	}
	if c.tls != nil {
		c.tls.abandon(c)
	}
	c.unsplice()
	if c.source != nil {
		c.source.unsplice()
	}
	if c.dial != nil && c.dial.race != nil {
		c.dial.race.end(nil)
	}
	c.state = c.state&^(connecting|handshaking|paused|kick) | dead
	c.why = &why
	if c.fd >= 0 {
		if c.token != 0 {
			c.l.Close(c.token, c.fd)
		} else {
			c.l.Poller().Close(c.fd)
		}
		c.fd = -1
	}
	if c.info.Holder != nil {
		c.info.Holder.Release()
	}
	c.dial = nil
	c.timer.Stop()
	c.dropInput()
	c.releaseOut()
	c.l.AtTurnEnd(&c.work)
}

func (c *Conn) tellClosed() {
	c.state |= told
	c.h.Closed(c, *c.why)
}
