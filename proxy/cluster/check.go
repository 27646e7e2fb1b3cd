package cluster

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/proxy/loop"
)

// CheckKind is what a check asks.
type CheckKind uint8

// Kinds of checks.
const (
	CheckTCP  CheckKind = iota // that a connection opens, TLS included
	CheckHTTP                  // a request
	CheckGRPC                  // grpc.health.v1.Health/Check
)

// Check is what endpoints must answer to be used (envoy.config.core.v3.HealthCheck).
type Check struct {
	Key  string // equal for equal checks
	Kind CheckKind
	// A check begins an interval after the end of the last one, and a random part of Jitter later, and has Timeout.
	Interval, Timeout, Jitter time.Duration
	Unhealthy, Healthy        uint32 // how many in a row change what an endpoint is taken for

	Method, Host, Path string // Host "": the service's
	Headers            [][2]string
	Statuses           [][2]int // from, up to but not including; nil: 200
	Retriable          [][2]int // likewise, of failures: those that count towards Unhealthy. Any other takes an endpoint out at once
	Service            string   // of gRPC, "" for the whole server
}

// Judge is what a status says of an endpoint.
func (k *Check) Judge(status int) CheckResult {
	in := func(ranges [][2]int) bool {
		return slices.ContainsFunc(ranges, func(r [2]int) bool { return status >= r[0] && status < r[1] })
	}
	switch {
	case k.Statuses == nil && status == 200, in(k.Statuses):
		return CheckPassed
	case in(k.Retriable):
		return CheckFailed
	}
	return CheckDown
}

// CheckedAt is where an endpoint's health is asked for, if not where requests go (health_check_config).
type CheckedAt struct {
	Never bool           // it is not: the endpoint is always taken for well
	Addr  netip.AddrPort // invalid: where requests go
	Host  string         // of HTTP and gRPC, "": the check's
}

// CheckResult is how a check ended.
type CheckResult uint8

// Results.
const (
	CheckPassed    CheckResult = iota
	CheckFailed                // it was answered, and not as expected
	CheckNetwork               // it was not: no connection, or nothing in time
	CheckDown                  // it was answered in a way that leaves nothing to ask again
	CheckWithdrawn             // it was answered with FailHeader
	CheckDegraded              // it passed, with DegradedHeader
)

// FailHeader takes an endpoint that is under checks out at once, in whatever answer it is, until checks pass again.
const FailHeader = "x-envoy-immediate-health-check-fail"

// DegradedHeader in an answer that passes says that the endpoint is to be used only where there are too few others.
const DegradedHeader = "x-envoy-degraded"

// Withdraw takes an endpoint out that says so itself, until its checks pass again. Any goroutine.
func (h *Health) Withdraw(e *Endpoint) {
	if h == nil || h.checks == nil || e.Withdrawn.Load() {
		return
	}
	h.loop.Post(func() {
		if w := h.watched[e]; w != nil {
			w.by.withdraw()
		}
	})
}

// Prober asks an endpoint once, on the loop of the Checks. c and e are the Checks' own, with unlimited Limits: requests of
// others neither wait for checks nor count with them. It calls done once, not before Probe returned, unless Cancel is
// called first.
type Prober interface {
	Probe(c *Cluster, e *Endpoint, k *Check, done func(CheckResult)) Probing
}

// Probing is a check under way.
type Probing interface{ Cancel() }

// CheckStats count the checks of a cluster, by Envoy's names.
type CheckStats struct{ Attempts, Successes, Failures, NetworkFailures atomic.Uint64 }

// Checks are the active health checks of a proxy. They all happen on one loop, and an endpoint of several clusters (those
// of subsets) is asked once for all of them. It is used on that loop only.
type Checks struct {
	loop    *loop.Loop
	prober  Prober
	all     map[string]*checker
	active  int
	waiting []*checker
}

// NewChecks makes checks that happen on a loop; none are under way yet.
func NewChecks(l *loop.Loop, p Prober) *Checks {
	return &Checks{loop: l, prober: p, all: map[string]*checker{}}
}

// checksAtOnce bounds checks under way: with 256 a proxy asks 10,000 endpoints, of which each takes 20 ms, in a second.
const checksAtOnce = 256

// watched is an endpoint in a cluster, with who asks it.
type watched struct {
	health   *Health
	endpoint *Endpoint
	by       *checker
}

// follow asks the endpoints that h has now, and no others.
func (s *Checks) follow(h *Health) {
	h.mu.Lock()
	c := h.cluster
	over := h.over
	h.mu.Unlock()
	now := map[*Endpoint]bool{}
	var gone []*watched
	if c.Check != nil && !over {
		if h.watched == nil {
			h.watched = map[*Endpoint]*watched{}
		}
		for _, e := range c.Endpoints {
			if e.Checked.Never {
				continue
			}
			now[e] = true
			was := h.watched[e]
			if was != nil && was.by.check.Key == c.Check.Key {
				continue
			}
			if was != nil {
				gone = append(gone, was)
			}
			h.watched[e] = s.join(c, &watched{health: h, endpoint: e})
		}
	}
	for e, w := range h.watched {
		if !now[e] {
			delete(h.watched, e)
			gone = append(gone, w)
			w.take(verdict{known: true})
		}
	}
	// Last: what is known of an address is known of the endpoint that follows there.
	for _, w := range gone {
		s.leave(w)
	}
}

// take sets what the endpoint is taken for.
func (w *watched) take(v verdict) {
	e := w.endpoint
	changed := e.Sick.Swap(v.sick) != v.sick
	changed = e.Withdrawn.Swap(v.withdrawn) != v.withdrawn || changed
	changed = e.Degraded.Swap(v.degraded) != v.degraded || changed
	changed = e.Unproven.Load() && v.known && e.Unproven.CompareAndSwap(true, false) || changed
	if changed {
		w.health.soon()
		w.health.checked(w.endpoint, v.sick)
	}
}

func (s *Checks) join(c *Cluster, w *watched) *watched {
	key := c.Check.Key + "|" + w.endpoint.name()
	if at := w.endpoint.Checked; at != (CheckedAt{}) {
		key += "|" + at.Addr.String() + "|" + at.Host
	}
	k := s.all[key]
	if k == nil {
		k = &checker{checks: s, key: key, check: c.Check}
		k.timer.Fire, k.done = k.fire, k.ended
		k.imitate(c, w.endpoint)
		s.all[key] = k
		// All endpoints of a cluster are new together: spread over the first second at most.
		s.loop.Arm(&k.timer, s.loop.Now()+k.part(min(c.Check.Interval, time.Second)))
	}
	w.by = k
	k.of = append(k.of, w)
	w.take(k.verdict)
	return w
}

func (s *Checks) leave(w *watched) {
	k := w.by
	for i, o := range k.of {
		if o == w {
			k.of = append(k.of[:i], k.of[i+1:]...)
			break
		}
	}
	if len(k.of) > 0 {
		first := k.of[0]
		first.health.mu.Lock()
		c := first.health.cluster
		first.health.mu.Unlock()
		k.imitate(c, first.endpoint)
		return
	}
	delete(s.all, k.key)
	k.timer.Stop()
	if p := k.under; p != nil {
		k.under = nil
		s.active--
		p.Cancel()
		s.next()
	}
}

// next begins a check that waits for another one's end.
func (s *Checks) next() {
	for len(s.waiting) > 0 && s.active < checksAtOnce {
		k := s.waiting[0]
		s.waiting[0] = nil
		s.waiting = s.waiting[1:]
		if k.queued = false; len(k.of) > 0 {
			k.begin()
		}
	}
}

// checker asks one endpoint.
type checker struct {
	checks *Checks
	key    string
	check  *Check
	of     []*watched // for whom; the first one's transport is used

	cluster  *Cluster // ours: as the first one's, without what is learned and limited there
	endpoint *Endpoint

	timer  loop.Timer
	done   func(CheckResult)
	under  Probing // nil: none
	queued bool
	run    uint32 // results in a row that say otherwise
	passed bool   // once; until then each result decides alone
	verdict
}

// verdict is what checks say of an endpoint.
type verdict struct {
	known     bool // there was a result
	sick      bool
	withdrawn bool // and said so itself
	degraded  bool
}

// rule sets it, for whoever asks.
func (k *checker) rule(v verdict) {
	k.verdict = v
	for _, w := range k.of {
		w.take(v)
	}
}

// withdraw takes the endpoint out, whatever is known of it.
func (k *checker) withdraw() {
	k.run = 0
	k.rule(verdict{known: true, sick: true, withdrawn: true})
}

// imitate makes cluster and endpoint like those given.
func (k *checker) imitate(c *Cluster, e *Endpoint) {
	l := &Limits{}
	for _, max := range []*atomic.Uint32{&l.MaxConnections, &l.MaxPending, &l.MaxRequests, &l.MaxRetries} {
		max.Store(Unlimited)
	}
	own := *c
	own.Limits, own.Outlier, own.Health, own.Hash = l, nil, nil, nil
	own.Endpoints, own.Weights, own.Places = nil, nil, nil
	own.MaxRequestsPerConn, own.MaxConnectionDuration, own.MaxStreamDuration = 0, 0, 0
	own.IdleTimeout = 2*k.check.Interval + k.check.Timeout // kept for the next check, and not much longer than there are any
	switch {
	case k.check.Kind == CheckGRPC:
		own.Protocol = HTTP2
	case own.Protocol == Downstream:
		own.Protocol = HTTP1
	}
	k.cluster = &own
	k.endpoint = &Endpoint{ID: -1, Key: e.Key, Addr: e.Addr, Path: e.Path, Also: e.Also, Host: e.Host, Workload: e.Workload, Limits: l}
	if at := e.Checked; at != (CheckedAt{}) {
		if at.Addr.IsValid() {
			k.endpoint.Addr, k.endpoint.Path, k.endpoint.Also = at.Addr, "", nil
		}
		k.endpoint.Checked = at
	}
}

// part is a random part of d.
func (k *checker) part(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return int64(k.checks.loop.Rand() % uint64(d))
}

func (k *checker) fire() {
	if s := k.checks; s.active >= checksAtOnce {
		if !k.queued {
			k.queued = true
			s.waiting = append(s.waiting, k)
		}
		return
	}
	k.begin()
}

func (k *checker) begin() {
	k.checks.active++
	for _, w := range k.of {
		w.health.Checked.Attempts.Add(1)
	}
	k.endpoint.Transport.Store(k.of[0].endpoint.Transport.Load())
	k.under = k.checks.prober.Probe(k.cluster, k.endpoint, k.check, k.done)
}

func (k *checker) ended(r CheckResult) {
	k.under = nil
	k.checks.active--
	for _, w := range k.of {
		c := &w.health.Checked
		switch r {
		case CheckPassed, CheckDegraded:
			c.Successes.Add(1)
		case CheckNetwork:
			c.NetworkFailures.Add(1)
			c.Failures.Add(1)
		case CheckFailed, CheckDown, CheckWithdrawn:
			c.Failures.Add(1)
		}
	}
	k.judge(r)
	k.checks.loop.Arm(&k.timer, k.checks.loop.Now()+int64(k.check.Interval)+k.part(k.check.Jitter))
	k.checks.next()
}

// judge says what follows from a result.
func (k *checker) judge(r CheckResult) {
	if r == CheckWithdrawn {
		k.withdraw()
		return
	}
	passes := r == CheckPassed || r == CheckDegraded
	v := k.verdict
	v.known, v.degraded = true, r == CheckDegraded || v.degraded && !passes
	needed := k.check.Unhealthy
	if k.sick {
		needed = k.check.Healthy
	}
	if k.run++; k.sick != passes {
		k.run = 0
	} else if k.run >= needed || r == CheckDown || !k.passed {
		k.run, v.sick, v.withdrawn = 0, !k.sick, false
	}
	k.passed = k.passed || passes
	k.rule(v)
}
