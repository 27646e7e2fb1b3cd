package translate

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/mesh"
)

// audience is for whom the rules of a VirtualService are read: what does not depend on
// requests is decided here and not by the proxy.
type audience struct {
	gateway   string // mesh.Mesh, or "namespace/name" of a Gateway
	namespace string
	satisfied map[string]bool // canonical selectors the workload's labels satisfy
}

// admits decides the conditions of a match that speak about the client.
func (a *audience) admits(v *virtual, gateways []string, labels mesh.Labels, namespace string) bool {
	if gateways == nil {
		gateways = v.Gateways
	}
	return slices.Contains(gateways, a.gateway) &&
		(namespace == "" || namespace == a.namespace) &&
		(len(labels) == 0 || a.satisfied[canonical(labels)])
}

// virtual is a VirtualService and the services its routes name. It is a new one whenever
// one of them changed.
type virtual struct {
	*mesh.VirtualService
	destinations map[string]*mesh.Service // by host; missing: unknown
	sourced      bool                     // some rule depends on who the client is
	delegates    []mesh.Key               // whose rules it has, or would have
}

// refs are the objects it was made of.
func (v *virtual) refs() []*mesh.Ref {
	out := []*mesh.Ref{&v.Ref}
	for i := range v.HTTP {
		if r := v.HTTP[i].From; r != nil && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}

// port is the port of a destination as seen from a listener port.
func (v *virtual) port(d *mesh.Destination, listener uint16) uint16 {
	if d.Port != 0 {
		return d.Port
	}
	if s := v.destinations[d.Host]; s != nil && len(s.Ports) == 1 {
		return s.Ports[0].Number
	}
	return listener
}

func (v *virtual) cluster(d *mesh.Destination, listener uint16) string {
	return clusterName(v.port(d, listener), d.Subset, d.Host)
}

// routeBuilder turns HTTP rules into routes.
type routeBuilder struct {
	mint
	v        *virtual
	port     uint16 // of the listener (a gateway: of the server)
	retries  mesh.RetryPolicy
	problems []Problem
	line     int // of the rule being built
	ref      *mesh.Ref
}

func (b *routeBuilder) note(format string, args ...any) {
	b.problems = append(b.problems, problem(cmp.Or(b.ref, &b.v.Ref), b.line, format, args...))
}

// httpRoutes lists the routes of v for an audience and a port, in order. The list ends
// behind a route that takes everything.
func (b *routeBuilder) httpRoutes(a *audience) []*routev3.Route {
	var out []*routev3.Route
	for i := range b.v.HTTP {
		rule := &b.v.HTTP[i]
		b.line, b.ref = rule.Line, cmp.Or(rule.From, &b.v.Ref)
		matches := rule.Matches
		if len(matches) == 0 {
			matches = []mesh.HTTPMatch{{}}
		}
		for j := range matches {
			m := &matches[j]
			if !a.admits(b.v, m.Gateways, m.SourceLabels, m.SourceNamespace) || m.Port != 0 && m.Port != b.port {
				continue
			}
			r := b.route(rule, m)
			out = append(out, r)
			if takesEverything(r) {
				return out
			}
		}
	}
	return out
}

func takesEverything(r *routev3.Route) bool {
	m := r.GetMatch()
	return m.GetPrefix() == "/" && len(m.GetHeaders()) == 0 && len(m.GetQueryParameters()) == 0 && len(m.GetDynamicMetadata()) == 0
}

func (b *routeBuilder) route(rule *mesh.HTTPRoute, m *mesh.HTTPMatch) *routev3.Route {
	r := &routev3.Route{
		Name:     rule.Name,
		Match:    b.match(m),
		Metadata: origin("virtual-service", b.ref, rule.Line),

		StatPrefix: m.StatPrefix,
	}
	if m.Name != "" {
		r.Name = rule.Name + "." + m.Name
	}
	b.action(r, rule, m)
	b.perFilter(r, rule)
	return r
}

func (b *routeBuilder) match(m *mesh.HTTPMatch) *routev3.RouteMatch {
	out := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
	switch m.URI.Kind {
	case mesh.Exact:
		out.PathSpecifier = &routev3.RouteMatch_Path{Path: m.URI.Value}
	case mesh.Prefix:
		out.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: m.URI.Value}
	case mesh.Regex:
		out.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: b.regex(m.URI.Value)}
	case mesh.Any, mesh.Present:
	}
	if m.IgnoreURICase && (m.URI.Kind == mesh.Exact || m.URI.Kind == mesh.Prefix) {
		out.CaseSensitive = wrapperspb.Bool(false)
	}
	header := func(name string, s mesh.StringMatch, invert bool) {
		h := &routev3.HeaderMatcher{Name: name, InvertMatch: invert}
		if sm := b.stringMatch(s); sm != nil {
			h.HeaderMatchSpecifier = &routev3.HeaderMatcher_StringMatch{StringMatch: sm}
		} else {
			h.HeaderMatchSpecifier = &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}
		}
		out.Headers = append(out.Headers, h)
	}
	for _, pseudo := range []struct {
		name string
		m    mesh.StringMatch
	}{{":method", m.Method}, {":authority", m.Authority}, {":scheme", m.Scheme}} {
		if pseudo.m.Kind != mesh.Any {
			header(pseudo.name, pseudo.m, false)
		}
	}
	for _, list := range []struct {
		headers []mesh.HeaderMatch
		invert  bool
	}{{m.Headers, false}, {m.WithoutHeaders, true}} {
		for i := range list.headers {
			if h := &list.headers[i]; strings.HasPrefix(h.Name, mesh.ClaimPrefix) {
				out.DynamicMetadata = append(out.DynamicMetadata, b.claimMatch(h, list.invert))
			} else {
				header(h.Name, h.Match, list.invert)
			}
		}
	}
	for _, q := range m.QueryParams {
		p := &routev3.QueryParameterMatcher{Name: q.Name}
		if sm := b.stringMatch(q.Match); sm != nil {
			p.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_StringMatch{StringMatch: sm}
		} else {
			p.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_PresentMatch{PresentMatch: true}
		}
		out.QueryParameters = append(out.QueryParameters, p)
	}
	return out
}

// stringMatch is nil for Any and Present.
func (b *routeBuilder) stringMatch(s mesh.StringMatch) *matcherv3.StringMatcher {
	switch s.Kind {
	case mesh.Exact:
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s.Value}}
	case mesh.Prefix:
		if s.Value == "" { // which everything begins with, and xDS refuses
			return nil
		}
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: s.Value}}
	case mesh.Regex:
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: b.regex(s.Value)}}
	case mesh.Any, mesh.Present:
	}
	return nil
}

// regex refuses what does not compile: a proxy would refuse the whole table for it.
func (b *routeBuilder) regex(s string) *matcherv3.RegexMatcher {
	if _, err := regexp.Compile(s); err != nil {
		b.fail(fmt.Errorf("regular expression %q: %w", clip(s), err))
	}
	return &matcherv3.RegexMatcher{Regex: s}
}

// defaultRoute is the route of a service no VirtualService speaks about.
func defaultRoute(cluster string, retries mesh.RetryPolicy) *routev3.Route {
	b := &routeBuilder{retries: retries}
	return &routev3.Route{
		Name:  "default",
		Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster},
			Timeout:          &durationpb.Duration{}, // 0: none; xDS's own default is 15 s
			RetryPolicy:      b.retryPolicy(&retries),
		}},
	}
}

// strangersHost is the virtual host for hosts nobody knows.
func strangersHost(to string) *routev3.VirtualHost {
	everything := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
	if to == blackHoleCluster {
		return &routev3.VirtualHost{Name: "block_all", Domains: []string{"*"}, Routes: []*routev3.Route{{
			Name: "block_all", Match: everything,
			Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 502}},
		}}}
	}
	return &routev3.VirtualHost{Name: "allow_any", Domains: []string{"*"}, Routes: []*routev3.Route{{
		Name: "allow_any", Match: everything,
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: to},
			Timeout:          &durationpb.Duration{},
		}},
	}}}
}

func headerValue(h mesh.Header, action corev3.HeaderValueOption_HeaderAppendAction) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: h.Name, Value: h.Value}, AppendAction: action}
}

// boundTo lists the gateways v is bound to as a whole or by some match.
func (v *virtual) boundTo() []string {
	out := slices.Clone(v.Gateways)
	v.eachMatch(func(gateways []string, _ mesh.Labels, _ string) { out = append(out, gateways...) })
	slices.Sort(out)
	return slices.Compact(out)
}

// hosts are v's hosts, each once.
func (v *virtual) hosts() []string {
	return slices.Compact(slices.Sorted(slices.Values(v.Hosts)))
}

// eachMatch visits what every match of v says about clients.
func (v *virtual) eachMatch(visit func(gateways []string, labels mesh.Labels, namespace string)) {
	for i := range v.HTTP {
		for j := range v.HTTP[i].Matches {
			m := &v.HTTP[i].Matches[j]
			visit(m.Gateways, m.SourceLabels, m.SourceNamespace)
		}
	}
	l4 := func(matches []mesh.L4Match) {
		for i := range matches {
			visit(matches[i].Gateways, matches[i].SourceLabels, matches[i].SourceNamespace)
		}
	}
	for i := range v.TLS {
		l4(v.TLS[i].Matches)
	}
	for i := range v.TCP {
		l4(v.TCP[i].Matches)
	}
}

// selectors visits the label selectors by which v picks clients.
func (v *virtual) selectors(visit func(mesh.Labels)) {
	v.eachMatch(func(_ []string, l mesh.Labels, _ string) {
		if len(l) > 0 {
			visit(l)
		}
	})
}

// namesClients reports whether v picks clients by namespace.
func (v *virtual) namesClients() bool {
	named := false
	v.eachMatch(func(_ []string, _ mesh.Labels, ns string) { named = named || ns != "" })
	return named
}

// targets are the hosts v routes to.
func (v *virtual) targets() map[string]bool {
	out := map[string]bool{}
	add := func(ds []mesh.Destination) {
		for i := range ds {
			out[ds[i].Host] = true
		}
	}
	for i := range v.HTTP {
		add(v.HTTP[i].Action.Destinations)
		for j := range v.HTTP[i].Mirrors {
			out[v.HTTP[i].Mirrors[j].To.Host] = true
		}
	}
	for i := range v.TLS {
		add(v.TLS[i].Route)
	}
	for i := range v.TCP {
		add(v.TCP[i].Route)
	}
	return out
}
