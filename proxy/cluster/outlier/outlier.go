// Package outlier decides which endpoints of a cluster are set aside for a while because they fail: Envoy's outlier
// detection, as far as Istio configures it (consecutive errors).
//
// Results of requests enter by Host.Count, from any worker, without a lock: it says when one too many failed in a row. The
// caller then tells the Detector, with the time, and from time to time calls Sweep; what leaves is who is ejected. There is
// no clock, goroutine or lock here: a Detector belongs to one caller at a time.
package outlier

import (
	"slices"
	"sync/atomic"
	"time"
)

// Config is when endpoints are set aside. Fields name those of envoy.config.cluster.v3.OutlierDetection.
type Config struct {
	// How many errors in a row are too many; 0: however many (consecutive_5xx, consecutive_gateway_failure,
	// consecutive_local_origin_failure, as far as they are enforced).
	Consecutive [Reasons]uint32
	// Split counts failures of our own (no connection, a reset, silence) apart from what endpoints answer; otherwise they
	// count as a 503 (split_external_local_origin_errors).
	Split        bool
	Interval     time.Duration // between sweeps
	BaseEjection time.Duration // times how often it was ejected
	MaxEjection  time.Duration // at most
	MaxPercent   uint32        // of endpoints that may be ejected at once
	AlwaysOne    bool          // one may be, however few there are
	// Probes makes the return of an endpoint half-open: so many requests at once may try it, until one of them ends. 0:
	// it returns wholly (no field of Envoy's).
	Probes uint32
	// Statuses are what counts as an error instead of a status from 500 on; nil: just that.
	Statuses *Statuses
}

// Statuses is a set of statuses from 100 to 599.
type Statuses [10]uint64

// Add puts one into the set.
func (s *Statuses) Add(status int) { s[status/64] |= 1 << (status % 64) }

// Has reports whether one is in the set.
func (s *Statuses) Has(status int) bool {
	return status >= 0 && status/64 < len(s) && s[status/64]&(1<<(status%64)) != 0
}

// Result is how a request to an endpoint ended.
type Result uint8

// Results.
const (
	Success      Result = iota // an answer that is no error, or a TCP connection
	ServerError                // another error than those
	GatewayError               // 502, 503 or 504
	LocalFailure               // no connection, a reset, or nothing in time
)

// OfStatus is the result of an HTTP status.
func (c *Config) OfStatus(status int) Result {
	if c.Statuses != nil {
		switch {
		case !c.Statuses.Has(status):
			return Success
		case status < 500:
			return ServerError
		}
	}
	switch {
	case status == 502, status == 503, status == 504:
		return GatewayError
	case status >= 500:
		return ServerError
	}
	return Success
}

// Reason is why an endpoint is set aside.
type Reason uint8

// Reasons, in the order of Config.Consecutive.
const (
	FiveXX Reason = iota
	Gateway
	LocalOrigin
	Reasons // how many there are
	None    = Reasons
)

// Phase is where an endpoint stands.
type Phase uint32

// Phases: in use, set aside, or tried.
const (
	Closed Phase = iota
	Open
	HalfOpen
)

// Host is an endpoint's record. The zero value has done nothing wrong.
type Host struct {
	counts [Reasons]atomic.Uint32
	phase  atomic.Uint32
	trials atomic.Int32 // under way, while half-open

	// of the Detector
	at    int64  // when it was ejected last
	back  int64  // when it returned then
	times uint32 // how often, less what good conduct took away
	why   Reason // of the last time
	ever  uint32 // how often
}

// Phase is where the endpoint stands, for any worker.
func (h *Host) Phase() Phase { return Phase(h.phase.Load()) }

// Count notes a result, and answers with a reason to eject the endpoint, or None. The first answer of one that is half-open
// decides.
func (h *Host) Count(c *Config, r Result) Reason {
	if h.Phase() == HalfOpen {
		h.reset()
		switch {
		case r == Success:
			h.phase.CompareAndSwap(uint32(HalfOpen), uint32(Closed))
			return None
		case r == LocalFailure && c.Split:
			return LocalOrigin
		case r == ServerError:
			return FiveXX
		}
		return Gateway
	}
	if r == LocalFailure {
		if c.Split {
			return h.one(c, LocalOrigin)
		}
		r = GatewayError
	} else {
		h.clear(LocalOrigin)
	}
	switch r {
	case Success:
		h.clear(FiveXX)
		h.clear(Gateway)
		return None
	case ServerError:
		h.clear(Gateway)
		return h.one(c, FiveXX)
	}
	if why := h.one(c, Gateway); why != None {
		h.clear(FiveXX)
		return why
	}
	return h.one(c, FiveXX)
}

// clear writes only where there is something: the line is shared by all workers.
func (h *Host) clear(r Reason) {
	if h.counts[r].Load() != 0 {
		h.counts[r].Store(0)
	}
}

// one adds one; of several workers that do, one finds that it is the last.
func (h *Host) one(c *Config, r Reason) Reason {
	most := c.Consecutive[r]
	if most == 0 || h.counts[r].Add(1) != most {
		return None
	}
	h.counts[r].Store(0)
	return r
}

func (h *Host) reset() {
	for r := range Reasons {
		h.clear(r)
	}
}

// Try takes one of the places for requests to an endpoint that is half-open, if one is left.
func (h *Host) Try(c *Config) bool {
	if uint32(h.trials.Add(1)) > c.Probes {
		h.trials.Add(-1)
		return false
	}
	return true
}

// Tried gives the place back.
func (h *Host) Tried() { h.trials.Add(-1) }

// Detector is a cluster's. The zero value has no hosts.
type Detector struct {
	c       *Config
	hosts   []*Host
	ejected int
	stats   Stats
}

// Stats count what a Detector did.
type Stats struct {
	Active, Total int
	Peak          int // the most that were active
	By            [Reasons]int
	Overflow      int // because of MaxPercent it did not
}

// Stats are those since the beginning.
func (d *Detector) Stats() Stats {
	s := d.stats
	s.Active = d.ejected
	return s
}

// Set gives the Detector the endpoints there are now, and the Config they are judged by; without one nobody is ejected.
func (d *Detector) Set(c *Config, hosts []*Host) {
	d.c, d.hosts = c, slices.Clone(hosts)
	d.ejected = 0
	for _, h := range d.hosts {
		switch {
		case c == nil:
			h.phase.Store(uint32(Closed))
			h.times = 0
			h.reset()
		case h.Phase() == Open:
			d.ejected++
		}
	}
}

// Eject sets an endpoint aside, unless it is already or too many others are, and reports whether it did.
func (d *Detector) Eject(h *Host, why Reason, now int64) bool {
	c := d.c
	if c == nil || h.Phase() == Open || !slices.Contains(d.hosts, h) {
		return false
	}
	if uint64(d.ejected+1)*100 > uint64(c.MaxPercent)*uint64(len(d.hosts)) && (d.ejected > 0 || !c.AlwaysOne || c.MaxPercent == 0) {
		d.stats.Overflow++
		if h.Phase() == HalfOpen { // nobody can say that it is well, and it may not be set aside
			h.phase.Store(uint32(Closed))
		}
		return false
	}
	h.phase.Store(uint32(Open))
	h.at, h.why = now, why
	h.ever++
	// One step beyond the maximum, so that good conduct has something to take away from a time that is long enough.
	if time.Duration(h.times)*c.BaseEjection < c.MaxEjection+c.BaseEjection {
		h.times++
	}
	d.ejected++
	d.stats.Total++
	d.stats.Peak = max(d.stats.Peak, d.ejected)
	d.stats.By[why]++
	return true
}

// Sweep returns endpoints whose time is over, and lets good conduct shorten the next; it reports whether somebody
// returned.
func (d *Detector) Sweep(now int64) (changed bool) {
	if d.c == nil {
		return false
	}
	for _, h := range d.hosts {
		switch h.Phase() {
		case Closed:
			if h.times > 0 {
				h.times--
			}
		case Open:
			if now-h.at >= int64(d.time(h)) {
				h.reset()
				h.back = now
				to := Closed
				if d.c.Probes > 0 {
					to = HalfOpen
				}
				h.phase.Store(uint32(to))
				d.ejected--
				changed = true
			}
		}
	}
	return changed
}

// Ejected is what a Detector knows of an endpoint that was ejected.
type Ejected struct {
	Phase     Phase
	Why       Reason
	At, Until int64 // the last time; it returns with the first sweep from Until on, or did then
	Times     uint32
}

// Of is what is known of an endpoint; false: it never was ejected.
func (d *Detector) Of(h *Host) (e Ejected, ok bool) {
	if d.c == nil || h.ever == 0 {
		return e, false
	}
	e = Ejected{h.Phase(), h.why, h.at, h.back, h.ever}
	if e.Phase == Open {
		e.Until = h.at + int64(d.time(h))
	}
	return e, true
}

// time is how long the last ejection lasts.
func (d *Detector) time(h *Host) time.Duration {
	return min(time.Duration(h.times)*d.c.BaseEjection, d.c.MaxEjection)
}

// Busy reports whether sweeps are of use: somebody is ejected, or was and has not made up for it.
func (d *Detector) Busy() bool {
	return d.c != nil && slices.ContainsFunc(d.hosts, func(h *Host) bool { return h.Phase() == Open || h.times > 0 && h.Phase() == Closed })
}
