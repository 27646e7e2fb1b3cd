package state

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// known says what the proxy does with the fields of one message.
type known struct {
	acts  []string          // honoured
	inert map[string]string // left alone, with the reason
	// refused are fields that are not supported, as all that are not named are, of which the reason is told.
	refused map[string]string
	// all means: every field is honoured (messages without choices of ours); data, that there is nothing to look for in one.
	all, data bool
}

func acts(fields string) known { return known{acts: strings.Fields(fields)} }

func (k known) but(field, reason string) known {
	k.inert = with(k.inert, field, reason)
	return k
}

// not says of fields why they are not supported.
func (k known) not(fields, reason string) known {
	for f := range strings.FieldsSeq(fields) {
		k.refused = with(k.refused, f, reason)
	}
	return k
}

func with(m map[string]string, field, reason string) map[string]string {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]string{}
	}
	m[field] = reason
	return m
}

var (
	everything = known{all: true}
	data       = known{all: true, data: true}
)

const (
	onlyEnvoy     = "names or tunes an Envoy part that does not exist here"
	statsNames    = "Envoy's own statistics; Istio's metrics do not depend on it"
	controlInfo   = "information for people and control planes"
	rates         = "endpoints are judged by consecutive errors"
	dnsRate       = "names are asked for every 10 s: resolvers do not tell how long an answer holds"
	byAddress     = "endpoints are hashed by address, so that all proxies agree"
	noBalance     = "a key keeps its endpoint while that is well, however busy it is"
	ofCluster     = "common_lb_config of the cluster says it"
	endOnly       = "a log line is written when what it is about has ended"
	buffered      = "what is kept of bodies, for further attempts and copies, has a limit of its own"
	spans         = "the proxy makes no spans; trace headers are passed on"
	notTwice      = "a connection that had been closed is replaced; nothing else is asked twice"
	literalValue  = "a value is literal, and so never turns out to be empty"
	noFingerprint = "nothing here asks for it: formats of logs that do are refused"
)

// Why fields are not supported.
const (
	notHere = "an extension of Envoy's that is not there here"
	hedging = "a request is at one endpoint at a time; use per_try_timeout in retry_policy"
)

// fields is the list of everything the proxy understands of xDS.
var fields = map[protoreflect.FullName]known{
	"envoy.config.core.v3.Address":       acts("socket_address pipe"),
	"envoy.config.core.v3.Pipe":          acts("path"),
	"envoy.config.core.v3.SocketAddress": acts("protocol address port_value ipv4_compat"),
	"envoy.config.core.v3.CidrRange":     everything,
	"xds.core.v3.CidrRange":              everything,
	"envoy.config.core.v3.Metadata":      acts("filter_metadata").but("typed_filter_metadata", controlInfo),
	"envoy.config.core.v3.ConfigSource": acts("ads self api_config_source initial_fetch_timeout").
		but("resource_api_version", "version 3 is the only one"),
	"envoy.config.core.v3.AggregatedConfigSource": everything,
	"envoy.config.core.v3.SelfConfigSource":       acts("").but("transport_api_version", "version 3 is the only one"),
	"envoy.config.core.v3.ApiConfigSource": acts("api_type grpc_services").but("transport_api_version", "version 3 is the only one").
		but("request_timeout", "subscriptions are streams, which nobody polls").but("refresh_delay", "subscriptions are streams, which nobody polls").
		but("rate_limit_settings", "a stream is opened again with a growing delay").but("set_node_on_first_message_only", "the node is told once a stream"),
	"envoy.config.core.v3.GrpcService":           acts("envoy_grpc google_grpc timeout initial_metadata").but("retry_policy", notTwice),
	"envoy.config.core.v3.GrpcService.EnvoyGrpc": acts("cluster_name authority").but("retry_policy", notTwice).but("max_receive_message_length", "messages have a limit of their own"),
	"envoy.config.core.v3.GrpcService.GoogleGrpc": acts("target_uri").but("stat_prefix", statsNames).but("channel_credentials", "a Unix socket of this machine, which is all that is supported, needs none").
		but("per_stream_buffer_limit_bytes", onlyEnvoy).but("channel_args", onlyEnvoy),
	"envoy.config.core.v3.TransportSocket":          acts("name typed_config"),
	"envoy.config.core.v3.TypedExtensionConfig":     acts("name typed_config"),
	"envoy.config.core.v3.Locality":                 everything,
	"envoy.config.core.v3.BindConfig":               acts("source_address extra_source_addresses"),
	"envoy.config.core.v3.ExtraSourceAddress":       acts("address"),
	"envoy.config.core.v3.DataSource":               acts("filename inline_bytes inline_string"),
	"envoy.config.core.v3.TcpKeepalive":             acts("keepalive_probes keepalive_time keepalive_interval"),
	"envoy.config.core.v3.HeaderValueOption":        acts("header append append_action keep_empty_value"),
	"envoy.config.core.v3.HeaderValue":              acts("key value"),
	"envoy.config.core.v3.RuntimeFractionalPercent": acts("default_value").but("runtime_key", "there is no runtime layer; the default value holds"),
	"envoy.config.core.v3.HttpProtocolOptions": acts("idle_timeout max_connection_duration max_connection_duration_jitter max_requests_per_connection" +
		" max_headers_count max_response_headers_kb max_stream_duration headers_with_underscores_action"),
	"envoy.config.core.v3.Http1ProtocolOptions": acts("accept_http_10 default_host_for_http_10 header_key_format").
		but("allow_absolute_url", "absolute-form is always taken").but("enable_trailers", "trailers are always passed on").
		but("allow_chunked_length", "a message with both lengths is always refused").but("use_balsa_parser", onlyEnvoy).
		but("allow_custom_methods", "every method is passed on").
		but("override_stream_error_on_invalid_http_message", "an HTTP/1.1 connection ends with its first invalid message").
		but("ignore_http_11_upgrade", "upgrades to TLS are always ignored, others are made or refused"),
	"envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat":                 acts("proper_case_words stateful_formatter"),
	"envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat.ProperCaseWords": everything,
	"envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig": acts("formatter_type_on_envoy_headers").
		but("forward_reason_phrase", "reason phrases are the standard's"),
	"envoy.config.core.v3.Http2ProtocolOptions": acts("hpack_table_size max_concurrent_streams initial_stream_window_size initial_connection_window_size connection_keepalive").
		but("allow_connect", "extended CONNECT is taken where upgrade_configs permit the protocol").but("allow_metadata", onlyEnvoy).
		but("max_outbound_frames", "output is bounded in bytes").but("max_outbound_control_frames", "output is bounded in bytes").
		but("max_consecutive_inbound_frames_with_empty_payload", "the codec has a budget of its own").
		but("max_inbound_priority_frames_per_stream", "the codec has a budget of its own").
		but("max_inbound_window_update_frames_per_data_frame_sent", "the codec has a budget of its own").
		but("stream_error_on_invalid_http_messaging", "malformed messages end their stream, as RFC 9113 asks").
		but("override_stream_error_on_invalid_http_message", "malformed messages end their stream, as RFC 9113 asks").
		but("use_oghttp2_codec", onlyEnvoy).but("max_metadata_size", onlyEnvoy).but("enable_huffman_encoding", "the codec's choice").
		but("custom_settings_parameters", "no other settings are known").but("max_header_field_size_kb", "the limit of all headers together holds").
		but("disallow_obs_text", "obs-text is passed on").but("stream_reset_burst", "the codec has a budget of its own").
		but("stream_reset_rate", "the codec has a budget of its own"),
	"envoy.config.core.v3.KeepaliveSettings": acts("interval timeout").but("interval_jitter", "intervals begin when connections do").
		but("connection_idle_interval", "a dead connection is replaced once"),
	"envoy.config.core.v3.UpstreamHttpProtocolOptions": acts("auto_sni auto_san_validation"),
	"envoy.type.v3.FractionalPercent":                  everything,
	"envoy.type.v3.Int64Range":                         everything,
	"envoy.type.v3.Percent":                            everything,
	"envoy.type.matcher.v3.StringMatcher":              acts("exact prefix suffix contains safe_regex ignore_case"),
	"envoy.type.matcher.v3.RegexMatcher":               acts("regex").but("google_re2", "RE2 is the only engine"),
	"envoy.type.matcher.v3.RegexMatchAndSubstitute":    everything,
	"google.protobuf.Duration":                         data,
	"google.protobuf.Struct":                           data,
	"google.protobuf.UInt32Value":                      data,
	"google.protobuf.UInt64Value":                      data,
	"google.protobuf.BoolValue":                        data,
	"google.protobuf.StringValue":                      data,
	"google.protobuf.DoubleValue":                      data,
	"google.protobuf.Any":                              data,

	// Clusters and endpoints.
	"envoy.config.cluster.v3.Cluster": acts("name type cluster_type eds_cluster_config connect_timeout lb_policy load_assignment circuit_breakers"+
		" typed_extension_protocol_options common_http_protocol_options http2_protocol_options http_protocol_options protocol_selection"+
		" transport_socket transport_socket_matches metadata upstream_bind_config upstream_connection_options max_requests_per_connection"+
		" dns_lookup_family original_dst_lb_config outlier_detection common_lb_config least_request_lb_config round_robin_lb_config"+
		" ring_hash_lb_config maglev_lb_config load_balancing_policy health_checks filters").
		but("alt_stat_name", statsNames).but("dns_refresh_rate", dnsRate).but("respect_dns_ttl", dnsRate).but("dns_jitter", dnsRate).but("dns_failure_refresh_rate", dnsRate).
		but("per_connection_buffer_limit_bytes", "buffers have their own watermarks").
		but("cleanup_interval", "an original-destination endpoint goes with its last connection").
		but("track_cluster_stats", statsNames).
		but("wait_for_warm_on_init", onlyEnvoy).but("ignore_health_on_host_removal", "removed endpoints leave at once").
		but("close_connections_on_host_health_failure", "what is under way with an endpoint that fails its checks may end; nothing new goes there").
		but("preconnect_policy", "connections are made when something is to be sent, and kept"),
	"envoy.config.core.v3.HealthCheck": acts("timeout interval interval_jitter interval_jitter_percent unhealthy_threshold healthy_threshold"+
		" http_health_check tcp_health_check grpc_health_check").
		but("initial_jitter", "first checks are spread over a second").but("reuse_connection", "connections are kept for the next check").
		but("no_traffic_interval", "checks have one interval").but("no_traffic_healthy_interval", "checks have one interval").
		but("unhealthy_interval", "checks have one interval").but("unhealthy_edge_interval", "checks have one interval").but("healthy_edge_interval", "checks have one interval").
		but("event_log_path", statsNames).but("event_logger", statsNames).but("event_service", statsNames).
		but("always_log_health_check_failures", statsNames).but("always_log_health_check_success", statsNames),
	"envoy.config.core.v3.HealthCheck.HttpHealthCheck": acts("host path method expected_statuses retriable_statuses request_headers_to_add").
		but("codec_client_type", "checks speak what requests to the cluster do"),
	"envoy.config.core.v3.HealthCheck.TcpHealthCheck":   acts("send receive"),
	"envoy.config.core.v3.HealthCheck.GrpcHealthCheck":  acts("service_name authority"),
	"envoy.config.cluster.v3.Cluster.CustomClusterType": acts("name typed_config"),
	"envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig": acts("dns_cache_config").but("allow_insecure_cluster_options", "the transport socket says whose certificates are good").
		but("allow_coalesced_connections", "connections of one address are shared"),
	"envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheConfig": acts("dns_lookup_family").but("name", "there is one cache").but("dns_refresh_rate", dnsRate).but("dns_min_refresh_rate", dnsRate).
		but("host_ttl", dnsRate).but("max_hosts", "at most 1024 names are known").but("disable_dns_refresh_on_failure", dnsRate).but("dns_failure_refresh_rate", dnsRate).
		but("dns_query_timeout", "a question has 4 s"),
	"envoy.config.cluster.v3.Cluster.EdsClusterConfig":   acts("eds_config service_name"),
	"envoy.config.cluster.v3.LoadBalancingPolicy":        acts("policies"),
	"envoy.config.cluster.v3.LoadBalancingPolicy.Policy": acts("typed_extension_config"),
	"envoy.config.cluster.v3.Cluster.RingHashLbConfig": acts("minimum_ring_size").but("hash_function", "hashes are the proxy's own").
		but("maximum_ring_size", "rings have a limit of their own"),
	"envoy.config.cluster.v3.Cluster.MaglevLbConfig":                                               acts("table_size"),
	"envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided":                 everything,
	"envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin":                           acts("slow_start_config locality_lb_config"),
	"envoy.extensions.load_balancing_policies.random.v3.Random":                                    acts("locality_lb_config"),
	"envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest":                       acts("slow_start_config locality_lb_config").but("choice_count", "two choices, as the default").but("active_request_bias", onlyEnvoy),
	"envoy.extensions.load_balancing_policies.common.v3.SlowStartConfig":                           acts("slow_start_window aggression min_weight_percent"),
	"envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig":                          acts("locality_weighted_lb_config").but("zone_aware_lb_config", "zones are followed where priorities or weights say so"),
	"envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig.LocalityWeightedLbConfig": everything,
	"envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash": acts("minimum_ring_size consistent_hashing_lb_config").but("hash_function", "hashes are the proxy's own").
		but("maximum_ring_size", "rings have a limit of their own").but("use_hostname_for_hashing", byAddress).but("hash_balance_factor", noBalance).but("locality_weighted_lb_config", ofCluster),
	"envoy.extensions.load_balancing_policies.maglev.v3.Maglev":                    acts("table_size consistent_hashing_lb_config").but("locality_weighted_lb_config", ofCluster),
	"envoy.extensions.load_balancing_policies.common.v3.ConsistentHashingLbConfig": acts("hash_policy").but("use_hostname_for_hashing", byAddress).but("hash_balance_factor", noBalance),
	"envoy.config.route.v3.RouteAction.HashPolicy":                                 acts("header cookie connection_properties query_parameter terminal"),
	"envoy.config.route.v3.RouteAction.HashPolicy.Header":                          acts("header_name"),
	"envoy.config.route.v3.RouteAction.HashPolicy.Cookie":                          acts("name ttl path attributes"),
	"envoy.config.route.v3.RouteAction.HashPolicy.CookieAttribute":                 everything,
	"envoy.config.route.v3.RouteAction.HashPolicy.ConnectionProperties":            acts("source_ip"),
	"envoy.config.route.v3.RouteAction.HashPolicy.QueryParameter":                  acts("name"),
	"envoy.config.cluster.v3.OutlierDetection": acts("consecutive_5xx enforcing_consecutive_5xx consecutive_gateway_failure enforcing_consecutive_gateway_failure"+
		" split_external_local_origin_errors consecutive_local_origin_failure enforcing_consecutive_local_origin_failure interval base_ejection_time"+
		" max_ejection_time max_ejection_percent always_eject_one_host").
		but("enforcing_success_rate", rates).but("success_rate_minimum_hosts", rates).but("success_rate_request_volume", rates).
		but("success_rate_stdev_factor", rates).but("enforcing_local_origin_success_rate", rates).but("failure_percentage_threshold", rates).
		but("enforcing_failure_percentage", rates).but("enforcing_failure_percentage_local_origin", rates).but("failure_percentage_minimum_hosts", rates).
		but("failure_percentage_request_volume", rates).but("max_ejection_time_jitter", "endpoints return when a sweep finds their time over").
		but("successful_active_health_check_uneject_host", "who is ejected stays so for its time").but("monitors", onlyEnvoy).
		but("detect_degraded_hosts", onlyEnvoy),
	"envoy.config.cluster.v3.Cluster.CommonLbConfig": acts("healthy_panic_threshold locality_weighted_lb_config override_host_status").
		but("zone_aware_lb_config", "zones are followed where priorities or weights say so").but("update_merge_window", "changes hold at once").
		but("ignore_new_hosts_until_first_hc", "new endpoints never count before their first check, and are used where there is no other").but("close_connections_on_host_set_change", "new state never closes a connection that it need not").
		but("consistent_hashing_lb_config", "endpoints are placed by address, and none is taken for busy"),
	"envoy.config.core.v3.HealthStatusSet":                                    everything,
	"envoy.config.cluster.v3.Cluster.CommonLbConfig.LocalityWeightedLbConfig": everything,
	"envoy.config.cluster.v3.Cluster.LeastRequestLbConfig":                    acts("slow_start_config").but("choice_count", "two choices, as the default").but("active_request_bias", onlyEnvoy),
	"envoy.config.cluster.v3.Cluster.RoundRobinLbConfig":                      acts("slow_start_config"),
	"envoy.config.cluster.v3.Cluster.SlowStartConfig":                         acts("slow_start_window aggression min_weight_percent"),
	"envoy.config.core.v3.RuntimeDouble":                                      acts("default_value").but("runtime_key", "there is no runtime layer; the default value holds"),
	"envoy.config.cluster.v3.Cluster.TransportSocketMatch":                    acts("name match transport_socket"),
	"envoy.config.cluster.v3.Cluster.OriginalDstLbConfig":                     acts("upstream_port_override use_http_header http_header_name"),
	"envoy.config.cluster.v3.UpstreamConnectionOptions":                       acts("tcp_keepalive").but("set_local_interface_name_on_upstream_connections", onlyEnvoy),
	"envoy.config.cluster.v3.CircuitBreakers":                                 acts("thresholds").but("per_host_thresholds", "limits are those of the cluster, exact over all workers"),
	"envoy.config.cluster.v3.CircuitBreakers.Thresholds": acts("priority max_connections max_pending_requests max_requests max_retries retry_budget").
		but("track_remaining", statsNames).but("max_connection_pools", onlyEnvoy),
	"envoy.config.cluster.v3.CircuitBreakers.Thresholds.RetryBudget": acts("budget_percent budget_interval min_retry_concurrency"),
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": acts("common_http_protocol_options explicit_http_config use_downstream_protocol_config auto_config"+
		" upstream_http_protocol_options http_filters outlier_detection").
		but("header_validation_config", onlyEnvoy),
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.OutlierDetection":        everything,
	"envoy.config.common.matcher.v3.MatchPredicate":                                  acts("or_match and_match not_match any_match http_response_headers_match"),
	"envoy.config.common.matcher.v3.MatchPredicate.MatchSet":                         everything,
	"envoy.config.common.matcher.v3.HttpHeadersMatch":                                everything,
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig":      acts("http_protocol_options http2_protocol_options"),
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig": acts("http_protocol_options http2_protocol_options"),
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.AutoHttpConfig":          acts("http_protocol_options http2_protocol_options"),
	"envoy.config.endpoint.v3.ClusterLoadAssignment":                                 acts("cluster_name endpoints policy").but("named_endpoints", onlyEnvoy),
	"envoy.config.endpoint.v3.ClusterLoadAssignment.Policy": acts("drop_overloads overprovisioning_factor").
		but("endpoint_stale_after", "endpoints stay until others come: a control plane that is away takes nobody's destinations").but("weighted_priority_health", "endpoints are counted, whatever their weight"),
	"envoy.config.endpoint.v3.ClusterLoadAssignment.Policy.DropOverload": acts("drop_percentage").but("category", controlInfo),
	"envoy.config.endpoint.v3.Endpoint.HealthCheckConfig":                acts("port_value hostname address disable_active_health_check"),
	"envoy.config.endpoint.v3.LocalityLbEndpoints": acts("lb_endpoints locality load_balancing_weight priority").
		but("proximity", "Envoy does not act on it either; priority and weight do").but("metadata", controlInfo),
	"envoy.config.endpoint.v3.LbEndpoint":                 acts("endpoint health_status metadata load_balancing_weight"),
	"envoy.config.endpoint.v3.Endpoint":                   acts("address additional_addresses hostname health_check_config"),
	"envoy.config.endpoint.v3.Endpoint.AdditionalAddress": acts("address"),

	// TLS.
	"envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext": acts("common_tls_context sni max_session_keys").
		but("allow_renegotiation", "renegotiation is always refused"),
	"envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext": acts("common_tls_context require_client_certificate require_sni session_ticket_keys"+
		" disable_stateless_session_resumption session_timeout").
		but("disable_stateful_session_resumption", "sessions are resumed by tickets only").
		but("full_scan_certs_on_sni_mismatch", "all certificates are always looked at").
		but("prefer_client_ciphers", "the fastest suite that both sides have is taken"),
	"envoy.extensions.transport_sockets.tls.v3.TlsSessionTicketKeys": acts("keys"),
	"envoy.extensions.transport_sockets.tls.v3.CommonTlsContext": acts("tls_params tls_certificates tls_certificate_sds_secret_configs validation_context"+
		" validation_context_sds_secret_config combined_validation_context alpn_protocols").but("key_log", "keys are never logged"),
	"envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext": acts("default_validation_context validation_context_sds_secret_config"),
	"envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig":                                       acts("name sds_config"),
	"envoy.extensions.transport_sockets.tls.v3.TlsParameters": acts("tls_minimum_protocol_version tls_maximum_protocol_version cipher_suites" +
		" ecdh_curves"),
	"envoy.extensions.transport_sockets.tls.v3.TlsCertificate": acts("certificate_chain private_key"),
	"envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext": acts("trusted_ca system_root_certs custom_validator_config match_typed_subject_alt_names match_subject_alt_names" +
		" verify_certificate_hash verify_certificate_spki crl only_verify_leaf_cert_crl trust_chain_verification"),
	"envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext.SystemRootCerts": everything,
	"envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig":                    acts("trust_domains"),
	"envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig.TrustDomain":        acts("name trust_bundle"),
	"envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher":                        acts("san_type matcher"),
	"envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer":                             everything,
	"envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport": acts("config transport_socket").
		but("allow_unspecified_address", "a client without an address is written as UNKNOWN or LOCAL").but("tlv_as_pool_key", onlyEnvoy),
	"envoy.config.core.v3.ProxyProtocolConfig":         acts("version").but("pass_through_tlvs", "type-length-values are read over"),
	"envoy.extensions.transport_sockets.tls.v3.Secret": acts("name tls_certificate validation_context"),

	// Routes.
	"envoy.config.route.v3.Vhds": everything,
	"envoy.config.route.v3.RouteConfiguration": acts("name virtual_hosts vhds ignore_port_in_host_matching request_headers_to_add request_headers_to_remove"+
		" response_headers_to_add response_headers_to_remove max_direct_response_body_size_bytes most_specific_header_mutations_wins"+
		" request_mirror_policies typed_per_filter_config").
		but("validate_clusters", "a missing cluster answers 503 with its cause").but("metadata", controlInfo).
		not("internal_only_headers", "nothing says here which clients are internal; remove them by request_headers_to_remove").
		not("cluster_specifier_plugins", notHere).not("vhost_header", "virtual hosts are found by the authority alone").
		not("ignore_path_parameters_in_path_matching", "policies and routes must see one path; match by safe_regex").not("route_specifiers", notHere),
	"envoy.config.route.v3.VirtualHost": acts("name domains routes require_tls include_request_attempt_count include_attempt_count_in_response request_headers_to_add request_headers_to_remove"+
		" response_headers_to_add response_headers_to_remove typed_per_filter_config cors retry_policy request_mirror_policies include_is_timeout_retry_header rate_limits").
		but("metadata", controlInfo).but("virtual_clusters", statsNames).but("per_request_buffer_limit_bytes", buffered).but("request_body_buffer_limit", buffered).
		not("matcher", "routes are a list; say routes").not("hedge_policy", hedging).not("retry_policy_typed_config", "use retry_policy").not("route_specifiers", notHere),
	"envoy.config.route.v3.Route": acts("name match route redirect direct_response metadata typed_per_filter_config request_headers_to_add"+
		" request_headers_to_remove response_headers_to_add response_headers_to_remove stat_prefix").
		but("decorator", spans).but("tracing", spans).but("per_request_buffer_limit_bytes", buffered).but("request_body_buffer_limit", buffered).
		not("non_forwarding_action", "it is for servers that are no proxies (gRPC)").not("filter_action", notHere).not("route_specifiers", notHere),
	"envoy.config.route.v3.RouteMatch": acts("connect_matcher prefix path safe_regex path_separated_prefix case_sensitive runtime_fraction headers query_parameters dynamic_metadata grpc"+
		" path_match_policy cookies tls_context").
		not("filter_state", "no filter here leaves objects that routes could ask for; match headers, or claims of tokens by dynamic_metadata"),
	"envoy.config.route.v3.RateLimit": acts("stage actions").but("disable_key", "there is no runtime layer").
		not("limit", "it is for a rate limit service, which no filter here asks; give the descriptor a token_bucket").
		not("hits_addend", "a request takes one token").not("apply_on_stream_done", "tokens are taken when requests come").
		not("x_ratelimit_option", "use enable_x_ratelimit_headers of the filter"),
	"envoy.config.route.v3.RateLimit.Action": acts("source_cluster destination_cluster request_headers query_parameters remote_address generic_key header_value_match dynamic_metadata metadata"+
		" masked_remote_address query_parameter_value_match remote_address_match").not("extension", notHere),
	"envoy.config.route.v3.RateLimit.Action.SourceCluster":                   everything,
	"envoy.config.route.v3.RateLimit.Action.DestinationCluster":              everything,
	"envoy.config.route.v3.RateLimit.Action.RequestHeaders":                  everything,
	"envoy.config.route.v3.RateLimit.Action.QueryParameters":                 everything,
	"envoy.config.route.v3.RateLimit.Action.RemoteAddress":                   everything,
	"envoy.config.route.v3.RateLimit.Action.GenericKey":                      acts("descriptor_value descriptor_key").but("default_value", literalValue),
	"envoy.config.route.v3.RateLimit.Action.HeaderValueMatch":                acts("descriptor_value descriptor_key expect_match headers").but("default_value", literalValue),
	"envoy.config.route.v3.RateLimit.Action.QueryParameterValueMatch":        acts("descriptor_value descriptor_key expect_match query_parameters").but("default_value", literalValue),
	"envoy.config.route.v3.RateLimit.Action.RemoteAddressMatch":              acts("descriptor_value descriptor_key address_matcher").but("default_value", literalValue),
	"envoy.config.route.v3.RateLimit.Action.MaskedRemoteAddress":             everything,
	"envoy.config.route.v3.RateLimit.Action.MetaData":                        everything,
	"envoy.config.route.v3.RateLimit.Action.DynamicMetaData":                 everything,
	"envoy.type.matcher.v3.AddressMatcher":                                   everything,
	"envoy.type.metadata.v3.MetadataKey":                                     everything,
	"envoy.type.metadata.v3.MetadataKey.PathSegment":                         acts("key").not("index", "what it would point into are lists, of which claims are not taken one by one"),
	"envoy.config.route.v3.RouteMatch.TlsContextMatchOptions":                acts("presented validated"),
	"envoy.config.route.v3.CookieMatcher":                                    acts("name string_match invert_match"),
	"envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig":     everything,
	"envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig": everything,
	"envoy.config.route.v3.FilterConfig":                                     acts("config is_optional disabled"),
	"envoy.config.route.v3.CorsPolicy": acts("allow_origin_string_match allow_methods allow_headers expose_headers max_age allow_credentials filter_enabled"+
		" forward_not_matching_preflights").but("shadow_enabled", onlyEnvoy).but("allow_private_network_access", onlyEnvoy),
	"envoy.config.route.v3.HeaderMatcher": acts("name exact_match safe_regex_match range_match present_match prefix_match suffix_match contains_match" +
		" string_match invert_match treat_missing_header_as_empty"),
	"envoy.config.route.v3.QueryParameterMatcher": acts("name string_match present_match"),
	"envoy.config.route.v3.RouteAction": acts("cluster upgrade_configs weighted_clusters prefix_rewrite regex_rewrite host_rewrite_literal timeout idle_timeout retry_policy"+
		" cluster_not_found_response_code max_grpc_timeout grpc_timeout_offset max_stream_duration request_mirror_policies hash_policy auto_host_rewrite append_x_forwarded_host"+
		" cluster_header host_rewrite_header host_rewrite_path_regex path_rewrite_policy cors internal_redirect_policy priority rate_limits include_vh_rate_limits").
		but("metadata_match", "it chooses among subsets of endpoints, and clusters with lb_subset_config are refused").
		but("flush_timeout", "what is left to send has the idle timeout of its stream").but("early_data_policy", "nothing is sent as early data").
		not("hedge_policy", hedging).not("retry_policy_typed_config", "use retry_policy").
		not("cluster_specifier_plugin inline_cluster_specifier_plugin", notHere).
		not("path_rewrite host_rewrite", "texts with variables are supported in headers only; use regex_rewrite, path_rewrite_policy, host_rewrite_header or host_rewrite_path_regex").
		not("internal_redirect_action max_internal_redirects", "use internal_redirect_policy"),
	"envoy.config.route.v3.InternalRedirectPolicy": acts("max_internal_redirects redirect_response_codes allow_cross_scheme_redirect response_headers_to_copy").
		not("predicates", "an extension of Envoy's that is not there here; redirects are followed to whatever has a route"),
	"envoy.config.route.v3.RouteAction.RequestMirrorPolicy": acts("cluster cluster_header runtime_fraction disable_shadow_host_suffix_append host_rewrite_literal").
		but("trace_sampled", spans).not("request_headers_mutations", "copies have the headers of their original"),
	"envoy.config.route.v3.RouteAction.MaxStreamDuration":    everything,
	"envoy.config.route.v3.RouteMatch.ConnectMatcher":        everything,
	"envoy.config.route.v3.RouteMatch.GrpcRouteMatchOptions": everything,
	"envoy.config.route.v3.RouteAction.UpgradeConfig":        acts("upgrade_type enabled connect_config"),
	"envoy.config.route.v3.RouteAction.UpgradeConfig.ConnectConfig": acts("").
		not("proxy_protocol_config", "say it of the cluster, by the transport socket envoy.transport_sockets.upstream_proxy_protocol").
		not("allow_post", "only CONNECT asks for a tunnel"),
	"envoy.config.route.v3.WeightedCluster": acts("clusters").but("total_weight", "it is the sum of the weights").but("runtime_key_prefix", "there is no runtime layer").
		not("header_name use_hash_policy", "clusters are chosen at random, by their weights"),
	"envoy.config.route.v3.WeightedCluster.ClusterWeight": acts("name cluster_header weight request_headers_to_add request_headers_to_remove response_headers_to_add response_headers_to_remove host_rewrite_literal").
		but("metadata_match", "it chooses among subsets of endpoints, and clusters with lb_subset_config are refused").
		not("typed_per_filter_config", "filters go by the route, not by the cluster chosen; use routes of their own"),
	"envoy.config.route.v3.RetryPolicy": acts("retry_on num_retries per_try_timeout per_try_idle_timeout retry_host_predicate host_selection_retry_max_attempts"+
		" retriable_status_codes retry_back_off retry_priority retriable_headers retriable_request_headers").
		not("retry_options_predicates", notHere).not("rate_limited_retry_back_off", "an upstream that says when to come back says it to the client").
		not("refresh_cluster_on_retry", "further attempts go to the cluster of the first"),
	"envoy.config.route.v3.RetryPolicy.RetryPriority":                                 acts("name typed_config"),
	"envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig": acts("update_frequency"),
	"envoy.config.route.v3.RetryPolicy.RetryBackOff":                                  everything,
	"envoy.config.route.v3.RetryPolicy.RetryHostPredicate":                            acts("name typed_config"),
	"envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate":            everything,
	"envoy.config.route.v3.RedirectAction": acts("https_redirect scheme_redirect host_redirect port_redirect path_redirect prefix_rewrite regex_rewrite response_code strip_query").
		not("path_rewrite", "texts with variables are supported in headers only; use regex_rewrite"),
	"envoy.config.route.v3.DirectResponseAction": acts("status body").not("body_format", "texts with variables are supported in headers only; use body"),
	"envoy.extensions.filters.http.fault.v3.HTTPFault": acts("delay abort upstream_cluster").but("max_active_faults", "percentages alone say how many requests are hit").
		but("delay_percent_runtime", onlyEnvoy).but("abort_percent_runtime", onlyEnvoy),
	"envoy.extensions.filters.http.cors.v3.Cors": everything,
	"envoy.extensions.filters.http.cors.v3.CorsPolicy": acts("allow_origin_string_match allow_methods allow_headers expose_headers max_age allow_credentials filter_enabled"+
		" forward_not_matching_preflights").but("shadow_enabled", onlyEnvoy).but("allow_private_network_access", onlyEnvoy),
	"envoy.extensions.filters.http.grpc_web.v3.GrpcWeb":               everything,
	"envoy.extensions.filters.common.fault.v3.FaultDelay":             everything,
	"envoy.extensions.filters.http.fault.v3.FaultAbort":               acts("http_status grpc_status header_abort percentage"),
	"envoy.extensions.filters.common.fault.v3.FaultDelay.HeaderDelay": everything,
	"envoy.extensions.filters.http.fault.v3.FaultAbort.HeaderAbort":   everything,

	// Authorization.
	"envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication": acts("providers rules bypass_cors_preflight requirement_map").but("stat_prefix", statsNames),
	"envoy.extensions.filters.http.jwt_authn.v3.JwtProvider": acts("issuer audiences local_jwks remote_jwks forward from_headers from_params from_cookies forward_payload_header"+
		" pad_forward_payload_header payload_in_metadata normalize_payload_in_metadata clock_skew_seconds claim_to_headers clear_route_cache").
		but("jwt_cache_config", "verified tokens are always kept, within a limit"),
	"envoy.extensions.filters.http.jwt_authn.v3.RemoteJwks": acts("http_uri cache_duration async_fetch retry_policy"),
	"envoy.extensions.filters.http.jwt_authn.v3.JwksAsyncFetch": acts("failed_refetch_duration").
		but("fast_listener", "listeners serve at once; requests with tokens wait for the first keys"),
	"envoy.config.core.v3.RetryPolicy":                                        acts("retry_back_off num_retries").but("retry_on", "whatever is no set of keys is asked for again"),
	"envoy.config.core.v3.BackoffStrategy":                                    everything,
	"envoy.extensions.filters.http.jwt_authn.v3.JwtProvider.NormalizePayload": everything,
	"envoy.extensions.filters.http.jwt_authn.v3.JwtHeader":                    everything,
	"envoy.extensions.filters.http.jwt_authn.v3.JwtClaimToHeader":             acts("header_name claim_name claim_path"),
	"envoy.extensions.filters.http.jwt_authn.v3.JwtClaimToHeader.PathSegment": everything,
	"envoy.extensions.filters.http.jwt_authn.v3.RequirementRule":              acts("match requires requirement_name"),
	"envoy.extensions.filters.http.jwt_authn.v3.JwtRequirement":               acts("provider_name provider_and_audiences requires_any requires_all allow_missing_or_failed allow_missing"),
	"envoy.extensions.filters.http.jwt_authn.v3.JwtRequirementOrList":         everything,
	"envoy.extensions.filters.http.jwt_authn.v3.JwtRequirementAndList":        everything,
	"envoy.extensions.filters.http.jwt_authn.v3.ProviderWithAudiences":        everything,
	"google.protobuf.Empty":                      data,
	"envoy.extensions.filters.http.rbac.v3.RBAC": acts("rules shadow_rules rules_stat_prefix shadow_rules_stat_prefix").but("track_per_rule_stats", statsNames),
	"envoy.extensions.filters.network.rbac.v3.RBAC": acts("rules shadow_rules stat_prefix shadow_rules_stat_prefix").
		but("enforcement_type", "a connection is judged once, before its first byte is passed on").but("delay_deny", "a connection that is denied is reset at once"),
	"envoy.config.rbac.v3.RBAC":                         acts("action policies").but("audit_logging_options", "the access log names the policy that denied"),
	"envoy.config.rbac.v3.Policy":                       acts("permissions principals"),
	"envoy.config.rbac.v3.Permission":                   acts("and_rules or_rules any header url_path destination_ip destination_port destination_port_range metadata not_rule requested_server_name uri_template"),
	"envoy.config.rbac.v3.Permission.Set":               acts("rules"),
	"envoy.config.rbac.v3.Principal":                    acts("and_ids or_ids any authenticated source_ip direct_remote_ip remote_ip header url_path metadata filter_state not_id"),
	"envoy.config.rbac.v3.Principal.Set":                acts("ids"),
	"envoy.config.rbac.v3.Principal.Authenticated":      acts("principal_name"),
	"envoy.type.matcher.v3.PathMatcher":                 acts("path"),
	"envoy.type.matcher.v3.FilterStateMatcher":          acts("key string_match"),
	"envoy.type.matcher.v3.MetadataMatcher":             everything,
	"envoy.type.matcher.v3.MetadataMatcher.PathSegment": everything,
	"envoy.type.matcher.v3.ValueMatcher":                everything,
	"envoy.type.matcher.v3.ValueMatcher.NullMatch":      everything,
	"envoy.type.matcher.v3.DoubleMatcher":               everything,
	"envoy.type.v3.DoubleRange":                         everything,
	"envoy.type.matcher.v3.ListMatcher":                 everything,
	"envoy.type.matcher.v3.OrMatcher":                   everything,
	"envoy.type.v3.Int32Range":                          everything,

	// Sessions.
	"envoy.extensions.filters.http.stateful_session.v3.StatefulSession":         acts("session_state strict status_on_strict_destination_not_found").but("stat_prefix", statsNames),
	"envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute": acts("disabled stateful_session"),
	"envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState":  everything,
	"envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState":  everything,
	"envoy.type.http.v3.Cookie":          everything,
	"envoy.type.http.v3.CookieAttribute": everything,

	// Asking somebody else, and limits.
	"envoy.extensions.filters.http.ext_authz.v3.ExtAuthz": acts("grpc_service http_service failure_mode_allow failure_mode_allow_header_add with_request_body clear_route_cache"+
		" status_on_error filter_enabled filter_enabled_metadata allowed_headers disallowed_headers include_tls_session max_denied_response_body_bytes stat_prefix").
		but("validate_mutations", "a header that cannot be one always makes an answer no answer").
		but("charge_cluster_response_stats", statsNames).but("emit_filter_state_stats", statsNames).but("emit_client_span", spans).
		but("enforce_response_header_limits", "responses have their own limits").but("transport_api_version", "version 3 is the only one"),
	"envoy.extensions.filters.network.ext_authz.v3.ExtAuthz": acts("grpc_service failure_mode_allow filter_enabled_metadata include_tls_session stat_prefix").
		but("transport_api_version", "version 3 is the only one").but("send_tls_alert_on_denial", "a connection that is denied is reset at once"),
	"envoy.extensions.filters.http.ext_authz.v3.BufferSettings": everything,
	"envoy.extensions.filters.http.ext_authz.v3.HttpService": acts("server_uri path_prefix path_override authorization_request authorization_response").
		but("retry_policy", notTwice),
	"envoy.extensions.filters.http.ext_authz.v3.AuthorizationRequest":  acts("allowed_headers headers_to_add"),
	"envoy.extensions.filters.http.ext_authz.v3.AuthorizationResponse": acts("allowed_upstream_headers allowed_upstream_headers_to_append allowed_client_headers allowed_client_headers_on_success"),
	"envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute":      acts("disabled check_settings"),
	"envoy.extensions.filters.http.ext_authz.v3.CheckSettings":         acts("context_extensions disable_request_body_buffering").but("emit_client_span", spans),
	"envoy.config.core.v3.HttpUri":                                     everything,
	"envoy.type.v3.HttpStatus":                                         everything,
	"envoy.type.matcher.v3.ListStringMatcher":                          acts("patterns"),
	"envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit": acts("stat_prefix status token_bucket filter_enabled filter_enforced request_headers_to_add_when_not_enforced response_headers_to_add" +
		" enable_x_ratelimit_headers rate_limited_as_resource_exhausted enable_retry_after_header descriptors stage vh_rate_limits always_consume_default_token_bucket rate_limits max_dynamic_descriptors"),
	"envoy.extensions.common.ratelimit.v3.LocalRateLimitDescriptor":      everything,
	"envoy.extensions.common.ratelimit.v3.RateLimitDescriptor.Entry":     everything,
	"envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit": acts("token_bucket runtime_enabled").but("stat_prefix", statsNames),
	"envoy.type.v3.TokenBucket":                                          everything,
	"envoy.type.v3.HashPolicy":                                           acts("source_ip"),
	"envoy.type.v3.HashPolicy.SourceIp":                                  everything,
	"envoy.config.cluster.v3.Filter":                                     acts("name typed_config"),

	// Objects that Istio passes from filter to filter.
	"envoy.extensions.filters.http.set_filter_state.v3.Config":    acts("on_request_headers").but("clear_route_cache", "no object it may set has a part in routing"),
	"envoy.extensions.filters.network.set_filter_state.v3.Config": acts("on_new_connection on_downstream_tls_handshake"),
	"envoy.extensions.filters.common.set_filter_state.v3.FilterStateValue": acts("object_key format_string").but("factory_key", "objects that may be set are not made").
		but("read_only", "objects that may be set are not made").but("shared_with_upstream", "objects that may be set are not made").but("skip_if_empty", "objects that may be set are not made"),

	// Listeners.
	"envoy.config.listener.v3.Listener": acts("name address additional_addresses filter_chains default_filter_chain use_original_dst listener_filters"+
		" listener_filters_timeout continue_on_listener_filters_timeout traffic_direction bind_to_port access_log transparent freebind tcp_backlog_size ignore_global_conn_limit").
		but("stat_prefix", statsNames).but("metadata", controlInfo).but("per_connection_buffer_limit_bytes", "buffers have their own watermarks").
		but("connection_balance_config", "workers balance on their own").but("max_connections_to_accept_per_socket_event", onlyEnvoy).
		but("drain_type", "drain follows removal and shutdown alike").but("socket_options", "sockets have the options that other fields of the listener name").
		but("deprecated_v1", "bind_to_port is read").but("enable_reuse_port", "every worker has a socket of its own"),
	"envoy.config.listener.v3.AdditionalAddress": acts("address"),
	"envoy.config.listener.v3.ListenerFilter":    acts("name typed_config").but("filter_disabled", "inspectors run where a chain for the destination depends on what they find; of other filters it is refused"),
	"envoy.config.listener.v3.FilterChain":       acts("filter_chain_match filters transport_socket name transport_socket_connect_timeout metadata"),
	"envoy.config.listener.v3.FilterChainMatch": acts("destination_port prefix_ranges direct_source_prefix_ranges source_type source_prefix_ranges source_ports server_names transport_protocol application_protocols").
		not("address_suffix suffix_len", "nobody has given them a meaning, Envoy neither; use prefix_ranges"),
	"envoy.config.listener.v3.Filter":                               acts("name typed_config config_discovery"),
	"envoy.config.core.v3.ExtensionConfigSource":                    acts("config_source default_config apply_default_config_without_warming type_urls"),
	"envoy.extensions.filters.network.sni_cluster.v3.SniCluster":    everything,
	"envoy.extensions.filters.listener.original_dst.v3.OriginalDst": everything,
	"envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector": acts("").but("enable_ja3_fingerprinting", noFingerprint).but("enable_ja4_fingerprinting", noFingerprint).
		but("initial_read_buffer_size", "buffers are the loop's own").but("max_client_hello_size", "first words have a limit of their own"),
	"envoy.extensions.filters.listener.original_src.v3.OriginalSrc": everything,
	"envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol": acts("allow_requests_without_proxy_protocol disallowed_versions").
		but("stat_prefix", statsNames).but("pass_through_tlvs", "type-length-values are read over"),
	"envoy.extensions.filters.listener.http_inspector.v3.HttpInspector":    everything,
	"envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit": acts("max_connections delay runtime_enabled").but("stat_prefix", statsNames),
	"envoy.config.core.v3.RuntimeFeatureFlag":                              acts("default_value").but("runtime_key", "there is no runtime layer; the default value holds"),
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy": acts("cluster weighted_clusters idle_timeout max_downstream_connection_duration access_log max_connect_attempts stat_prefix hash_policy tunneling_config").
		but("access_log_options", endOnly),
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.TunnelingConfig": acts("hostname use_post headers_to_add post_path").
		not("propagate_response_headers propagate_response_trailers", "nothing here reads what they would be left in").
		not("request_id_extension request_id_header request_id_metadata_key", "name a header in headers_to_add").not("formatters", notHere),
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster":               everything,
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight": everything,
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager": acts("stat_prefix route_config rds http_filters access_log"+
		" use_remote_address upgrade_configs stream_idle_timeout request_timeout request_headers_timeout normalize_path merge_slashes"+
		" forward_client_cert_details set_current_client_cert_details server_name server_header_transformation xff_num_trusted_hops"+
		" generate_request_id codec_type common_http_protocol_options max_request_headers_kb skip_xff_append via preserve_external_request_id"+
		" http_protocol_options http2_protocol_options strip_trailing_host_dot path_with_escaped_slashes_action http1_safe_max_connection_duration").
		but("stream_error_on_invalid_http_message", "an HTTP/1.1 connection ends with its first invalid message, an HTTP/2 stream with its own").
		but("tracing", spans).but("represent_ipv4_remote_address_as_ipv4_mapped_ipv6", onlyEnvoy).but("access_log_options", endOnly).
		but("request_id_extension", "x-request-id is a UUID").but("proxy_100_continue", "the proxy answers 100-continue, an upstream that refuses says so by its status").but("scheme_header_transformation", "the scheme is what the connection is, or what a trusted proxy in front says by x-forwarded-proto").
		but("internal_address_config", "no request is treated as internal for its address: use_remote_address alone says whom to trust").but("delayed_close_timeout", "closing lingers with a limit of its own").
		but("proxy_status_config", "causes are told by the access log and by response flags"),
	"envoy.extensions.filters.network.http_connection_manager.v3.Rds":                                 acts("config_source route_config_name"),
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter":                          acts("name typed_config config_discovery is_optional disabled"),
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig": acts("upgrade_type enabled"),
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.SetCurrentClientCertDetails": acts("subject uri dns").
		but("cert", "a client's certificate is told by its hash, not as a whole").but("chain", "a client's certificate is told by its hash, not as a whole"),
	"envoy.extensions.filters.http.router.v3.Router":            acts("suppress_envoy_headers strict_check_headers").but("start_child_span", spans).but("dynamic_stats", statsNames).but("upstream_log", "the access log has one line a request, which names every attempt's outcome"),
	"envoy.config.accesslog.v3.AccessLog":                       acts("name typed_config filter"),
	"envoy.config.accesslog.v3.AccessLogFilter":                 acts("response_flag_filter metadata_filter"),
	"envoy.config.accesslog.v3.MetadataFilter":                  everything,
	"envoy.config.accesslog.v3.ResponseFlagFilter":              everything,
	"envoy.extensions.access_loggers.file.v3.FileAccessLog":     acts("path log_format format json_format typed_json_format"),
	"envoy.extensions.access_loggers.stream.v3.StdoutAccessLog": everything,
	"envoy.config.core.v3.SubstitutionFormatString": acts("text_format_source text_format json_format omit_empty_values").
		but("formatters", "operators of Envoy's extensions are known, or refused, by name").but("json_format_options", "keys are always in order").but("content_type", "a log has none"),
}

// check refuses the first field of m, or of a message inside it, that the table does
// not know. path is how m is called in the error: "Cluster outbound|80||x".
func check(m proto.Message, path string) error { return checkMessage(m.ProtoReflect(), path) }

func checkMessage(m protoreflect.Message, path string) error {
	name := m.Descriptor().FullName()
	k, ok := fields[name]
	if !ok {
		return fmt.Errorf("%s: message %s is not supported", path, name)
	}
	if unknown := m.GetUnknown(); len(unknown) > 0 {
		return fmt.Errorf("%s: %d bytes of fields newer than this proxy", path, len(unknown))
	}
	if k.data {
		return nil
	}
	var err error
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		field := string(fd.Name())
		at := path + "." + field
		if _, inert := k.inert[field]; inert {
			return true
		}
		if !k.all && !slices.Contains(k.acts, field) {
			if err = fmt.Errorf("%s: field is not supported", at); k.refused[field] != "" {
				err = fmt.Errorf("%w: %s", err, k.refused[field])
			}
			return false
		}
		err = checkValue(fd, v, at)
		return err == nil
	})
	return err
}

func checkValue(fd protoreflect.FieldDescriptor, v protoreflect.Value, at string) error {
	switch {
	case fd.IsMap():
		if fd.MapValue().Kind() != protoreflect.MessageKind {
			return nil
		}
		var err error
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			err = checkAny(v.Message(), fmt.Sprintf("%s[%s]", at, k.String()))
			return err == nil
		})
		return err
	case fd.IsList():
		if fd.Kind() != protoreflect.MessageKind {
			return nil
		}
		for i := range v.List().Len() {
			if err := checkAny(v.List().Get(i).Message(), fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
	case fd.Kind() == protoreflect.MessageKind:
		return checkAny(v.Message(), at)
	}
	return nil
}

// checkAny leaves typed_config alone: whoever unpacks it checks it.
func checkAny(m protoreflect.Message, at string) error {
	if _, ok := m.Interface().(*anypb.Any); ok {
		return nil
	}
	return checkMessage(m, at)
}

// unpack decodes an Any into m and checks its fields.
func unpack(a *anypb.Any, m proto.Message, path string) error {
	if err := a.UnmarshalTo(m); err != nil {
		return fmt.Errorf("%s: decoding %s: %w", path, a.GetTypeUrl(), err)
	}
	return check(m, path)
}
