package listener

import (
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/loop"
)

// admit counts a connection to config, or says why there is no place for it.
func (a *Acceptor) admit(config *Config) (why Refusal, ok bool) {
	if a.o.Room != nil && !a.o.Room() {
		a.relief()
		if !a.o.Room() {
			return Exhausted, false
		}
	}
	if a.o.Full != nil && !config.IgnoreGroupLimit && a.o.Full() {
		return OutOfMemory, false
	}
	count, all := config.count, a.all(config)
	if n := count.Add(1); config.MaxConnections > 0 && n > int64(config.MaxConnections) {
		count.Add(-1)
		return TooMany, false
	}
	if all != nil {
		if n, most := all.Add(1), a.group.MaxConnections; most > 0 && n > most {
			all.Add(-1)
			count.Add(-1)
			return TooManyInAll, false
		}
	}
	a.open.Add(1)
	return 0, true
}

// all is the count of the process, nil for what does not count there.
func (a *Acceptor) all(config *Config) *atomic.Int64 {
	if config.IgnoreGroupLimit {
		return nil
	}
	return &a.group.open
}

// tally is what the end of a connection to config is told to.
func (a *Acceptor) tally(config *Config) *held {
	h := a.tallies[config.count]
	if h == nil {
		h = &held{worker: &a.open, listener: config.count, all: a.all(config)}
		a.tallies[config.count] = h
	}
	return h
}

// held counts one connection for its listener, its worker and the process until it ends.
type held struct {
	worker, listener, all *atomic.Int64
}

func (h *held) Release() {
	h.worker.Add(-1)
	h.listener.Add(-1)
	if h.all != nil {
		h.all.Add(-1)
	}
}

var _ conn.Holder = (*held)(nil)

// enter counts a connection for its chain; false refuses it.
func (a *Acceptor) enter(c *conn.Conn, config *Config, chain *Chain) bool {
	if chain.count.Add(1) <= chain.MaxConnections {
		info := c.Info()
		info.Holder = &heldByChain{info.Holder, chain.count}
		return true
	}
	chain.count.Add(-1)
	a.refused(c.Info(), config, TooMany, nil)
	if chain.RefuseDelay == 0 {
		c.Reset()
		return false
	}
	d := &delayed{}
	d.timer.Fire = func() { c.Blame(); c.Reset() }
	a.l.Arm(&d.timer, a.l.Now()+int64(chain.RefuseDelay))
	c.SetHandler(d)
	c.Pause()
	return false
}

type heldByChain struct {
	conn.Holder
	count *atomic.Int64
}

func (h *heldByChain) Release() {
	h.count.Add(-1)
	h.Holder.Release()
}

// delayed owns a connection that is refused later, so that its client does not come back
// at once.
type delayed struct {
	refused
	timer loop.Timer
}

func (d *delayed) Closed(*conn.Conn, conn.Why) { d.timer.Stop() }

// A worker that cannot accept, for want of descriptors, refuses what waits with the one it
// has kept for that (where Room is set), because a client that hears so can go elsewhere, and then lets some
// time pass: connections that end make room. 16 refused every 10 ms, with as many
// wake-ups, cost less than 2 % of a processor.
const pause = 10 * time.Millisecond

// spare is that descriptor; its zero value is empty.
type spare struct{ fd, have int }

func (s *spare) refill(a *Acceptor) {
	if p := a.l.Poller(); a.o.Room != nil && s.have == 0 {
		if fd, e := p.Socket(loop.IPv4); e == 0 {
			s.fd, s.have = fd, 1
		}
	}
}

func (s *spare) empty(p loop.Poller) {
	if s.have == 1 {
		p.Close(s.fd)
		s.have = 0
	}
}

func (a *Acceptor) exhausted(s *socket) {
	a.stats.Exhausted++
	p := a.l.Poller()
	a.relief()
	for range acceptsPerTurn {
		a.spare.empty(p)
		fd, remote, e := p.Accept(s.fd)
		if e == syscall.EAGAIN {
			// Nobody waits: without a spare, Linux says EMFILE even so.
			a.spare.refill(a)
			s.emptied()
			return
		}
		if e != 0 {
			break
		}
		a.stats.Accepted++
		a.refuse(fd, conn.Info{Local: s.at.AddrPort, Remote: remote.AddrPort}, s.config, Exhausted)
	}
	a.spare.refill(a)
	a.l.Arm(&s.retry, a.l.Now()+int64(pause))
}

// relief asks for descriptors that nobody uses, at most once a pause.
func (a *Acceptor) relief() {
	if a.o.Relief != nil && a.l.Now() >= a.relieved+int64(pause) {
		a.relieved = a.l.Now()
		a.o.Relief()
	}
}
