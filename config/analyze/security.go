package analyze

import (
	"fmt"
	"slices"
	"strings"

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

// contradictingTLS finds what a DestinationRule makes clients speak that servers refuse. Of a wildcard's services the
// first is named by which each of its fields is contradicted: there may be thousands.
func (a *analysis) contradictingTLS(r *mesh.DestinationRule) {
	if !strings.HasPrefix(r.Host, "*") {
		if s, _ := a.service(r.Host, r.Ref.Namespace); s != nil {
			a.contradictedBy(r, s, nil)
		}
		return
	}
	if !asksTLS(r) {
		return
	}
	told := map[string]bool{}
	for _, host := range a.hostNames() {
		if !overlaps(r.Host, host) {
			continue
		}
		for _, s := range a.servicesOf(host) {
			if s.Visible.VisibleTo(r.Ref.Namespace) && a.speaksFor(r, s) {
				a.contradictedBy(r, s, told)
			}
		}
	}
}

func asksTLS(r *mesh.DestinationRule) bool {
	onPorts := func(ports map[uint16]mesh.TrafficPolicy) bool {
		for _, p := range ports {
			if p.TLS != nil {
				return true
			}
		}
		return false
	}
	return r.Policy.TLS != nil || onPorts(r.PortPolicies) || slices.ContainsFunc(r.Subsets, func(s mesh.Subset) bool {
		return s.Policy != nil && s.Policy.TLS != nil || onPorts(s.PortPolicies)
	})
}

// speaksFor reports whether a rule is what some client of a service goes by: one in the rule's own namespace, one whose own
// says nothing, or one in a namespace that it is shown to.
func (a *analysis) speaksFor(r *mesh.DestinationRule, s *mesh.Service) bool {
	return slices.ContainsFunc(append([]string{r.Ref.Namespace, ""}, r.Visible.Namespaces...), func(ns string) bool {
		return slices.Contains(a.rulesIn(ns, s), r)
	})
}

// contradictedBy compares a rule with what the workloads of a service accept. What is in told, which may be nil, is not
// told again.
func (a *analysis) contradictedBy(r *mesh.DestinationRule, s *mesh.Service, told map[string]bool) {
	if s.External || s.Selector == nil || a.agreed(s.Namespace) {
		return
	}
	picked := a.selected(s.Namespace, s.Selector)
	for _, p := range s.Ports {
		tls, path := r.Policy.TLS, "spec.trafficPolicy.tls.mode"
		if pp, ok := r.PortPolicies[p.Number]; ok {
			tls, path = pp.TLS, "spec.trafficPolicy.portLevelSettings"
		}
		a.contradiction(r, tls, path, s, p, picked, told)
		for i, sub := range r.Subsets {
			tls, path := (*mesh.ClientTLS)(nil), document.Index("spec.subsets", i)+".trafficPolicy.tls.mode"
			if sub.Policy != nil {
				tls = sub.Policy.TLS
			}
			if pp, ok := sub.PortPolicies[p.Number]; ok {
				tls, path = pp.TLS, document.Index("spec.subsets", i)+".trafficPolicy.portLevelSettings"
			}
			if tls == nil {
				continue
			}
			in := slices.DeleteFunc(slices.Clone(picked), func(in *instance) bool { return !sub.Labels.Selects(in.labels) })
			a.contradiction(r, tls, path, s, p, in, told)
		}
	}
}

// agreed says that no policy for workloads of a namespace demands or refuses anything: most of a large mesh need
// not be looked at.
func (a *analysis) agreed(namespace string) bool {
	for _, ns := range []string{namespace, a.Snapshot.Settings.RootNamespace} {
		if len(a.policiesIn(ns)) > 0 {
			return false
		}
	}
	return true
}

func (a *analysis) contradiction(r *mesh.DestinationRule, tls *mesh.ClientTLS, path string, s *mesh.Service, p mesh.Port, picked []*instance, told map[string]bool) {
	if tls == nil {
		return
	}
	for _, in := range picked {
		mode, policy := a.mode(in, in.port(p))
		var accepts string
		switch {
		case mode == mesh.MTLSStrict && tls.Mode != "ISTIO_MUTUAL":
			accepts = "accepts only mesh mTLS (STRICT)"
			if tls.Mode == "DISABLE" {
				accepts += ": Weir's proxies set the mode aside and speak that (WEIR0108), other clients are refused"
			}
		case mode == mesh.MTLSDisable && tls.Mode == "ISTIO_MUTUAL":
			accepts = "accepts no mesh mTLS (DISABLE)"
			if !p.Protocol.IsHTTP() {
				accepts += ": connections are refused at the client"
			}
		default:
			continue
		}
		if told[path+accepts] {
			return
		}
		if told != nil {
			told[path+accepts] = true
		}
		a.add(config.ContradictingTLS, r.Ref, path, fmt.Sprintf("clients of %s port %d speak %s, but PeerAuthentication %s/%s %s", a.short(s.Hostname), p.Number, tls.Mode, policy.Ref.Namespace, policy.Ref.Name, accepts),
			"remove tls from the DestinationRule: clients find out by themselves")
		return
	}
}
