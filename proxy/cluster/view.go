package cluster

import (
	"cmp"
	"math"
	"slices"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster/outlier"
)

// View is which endpoints may be chosen at the moment, and how often. It is immutable; a change of health makes a new one.
type View struct {
	Groups []Group
	// loads are the groups' shares of [0, 1<<32), added up; nil: there is one group at most.
	loads []uint64
}

// Group returns the group that owns a random number of 32 bits, nil if there is none.
func (v *View) Group(random uint32) *Group {
	switch len(v.Groups) {
	case 0:
		return nil
	case 1:
		return &v.Groups[0]
	}
	for i, upTo := range v.loads {
		if uint64(random) < upTo {
			return &v.Groups[i]
		}
	}
	return &v.Groups[len(v.Groups)-1]
}

// Group is endpoints that are chosen from alike: those of one priority, or of one locality in it.
type Group struct {
	Endpoints []*Endpoint
	// Whether weights differ, their sum, and the step of weighted round robin through it.
	Weighted    bool
	TotalWeight uint32
	Stride      uint32
	cumulative  []uint32
	hashing     *hashing // of RingHash and Maglev
}

// defaultOverprovisioning is Envoy's default overprovisioning_factor: a priority or locality gives work away as soon as less than
// 1/1.4 of it (71 %) is in use.
const defaultOverprovisioning = 140

// newView computes what may be chosen of c at a moment.
func newView(c *Cluster, now int64) *View {
	type level struct {
		total, well, degraded, unproven []int // indices of endpoints; who is degraded would be well otherwise
		counted                         int   // those of total by which it is judged how well it is: all but the withdrawn, as in Envoy, and the unproven
	}
	overprovisioning := float64(cmp.Or(c.Overprovisioning, defaultOverprovisioning)) / 100
	var levels []level
	known := 0 // who may be used, and is not unproven
	for i, e := range c.Endpoints {
		at := c.place(i)
		for len(levels) <= int(at.Priority) {
			levels = append(levels, level{})
		}
		l := &levels[at.Priority]
		l.total = append(l.total, i)
		unproven := e.Unproven.Load()
		if !e.Withdrawn.Load() && !unproven {
			l.counted++
		}
		switch {
		case at.Unhealthy || e.Outlier.Phase() == outlier.Open || e.Sick.Load():
		case unproven:
			l.unproven = append(l.unproven, i)
		case at.Degraded || e.Degraded.Load():
			l.degraded = append(l.degraded, i)
			known++
		default:
			l.well = append(l.well, i)
			known++
		}
	}
	if known == 0 { // better who may be well than nobody
		for p := range levels {
			l := &levels[p]
			l.well = l.unproven
			l.counted += len(l.unproven)
		}
	}
	// Envoy's priority levels: each takes what its health permits, the next ones the rest; after them those that are
	// degraded, in the same order.
	health, spare, sum := make([]float64, len(levels)), make([]float64, len(levels)), 0.0
	for p, l := range levels {
		if l.counted > 0 {
			health[p] = min(1, overprovisioning*float64(len(l.well))/float64(l.counted))
			spare[p] = min(1, overprovisioning*float64(len(l.degraded))/float64(l.counted))
		}
		sum += health[p] + spare[p]
	}
	load, rest := make([]float64, len(levels)), make([]float64, len(levels))
	panics := make([]bool, len(levels))
	everywhere := true
	for p, l := range levels {
		panics[p] = sum < 1 && len(l.total) > 0 && float64(len(l.well)+len(l.degraded))*100 < float64(c.PanicAt)*float64(max(1, l.counted))
		everywhere = everywhere && (panics[p] || len(l.total) == 0)
	}
	switch {
	case everywhere:
		for p, l := range levels {
			load[p] = float64(len(l.total)) / float64(max(1, len(c.Endpoints)))
		}
	case sum > 0:
		left := 1.0
		take := func(load, able []float64) {
			for p := range levels {
				load[p] = min(left, able[p]/min(1, sum))
				if left -= load[p]; left < 1e-9 {
					left = 0 // what is left is rounding
				}
			}
		}
		take(load, health)
		take(rest, spare)
	}
	v := &View{}
	var shares []float64
	add := func(l *level, use []int, load float64) {
		if load <= 0 || len(use) == 0 {
			return
		}
		if !c.LocalityWeighted {
			v.Groups = append(v.Groups, c.group(use, now))
			shares = append(shares, load)
			return
		}
		have, used := map[uint16]int{}, map[uint16][]int{}
		for _, i := range l.total {
			if e := c.Endpoints[i]; !e.Withdrawn.Load() && (known == 0 || !e.Unproven.Load()) {
				have[c.place(i).Locality]++
			}
		}
		for _, i := range use {
			used[c.place(i).Locality] = append(used[c.place(i).Locality], i)
		}
		first, all := len(shares), 0.0
		for id := range uint16(len(c.Localities)) {
			share := float64(c.Localities[id].Weight) * min(1, overprovisioning*float64(len(used[id]))/float64(max(1, have[id])))
			if share == 0 {
				continue
			}
			v.Groups = append(v.Groups, c.group(used[id], now))
			shares = append(shares, share)
			all += share
		}
		for i := first; i < len(shares); i++ {
			shares[i] *= load / all
		}
	}
	for p := range levels {
		if l := &levels[p]; panics[p] {
			add(l, l.total, load[p]+rest[p])
		} else {
			add(l, l.well, load[p])
			add(l, l.degraded, rest[p])
		}
	}
	if len(v.Groups) > 1 {
		all, upTo := 0.0, 0.0
		for _, s := range shares {
			all += s
		}
		for _, s := range shares {
			upTo += s
			v.loads = append(v.loads, uint64(upTo/all*(1<<32)))
		}
	}
	return v
}

// Elsewhere is an endpoint that is well, of the first priority of which none was tried; nil if there is none. random chooses
// among several.
func (c *Cluster) Elsewhere(random uint64, tried []*Endpoint) *Endpoint {
	var seen [maxPriorities]bool
	for i, e := range c.Endpoints {
		if slices.Contains(tried, e) {
			seen[c.place(i).Priority] = true
		}
	}
	var out *Endpoint
	best, n := 0, uint64(0)
	for i, e := range c.Endpoints {
		at := c.place(i)
		if p := int(at.Priority); seen[p] || n > 0 && p > best || at.Unhealthy || at.Degraded || e.Sick.Load() || e.Degraded.Load() || e.Unproven.Load() || e.Outlier.Phase() != outlier.Closed {
			continue
		} else if n == 0 || p < best {
			best, n = p, 0
		}
		// Each of n so far is out with the same probability.
		if n++; reduced(random, n) == 0 {
			out = e
		}
		random = mix(random + 0x9e3779b97f4a7c15)
	}
	return out
}

// Answering is an endpoint that may be chosen and answers to connections, as far as is known, nil if there is none; of those that random
// leads to, if one of them does; of the next priority where all of one are silent: a place that is cut off.
func (c *Cluster) Answering(random uint64, now int64, tried []*Endpoint) (out *Endpoint) {
	v := c.View()
	var silent []*Endpoint
	first := v.Group(uint32(random >> 32))
	among := func(g *Group) {
		n := uint64(0)
		for _, e := range g.Endpoints {
			if e.Silent.Load() > now {
				silent = append(silent, e)
				continue
			}
			if e.Gone.Load() || slices.Contains(tried, e) {
				continue
			}
			if n++; reduced(random, n) == 0 { // each of n so far is out with the same probability
				out = e
			}
			random = mix(random + 0x9e3779b97f4a7c15)
		}
	}
	if first != nil {
		among(first)
	}
	for i := range v.Groups {
		if g := &v.Groups[i]; out == nil && g != first {
			among(g)
		}
	}
	for out == nil && len(silent) > 0 {
		var e *Endpoint
		for range 8 { // of several the first may be silent, too
			random = mix(random + 0x9e3779b97f4a7c15)
			if e = c.Elsewhere(random, silent); e == nil {
				return nil
			}
			if e.Silent.Load() <= now && !slices.Contains(tried, e) {
				return e
			}
		}
		silent = append(silent, e) // its priority
	}
	return out
}

// maxPriorities is how many priorities there are: 0 to 128 (LocalityLbEndpoints.priority).
const maxPriorities = 129

// reduced maps the upper half of r to [0, n).
func reduced(r, n uint64) uint64 { return (r >> 32) * n >> 32 }

func (c *Cluster) place(i int) Place {
	if c.Places == nil {
		return Place{}
	}
	return c.Places[i]
}

// group makes a group of some endpoints.
func (c *Cluster) group(use []int, now int64) Group {
	g := Group{Endpoints: make([]*Endpoint, len(use))}
	weights := make([]uint64, len(use))
	total := uint64(0)
	for i, at := range use {
		g.Endpoints[i] = c.Endpoints[at]
		weights[i] = 1
		if c.Weights != nil {
			weights[i] = uint64(max(c.Weights[at], 1))
		}
		total += weights[i]
	}
	if c.SlowStart.Window > 0 && slices.ContainsFunc(g.Endpoints, func(e *Endpoint) bool { return c.warming(e, now) }) {
		// Shares become fractions: a hundredth is as fine as their percentages are given.
		fine := min(100, float64(math.MaxUint32)/float64(total))
		total = 0
		for i, e := range g.Endpoints {
			share := 1.0
			if c.warming(e, now) {
				share = c.SlowStart.share(now, e.Since.Load())
			}
			weights[i] = max(1, uint64(float64(weights[i])*fine*share))
			total += weights[i]
		}
	}
	switch c.Policy {
	case RingHash:
		g.hashing = newRing(&g, weights, max(1, c.TableSize/4))
	case Maglev:
		g.hashing = newTable(&g, weights, c.TableSize)
	}
	g.Weighted = slices.ContainsFunc(weights, func(w uint64) bool { return w != weights[0] })
	if !g.Weighted {
		return g
	}
	g.cumulative = make([]uint32, len(use))
	for i, w := range weights {
		g.TotalWeight += uint32(w)
		g.cumulative[i] = g.TotalWeight
	}
	g.Stride = stride(g.TotalWeight)
	return g
}

// warming reports whether an endpoint is new: not all of its share is its yet. One whose time of coming has not been
// noted is.
func (c *Cluster) warming(e *Endpoint, now int64) bool {
	since := e.Since.Load()
	return since >= 0 && (since == 0 || now-since < int64(c.SlowStart.Window))
}

// share is the part of its share that an endpoint gets which came at a time (Envoy's slow start).
func (s *SlowStart) share(now, since int64) float64 {
	passed := 0.0
	if since > 0 {
		passed = max(float64(now-since), 0) / float64(s.Window)
	}
	return min(1, max(s.MinPercent/100, math.Pow(passed, 1/max(s.Aggression, 0.01))))
}

// Missing is why no endpoint could be chosen.
func (c *Cluster) Missing() causes.Cause {
	if len(c.Endpoints) == 0 {
		switch c.Kind {
		case StrictDNS, LogicalDNS, Dynamic:
			return causes.NameNotResolved
		case Static:
			return causes.NoEndpoints
		default:
			return causes.NoHealthyUpstream
		}
	}
	for _, e := range c.Endpoints {
		if e.Outlier.Phase() != outlier.Open {
			return causes.NoHealthyUpstream
		}
	}
	return causes.EndpointsEjected
}
