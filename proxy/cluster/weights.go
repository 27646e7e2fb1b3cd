package cluster

import "sort"

// Pick returns the endpoint that owns point at of [0, TotalWeight).
func (g *Group) Pick(at uint32) *Endpoint {
	return g.Endpoints[sort.Search(len(g.cumulative), func(i int) bool { return at < g.cumulative[i] })]
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
