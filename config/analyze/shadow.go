package analyze

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// Rules that never match, because an earlier one matches all they match, in the same
// VirtualService or, at a gateway, in an older one. What is reported is certain: of two
// regular expressions nobody knows.

// virtualServiceRules looks for rules that an earlier rule of the object hides.
func (a *analysis) virtualServiceRules(vs *mesh.VirtualService) {
	for i := range vs.HTTP {
		r := &vs.HTTP[i]
		at := document.Index("spec.http", i)
		if j, why := hiddenBy(vs, r, vs, vs.HTTP[:i]); j >= 0 {
			message, hint := fmt.Sprintf("is never used: spec.http[%d] %s", j, why), "remove one of the two, or change its match"
			if why == matchesEverything {
				hint = "put the rule without conditions last"
			}
			a.shadowed(config.UnreachableRule, vs.Ref, at, message, hint, vs.Ref, document.Index("spec.http", j))
			if why == matchesEverything {
				continue
			}
		}
		for k, m := range r.Matches {
			if slices.ContainsFunc(r.Matches[:k], func(e mesh.HTTPMatch) bool { return sameMatch(e, m) }) {
				a.add(config.IneffectiveMatch, vs.Ref, document.Index(at+".match", k), "repeats an earlier match of this rule", "remove it")
			}
		}
	}
	tls, tcp := make([][]mesh.L4Match, len(vs.TLS)), make([][]mesh.L4Match, len(vs.TCP))
	for i := range vs.TLS {
		tls[i] = vs.TLS[i].Matches
	}
	for i := range vs.TCP {
		tcp[i] = vs.TCP[i].Matches
	}
	a.hiddenL4(vs, "spec.tls", tls)
	a.hiddenL4(vs, "spec.tcp", tcp)
}

// shadowed is add for what has no effect because of another part or object.
func (a *analysis) shadowed(code config.Code, ref mesh.Ref, path, message, hint string, by mesh.Ref, byPath string) {
	before := len(a.doing.findings)
	a.add(code, ref, path, message, hint)
	if found := a.doing.findings[before:]; len(found) > 0 {
		found[0] = found[0].Because(by, byPath)
	}
}

// Why a rule hides a later one.
const (
	matchesEverything = "already matches everything"
	matchesTheSame    = "has the same match"
	matchesAll        = "already matches all that it matches"
)

// hiddenBy finds, among the earlier rules of another VirtualService or the same, the one
// that hides r: between them they match all that r matches, and the one that is returned
// matches the last of it. -1 if there is none.
func hiddenBy(vs *mesh.VirtualService, r *mesh.HTTPRoute, of *mesh.VirtualService, earlier []mesh.HTTPRoute) (int, string) {
	everything := mesh.HTTPMatch{}
	matches := r.Matches
	if len(matches) == 0 {
		matches = []mesh.HTTPMatch{everything}
	}
	last, why := -1, ""
	for i := range matches {
		j := slices.IndexFunc(earlier, func(e mesh.HTTPRoute) bool {
			if e.Action.Delegate != "" { // what its delegate does not match goes on
				return false
			}
			return len(e.Matches) == 0 && covers(of, &everything, vs, &matches[i]) ||
				slices.ContainsFunc(e.Matches, func(m mesh.HTTPMatch) bool { return covers(of, &m, vs, &matches[i]) })
		})
		if j < 0 {
			return -1, ""
		}
		if j >= last {
			last, why = j, matchesAll
			switch e := &earlier[j]; {
			case len(e.Matches) == 0 || slices.ContainsFunc(e.Matches, unconditional):
				why = matchesEverything
			case coversAll(e.Matches, matches):
				why = matchesTheSame
			}
		}
	}
	return last, why
}

// covers reports whether e, a match of of, holds wherever l, a match of vs, does.
func covers(of *mesh.VirtualService, e *mesh.HTTPMatch, vs *mesh.VirtualService, l *mesh.HTTPMatch) bool {
	return coversURI(e, l) && implied(e.Scheme, l.Scheme) && implied(e.Method, l.Method) && implied(e.Authority, l.Authority) &&
		allOf(e.Headers, l.Headers, implied) && allOf(e.QueryParams, l.QueryParams, implied) &&
		// A header that must not be such must not be such if it must not even be more.
		allOf(e.WithoutHeaders, l.WithoutHeaders, func(e, l mesh.StringMatch) bool { return e.Kind != mesh.Any && implied(l, e) || e == l }) &&
		coversClients(of, e.Port, e.SourceLabels, e.SourceNamespace, e.Gateways, vs, l.Port, l.SourceLabels, l.SourceNamespace, l.Gateways)
}

func coversClients(of *mesh.VirtualService, port uint16, labels mesh.Labels, namespace string, gateways []string,
	vs *mesh.VirtualService, lPort uint16, lLabels mesh.Labels, lNamespace string, lGateways []string,
) bool {
	if gateways == nil {
		gateways = of.Gateways
	}
	if lGateways == nil {
		lGateways = vs.Gateways
	}
	return (port == 0 || port == lPort) && labels.Selects(lLabels) && (namespace == "" || namespace == lNamespace) &&
		!slices.ContainsFunc(lGateways, func(g string) bool { return !slices.Contains(gateways, g) })
}

// allOf reports whether each of e is implied by one of l that has its name.
func allOf(e, l []mesh.HeaderMatch, implied func(e, l mesh.StringMatch) bool) bool {
	return !slices.ContainsFunc(e, func(x mesh.HeaderMatch) bool {
		return !slices.ContainsFunc(l, func(y mesh.HeaderMatch) bool { return x.Name == y.Name && implied(x.Match, y.Match) })
	})
}

func coversURI(e, l *mesh.HTTPMatch) bool {
	if e.URI.Kind == mesh.Prefix && (e.URI.Value == "/" || e.URI.Value == "") || e.URI.Kind == mesh.Regex && e.URI.Value == ".*" {
		return true // there is always a path
	}
	x, y := e.URI, l.URI
	if e.IgnoreURICase && x.Kind != mesh.Regex && y.Kind != mesh.Regex {
		x.Value, y.Value = strings.ToLower(x.Value), strings.ToLower(y.Value)
	} else if l.IgnoreURICase && x.Kind != mesh.Any && y.Kind != mesh.Regex {
		return false
	}
	return implied(x, y)
}

// implied reports whether e holds of every value of which l does.
func implied(e, l mesh.StringMatch) bool {
	exactly := l.Kind == mesh.Exact
	switch e.Kind {
	case mesh.Any:
		return true
	case mesh.Present:
		return l.Kind != mesh.Any
	case mesh.Exact:
		return exactly && l.Value == e.Value
	case mesh.Prefix:
		return (exactly || l.Kind == mesh.Prefix) && strings.HasPrefix(l.Value, e.Value)
	case mesh.Regex:
		return l == e || e.Value == ".*" && l.Kind != mesh.Any
	}
	return false
}

// hiddenL4 looks for rules without effect among those for TLS or TCP. Proxies take the
// most specific server name and subnet, whatever the order, so only what takes everything,
// or the very same, hides another.
func (a *analysis) hiddenL4(vs *mesh.VirtualService, field string, rules [][]mesh.L4Match) {
	everything := []mesh.L4Match{{}}
	of := func(i int) []mesh.L4Match {
		if len(rules[i]) == 0 {
			return everything
		}
		return rules[i]
	}
	for i := range rules {
		hidden := -1
		for _, l := range of(i) {
			j := slices.IndexFunc(rules[:i], func(e []mesh.L4Match) bool {
				if len(e) == 0 {
					e = everything
				}
				return slices.ContainsFunc(e, func(m mesh.L4Match) bool { return coversL4(vs, &m, &l) })
			})
			if j < 0 {
				hidden = -1
				break
			}
			hidden = max(hidden, j)
		}
		if hidden >= 0 {
			a.shadowed(config.UnreachableRule, vs.Ref, document.Index(field, i), fmt.Sprintf("is never used: %s[%d] %s", field, hidden, matchesAll),
				"remove one of the two, or change its match", vs.Ref, document.Index(field, hidden))
		}
	}
}

func coversL4(vs *mesh.VirtualService, e, l *mesh.L4Match) bool {
	names := len(e.SNIHosts) == 0 || slices.Contains(e.SNIHosts, "*") ||
		len(l.SNIHosts) > 0 && !slices.ContainsFunc(l.SNIHosts, func(n string) bool { return !slices.Contains(e.SNIHosts, n) })
	if (len(e.SNIHosts) == 0 || slices.Contains(e.SNIHosts, "*")) && len(e.DestinationSubnets) > 0 {
		names = len(l.SNIHosts) == 0 || slices.Equal(e.SNIHosts, l.SNIHosts)
	}
	subnets := len(e.DestinationSubnets) == 0 || slices.Equal(e.DestinationSubnets, l.DestinationSubnets)
	return names && subnets && coversClients(vs, e.Port, e.SourceLabels, e.SourceNamespace, e.Gateways, vs, l.Port, l.SourceLabels, l.SourceNamespace, l.Gateways)
}

// maxSharing bounds the VirtualServices of one host at one gateway that are compared.
const maxSharing = 50

// gatewayHost looks for rules that an older VirtualService for the same host at the same
// gateway hides. There all VirtualServices of a host are joined: the rules of the oldest
// come first, but what takes everything comes behind all that does not.
func (a *analysis) gatewayHost(s subject) bool {
	host, gateway := s.name, s.of
	all := a.bound[binding{gateway, host}]
	a.look(thing{kind: aGateway, a: gateway})
	gw := a.Snapshot.Gateways.At(mesh.Key(gateway))
	if gw == nil {
		return len(all) > 0
	}
	sharing := slices.DeleteFunc(slices.Clone(all[:min(maxSharing, len(all))]), func(vs *mesh.VirtualService) bool { return !accepts(gw, vs.Ref.Namespace, host) })
	for n, vs := range sharing {
		for i := range vs.HTTP {
			r := &vs.HTTP[i]
			takes := takesEverything(r)
			for _, older := range sharing[:n] {
				rules := slices.Clone(older.HTTP)
				if !takes { // it comes before those of the older that do
					for k := range rules {
						if takesEverything(&rules[k]) {
							rules[k].Matches = []mesh.HTTPMatch{{Gateways: []string{}, Port: ^uint16(0), SourceNamespace: "\x00"}} // matches nothing
						}
					}
				}
				j, _ := hiddenBy(at(vs, gateway), atGateway(r, gateway), at(older, gateway), rules)
				if j < 0 {
					continue
				}
				a.shadowed(config.UnreachableRule, vs.Ref, document.Index("spec.http", i),
					fmt.Sprintf("is never used for host %s at Gateway %s: spec.http[%d] of VirtualService %s/%s, which is older, %s", a.short(host), gateway, j,
						older.Ref.Namespace, older.Ref.Name, matchesAll),
					"merge the two, or change its match", older.Ref, document.Index("spec.http", j))
				break
			}
		}
	}
	return len(all) > 0
}

// at is vs as one gateway sees it.
func at(vs *mesh.VirtualService, gateway string) *mesh.VirtualService {
	v := *vs
	v.Gateways = []string{gateway}
	return &v
}

// atGateway is a rule as one gateway sees it: without the matches for others.
func atGateway(r *mesh.HTTPRoute, gateway string) *mesh.HTTPRoute {
	out := *r
	out.Matches = nil
	for _, m := range r.Matches {
		if m.Gateways == nil || slices.Contains(m.Gateways, gateway) {
			m.Gateways = nil
			out.Matches = append(out.Matches, m)
		}
	}
	if len(r.Matches) > 0 && len(out.Matches) == 0 {
		return r // it is not for this gateway, and nothing at it hides it
	}
	return &out
}

func takesEverything(r *mesh.HTTPRoute) bool {
	return len(r.Matches) == 0 || slices.ContainsFunc(r.Matches, unconditional)
}

// ruleHost finds DestinationRules for one host whose parts an older one has already.
func (a *analysis) ruleHost(s subject) bool {
	all := a.ruleHosts[place{s.of, s.name}]
	gives := func(r *mesh.DestinationRule) bool { return r.Policy != (mesh.TrafficPolicy{}) || r.PortPolicies != nil }
	for n, r := range all {
		older := all[:n]
		if i := slices.IndexFunc(older, gives); i >= 0 && gives(r) {
			o := older[i]
			a.shadowed(config.RuleIgnored, r.Ref, "spec.trafficPolicy", fmt.Sprintf("DestinationRule %s is for host %s, too, and is older: its trafficPolicy is used", o.Ref.Name, a.short(r.Host)),
				"merge the two", o.Ref, "spec.trafficPolicy")
		}
		for i, s := range r.Subsets {
			for _, o := range older {
				if j := slices.IndexFunc(o.Subsets, func(x mesh.Subset) bool { return x.Name == s.Name }); j >= 0 {
					a.shadowed(config.RuleIgnored, r.Ref, document.Index("spec.subsets", i), fmt.Sprintf("DestinationRule %s defines subset %s of host %s, too, and is older: its definition is used", o.Ref.Name, s.Name, a.short(r.Host)),
						"remove one of the two", o.Ref, document.Index("spec.subsets", j))
					break
				}
			}
		}
	}
	return len(all) > 0
}
