package listener_test

import (
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/loop/mem"
)

func reset(t *testing.T, p *mem.Peer) {
	t.Helper()
	if _, err := p.Recv(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client saw %v, want a reset", err)
	}
}

// A listener's limit holds over all workers, and places are given back.
func TestMaxConnections(t *testing.T) {
	w := newWorld(t, 2)
	c := plain("l", "10.0.0.1:80")
	c.MaxConnections = 2
	w.apply(c)
	first := w.dial("10.0.0.1:80")
	w.dial("10.0.0.1:80")
	w.want("l/only open", "l/only open")
	third := w.dial("10.0.0.1:80")
	w.want("refused by l: too many connections to this listener")
	reset(t, third)
	first.Close()
	w.want("only closed")
	w.dial("10.0.0.1:80")
	w.want("l/only open")
}

// The limit of the process, which some listeners are exempt from.
func TestMaxConnectionsInAll(t *testing.T) {
	w := newWorld(t, 2)
	w.group.MaxConnections = 2
	admin := plain("admin", "10.0.0.1:15021")
	admin.IgnoreGroupLimit = true
	w.apply(plain("a", "10.0.0.1:80"), plain("b", "10.0.0.1:81"), admin)
	first := w.dial("10.0.0.1:80")
	w.dial("10.0.0.1:81")
	w.dial("10.0.0.1:15021")
	w.want("a/only open", "b/only open", "admin/only open")
	reset(t, w.refusedDial("10.0.0.1:80", "refused by a: too many connections to this proxy"))
	w.dial("10.0.0.1:15021")
	w.want("admin/only open")
	first.Close()
	w.want("only closed")
	w.dial("10.0.0.1:81")
	w.want("b/only open")
	if n := w.group.Open(); n != 2 {
		t.Errorf("%d connections count", n)
	}
}

func (w *world) refusedDial(to, want string) *mem.Peer {
	w.t.Helper()
	p := w.dial(to)
	w.want(want)
	return p
}

// A chain's limit, kept through a change of its listener; who is one too many hears so
// after a while.
func TestMaxConnectionsOfAChain(t *testing.T) {
	w := newWorld(t, 1)
	limited := func() *listener.Config {
		c := plain("l", "10.0.0.1:80")
		c.Chains = []*listener.Chain{{Name: "one", MaxConnections: 1, RefuseDelay: time.Second, Match: listener.Match{SourceType: listener.SameHost}}}
		return c
	}
	w.apply(limited())
	first := w.dial("10.0.0.1:80")
	w.want("l/one open")
	w.apply(limited())
	second := w.refusedDial("10.0.0.1:80", "refused by l: too many connections to this listener")
	second.Send([]byte("anybody there?"))
	w.n.Advance(time.Second - time.Millisecond)
	if b, err := second.Recv(); len(b) != 0 || err != nil {
		t.Errorf("before the delay: %q, %v", b, err)
	}
	w.n.Advance(time.Millisecond)
	reset(t, second)
	third := w.refusedDial("10.0.0.1:80", "refused by l: too many connections to this listener")
	third.Reset() // does not wait for its refusal
	w.n.Advance(2 * time.Second)
	first.Close()
	w.want("one closed")
	w.dial("10.0.0.1:80")
	w.want("l/one open")
}

// Without descriptors, who comes is refused with the one that was kept for it, now and
// then, and served again when others have ended.
func TestDescriptorsUsedUp(t *testing.T) {
	w := newWorld(t, 1, func(o *listener.Options) { o.Room = func() bool { return true } }) // it notices too late
	w.apply(plain("l", "10.0.0.1:80"))
	w.n.Descriptors = 3 // the listening socket, the spare, and one more
	first := w.dial("10.0.0.1:80")
	w.want("l/only open")
	var more []*mem.Peer
	for range 20 {
		more = append(more, w.dial("10.0.0.1:80"))
	}
	w.n.Step()
	if n := len(w.log); n != 16 {
		t.Errorf("%d were refused in one turn, want 16", n)
	}
	for _, s := range w.log {
		if s != "refused by l: the limit of open files is reached" {
			t.Errorf("heard %q", s)
		}
	}
	w.log = nil
	first.Send([]byte("still here"))
	w.want(`only data "still here"`)
	turns := w.workers[0].Stats().Exhausted
	w.n.Advance(10 * time.Millisecond)
	for _, p := range more {
		reset(t, p)
	}
	w.n.Advance(time.Second)
	if n := w.workers[0].Stats().Exhausted - turns; n > 1 {
		t.Errorf("it tried %d times with an empty queue", n)
	}
	w.log = nil
	first.Close()
	w.want("only closed")
	w.dial("10.0.0.1:80")
	w.want("l/only open")
}

// Before it comes to that: no room refuses at once, after a call for relief.
func TestNoRoom(t *testing.T) {
	room, relieved := true, 0
	relief := func() { relieved++ }
	w := newWorld(t, 1, func(o *listener.Options) {
		o.Room, o.Relief = func() bool { return room }, func() { relief() }
	})
	w.apply(plain("l", "10.0.0.1:80"))
	first := w.dial("10.0.0.1:80")
	w.want("l/only open")
	room = false
	reset(t, w.refusedDial("10.0.0.1:80", "refused by l: the limit of open files is reached"))
	reset(t, w.refusedDial("10.0.0.1:80", "refused by l: the limit of open files is reached"))
	if relieved != 1 {
		t.Errorf("called for relief %d times within 10 ms", relieved)
	}
	relief = func() { room = true }
	w.n.Advance(10 * time.Millisecond)
	w.dial("10.0.0.1:80")
	w.want("l/only open")
	first.Send([]byte("x"))
	w.want(`only data "x"`)
}

// A name that no chain has: TLS clients are told, others reset.
func TestNoChain(t *testing.T) {
	w := newWorld(t, 1)
	w.errors = true
	c := plain("l", "10.0.0.1:443")
	c.InspectTLS = true
	c.Chains = []*listener.Chain{{Name: "a", Match: listener.Match{ServerNames: []string{"a.example"}}}}
	w.apply(c)
	p := w.dial("10.0.0.1:443")
	p.Send(listener.MadeHello("b.example", "h2", "http/1.1"))
	w.want(`refused by l: no filter chain matches: TLS to 10.0.0.1:443 for server name "b.example", offering "h2, http/1.1"`)
	if b, err := p.Recv(); string(b) != "\x15\x03\x03\x00\x02\x02\x70" || err != io.EOF {
		t.Errorf("the client heard %q, %v", b, err)
	}
	p = w.dial("10.0.0.1:443")
	p.Send([]byte("SSH-2.0-x\r\n"))
	w.want(`refused by l: no filter chain matches: plaintext to 10.0.0.1:443, with "" found`)
	reset(t, p)
}
