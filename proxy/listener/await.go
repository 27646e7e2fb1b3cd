package listener

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/demand"
)

// EarlyPatience is how long connections wait for the first configuration of a proxy: longer than a control plane takes that is started anew.
const EarlyPatience = 30 * time.Second

// handOff finds the listener for a redirected connection. It waits for one that is
// configuration on demand and is not there, and while nothing is.
func (a *Acceptor) handOff(t *Table, dst netip.AddrPort, caught *Config) (found *Config, waits bool) {
	if caught.Early > 0 {
		return nil, true
	}
	found, exact, wildcard := t.search(dst, caught)
	return found, a.o.Demand != nil && caught.Direction == Outbound && a.o.Demand.Listener(t, dst, exact, wildcard)
}

// awaiting owns a connection until its listener has come. Nothing is read from it.
type awaiting struct {
	refused
	a      *Acceptor
	c      *conn.Conn
	caught *Config
	hold   *demand.Hold
}

func (a *Acceptor) hold(fd int, info conn.Info, caught *Config) {
	why, ok := a.admit(caught)
	if !ok {
		a.refuse(fd, info, caught, why)
		return
	}
	info.Holder = a.tally(caught)
	w := &awaiting{a: a, caught: caught}
	w.c = conn.Accept(a.l, fd, info, w)
	w.c.Pause()
	if w.hold = a.o.Demand.HoldFor(cmp.Or(caught.Early, demand.Patience), w.again); w.hold == nil {
		a.refused(w.c.Info(), caught, Unconfigured, nil)
		w.c.Reset()
		return
	}
	a.waiting++
}

// Waiting is the number of connections that wait for their listeners; on the loop.
func (a *Acceptor) Waiting() int { return a.waiting }

func (w *awaiting) done() {
	if w.hold != nil {
		w.hold.End()
		w.hold = nil
		w.a.waiting--
	}
}

func (w *awaiting) Closed(*conn.Conn, conn.Why) { w.done() }

// again searches in the table of now.
func (w *awaiting) again(over bool) {
	a, info := w.a, w.c.Info()
	w.c.Blame()
	if over {
		w.done()
		a.refused(info, w.caught, Unconfigured, nil)
		w.c.Reset()
		return
	}
	if c := a.table.byName[w.caught.Name]; c != nil {
		w.caught = c
	}
	config, waits := a.handOff(a.table, info.Original, w.caught)
	if waits {
		return
	}
	w.done()
	info.Holder.Release()
	info.Holder = nil
	why, ok := a.admit(config)
	if !ok {
		a.refused(info, config, why, nil)
		w.c.Reset()
		return
	}
	info.Holder = a.tally(config)
	w.c.Resume()
	a.begin(w.c, config, a.table)
}
