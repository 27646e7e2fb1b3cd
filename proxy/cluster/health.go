package cluster

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/proxy/cluster/outlier"
	"github.com/weirmesh/weir/proxy/loop"
)

// Health is what was learned of a cluster's endpoints, and the View that follows from it. Workers read the View without a
// lock; who learns something that changes it makes the next one, so that all workers go by it from then on.
type Health struct {
	view atomic.Pointer[View]

	mu       sync.Mutex
	cluster  *Cluster // the newest
	detector outlier.Detector
	loop     *loop.Loop // where time passes; nil: nowhere, and who is ejected stays so
	timer    loop.Timer
	due      int64 // when the timer fires, while it is armed
	now      int64 // the time last heard of

	tell func(*Cluster, *Aside) // of every change of who is set aside, with mu held; nil: nobody wants to know
	// Of endpoints that are set aside: the last answer's status of those ejected, and since when checks say it of the others.
	answers map[*Endpoint]uint16
	sick    map[*Endpoint]int64

	// Checked is what active health checks came to. watched are the endpoints under them, on their loop; over: there is no
	// such cluster any more.
	Checked CheckStats
	checks  *Checks // nil: there are none
	watched map[*Endpoint]*watched
	turn    loop.TurnNode
	follows bool
	over    bool
}

// NewHealth makes the Health of a cluster whose time passes on a loop, and whose endpoints are checked there; checks may be
// nil.
func NewHealth(l *loop.Loop, checks *Checks) *Health {
	h := &Health{loop: l, checks: checks}
	h.turn.Do = func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.renew()
	}
	return h
}

// Aside is an endpoint that is set aside, or was.
type Aside struct {
	Endpoint *Endpoint
	State    AsideState
	Reason   outlier.Reason // of one that was ejected; None: checks say so, or itself
	InARow   uint32         // errors that were too many
	Status   uint16         // of the last of them; 0: there was no answer
	// By the loop's clock; Until is about when it returns, 0: when checks pass.
	Since, Until int64
	Times        uint32 // how often it was ejected
}

// AsideState is where an endpoint stands.
type AsideState uint8

// States.
const (
	Returned  AsideState = iota // it is in use again
	Ejected                     // because of what came of requests
	Probed                      // it returns, as far as a few requests may try it
	Unhealthy                   // active health checks fail
	Withdrawn                   // it said so itself, in answer to a check
	Unreached                   // it does not answer to connections: others are called where there are any
)

// Tell has changes of who is set aside told, on whichever worker's loop they are learned; tell must not call back.
func (h *Health) Tell(tell func(*Cluster, *Aside)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tell = tell
}

// Aside are the endpoints that are set aside now, or were ejected since they came.
func (h *Health) Aside(now int64) (out []Aside) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.cluster.Endpoints {
		if until := e.Silent.Load(); until > now {
			out = append(out, Aside{Endpoint: e, State: Unreached, Reason: outlier.None, Since: e.SilentSince.Load(), Until: until})
		}
		if a, ok := h.ejected(e); ok {
			out = append(out, a)
		}
		if since, ok := h.sick[e]; ok {
			out = append(out, unwell(e, since))
		}
	}
	return out
}

// ejected is what outlier detection knows of an endpoint; h.mu is held.
func (h *Health) ejected(e *Endpoint) (Aside, bool) {
	x, ok := h.detector.Of(&e.Outlier)
	if !ok {
		return Aside{}, false
	}
	a := Aside{Endpoint: e, Reason: x.Why, InARow: h.cluster.Outlier.Consecutive[x.Why], Status: h.answers[e], Since: x.At, Until: x.Until, Times: x.Times}
	a.State = map[outlier.Phase]AsideState{outlier.Open: Ejected, outlier.HalfOpen: Probed, outlier.Closed: Returned}[x.Phase]
	return a, true
}

func unwell(e *Endpoint, since int64) Aside {
	a := Aside{Endpoint: e, State: Unhealthy, Reason: outlier.None, Since: since}
	if e.Withdrawn.Load() {
		a.State = Withdrawn
	}
	return a
}

// checked notes that checks of an endpoint say something else than before; on the loop.
func (h *Health) checked(e *Endpoint, sick bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.loop.Now()
	a := Aside{Endpoint: e, Reason: outlier.None, Since: now}
	if sick {
		if h.sick == nil {
			h.sick = map[*Endpoint]int64{}
		}
		h.sick[e] = now
		a = unwell(e, now)
	} else {
		delete(h.sick, e)
	}
	if h.tell != nil && slices.Contains(h.cluster.Endpoints, e) {
		h.tell(h.cluster, &a)
	}
}

// End forgets the cluster: nobody checks its endpoints any more.
func (h *Health) End() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	h.check()
}

// check has the endpoints of now checked, if any are or were; h.mu is held.
func (h *Health) check() {
	if h.checks == nil || h.cluster.Check == nil && !h.follows {
		return
	}
	h.follows = h.cluster.Check != nil
	h.loop.Post(func() { h.checks.follow(h) })
}

// soon makes the View of now at the end of this turn, however many endpoints changed in it; on the loop.
func (h *Health) soon() { h.loop.AtTurnEnd(&h.turn) }

// warmStep is how many times shares are computed while an endpoint warms up: by steps of 5 %.
const warmStep = 20

// Seal makes the Cluster the one its Health goes by. It is called once, before the Cluster is published; what is published
// is complete.
func (c *Cluster) Seal() {
	if c.Health == nil {
		c.Health = &Health{}
	}
	h := c.Health
	h.mu.Lock()
	defer h.mu.Unlock()
	h.doubt(c)
	h.cluster = c
	hosts := make([]*outlier.Host, len(c.Endpoints))
	for i, e := range c.Endpoints {
		hosts[i] = &e.Outlier
		if c.SlowStart.Window == 0 {
			e.Since.CompareAndSwap(0, longAgo)
		}
	}
	h.detector.Set(c.Outlier, hosts)
	for e := range h.answers {
		if c.Outlier == nil || e.Gone.Load() || !slices.Contains(c.Endpoints, e) {
			delete(h.answers, e)
		}
	}
	h.renew()
	if c.SlowStart.Window > 0 {
		h.at(0) // for what came, and the shares of now
	}
	h.check()
}

// doubt marks those of c that were not there before, if others were that stay and are under checks; h.mu is held.
func (h *Health) doubt(c *Cluster) {
	if h.checks == nil || !h.follows {
		return
	}
	if c.Check == nil {
		for _, e := range c.Endpoints {
			e.Unproven.Store(false)
		}
		return
	}
	there := make(map[*Endpoint]bool, len(c.Endpoints))
	for _, e := range h.cluster.Endpoints {
		there[e] = true
	}
	if !slices.ContainsFunc(c.Endpoints, func(e *Endpoint) bool { return there[e] }) {
		return // all are new together: the first one that passes must not have to serve alone until the others were asked
	}
	for _, e := range c.Endpoints {
		if !there[e] && !e.Checked.Never {
			e.Unproven.Store(true)
		}
	}
}

// longAgo is the Since of endpoints that were there before anybody wanted to know.
const longAgo = -1

// renew makes the View of now; h.mu is held.
func (h *Health) renew() { h.view.Store(newView(h.cluster, h.now)) }

// at has tick called at a time; h.mu is held.
func (h *Health) at(when int64) {
	if h.loop == nil {
		return
	}
	h.loop.Post(func() {
		h.timer.Fire = h.tick
		if when = max(when, h.loop.Now()+1); !h.timer.Armed() || when < h.due {
			h.due = when
			h.loop.Arm(&h.timer, when)
		}
	})
}

// tick lets time pass; on the loop.
func (h *Health) tick() {
	now := h.loop.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.cluster
	h.now = now
	next, changed := int64(0), h.sweep(now)
	for _, e := range c.Endpoints {
		if c.SlowStart.Window > 0 {
			e.Since.CompareAndSwap(0, now)
			if c.warming(e, now) {
				next = now + int64(c.SlowStart.Window)/warmStep
			}
			changed = true
		}
	}
	if h.detector.Busy() {
		if sweep := now + int64(c.Outlier.Interval); next == 0 || sweep < next {
			next = sweep
		}
	}
	if changed {
		h.renew()
	}
	if next > 0 {
		h.due = next
		h.loop.Arm(&h.timer, next)
	}
}

// sweep returns endpoints whose time is over; h.mu is held.
func (h *Health) sweep(now int64) (changed bool) {
	var open []*Endpoint
	if h.tell != nil && h.detector.Stats().Active > 0 {
		for _, e := range h.cluster.Endpoints {
			if e.Outlier.Phase() == outlier.Open {
				open = append(open, e)
			}
		}
	}
	changed = h.detector.Sweep(now)
	for _, e := range open {
		if e.Outlier.Phase() != outlier.Open {
			a, _ := h.ejected(e)
			h.tell(h.cluster, &a)
		}
	}
	return changed
}

// View is which endpoints may be chosen now.
func (c *Cluster) View() *View { return c.Health.view.Load() }

// Report notes how a request to an endpoint, or a connection for one, ended; status is that of an answer, 0: there was none.
func (c *Cluster) Report(e *Endpoint, r outlier.Result, status int, now int64) {
	if c.Outlier == nil || e == nil {
		return
	}
	if why := e.Outlier.Count(c.Outlier, r); why != outlier.None {
		c.Health.eject(e, why, uint16(status), now)
	}
}

func (h *Health) eject(e *Endpoint, why outlier.Reason, status uint16, now int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.detector.Eject(&e.Outlier, why, now) {
		return
	}
	if h.answers == nil {
		h.answers = map[*Endpoint]uint16{}
	}
	h.answers[e] = status
	if a, _ := h.ejected(e); h.tell != nil {
		h.tell(h.cluster, &a)
	}
	h.now = now
	h.renew()
	h.at(now + int64(h.cluster.Outlier.Interval))
}

// Outliers are what outlier detection did.
func (h *Health) Outliers() outlier.Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.detector.Stats()
}

// Usable counts the endpoints that may be chosen.
func (v *View) Usable() (n int) {
	for i := range v.Groups {
		n += len(v.Groups[i].Endpoints)
	}
	return n
}

// MaxOutlierInterval bounds Config.Interval and its kin, so that adding them to a time is safe.
const MaxOutlierInterval = 365 * 24 * time.Hour
