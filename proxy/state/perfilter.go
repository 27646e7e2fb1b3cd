package state

import (
	"fmt"

	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/proxy/ratelimit"
	"github.com/weirmesh/weir/proxy/route"
)

const (
	faultURL      = typePrefix + "envoy.extensions.filters.http.fault.v3.HTTPFault"
	corsPolicyURL = typePrefix + "envoy.extensions.filters.http.cors.v3.CorsPolicy"
)

// perFilter is what a route, or a virtual host, has of its own for filters.
type perFilter struct {
	fault *route.Fault
	cors  *route.CORS
	authz *route.ExtAuthz
	limit *ratelimit.Limit
}

// decodePerFilter reads a typed_per_filter_config. The type says for which filter an entry is, whatever that is called;
// filters whose type is not here have no configuration by route and are refused.
func decodePerFilter(m map[string]*anypb.Any, path string) (p perFilter, err error) {
	for name, a := range m {
		at := path + ".typed_per_filter_config[" + name + "]"
		switch url := a.GetTypeUrl(); {
		case httpFilters[url].inert != "":
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
		default:
			err = fmt.Errorf("%s: not supported", at)
		}
		if err != nil {
			return p, err
		}
	}
	return p, nil
}

func decodeCORS(c *corsv3.CorsPolicy, path string) (*route.CORS, error) {
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
