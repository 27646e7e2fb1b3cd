package http_test

import (
	"fmt"
	"testing"
)

// Filters that are off until a route switches them on, and on until one switches them off, by their names: what each request gets.
func TestSwitchedFilters(t *testing.T) {
	filter := func(name, more, config string) string {
		return fmt.Sprintf(`http_filters { name: %q %s typed_config { [type.googleapis.com/envoy.extensions.filters.http.%s } } } `, name, more, config)
	}
	const (
		off    = `disabled: true`
		teapot = `fault.v3.HTTPFault] { abort { http_status: 418 percentage { numerator: 100 } }`
		nobody = `rbac.v3.RBAC] { rules { action: DENY policies { key: "p" value { permissions { any: true } principals { any: true } } } }`
		none   = `local_ratelimit.v3.LocalRateLimit] { stat_prefix: "x" filter_enabled { default_value { numerator: 100 } } filter_enforced { default_value { numerator: 100 } } token_bucket { max_tokens: 1 fill_interval { seconds: 3600 } }`
	)
	per := func(name, config string) string {
		return fmt.Sprintf(`typed_per_filter_config { key: %q value { [type.googleapis.com/envoy.%s } } `, name, config)
	}
	const (
		isOff = `config.route.v3.FilterConfig] { disabled: true }`
		isOn  = `config.route.v3.FilterConfig] { disabled: false }`
	)
	routes := func(host, special string) string {
		return fmt.Sprintf(`virtual_hosts { name: "v" domains: "*" %s routes { match { prefix: "/special" } route { cluster: "a" } %s } routes { match { prefix: "/" } route { cluster: "a" } } }`, host, special)
	}
	const passes = "a GET %s host=h"
	for _, tc := range []struct {
		what, filters, routes string
		special, other        string // what /special and / get; "": they pass
	}{
		{"off", filter("f", off, teapot), routes("", ""), "", ""},
		{"off, and on for a route", filter("f", off, teapot), routes("", per("f", isOn)), "418 fault filter abort", ""},
		{"of another name", filter("f", off, teapot), routes("", per("g", isOn)), "", ""},
		{"off, and on with the route's configuration", filter("f", off, teapot), routes("", per("f", `extensions.filters.http.fault.v3.HTTPFault] { abort { http_status: 419 percentage { numerator: 100 } } }`)), "419 fault filter abort", ""},
		{"on in the virtual host, off in the route", filter("f", off, teapot), routes(per("f", isOn), per("f", isOff)), "", "418 fault filter abort"},
		{"off in the virtual host, on in the route", filter("f", "", teapot), routes(per("f", isOff), per("f", isOn)), "418 fault filter abort", ""},
		{"two of a kind, one is off", filter("f", off, nobody) + filter("g", "", none), routes("", per("f", isOn)), "403 RBAC: access denied", ""},
		{"policies side by side", filter("f", off, nobody) + filter("g", "", nobody), routes("", per("g", isOff)), "", "403 RBAC: access denied"},
		{"policies of one name are switched together", filter("f", "", nobody) + filter("f", "", nobody), routes("", per("f", isOff)), "", "403 RBAC: access denied"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			s := served(t)
			defer s.end()
			if err := s.xds("listener", fmt.Sprintf(`name: "l" address { socket_address { address: "0.0.0.0" port_value: 80 } } filter_chains { filters { name: "http" typed_config {
				[type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager] { stat_prefix: "l" route_config { name: "r" %s } %s
				http_filters { name: "router" typed_config { [type.googleapis.com/envoy.extensions.filters.http.router.v3.Router] {} } } } } } }`, tc.routes, tc.filters)); err != nil {
				t.Fatal(err)
			}
			for path, want := range map[string]string{"/special": tc.special, "/": tc.other} {
				if want == "" {
					want = fmt.Sprintf(passes, path)
				}
				if got := s.asked("GET "+path+" HTTP/1.1\nHost: h", empty); got != want {
					t.Errorf("%s: %q, want %q", path, got, want)
				}
			}
		})
	}
}
