package translate

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	faultcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	previousprioritiesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/mesh"
)

// retryConditions are what retry_on may say (RetryPolicy.retry_on and its gRPC part).
// Numbers are status codes.
var retryConditions = map[string]bool{
	"5xx": true, "gateway-error": true, "reset": true, "reset-before-request": true, "connect-failure": true,
	"envoy-ratelimited": true, "retriable-4xx": true, "refused-stream": true, "retriable-status-codes": true,
	"cancelled": true, "deadline-exceeded": true, "internal": true, "resource-exhausted": true, "unavailable": true, "reset-idempotent": true,
}

// action sets what happens to requests that take the route.
func (b *routeBuilder) action(r *routev3.Route, rule *mesh.HTTPRoute, m *mesh.HTTPMatch) {
	host := b.mutations(r, &rule.Headers)
	switch {
	case rule.Action.Redirect != nil:
		r.Action = &routev3.Route_Redirect{Redirect: b.redirect(rule.Action.Redirect)}
	case rule.Action.Direct != nil:
		r.Action = &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{
			Status: rule.Action.Direct.Status,
			Body:   &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: rule.Action.Direct.Body}},
		}}
		if len(rule.Action.Direct.Body) == 0 {
			r.GetDirectResponse().Body = nil
		}
	default:
		to, hostOfDestination := b.forward(r, rule)
		if to == nil {
			b.note("no destination has a weight: requests are answered 500")
			r.Action = &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 500}}
			return
		}
		if host = cmp.Or(host, hostOfDestination); host != "" {
			to.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: host}
		}
		b.rewrite(to, rule.Rewrite, m)
		r.Action = &routev3.Route_Route{Route: to}
	}
}

// forward is nil if there is nowhere to send to.
func (b *routeBuilder) forward(r *routev3.Route, rule *mesh.HTTPRoute) (to *routev3.RouteAction, host string) {
	to = &routev3.RouteAction{
		Timeout: duration(rule.Timeout), // 0: none; xDS's own default is 15 s
		// Superseded by max_stream_duration in xDS, which counts the time of the
		// request's body too; Istio sends this one.
		MaxGrpcTimeout: duration(rule.Timeout),
		RetryPolicy:    b.retryPolicy(cmp.Or(rule.Retries, &b.retries)),
	}
	for _, mirror := range rule.Mirrors {
		to.RequestMirrorPolicies = append(to.RequestMirrorPolicies, &routev3.RouteAction_RequestMirrorPolicy{
			Cluster:         b.v.cluster(&mirror.To, b.port),
			RuntimeFraction: &corev3.RuntimeFractionalPercent{DefaultValue: fraction(mirror.Percent)},
		})
	}
	targets := slices.Clone(rule.Action.Destinations)
	if len(targets) > 1 {
		targets = slices.DeleteFunc(targets, func(d mesh.Destination) bool { return d.Weight == 0 })
	}
	switch len(targets) {
	case 0:
		return nil, ""
	case 1:
		to.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: b.v.cluster(&targets[0], b.port)}
		host = b.mutations(r, &targets[0].Headers)
	default:
		w := &routev3.WeightedCluster{}
		total := uint64(0)
		for i := range targets {
			if total += uint64(targets[i].Weight); total > math.MaxUint32 {
				b.fail(errors.New("the weights of a route add up to more than 4294967295"))
			}
			c := &routev3.WeightedCluster_ClusterWeight{Name: b.v.cluster(&targets[i], b.port), Weight: u32(targets[i].Weight)}
			if h := b.mutations(c, &targets[i].Headers); h != "" {
				c.HostRewriteSpecifier = &routev3.WeightedCluster_ClusterWeight_HostRewriteLiteral{HostRewriteLiteral: h}
			}
			w.Clusters = append(w.Clusters, c)
		}
		to.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: w}
	}
	return to, host
}

func (b *routeBuilder) rewrite(to *routev3.RouteAction, w *mesh.Rewrite, m *mesh.HTTPMatch) {
	if w == nil {
		return
	}
	if host := b.word("rewrite.authority", w.Authority); host != "" {
		to.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: host}
	}
	uri := b.word("rewrite.uri", w.URI)
	replace := func(pattern, by string) {
		to.RegexRewrite = &matcherv3.RegexMatchAndSubstitute{Pattern: b.regex(pattern), Substitution: by}
	}
	switch {
	case w.RegexMatch != "":
		replace(w.RegexMatch, b.word("rewrite.uriRegexRewrite.rewrite", w.RegexSub))
	case uri == "":
	case m.URI.Kind == mesh.Regex:
		// prefix_rewrite has no meaning without a prefix: replace what matched.
		replace("^"+"(?:"+m.URI.Value+")$", strings.ReplaceAll(uri, `\`, `\\`))
	default:
		to.PrefixRewrite = uri
	}
}

func (b *routeBuilder) redirect(d *mesh.Redirect) *routev3.RedirectAction {
	out := &routev3.RedirectAction{
		HostRedirect: b.word("redirect.authority", d.Authority),
		PortRedirect: d.Port,
	}
	if scheme := b.word("redirect.scheme", d.Scheme); scheme != "" {
		out.SchemeRewriteSpecifier = &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: scheme}
	}
	switch {
	case d.URI != "":
		out.PathRewriteSpecifier = &routev3.RedirectAction_PathRedirect{PathRedirect: b.word("redirect.uri", d.URI)}
	case d.PrefixRewrite != "":
		out.PathRewriteSpecifier = &routev3.RedirectAction_PrefixRewrite{PrefixRewrite: b.word("redirect.prefixRewrite", d.PrefixRewrite)}
	}
	switch {
	case d.DerivePort == "FROM_REQUEST_PORT":
		out.PortRedirect = uint32(b.port)
	// Istio sends nothing and leaves to Envoy what it calls its default, which keeps a port that is in the request's
	// authority: the port of another scheme.
	case d.DerivePort == "FROM_PROTOCOL_DEFAULT" && d.Scheme == "http":
		out.PortRedirect = 80
	case d.DerivePort == "FROM_PROTOCOL_DEFAULT" && d.Scheme == "https":
		out.PortRedirect = 443
	}
	if out.PortRedirect > math.MaxUint16 {
		b.fail(fmt.Errorf("redirect port %d does not exist", out.PortRedirect))
	}
	switch d.Code {
	case 0, 301:
		out.ResponseCode = routev3.RedirectAction_MOVED_PERMANENTLY
	case 302:
		out.ResponseCode = routev3.RedirectAction_FOUND
	case 303:
		out.ResponseCode = routev3.RedirectAction_SEE_OTHER
	case 307:
		out.ResponseCode = routev3.RedirectAction_TEMPORARY_REDIRECT
	case 308:
		out.ResponseCode = routev3.RedirectAction_PERMANENT_REDIRECT
	default:
		b.note("redirectCode %d is none of 301, 302, 303, 307, 308: 301 is sent", d.Code)
	}
	return out
}

// mutable is what header mutations can be written into.
type mutable interface {
	GetRequestHeadersToAdd() []*corev3.HeaderValueOption
	GetResponseHeadersToAdd() []*corev3.HeaderValueOption
}

// mutations writes header operations behind those that are there. Setting the host is a
// rewrite of the authority, which is returned.
func (b *routeBuilder) mutations(to mutable, ops *mesh.HeaderOps) (host string) {
	add := func(list *[]*corev3.HeaderValueOption, headers []mesh.Header, how corev3.HeaderValueOption_HeaderAppendAction, request bool) {
		for _, h := range headers {
			switch {
			case request && (h.Name == "host" || h.Name == ":authority"):
				host = b.word("header "+h.Name, h.Value)
			case strings.HasPrefix(h.Name, ":"), h.Name == "host":
				b.note("header %q cannot be changed: it is left alone", h.Name)
			case !headerName(h.Name):
				b.note("%q is not a header name: it is left alone", clip(h.Name))
			case strings.ContainsAny(h.Value, "\r\n\x00"):
				b.note("value of header %q has a control character: the header is left alone", h.Name)
			case !wellFormed(h.Value):
				b.note("value of header %q: %q is not well-formed (%%OPERATOR%%, or %%%% for a percent sign): the header is left alone", h.Name, clip(h.Value))
			default:
				*list = append(*list, headerValue(h, how))
			}
		}
	}
	var requests, responses *[]*corev3.HeaderValueOption
	var requestRemove, responseRemove *[]string
	switch m := to.(type) {
	case *routev3.Route:
		requests, responses = &m.RequestHeadersToAdd, &m.ResponseHeadersToAdd
		requestRemove, responseRemove = &m.RequestHeadersToRemove, &m.ResponseHeadersToRemove
	case *routev3.WeightedCluster_ClusterWeight:
		requests, responses = &m.RequestHeadersToAdd, &m.ResponseHeadersToAdd
		requestRemove, responseRemove = &m.RequestHeadersToRemove, &m.ResponseHeadersToRemove
	}
	set, more := corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD, corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD
	add(requests, ops.RequestSet, set, true)
	add(requests, ops.RequestAdd, more, true)
	add(responses, ops.ResponseSet, set, false)
	add(responses, ops.ResponseAdd, more, false)
	remove := func(list *[]string, names []string) {
		for _, n := range names {
			if strings.HasPrefix(n, ":") || n == "host" {
				b.note("header %q cannot be removed: it is left alone", n)
				continue
			}
			*list = append(*list, n)
		}
	}
	remove(requestRemove, ops.RequestRemove)
	remove(responseRemove, ops.ResponseRemove)
	return host
}

// wellFormed reports whether every % in a header value begins an operator or is doubled.
func wellFormed(v string) bool {
	for {
		i := strings.IndexByte(v, '%')
		if i < 0 {
			return true
		}
		v = v[i+1:]
		end := strings.IndexByte(v, '%')
		if end < 0 {
			return false
		}
		if end > 0 && (v[0] < 'A' || v[0] > 'Z') {
			return false
		}
		v = v[end+1:]
	}
}

// retryPolicy is nil if nothing is to be tried again.
func (b *routeBuilder) retryPolicy(p *mesh.RetryPolicy) *routev3.RetryPolicy {
	if p.Attempts == 0 {
		return nil
	}
	out := &routev3.RetryPolicy{
		NumRetries:    u32(p.Attempts),
		PerTryTimeout: someDuration(p.PerTryTimeout),
	}
	var on []string
	for c := range strings.SplitSeq(cmp.Or(p.RetryOn, b.retries.RetryOn, mesh.SafeRetryOn), ",") {
		c = strings.TrimSpace(c)
		if code, err := strconv.ParseUint(c, 10, 16); err == nil && code >= 100 && code < 600 {
			out.RetriableStatusCodes = append(out.RetriableStatusCodes, uint32(code))
			continue
		}
		switch {
		case retryConditions[c]:
			on = append(on, c)
		case c != "" && b.v != nil:
			b.note("retryOn: %q is no condition: it is left out", clip(c))
		}
	}
	if len(out.RetriableStatusCodes) > 0 && !slices.Contains(on, "retriable-status-codes") {
		on = append(on, "retriable-status-codes")
	}
	if len(on) == 0 {
		return nil
	}
	out.RetryOn = strings.Join(on, ",")
	if p.IgnorePreviousHosts {
		out.RetryHostPredicate = []*routev3.RetryPolicy_RetryHostPredicate{{
			Name:       "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: b.any(&previoushostsv3.PreviousHostsPredicate{})},
		}}
		out.HostSelectionRetryMaxAttempts = 5 // Istio's
	}
	if p.RetryRemoteLocalities {
		out.RetryPriority = &routev3.RetryPolicy_RetryPriority{
			Name: "envoy.retry_priorities.previous_priorities",
			ConfigType: &routev3.RetryPolicy_RetryPriority_TypedConfig{TypedConfig: b.any(
				&previousprioritiesv3.PreviousPrioritiesConfig{UpdateFrequency: 2})}, // Istio's
		}
	}
	if p.Backoff > 0 {
		out.RetryBackOff = &routev3.RetryPolicy_RetryBackOff{BaseInterval: duration(p.Backoff)}
	}
	return out
}

// perFilter sets what filters before the router do on this route.
func (b *routeBuilder) perFilter(r *routev3.Route, rule *mesh.HTTPRoute) {
	if f := b.fault(rule.Fault); f != nil {
		r.TypedPerFilterConfig = map[string]*anypb.Any{faultFilterName: b.any(f)}
	}
	if c := rule.CORS; c != nil {
		if r.TypedPerFilterConfig == nil {
			r.TypedPerFilterConfig = map[string]*anypb.Any{}
		}
		r.TypedPerFilterConfig[corsFilterName] = b.any(b.cors(c))
	}
	if r.GetRoute() != nil {
		var to []*mesh.Service
		for _, d := range rule.Action.Destinations {
			if d.Weight > 0 || len(rule.Action.Destinations) == 1 {
				to = append(to, b.v.destinations[d.Host])
			}
		}
		b.stay(r, to...)
	}
}

func (b *routeBuilder) fault(f *mesh.Fault) *faultv3.HTTPFault {
	if f == nil {
		return nil
	}
	out := &faultv3.HTTPFault{}
	if f.Delay > 0 {
		out.Delay = &faultcommonv3.FaultDelay{
			FaultDelaySecifier: &faultcommonv3.FaultDelay_FixedDelay{FixedDelay: duration(f.Delay)},
			Percentage:         fraction(f.DelayPercent),
		}
	}
	switch {
	case f.AbortStatus != 0:
		out.Abort = &faultv3.FaultAbort{ErrorType: &faultv3.FaultAbort_HttpStatus{HttpStatus: f.AbortStatus}, Percentage: fraction(f.AbortPercent)}
	case f.AbortGRPC != "":
		var code codes.Code
		if err := code.UnmarshalJSON([]byte(strconv.Quote(f.AbortGRPC))); err != nil {
			b.note("fault.abort.grpcStatus: %q is no gRPC status: requests are not aborted", clip(f.AbortGRPC))
			break
		}
		out.Abort = &faultv3.FaultAbort{ErrorType: &faultv3.FaultAbort_GrpcStatus{GrpcStatus: uint32(code)}, Percentage: fraction(f.AbortPercent)}
	}
	if out.Delay == nil && out.Abort == nil {
		return nil
	}
	return out
}

// fraction keeps the four decimals Istio allows.
func fraction(percent float64) *typev3.FractionalPercent {
	const perMillion = 10_000
	n := math.Round(percent * perMillion)
	if !(n > 0) { // NaN too
		n = 0
	}
	return &typev3.FractionalPercent{Numerator: uint32(min(n, 100*perMillion)), Denominator: typev3.FractionalPercent_MILLION}
}

func (b *routeBuilder) cors(c *mesh.CORS) *corsv3.CorsPolicy {
	out := &corsv3.CorsPolicy{
		AllowMethods:                 strings.Join(c.AllowMethods, ","),
		AllowHeaders:                 strings.Join(c.AllowHeaders, ","),
		ExposeHeaders:                strings.Join(c.ExposeHeaders, ","),
		ForwardNotMatchingPreflights: wrapperspb.Bool(!c.IgnoreUnmatchedPreflight),
	}
	if c.MaxAge > 0 {
		out.MaxAge = strconv.FormatInt(int64(c.MaxAge.Seconds()), 10)
	}
	if c.AllowCredentials != nil {
		out.AllowCredentials = wrapperspb.Bool(*c.AllowCredentials)
	}
	for _, o := range c.AllowOrigins {
		if m := b.stringMatch(o); m != nil {
			out.AllowOriginStringMatch = append(out.AllowOriginStringMatch, m)
		}
	}
	return out
}
