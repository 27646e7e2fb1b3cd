package simulate

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
)

// VirtualHost is the virtual host of a table for an authority: by exact domain, then the
// longest "*suffix", then the longest "prefix*", then "*" (VirtualHost.domains).
func VirtualHost(rc *routev3.RouteConfiguration, authority string) *routev3.VirtualHost {
	host := strings.ToLower(authority)
	if rc.GetIgnorePortInHostMatching() {
		if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.Contains(host[i:], "]") {
			host = host[:i]
		}
	}
	const exact, suffix, prefix = 3 << 16, 2 << 16, 1 << 16
	var best *routev3.VirtualHost
	most := -1
	for _, vh := range rc.GetVirtualHosts() {
		for _, d := range vh.GetDomains() {
			d = strings.ToLower(d)
			score := -1
			switch {
			case d == host:
				score = exact
			case d == "*":
				score = 0
			case strings.HasPrefix(d, "*") && strings.HasSuffix(host, d[1:]) && len(host) >= len(d):
				score = suffix + len(d)
			case strings.HasSuffix(d, "*") && strings.HasPrefix(host, d[:len(d)-1]) && len(host) >= len(d):
				score = prefix + len(d)
			}
			if score > most {
				best, most = vh, score
			}
		}
	}
	return best
}

// request is what routes match.
type request struct {
	method, scheme, authority, path, query string
	headers                                []Header
}

// header is the value of a header or pseudo-header: several are joined by commas.
func (r *request) header(name string) (value string, ok bool) {
	switch name {
	case ":method":
		return r.method, true
	case ":scheme":
		return r.scheme, true
	case ":authority", "host":
		return r.authority, true
	case ":path":
		return r.path, true
	}
	for _, h := range r.headers {
		switch {
		case h.Name != name:
		case ok:
			value += "," + h.Value
		default:
			value, ok = h.Value, true
		}
	}
	return value, ok
}

// Matches is the share of calls like c for which m holds. Its path is taken as it stands.
func Matches(m *routev3.RouteMatch, c Call) (share float64, err error) {
	path, query, _ := strings.Cut(c.Path, "?")
	return matches(m, &request{method: c.Method, scheme: "http", authority: c.Host, path: path, query: query, headers: c.Headers})
}

// matches reports whether m holds; share is of how many of the requests for which it does.
func matches(m *routev3.RouteMatch, r *request) (share float64, err error) {
	fold := m.GetCaseSensitive() != nil && !m.GetCaseSensitive().GetValue()
	is := func(s string) string {
		if fold {
			return strings.ToLower(s)
		}
		return s
	}
	if (m.GetConnectMatcher() != nil) != (r.method == "CONNECT") {
		return 0, nil
	}
	switch p := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Path:
		if is(r.path) != is(p.Path) {
			return 0, nil
		}
	case *routev3.RouteMatch_Prefix:
		if !strings.HasPrefix(is(r.path), is(p.Prefix)) {
			return 0, nil
		}
	case *routev3.RouteMatch_PathSeparatedPrefix:
		if rest, ok := strings.CutPrefix(is(r.path), is(p.PathSeparatedPrefix)); !ok || rest != "" && rest[0] != '/' {
			return 0, nil
		}
	case *routev3.RouteMatch_SafeRegex:
		ok, err := whole(p.SafeRegex, r.path)
		if !ok {
			return 0, err
		}
	case *routev3.RouteMatch_ConnectMatcher_:
	default:
		return 0, fmt.Errorf("a path match %T cannot be followed", p)
	}
	for _, h := range m.GetHeaders() {
		v, ok := r.header(strings.ToLower(h.GetName()))
		held, err := headerHolds(h, v, ok)
		if err != nil || !held {
			return 0, err
		}
	}
	for _, d := range m.GetDynamicMetadata() {
		if !d.GetInvert() { // of a token, which no call here has
			return 0, nil
		}
	}
	for _, q := range m.GetQueryParameters() {
		v, ok := parameter(r.query, q.GetName())
		if !ok {
			return 0, nil
		}
		if sm := q.GetStringMatch(); sm != nil {
			if held, err := Holds(sm, v); err != nil || !held {
				return 0, err
			}
		}
	}
	if f := m.GetRuntimeFraction().GetDefaultValue(); f != nil {
		return fraction(f), nil
	}
	return 1, nil
}

func parameter(query, name string) (string, bool) {
	for kv := range strings.SplitSeq(query, "&") {
		if k, v, _ := strings.Cut(kv, "="); k == name && kv != "" {
			return v, true
		}
	}
	return "", false
}

// headerHolds is HeaderMatcher: a header that is not there fails every match of its value,
// and so satisfies an inverted one.
func headerHolds(h *routev3.HeaderMatcher, v string, present bool) (bool, error) {
	held, err := present, error(nil)
	if !present && h.GetTreatMissingHeaderAsEmpty() {
		held = true
	}
	if held {
		switch s := h.GetHeaderMatchSpecifier().(type) {
		case *routev3.HeaderMatcher_StringMatch:
			held, err = Holds(s.StringMatch, v)
		case *routev3.HeaderMatcher_PresentMatch:
			held = present == s.PresentMatch
		case *routev3.HeaderMatcher_RangeMatch:
			n, bad := strconv.ParseInt(v, 10, 64)
			held = bad == nil && n >= s.RangeMatch.GetStart() && n < s.RangeMatch.GetEnd()
		case nil:
		default:
			return false, fmt.Errorf("a header match %T cannot be followed", s)
		}
	}
	return held != h.GetInvertMatch(), err
}

// Holds reports whether v is what m asks for.
func Holds(m *matcherv3.StringMatcher, v string) (bool, error) {
	fold := func(s string) string {
		if m.GetIgnoreCase() {
			return strings.ToLower(s)
		}
		return s
	}
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		return fold(v) == fold(p.Exact), nil
	case *matcherv3.StringMatcher_Prefix:
		return strings.HasPrefix(fold(v), fold(p.Prefix)), nil
	case *matcherv3.StringMatcher_Suffix:
		return strings.HasSuffix(fold(v), fold(p.Suffix)), nil
	case *matcherv3.StringMatcher_Contains:
		return strings.Contains(fold(v), fold(p.Contains)), nil
	case *matcherv3.StringMatcher_SafeRegex:
		return whole(p.SafeRegex, v)
	}
	return false, fmt.Errorf("a string match %T cannot be followed", m.GetMatchPattern())
}

func whole(m *matcherv3.RegexMatcher, v string) (bool, error) {
	re, err := regexp.Compile("^(?:" + m.GetRegex() + ")$")
	if err != nil {
		return false, err
	}
	return re.MatchString(v), nil
}

// fraction is a share, 0 to 1.
func fraction(p *typev3.FractionalPercent) float64 {
	n := float64(p.GetNumerator())
	switch p.GetDenominator() {
	case typev3.FractionalPercent_HUNDRED:
		n /= 100
	case typev3.FractionalPercent_TEN_THOUSAND:
		n /= 10_000
	case typev3.FractionalPercent_MILLION:
		n /= 1_000_000
	}
	return min(n, 1)
}
