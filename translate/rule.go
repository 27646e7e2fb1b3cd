package translate

import (
	"slices"

	"github.com/weirmesh/weir/mesh"
)

// rule is the DestinationRules that apply to one host for one viewer, as one.
type rule struct {
	ref     *mesh.Ref   // the oldest, nil: no rule at all
	refs    []*mesh.Ref // of all that have a say
	policy  mesh.TrafficPolicy
	ports   map[uint16]mesh.TrafficPolicy
	subsets []*mesh.Subset
	check   *mesh.HealthCheck // the first of them has
	chosen  bool              // they are for clients that they select

	refused []refusedRule
}

// refusedRule is a rule that is not in force, read as if it were: nobody is to be called
// with less protection than it asks for.
type refusedRule struct {
	rule
	lost []*mesh.Subset // those of subsets that no rule in force defines
}

// merge joins rules for the same host, oldest first: the first traffic policy counts,
// subsets add up, the first of a name counts.
func merge(rules []*mesh.DestinationRule) *rule {
	out := &rule{}
	for _, r := range rules {
		out.refs = append(out.refs, &r.Ref)
		if r.Refused {
			continue
		}
		if out.ref == nil {
			out.ref = &r.Ref
		}
		if out.policy == (mesh.TrafficPolicy{}) && out.ports == nil {
			out.policy, out.ports = r.Policy, r.PortPolicies
		}
		out.chosen = out.chosen || len(r.WorkloadSelector) > 0
		if out.check == nil {
			out.check = r.HealthCheck
		}
		for i := range r.Subsets {
			if s := &r.Subsets[i]; out.subset(s.Name) == nil {
				out.subsets = append(out.subsets, s)
			}
		}
	}
	for _, r := range rules {
		if !r.Refused {
			continue
		}
		x := refusedRule{rule: rule{ref: &r.Ref, policy: r.Policy, ports: r.PortPolicies}}
		for i := range r.Subsets {
			s := &r.Subsets[i]
			x.subsets = append(x.subsets, s)
			if out.subset(s.Name) == nil && !slices.ContainsFunc(out.refused, func(o refusedRule) bool { return o.subset(s.Name) != nil }) {
				x.lost = append(x.lost, s)
			}
		}
		out.refused = append(out.refused, x)
	}
	return out
}

func (r *rule) subset(name string) *mesh.Subset {
	for _, s := range r.subsets {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// named lists the subsets that have a cluster, after nil for the whole service: those
// that are lost have one so that it can say why it has no endpoints.
func (r *rule) named() []*mesh.Subset {
	out := append([]*mesh.Subset{nil}, r.subsets...)
	for i := range r.refused {
		out = append(out, r.refused[i].lost...)
	}
	return out
}

// on is the policy for a port and a subset (nil: the whole service), or the object
// because of which there is to be no connection at all.
func (r *rule) on(port uint16, subset *mesh.Subset) (mesh.TrafficPolicy, *mesh.Ref) {
	p := r.policyOn(port, subset)
	for i := range r.refused {
		x := &r.refused[i]
		own := subset
		if subset != nil {
			own = x.subset(subset.Name)
		}
		switch t := x.policyOn(port, own).TLS; {
		case slices.Contains(x.lost, subset), t != nil && t.Mode == mesh.TLSRefused:
			return p, x.ref
		case t != nil && (p.TLS == nil || p.TLS.Mode == "DISABLE"):
			p.TLS = t
		}
	}
	return p, nil
}

// policyOn is what the rule itself says. A policy for the port replaces everything, a
// block it leaves out falls back to the default and not to the level above
// (portLevelSettings); a subset's policy replaces block by block.
func (r *rule) policyOn(port uint16, subset *mesh.Subset) mesh.TrafficPolicy {
	p := r.policy
	if byPort, ok := r.ports[port]; ok {
		p = onPort(byPort, &p)
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
		if o.Tunnel != nil {
			p.Tunnel = o.Tunnel
		}
		if o.Budget != nil {
			p.Budget = o.Budget
		}
		if o.ProxyProtocol != 0 {
			p.ProxyProtocol = o.ProxyProtocol
		}
	}
	if byPort, ok := subset.PortPolicies[port]; ok {
		p = onPort(byPort, &p)
	}
	return p
}

// onPort is the policy of a port, with what ports have no settings for from the level above.
func onPort(p mesh.TrafficPolicy, above *mesh.TrafficPolicy) mesh.TrafficPolicy {
	p.ProxyProtocol, p.Budget, p.Tunnel = above.ProxyProtocol, above.Budget, above.Tunnel
	return p
}
