package istio

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

func (l *lowerer) virtualService(spec *networkingv1alpha3.VirtualService) *mesh.VirtualService {
	vs := &mesh.VirtualService{Ref: l.o.Ref, Visible: l.exportTo(spec.ExportTo, false)}
	vs.Gateways = l.gatewayNames("spec.gateways", spec.Gateways)
	if len(spec.Gateways) == 0 {
		vs.Gateways = []string{mesh.Mesh}
	}
	onMesh := slices.Contains(vs.Gateways, mesh.Mesh)
	if len(spec.Hosts) == 0 {
		l.delegate(spec)
	}
	for i, h := range spec.Hosts {
		at := document.Index("spec.hosts", i)
		if !l.host(at, h, true, true) {
			continue
		}
		if h == "*" && onMesh {
			l.Invalid(at, `host "*" would catch every call in the mesh`, "name the hosts, or bind the VirtualService to a Gateway only (spec.gateways)")
		}
		host := l.fqdn(h)
		if slices.Contains(vs.Hosts, host) {
			l.Invalid(at, fmt.Sprintf("%q is named twice", h), "keep one of the two")
			continue
		}
		vs.Hosts = append(vs.Hosts, host)
	}
	if len(spec.Http)+len(spec.Tls)+len(spec.Tcp) == 0 {
		l.Invalid("spec", "there are no routes", "add http, tls or tcp")
	}
	for i, r := range spec.Http {
		vs.HTTP = append(vs.HTTP, l.httpRoute(document.Index("spec.http", i), r))
	}
	for i, r := range spec.Tls {
		vs.TLS = append(vs.TLS, l.tlsRoute(document.Index("spec.tls", i), r, vs.Hosts))
	}
	for i, r := range spec.Tcp {
		vs.TCP = append(vs.TCP, l.tcpRoute(document.Index("spec.tcp", i), r))
	}
	return vs
}

// delegate checks what has no hosts: rules that stand where another VirtualService delegates
// to them.
func (l *lowerer) delegate(spec *networkingv1alpha3.VirtualService) {
	if len(spec.Tls)+len(spec.Tcp) > 0 {
		l.Invalid("spec.hosts", "is missing", "name the hosts: only http rules can be delegated to")
	}
	if len(spec.Gateways) > 0 {
		l.Invalid("spec.gateways", "has no meaning without hosts", "remove it: who delegates says at which gateways, or add hosts")
	}
	for i, r := range spec.Http {
		if r.Delegate != nil {
			l.Invalid(document.Index("spec.http", i)+".delegate", "a VirtualService without hosts cannot delegate further", "write the routes here, or add hosts")
		}
	}
}

func (l *lowerer) httpRoute(path string, r *networkingv1alpha3.HTTPRoute) mesh.HTTPRoute {
	out := mesh.HTTPRoute{
		Name:    r.Name,
		Line:    l.LineOf(path),
		Timeout: l.duration(path+".timeout", r.Timeout),
		Headers: l.headers(path+".headers", r.Headers),
		Retries: l.retries(path+".retries", r.Retries),
		Fault:   l.fault(path+".fault", r.Fault),
		Rewrite: l.rewrite(path+".rewrite", r.Rewrite),
		Mirrors: l.mirrors(path, r), MirrorList: len(r.Mirrors) > 0,
		CORS: l.cors(path+".corsPolicy", r.CorsPolicy),
	}
	for i, m := range r.Match {
		out.Matches = append(out.Matches, l.httpMatch(document.Index(path+".match", i), m))
	}
	l.oneAction(path, r)
	switch {
	case r.Redirect != nil:
		out.Action.Redirect = l.redirect(path+".redirect", r.Redirect, r.Match)
	case r.DirectResponse != nil:
		out.Action.Direct = l.direct(path+".directResponse", r.DirectResponse)
	case r.Delegate != nil:
		at := path + ".delegate"
		if r.Delegate.Name == "" {
			l.Invalid(at+".name", "is missing", "name the VirtualService that has the rules")
		}
		ns := cmp.Or(r.Delegate.Namespace, l.ns)
		l.name(at+".namespace", "namespace", ns)
		out.Action.Delegate = mesh.NewKey(ns, r.Delegate.Name)
	default:
		out.Action.Destinations = l.httpDestinations(path+".route", r.Route)
	}
	l.oneAuthority(path, r)
	return out
}

// oneAction checks that a route does exactly one thing, and has nothing beside it that
// the thing excludes.
func (l *lowerer) oneAction(path string, r *networkingv1alpha3.HTTPRoute) {
	var actions []string
	for _, a := range []struct {
		name string
		set  bool
	}{{"route", len(r.Route) > 0}, {"redirect", r.Redirect != nil}, {"directResponse", r.DirectResponse != nil}, {"delegate", r.Delegate != nil}} {
		if a.set {
			actions = append(actions, a.name)
		}
	}
	if len(actions) == 0 {
		l.Invalid(path, "the rule says nothing to do", "add route, redirect, directResponse or delegate")
	}
	if len(actions) > 1 {
		l.Invalid(path+"."+actions[1], "cannot be given together with "+actions[0], "split the rule, each with its own match")
	}
	if r.Redirect == nil && r.DirectResponse == nil {
		return
	}
	for _, x := range []struct {
		name string
		set  bool
	}{{"fault", r.Fault != nil}, {"rewrite", r.Rewrite != nil}} {
		if x.set {
			l.Invalid(path+"."+x.name, "cannot be given together with "+actions[0], "remove one of the two")
		}
	}
}

// oneAuthority checks that the authority is rewritten in one place.
func (l *lowerer) oneAuthority(path string, r *networkingv1alpha3.HTTPRoute) {
	first := ""
	if r.Rewrite.GetAuthority() != "" {
		first = path + ".rewrite.authority"
	}
	for _, op := range []struct {
		name string
		m    map[string]string
	}{{"set", r.Headers.GetRequest().GetSet()}, {"add", r.Headers.GetRequest().GetAdd()}} {
		for _, k := range sortedKeys(op.m) {
			if !isAuthority(k) {
				continue
			}
			at := document.Key(path+".headers.request."+op.name, k)
			if first != "" {
				l.Invalid(at, "the authority is already set by "+strings.TrimPrefix(first, path+"."), "keep one of the two")
			}
			first = at
		}
	}
}

func (l *lowerer) httpMatch(path string, m *networkingv1alpha3.HTTPMatchRequest) mesh.HTTPMatch {
	if m.SourceNamespace != "" {
		l.name(path+".sourceNamespace", "namespace", m.SourceNamespace)
	}
	if m.IgnoreUriCase && m.Uri.GetRegex() != "" {
		l.Add(config.SchemaWarning, path+".ignoreUriCase", "has no effect on a regex", "begin the expression with (?i)")
	}
	return mesh.HTTPMatch{
		Name:            m.Name,
		URI:             l.stringMatch(path+".uri", m.Uri, true),
		IgnoreURICase:   m.IgnoreUriCase,
		Scheme:          l.stringMatch(path+".scheme", m.Scheme, false),
		Method:          l.stringMatch(path+".method", m.Method, false),
		Authority:       l.stringMatch(path+".authority", m.Authority, false),
		Headers:         l.headerMatches(path+".headers", m.Headers),
		WithoutHeaders:  l.headerMatches(path+".withoutHeaders", m.WithoutHeaders),
		QueryParams:     l.paramMatches(path+".queryParams", m.QueryParams),
		Port:            l.port(path+".port", m.Port, true),
		SourceLabels:    l.labels(path+".sourceLabels", m.SourceLabels),
		SourceNamespace: m.SourceNamespace,
		Gateways:        l.gatewayNames(path+".gateways", m.Gateways),
		StatPrefix:      m.StatPrefix,
	}
}

// stringMatch lowers a match of something every request has.
func (l *lowerer) stringMatch(path string, m *networkingv1alpha3.StringMatch, emptyPrefix bool) mesh.StringMatch {
	if m == nil {
		return mesh.StringMatch{}
	}
	switch t := m.MatchType.(type) {
	case *networkingv1alpha3.StringMatch_Exact:
		return mesh.StringMatch{Kind: mesh.Exact, Value: t.Exact}
	case *networkingv1alpha3.StringMatch_Prefix:
		if t.Prefix == "" && !emptyPrefix {
			l.Invalid(path+".prefix", "is empty", "remove the match to match everything")
		}
		return mesh.StringMatch{Kind: mesh.Prefix, Value: t.Prefix}
	case *networkingv1alpha3.StringMatch_Regex:
		if t.Regex == "" {
			l.Invalid(path+".regex", "is empty", `use exact: ""`)
		}
		l.regex(path+".regex", t.Regex)
		return mesh.StringMatch{Kind: mesh.Regex, Value: t.Regex}
	}
	l.Add(config.SchemaWarning, path, "has neither exact, prefix nor regex, and so matches everything", "add one, or remove the match")
	return mesh.StringMatch{}
}

// presence lowers a match of something that a request may have: without a value, and as
// regex "*", it asks only whether it is there.
func (l *lowerer) presence(path string, m *networkingv1alpha3.StringMatch) mesh.StringMatch {
	if m.GetMatchType() == nil || m.GetRegex() == "*" {
		return mesh.StringMatch{Kind: mesh.Present}
	}
	return l.stringMatch(path, m, false)
}

// claimName is how a claim is written where headers are matched.
var claimName = regexp.MustCompile(`^@request\.auth\.claims(\.[^.\[\]]+)+$|^@request\.auth\.claims(\[[^\[\]]+\])+$`)

func (l *lowerer) headerMatches(path string, ms map[string]*networkingv1alpha3.StringMatch) []mesh.HeaderMatch {
	var out []mesh.HeaderMatch
	for _, k := range sortedKeys(ms) {
		at := document.Key(path, k)
		switch {
		case strings.HasPrefix(k, mesh.ClaimPrefix):
			if !claimName.MatchString(k) {
				l.Invalid(at, fmt.Sprintf("%q names no claim", k), `write "@request.auth.claims.NAME", or "@request.auth.claims[NAME][NAME]" for one inside another or with dots`)
			}
			out = append(out, mesh.HeaderMatch{Name: k, Match: l.presence(at, ms[k])})
		case k == "uri" || k == "scheme" || k == "method" || k == "authority":
			l.Add(config.SchemaWarning, at, "is ignored: it is not a header", "use "+path[:strings.LastIndexByte(path, '.')]+"."+k)
		case !isToken(k):
			l.Invalid(at, fmt.Sprintf("%q is not a header name", k), "use letters, digits and '-'")
		default:
			out = append(out, mesh.HeaderMatch{Name: strings.ToLower(k), Match: l.presence(at, ms[k])})
		}
	}
	return sortMatches(out)
}

func (l *lowerer) paramMatches(path string, ms map[string]*networkingv1alpha3.StringMatch) []mesh.HeaderMatch {
	var out []mesh.HeaderMatch
	for _, k := range sortedKeys(ms) {
		at := document.Key(path, k)
		if k == "" {
			l.Invalid(at, "a query parameter has no name", "write the name of the parameter before its match")
			continue
		}
		out = append(out, mesh.HeaderMatch{Name: k, Match: l.presence(at, ms[k])})
	}
	return out
}

func sortMatches(ms []mesh.HeaderMatch) []mesh.HeaderMatch {
	slices.SortStableFunc(ms, func(a, b mesh.HeaderMatch) int { return strings.Compare(a.Name, b.Name) })
	return ms
}

func (l *lowerer) httpDestinations(path string, ds []*networkingv1alpha3.HTTPRouteDestination) []mesh.Destination {
	out := make([]mesh.Destination, len(ds))
	for i, d := range ds {
		at := document.Index(path, i)
		out[i] = l.destination(at+".destination", d.Destination)
		out[i].Headers = l.headers(at+".headers", d.Headers)
		out[i].Weight = l.atLeast(at+".weight", d.Weight, 0)
	}
	l.weights(path, out)
	return out
}

func (l *lowerer) l4Destinations(path string, ds []*networkingv1alpha3.RouteDestination) []mesh.Destination {
	if len(ds) == 0 {
		l.Invalid(path, "there is no destination", "add one entry with destination.host")
	}
	out := make([]mesh.Destination, len(ds))
	for i, d := range ds {
		at := document.Index(path, i)
		out[i] = l.destination(at+".destination", d.Destination)
		out[i].Weight = l.atLeast(at+".weight", d.Weight, 0)
	}
	l.weights(path, out)
	return out
}

func (l *lowerer) weights(path string, ds []mesh.Destination) {
	if len(ds) == 1 {
		ds[0].Weight = 100
		return
	}
	total := uint64(0)
	for _, d := range ds {
		total += uint64(d.Weight)
	}
	switch {
	case len(ds) > 0 && total == 0:
		l.Invalid(path, "all weights are 0, so that no destination would get anything", "give each entry a weight; shares are weight / sum")
	case total > 1<<32-1:
		l.Invalid(path, "the sum of the weights is larger than 4294967295", "give smaller weights; shares are weight / sum")
	}
}

func (l *lowerer) destination(path string, d *networkingv1alpha3.Destination) mesh.Destination {
	if d == nil {
		l.Invalid(path, "is missing", "add destination.host")
		return mesh.Destination{}
	}
	if d.Host == "*" {
		l.Invalid(path+".host", `"*" is not a destination`, "name a service")
	} else {
		l.host(path+".host", d.Host, true, false)
	}
	if d.Subset != "" {
		l.name(path+".subset", "subset name", d.Subset)
	}
	out := mesh.Destination{Host: l.fqdn(d.Host), Subset: d.Subset}
	if d.Port != nil {
		out.Port = l.port(path+".port.number", d.Port.Number, false)
	}
	return out
}

func (l *lowerer) tlsRoute(path string, r *networkingv1alpha3.TLSRoute, hosts []string) mesh.TLSRoute {
	out := mesh.TLSRoute{Line: l.LineOf(path)}
	if len(r.Match) == 0 {
		l.Invalid(path+".match", "is missing", "a tls rule needs match[].sniHosts")
	}
	for i, m := range r.Match {
		at := document.Index(path+".match", i)
		lm := l.l4Match(at, m.DestinationSubnets, m.Port, m.SourceLabels, m.Gateways, m.SourceNamespace)
		if len(m.SniHosts) == 0 {
			l.Invalid(at+".sniHosts", "is missing", "name the hosts the clients ask for")
		}
		for j, h := range m.SniHosts {
			sni := document.Index(at+".sniHosts", j)
			if !l.host(sni, h, true, false) {
				continue
			}
			host := l.fqdn(h)
			if !slices.ContainsFunc(hosts, func(v string) bool { return covers(v, host) }) {
				l.Invalid(sni, fmt.Sprintf("%q is not one of the hosts of the VirtualService", h), "add it to spec.hosts")
			}
			lm.SNIHosts = append(lm.SNIHosts, host)
		}
		out.Matches = append(out.Matches, lm)
	}
	out.Route = l.l4Destinations(path+".route", r.Route)
	return out
}

// covers reports whether host pattern a includes host (or pattern) b.
func covers(a, b string) bool {
	if rest, ok := strings.CutPrefix(a, "*"); ok {
		return strings.HasSuffix(strings.TrimPrefix(b, "*"), rest)
	}
	return a == b
}

func (l *lowerer) tcpRoute(path string, r *networkingv1alpha3.TCPRoute) mesh.TCPRoute {
	out := mesh.TCPRoute{Line: l.LineOf(path)}
	for i, m := range r.Match {
		out.Matches = append(out.Matches, l.l4Match(document.Index(path+".match", i), m.DestinationSubnets, m.Port, m.SourceLabels, m.Gateways, m.SourceNamespace))
	}
	out.Route = l.l4Destinations(path+".route", r.Route)
	return out
}

func (l *lowerer) l4Match(path string, subnets []string, port uint32, labels map[string]string, gateways []string, ns string) mesh.L4Match {
	if ns != "" {
		l.name(path+".sourceNamespace", "namespace", ns)
	}
	return mesh.L4Match{
		DestinationSubnets: l.subnets(path+".destinationSubnets", subnets),
		Port:               l.port(path+".port", port, true),
		SourceLabels:       l.labels(path+".sourceLabels", labels),
		SourceNamespace:    ns,
		Gateways:           l.gatewayNames(path+".gateways", gateways),
	}
}
