package simulate

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
)

// The names by which routes configure filters.
const (
	faultFilter = "envoy.filters.http.fault"
	corsFilter  = "envoy.filters.http.cors"
)

// route is what a connection manager does with a request.
func (p *Proxy) route(rc *routev3.RouteConfiguration, m *hcmv3.HttpConnectionManager, c Call) ([]Outcome, error) {
	path, query, asked := strings.Cut(c.Path, "?")
	if m.GetPathWithEscapedSlashesAction() == hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD {
		path = escapedSlashes.Replace(path)
	}
	if m.GetNormalizePath().GetValue() {
		path = normalize(path)
	}
	if m.GetMergeSlashes() {
		path = slashes.ReplaceAllLiteralString(path, "/")
	}
	scheme := "http"
	if c.SNI != "" {
		scheme = "https"
	}
	r := &request{method: c.Method, scheme: scheme, authority: c.Host, path: path, query: query, headers: c.Headers}
	target := path
	if asked {
		target += "?" + query
	}
	base := Outcome{Share: 1, Table: rc.GetName()}
	none := func() Outcome {
		o := base
		o.Status, o.Flags, o.Details = 404, "NR", "route_not_found"
		return o
	}
	vh := VirtualHost(rc, c.Host)
	if vh == nil {
		return []Outcome{none()}, nil
	}
	base.VirtualHost = vh.GetName()
	var out []Outcome
	for _, e := range vh.GetRoutes() {
		share, err := matches(e.GetMatch(), r)
		if err != nil {
			return nil, fmt.Errorf("route %q of %s: %w", e.GetName(), vh.GetName(), err)
		}
		if share == 0 {
			continue
		}
		taken := base
		taken.Share *= share
		some, err := p.take(taken, rc, vh, e, r, target, c)
		if err != nil {
			return nil, fmt.Errorf("route %q of %s: %w", e.GetName(), vh.GetName(), err)
		}
		out = append(out, some...)
		if base.Share *= 1 - share; base.Share == 0 {
			return out, nil
		}
	}
	return append(out, none()), nil
}

var (
	escapedSlashes = strings.NewReplacer("%2F", "/", "%2f", "/", "%5C", `\`, "%5c", `\`)

	slashes    = regexp.MustCompile("/+")
	unreserved = regexp.MustCompile("%(2[dDeE]|3[0-9]|[46][1-9a-fA-F]|5[0-9aA]|7[0-9aA]|5[fF]|7[eE])")
)

// normalize is normalize_path: RFC 3986, sections 6.2.2.2 and 6.2.2.3, and backslashes are slashes.
func normalize(path string) string {
	path = unreserved.ReplaceAllStringFunc(path, func(s string) string {
		n, err := strconv.ParseUint(s[1:], 16, 8)
		if err != nil {
			return s
		}
		return string(rune(n))
	})
	var out []string
	parts := strings.Split(strings.ReplaceAll(path, `\`, "/"), "/")
	for i, s := range parts {
		last := i == len(parts)-1
		switch s {
		case ".":
			if last {
				out = append(out, "")
			}
		case "..":
			if len(out) > 1 {
				out = out[:len(out)-1]
			}
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, s)
		}
	}
	return strings.Join(out, "/")
}

// take is what becomes of requests that take a route, in the order of Istio's filters: fault,
// CORS, router.
func (p *Proxy) take(o Outcome, rc *routev3.RouteConfiguration, vh *routev3.VirtualHost, e *routev3.Route, r *request, target string, c Call) ([]Outcome, error) {
	o.Route = e.GetName()
	fault, cors := &faultv3.HTTPFault{}, &corsv3.CorsPolicy{}
	for name, m := range map[string]proto.Message{faultFilter: fault, corsFilter: cors} {
		if a := e.GetTypedPerFilterConfig()[name]; a != nil {
			if err := a.UnmarshalTo(m); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	out := []Outcome{o}
	if d := fault.GetDelay(); d != nil {
		out = split(out, fraction(d.GetPercentage()), func(o *Outcome) { o.Delayed = true })
	}
	if a := fault.GetAbort(); a != nil {
		out = split(out, fraction(a.GetPercentage()), func(o *Outcome) {
			o.Status, o.Flags, o.Details, o.Body = int(a.GetHttpStatus()), "FI", "fault_filter_abort", "fault filter abort"
			o.Reply = textPlain
			if _, ok := a.GetErrorType().(*faultv3.FaultAbort_GrpcStatus); ok {
				o.Status = 200
				o.Reply = []Header{{"grpc-status", strconv.Itoa(int(a.GetGrpcStatus()))}}
			}
		})
	}
	var done []Outcome
	for _, o := range out {
		if o.Status != 0 {
			done = append(done, o)
			continue
		}
		replied, mutations, err := crossOrigin(cors, r)
		if err != nil {
			return nil, err
		}
		if replied != nil {
			o.Status, o.Details, o.Reply = 200, "cors_response", replied
			done = append(done, o)
			continue
		}
		some, err := p.act(o, rc, vh, e, r, target, c)
		if err != nil {
			return nil, err
		}
		for _, o := range some {
			o.Response = append(o.Response, mutations...)
			if o.Status != 0 {
				o.Reply = Apply(o.Reply, mutations, r.expand)
			}
			done = append(done, o)
		}
	}
	return done, nil
}

// textPlain is what answers of the proxy with a body say of it.
var textPlain = []Header{{"content-type", "text/plain"}}

// split lets a share of the outcomes be others.
func split(in []Outcome, share float64, change func(*Outcome)) []Outcome {
	var out []Outcome
	for _, o := range in {
		if rest := o; share < 1 {
			rest.Share *= 1 - share
			out = append(out, rest)
		}
		if share > 0 {
			o.Share *= share
			change(&o)
			out = append(out, o)
		}
	}
	return out
}

// crossOrigin is Envoy's CORS filter: the answer to a preflight request (not nil: it is not
// forwarded), or what it does to the answer of another.
func crossOrigin(c *corsv3.CorsPolicy, r *request) (reply []Header, ms []Mutation, err error) {
	origin, _ := r.header("origin")
	if len(c.GetAllowOriginStringMatch()) == 0 || origin == "" {
		return nil, nil, nil
	}
	allowed := false
	for _, m := range c.GetAllowOriginStringMatch() {
		for _, o := range []string{"*", origin} { // what allows "*" allows all
			held, err := Holds(m, o)
			if err != nil {
				return nil, nil, err
			}
			allowed = allowed || held
		}
	}
	asked, _ := r.header("access-control-request-method")
	preflight := r.method == "OPTIONS" && asked != ""
	if !allowed {
		if f := c.GetForwardNotMatchingPreflights(); preflight && f != nil && !f.GetValue() {
			return []Header{}, nil, nil
		}
		return nil, nil, nil
	}
	set := func(name, value string) {
		if value != "" {
			ms = append(ms, Mutation{Set, name, strings.ReplaceAll(value, "%", "%%")})
		}
	}
	set("access-control-allow-origin", origin)
	if c.GetAllowCredentials().GetValue() {
		set("access-control-allow-credentials", "true")
	}
	if !preflight {
		set("access-control-expose-headers", c.GetExposeHeaders())
		return nil, ms, nil
	}
	set("access-control-allow-methods", c.GetAllowMethods())
	set("access-control-allow-headers", c.GetAllowHeaders())
	set("access-control-max-age", c.GetMaxAge())
	return Apply(nil, ms, r.expand), nil, nil
}

// act is the route's action.
func (p *Proxy) act(o Outcome, rc *routev3.RouteConfiguration, vh *routev3.VirtualHost, e *routev3.Route, r *request, target string, c Call) ([]Outcome, error) {
	switch a := e.GetAction().(type) {
	case *routev3.Route_Redirect:
		o.Status, o.Details = redirectCodes[a.Redirect.GetResponseCode()], "direct_response"
		location, err := redirect(a.Redirect, e.GetMatch(), r)
		o.Reply = Apply([]Header{{"location", location}}, answerMutations(rc, vh, e, nil), r.expand)
		return []Outcome{o}, err
	case *routev3.Route_DirectResponse:
		o.Status, o.Details = int(a.DirectResponse.GetStatus()), "direct_response"
		o.Body = a.DirectResponse.GetBody().GetInlineString() + string(a.DirectResponse.GetBody().GetInlineBytes())
		if o.Body != "" {
			o.Reply = textPlain
		}
		o.Reply = Apply(o.Reply, answerMutations(rc, vh, e, nil), r.expand)
		return []Outcome{o}, nil
	case *routev3.Route_Route:
		return p.forward(o, rc, vh, e, a.Route, r, target, c)
	}
	return nil, fmt.Errorf("an action %T cannot be followed", e.GetAction())
}

var redirectCodes = map[routev3.RedirectAction_RedirectResponseCode]int{
	routev3.RedirectAction_MOVED_PERMANENTLY: 301, routev3.RedirectAction_FOUND: 302, routev3.RedirectAction_SEE_OTHER: 303,
	routev3.RedirectAction_TEMPORARY_REDIRECT: 307, routev3.RedirectAction_PERMANENT_REDIRECT: 308,
}

func (p *Proxy) forward(o Outcome, rc *routev3.RouteConfiguration, vh *routev3.VirtualHost, e *routev3.Route, a *routev3.RouteAction, r *request, target string, c Call) ([]Outcome, error) {
	o.Action = a
	path, err := rewritten(a, e.GetMatch(), target)
	if err != nil {
		return nil, err
	}
	for _, m := range a.GetRequestMirrorPolicies() {
		copies := Mirror{Cluster: m.GetCluster(), Share: 1}
		if f := m.GetRuntimeFraction().GetDefaultValue(); f != nil {
			copies.Share = fraction(f)
		}
		if copies.Endpoints, _ = p.endpoints(m.GetCluster(), c.To, r.authority); len(copies.Endpoints) > 0 {
			o.Mirrors = append(o.Mirrors, copies)
		}
	}
	to := func(o Outcome, cluster, host string, w *routev3.WeightedCluster_ClusterWeight) Outcome {
		o.Cluster = cluster
		o.Request = Request{Authority: r.authority, Path: path, Headers: Apply(r.headers, requestMutations(rc, vh, e, w), r.expand)}
		if host != "" {
			o.Request.Authority = host
		}
		if path != target {
			o.Request.Headers = Apply(o.Request.Headers, []Mutation{{Set, "x-envoy-original-path", strings.ReplaceAll(target, "%", "%%")}}, r.expand)
		}
		o.Response = answerMutations(rc, vh, e, w)
		var known bool
		o.Endpoints, known = p.endpoints(cluster, c.To, r.authority)
		switch {
		case !known:
			o.Status, o.Flags, o.Details = 503, "NC", "cluster_not_found"
		case len(o.Endpoints) == 0:
			o.Status, o.Flags, o.Details = 503, "UH", "no_healthy_upstream"
		}
		return o
	}
	if a.GetCluster() != "" {
		return []Outcome{to(o, a.GetCluster(), a.GetHostRewriteLiteral(), nil)}, nil
	}
	total := 0.0
	for _, w := range a.GetWeightedClusters().GetClusters() {
		total += float64(w.GetWeight().GetValue())
	}
	var out []Outcome
	for _, w := range a.GetWeightedClusters().GetClusters() {
		if w.GetWeight().GetValue() == 0 {
			continue
		}
		one := o
		one.Share *= float64(w.GetWeight().GetValue()) / total
		host := w.GetHostRewriteLiteral()
		if host == "" {
			host = a.GetHostRewriteLiteral()
		}
		out = append(out, to(one, w.GetName(), host, w))
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("an action with cluster specifier %T cannot be followed", a.GetClusterSpecifier())
	}
	return out, nil
}

// matched is the length of the prefix that a match asked for.
func matched(m *routev3.RouteMatch, path string) int {
	switch p := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		return len(p.Prefix)
	case *routev3.RouteMatch_PathSeparatedPrefix:
		return len(p.PathSeparatedPrefix)
	}
	return len(path)
}

// rewritten is prefix_rewrite or regex_rewrite of a path with its query.
func rewritten(a *routev3.RouteAction, m *routev3.RouteMatch, target string) (string, error) {
	path, query, asked := strings.Cut(target, "?")
	if asked {
		query = "?" + query
	}
	if re := a.GetRegexRewrite(); re != nil {
		x, err := regexp.Compile(re.GetPattern().GetRegex())
		if err != nil {
			return "", err
		}
		return x.ReplaceAllString(path, substitution(re.GetSubstitution())) + query, nil
	}
	if by := a.GetPrefixRewrite(); by != "" {
		return by + path[matched(m, path):] + query, nil
	}
	return target, nil
}

var group = regexp.MustCompile(`\\[0-9\\]`)

// substitution turns RE2's \1 into ${1}.
func substitution(s string) string {
	return group.ReplaceAllStringFunc(strings.ReplaceAll(s, "$", "$$"), func(g string) string {
		if g == `\\` {
			return `\`
		}
		return "${" + g[1:] + "}"
	})
}

// redirect is the location of a RedirectAction.
func redirect(a *routev3.RedirectAction, m *routev3.RouteMatch, r *request) (string, error) {
	scheme, host := r.scheme, r.authority
	if a.GetSchemeRedirect() != "" {
		scheme = a.GetSchemeRedirect()
	}
	if a.GetHttpsRedirect() {
		scheme = "https"
	}
	// The default port of the scheme that was asked for says nothing in another.
	name, port, _ := strings.Cut(host, ":")
	if strings.HasPrefix(host, "[") {
		name, port, _ = strings.Cut(host, "]:")
		name = strings.TrimSuffix(name, "]") + "]"
	}
	if scheme != r.scheme && (r.scheme == "http" && port == "80" || r.scheme == "https" && port == "443") {
		host = name
	}
	if a.GetHostRedirect() != "" {
		host = a.GetHostRedirect()
		name, _, _ = strings.Cut(host, ":")
	}
	switch n := a.GetPortRedirect(); {
	case scheme == "http" && n == 80, scheme == "https" && n == 443: // said by the scheme
		host = name
	case n != 0:
		host = name + ":" + strconv.Itoa(int(n))
	}
	path, query := r.path, ""
	if r.query != "" && !a.GetStripQuery() {
		query = "?" + r.query
	}
	switch {
	case strings.Contains(a.GetPathRedirect(), "?"):
		path, query = a.GetPathRedirect(), ""
	case a.GetPathRedirect() != "":
		path = a.GetPathRedirect()
	case a.GetPrefixRewrite() != "":
		path = a.GetPrefixRewrite() + path[matched(m, path):]
	case a.GetRegexRewrite() != nil:
		x, err := regexp.Compile(a.GetRegexRewrite().GetPattern().GetRegex())
		if err != nil {
			return "", err
		}
		path = x.ReplaceAllString(path, substitution(a.GetRegexRewrite().GetSubstitution()))
	}
	return scheme + "://" + host + path + query, nil
}

// changes is what RouteConfiguration, VirtualHost, Route and ClusterWeight share.
type changes interface {
	GetRequestHeadersToAdd() []*corev3.HeaderValueOption
	GetRequestHeadersToRemove() []string
	GetResponseHeadersToAdd() []*corev3.HeaderValueOption
	GetResponseHeadersToRemove() []string
}

// levels are who changes headers, the most specific first (Envoy's order).
func levels(rc *routev3.RouteConfiguration, vh *routev3.VirtualHost, e *routev3.Route, w *routev3.WeightedCluster_ClusterWeight) []changes {
	out := []changes{e, vh, rc}
	if w != nil {
		out = append([]changes{w}, out...)
	}
	return out
}

func requestMutations(rc *routev3.RouteConfiguration, vh *routev3.VirtualHost, e *routev3.Route, w *routev3.WeightedCluster_ClusterWeight) []Mutation {
	var out []Mutation
	for _, l := range levels(rc, vh, e, w) {
		out = append(out, mutations(l.GetRequestHeadersToRemove(), l.GetRequestHeadersToAdd())...)
	}
	return out
}

func answerMutations(rc *routev3.RouteConfiguration, vh *routev3.VirtualHost, e *routev3.Route, w *routev3.WeightedCluster_ClusterWeight) []Mutation {
	var out []Mutation
	for _, l := range levels(rc, vh, e, w) {
		out = append(out, mutations(l.GetResponseHeadersToRemove(), l.GetResponseHeadersToAdd())...)
	}
	return out
}

func mutations(remove []string, add []*corev3.HeaderValueOption) []Mutation {
	var out []Mutation
	for _, name := range remove {
		out = append(out, Mutation{Op: Remove, Name: strings.ToLower(name)})
	}
	for _, h := range add {
		m := Mutation{Op: Append, Name: strings.ToLower(h.GetHeader().GetKey()), Value: h.GetHeader().GetValue()}
		switch h.GetAppendAction() {
		case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD:
			m.Op = Set
		case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
			m.Op = SetIfPresent
		case corev3.HeaderValueOption_ADD_IF_ABSENT:
			m.Op = AddIfAbsent
		case corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD:
		}
		out = append(out, m)
	}
	return out
}

var operator = regexp.MustCompile(`%%|%REQ\(([^)?]*)(\?[^)]*)?\)%`)

// expand replaces what can be known of a header value's operators; the others stay.
func (r *request) expand(value string) string {
	return operator.ReplaceAllStringFunc(value, func(s string) string {
		if s == "%%" {
			return "%"
		}
		parts := operator.FindStringSubmatch(s)
		v, ok := r.header(strings.ToLower(parts[1]))
		if !ok && parts[2] != "" {
			v, ok = r.header(strings.ToLower(parts[2][1:]))
		}
		if !ok {
			return "-"
		}
		return v
	})
}
