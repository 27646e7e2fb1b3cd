package translate

import (
	"github.com/weirmesh/weir/mesh"
)

// rule is the DestinationRules that apply to one host for one viewer, as one.
type rule struct {
	ref     *mesh.Ref // the oldest, nil: no rule at all
	policy  mesh.TrafficPolicy
	ports   map[uint16]mesh.TrafficPolicy
	subsets []*mesh.Subset
}

// merge joins rules for the same host, oldest first: the first traffic policy counts,
// subsets add up, the first of a name counts.
func merge(rules []*mesh.DestinationRule) *rule {
	out := &rule{}
	seen := map[string]bool{}
	for _, r := range rules {
		if out.ref == nil {
			out.ref = &r.Ref
		}
		if out.policy == (mesh.TrafficPolicy{}) && out.ports == nil {
			out.policy, out.ports = r.Policy, r.PortPolicies
		}
		for i := range r.Subsets {
			if s := &r.Subsets[i]; !seen[s.Name] {
				seen[s.Name] = true
				out.subsets = append(out.subsets, s)
			}
		}
	}
	return out
}

// on is the policy for a port and a subset (nil: the whole service). A policy for the
// port replaces everything, a block it leaves out falls back to the default and not to
// the level above (portLevelSettings); a subset's policy replaces block by block.
func (r *rule) on(port uint16, subset *mesh.Subset) mesh.TrafficPolicy {
	p := r.policy
	if byPort, ok := r.ports[port]; ok {
		p = byPort
	}
	if subset == nil {
		return p
	}
	if o := subset.Policy; o != nil {
		if o.LoadBalancer != nil {
			p.LoadBalancer = o.LoadBalancer
		}
		if o.Pool != nil {
			p.Pool = o.Pool
		}
		if o.Outlier != nil {
			p.Outlier = o.Outlier
		}
		if o.TLS != nil {
			p.TLS = o.TLS
		}
	}
	if byPort, ok := subset.PortPolicies[port]; ok {
		p = byPort
	}
	return p
}
