// Package lb chooses an endpoint among those of a cluster.
//
// A cluster and a worker's random source enter, an endpoint leaves. Each worker has
// its own Picker, so that round robin needs no atomic; LeastRequest compares counts
// that are shared between workers.
package lb

import (
	"slices"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/cluster/outlier"
)

// Picker is one worker's memory of one cluster: where round robin stands.
// The zero value begins at a random place.
type Picker struct {
	next    uint32
	started bool
}

// Pick chooses an endpoint, or nil if there is none to choose. rnd is a fresh random
// number, or what a request hashes to (RingHash and Maglev). Endpoints in tried, in the order of their failures, are avoided while another
// one is left: up to attempts further draws, as Envoy's host_selection_retry_max_attempts.
func (p *Picker) Pick(c *cluster.Cluster, rnd uint64, tried []*cluster.Endpoint, attempts int) *cluster.Endpoint {
	v := c.View()
	g := v.Group(uint32(rnd >> 32))
	switch {
	case g == nil:
		return nil
	case len(g.Endpoints) == 1 && len(v.Groups) == 1:
		return g.Endpoints[0]
	case len(v.Groups) > 1:
		rnd = mix(rnd) // what chose the group says nothing about the endpoint
	}
	if c.Policy == cluster.RingHash || c.Policy == cluster.Maglev {
		return hashed(g, rnd, tried)
	}
	e := p.draw(c, g, rnd)
	for i := 0; i < attempts && slices.Contains(tried, e); i++ {
		rnd = mix(rnd)
		if len(v.Groups) > 1 {
			g = v.Group(uint32(rnd >> 32))
			rnd = mix(rnd)
		}
		e = p.draw(c, g, rnd)
	}
	if !slices.Contains(tried, e) {
		return e
	}
	eps := g.Endpoints
	// Draws may keep hitting the same endpoint with few of them: look once in order. When all have been tried, the one
	// whose failure is longest ago is the likeliest to be back; least request would prefer one that answers nobody.
	for i, oldest := 0, len(tried); i < len(eps) && oldest >= 0; i++ {
		f := eps[(int(uint32(rnd))+i)%len(eps)]
		if at := lastIndex(tried, f); at < oldest {
			e, oldest = f, at
		}
	}
	return e
}

// hashed goes on from the place of a hash to the first endpoint that was not tried.
func hashed(g *cluster.Group, hash uint64, tried []*cluster.Endpoint) *cluster.Endpoint {
	e := g.At(hash, 0)
	for n := 1; n < hashedChoices && slices.Contains(tried, e); n++ {
		e = g.At(hash, n)
	}
	return e
}

// hashedChoices bounds the search: neighbours on a ring are often the same endpoint.
const hashedChoices = 64

// Choose is Pick for a request that is about to be sent: an endpoint that is half-open takes only as many at once as may
// try it, the others go elsewhere. trial says that this one is such a try; outlier.Host.Tried ends it.
func (p *Picker) Choose(c *cluster.Cluster, rnd uint64, tried []*cluster.Endpoint, attempts int) (e *cluster.Endpoint, trial bool) {
	e = p.Pick(c, rnd, tried, attempts)
	if e == nil || e.Outlier.Phase() != outlier.HalfOpen {
		return e, false
	}
	for range len(c.Endpoints) {
		switch {
		case e.Outlier.Phase() != outlier.HalfOpen:
			return e, false
		case e.Outlier.Try(c.Outlier):
			return e, true
		}
		rnd = mix(rnd)
		tried = append(slices.Clip(tried), e)
		e = p.Pick(c, rnd, tried, attempts)
	}
	return nil, false
}

// lastIndex is the last place of e, -1 if there is none.
func lastIndex(tried []*cluster.Endpoint, e *cluster.Endpoint) int {
	for i, t := range slices.Backward(tried) {
		if t == e {
			return i
		}
	}
	return -1
}

func (p *Picker) draw(c *cluster.Cluster, g *cluster.Group, rnd uint64) *cluster.Endpoint {
	eps := g.Endpoints
	n := uint64(len(eps))
	switch c.Policy {
	case cluster.LeastRequest:
		if g.Weighted {
			return leastWeighted(g, rnd)
		}
		// Power of two choices, as Envoy's choice_count 2: two draws may coincide.
		a, b := eps[reduce(uint32(rnd), n)], eps[reduce(uint32(rnd>>32), n)]
		if b.Active.Load() < a.Active.Load() {
			return b
		}
		return a
	case cluster.Random:
		if g.Weighted {
			return g.Pick(uint32(reduce(uint32(rnd), uint64(g.TotalWeight))))
		}
		return eps[reduce(uint32(rnd), n)]
	default: // RoundRobin
		if !p.started {
			p.started, p.next = true, uint32(rnd)
		}
		p.next++
		if g.Weighted {
			// A full cycle visits each endpoint as often as its weight says; the stride
			// spreads the visits of a heavy endpoint over the cycle.
			return g.Pick(uint32(uint64(p.next) * uint64(g.Stride) % uint64(g.TotalWeight)))
		}
		return eps[uint64(p.next)%n]
	}
}

// leastWeighted compares load per weight of two weighted draws.
func leastWeighted(g *cluster.Group, rnd uint64) *cluster.Endpoint {
	a := g.Pick(uint32(reduce(uint32(rnd), uint64(g.TotalWeight))))
	b := g.Pick(uint32(reduce(uint32(rnd>>32), uint64(g.TotalWeight))))
	if b.Active.Load() < a.Active.Load() {
		return b
	}
	return a
}

// reduce maps r to [0, n) without division.
func reduce(r uint32, n uint64) uint64 { return uint64(r) * n >> 32 }

// mix makes a further random number of one (splitmix64's finaliser).
func mix(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return z ^ (z >> 31)
}
