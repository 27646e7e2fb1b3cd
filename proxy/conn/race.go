package conn

import (
	"slices"
	"syscall"
	"time"

	"github.com/weirmesh/weir/proxy/loop"
)

// attemptDelay is how long an address has before the next one is tried beside it (RFC
// 8305, section 8, recommends 250 ms).
const attemptDelay = 250 * time.Millisecond

// race connects to one of several addresses of a peer, usually one of each family (RFC
// 8305, section 5): in their order, the next one when the last has failed or not answered
// within attemptDelay. The first that answers wins, and the others are given up.
type race struct {
	c     *Conn
	left  []loop.Addr
	tries []*try
	open  int // tries that have not failed
	timer loop.Timer
}

// try is one of them. Its descriptor stays registered for it when it has won, and it
// passes events on to the connection.
type try struct {
	r     *race
	to    loop.Addr
	fd    int // -1: none yet
	token loop.Token
	won   bool
}

func newRace(c *Conn) *race {
	r := &race{c: c, left: []loop.Addr{c.dial.Addr}}
	for _, a := range c.dial.Also {
		r.left = append(r.left, loop.TCP(a))
	}
	r.timer.Fire = r.late
	return r
}

// try begins with the next address.
func (r *race) try() {
	t := &try{r: r, to: r.left[0], fd: -1}
	r.left = r.left[1:]
	r.tries = append(r.tries, t)
	r.open++
	if len(r.left) > 0 {
		r.c.l.Arm(&r.timer, r.c.l.Now()+int64(attemptDelay))
	}
	r.c.socket(t.to.Family(), t.connect)
}

func (r *race) late() {
	r.c.Blame()
	r.try()
}

func (t *try) connect(fd int, e syscall.Errno, err error) {
	if e != 0 || err != nil {
		t.failed(Why{Kind: SocketFailed, Errno: e, Err: err})
		return
	}
	t.fd = fd
	if why := t.r.c.begin(fd, t.to); why.Kind != ClosedHere {
		t.failed(why)
		return
	}
	if t.token, err = t.r.c.l.Register(fd, t); err != nil {
		t.failed(Why{Kind: SocketFailed, Err: err})
	}
}

// Ready is described at loop.Handler.
func (t *try) Ready(ev loop.Events) {
	c := t.r.c
	if t.won || ev&(loop.Panicked|loop.Ending) != 0 {
		c.onEvents(ev)
		return
	}
	if ev&(loop.Writable|loop.Error|loop.HangUp) == 0 {
		return
	}
	if e := c.l.Poller().SocketError(t.fd); e != 0 {
		t.failed(connectError(e))
		return
	}
	if ev&loop.Writable != 0 {
		t.won = true
		t.r.end(t)
		c.fd, c.token, c.dial.Addr, c.info.Remote = t.fd, t.token, t.to, t.to.AddrPort
		c.connected(ev)
	}
}

// failed gives one up; the last failure is that of the connection.
func (t *try) failed(why Why) {
	r := t.r
	t.close()
	switch r.open--; {
	case len(r.left) > 0:
		r.try()
	case r.open == 0:
		r.c.fail(why)
	}
}

func (t *try) close() {
	l := t.r.c.l
	switch {
	case t.token != 0:
		l.Close(t.token, t.fd)
	case t.fd >= 0:
		l.Poller().Close(t.fd)
	}
	t.fd, t.token = -1, 0
}

// end closes all but the winner, nil if there is none.
func (r *race) end(winner *try) {
	r.timer.Stop()
	for _, t := range slices.Backward(r.tries) {
		if t != winner {
			t.close()
		}
	}
	r.left = nil
}
