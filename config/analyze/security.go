package analyze

import (
	"fmt"
	"slices"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// peerAuthentications finds policies of a namespace that protect nothing, or that an older
// one beats.
func (a *analysis) peerAuthentications(s subject) bool {
	all := a.policies[s.name]
	var first *mesh.PeerAuthentication
	for _, p := range all {
		switch {
		case p.Selector != nil:
			if len(a.selected(p.Home(), p.Selector)) == 0 {
				a.add(config.NoMatchingWorkloads, p.Ref, "spec.selector.matchLabels", fmt.Sprintf("no workload in namespace %s has the labels %s", p.Home(), pairs(p.Selector)), "correct the labels")
			}
		case first != nil:
			a.shadowed(config.RuleIgnored, p.Ref, "", fmt.Sprintf("PeerAuthentication %s is for the whole namespace, too, and is older: it is used", first.Ref.Name), "keep one, or add a selector", first.Ref, "")
		default:
			first = p
		}
	}
	return len(all) > 0
}

// mode is what a workload accepts on a port, and the policy that says so: the workload's
// own, its namespace's, the mesh's; the oldest of equals.
func (a *analysis) mode(in *instance, port uint16) (mesh.MTLSMode, *mesh.PeerAuthentication) {
	own, everybody := a.policiesIn(in.namespace), a.policiesIn(a.Snapshot.Settings.RootNamespace)
	whole := func(p *mesh.PeerAuthentication) bool { return p.Selector == nil }
	scopes := []struct {
		policies []*mesh.PeerAuthentication
		has      func(p *mesh.PeerAuthentication) bool
	}{
		{own, func(p *mesh.PeerAuthentication) bool { return p.Selector != nil && p.Selector.Selects(in.labels) }},
		{own, whole},
		{everybody, whole},
	}
	for _, scope := range scopes {
		for _, p := range scope.policies {
			if !scope.has(p) {
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

// contradictingTLS finds what a DestinationRule makes clients speak that servers refuse.
func (a *analysis) contradictingTLS(r *mesh.DestinationRule) {
	s, _ := a.service(r.Host, r.Ref.Namespace)
	if s == nil || s.External || s.Selector == nil {
		return
	}
	picked := a.selected(s.Namespace, s.Selector)
	for _, p := range s.Ports {
		tls, path := r.Policy.TLS, "spec.trafficPolicy.tls.mode"
		if pp, ok := r.PortPolicies[p.Number]; ok {
			tls, path = pp.TLS, "spec.trafficPolicy.portLevelSettings"
		}
		a.contradiction(r, tls, path, s, p, picked)
		for i, sub := range r.Subsets {
			if sub.Policy == nil || sub.Policy.TLS == nil {
				continue
			}
			in := slices.DeleteFunc(slices.Clone(picked), func(in *instance) bool { return !sub.Labels.Selects(in.labels) })
			a.contradiction(r, sub.Policy.TLS, document.Index("spec.subsets", i)+".trafficPolicy.tls.mode", s, p, in)
		}
	}
}

func (a *analysis) contradiction(r *mesh.DestinationRule, tls *mesh.ClientTLS, path string, s *mesh.Service, p mesh.Port, picked []*instance) {
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
		mode, policy := a.mode(in, port)
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
