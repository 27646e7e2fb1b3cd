package analyze

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// virtualServiceReferences checks hosts, gateways and destinations.
func (a *analysis) virtualServiceReferences() {
	for vs := range a.Snapshot.VirtualServices.Values() {
		a.boundGateways(vs)
		if slices.Contains(vs.Gateways, mesh.Mesh) {
			for i, h := range vs.Hosts {
				if !a.inMesh(h) || strings.HasPrefix(h, "*") {
					continue
				}
				a.knownHost(vs.Ref, document.Index("spec.hosts", i), h)
			}
		}
		for i, r := range vs.HTTP {
			at := document.Index("spec.http", i)
			a.destinations(vs.Ref, at+".route", r.Action.Destinations)
		}
		for i, r := range vs.TLS {
			a.destinations(vs.Ref, document.Index("spec.tls", i)+".route", r.Route)
		}
		for i, r := range vs.TCP {
			a.destinations(vs.Ref, document.Index("spec.tcp", i)+".route", r.Route)
		}
	}
}

func (a *analysis) boundGateways(vs *mesh.VirtualService) {
	for i, g := range vs.Gateways {
		if g == mesh.Mesh {
			continue
		}
		at := document.Index("spec.gateways", i)
		gw, ok := a.Snapshot.Gateways.Get(mesh.Key(g))
		if !ok {
			hint := "apply the Gateway, or write \"mesh\" for the sidecars"
			for other := range a.Snapshot.Gateways.Values() {
				if other.Ref.Name == g[strings.IndexByte(g, '/')+1:] {
					hint = fmt.Sprintf("write %s/%s: the Gateway is in another namespace", other.Ref.Namespace, other.Ref.Name)
				} else if document.Suggest(g, []string{other.Ref.Namespace + "/" + other.Ref.Name}) != "" {
					hint = "did you mean " + other.Ref.Name + "?"
				}
			}
			a.add(config.ReferenceNotFound, vs.Ref, at, fmt.Sprintf("Gateway %s does not exist", g), hint)
			continue
		}
		for j, h := range vs.Hosts {
			if !accepts(gw, vs.Ref.Namespace, h) {
				a.add(config.HostNotInGateway, vs.Ref, document.Index("spec.hosts", j), fmt.Sprintf("Gateway %s does not accept host %s of this namespace", g, a.short(h)),
					"add it to the hosts of a server of the Gateway")
			}
		}
	}
}

// accepts reports whether some server of gw takes a VirtualService of namespace for host.
func accepts(gw *mesh.Gateway, namespace, host string) bool {
	for _, s := range gw.Servers {
		for _, h := range s.Hosts {
			if (h.Namespace == "*" || h.Namespace == namespace) && (overlaps(h.Host, host) || overlaps(host, h.Host)) {
				return true
			}
		}
	}
	return false
}

// overlaps reports whether pattern a covers b.
func overlaps(a, b string) bool {
	if rest, ok := strings.CutPrefix(a, "*"); ok {
		return strings.HasSuffix(strings.TrimPrefix(b, "*"), rest)
	}
	return a == b
}

// knownHost reports a host that no service has.
func (a *analysis) knownHost(ref mesh.Ref, path, host string) *mesh.Service {
	s, hidden := a.service(host, ref.Namespace)
	if s != nil {
		return s
	}
	if hidden {
		a.add(config.ReferenceNotFound, ref, path, fmt.Sprintf("service %s is not visible in namespace %s", a.short(host), ref.Namespace), "add the namespace to its exportTo")
		return nil
	}
	a.add(config.ReferenceNotFound, ref, path, fmt.Sprintf("service %s does not exist", a.short(host)), a.hostHint(host, ref.Namespace))
	return nil
}

func (a *analysis) hostHint(host, namespace string) string {
	suffix := ".svc." + a.Snapshot.Settings.DomainSuffix
	if len(a.hosts[host+suffix]) > 0 {
		return "write the complete name: " + host + suffix
	}
	name, _, _ := strings.Cut(host, ".")
	for _, h := range a.names {
		if n, rest, _ := strings.Cut(h, "."); n == name && strings.HasSuffix(rest, suffix[1:]) {
			return "write " + h + ": the service is in another namespace"
		}
	}
	var near []string
	for _, h := range a.names {
		near = append(near, a.short(h))
	}
	if s := document.Suggest(a.short(host), near); s != "" {
		return "did you mean " + strings.TrimSuffix(s, "."+namespace) + "?"
	}
	return "apply the Service, or a ServiceEntry for a host outside the mesh"
}

func (a *analysis) destinations(ref mesh.Ref, path string, ds []mesh.Destination) {
	for i, d := range ds {
		at := document.Index(path, i) + ".destination"
		s := a.knownHost(ref, at+".host", d.Host)
		if s == nil {
			continue
		}
		a.destinationPort(ref, at, s, d)
		if d.Subset != "" {
			a.destinationSubset(ref, at+".subset", s, d)
		}
	}
}

func (a *analysis) destinationPort(ref mesh.Ref, at string, s *mesh.Service, d mesh.Destination) {
	var numbers []string
	for _, p := range s.Ports {
		if p.Protocol != mesh.UDP {
			numbers = append(numbers, fmt.Sprint(p.Number))
		}
	}
	switch {
	case d.Port == 0 && len(numbers) > 1:
		a.add(config.PortSelectorRequired, ref, at, fmt.Sprintf("service %s has ports %s and the destination does not say which", a.short(d.Host), strings.Join(numbers, ", ")), "add port.number")
	case d.Port != 0 && s.Port(d.Port) == nil:
		a.add(config.ReferenceNotFound, ref, at+".port.number", fmt.Sprintf("service %s has no port %d", a.short(d.Host), d.Port), "its ports are "+strings.Join(numbers, ", "))
	}
}

func (a *analysis) destinationSubset(ref mesh.Ref, path string, s *mesh.Service, d mesh.Destination) {
	var known []string
	for _, r := range a.rulesFor(d.Host) {
		if !r.Visible.VisibleTo(ref.Namespace) {
			continue
		}
		for j, sub := range r.Subsets {
			if sub.Name != d.Subset {
				known = append(known, sub.Name)
				continue
			}
			a.subsetSelects(r, j, s)
			return
		}
	}
	hint := fmt.Sprintf("apply a DestinationRule for %s that defines it", a.short(d.Host))
	if s := document.Suggest(d.Subset, known); s != "" {
		hint = "did you mean " + s + "?"
	} else if len(known) > 0 {
		hint = "its subsets are " + strings.Join(known, ", ")
	}
	a.add(config.ReferenceNotFound, ref, path, fmt.Sprintf("subset %s of %s is not defined", d.Subset, a.short(d.Host)), hint)
}

// rulesFor lists the DestinationRules for a host, the exact ones first.
func (a *analysis) rulesFor(host string) []*mesh.DestinationRule {
	out := slices.Clone(a.rules[host])
	for _, r := range a.wildRules {
		if r.Host != host && overlaps(r.Host, host) {
			out = append(out, r)
		}
	}
	return out
}

// subsetSelects checks a subset that a route uses; one that nobody uses harms nobody.
func (a *analysis) subsetSelects(r *mesh.DestinationRule, i int, s *mesh.Service) {
	if s.Selector == nil {
		return
	}
	for _, inst := range a.selected(s.Namespace, s.Selector) {
		if r.Subsets[i].Labels.Selects(inst.labels) {
			return
		}
	}
	a.add(config.SubsetSelectsNothing, r.Ref, document.Index("spec.subsets", i)+".labels",
		fmt.Sprintf("no workload of %s has the labels of subset %s, which a VirtualService routes to", a.short(s.Hostname), r.Subsets[i].Name), "deploy such a workload, or correct the labels")
}

// coversAll reports whether each match of a later rule is one of an earlier one.
func coversAll(earlier, later []mesh.HTTPMatch) bool {
	for _, m := range later {
		if !slices.ContainsFunc(earlier, func(e mesh.HTTPMatch) bool { return sameMatch(e, m) }) {
			return false
		}
	}
	return true
}

func sameMatch(a, b mesh.HTTPMatch) bool {
	a.Name, b.Name = "", ""
	return reflect.DeepEqual(a, b)
}

// unconditional reports whether m holds for every request that reaches the rule.
func unconditional(m mesh.HTTPMatch) bool {
	if m.URI.Kind == mesh.Prefix && (m.URI.Value == "/" || m.URI.Value == "") {
		m.URI = mesh.StringMatch{}
	}
	m.IgnoreURICase = false
	return sameMatch(m, mesh.HTTPMatch{})
}

// virtualServiceConflicts finds hosts that several VirtualServices define for sidecars.
func (a *analysis) virtualServiceConflicts() {
	first := map[string][]*mesh.VirtualService{}
	for _, vs := range a.byAge() {
		if !slices.Contains(vs.Gateways, mesh.Mesh) {
			continue
		}
		for i, h := range vs.Hosts {
			at := document.Index("spec.hosts", i)
			for _, older := range first[h] {
				if meet(vs, older) {
					a.shadowed(config.ConflictingMeshHosts, vs.Ref, at, fmt.Sprintf("host %s is also defined by VirtualService %s/%s, which is older and used", a.short(h), older.Ref.Namespace, older.Ref.Name),
						"merge the two, or limit them by exportTo", older.Ref, document.Index("spec.hosts", slices.Index(older.Hosts, h)))
					break
				}
			}
			first[h] = append(first[h], vs)
		}
	}
}

// meet reports whether some namespace sees both.
func meet(x, y *mesh.VirtualService) bool {
	if !x.Visible.Limited || !y.Visible.Limited {
		return true
	}
	return slices.ContainsFunc(x.Visible.Namespaces, y.Visible.VisibleTo)
}
