package conn

import "syscall"

// Mover is a Handler that may splice.
type Mover interface {
	Handler
	// Moved: so many bytes that c received went on to where SpliceTo said.
	Moved(c *Conn, n int)
}

// splice is the state of a connection whose input goes to another one inside the kernel.
type splice struct {
	to    *Conn
	pipe  [2]int
	have  bool // pipe is ours; only while bytes are in it
	held  int  // bytes in the pipe
	small int  // pumps in a row that moved little
}

const (
	spliceChunk  = 1 << 20
	splicesTurn  = 4        // splices before others get their turn, as readsPerTurn
	spliceSmall  = 16 << 10 // below, reading and writing is as cheap
	spliceGiveUp = 16       // small pumps in a row after which it ends
)

// SpliceTo makes what c receives go to another connection of the loop without passing
// through the process, which halves the cost of bulk. The owner, a Mover, hears of it by
// Moved, and by Data again once traffic has become small. It reports false where that
// cannot be: one of them uses TLS, or input is kept, or the system has no splice.
func (c *Conn) SpliceTo(to *Conn) bool {
	if c.tls != nil || to.tls != nil || c.dial != nil || len(c.in) > 0 || c.state&(dead|closing) != 0 || to.state&(dead|closing|closeWrite|connecting) != 0 {
		return false
	}
	if _, ok := c.h.(Mover); !ok {
		return false
	}
	pipe, ok := c.l.GetPipe()
	if !ok {
		return false
	}
	c.l.PutPipe(pipe, true)
	c.splice = &splice{to: to}
	to.source = c
	return true
}

// pump moves what is there.
func (c *Conn) pump() {
	s, p := c.splice, c.l.Poller()
	moved := 0
	defer func() {
		if moved > 0 {
			c.h.(Mover).Moved(c, moved)
		}
	}()
	for range splicesTurn {
		if s.to.is(dead) {
			c.unsplice()
			return
		}
		if s.to.is(blocked) || s.to.Buffered() > s.held {
			return // its Writable, or its flush, calls again
		}
		if s.held == 0 {
			if c.is(closing) {
				c.unsplice() // the rest of the input is discarded
				return
			}
			if !c.wantsInput() {
				break
			}
			if !s.have {
				if s.pipe, s.have = c.l.GetPipe(); !s.have {
					c.unsplice() // out of descriptors: read and write instead
					c.l.NextTurn(&c.work)
					return
				}
			}
			n, e := p.Splice(c.fd, s.pipe[1], spliceChunk)
			switch {
			case e == syscall.EINTR:
				continue
			case e == syscall.EAGAIN:
				c.state &^= unread
			case e != 0:
				c.fail(whyOf(e))
				return
			case n == 0:
				c.state = c.state&^(unread|hungUp) | eof
			}
			if n == 0 {
				break
			}
			c.received += uint64(n)
			s.held = n
		}
		n, e := p.Splice(s.pipe[0], s.to.fd, s.held)
		switch {
		case e == syscall.EINTR:
			continue
		case e == syscall.EAGAIN:
			s.to.state |= blocked
			return
		case e != 0:
			s.to.fail(whyOf(e))
			c.unsplice()
			return
		}
		s.held -= n
		s.to.sent += uint64(n)
		moved += n
	}
	if s.held > 0 {
		c.l.NextTurn(&c.work) // a short write, and the turn's share used up
		return
	}
	if s.have {
		c.l.PutPipe(s.pipe, true)
		s.have = false
	}
	if moved >= spliceSmall {
		s.small = 0
	} else if s.small++; s.small > spliceGiveUp {
		c.unsplice()
	}
	if c.is(eof) {
		c.unsplice()
		c.atEOF()
	} else if c.is(unread) {
		c.l.NextTurn(&c.work)
	}
}

// unsplice goes back to Data. Bytes in the pipe are lost, so it is for an empty one or
// a connection that ends.
func (c *Conn) unsplice() {
	s := c.splice
	if s == nil {
		return
	}
	if s.have {
		c.l.PutPipe(s.pipe, s.held == 0)
	}
	c.splice = nil
	s.to.source = nil
}
