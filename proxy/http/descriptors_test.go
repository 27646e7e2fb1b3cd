package http_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	ratelimitfilter "github.com/weirmesh/weir/proxy/filter/ratelimit"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/ratelimit"
	"github.com/weirmesh/weir/proxy/route"
)

// limitedBy is a listener with a local rate limit and routes.
func limitedBy(limit, hosts string) string {
	return fmt.Sprintf(`name: "l" address { socket_address { address: "0.0.0.0" port_value: 80 } } filter_chains { filters { name: "http" typed_config {
		[type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager] { stat_prefix: "l" use_remote_address { value: true } route_config { name: "r" %s }
		http_filters { name: "limit" typed_config { [type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit] { stat_prefix: "l"
			filter_enabled { default_value { numerator: 100 } } filter_enforced { default_value { numerator: 100 } } %s } } }
		http_filters { name: "router" typed_config { [type.googleapis.com/envoy.extensions.filters.http.router.v3.Router] {} } } } } } }`, hosts, limit)
}

// bucket has so many tokens, and no new ones for an hour.
func bucket(n int) string {
	return fmt.Sprintf(`token_bucket { max_tokens: %d fill_interval { seconds: %d } }`, n, 3600*n)
}

func descriptor(n int, entries ...string) string {
	out := `descriptors { ` + bucket(n)
	for i := 0; i < len(entries); i += 2 {
		out += fmt.Sprintf(` entries { key: %q value: %q }`, entries[i], entries[i+1])
	}
	return out + ` } `
}

// What requests are counted by descriptors, and by which: of each request, whether it passes.
func TestDescriptors(t *testing.T) {
	hosts := func(route, host string) string {
		return fmt.Sprintf(`virtual_hosts { name: "v" domains: "*" %s routes { match { prefix: "/" } route { cluster: "a" %s } } }`, host, route)
	}
	rule := func(actions string) string { return `rate_limits { ` + actions + ` } ` }
	for _, tc := range []struct {
		what, limit, hosts string
		asks               string // of each, a line: path, headers, and "yes" or "no"
	}{
		{"a fixed key of a route; requests without a descriptor have the rest", bucket(3) + ` always_consume_default_token_bucket {} ` + descriptor(1, "generic_key", "slow"),
			`virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/slow" } route { cluster: "a" ` + rule(`actions { generic_key { descriptor_value: "slow" } }`) + `} } routes { match { prefix: "/" } route { cluster: "a" } } }`,
			"/slow yes\n/slow no\n/ yes\n/ yes\n/ yes\n/ no"},
		{"the general bucket counts all, unless it is told otherwise", bucket(2) + descriptor(5, "generic_key", "k"), hosts(rule(`actions { generic_key { descriptor_value: "k" } }`), ""), "/ yes\n/ yes\n/ no"},
		{"a header, by its value; what has none has no descriptor", descriptor(1, "user", "eve"), hosts(rule(`actions { request_headers { header_name: "X-User" descriptor_key: "user" } }`), ""),
			"/ x-user=eve yes\n/ x-user=eve no\n/ x-user=bob yes\n/ yes\n/ yes"},
		{"the path", descriptor(1, "path", "/a?x"), hosts(rule(`actions { request_headers { header_name: ":path" descriptor_key: "path" } }`), ""), "/a?x yes\n/a?x no\n/a yes"},
		{"all entries, in their order", descriptor(1, "user", "eve", "generic_key", "k"), hosts(rule(`actions { request_headers { header_name: "x-user" descriptor_key: "user" } } actions { generic_key { descriptor_value: "k" } }`)+
			rule(`actions { generic_key { descriptor_value: "k" } } actions { request_headers { header_name: "x-user" descriptor_key: "user" } }`), ""), "/ x-user=eve yes\n/ x-user=eve no\n/ yes"},
		{"a header that may be absent", descriptor(1, "generic_key", "k"), hosts(rule(`actions { request_headers { header_name: "x-user" descriptor_key: "user" skip_if_absent: true } } actions { generic_key { descriptor_value: "k" } }`), ""),
			"/ yes\n/ no\n/ x-user=eve yes"},
		{"any value, each its own; of three the one that was longest away begins anew", ` max_dynamic_descriptors { value: 2 } ` + descriptor(1, "user", ""), hosts(rule(`actions { request_headers { header_name: "x-user" descriptor_key: "user" } }`), ""),
			"/ x-user=a yes\n/ x-user=b yes\n/ x-user=a no\n/ x-user=c yes\n/ x-user=a no\n/ x-user=b yes\n/ x-user=c yes"},
		{"a value that is named comes before any", descriptor(1, "user", "") + descriptor(2, "user", "eve"), hosts(rule(`actions { request_headers { header_name: "x-user" descriptor_key: "user" } }`), ""),
			"/ x-user=eve yes\n/ x-user=eve yes\n/ x-user=eve no\n/ x-user=bob yes\n/ x-user=bob no"},
		{"parameters", descriptor(1, "q", "1") + descriptor(1, "query_match", "two"), hosts(rule(`actions { query_parameters { query_parameter_name: "q" descriptor_key: "q" } }`)+
			rule(`actions { query_parameter_value_match { descriptor_value: "two" query_parameters { name: "q" string_match { exact: "2" } } query_parameters { name: "r" present_match: true } } }`), ""),
			"/?q=1 yes\n/?a&q=1 no\n/?q=2 yes\n/?q=2&r yes\n/?q=2&r no\n/ yes"},
		{"headers that match, and that do not", descriptor(1, "header_match", "post") + descriptor(1, "other", "x"), hosts(rule(`actions { header_value_match { descriptor_value: "post" headers { name: ":method" string_match { exact: "POST" } } } }`)+
			rule(`actions { header_value_match { descriptor_key: "other" descriptor_value: "x" expect_match {} headers { name: "x-good" } } }`), ""), "/ yes\n/ no\n/ x-good=1 yes\n/ x-good=1 yes"},
		{"the client, one by one and by its network", descriptor(3, "remote_address", "127.0.0.1") + descriptor(2, "masked_remote_address", "127.0.0.0/16") + descriptor(1, "remote_address_match", "near"),
			hosts(rule(`actions { remote_address {} }`)+rule(`actions { masked_remote_address { v4_prefix_mask_len { value: 16 } } }`)+
				rule(`actions { remote_address_match { descriptor_value: "near" address_matcher { ranges { address_prefix: "192.0.2.0" prefix_len { value: 24 } } } } }`), ""), "/ yes\n/ yes\n/ no"},
		{"clusters", descriptor(1, "source_cluster", "here", "destination_cluster", "a"), hosts(rule(`actions { source_cluster {} } actions { destination_cluster {} }`), ""), "/ yes\n/ no"},
		{"what the route's metadata says, or not", descriptor(1, "tier", "gold") + descriptor(1, "none", "x"), `virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/" } metadata { filter_metadata { key: "shop" value { fields { key: "tier" value { string_value: "gold" } } } } } route { cluster: "a" ` +
			rule(`actions { metadata { descriptor_key: "tier" source: ROUTE_ENTRY metadata_key { key: "shop" path { key: "tier" } } } }`) +
			rule(`actions { metadata { descriptor_key: "none" source: ROUTE_ENTRY metadata_key { key: "shop" path { key: "no" } } } }`) + `} } }`, "/ yes\n/ no"},
		{"claims, without which there may be a value", descriptor(1, "sub", "nobody"), hosts(rule(`actions { dynamic_metadata { descriptor_key: "sub" default_value: "nobody" metadata_key { key: "envoy.filters.http.jwt_authn" path { key: "payload" } path { key: "sub" } } } }`), ""), "/ yes\n/ no"},
		{"a virtual host, where the route says nothing", descriptor(1, "generic_key", "host"), hosts("", rule(`actions { generic_key { descriptor_value: "host" } }`)), "/ yes\n/ no"},
		{"not where it says something", descriptor(1, "generic_key", "host"), hosts(rule(`actions { generic_key { descriptor_value: "route" } }`), rule(`actions { generic_key { descriptor_value: "host" } }`)), "/ yes\n/ yes"},
		{"there too, says the route", descriptor(1, "generic_key", "host"), hosts(`include_vh_rate_limits { value: true } `+rule(`actions { generic_key { descriptor_value: "route" } }`), rule(`actions { generic_key { descriptor_value: "host" } }`)), "/ yes\n/ no"},
		{"there too, says the filter", `vh_rate_limits: INCLUDE ` + descriptor(1, "generic_key", "host"), hosts(rule(`actions { generic_key { descriptor_value: "route" } }`), rule(`actions { generic_key { descriptor_value: "host" } }`)), "/ yes\n/ no"},
		{"never, says the filter", `vh_rate_limits: IGNORE ` + descriptor(1, "generic_key", "host"), hosts("", rule(`actions { generic_key { descriptor_value: "host" } }`)), "/ yes\n/ yes"},
		{"of its stage", `stage: 2 ` + descriptor(1, "generic_key", "two") + descriptor(1, "generic_key", "zero"), hosts(rule(`actions { generic_key { descriptor_value: "zero" } }`)+rule(`stage { value: 2 } actions { generic_key { descriptor_value: "two" } } actions { request_headers { header_name: "x-no" descriptor_key: "no" skip_if_absent: true } }`), ""), "/ yes\n/ no"},
		{"the filter's own rules count instead of the routes'", `rate_limits { actions { generic_key { descriptor_value: "own" } } } ` + descriptor(1, "generic_key", "own") + descriptor(1, "generic_key", "k"), hosts(rule(`actions { generic_key { descriptor_value: "k" } }`), ""), "/ yes\n/ no"},
		{"one that only looks on", strings.Replace(descriptor(1, "generic_key", "k"), "descriptors {", "descriptors { shadow_mode: true", 1) + bucket(3), hosts(rule(`actions { generic_key { descriptor_value: "k" } }`), ""), "/ yes\n/ yes\n/ yes\n/ no"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			s := served(t)
			defer s.end()
			if err := s.xds("listener", limitedBy(tc.limit, tc.hosts)); err != nil {
				t.Fatal(err)
			}
			for i, ask := range strings.Split(tc.asks, "\n") {
				words := strings.Fields(ask)
				r := "GET " + words[0] + " HTTP/1.1\nHost: h"
				if words[0] == "/post" {
					r = "POST " + words[0] + " HTTP/1.1\nHost: h\nContent-Length: 0"
				}
				for _, h := range words[1 : len(words)-1] {
					k, v, _ := strings.Cut(h, "=")
					r += "\n" + k + ": " + v
				}
				want := map[string]string{"yes": "a GET " + words[0] + " host=h", "no": "429 local_rate_limited"}[words[len(words)-1]]
				if got := s.asked(r, empty); got != want {
					t.Errorf("%d. %s: %q, want %q", i+1, ask, got, want)
				}
			}
		})
	}
}

// What cannot be kept is refused by its path.
func TestDescriptorsRefused(t *testing.T) {
	const hcm = "listener l.filter_chains[0].filters[0] http"
	one := `virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/" } route { cluster: "a" rate_limits { %s } } } }`
	const at = "routes[0].route.rate_limits[0]"
	for _, tc := range []struct{ limit, rule, want string }{
		{descriptor(1, "a", "b") + descriptor(2, "a", "b"), "", hcm + ".http_filters[0] limit.descriptors[1]: is there twice"},
		{descriptor(1, "a", "") + descriptor(2, "a", ""), "", hcm + ".http_filters[0] limit.descriptors[1]: is there twice"},
		{descriptor(1), "", hcm + ".http_filters[0] limit.descriptors[0].entries"},
		{descriptor(0, "a", "b"), "", hcm + ".http_filters[0] limit.descriptors[0].token_bucket.max_tokens"},
		{`max_dynamic_descriptors {} ` + descriptor(1, "a", ""), "", hcm + ".http_filters[0] limit.max_dynamic_descriptors"},
		{`local_rate_limit_per_downstream_connection: true`, "", hcm + ".http_filters[0] limit.local_rate_limit_per_downstream_connection"},
		{"", `actions {}`, at + ".actions[0]: has no action"},
		{"", `actions { extension { name: "x" } }`, at + ".actions[0].extension"},
		{"", `actions { remote_address {} } limit { rate_limit { requests_per_unit: 1 } }`, at + ".limit"},
		{"", `actions { remote_address {} } hits_addend { number { value: 2 } }`, at + ".hits_addend"},
		{"", `actions { generic_key { descriptor_value: "%REQ(x)%" } }`, at + ".actions[0].generic_key.descriptor_value"},
		{"", `actions { request_headers { header_name: "x" } }`, at + ".actions[0].request_headers.descriptor_key: is empty"},
		{"", `actions { masked_remote_address { v4_prefix_mask_len { value: 33 } } }`, at + ".actions[0].masked_remote_address"},
		{"", `actions { dynamic_metadata { descriptor_key: "x" metadata_key { key: "other" path { key: "y" } } } }`, at + ".actions[0].dynamic_metadata.metadata_key.key"},
		{"", `stage { value: 11 } actions { remote_address {} }`, at + ".stage"},
		{"", strings.Repeat(`actions { remote_address {} } `, 17), at + ".actions: 17"},
	} {
		s := served(t)
		hosts := `virtual_hosts { name: "v" domains: "*" }`
		if tc.rule != "" {
			hosts = fmt.Sprintf(one, tc.rule)
		}
		if err := s.xds("listener", limitedBy(tc.limit, hosts)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %s:\n  got  %v\n  want %s", tc.limit, tc.rule, err, tc.want)
		}
		s.end()
	}
}

// Descriptors cost no allocation once their values are known, whether they are named or not.
func TestDescriptorsAllocateNothing(t *testing.T) {
	d := ratelimit.NewDescriptors(20)
	fresh := func() *ratelimit.Bucket { return ratelimit.NewBucket(1e6, 1e6, time.Second) }
	for _, entries := range [][]ratelimit.Entry{
		{{Key: "user", Value: []byte("jason")}, {Key: "remote_address"}},
		{{Key: "path", Value: []byte("/reviews/0")}},
		{{Key: "masked_remote_address", Value: []byte("127.0.0.0/16")}},
	} {
		if err := d.Add(entries, false, fresh); err != nil {
			t.Fatal(err)
		}
	}
	l := &route.RateLimit{Bucket: fresh(), Descriptors: d, Per1M: 1e6, Enforced1M: 1e6, Counts: &ratelimit.Counts{}, Rules: []route.RateRule{
		{Actions: []route.RateAction{{Kind: route.RateHeader, Key: "user", Name: "end-user"}, {Kind: route.RateAddress, Key: "remote_address"}}},
		{Actions: []route.RateAction{{Kind: route.RateFixed, Key: "path", Value: "/reviews/0"}}},
		{Actions: []route.RateAction{{Kind: route.RateAddressMasked, Key: "masked_remote_address", V4: 16, V6: 128}}},
		{Actions: []route.RateAction{{Kind: route.RateHeadersMatch, Key: "x", Value: "x", Matches: []route.ValueMatch{{Name: "end-user", Kind: route.ValueExact, Value: "jason"}}}}},
	}}
	p := newPath(t, http.Inbound, getRequest, okResponse(10), ratelimitfilter.Stage(l, "here"))
	p.exchange(t)
	if n := testing.AllocsPerRun(200, func() { p.exchange(t) }); n != 0 {
		t.Errorf("%v allocations an exchange", n)
	}
	if n := l.Counts.OK.Load(); n < 200 {
		t.Errorf("%d requests were counted", n)
	}
}
