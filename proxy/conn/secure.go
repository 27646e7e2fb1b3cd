package conn

import (
	"errors"
	"io"
	"sync/atomic"
	"syscall"

	"github.com/weirmesh/weir/proxy/tls"
)

// sealChunk is how much plaintext is sealed before the result is offered to the
// kernel: three records fit a 64 KiB buffer, and a peer that takes nothing makes us
// hold no more ciphertext than that.
const sealChunk = 3 * tls.MaxPlaintext

// maxFed bounds what is held for a handshake that has not read it yet: one full read.
const maxFed = 64 << 10

// secured is the TLS part of a connection.
type secured struct {
	c       *Conn
	s       *tls.Session
	in      []byte // ciphertext read and not opened yet
	out     []byte // ciphertext to send, from off on
	off     int
	pending bool        // the session holds plaintext that did not fit the last time
	stalled atomic.Bool // the handshake has input enough; read on when it has read it
	started bool        // the goroutine of the handshake was asked for
	ended   bool        // close_notify was sealed
	noticed bool        // close_notify was received
	failed  error       // of Open; final
}

// StartTLS secures an accepted connection whose first bytes were looked at: what is
// kept is the beginning of the handshake. h owns the connection from now on and
// hears Open when the handshake is done, or Closed.
func (c *Conn) StartTLS(s *tls.Server, h Handler) {
	c.h = h
	if c.is(dead | closing) {
		return
	}
	c.state &^= open | paused | kick
	c.within(s.Timeout())
	c.secure(func(h tls.Host) *tls.Session { return s.Session(h) })
	c.l.AtTurnEnd(&c.work)
}

func (c *Conn) secure(session func(tls.Host) *tls.Session) {
	c.state |= handshaking
	c.tls = &secured{c: c}
	c.received = 0 // the hello was not payload
	c.tls.s = session((*host)(c.tls))
}

func (t *secured) unsent() int { return len(t.out) - t.off }

// feedKept gives the handshake what a sniffing owner has seen of it.
func (c *Conn) feedKept() {
	if len(c.in) > 0 {
		c.feedHandshake(c.in)
		c.dropInput()
	}
}

// feed reads for the handshake.
func (c *Conn) feed() {
	for c.is(unread) && c.is(handshaking) && c.tls.s.Fed() < maxFed {
		n, e := c.l.Poller().Read(c.fd, c.l.Records()[:maxFed/4])
		switch {
		case e == syscall.EINTR:
		case e == syscall.EAGAIN:
			c.state &^= unread
		case e != 0:
			c.fail(Why{Kind: HandshakeFailed, Err: interrupted(e)})
		case n == 0:
			// unread stays: the end is looked at again after the handshake.
			c.wakeHandshake(c.tls.s.FeedEnd())
			if !c.tls.started {
				c.fail(Why{Kind: HandshakeFailed, Err: interrupted(io.EOF)})
			}
			return
		default:
			c.feedHandshake(c.l.Records()[:n])
		}
	}
}

func interrupted(by error) error { return &tls.Error{Reason: tls.Interrupted, Err: by} }

func (c *Conn) feedHandshake(b []byte) {
	t := c.tls
	if t.s.Fed()+len(b) >= maxFed {
		t.stalled.Store(true) // before the goroutine can see b: it may be done with it at once
	}
	c.wakeHandshake(t.s.Feed(b))
	// A client that is slow to say hello costs no goroutine until it has.
	if !t.started && t.s.HasRecord() {
		c.startHandshake()
	}
}

var (
	errTooMany  = errors.New("too many TLS handshakes are under way")
	errPanicked = errors.New("the TLS library panicked")
)

func (c *Conn) startHandshake() {
	t := c.tls
	t.started = true
	gate := t.s.Gate()
	if !gate.Begin() {
		c.fail(Why{Kind: HandshakeFailed, Err: errTooMany})
		return
	}
	later := func() {
		if !c.l.Post(c.runHandshake) {
			gate.Leave()
			gate.End()
		}
	}
	if gate.Enter(later) {
		c.runHandshake()
	}
}

func (c *Conn) runHandshake() {
	s, gate := c.tls.s, c.tls.s.Gate()
	if c.is(dead) {
		gate.Leave()
		gate.End()
		return
	}
	c.l.Go(func() {
		err := errPanicked
		defer func() {
			c.l.Post(func() { c.handshaken(err) })
			gate.Leave()
			gate.End()
		}()
		err = s.Handshake()
	})
}

func (c *Conn) wakeHandshake(woke bool) {
	if !woke {
		return
	}
	s, l := c.tls.s, c.l
	wake := func() {
		l.Unpark()
		s.Wake()
	}
	if s.Gate().Enter(wake) {
		wake()
	}
}

// host is what the goroutine of the handshake may do to the connection.
type host secured

func (h *host) Output() { h.c.l.Post(h.c.takeOutput) }

func (h *host) Park() {
	if h.stalled.Swap(false) {
		h.c.l.Post(func() {
			if h.c.is(handshaking) {
				h.c.feed()
			}
		})
	}
	h.s.Gate().Leave()
	h.c.l.Park()
}

func (c *Conn) takeOutput() {
	c.l.Blame((*ready)(c))
	if !c.is(dead) {
		c.tls.out = c.tls.s.TakeOutput(c.tls.grab(c, 0))
		if !c.is(blocked) {
			c.flushRecords()
		}
	}
}

// handshaken is the end of the handshake, back on the loop.
func (c *Conn) handshaken(err error) {
	c.l.Blame((*ready)(c))
	if c.is(dead) {
		return
	}
	t := c.tls
	c.state &^= handshaking
	c.takeOutput()
	if c.is(dead) {
		// The peer was gone before it got our last word, which may have been an alert: what the handshake found counts.
		if err == nil {
			err = interrupted(c.why.Errno)
		}
		c.why = &Why{Kind: HandshakeFailed, Err: err}
		return
	}
	if err != nil {
		// The alert is on its way; the peer should get to read it.
		t.ended = true
		c.out, c.outOff = nil, 0
		c.end(Why{Kind: HandshakeFailed, Err: err})
		return
	}
	c.idleTimer()
	c.info.TLS = t.s.Peer()
	t.keep(c, t.s.Established()) // what the handshake has grown is not for the pool, which would keep one of them for each connection
	c.state |= unread
	if len(c.out) > 0 || c.is(closeWrite) {
		c.l.AtFlush(&c.flush)
	}
	c.doWork()
}

// fillTLS is fill for records.
func (c *Conn) fillTLS(dst []byte) (n int) {
	t := c.tls
	if t.failed != nil {
		c.failRecords()
		return 0
	}
	raw, read, full := t.in, false, false
	for {
		for n < len(dst) {
			size := 0
			if !t.pending {
				if size = tls.RecordLength(raw); size == 0 || size > len(raw) {
					break
				}
				if size < 0 {
					size = len(raw) // no record: let the session say so
				} else if n > 0 && len(dst)-n < size-tls.RecordOverhead {
					full = true // opened later, it needs no buffer of its own
					break
				}
			}
			k, pending, err := t.s.Open(dst[n:], raw[:size])
			n += k
			raw = raw[size:]
			t.pending = pending
			if err == io.EOF {
				t.noticed = true
				c.state = c.state&^(unread|hungUp) | eof
				t.keep(c, nil)
				return n
			}
			if err != nil {
				t.failed = err
				c.state |= unread
				t.keep(c, nil)
				if n == 0 {
					c.failRecords()
				}
				return n // what came before is shown first
			}
		}
		if t.s.HasSealed() {
			c.l.AtFlush(&c.flush)
		}
		if full || n == len(dst) {
			// The rest is for the next time.
			c.state |= unread
			t.keep(c, raw)
			return n
		}
		if read {
			t.keep(c, raw)
			return n
		}
		// At most one record is not whole, so there is room behind it.
		buf := c.l.Records()
		m := copy(buf, raw)
		k := c.fill(buf[m:])
		if c.is(dead) {
			return 0
		}
		if c.is(eof) {
			if !t.noticed {
				c.info.TLS.Truncated = true
			}
			t.keep(c, nil)
			return n
		}
		raw, read = buf[:m+k], true
	}
}

// failRecords ends the connection after the peer violated the protocol, or sent an alert.
func (c *Conn) failRecords() {
	t := c.tls
	t.out = t.s.TakeSealed(t.grab(c, 0)) // our alert
	if c.flushRecords(); !c.is(dead) {
		c.fail(Why{Kind: RecordFailed, Err: t.failed})
	}
}

// keep holds ciphertext that is not opened yet, usually a part of a record.
func (t *secured) keep(c *Conn, raw []byte) {
	pool := c.l.Buffers()
	if len(raw) == 0 {
		pool.Put(t.in)
		t.in = nil
		return
	}
	if cap(t.in) < len(raw) {
		b := append(pool.Get(len(raw)), raw...) // raw may be a part of t.in
		pool.Put(t.in)
		t.in = b
		return
	}
	t.in = append(t.in[:0], raw...)
}

// grab makes room for n more bytes of ciphertext and returns the buffer to append to.
func (t *secured) grab(c *Conn, n int) []byte {
	if t.out == nil {
		t.out = c.l.Buffers().Get(n)
	}
	return t.out
}

// sendTLS is send for records.
func (c *Conn) sendTLS(b []byte) []byte {
	t := c.tls
	for {
		if !c.flushRecords() || c.is(handshaking) {
			return b
		}
		head := c.out[c.outOff:]
		src := head
		if len(head) == 0 {
			c.releaseOut()
			src = b
		}
		if len(src) == 0 || t.ended {
			if t.s.HasSealed() {
				t.out = t.s.TakeSealed(t.grab(c, 0))
				continue
			}
			return nil
		}
		src = src[:min(len(src), sealChunk)]
		records := (len(src)-1)/tls.MaxPlaintext + 1
		var err error
		t.out, err = t.s.Seal(t.grab(c, len(src)+64*records), src)
		if err != nil {
			c.fail(Why{Kind: RecordFailed, Err: err})
			return nil
		}
		c.sent += uint64(len(src))
		if len(head) > 0 {
			c.outOff += len(src)
		} else {
			b = b[len(src):]
		}
	}
}

// flushRecords sends ciphertext; false means that some is left or the connection ended.
func (c *Conn) flushRecords() bool {
	t := c.tls
	for t.unsent() > 0 {
		n, e := c.l.Poller().Write(c.fd, t.out[t.off:])
		switch e {
		case 0:
			t.off += n
		case syscall.EINTR:
		case syscall.EAGAIN:
			c.state |= blocked
			return false
		default:
			c.fail(whyOf(e))
			return false
		}
	}
	t.release(c)
	return true
}

func (t *secured) release(c *Conn) {
	if t.out != nil {
		c.l.Buffers().Put(t.out)
		t.out, t.off = nil, 0
	}
}

// sealEnd sends close_notify, once; true: the socket may be half-closed now.
func (t *secured) sealEnd(c *Conn) bool {
	if !t.ended {
		t.ended = true
		t.out = t.s.SealEnd(t.grab(c, 0))
	}
	return c.flushRecords()
}

// abandon releases everything when the connection ends.
func (t *secured) abandon(c *Conn) {
	if c.is(handshaking) {
		c.wakeHandshake(t.s.FeedEnd())
	}
	t.s.Forget()
	t.keep(c, nil)
	t.release(c)
}
