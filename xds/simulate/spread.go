package simulate

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
)

// choice is which endpoints of a group are meant.
type choice func(*endpointv3.LbEndpoint) bool

// Spread is who gets what share of a cluster's calls (Envoy's "priority levels", "degraded endpoints", "locality weighted load balancing" and
// "panic threshold"). A priority keeps what its health times the overprovisioning factor permits, the next one takes the rest, and after the
// last one those that are degraded, in the same order. Where all of them together cannot take everything, those of which too few are healthy
// or degraded are used wholly.
func Spread(c *clusterv3.Cluster, load *endpointv3.ClusterLoadAssignment) (out []Endpoint) {
	groups := map[uint32][]*endpointv3.LocalityLbEndpoints{}
	last := uint32(0)
	for _, l := range load.GetEndpoints() {
		groups[l.GetPriority()] = append(groups[l.GetPriority()], l)
		last = max(last, l.GetPriority())
	}
	factor := 1.4
	if f := load.GetPolicy().GetOverprovisioningFactor(); f != nil {
		factor = float64(f.GetValue()) / 100
	}
	threshold := 50.0
	if t := c.GetCommonLbConfig().GetHealthyPanicThreshold(); t != nil {
		threshold = t.GetValue()
	}
	able := func(groups []*endpointv3.LocalityLbEndpoints, some choice) float64 {
		all := count(groups, anybody)
		if all == 0 {
			return 0
		}
		return min(1, factor*float64(count(groups, some))/float64(all))
	}
	inPanic := func(groups []*endpointv3.LocalityLbEndpoints) bool {
		all := float64(count(groups, anybody))
		return all > 0 && 100*float64(count(groups, healthy)+count(groups, degraded)) < threshold*all
	}

	together, everybody, panics := 0.0, 0, 0
	for p := range last + 1 {
		all := count(groups[p], anybody)
		together += able(groups[p], healthy) + able(groups[p], degraded)
		everybody += all
		if inPanic(groups[p]) {
			panics += all
		}
	}
	left := 1.0
	for _, some := range []choice{healthy, degraded} {
		for p := range last + 1 {
			share := 0.0
			switch {
			case left <= 0:
			case together < 1 && panics == everybody && everybody > 0: // each takes as much as it has endpoints
				share = float64(count(groups[p], anybody)) / float64(everybody)
			case together > 0:
				share = min(left, able(groups[p], some)/min(1, together))
			}
			if left -= share; left < 1e-9 {
				left = 0 // what is left is rounding
			}
			use := some
			if together < 1 && inPanic(groups[p]) {
				use = anybody
			}
			out = append(out, within(c, groups[p], share, use, able)...)
		}
	}
	return out
}

// within divides the share of a priority among those of its endpoints that are meant.
func within(c *clusterv3.Cluster, groups []*endpointv3.LocalityLbEndpoints, share float64, use choice, able func([]*endpointv3.LocalityLbEndpoints, choice) float64) (out []Endpoint) {
	if share <= 0 {
		return nil
	}
	weights, sum := make([]float64, len(groups)), 0.0 // of localities
	byLocality := c.GetCommonLbConfig().GetLocalityWeightedLbConfig() != nil
	for i, l := range groups {
		one := groups[i : i+1]
		if weights[i] = total(one, use); byLocality {
			weights[i] = float64(l.GetLoadBalancingWeight().GetValue()) * able(one, use)
		}
		sum += weights[i]
	}
	for i, l := range groups {
		if weights[i] == 0 {
			continue
		}
		for _, e := range l.GetLbEndpoints() {
			if use(e) {
				out = append(out, Endpoint{Address: addressOf(e.GetEndpoint().GetAddress()), TLS: SocketFor(c, e),
					Weight: share * weights[i] / sum * weight(e) / total(groups[i:i+1], use)})
			}
		}
	}
	return out
}

func count(groups []*endpointv3.LocalityLbEndpoints, some choice) (n int) {
	for _, l := range groups {
		for _, e := range l.GetLbEndpoints() {
			if some(e) {
				n++
			}
		}
	}
	return n
}

// total is the sum of the weights of those that are meant.
func total(groups []*endpointv3.LocalityLbEndpoints, some choice) (sum float64) {
	for _, l := range groups {
		for _, e := range l.GetLbEndpoints() {
			if some(e) {
				sum += weight(e)
			}
		}
	}
	return sum
}

func weight(e *endpointv3.LbEndpoint) float64 {
	return float64(max(e.GetLoadBalancingWeight().GetValue(), 1))
}
