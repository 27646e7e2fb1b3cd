package http_test

import (
	"fmt"
	"net/netip"
	"testing"
)

// static is a cluster of one endpoint.
func static(name, address string) string {
	return fmt.Sprintf(`name: %q type: STATIC connect_timeout { seconds: 1 } load_assignment { cluster_name: %q endpoints { lb_endpoints { endpoint { address { socket_address { address: %q port_value: 80 } } } } } }`, name, name, address)
}

// served is a script whose clusters a, b and c listen at 10.2.0.1 to 3.
func served(t *testing.T) *script {
	s := newScript(t)
	for i, name := range []string{"a", "b", "c"} {
		address := fmt.Sprintf("10.2.0.%d", i+1)
		l, err := s.net.Listen(netip.MustParseAddrPort(address + ":80"))
		if err != nil {
			t.Fatal(err)
		}
		s.listeners[name] = l
		if err := s.xds("cluster", static(name, address)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

const empty = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"

// What Envoy's control planes say in routes, and Istio's does not: where requests arrive by it, and as what.
func TestForeignRoutes(t *testing.T) {
	direct := func(match, body string) string {
		return fmt.Sprintf(`routes { match { %s } direct_response { status: 200 body { inline_string: %q } } }`, match, body)
	}
	for _, tc := range []struct {
		what, hosts string // of the table; fields of the table may follow
		asks        [][2]string
		tell        []string
	}{
		{"a cookie decides, wherever it stands", `virtual_hosts { name: "v" domains: "*"
			` + direct(`prefix: "/" cookies { name: "u" string_match { exact: "x" } } cookies { name: "w" string_match { prefix: "1" } invert_match: true }`, "both") +
			direct(`prefix: "/" cookies { name: "e" string_match { exact: "" } }`, "empty") + direct(`prefix: "/"`, "rest") + `}`,
			[][2]string{
				{"GET / HTTP/1.1\nHost: h\nCookie: a=b; u=x", "200 both"},
				{"GET / HTTP/1.1\nHost: h\nCookie: a=b\nCookie: u=\"x\"; w=2", "200 both"},
				{"GET / HTTP/1.1\nHost: h\nCookie: u=x; w=12", "200 rest"},
				{"GET / HTTP/1.1\nHost: h\nCookie: uu=x", "200 rest"},
				{"GET / HTTP/1.1\nHost: h\nCookie: e=; u=y", "200 empty"},
				{"GET / HTTP/1.1\nHost: h", "200 rest"},
			}, nil},
		{"who showed no certificate", `virtual_hosts { name: "v" domains: "*" ` + direct(`prefix: "/" tls_context { presented { value: true } validated { value: true } }`, "known") +
			direct(`prefix: "/" tls_context { presented { value: false } }`, "unknown") + `}`,
			[][2]string{{"GET / HTTP/1.1\nHost: h", "200 unknown"}}, nil},
		{"a header names the cluster", `virtual_hosts { name: "v" domains: "*"
			routes { match { prefix: "/w" } route { weighted_clusters { clusters { cluster_header: "X-To" weight { value: 1 } request_headers_to_add { header { key: "x-by" value: "%UPSTREAM_CLUSTER%" } } } } } }
			routes { match { prefix: "/m" } route { cluster: "a" request_mirror_policies { cluster_header: "x-to" host_rewrite_literal: "copy" } } }
			routes { match { prefix: "/" } route { cluster_header: "X-To" cluster_not_found_response_code: NOT_FOUND } } }`,
			[][2]string{
				{"GET /x HTTP/1.1\nHost: h\nX-To: b", "b GET /x host=h"},
				{"GET /w HTTP/1.1\nHost: h\nX-To: c", "c GET /w host=h x-by=c"},
				{"GET /m HTTP/1.1\nHost: h\nX-To: c", "a GET /m host=hc GET /m host=copy"},
				{"GET /m HTTP/1.1\nHost: h\nX-To: none", "a GET /m host=h"},
				{"GET /x HTTP/1.1\nHost: h\nX-To: none", "404 "},
				{"GET /x HTTP/1.1\nHost: h", "404 "},
			}, []string{"x-by"}},
		{"the host comes from a header or the path, if it can be one", `virtual_hosts { name: "v" domains: "*"
			routes { match { prefix: "/header" } route { cluster: "a" host_rewrite_header: "X-Host" append_x_forwarded_host: true } }
			routes { match { prefix: "/" } route { cluster: "a" prefix_rewrite: "/rest" host_rewrite_path_regex { pattern { regex: "^/(.+)/.+$" } substitution: "\\1" } } } }`,
			[][2]string{
				{"GET /header HTTP/1.1\nHost: h\nX-Host: other:81", "a GET /header host=other:81 x-forwarded-host=h"},
				{"GET /header HTTP/1.1\nHost: h\nX-Host: no host", "a GET /header host=h"},
				{"GET /header HTTP/1.1\nHost: h", "a GET /header host=h"},
				{"GET /some.example/path?q=/x/y HTTP/1.1\nHost: h", "a GET /restsome.example/path?q=/x/y host=some.example"},
				{"GET /short HTTP/1.1\nHost: h", "a GET /restshort host=h"},
			}, []string{"x-forwarded-host"}},
		{"templates of paths", `virtual_hosts { name: "v" domains: "*"
			routes { match { path_match_policy { name: "t" typed_config { [type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig] { path_template: "/a/{x}/b.c/{rest=d/**}" } } } }
			  route { cluster: "a" path_rewrite_policy { name: "t" typed_config { [type.googleapis.com/envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig] { path_template_rewrite: "/{rest}/$/{x}" } } } } }
			routes { match { path_match_policy { name: "t" typed_config { [type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig] { path_template: "/*/z" } } } } route { cluster: "b" } }
			` + direct(`prefix: "/"`, "rest") + `}`,
			[][2]string{
				{"GET /a/1/b.c/d/e/f?q HTTP/1.1\nHost: h", "a GET /d/e/f/$/1?q host=h"},
				{"GET /a/1/bxc/d/e HTTP/1.1\nHost: h", "200 rest"},
				{"GET /a//b.c/d/e HTTP/1.1\nHost: h", "200 rest"},
				{"GET /y/z HTTP/1.1\nHost: h", "b GET /y/z host=h"},
				{"GET /y/z/ HTTP/1.1\nHost: h", "200 rest"},
			}, nil},
		{"copies of requests, by the nearest that says anything", `request_mirror_policies { cluster: "c" }
			virtual_hosts { name: "v" domains: "v" request_mirror_policies { cluster: "b" }
			  routes { match { prefix: "/none" } route { cluster: "a" request_mirror_policies { cluster: "c" runtime_fraction { default_value {} } } } }
			  routes { match { prefix: "/" } route { cluster: "a" } } }
			virtual_hosts { name: "w" domains: "*" routes { match { prefix: "/" } route { cluster: "a" } } }`,
			[][2]string{
				{"GET / HTTP/1.1\nHost: v", "a GET / host=vb GET / host=v-shadow"},
				{"GET /none HTTP/1.1\nHost: v", "a GET /none host=v"},
				{"GET / HTTP/1.1\nHost: w", "a GET / host=wc GET / host=w-shadow"},
			}, nil},
		{"filters by table, host and route", `typed_per_filter_config { key: "envoy.filters.http.fault" value { [type.googleapis.com/envoy.config.route.v3.FilterConfig] { config {
			  [type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault] { abort { http_status: 418 percentage { numerator: 100 } } } } } } }
			virtual_hosts { name: "v" domains: "v"
			  typed_per_filter_config { key: "x" value { [type.googleapis.com/envoy.config.route.v3.FilterConfig] { is_optional: true config { [type.googleapis.com/google.protobuf.StringValue] { value: "x" } } } } }
			  routes { match { prefix: "/free" } route { cluster: "a" } typed_per_filter_config { key: "envoy.filters.http.fault" value { [type.googleapis.com/envoy.config.route.v3.FilterConfig] { disabled: true } } } }
			  routes { match { prefix: "/" } route { cluster: "a" } } }`,
			[][2]string{{"GET / HTTP/1.1\nHost: v", "418 fault filter abort"}, {"GET /free HTTP/1.1\nHost: v", "a GET /free host=v"}}, nil},
	} {
		t.Run(tc.what, func(t *testing.T) {
			s := served(t)
			defer s.end()
			if err := s.xds("routes", `name: "80" `+tc.hosts); err != nil {
				t.Fatal(err)
			}
			for _, a := range tc.asks {
				if got := s.asked(a[0], empty, tc.tell...); got != a[1] && got+" " != a[1] {
					t.Errorf("%s\n  got  %s\n  want %s", a[0], got, a[1])
				}
			}
		})
	}
}
