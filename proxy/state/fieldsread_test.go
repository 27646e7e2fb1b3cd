package state

import (
	"fmt"
	"strings"
	"testing"

	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/xds/resource"
)

// Routes: what foreign control planes say of hashing, hosts and headers, and Istio of hashing.
func TestRouteFields(t *testing.T) {
	b := newBuilder()
	s, _ := apply(t, b, update(t, resource.RouteType, `
name: "r" most_specific_header_mutations_wins: true max_direct_response_body_size_bytes { value: 5 }
request_headers_to_add { header { key: "x" value: "table" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
virtual_hosts { name: "v" domains: "*" include_attempt_count_in_response: true
  request_headers_to_add { header { key: "x" value: "host" } append_action: OVERWRITE_IF_EXISTS_OR_ADD keep_empty_value: true }
  routes { match { prefix: "/g" grpc {} } direct_response { status: 200 body { inline_string: "12345" } } }
  routes { match { prefix: "/" } route { cluster: "c" auto_host_rewrite { value: true } append_x_forwarded_host: true cluster_not_found_response_code: NOT_FOUND
    hash_policy { header { header_name: "User" } } hash_policy { connection_properties { source_ip: true } } }
    request_headers_to_add { header { key: "x" value: "route" } append_action: OVERWRITE_IF_EXISTS }
    typed_per_filter_config { key: "envoy.filters.http.fault" value { [type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault] { upstream_cluster: "d" } } } } }`))
	vh := s.Table("r").Host([]byte("a"))
	if !vh.AnswerAttempts || !vh.Entries[0].When.GRPC || vh.Entries[1].When.GRPC {
		t.Errorf("%+v", vh)
	}
	e := vh.Entries[1]
	if f := e.Forward; !f.HostOfEndpoint || !f.TellHost || f.NoCluster != 404 || len(f.Hash) != 2 || f.Hash[0].Header != "user" || !f.Hash[1].Source || e.Fault.Cluster != "d" {
		t.Errorf("%+v", f)
	}
	var order []string
	for _, h := range e.Headers {
		v, _ := h.RequestSet[0].Value.Literal()
		order = append(order, v)
	}
	if got := strings.Join(order, " "); got != "table host route" || !e.SpecificLast || !e.Headers[1].RequestSet[0].KeepEmpty || !e.Headers[2].RequestSet[0].IfPresent || e.Headers[1].RequestSet[0].IfPresent {
		t.Errorf("operations on headers in the order %s", got)
	}
}

// A host of Istio's gateways with httpsRedirect: what came over TLS, here or before, is served, everything else sent there.
func TestRequireTLS(t *testing.T) {
	s, _ := apply(t, newBuilder(), update(t, resource.RouteType, `name: "r"
		virtual_hosts { name: "v" domains: "a" domains: "a:80" require_tls: ALL routes { match { prefix: "/" } direct_response { status: 200 } } }
		virtual_hosts { name: "w" domains: "b" routes { match { prefix: "/" } direct_response { status: 200 } } }`))
	for _, c := range []struct{ authority, proto, location string }{
		{"a", "http", "https://a/x?y"}, {"a", "", "https://a/x?y"}, {"a:80", "http", "https://a/x?y"}, {"a", "https", ""}, {"b", "http", ""},
	} {
		r := &message.Request{}
		r.Reset()
		r.SetMethod([]byte("GET"))
		r.Scheme, r.Authority, r.Path = []byte("http"), []byte(c.authority), []byte("/x?y")
		if c.proto != "" {
			r.Headers.AddName([]byte("x-forwarded-proto"), []byte(c.proto))
		}
		_, e := s.Table("r").Match(r, 0)
		switch {
		case e == nil:
			t.Errorf("%+v: no route", c)
		case c.location == "" && e.Direct == nil:
			t.Errorf("%+v: not served: %+v", c, e)
		case c.location != "" && (e.Redirect == nil || e.Redirect.Status != 301 || string(e.AppendLocation(nil, r)) != c.location):
			t.Errorf("%+v: %+v", c, e)
		}
	}
}

// Templates of paths: what they match, and what is none.
func TestPathTemplates(t *testing.T) {
	for _, tc := range []struct{ template, expr string }{
		{"/", "/"}, {"/a/b.c", `/a/b\.c`}, {"/*/b", "/[^/]+/b"}, {"/a/**", "/a/.*"}, {"/{x}", "/([^/]+)"}, {"/a/{x=*}/b", "/a/([^/]+)/b"},
		{"/{x=a/*}/{y=**}", "/(a/[^/]+)/(.*)"}, {"/a/", "/a/"},
		{"a", ""}, {"", ""}, {"/a*", ""}, {"/**/a", ""}, {"/{x", ""}, {"/{x}y", ""}, {"/a{x}", ""}, {"/{x}/{x}", ""}, {"/{}", ""}, {"/{x=**}/a", ""}, {"/a}", ""},
	} {
		text := fmt.Sprintf(`name: "r" virtual_hosts { name: "v" domains: "*" routes { match { path_match_policy { name: "t" typed_config {
			[type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig] { path_template: %q } } } } route { cluster: "c" } } }`, tc.template)
		s, _, err := newBuilder().Apply(update(t, resource.RouteType, text))
		if tc.expr == "" {
			if err == nil || !strings.Contains(err.Error(), "virtual host v.routes[0].match.path_match_policy.path_template: ") {
				t.Errorf("%s: %v", tc.template, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.template, err)
		} else if got := s.Table("r").Host([]byte("a")).Entries[0].When.Regex.String(); got != "^(?:"+tc.expr+")$" {
			t.Errorf("%s: %s, want %s", tc.template, got, tc.expr)
		}
	}
}

// The older field for CORS, of hosts and routes, holds where the filter's own says nothing.
func TestOlderCORS(t *testing.T) {
	s, _ := apply(t, newBuilder(), update(t, resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" cors { allow_methods: "host" }
		routes { match { prefix: "/a" } route { cluster: "c" cors { allow_methods: "route" } } }
		routes { match { prefix: "/b" } route { cluster: "c" cors { allow_methods: "older" } }
		  typed_per_filter_config { key: "cors" value { [type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy] { allow_methods: "newer" } } } }
		routes { match { prefix: "/" } route { cluster: "c" } } }`))
	for i, want := range []string{"route", "newer", "host"} {
		if got := s.Table("r").Host([]byte("a")).Entries[i].CORS.Methods; got != want {
			t.Errorf("route %d: %s, want %s", i, got, want)
		}
	}
}

// Clusters and endpoints: where original destinations go, and where health is asked for.
func TestClusterFields(t *testing.T) {
	b := newBuilder()
	s, _ := apply(t, b, update(t, resource.ClusterType,
		`name: "o" type: ORIGINAL_DST lb_policy: CLUSTER_PROVIDED original_dst_lb_config { use_http_header: true upstream_port_override { value: 81 } }
		 filters { name: "istio.metadata_exchange" } circuit_breakers { thresholds { max_requests { value: 9 } } thresholds { priority: HIGH max_requests { value: 1 } } }`,
		`name: "h" type: ORIGINAL_DST lb_policy: CLUSTER_PROVIDED original_dst_lb_config { use_http_header: true http_header_name: "X-To" }`,
		`name: "e" type: STATIC health_checks { timeout { seconds: 1 } interval { seconds: 1 } tcp_health_check {} } load_assignment { cluster_name: "e" endpoints {
		  lb_endpoints { endpoint { hostname: "a.example" address { socket_address { address: "10.0.0.1" port_value: 80 } } health_check_config { port_value: 8080 hostname: "health" } } }
		  lb_endpoints { endpoint { address { socket_address { address: "10.0.0.2" port_value: 80 } } health_check_config { disable_active_health_check: true } } } } }`,
		`name: "l" type: STATIC load_assignment { cluster_name: "l" endpoints { lb_endpoints { endpoint { address { socket_address { address: "10.0.0.3" port_value: 80 } } }
		  metadata { filter_metadata { key: "weir" value { fields { key: "leaving" value { bool_value: true } } } } } } } }`))
	of := func(name string) *cluster.Cluster { return s.Cluster(b.clusterID(name)) }
	if c := of("o"); c.Port != 81 || c.DestinationHeader != "x-envoy-original-dst-host" {
		t.Errorf("%+v", c)
	}
	if c := of("h"); c.Port != 0 || c.DestinationHeader != "x-to" {
		t.Errorf("%+v", c)
	}
	if n := of("o").Limits.MaxRequests.Load(); n != 9 {
		t.Errorf("%d requests are let to a cluster, want what the thresholds of priority DEFAULT say", n)
	}
	if of("e").Leaving || !of("l").Leaving {
		t.Error("not the right cluster's endpoints are leaving")
	}
	eps := of("e").Endpoints
	if e := eps[0]; e.Host != "a.example" || e.Checked.Addr.String() != "10.0.0.1:8080" || e.Checked.Host != "health" || e.Checked.Never {
		t.Errorf("%+v", e.Checked)
	}
	if e := eps[1]; !e.Checked.Never {
		t.Errorf("%+v", e.Checked)
	}
}

// What load assignments say of all endpoints holds for EDS, static and DNS clusters: shares that are dropped add up, each of what is left.
func TestAssignmentPolicies(t *testing.T) {
	const policy = `policy { overprovisioning_factor { value: 100 } drop_overloads { category: "throttle" drop_percentage { numerator: 60 } } drop_overloads { category: "lb" drop_percentage { numerator: 5000 denominator: TEN_THOUSAND } } }`
	b := newBuilder()
	apply(t, b, update(t, resource.ClusterType, `name: "e" type: EDS eds_cluster_config { eds_config { ads {} } }`, `name: "s" type: STATIC load_assignment { cluster_name: "s" `+policy+` }`,
		`name: "d" type: STRICT_DNS load_assignment { cluster_name: "d" `+policy+` }`))
	s, _ := apply(t, b, update(t, resource.EndpointType, `cluster_name: "e" `+policy))
	for _, name := range []string{"e", "s", "d"} {
		if c := s.ClusterNamed(name); c.Drop != 800_000 || c.Overprovisioning != 100 {
			t.Errorf("%s: %d, %d", name, c.Drop, c.Overprovisioning)
		}
	}
	s, _ = apply(t, b, update(t, resource.EndpointType, `cluster_name: "e"`))
	if c := s.ClusterNamed("e"); c.Drop != 0 || c.Overprovisioning != 0 {
		t.Errorf("%d, %d", c.Drop, c.Overprovisioning)
	}
}

// What would change what happens to traffic, and is not done, is refused by its path.
func TestRefusedFields(t *testing.T) {
	manager := func(text string) string {
		return `name: "l" address { socket_address { address: "127.0.0.1" port_value: 80 } } filter_chains { filters { name: "h" typed_config {
		[type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager] { rds { route_config_name: "r" config_source { ads {} } } ` + text + ` } } } }`
	}
	tunnel := func(text string) string {
		return `name: "l" address { socket_address { address: "127.0.0.1" port_value: 80 } } filter_chains { filters { name: "t" typed_config {
		[type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy] { cluster: "a" tunneling_config { ` + text + ` } } } } }`
	}
	chain := func(text string) string {
		return `name: "l" address { socket_address { address: "127.0.0.1" port_value: 80 } } filter_chains { filter_chain_match { ` + text + ` } filters { name: "t" typed_config {
		[type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy] { cluster: "a" } } } }`
	}
	options := func(text string) string {
		return `name: "c" typed_extension_protocol_options { key: "envoy.extensions.upstreams.http.v3.HttpProtocolOptions" value {
		[type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions] { ` + text + ` } } }`
	}
	asks := func(service string) string {
		return manager(`http_filters { name: "ask" typed_config { [type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz] { grpc_service { ` + service + ` } } } }`)
	}
	inspects := func(text string) string {
		return `name: "l" address { socket_address { address: "127.0.0.1" port_value: 80 } } listener_filters { name: "i" typed_config {
		[type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector] { ` + text + ` } } } filter_chains { filters { name: "t" typed_config {
		[type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy] { cluster: "a" } } } }`
	}
	secrets := func(service string) string {
		return `name: "c" transport_socket { name: "tls" typed_config { [type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext] { common_tls_context {
		tls_certificate_sds_secret_configs { name: "s" sds_config { api_config_source { api_type: GRPC grpc_services { ` + service + ` } } } } } } } }`
	}
	for _, tc := range []struct{ url, text, want string }{
		{resource.ClusterType, options(`auto_config { http3_protocol_options {} }`), ".auto_config.http3_protocol_options: field is not supported"},
		{resource.ClusterType, options(`auto_config { alternate_protocols_cache_options { name: "a" } }`), ".auto_config.alternate_protocols_cache_options: field is not supported"},
		{resource.ClusterType, options(`use_downstream_protocol_config { http3_protocol_options {} }`), ".use_downstream_protocol_config.http3_protocol_options: field is not supported"},
		{resource.ClusterType, options(`explicit_http_config { http3_protocol_options {} }`), ".explicit_http_config.http3_protocol_options: field is not supported"},
		{resource.ListenerType, asks(`envoy_grpc { cluster_name: "a" skip_envoy_headers: true }`), "http_filters[0] ask.grpc_service.envoy_grpc.skip_envoy_headers: field is not supported"},
		{resource.ListenerType, asks(`google_grpc { target_uri: "unix:a" call_credentials { access_token: "t" } }`), "http_filters[0] ask.grpc_service.google_grpc.call_credentials: field is not supported"},
		{resource.ListenerType, inspects(`close_connection_on_client_hello_parsing_errors: true`), "listener_filters[0] i.close_connection_on_client_hello_parsing_errors: field is not supported"},
		{resource.ClusterType, secrets(`envoy_grpc { cluster_name: "a" } initial_metadata { key: "a" value: "b" }`), "grpc_services[0].initial_metadata: field is not supported"},
		{resource.ClusterType, secrets(`envoy_grpc { cluster_name: "a" authority: "b" }`), "grpc_services[0].envoy_grpc.authority: field is not supported"},
		{resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" typed_per_filter_config { key: "f" value { [type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault] {
		  abort { http_status: 500 percentage { numerator: 1 } response_body: "x" } } } } }`, "typed_per_filter_config[f].abort.response_body: field is not supported"},
		{resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/" } route { cluster: "c" priority: HIGH } } }`, "virtual host v.routes[0].route.priority: HIGH is not supported"},
		{resource.ClusterType, `name: "c" circuit_breakers { thresholds { priority: HIGH } thresholds { priority: 7 } }`, "cluster c.circuit_breakers.thresholds[1].priority: 7"},
		{resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" require_tls: EXTERNAL_ONLY }`, "virtual host v.require_tls: EXTERNAL_ONLY"},
		{resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/" } route { cluster: "c" rate_limits { actions { remote_address {} } hits_addend { number { value: 2 } } } } } }`, "route configuration r.virtual_hosts[0].routes[0].route.rate_limits[0].hits_addend: field is not supported: a request takes one token"},
		{resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/" filter_state { key: "k" string_match { exact: "x" } } } route { cluster: "c" } } }`, "virtual_hosts[0].routes[0].match.filter_state: field is not supported: no filter"},
		{resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/" } non_forwarding_action {} } }`, "virtual_hosts[0].routes[0].non_forwarding_action: field is not supported: it is for servers"},
		{resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/" tls_context { presented { value: true } validated {} } } route { cluster: "c" } } }`, "virtual host v.routes[0].match.tls_context: presented and validated are one"},
		{resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/" } route { cluster_header: "a b" } } }`, `virtual host v.routes[0].route.cluster_header: "a b" is not a header name`},
		{resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/" } route { cluster: "c" } request_headers_to_add { header { key: "x" value: "%NOBODY(KNOWS)%" } } } }`,
			"virtual host v.routes[0].request_headers_to_add[0].header.value: format \"%NOBODY(KNOWS)%\": there is no operator %NOBODY%"},
		{resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/" } route { cluster: "c" internal_redirect_policy { predicates { name: "x" } } } } }`,
			"virtual_hosts[0].routes[0].route.internal_redirect_policy.predicates: field is not supported: an extension"},
		{resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/" } route { cluster: "c" internal_redirect_policy { response_headers_to_copy: "a b" } } } }`,
			"virtual host v.routes[0].route.internal_redirect_policy.response_headers_to_copy[0]: \"a b\" is not a header name"},
		{resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" retry_policy { retry_on: "never" } }`, `virtual host v.retry_policy.retry_on: unknown condition "never"`},
		{resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" typed_per_filter_config { key: "envoy.filters.http.grpc_web" value { [type.googleapis.com/envoy.config.route.v3.FilterConfig] { disabled: true } } } }`,
			"typed_per_filter_config[envoy.filters.http.grpc_web].disabled: envoy.filters.http.grpc_web cannot be switched off: its work is done before the route is known"},
		{resource.ClusterType, `name: "c" type: EDS eds_cluster_config { eds_config { api_config_source { api_type: GRPC } } }`, "cluster c.eds_cluster_config.eds_config"},
		{resource.ListenerType, strings.Replace(manager(""), "config_source { ads {} }", `config_source { path: "x" }`, 1), "rds.config_source"},
		{resource.ClusterType, `name: "c" connection_pool_per_downstream_connection: true`, "cluster c.connection_pool_per_downstream_connection"},
		{resource.ClusterType, `name: "c" filters { name: "envoy.filters.network.tcp_proxy" }`, "cluster c.filters[0] envoy.filters.network.tcp_proxy"},
		{resource.ClusterType, `name: "c" typed_extension_protocol_options { key: "envoy.extensions.upstreams.http.v3.HttpProtocolOptions" value {
		  [type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions] { explicit_http_config { http_protocol_options {} } http_filters { name: "x" } } } }`, "http_filters[0] x"},
		{resource.ClusterType, `name: "o" type: ORIGINAL_DST lb_policy: CLUSTER_PROVIDED original_dst_lb_config { upstream_port_override { value: 70000 } }`, "upstream_port_override: 70000"},
		{resource.EndpointType, `cluster_name: "c" policy { overprovisioning_factor { value: 99 } }`, "load assignment c.policy.overprovisioning_factor: 99"},
		{resource.ClusterType, `name: "c" type: STRICT_DNS load_assignment { cluster_name: "c" policy { overprovisioning_factor { value: 1 } } }`, "cluster c.load_assignment.policy.overprovisioning_factor: 1"},
		{resource.RouteType, `name: "r" max_direct_response_body_size_bytes { value: 4 } virtual_hosts { name: "v" domains: "*" routes { match { prefix: "/" } direct_response { status: 200 body { inline_string: "12345" } } } }`,
			"direct_response.body: has 5 bytes"},
		{resource.ListenerType, manager(`http_filters { name: "s" typed_config { [type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession] { session_state { name: "x" typed_config {
		  [type.googleapis.com/google.protobuf.StringValue] {} } } } } }`), "http_filters[0] s.session_state: type.googleapis.com/google.protobuf.StringValue is not supported"},
		{resource.RouteType, `name: "r" virtual_hosts { name: "v" domains: "*" typed_per_filter_config { key: "s" value { [type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute] {
		  stateful_session { session_state { name: "x" typed_config { [type.googleapis.com/envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState] {} } } } } } } }`,
			"virtual host v.typed_per_filter_config[s].stateful_session.session_state.cookie.name: is empty"},
		{resource.ListenerType, tunnel(`hostname: "db"`), `t.tunneling_config.hostname: "db" is not host:port`},
		{resource.ListenerType, tunnel(`hostname: "%NOBODY%:1"`), `t.tunneling_config.hostname: format "%NOBODY%:1": there is no operator %NOBODY%`},
		{resource.ListenerType, tunnel(`hostname: "a:1" post_path: "/x"`), "t.tunneling_config.post_path: needs use_post"},
		{resource.ListenerType, tunnel(`hostname: "a:1" headers_to_add { header { key: "Host" value: "x" } }`), `t.tunneling_config.headers_to_add[0].header.key: "host" cannot be changed`},
		{resource.ListenerType, tunnel(`hostname: "a:1" propagate_response_headers: true`), "t.tunneling_config.propagate_response_headers: field is not supported: nothing here reads"},
		{resource.ListenerType, manager(`upgrade_configs { upgrade_type: "websocket" filters { name: "x" } }`), "upgrade_configs[0].filters"},
		{resource.ListenerType, manager(`http_filters { name: "c" disabled: true typed_config { [type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb] {} } }`), "http_filters[0] c.disabled: envoy.filters.http.grpc_web cannot be switched off"},
		{resource.ListenerType, chain(`address_suffix: "10.0.0.1"`), "filter_chain_match.address_suffix: field is not supported: nobody"},
		{resource.ListenerType, chain(`suffix_len { value: 8 }`), "filter_chain_match.suffix_len: field is not supported: nobody"},
		{resource.ListenerType, chain(`source_type: 7`), "filter_chain_match.source_type: 7"},
		{resource.ListenerType, chain(`direct_source_prefix_ranges { address_prefix: "10.0.0.0" prefix_len { value: 33 } }`), "filter_chain_match.direct_source_prefix_ranges[0]"},
		{resource.ListenerType, manager(`early_header_mutation_extensions { name: "x" }`), "early_header_mutation_extensions"},
		{resource.ListenerType, `name: "l" address { socket_address { address: "127.0.0.1" port_value: 80 } } listener_filters { name: "p" filter_disabled { any_match: true } typed_config {
		  [type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol] {} } } filter_chains { filters { name: "t" typed_config {
		  [type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy] { cluster: "a" } } } }`, "listener_filters[0] p.filter_disabled"},
	} {
		if _, _, err := newBuilder().Apply(update(t, tc.url, tc.text)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v; want it to name %s", tc.text, err, tc.want)
		}
	}
}
