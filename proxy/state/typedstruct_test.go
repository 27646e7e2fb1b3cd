package state

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/route"
	"github.com/weirmesh/weir/xds/resource"
)

// inStruct is a TypedStruct of one of the two packages, as JSON.
func inStruct(pkg, message, value string) string {
	return fmt.Sprintf(`{"@type": %q, "type_url": %q, "value": %s}`, typePrefix+pkg+".TypedStruct", typePrefix+message, value)
}

// jsonUpdate reads one listener or route configuration.
func jsonUpdate(t testing.TB, typeURL, text string) Update {
	t.Helper()
	var m interface {
		proto.Message
		GetName() string
	} = &listenerv3.Listener{}
	if typeURL == resource.RouteType {
		m = &routev3.RouteConfiguration{}
	}
	if err := protojson.Unmarshal([]byte(text), m); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return Update{TypeURL: typeURL, Set: []Resource{{Name: m.GetName(), Body: a}}}
}

const (
	httpLimit     = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
	networkLimit  = "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit"
	routerJSON    = `{"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}`
	tcpJSON       = `{"name": "t", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "x", "cluster": "c"}}`
	onePerMinute  = `{"stat_prefix": "x", "token_bucket": {"max_tokens": 1, "fill_interval": "60s"}, "filter_enabled": {"default_value": {"numerator": 100}}, "filterEnforced": {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}}`
	addressedJSON = `"name": "l", "address": {"socket_address": {"address": "0.0.0.0", "port_value": 80}}`
)

func listenerJSON(listenerFilters, filters string) string {
	return `{` + addressedJSON + `, "listener_filters": [` + listenerFilters + `], "filter_chains": [{"filters": [` + filters + `]}]}`
}

func managerJSON(filters string) string {
	return listenerJSON("", `{"name": "http", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
		"stat_prefix": "l", "route_config": {}, "http_filters": [`+filters+routerJSON+`]}}`)
}

func hostJSON(config string) string {
	return `{"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "c"}, "typed_per_filter_config": {"f": ` + config + `}}]}]}`
}

func filterConfigJSON(more, config string) string {
	return `{"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", ` + more + `"config": ` + config + `}`
}

// What the proxy knows is the same by its own message and in a TypedStruct of either package, as EnvoyFilters of Istio have it;
// what does not fit is refused by its path.
func TestTypedStructs(t *testing.T) {
	limited := func(s *State) bool {
		m := s.listeners["l"].Config.Chains[0].Filters.(*http.Config)
		return slices.ContainsFunc(m.Stages, func(s http.Stage) bool { return s.Name == "local rate limit" })
	}
	routeLimited := func(s *State) bool {
		l := s.Table("r").Host([]byte("a")).Entries[0].RateLimit
		return l != nil && l.Bucket != nil && l.Per1M == 1_000_000 && l.Enforced1M == 1_000_000
	}
	switchedOn := func(s *State) bool {
		e := s.Table("r").Host([]byte("a")).Entries[0]
		return slices.Equal(e.Switches, []route.Switch{{Filter: "f"}}) && e.RateLimit == nil
	}
	const mystery = "mystery.Filter"
	filter := func(more, config string) string { return `{"name": "f", ` + more + `"typed_config": ` + config + `}` }
	for _, pkg := range []string{"udpa.type.v1", "xds.type.v3"} {
		in := func(message, value string) string { return inStruct(pkg, message, value) }
		for _, c := range []struct {
			what, url, text string
			holds           func(*State) bool
			refused         string
		}{
			{"a limit without a bucket, as in Istio's sample", resource.ListenerType, managerJSON(filter("", in(httpLimit, `{"stat_prefix": "http_local_rate_limiter"}`)) + ","), limited, ""},
			{"a limit of a listener", resource.ListenerType, managerJSON(filter("", in(httpLimit, onePerMinute)) + ","), limited, ""},
			{"a limit of a route", resource.RouteType, hostJSON(in(httpLimit, onePerMinute)), routeLimited, ""},
			{"a limit of a route, in a FilterConfig", resource.RouteType, hostJSON(filterConfigJSON("", in(httpLimit, onePerMinute))), routeLimited, ""},
			{"a FilterConfig that switches on what has settings elsewhere", resource.RouteType, hostJSON(filterConfigJSON("", "{}")), switchedOn, ""},
			{"a FilterConfig in a TypedStruct", resource.RouteType, hostJSON(in("envoy.config.route.v3.FilterConfig", `{"config": `+in(httpLimit, onePerMinute)+`}`)), routeLimited, ""},
			{"a limit of connections", resource.ListenerType, listenerJSON("", filter("", in(networkLimit, `{"stat_prefix": "x", "token_bucket": {"max_tokens": 1, "fill_interval": "1s"}}`))+","+tcpJSON),
				func(s *State) bool { return s.listeners["l"].Config.Chains[0].Rate != nil }, ""},
			{"a listener filter", resource.ListenerType, listenerJSON(filter("", in("envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol", `{"allow_requests_without_proxy_protocol": true}`)), tcpJSON),
				func(s *State) bool {
					return s.listeners["l"].Config.Proxy != nil && s.listeners["l"].Config.Proxy.Optional
				}, ""},
			{"a filter without a value", resource.ListenerType, managerJSON(filter("", in("envoy.extensions.filters.http.grpc_web.v3.GrpcWeb", `{}`)) + ","),
				func(s *State) bool { return len(s.listeners["l"].Skipped) == 0 }, ""},

			{"a field that is none", resource.ListenerType, managerJSON(filter("", in(httpLimit, `{"stat_prefix": "x", "token_bucket": {"max_tokens": 1, "burst": 2}}`)) + ","), nil,
				"listener l.filter_chains[0].filters[0] http.http_filters[0] f.token_bucket.burst: envoy.type.v3.TokenBucket has no such field"},
			{"a field that is none, in a list", resource.RouteType, hostJSON(in(httpLimit, `{"response_headers_to_add": [{"header": {"key": "a"}}, {"header": {"key": "a", "values": ["b"]}}]}`)), nil,
				"route configuration r virtual host v.routes[0].typed_per_filter_config[f].response_headers_to_add[1].header.values: envoy.config.core.v3.HeaderValue has no such field"},
			{"a field that is none, in a FilterConfig", resource.RouteType, hostJSON(filterConfigJSON(`"is_optional": true, `, in(httpLimit, `{"statprefix": "x"}`))), nil,
				"typed_per_filter_config[f].config.statprefix: " + httpLimit + " has no such field"},
			{"a value of another kind", resource.ListenerType, managerJSON(filter("", in(httpLimit, `{"token_bucket": {"max_tokens": "many"}}`)) + ","), nil, `http_filters[0] f.token_bucket.max_tokens: invalid value for uint32`},
			{"a text for a message", resource.ListenerType, managerJSON(filter("", in(httpLimit, `{"token_bucket": "big"}`)) + ","), nil, `http_filters[0] f.token_bucket: `},
			{"a text in a list of messages", resource.ListenerType, managerJSON(filter("", in(httpLimit, `{"response_headers_to_add": ["big"]}`)) + ","), nil, `http_filters[0] f.response_headers_to_add[0]: is no envoy.config.core.v3.HeaderValueOption`},
			{"one field twice", resource.ListenerType, managerJSON(filter("", in(httpLimit, `{"stat_prefix": "a", "statPrefix": "b"}`)) + ","), nil, `http_filters[0] f: duplicate field`},
			{"a field that has no meaning here", resource.ListenerType, managerJSON(filter("", in(httpLimit, `{"stat_prefix": "x", "local_cluster_rate_limit": {}}`)) + ","), nil, "http_filters[0] f.local_cluster_rate_limit: field is not supported"},
			{"a value that is wrong", resource.RouteType, hostJSON(in(httpLimit, `{"token_bucket": {"max_tokens": 0}}`)), nil, "typed_per_filter_config[f].token_bucket.max_tokens: must be 1 or more"},
			{"too much", resource.ListenerType, managerJSON(filter("", in(httpLimit, `{"stat_prefix": "`+strings.Repeat("x", maxTypedStruct)+`"}`)) + ","), nil, "http_filters[0] f: a TypedStruct of "},
			{"a network filter that does not fit", resource.ListenerType, listenerJSON("", filter("", in(networkLimit, `{"x": 1}`))+","+tcpJSON), nil, "listener l.filter_chains[0].filters[0] f.x: " + networkLimit + " has no such field"},
			{"a listener filter that does not fit", resource.ListenerType, listenerJSON(filter("", in("envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol", `{"x": 1}`)), tcpJSON), nil, "listener l.listener_filters[0] f.x: "},

			{"nobody knows it, and it is optional", resource.ListenerType, managerJSON(filter(`"is_optional": true, `, in(mystery, `{"a": 1}`)) + ","),
				func(s *State) bool {
					return slices.Equal(s.listeners["l"].Skipped, []Skipped{{"listener l.filter_chains[0].filters[0] http.http_filters[0] f", typePrefix + mystery}})
				}, ""},
			{"nobody knows it", resource.ListenerType, managerJSON(filter("", in(mystery, `{"a": 1}`)) + ","), nil, "http_filters[0] f: filter type.googleapis.com/mystery.Filter is not supported"},
			{"nobody knows it, of a route, and it is optional", resource.RouteType, hostJSON(filterConfigJSON(`"is_optional": true, `, in(mystery, `{}`))), func(*State) bool { return true }, ""},
			{"nobody knows it, of a route", resource.RouteType, hostJSON(in(mystery, `{}`)), nil, "typed_per_filter_config[f]: type.googleapis.com/mystery.Filter is not supported"},
			{"nobody knows it, of connections", resource.ListenerType, listenerJSON("", filter("", in(mystery, `{}`))+","+tcpJSON), nil, "filters[0] f: filter type.googleapis.com/mystery.Filter is not supported"},
			{"nobody knows it, of a listener", resource.ListenerType, listenerJSON(filter("", in(mystery, `{}`)), tcpJSON), nil, "listener_filters[0] f: listener filter type.googleapis.com/mystery.Filter is not supported"},
		} {
			s, _, err := newBuilder().Apply(jsonUpdate(t, c.url, c.text))
			switch {
			case c.refused != "" && (err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), "\u00a0", " "), c.refused)):
				t.Errorf("%s, %s: %v\nwant %s", pkg, c.what, err, c.refused)
			case c.refused == "" && err != nil:
				t.Errorf("%s, %s: %v", pkg, c.what, err)
			case c.refused == "" && !c.holds(s):
				t.Errorf("%s, %s: it does not do what it says", pkg, c.what)
			}
		}
	}
}
