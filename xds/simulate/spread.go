package simulate

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
)

// spread is who gets what share of a cluster's calls (Envoy's "priority levels", "locality weighted load balancing" and "panic threshold").
// A priority keeps what its health times the overprovisioning factor permits, the next one takes the rest. Where all of them together
// cannot take everything, those of which too few are healthy are used wholly, healthy or not.
func spread(c *clusterv3.Cluster, load *endpointv3.ClusterLoadAssignment) (out []Endpoint) {
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
	able := func(healthy, all int) float64 {
		if all == 0 {
			return 0
		}
		return min(1, factor*float64(healthy)/float64(all))
	}

	together, everybody, panics := 0.0, 0, 0
	for p := range last + 1 {
		healthy, all := count(groups[p])
		together += able(healthy, all)
		everybody += all
		if inPanic(healthy, all, threshold) {
			panics += all
		}
	}
	left := 1.0
	for p := range last + 1 {
		healthy, all := count(groups[p])
		panicking := together < 1 && inPanic(healthy, all, threshold)
		share := 0.0
		switch {
		case together < 1 && panics == everybody && everybody > 0: // each takes as much as it has endpoints
			share = float64(all) / float64(everybody)
		case together > 0:
			share = min(left, able(healthy, all)/min(1, together))
		}
		left -= share
		out = append(out, within(c, groups[p], share, panicking, able)...)
	}
	return out
}

// within divides the share of a priority among its endpoints.
func within(c *clusterv3.Cluster, groups []*endpointv3.LocalityLbEndpoints, share float64, panicking bool, able func(healthy, all int) float64) (out []Endpoint) {
	if share <= 0 {
		return nil
	}
	weights, sum := make([]float64, len(groups)), 0.0 // of localities
	byLocality := c.GetCommonLbConfig().GetLocalityWeightedLbConfig() != nil
	for i, l := range groups {
		one := groups[i : i+1]
		healthy, all := count(one)
		if panicking {
			healthy = all
		}
		if weights[i] = total(one, panicking); byLocality {
			weights[i] = float64(l.GetLoadBalancingWeight().GetValue()) * able(healthy, all)
		}
		sum += weights[i]
	}
	for i, l := range groups {
		if weights[i] == 0 {
			continue
		}
		for _, e := range l.GetLbEndpoints() {
			if panicking || takes(e) {
				out = append(out, Endpoint{Address: addressOf(e.GetEndpoint().GetAddress()), TLS: SocketFor(c, e),
					Weight: share * weights[i] / sum * weight(e) / total(groups[i:i+1], panicking)})
			}
		}
	}
	return out
}

func inPanic(healthy, all int, threshold float64) bool {
	return all > 0 && 100*float64(healthy) < threshold*float64(all)
}

func count(groups []*endpointv3.LocalityLbEndpoints) (healthy, all int) {
	for _, l := range groups {
		for _, e := range l.GetLbEndpoints() {
			if all++; takes(e) {
				healthy++
			}
		}
	}
	return healthy, all
}

// total is the sum of the weights of those that get calls.
func total(groups []*endpointv3.LocalityLbEndpoints, panicking bool) (sum float64) {
	for _, l := range groups {
		for _, e := range l.GetLbEndpoints() {
			if panicking || takes(e) {
				sum += weight(e)
			}
		}
	}
	return sum
}

func weight(e *endpointv3.LbEndpoint) float64 {
	return float64(max(e.GetLoadBalancingWeight().GetValue(), 1))
}
