package istio

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// This file lowers what an HTTP route does besides choosing destinations.

func (l *lowerer) headers(path string, h *networkingv1alpha3.Headers) mesh.HeaderOps {
	req, resp := h.GetRequest(), h.GetResponse()
	return mesh.HeaderOps{
		RequestSet:     l.headerValues(path+".request.set", req.GetSet(), true),
		RequestAdd:     l.headerValues(path+".request.add", req.GetAdd(), true),
		RequestRemove:  l.headerNames(path+".request.remove", req.GetRemove()),
		ResponseSet:    l.headerValues(path+".response.set", resp.GetSet(), false),
		ResponseAdd:    l.headerValues(path+".response.add", resp.GetAdd(), false),
		ResponseRemove: l.headerNames(path+".response.remove", resp.GetRemove()),
	}
}

func (l *lowerer) headerValues(path string, m map[string]string, authority bool) []mesh.Header {
	var out []mesh.Header
	for _, k := range sortedKeys(m) {
		at := document.Key(path, k)
		if !authority || !isAuthority(k) {
			l.headerName(at, k)
		}
		if i := strings.IndexFunc(m[k], func(r rune) bool { return r < 0x20 && r != '\t' || r == 0x7f }); i >= 0 {
			l.Invalid(at, "the value has a control character", "a header value is one line of text")
		}
		if strings.Count(m[k], "%")%2 != 0 {
			l.Invalid(at, "the value has a single %", "write %% for a percent sign; %NAME% is replaced by the proxy")
		}
		out = append(out, mesh.Header{Name: strings.ToLower(k), Value: m[k]})
	}
	slices.SortStableFunc(out, func(a, b mesh.Header) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (l *lowerer) headerNames(path string, names []string) []string {
	var out []string
	for i, n := range names {
		l.headerName(document.Index(path, i), n)
		out = append(out, strings.ToLower(n))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (l *lowerer) headerName(path, name string) {
	switch {
	case strings.HasPrefix(name, ":") || strings.EqualFold(name, "host"):
		l.Invalid(path, fmt.Sprintf("%q cannot be changed", name), "use rewrite.authority or rewrite.uri")
	case !isToken(name):
		l.Invalid(path, fmt.Sprintf("%q is not a header name", name), "use letters, digits and '-'")
	}
}

func isAuthority(name string) bool {
	return strings.EqualFold(name, ":authority") || strings.EqualFold(name, "host")
}

// isToken reports whether s is a token (RFC 9110, 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// retryConditions are Envoy's x-envoy-retry-on and x-envoy-retry-grpc-on values, and ours: reset of idempotent requests.
var retryConditions = []string{"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited", "retriable-4xx", "refused-stream",
	"retriable-status-codes", "retriable-headers", "http3-post-connect-failure", "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable", "reset-idempotent"}

func (l *lowerer) retries(path string, r *networkingv1alpha3.HTTPRetry) *mesh.RetryPolicy {
	if r == nil {
		return nil
	}
	out := &mesh.RetryPolicy{
		Attempts:              l.atLeast(path+".attempts", r.Attempts, 0),
		PerTryTimeout:         l.duration(path+".perTryTimeout", r.PerTryTimeout),
		Backoff:               l.duration(path+".backoff", r.Backoff),
		RetryRemoteLocalities: r.RetryRemoteLocalities.GetValue(),
		IgnorePreviousHosts:   r.RetryIgnorePreviousHosts == nil || r.RetryIgnorePreviousHosts.GetValue(),
	}
	if r.Attempts == 0 && (r.PerTryTimeout != nil || r.RetryOn != "" || r.RetryRemoteLocalities != nil || r.Backoff != nil) {
		l.Invalid(path, "attempts is 0, which turns retries off, but other fields are given", "set attempts, or remove the others")
	}
	if r.RetryOn != "" {
		var conds []string
		for c := range strings.SplitSeq(r.RetryOn, ",") {
			c = strings.TrimSpace(c)
			if code, err := strconv.Atoi(c); err == nil && code >= 100 && code <= 599 || slices.Contains(retryConditions, c) {
				conds = append(conds, c)
				continue
			}
			hint := "use status codes and " + strings.Join(retryConditions, ", ")
			if s := document.Suggest(c, retryConditions); s != "" {
				hint = "did you mean " + s + "?"
			}
			l.Invalid(path+".retryOn", fmt.Sprintf("%q is not a retry condition", c), hint)
		}
		out.RetryOn = strings.Join(conds, ",")
	}
	return out
}

// grpcCodes are the names of gRPC's status codes.
var grpcCodes = []string{"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
	"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"}

func (l *lowerer) fault(path string, f *networkingv1alpha3.HTTPFaultInjection) *mesh.Fault {
	if f == nil {
		return nil
	}
	out := &mesh.Fault{}
	if f.Delay == nil && f.Abort == nil {
		l.Invalid(path, "has neither delay nor abort", "add one")
	}
	if d := f.Delay; d != nil {
		at := path + ".delay"
		switch t := d.HttpDelayType.(type) {
		case *networkingv1alpha3.HTTPFaultInjection_Delay_FixedDelay:
			out.Delay = l.duration(at+".fixedDelay", t.FixedDelay)
		case nil:
			l.Invalid(at, "has no fixedDelay", `for example fixedDelay: "5s"`)
		default:
			l.Invalid(at+".exponentialDelay", "is not supported, neither by Istio", "use fixedDelay")
		}
		switch {
		case d.Percentage != nil:
			out.DelayPercent = l.percent(at+".percentage.value", d.Percentage.Value)
		case d.Percent != 0: //nolint:staticcheck // a dated field that users' files still have
			out.DelayPercent = l.percent(at+".percent", float64(d.Percent)) //nolint:staticcheck // as above
		default:
			l.noPercentage(at, "delayed")
		}
	}
	if a := f.Abort; a != nil {
		at := path + ".abort"
		switch t := a.ErrorType.(type) {
		case *networkingv1alpha3.HTTPFaultInjection_Abort_HttpStatus:
			if t.HttpStatus < 200 || t.HttpStatus > 599 {
				l.Invalid(at+".httpStatus", fmt.Sprintf("%d is not a status to abort with", t.HttpStatus), "give 200 to 599")
			} else {
				out.AbortStatus = uint32(t.HttpStatus)
			}
		case *networkingv1alpha3.HTTPFaultInjection_Abort_GrpcStatus:
			if !slices.Contains(grpcCodes, t.GrpcStatus) {
				l.Invalid(at+".grpcStatus", fmt.Sprintf("%q is not a gRPC status", t.GrpcStatus), `give its name in capitals, for example "UNAVAILABLE"`)
			}
			out.AbortGRPC = t.GrpcStatus
		case nil:
			l.Invalid(at, "has neither httpStatus nor grpcStatus", "for example httpStatus: 503")
		default:
			l.Invalid(at+".http2Error", "is not supported, neither by Istio", "use httpStatus or grpcStatus")
		}
		if a.Percentage != nil {
			out.AbortPercent = l.percent(at+".percentage.value", a.Percentage.Value)
		} else {
			l.noPercentage(at, "aborted")
		}
	}
	return out
}

// noPercentage warns of a default that surprises.
func (l *lowerer) noPercentage(path, done string) {
	l.Add(config.SchemaWarning, path, "has no percentage, so that no request is "+done, "add percentage: {value: 100}")
}

func (l *lowerer) rewrite(path string, r *networkingv1alpha3.HTTPRewrite) *mesh.Rewrite {
	if r == nil {
		return nil
	}
	out := &mesh.Rewrite{URI: r.Uri, Authority: r.Authority}
	l.oneWord(path+".uri", r.Uri)
	l.oneWord(path+".authority", r.Authority)
	re := r.UriRegexRewrite
	if r.Uri == "" && r.Authority == "" && re == nil {
		l.Invalid(path, "rewrites nothing", "add uri, authority or uriRegexRewrite")
	}
	if re != nil {
		if r.Uri != "" {
			l.Invalid(path+".uriRegexRewrite", "cannot be given together with uri", "keep one of the two")
		}
		if re.Match == "" || re.Rewrite == "" {
			l.Invalid(path+".uriRegexRewrite", "needs match and rewrite", "give both, or remove it")
		}
		l.regex(path+".uriRegexRewrite.match", re.Match)
		l.substitution(path+".uriRegexRewrite.rewrite", re.Match, re.Rewrite)
		l.oneWord(path+".uriRegexRewrite.rewrite", re.Rewrite)
		out.RegexMatch, out.RegexSub = re.Match, re.Rewrite
	}
	return out
}

// oneWord checks what becomes a part of a request's first line, of its Host or of a
// Location: anything behind a space or a line's end would be something else to the reader.
func (l *lowerer) oneWord(path, s string) {
	if strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) >= 0 {
		l.Invalid(path, fmt.Sprintf("%q has a space or a control character", s), "in a path write %20 for a space")
	}
}

// substitution checks that \1 … \9 stand for groups of the expression.
func (l *lowerer) substitution(path, expr, sub string) {
	re, err := regexp.Compile(expr)
	if err != nil {
		return
	}
	for i := 0; i < len(sub); i++ {
		if sub[i] != '\\' {
			continue
		}
		if i++; i == len(sub) || sub[i] != '\\' && (sub[i] < '0' || sub[i] > '9') {
			l.Invalid(path, `has a single \`, `write \1 for the first group, \\ for a backslash`)
			return
		}
		if n := int(sub[i] - '0'); sub[i] != '\\' && n > re.NumSubexp() {
			l.Invalid(path, fmt.Sprintf(`\%d stands for a group that the expression does not have`, n), fmt.Sprintf("it has %d, written in parentheses", re.NumSubexp()))
			return
		}
	}
}

func (l *lowerer) redirect(path string, r *networkingv1alpha3.HTTPRedirect, matches []*networkingv1alpha3.HTTPMatchRequest) *mesh.Redirect {
	out := &mesh.Redirect{URI: r.Uri, PrefixRewrite: r.PrefixRewrite, Authority: r.Authority, Scheme: r.Scheme, Code: 301}
	l.oneWord(path+".uri", r.Uri)
	l.oneWord(path+".prefixRewrite", r.PrefixRewrite)
	l.oneWord(path+".authority", r.Authority)
	switch p := r.RedirectPort.(type) {
	case *networkingv1alpha3.HTTPRedirect_Port:
		out.Port = uint32(l.port(path+".port", p.Port, false))
	case *networkingv1alpha3.HTTPRedirect_DerivePort:
		out.DerivePort = p.DerivePort.String()
	}
	if r.Uri == "" && r.PrefixRewrite == "" && r.Authority == "" && r.Scheme == "" && r.RedirectPort == nil {
		l.Invalid(path, "redirects to the same place", "add uri, prefixRewrite, authority, port or scheme")
	}
	if r.Uri != "" && r.PrefixRewrite != "" {
		l.Invalid(path+".prefixRewrite", "cannot be given together with uri", "keep one of the two")
	}
	if r.PrefixRewrite != "" {
		for _, m := range matches {
			if _, ok := m.GetUri().GetMatchType().(*networkingv1alpha3.StringMatch_Prefix); !ok {
				l.Invalid(path+".prefixRewrite", "needs matches on uri.prefix only", "use uri for the others, in a rule of their own")
				break
			}
		}
		if len(matches) == 0 {
			l.Invalid(path+".prefixRewrite", "needs a match on uri.prefix", "match on uri.prefix, or rewrite uri")
		}
	}
	if r.Scheme != "" && r.Scheme != "http" && r.Scheme != "https" {
		l.Invalid(path+".scheme", fmt.Sprintf("%q is not a scheme", r.Scheme), `use "http" or "https"`)
	}
	switch r.RedirectCode {
	case 0:
	case 301, 302, 303, 307, 308:
		out.Code = r.RedirectCode
	default:
		l.Invalid(path+".redirectCode", fmt.Sprintf("%d is not a redirect", r.RedirectCode), "use 301, 302, 303, 307 or 308")
	}
	return out
}

// maxDirectBody is Envoy's and Istio's limit.
const maxDirectBody = 1 << 20

func (l *lowerer) direct(path string, r *networkingv1alpha3.HTTPDirectResponse) *mesh.DirectResponse {
	out := &mesh.DirectResponse{Status: r.Status}
	if r.Status < 200 || r.Status > 599 {
		l.Invalid(path+".status", fmt.Sprintf("%d is not a status", r.Status), "give 200 to 599")
	}
	switch b := r.GetBody().GetSpecifier().(type) {
	case *networkingv1alpha3.HTTPBody_String_:
		out.Body = []byte(b.String_)
	case *networkingv1alpha3.HTTPBody_Bytes:
		out.Body = b.Bytes
	}
	if len(out.Body) > maxDirectBody {
		l.Invalid(path+".body", fmt.Sprintf("has %d bytes, at most %d are allowed", len(out.Body), maxDirectBody), "serve it from an application")
	}
	return out
}

func (l *lowerer) mirrors(path string, r *networkingv1alpha3.HTTPRoute) []mesh.Mirror {
	var out []mesh.Mirror
	if r.Mirror != nil {
		m := mesh.Mirror{To: l.destination(path+".mirror", r.Mirror), Percent: 100}
		switch {
		case r.MirrorPercentage != nil:
			m.Percent = l.percent(path+".mirrorPercentage.value", r.MirrorPercentage.Value)
		case r.MirrorPercent != nil: //nolint:staticcheck // a dated field that users' files still have
			m.Percent = l.percent(path+".mirrorPercent", float64(r.MirrorPercent.Value)) //nolint:staticcheck // as above
		}
		out = append(out, m)
		if len(r.Mirrors) > 0 {
			l.Invalid(path+".mirrors", "cannot be given together with mirror", "put all into mirrors")
		}
	}
	for i, p := range r.Mirrors {
		at := document.Index(path+".mirrors", i)
		m := mesh.Mirror{To: l.destination(at+".destination", p.Destination), Percent: 100}
		if p.Percentage != nil {
			m.Percent = l.percent(at+".percentage.value", p.Percentage.Value)
		}
		out = append(out, m)
	}
	return out
}

func (l *lowerer) cors(path string, c *networkingv1alpha3.CorsPolicy) *mesh.CORS {
	if c == nil {
		return nil
	}
	out := &mesh.CORS{
		AllowMethods:             c.AllowMethods,
		AllowHeaders:             c.AllowHeaders,
		ExposeHeaders:            c.ExposeHeaders,
		MaxAge:                   l.duration(path+".maxAge", c.MaxAge),
		IgnoreUnmatchedPreflight: c.UnmatchedPreflights == networkingv1alpha3.CorsPolicy_IGNORE,
	}
	if c.AllowCredentials != nil {
		v := c.AllowCredentials.Value
		out.AllowCredentials = &v
	}
	for i, m := range c.AllowOrigins {
		out.AllowOrigins = append(out.AllowOrigins, l.stringMatch(document.Index(path+".allowOrigins", i), m, false))
	}
	for _, origin := range c.AllowOrigin { //nolint:staticcheck // a dated field that users' files still have
		m := mesh.StringMatch{Kind: mesh.Exact, Value: origin}
		if origin == "*" {
			m = mesh.StringMatch{Kind: mesh.Regex, Value: ".*"}
		}
		out.AllowOrigins = append(out.AllowOrigins, m)
	}
	return out
}
