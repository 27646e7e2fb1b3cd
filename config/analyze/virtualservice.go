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

// virtualService checks its hosts, gateways and destinations, and its rules.
func (a *analysis) virtualService(s subject) bool {
	vs, ok := a.Snapshot.VirtualServices.Get(mesh.Key(s.name))
	if !ok {
		return false
	}
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
		for j := range r.Mirrors {
			where := at + ".mirror"
			if r.MirrorList {
				where = document.Index(at+".mirrors", j) + ".destination"
			}
			a.destination(vs.Ref, where, &r.Mirrors[j].To)
		}
	}
	a.claims(vs)
	a.delegates(vs)
	for i, r := range vs.TLS {
		a.destinations(vs.Ref, document.Index("spec.tls", i)+".route", r.Route)
	}
	for i, r := range vs.TCP {
		a.destinations(vs.Ref, document.Index("spec.tcp", i)+".route", r.Route)
	}
	a.virtualServiceRules(vs)
	return true
}

// claims checks that gateways know the claims by which rules are chosen there: from tokens that they verify.
func (a *analysis) claims(vs *mesh.VirtualService) {
	for i := range vs.HTTP {
		for j := range vs.HTTP[i].Matches {
			m := &vs.HTTP[i].Matches[j]
			for field, all := range map[string][]mesh.HeaderMatch{"headers": m.Headers, "withoutHeaders": m.WithoutHeaders} {
				k := slices.IndexFunc(all, func(h mesh.HeaderMatch) bool { return strings.HasPrefix(h.Name, mesh.ClaimPrefix) })
				if k < 0 {
					continue
				}
				gateways := vs.Gateways
				if m.Gateways != nil {
					gateways = m.Gateways
				}
				for _, g := range gateways {
					if g == mesh.Mesh || a.verifies(g) {
						continue
					}
					at := document.Key(document.Index(document.Index("spec.http", i)+".match", j)+"."+field, all[k].Name)
					a.add(config.ClaimsWithoutTokens, vs.Ref, at, fmt.Sprintf("no RequestAuthentication selects the proxies of Gateway %s: requests have no claims there", g),
						"apply a RequestAuthentication with the issuer of the tokens, in the namespace of the gateway's proxies and with their labels")
					break
				}
			}
		}
	}
}

// verifies reports whether tokens are verified by some proxy of a Gateway; also of one that is not there, or has no proxies, which is
// said elsewhere.
func (a *analysis) verifies(key string) bool {
	a.look(thing{kind: aGateway, a: key})
	gw := a.Snapshot.Gateways.At(mesh.Key(key))
	if gw == nil || len(gw.Selector) == 0 {
		return true
	}
	picked := a.selected("", gw.Selector)
	return len(picked) == 0 || slices.ContainsFunc(picked, func(i *instance) bool {
		return slices.ContainsFunc(slices.Concat(a.authsIn(i.namespace), a.authsIn(a.Snapshot.Settings.RootNamespace)), func(r *mesh.RequestAuthentication) bool {
			return r.Selector == nil || r.Selector.Selects(i.labels)
		})
	})
}

// delegates checks what the rules of vs delegate to.
func (a *analysis) delegates(vs *mesh.VirtualService) {
	if key := mesh.NewKey(vs.Ref.Namespace, vs.Ref.Name); vs.IsDelegate() {
		if a.look(thing{kind: delegatorsOf, a: string(key)}); len(a.delegators[key]) == 0 {
			a.add(config.UnreachableRule, vs.Ref, "spec.hosts", "is empty, and no VirtualService delegates to this one: it changes nothing", "name the hosts, or delegate to it")
		}
	}
	for i := range vs.HTTP {
		to := vs.HTTP[i].Action.Delegate
		if to == "" {
			continue
		}
		at := document.Index("spec.http", i) + ".delegate"
		a.look(thing{kind: aVirtualService, a: string(to)})
		switch d := a.Snapshot.VirtualServices.At(to); {
		case d == nil:
			a.add(config.ReferenceNotFound, vs.Ref, at, fmt.Sprintf("VirtualService %s does not exist: the rule is left out", to), "apply a VirtualService of that name without hosts")
		case !d.IsDelegate():
			a.add(config.ReferenceNotFound, vs.Ref, at, fmt.Sprintf("VirtualService %s has hosts of its own: the rule is left out", to), "remove its hosts: only then others can delegate to it")
		case !d.Visible.VisibleTo(vs.Ref.Namespace):
			a.add(config.ReferenceNotFound, vs.Ref, at, fmt.Sprintf("VirtualService %s is not visible in namespace %s: the rule is left out", to, vs.Ref.Namespace), "add the namespace to its exportTo")
		}
	}
	_, lost := vs.Delegated(func(k mesh.Key) *mesh.VirtualService { return a.Snapshot.VirtualServices.At(k) })
	for _, x := range lost {
		if d := a.Snapshot.VirtualServices.At(x.To); d != nil {
			a.add(config.UnreachableRule, d.Ref, document.Index("spec.http", x.Rule),
				fmt.Sprintf("is never used where spec.http[%d] of VirtualService %s/%s delegates to it: its match is not within that of the rule there", x.Root, vs.Ref.Namespace, vs.Ref.Name),
				"match a part of what is delegated")
		}
	}
}

func (a *analysis) boundGateways(vs *mesh.VirtualService) {
	for i, g := range vs.Gateways {
		if g == mesh.Mesh {
			continue
		}
		at := document.Index("spec.gateways", i)
		a.look(thing{kind: aGateway, a: g})
		gw, ok := a.Snapshot.Gateways.Get(mesh.Key(g))
		if !ok {
			a.look(thing{kind: allGateways})
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
		// One that speaks for sidecars, too, has hosts that are for them.
		apart := slices.Contains(vs.Gateways, mesh.Mesh) && slices.ContainsFunc(vs.Hosts, func(h string) bool { return accepts(gw, vs.Ref.Namespace, h) })
		for j, h := range vs.Hosts {
			if !apart && !accepts(gw, vs.Ref.Namespace, h) {
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
	names := a.hostNames()
	if len(a.hosts[host+suffix]) > 0 {
		return "write the complete name: " + host + suffix
	}
	name, _, _ := strings.Cut(host, ".")
	for _, h := range names {
		if n, rest, _ := strings.Cut(h, "."); n == name && strings.HasSuffix(rest, suffix[1:]) {
			return "write " + h + ": the service is in another namespace"
		}
	}
	var near []string
	for _, h := range names {
		near = append(near, a.short(h))
	}
	if s := document.Suggest(a.short(host), near); s != "" {
		return "did you mean " + strings.TrimSuffix(s, "."+namespace) + "?"
	}
	return "apply the Service, or a ServiceEntry for a host outside the mesh"
}

func (a *analysis) destinations(ref mesh.Ref, path string, ds []mesh.Destination) {
	for i := range ds {
		a.destination(ref, document.Index(path, i)+".destination", &ds[i])
	}
}

func (a *analysis) destination(ref mesh.Ref, at string, d *mesh.Destination) {
	s := a.knownHost(ref, at+".host", d.Host)
	if s == nil {
		return
	}
	a.destinationPort(ref, at, s, *d)
	if d.Subset != "" {
		a.destinationSubset(ref, at+".subset", s, *d)
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
	for _, r := range a.rulesIn(ref.Namespace, s) {
		for j, sub := range r.Subsets {
			if sub.Name != d.Subset {
				if !slices.Contains(known, sub.Name) {
					known = append(known, sub.Name)
				}
				continue
			}
			a.subsetSelects(r, j, s)
			return
		}
	}
	// Who has it, where another rule comes first?
	for _, r := range a.rulesFor(d.Host) {
		if r.Visible.VisibleTo(ref.Namespace) && slices.ContainsFunc(r.Subsets, func(x mesh.Subset) bool { return x.Name == d.Subset }) {
			a.add(config.ReferenceNotFound, ref, path, fmt.Sprintf("subset %s of %s is not defined: DestinationRule %s/%s, which has one, does not count here, because another is for the host itself, or of a nearer namespace",
				d.Subset, a.short(d.Host), r.Ref.Namespace, r.Ref.Name), "define it in the rule that counts")
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

// rulesIn are the DestinationRules that clients in a namespace go by for a service: those that
// count for all, and those for some.
func (a *analysis) rulesIn(namespace string, s *mesh.Service) []*mesh.DestinationRule {
	a.look(thing{kind: rulesFor, a: s.Hostname})
	a.look(thing{kind: wildRules})
	at := func(namespace, host string) []*mesh.DestinationRule {
		list := a.rules[host]
		if strings.HasPrefix(host, "*") {
			list = a.wildRules
		}
		list = slices.DeleteFunc(slices.Clone(list), func(r *mesh.DestinationRule) bool { return r.Ref.Namespace != namespace || r.Host != host })
		slices.SortFunc(list, func(x, y *mesh.DestinationRule) int { return older(x.Ref, y.Ref) })
		return list
	}
	var out []*mesh.DestinationRule
	for _, selected := range []bool{true, false} {
		c := mesh.Client{Namespace: namespace, Has: func(mesh.Labels) bool { return selected }}
		out = append(out, c.Rules(s, a.Snapshot.Settings.RootNamespace, at)...)
	}
	return out
}

// rulesFor lists the DestinationRules for a host, the exact ones first.
func (a *analysis) rulesFor(host string) []*mesh.DestinationRule {
	a.look(thing{kind: rulesFor, a: host})
	a.look(thing{kind: wildRules})
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

// meshHost finds VirtualServices that define a host that an older one defines for the same
// sidecars.
func (a *analysis) meshHost(s subject) bool {
	h, all := s.name, a.meshHosts[s.name]
	for n, vs := range all {
		for i := range vs.Hosts {
			if vs.Hosts[i] != h {
				continue
			}
			before := all[:n]
			if slices.Contains(vs.Hosts[:i], h) { // it says so itself
				before = all[:n+1]
			}
			for _, older := range before {
				if meet(vs, older) {
					a.shadowed(config.ConflictingMeshHosts, vs.Ref, document.Index("spec.hosts", i), fmt.Sprintf("host %s is also defined by VirtualService %s/%s, which is older and used", a.short(h), older.Ref.Namespace, older.Ref.Name),
						"merge the two, or limit them by exportTo", older.Ref, document.Index("spec.hosts", slices.Index(older.Hosts, h)))
					break
				}
			}
		}
	}
	return len(all) > 0
}

// meet reports whether some namespace sees both.
func meet(x, y *mesh.VirtualService) bool {
	if !x.Visible.Limited || !y.Visible.Limited {
		return true
	}
	return slices.ContainsFunc(x.Visible.Namespaces, y.Visible.VisibleTo)
}
