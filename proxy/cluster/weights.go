package cluster

import "sort"

// Seal computes what choosing needs from Endpoints. proxy/state calls it once, before
// the Cluster is published.
func (c *Cluster) Seal() {
	c.Weighted, c.TotalWeight, c.cumulative = false, 0, nil
	for _, w := range c.Weights {
		if w > 1 {
			c.Weighted = true
		}
	}
	if !c.Weighted {
		return
	}
	c.cumulative = make([]uint32, len(c.Endpoints))
	for i := range c.Endpoints {
		c.TotalWeight += max(c.Weights[i], 1)
		c.cumulative[i] = c.TotalWeight
	}
	c.Stride = stride(c.TotalWeight)
}

// Pick returns the endpoint that owns point at of [0, TotalWeight).
func (c *Cluster) Pick(at uint32) *Endpoint {
	return c.Endpoints[sort.Search(len(c.cumulative), func(i int) bool { return at < c.cumulative[i] })]
}

// stride is a number near the golden section of n and coprime to it: steps of that
// length visit every point of [0, n) once a cycle, neighbours far apart.
func stride(n uint32) uint32 {
	s := uint32(float64(n) * 0.6180339887498949)
	for s = max(s, 1); gcd(s, n) != 1; {
		s++
	}
	return s
}

func gcd(a, b uint32) uint32 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
