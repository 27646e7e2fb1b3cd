package demand

import (
	"hash/maphash"
	"net/netip"
	"time"

	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/xds/ondemand"
	"github.com/weirmesh/weir/xds/resource"
)

// Patience is how long something is held.
const Patience = 5 * time.Second

// Worker is the share of one loop.
type Worker struct {
	d     *Demands
	l     *loop.Loop
	place *ondemand.Place
	view  *View

	names ondemand.Names
	buf   []byte
	seed  maphash.Seed
	index *ondemand.Index // that of hosts
	hosts []known

	first, cursor *Hold // held here; who is to be looked at next
	turn          loop.TurnNode
	closed        bool
	waits         Waits
}

// known says of a host that no name of it is in the index that is more specific than this.
type known struct {
	hash  uint64 // of the authority as written
	table string
	than  ondemand.Specificity
}

// knownHosts is how many hosts are kept in mind: more than a program talks to at a time, in
// 10 KB a worker that needs them.
const knownHosts = 256

// NewWorker makes the share of a loop, on which all further calls must happen.
func (d *Demands) NewWorker(l *loop.Loop, p *ondemand.Place) *Worker {
	w := &Worker{d: d, l: l, place: p, seed: maphash.MakeSeed()}
	w.turn.Do = w.look
	return w
}

// Table is where something is looked for before it is asked for.
type Table interface {
	Holds(name []byte) bool
}

// Host reports whether a request must wait for a virtual host of a table: the index has a name
// for it that is more specific than what it found there, which the table does not hold, and
// which has not been told to be absent. The name is asked for.
func (w *Worker) Host(t Table, table string, authority []byte, found ondemand.Specificity) (wait bool) {
	v := w.view
	switch {
	case v == nil:
		return false
	case v.Index == nil:
		return true
	}
	if found > 0 && found < ondemand.Exact {
		found = max(0, found-ondemand.Specificity(len(authority)-len(ondemand.WithoutPort(table, authority))))
	}
	if w.index != v.Index {
		if w.index = v.Index; w.hosts == nil {
			w.hosts = make([]known, knownHosts)
		}
		clear(w.hosts)
	}
	hash := maphash.Bytes(w.seed, authority)
	k := &w.hosts[hash%knownHosts]
	if k.hash == hash && k.table == table && found >= k.than || !w.names.Begin(w.place, table, authority) {
		return false
	}
	seen := false
	for name, s, ok := w.names.Next(); ok && s > found; name, s, ok = w.names.Next() {
		if !v.Index.Has(ondemand.HashBytes(name)) {
			continue
		}
		if seen = true; !v.Absent[string(name)] && !t.Holds(name) {
			w.d.want(resource.VirtualHostType, string(name))
			return true
		}
	}
	if !seen {
		*k = known{hash, table, found}
	}
	return false
}

// Listener reports whether a connection must wait for its listener, which is asked for.
// exact and wildcard say which of those for its address and for all addresses the table has.
func (w *Worker) Listener(t Table, at netip.AddrPort, exact, wildcard bool) (wait bool) {
	switch {
	case w.view == nil || exact:
		return false
	case w.view.Index == nil:
		return true
	case w.missing(t, at):
		return true
	case wildcard:
		return false
	case at.Addr().Is6() && w.missing(t, netip.AddrPortFrom(netip.IPv6Unspecified(), at.Port())):
		return true
	}
	return w.missing(t, netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port()))
}

// missing reports whether there is such a listener.
func (w *Worker) missing(t Table, at netip.AddrPort) bool {
	w.buf = ondemand.AppendListener(w.buf[:0], at)
	if !w.view.Index.Has(ondemand.HashBytes(w.buf)) || w.view.Absent[string(w.buf)] || t.Holds(w.buf) {
		return false
	}
	w.d.want(resource.ListenerType, string(w.buf))
	return true
}

// Changed takes the View of a new state, nil for none, and has all who wait look at it again.
func (w *Worker) Changed(v *View) {
	w.view = v
	w.Look()
}

// Look has all who wait look again whether what they wait for is there.
func (w *Worker) Look() {
	if w.cursor = w.first; w.cursor != nil {
		w.l.NextTurn(&w.turn)
	}
}

// Close ends all waits, and lets nothing wait any more: nobody will tell.
func (w *Worker) Close() {
	w.closed = true
	w.Look()
}

// looksPerTurn bounds a turn: one who goes on takes about 10 µs.
const looksPerTurn = 100

func (w *Worker) look() {
	if w.cursor == nil {
		return
	}
	w.l.NextTurn(&w.turn) // at once: a panic costs the one who had it
	for n := 0; w.cursor != nil && n < looksPerTurn; n++ {
		h := w.cursor
		w.cursor = h.next
		h.again(w.closed)
	}
}

// Hold is something that waits.
type Hold struct {
	w          *Worker
	again      func(over bool)
	since      int64
	body       int
	timer      loop.Timer
	next, prev *Hold
}

// Hold lets something wait; nil: too much waits. Whenever something has come, again is called
// and sees for itself whether it can go on: then, and whenever it does not wait any more, it
// calls End. over: there is nothing more to wait for.
func (w *Worker) Hold(again func(over bool)) *Hold { return w.HoldFor(Patience, again) }

// HoldFor is Hold with another patience.
func (w *Worker) HoldFor(d time.Duration, again func(over bool)) *Hold {
	if n := w.d.held.Add(1); n > MaxHeld || w.closed {
		w.d.held.Add(-1)
		w.waits.Refused++
		return nil
	}
	h := &Hold{w: w, again: again, since: w.l.Now(), next: w.first}
	if h.next != nil {
		h.next.prev = h
	}
	w.first = h
	h.timer.Fire = func() { w.waits.Expired++; again(true) }
	w.l.Arm(&h.timer, h.since+int64(d))
	return h
}

// Keep counts n bytes more that are kept meanwhile; false: it is too much.
func (h *Hold) Keep(n int) bool {
	h.body += n
	return h.w.d.body.Add(int64(n)) <= MaxBody
}

// Crowd notes that it ends because too much was kept.
func (h *Hold) Crowd() { h.w.waits.Refused++ }

// End ends the wait.
func (h *Hold) End() {
	w := h.w
	h.timer.Stop()
	if w.cursor == h {
		w.cursor = h.next
	}
	if h.prev != nil {
		h.prev.next = h.next
	} else {
		w.first = h.next
	}
	if h.next != nil {
		h.next.prev = h.prev
	}
	w.d.held.Add(-1)
	w.d.body.Add(-int64(h.body))
	w.waits.note(time.Duration(w.l.Now() - h.since))
}

// Waits counts what was held on one loop.
type Waits struct {
	Refused uint64 // too much was held already
	Expired uint64 // nothing came in time
	Count   uint64 // that have ended, however
	Sum     time.Duration
	Longest time.Duration
	Within  [len(Bounds)]uint64 // of Count, the bounds
}

// Bounds are the buckets of Waits: a round trip to a control plane nearby, and Patience.
var Bounds = [...]time.Duration{time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, time.Second, Patience}

func (s *Waits) note(d time.Duration) {
	s.Count++
	s.Sum += d
	s.Longest = max(s.Longest, d)
	for i, b := range Bounds {
		if d <= b {
			s.Within[i]++
		}
	}
}

// Add adds those of another loop.
func (s *Waits) Add(o *Waits) {
	s.Refused += o.Refused
	s.Expired += o.Expired
	s.Count += o.Count
	s.Sum += o.Sum
	s.Longest = max(s.Longest, o.Longest)
	for i := range s.Within {
		s.Within[i] += o.Within[i]
	}
}

// Waits are the counts so far.
func (w *Worker) Waits() *Waits { return &w.waits }
