package state

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/on_demand/v3"

	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/xds/resource"
)

// istioFilters are the filters that Istio's control plane and people write, as they do, with what becomes of them: the
// stages that a request passes more because of it, or "inert".
var istioFilters = []struct{ name, config, does string }{
	{"envoy.filters.http.router", "", "router"},
	{"istio.stats", `[type.googleapis.com/udpa.type.v1.TypedStruct] { type_url: "type.googleapis.com/stats.PluginConfig" value {} }`, "inert"},
	{"istio.metadata_exchange", `[type.googleapis.com/udpa.type.v1.TypedStruct] { type_url: "type.googleapis.com/io.istio.http.peer_metadata.Config" value {
		fields { key: "downstream_discovery" value { list_value { values { struct_value { fields { key: "istio_headers" value { struct_value {} } } } } } } } } }`, "peer metadata"},
	{"istio.alpn", `[type.googleapis.com/xds.type.v3.TypedStruct] { type_url: "type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig" value {} }`, "inert"},
	{"envoy.filters.http.grpc_stats", `[type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig] { emit_filter_state: true stats_for_all_methods { value: false } }`, "inert"},
	{"envoy.filters.http.grpc_web", `[type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb] {}`, "gRPC-Web"},
	{"envoy.filters.http.on_demand", `[type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.OnDemand] {}`, "inert"},
	{"envoy.filters.http.cors", `[type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors] {}`, "cors"},
	{"envoy.filters.http.fault", `[type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault] {}`, "fault delay"},
	{"envoy.filters.http.stateful_session", `[type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession] {}`, "session"},
	{"envoy.filters.http.jwt_authn", `[type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication] { bypass_cors_preflight: true
		providers { key: "origins-0" value { issuer: "https://a.example" audiences: "a" from_headers { name: "x-token" value_prefix: "JWT " } from_params: "t" from_cookies: "c" forward: true forward_payload_header: "x-payload"
			claim_to_headers { header_name: "x-user" claim_name: "sub" } payload_in_metadata: "payload" normalize_payload_in_metadata { space_delimited_claims: "scope" space_delimited_claims: "permission" } clear_route_cache: true
			local_jwks { inline_string: '{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}' } } }
		rules { match { prefix: "/" } requires { requires_any { requirements { provider_name: "origins-0" } requirements { allow_missing {} } } } } }`, "jwt_authn"},
	{"envoy.filters.http.rbac", `[type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC] { rules { action: DENY policies { key: "p" value { permissions { any: true } principals { not_id { filter_state {
		key: "io.istio.peer_principal" string_match { exact: "spiffe://a" } } } } } } } }`, "rbac"},
	{"envoy.filters.http.ext_authz", `[type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz] { transport_api_version: V3 status_on_error { code: Forbidden } with_request_body { max_request_bytes: 1024 }
		grpc_service { envoy_grpc { cluster_name: "outbound|9000||auth.default.svc.cluster.local" authority: "auth" } timeout { seconds: 600 } } }`, "ext_authz"},
	{"envoy.filters.http.local_ratelimit", `[type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit] { stat_prefix: "x" token_bucket { max_tokens: 10 tokens_per_fill { value: 10 } fill_interval { seconds: 60 } }
		filter_enabled { runtime_key: "a" default_value { numerator: 100 } } filter_enforced { default_value { numerator: 100 } } }`, "local rate limit"},
	{"envoy.filters.http.set_filter_state", `[type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config] { on_request_headers { object_key: "io.istio.peer_principal" factory_key: "envoy.string"
		format_string { text_format_source { inline_string: "%DOWNSTREAM_PEER_URI_SAN%" } } shared_with_upstream: ONCE } }`, ""},
	{"connect_authority", `[type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config] { on_request_headers { object_key: "envoy.filters.listener.original_dst.local_ip"
		format_string { text_format_source { inline_string: "%REQ(:AUTHORITY)%" } } shared_with_upstream: ONCE } }`, ""},
}

const inboundManager = `name: "l" traffic_direction: OUTBOUND address { socket_address { address: "0.0.0.0" port_value: 80 } } filter_chains { %s filters { name: "http" typed_config {
  [type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager] { stat_prefix: "l" rds { route_config_name: "80" config_source { ads {} } }
    %s http_filters { name: "router" typed_config { [type.googleapis.com/envoy.extensions.filters.http.router.v3.Router] {} } } } } } }`

func httpFilterText(name, config, more string) string {
	if config == "" {
		return ""
	}
	return fmt.Sprintf("http_filters { name: %q typed_config { %s } %s }", name, config, more)
}

// Every filter of the table is taken as Istio sends it, and does what is said or is left alone for a reason.
func TestFiltersOfIstio(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range istioFilters {
		u := update(t, resource.ListenerType, fmt.Sprintf(inboundManager, "", httpFilterText(f.name, f.config, "")))
		s, _ := apply(t, newBuilder(), u)
		m := s.listeners["l"].Config.Chains[0].Filters.(*http.Config)
		var stages []string
		for _, s := range m.Stages {
			stages = append(stages, s.Name)
		}
		if f.does != "" && f.does != "inert" && f.does != "peer metadata" && !slices.Contains(stages, f.does) {
			t.Errorf("%s: stages %v, want %s among them", f.name, stages, f.does)
		}
		seen[f.name] = true
	}
	for url, f := range httpFilters {
		if (f.make == nil) == (f.inert == "") {
			t.Errorf("%s is neither made nor inert for a reason, or both", url)
		}
		if !seen[f.name] {
			t.Errorf("%s (%s) is in no test", f.name, url)
		}
	}
}

// Every network filter of the table is taken, too.
func TestNetworkFilters(t *testing.T) {
	const tcp = `filters { name: "t" typed_config { [type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy] { stat_prefix: "x" cluster: "c" } } }`
	texts := map[string]string{
		tcpProxyURL:         "",
		hcmURL:              "manager",
		networkRBACURL:      `[type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC] { stat_prefix: "tcp." rules {} }`,
		networkExtAuthzURL:  `[type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz] { stat_prefix: "tcp." grpc_service { envoy_grpc { cluster_name: "c" } } }`,
		metadataExchangeURL: `[type.googleapis.com/udpa.type.v1.TypedStruct] { type_url: "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange" value { fields { key: "protocol" value { string_value: "istio-peer-exchange" } } } }`,
		connectionLimitURL:  `[type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit] { stat_prefix: "l" max_connections { value: 7 } }`,
		sniClusterURL:       `[type.googleapis.com/envoy.extensions.filters.network.sni_cluster.v3.SniCluster] {}`,
		networkRateLimitURL: `[type.googleapis.com/envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit] { stat_prefix: "l" token_bucket { max_tokens: 10 fill_interval { seconds: 1 } } }`,
		networkSetStateURL:  `[type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config] { on_new_connection { object_key: "io.istio.peer_principal" format_string { text_format_source { inline_string: "%DOWNSTREAM_PEER_URI_SAN%" } } } }`,
		statsURL:            `[type.googleapis.com/udpa.type.v1.TypedStruct] { type_url: "type.googleapis.com/stats.PluginConfig" value {} }`,
	}
	for url, name := range networkFilters {
		text, ok := texts[url]
		if !ok {
			t.Errorf("%s (%s) is in no test", name, url)
			continue
		}
		l := fmt.Sprintf(inboundManager, "", "")
		if text != "manager" {
			first := ""
			if text != "" {
				first = fmt.Sprintf("filters { name: %q typed_config { %s } }", name, text)
			}
			l = `name: "l" address { socket_address { address: "0.0.0.0" port_value: 80 } } filter_chains { ` + first + tcp + ` }`
		}
		if _, _, err := newBuilder().Apply(update(t, resource.ListenerType, l)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, url := range slices.Sorted(maps.Keys(texts)) {
		if networkFilters[url] == "" {
			t.Errorf("%s is not in the table", url)
		}
	}
}

// What nobody knows is left out and reported where that is allowed, and refused by its path where it is not. The same holds
// for what a filter is told that has no meaning here.
func TestUnknownFilters(t *testing.T) {
	const mystery = `[type.googleapis.com/xds.type.v3.TypedStruct] { type_url: "type.googleapis.com/mystery.Filter" value {} }`
	b := newBuilder()
	s, _ := apply(t, b, update(t, resource.ListenerType, fmt.Sprintf(inboundManager, "", httpFilterText("secret sauce", mystery, "is_optional: true"))))
	if got, want := s.Listener("l").Skipped, []Skipped{{"listener l.filter_chains[0].filters[0] http.http_filters[0] secret sauce", "type.googleapis.com/mystery.Filter"}}; !slices.Equal(got, want) {
		t.Errorf("skipped %v, want %v", got, want)
	}
	if s, _ = apply(t, b, update(t, resource.ListenerType, fmt.Sprintf(inboundManager, "", ""))); len(s.Listener("l").Skipped) > 0 {
		t.Errorf("what is not there is skipped: %v", s.Listener("l").Skipped)
	}
	for _, c := range []struct{ chain, filters, want string }{
		{"", httpFilterText("secret sauce", mystery, ""), "listener l.filter_chains[0].filters[0] http.http_filters[0] secret sauce: filter type.googleapis.com/mystery.Filter is not supported"},
		{`filters { name: "odd" typed_config { ` + mystery + ` } }`, "", "listener l.filter_chains[0].filters[0] odd: filter type.googleapis.com/mystery.Filter is not supported"},
		{"", httpFilterText("state", `[type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config] { on_request_headers { object_key: "envoy.network.upstream_server_name" } }`, ""),
			`on_request_headers[0].object_key: nothing here reads "envoy.network.upstream_server_name"`},
		{"", httpFilterText("state", `[type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config] { on_request_headers { object_key: "io.istio.peer_principal"
			format_string { text_format_source { inline_string: "%REQ(x-me)%" } } } }`, ""), `on_request_headers[0].format_string: io.istio.peer_principal is always %DOWNSTREAM_PEER_URI_SAN% here, not "%REQ(x-me)%"`},
	} {
		_, _, err := newBuilder().Apply(update(t, resource.ListenerType, fmt.Sprintf(inboundManager, c.chain, c.filters)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v\nwant %s", err, c.want)
		}
	}
}
