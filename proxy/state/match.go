package state

import (
	"fmt"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/route"
)

func decodeMatch(m *routev3.RouteMatch, path string) (route.When, error) {
	w := route.When{IgnoreCase: m.GetCaseSensitive() != nil && !m.GetCaseSensitive().GetValue(), Per1M: always1M, GRPC: m.GetGrpc() != nil}
	switch p := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		w.Kind, w.Path = route.PathPrefix, p.Prefix
	case *routev3.RouteMatch_Path:
		w.Kind, w.Path = route.PathExact, p.Path
	case *routev3.RouteMatch_PathSeparatedPrefix:
		w.Kind, w.Path = route.PathSeparatedPrefix, p.PathSeparatedPrefix
	case *routev3.RouteMatch_SafeRegex:
		re, err := wholeRegex(p.SafeRegex.GetRegex(), path+".safe_regex")
		if err != nil {
			return w, err
		}
		w.Kind, w.Regex = route.PathRegex, re
	case *routev3.RouteMatch_PathMatchPolicy:
		t, err := decodePathTemplate(p.PathMatchPolicy, path+".path_match_policy")
		if err != nil {
			return w, err
		}
		w.Kind = route.PathRegex
		if w.Regex, err = wholeRegex(t.expr, path+".path_match_policy"); err != nil {
			return w, err
		}
	case *routev3.RouteMatch_ConnectMatcher_:
		w.Kind = route.PathConnect
	default:
		return w, fmt.Errorf("%s: has no path, prefix or regex", path)
	}
	if m.GetRuntimeFraction() != nil {
		w.Per1M = perMillion(m.GetRuntimeFraction().GetDefaultValue())
	}
	for i, h := range m.GetHeaders() {
		v, err := decodeHeaderMatch(h, fmt.Sprintf("%s.headers[%d]", path, i))
		if err != nil {
			return w, err
		}
		w.Headers = append(w.Headers, v)
	}
	for i, d := range m.GetDynamicMetadata() {
		c, known, err := claimMatch(d, fmt.Sprintf("%s.dynamic_metadata[%d]", path, i))
		if err != nil {
			return w, err
		}
		if !known { // there never is any
			c.Path, c.Value = nil, func(any, bool) bool { return false }
		}
		w.Claims = append(w.Claims, c)
	}
	var err error
	if w.Query, err = decodeQueryMatches(m.GetQueryParameters(), path); err != nil {
		return w, err
	}
	for i, c := range m.GetCookies() {
		at := fmt.Sprintf("%s.cookies[%d]", path, i)
		v := route.ValueMatch{Name: c.GetName(), Invert: c.GetInvertMatch()}
		if v.Name == "" {
			return w, fmt.Errorf("%s.name: is empty", at)
		}
		if err := stringMatch(&v, c.GetStringMatch(), at+".string_match"); err != nil {
			return w, err
		}
		w.Cookies = append(w.Cookies, v)
	}
	// A certificate that was not verified is none here.
	presented, validated := m.GetTlsContext().GetPresented(), m.GetTlsContext().GetValidated()
	if presented == nil {
		presented = validated
	}
	if presented != nil {
		if yes := presented.GetValue(); validated == nil || validated.GetValue() == yes {
			w.Certified = &yes
		} else {
			return w, fmt.Errorf("%s.tls_context: presented and validated are one here, since a certificate that is not verified is not looked at; say the same of both", path)
		}
	}
	return w, nil
}

func decodeQueryMatches(list []*routev3.QueryParameterMatcher, path string) (out []route.ValueMatch, err error) {
	for i, q := range list {
		at := fmt.Sprintf("%s.query_parameters[%d]", path, i)
		v := route.ValueMatch{Name: q.GetName()}
		if v.Name == "" {
			return nil, fmt.Errorf("%s.name: is empty", at)
		}
		if q.GetStringMatch() != nil {
			if err := stringMatch(&v, q.GetStringMatch(), at+".string_match"); err != nil {
				return nil, err
			}
		} else if !q.GetPresentMatch() {
			return nil, fmt.Errorf("%s: has neither string_match nor present_match", at)
		}
		out = append(out, v)
	}
	return out, nil
}

func decodeHeaderMatch(h *routev3.HeaderMatcher, path string) (route.ValueMatch, error) {
	v := route.ValueMatch{Name: strings.ToLower(h.GetName()), Invert: h.GetInvertMatch(), MissingAsEmpty: h.GetTreatMissingHeaderAsEmpty()}
	if v.Name == "" {
		return v, fmt.Errorf("%s.name: is empty", path)
	}
	v.ID = message.IDOf(v.Name)
	var err error
	switch m := h.GetHeaderMatchSpecifier().(type) {
	case nil:
		v.Kind = route.ValuePresent
	case *routev3.HeaderMatcher_PresentMatch:
		v.Kind = route.ValuePresent
		if !m.PresentMatch {
			v.Invert = !v.Invert
		}
	case *routev3.HeaderMatcher_StringMatch:
		err = stringMatch(&v, m.StringMatch, path+".string_match")
	case *routev3.HeaderMatcher_RangeMatch:
		v.Kind, v.Low, v.High = route.ValueRange, m.RangeMatch.GetStart(), m.RangeMatch.GetEnd()
	// The older spellings, which Istio still sends.
	case *routev3.HeaderMatcher_ExactMatch:
		v.Kind, v.Value = route.ValueExact, m.ExactMatch
	case *routev3.HeaderMatcher_PrefixMatch:
		v.Kind, v.Value = route.ValuePrefix, m.PrefixMatch
	case *routev3.HeaderMatcher_SuffixMatch:
		v.Kind, v.Value = route.ValueSuffix, m.SuffixMatch
	case *routev3.HeaderMatcher_ContainsMatch:
		v.Kind, v.Value = route.ValueContains, m.ContainsMatch
	case *routev3.HeaderMatcher_SafeRegexMatch:
		v.Kind = route.ValueRegex
		v.Regex, err = wholeRegex(m.SafeRegexMatch.GetRegex(), path+".safe_regex_match")
	}
	return v, err
}

func stringMatch(v *route.ValueMatch, m *matcherv3.StringMatcher, path string) error {
	v.IgnoreCase = m.GetIgnoreCase()
	var err error
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		v.Kind, v.Value = route.ValueExact, p.Exact
	case *matcherv3.StringMatcher_Prefix:
		v.Kind, v.Value = route.ValuePrefix, p.Prefix
	case *matcherv3.StringMatcher_Suffix:
		v.Kind, v.Value = route.ValueSuffix, p.Suffix
	case *matcherv3.StringMatcher_Contains:
		v.Kind, v.Value = route.ValueContains, p.Contains
	case *matcherv3.StringMatcher_SafeRegex:
		v.Kind = route.ValueRegex
		v.Regex, err = wholeRegex(p.SafeRegex.GetRegex(), path+".safe_regex")
	default:
		err = fmt.Errorf("%s: has no pattern", path)
	}
	return err
}

// wholeRegex compiles a regular expression that must match all of its input.
func wholeRegex(s, path string) (route.Regex, error) {
	re, err := route.Whole(s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return re, nil
}

func perMillion(p *typev3.FractionalPercent) uint32 {
	n := uint64(p.GetNumerator())
	switch p.GetDenominator() {
	case typev3.FractionalPercent_HUNDRED:
		n *= 10_000
	case typev3.FractionalPercent_TEN_THOUSAND:
		n *= 100
	case typev3.FractionalPercent_MILLION:
	}
	return uint32(min(n, always1M))
}
