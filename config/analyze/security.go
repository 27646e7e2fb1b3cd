package analyze

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// peerAuthentications finds policies that protect nothing, or that an older one beats.
func (a *analysis) peerAuthentications() {
	first := map[string]*mesh.PeerAuthentication{}
	for _, p := range a.policies() {
		if p.Selector == nil {
			if older := first[p.Ref.Namespace]; older != nil {
				a.shadowed(config.RuleIgnored, p.Ref, "", fmt.Sprintf("PeerAuthentication %s is for the whole namespace, too, and is older: it is used", older.Ref.Name), "keep one, or add a selector", older.Ref, "")
			} else {
				first[p.Ref.Namespace] = p
			}
			continue
		}
		if len(a.selected(p.Ref.Namespace, p.Selector)) == 0 {
			a.add(config.NoMatchingWorkloads, p.Ref, "spec.selector.matchLabels", fmt.Sprintf("no workload in namespace %s has the labels %s", p.Ref.Namespace, pairs(p.Selector)), "correct the labels")
		}
	}
}

// policies lists PeerAuthentications in force, the oldest first.
func (a *analysis) policies() []*mesh.PeerAuthentication {
	out := slices.Collect(a.Snapshot.PeerAuths.Values())
	out = slices.DeleteFunc(out, func(p *mesh.PeerAuthentication) bool { return p.Refused })
	slices.SortStableFunc(out, func(x, y *mesh.PeerAuthentication) int { return cmp.Compare(x.Ref.Created, y.Ref.Created) })
	return out
}

// mode is what a workload accepts on a port, and the policy that says so: the workload's
// own, its namespace's, the mesh's; the oldest of equals.
func (a *analysis) mode(policies []*mesh.PeerAuthentication, in *instance, port uint16) (mesh.MTLSMode, *mesh.PeerAuthentication) {
	scopes := []func(p *mesh.PeerAuthentication) bool{
		func(p *mesh.PeerAuthentication) bool {
			return p.Ref.Namespace == in.namespace && p.Selector != nil && p.Selector.Selects(in.labels)
		},
		func(p *mesh.PeerAuthentication) bool {
			return p.Ref.Namespace == in.namespace && p.Selector == nil
		},
		func(p *mesh.PeerAuthentication) bool {
			return p.Ref.Namespace == a.Snapshot.Settings.RootNamespace && p.Selector == nil
		},
	}
	for _, scope := range scopes {
		for _, p := range policies {
			if !scope(p) {
				continue
			}
			if m := p.Ports[port]; m != mesh.MTLSUnset {
				return m, p
			}
			if p.Mode != mesh.MTLSUnset {
				return p.Mode, p
			}
			break
		}
	}
	return mesh.MTLSPermissive, nil
}

// contradictingTLS finds DestinationRules that make clients speak what servers refuse.
func (a *analysis) contradictingTLS() {
	policies := a.policies()
	for r := range a.rulesInForce() {
		s, _ := a.service(r.Host, r.Ref.Namespace)
		if s == nil || s.External || s.Selector == nil {
			continue
		}
		picked := a.selected(s.Namespace, s.Selector)
		for _, p := range s.Ports {
			tls, path := r.Policy.TLS, "spec.trafficPolicy.tls.mode"
			if pp, ok := r.PortPolicies[p.Number]; ok {
				tls, path = pp.TLS, "spec.trafficPolicy.portLevelSettings"
			}
			a.contradiction(policies, r, tls, path, s, p, picked)
			for i, sub := range r.Subsets {
				if sub.Policy == nil || sub.Policy.TLS == nil {
					continue
				}
				in := slices.DeleteFunc(slices.Clone(picked), func(in *instance) bool { return !sub.Labels.Selects(in.labels) })
				a.contradiction(policies, r, sub.Policy.TLS, document.Index("spec.subsets", i)+".trafficPolicy.tls.mode", s, p, in)
			}
		}
	}
}

func (a *analysis) contradiction(policies []*mesh.PeerAuthentication, r *mesh.DestinationRule, tls *mesh.ClientTLS, path string, s *mesh.Service, p mesh.Port, picked []*instance) {
	if tls == nil {
		return
	}
	for _, in := range picked {
		port := p.Target
		if p.TargetName != "" {
			port = in.ports[p.TargetName]
		} else if port == 0 {
			port = p.Number
		}
		mode, policy := a.mode(policies, in, port)
		var accepts string
		switch {
		case mode == mesh.MTLSStrict && tls.Mode != "ISTIO_MUTUAL":
			accepts = "accepts only mesh mTLS (STRICT)"
		case mode == mesh.MTLSDisable && tls.Mode == "ISTIO_MUTUAL":
			accepts = "accepts no mesh mTLS (DISABLE)"
		default:
			continue
		}
		a.add(config.ContradictingTLS, r.Ref, path, fmt.Sprintf("clients of %s port %d speak %s, but PeerAuthentication %s/%s %s", a.short(s.Hostname), p.Number, tls.Mode, policy.Ref.Namespace, policy.Ref.Name, accepts),
			"remove tls from the DestinationRule: clients find out by themselves")
		return
	}
}
