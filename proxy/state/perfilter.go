package state

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/proxy/route"
)

const (
	faultURL        = typePrefix + "envoy.extensions.filters.http.fault.v3.HTTPFault"
	filterConfigURL = typePrefix + "envoy.config.route.v3.FilterConfig"
	corsPolicyURL   = typePrefix + "envoy.extensions.filters.http.cors.v3.CorsPolicy"
)

// perFilter is what a route, or a virtual host, has of its own for filters.
type perFilter struct {
	fault *route.Fault
	cors  *route.CORS
	authz *route.ExtAuthz
	limit *route.RateLimit
	stays *route.Session
	// switches are the filters that have any of it.
	switches []route.Switch
}

// into gives an entry what it has none of.
func (p *perFilter) into(e *route.Entry) {
	e.Fault, e.CORS = cmp.Or(e.Fault, p.fault), cmp.Or(e.CORS, p.cors)
	e.ExtAuthz, e.RateLimit = cmp.Or(e.ExtAuthz, p.authz), cmp.Or(e.RateLimit, p.limit)
	e.Session = cmp.Or(e.Session, p.stays)
	for _, s := range p.switches {
		if !slices.ContainsFunc(e.Switches, func(o route.Switch) bool { return o.Filter == s.Filter }) {
			e.Switches = append(slices.Clip(e.Switches), s) // tables share what they have in common
		}
	}
}

// decodePerFilter reads a typed_per_filter_config. The type says for which filter an entry is, whatever that is called;
// filters whose type is not here have no configuration by route and are refused.
func decodePerFilter(m map[string]*anypb.Any, path string) (p perFilter, err error) {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		a := m[name]
		if err := p.add(name, a, path+".typed_per_filter_config["+name+"]"); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (p *perFilter) add(name string, a *anypb.Any, at string) error {
	url, a, err := opened(a, at)
	if err != nil {
		return err
	}
	optional := false
	if url == filterConfigURL {
		w := &routev3.FilterConfig{}
		if err := unpack(a, w, at); err != nil {
			return err
		}
		if w.GetDisabled() {
			if why := steady(name); why != "" {
				return fmt.Errorf("%s.disabled: %s cannot be switched off: %s", at, name, why)
			}
			p.switches = append(p.switches, route.Switch{Filter: name, Off: true})
			return nil
		}
		if w.GetConfig().GetTypeUrl() == "" { // it is on (config: {}), as it is elsewhere
			p.switches = append(p.switches, route.Switch{Filter: name})
			return nil
		}
		optional, at = w.GetIsOptional(), at+".config"
		if url, a, err = opened(w.GetConfig(), at); err != nil {
			return err
		}
	}
	p.switches = append(p.switches, route.Switch{Filter: name})
	switch {
	case httpFilters[url].inert != "":
		// By route they have no settings, here or elsewhere.
		told, e := unheeded(url, a, at)
		if err = e; err == nil && len(told) > 0 && !optional {
			err = fmt.Errorf("%s.%s: %s has no settings by route", at, told[0].Setting, url)
		}
	case url == faultURL:
		f := &faultv3.HTTPFault{}
		if err = unpack(a, f, at); err == nil {
			p.fault, err = decodeFault(f, at)
		}
	case url == corsPolicyURL:
		c := &corsv3.CorsPolicy{}
		if err = unpack(a, c, at); err == nil {
			p.cors, err = decodeCORS(c, at)
		}
	case url == extAuthzPerRouteURL:
		p.authz, err = decodeAuthzPerRoute(a, at)
	case url == localRateLimitURL:
		p.limit, _, err = decodeRateLimit(a, at)
	case url == sessionPerRouteURL:
		p.stays, err = decodeSessionPerRoute(a, at)
	case optional:
	default:
		err = fmt.Errorf("%s: %s is not supported", at, url)
	}
	return err
}

// steady is why the filter that usually has that name is never off; "": it may be.
func steady(name string) string {
	for _, f := range httpFilters {
		if f.name == name {
			return cmp.Or(f.steady, f.inert)
		}
	}
	return ""
}

// corsPolicy is what both messages of that name have.
type corsPolicy interface {
	GetAllowOriginStringMatch() []*matcherv3.StringMatcher
	GetAllowMethods() string
	GetAllowHeaders() string
	GetExposeHeaders() string
	GetMaxAge() string
	GetAllowCredentials() *wrapperspb.BoolValue
	GetFilterEnabled() *corev3.RuntimeFractionalPercent
	GetForwardNotMatchingPreflights() *wrapperspb.BoolValue
}

// orCORS is the filter's own policy, or that of the older field, if there is no other.
func orCORS(own *route.CORS, older *routev3.CorsPolicy, path string) (*route.CORS, error) {
	if own != nil || older == nil {
		return own, nil
	}
	return decodeCORS(older, path+".cors")
}

func decodeCORS(c corsPolicy, path string) (*route.CORS, error) {
	out := &route.CORS{Methods: c.GetAllowMethods(), Headers: c.GetAllowHeaders(), Exposed: c.GetExposeHeaders(), MaxAge: c.GetMaxAge(), Credentials: c.GetAllowCredentials().GetValue(), Per1M: always1M}
	for _, f := range []struct{ name, value string }{{"allow_methods", out.Methods}, {"allow_headers", out.Headers}, {"expose_headers", out.Exposed}, {"max_age", out.MaxAge}} {
		if err := oneLine(path+"."+f.name, f.value); err != nil {
			return nil, err
		}
	}
	for i, m := range c.GetAllowOriginStringMatch() {
		var v route.ValueMatch
		if err := stringMatch(&v, m, fmt.Sprintf("%s.allow_origin_string_match[%d]", path, i)); err != nil {
			return nil, err
		}
		out.Origins = append(out.Origins, v)
	}
	if f := c.GetForwardNotMatchingPreflights(); f != nil {
		out.IgnoreUnmatched = !f.GetValue()
	}
	if p := c.GetFilterEnabled().GetDefaultValue(); p != nil {
		out.Per1M = perMillion(p)
	}
	return out, nil
}
