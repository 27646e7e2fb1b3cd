package causes

import (
	"iter"
	"strings"
)

// Cause is why the proxy itself answered a request, or ended a connection
// early: a closed set. Every local reply has one, so that there is no
// unexplained 503.
type Cause uint8

// Causes. The names follow Envoy's response flags where there is one.
const (
	NoCause Cause = iota // the upstream answered

	// Routing.
	RouteNotFound
	HostNotFound
	RoutesMissing
	ClusterNotFound
	ConfigurationRejected
	NoHealthyUpstream
	NoEndpoints
	EndpointsEjected
	NameNotResolved
	NotInRegistry
	DestinationRefused
	DestinationConfigUnavailable
	NoConfiguration
	DirectResponse
	CORSPreflight
	TokenRefused // from here to ExtAuthzTooLarge: policies, see Told
	TokenMissing
	TokenExpired
	TokenKeyUnknown
	TokenKeysUnavailable
	AccessDenied
	NotAllowed
	PolicyBroken
	ExtAuthzDenied
	ExtAuthzError
	ExtAuthzTooLarge
	RequestRateLimited
	FilterChainNotFound
	DownstreamTLSFailed
	DownstreamHeaderBad
	DownstreamSilent
	DownstreamMisjudged
	ConnectionLimit
	DescriptorsExhausted
	MemoryExhausted
	OverloadDropped
	OverloadAllDropped

	// The upstream failed before, or (without a reply) after, its response began.
	UpstreamOverflow
	PendingOverflow
	ConnectionsOverflow
	UpstreamConnectFailed
	UpstreamConnectRefused
	UpstreamConnectTimeout
	EndpointGone
	ProxyGone
	UpstreamNoSocket
	UpstreamTLSFailed
	UpstreamCertificateRefused
	UpstreamTLSRefused
	UpstreamNotTLS
	NoOwnCertificate
	UpstreamTerminated
	UpstreamConnectionReset
	UpstreamTLSEnded
	UpstreamIdleClosed
	ResponseCut
	UpstreamReset
	UpstreamRefused
	UpstreamGoingAway
	UpstreamProtocolError
	UpstreamTimeout
	UpstreamPerTryTimeout
	UpstreamPerTryIdleTimeout
	MaxDurationReached
	StreamDurationReached

	// The client.
	DownstreamProtocolError
	RequestHeadTooLarge
	MissingHost
	StrictHeaders
	LowVersion
	PathNormalizationFailed
	UpgradeRefused
	ConnectRefused
	EscapedSlash
	Underscore
	NoFurther
	RequestHeaderTimeout
	RequestTimeout
	StreamIdleTimeout
	StreamIdleTimeoutUpstream
	DownstreamDisconnected
	DownstreamReset
	ConnectionDurationReached

	// The configuration.
	FaultAbort
	FaultDelay
	ChainRemoved

	// The proxy.
	InternalError

	numCauses
)

// Count is how many there are, with NoCause: a Cause is an index below it.
const Count = int(numCauses)

type info struct {
	name     string
	flag     Flags
	details  string // RESPONSE_CODE_DETAILS
	status   int    // 0: no reply can be made, or the reply says
	body     string // what the client reads, word for word as Envoy's where it has such a reply
	sentence string
	remedy   string
}

const resetText = "upstream connect error or disconnect/reset before headers. reset reason: "

var table = [numCauses]info{
	NoCause: {"none", 0, "via_upstream", 0, "", "the upstream answered", ""},
	RouteNotFound: {"route_not_found", NoRouteFound, "route_not_found", 404, "",
		"the virtual host has no route that matches the request's path, method and headers",
		"compare the request with the matches of the http rules of the VirtualServices for this host"},
	HostNotFound: {"host_not_found", NoRouteFound, "route_not_found", 404, "",
		"no virtual host of the listener has the request's host",
		"compare the request's Host with the hosts of the VirtualServices and Gateways of this listener; `weir proxy WORKLOAD unknown` lists the nearest hosts that there are"},
	RoutesMissing: {"routes_missing", NoRouteFound, "route_not_found", 404, "",
		"the listener's routes have not come from the control plane",
		"is the control plane there? `weir proxy-status` says what the proxy holds; a route configuration that it refuses is in its log"},
	ClusterNotFound: {"cluster_not_found", NoClusterFound, "cluster_not_found", 503, "",
		"the route names a destination that does not exist",
		"check host, port and subset of the route's destination: is there a Service with that port, and a DestinationRule with that subset?"},
	ConfigurationRejected: {"configuration_rejected", NoClusterFound, "cluster_not_found", 503, "",
		"the proxy did not take the destination's configuration, and has no earlier one",
		"the details say what it did not like: a file that its machine does not have? `weir proxy-status` lists what proxies reject"},
	NoHealthyUpstream: {"no_healthy_upstream", NoHealthyUpstreamFlag, "no_healthy_upstream", 503, "no healthy upstream",
		"the destination has no endpoint that may be used",
		"check that workloads run, are ready and match the service's selector and the subset's labels; look for endpoints ejected by outlierDetection"},
	NoEndpoints: {"no_endpoints", NoHealthyUpstreamFlag, "no_healthy_upstream", 503, "no healthy upstream",
		"the destination has no endpoints at all",
		"does a workload match the service's selector and the subset's labels, and is it ready? `weir get endpoints` lists those of each service"},
	EndpointsEjected: {"endpoints_ejected", NoHealthyUpstreamFlag, "no_healthy_upstream", 503, "no healthy upstream",
		"every endpoint of the destination is ejected because of its failures (outlier detection)",
		"find out why the endpoints fail; outlierDetection of the DestinationRule says how many failures eject, for how long, and how many endpoints at most (maxEjectionPercent)"},
	NameNotResolved: {"name_not_resolved", NoHealthyUpstreamFlag, "no_healthy_upstream", 503, "no healthy upstream",
		"the name of the destination has not been resolved to an address by DNS",
		"is the host of the ServiceEntry (or of its endpoints) spelled right, and does the proxy's name server know it?"},
	NotInRegistry: {"not_in_registry", 0, "direct_response", 0, "",
		"the mesh does not know the address or host, and lets workloads call nothing else (outboundTrafficPolicy REGISTRY_ONLY)",
		"make it known by a ServiceEntry, show it in egress.hosts of the Sidecar, or let the outboundTrafficPolicy of the Sidecar or MeshConfig be ALLOW_ANY"},
	DestinationRefused: {"destination_refused", NoHealthyUpstreamFlag, "destination_refused", 503, "destination refused: the object that secures it has errors or is contradicted",
		"the object that says how to secure connections to the destination has errors, and requests would be less protected than it asks for; or it asks for mesh mTLS of a port without HTTP where a PeerAuthentication accepts none",
		"the details name the object, and the one that contradicts it: repair or remove it; `weir get` and `weir analyze` say what is wrong with it"},
	NoConfiguration: {"no_configuration", NoClusterFound, "no_configuration_yet", 503, "",
		"the proxy has not got any configuration since it began",
		"is the control plane there? `weir proxy WORKLOAD ready` says what is missing"},
	DestinationConfigUnavailable: {"destination_config_unavailable", NoClusterFound, "destination_config_unavailable", 503, "destination configuration unavailable",
		"the mesh has the destination, and its configuration did not come from the control plane in time, or too much waits for configuration already",
		"is the control plane there (`weir proxy-status`)? what the proxy has asked for is in its /state under onDemand; --on-demand=false makes it hold everything"},
	DirectResponse: {"direct_response", 0, "direct_response", 0, "",
		"the route answers by itself: a redirect or a fixed response",
		"if another answer was expected: see http.redirect, http.directResponse and tls.httpsRedirect of the VirtualService or Gateway, and which route matched"},
	CORSPreflight: {"cors_preflight", 0, "cors_response", 0, "",
		"a browser asked what a page of another origin may do, and the route's CORS policy says it", "see http.corsPolicy of the VirtualService"},
	TokenRefused: {"token_refused", 0, "jwt_authn_access_denied", 401, "Jwt verification fails",
		"the request has a token (JWT) that is not valid",
		"the details say what is wrong with it: compare the token's iss, aud, exp and kid with the jwtRules of the RequestAuthentications of the destination"},
	TokenMissing: {"token_missing", 0, "jwt_authn_access_denied", 401, "Jwt is missing",
		"the request has no token (JWT) where one is needed",
		"let the client send one (authorization: Bearer …); where it is looked for is said by fromHeaders and fromParams of the RequestAuthentication's jwtRules"},
	TokenExpired: {"token_expired", 0, "jwt_authn_access_denied", 401, "Jwt is expired",
		"the request's token (JWT) has expired, or is not valid yet",
		"let the client get a new one; if it is new, compare the clocks of its issuer and of this machine with its exp and nbf"},
	TokenKeyUnknown: {"token_key_unknown", 0, "jwt_authn_access_denied", 401, "Jwks doesn't have key to match kid or alg from Jwt",
		"none of the issuer's keys is the one that the request's token (JWT) names",
		"is the token of the issuer of the RequestAuthentication's jwtRules, and is its kid among the keys of jwksUri?"},
	TokenKeysUnavailable: {"token_keys_unavailable", 0, "jwt_authn_access_denied", 401, "Jwks remote fetch is failed",
		"the request's token (JWT) cannot be verified: the issuer's keys have never been fetched",
		"is jwksUri of the RequestAuthentication right, and reachable from the control plane? `weir status` says what the last attempt met"},
	AccessDenied: {"access_denied", 0, "rbac_access_denied_matched_policy", 403, "RBAC: access denied",
		"an AuthorizationPolicy of the destination denies the request",
		"the details name the policy and its rule: change it, or the request; `weir can` says who may call what"},
	NotAllowed: {"not_allowed", 0, "rbac_access_denied_matched_policy[none]", 403, "RBAC: access denied",
		"there are AuthorizationPolicies that allow something, and none of them allows this request",
		"compare the caller's identity, and the request's method, path and headers, with the rules of these policies, their `when` included, or add a rule that allows it; `weir can` tries out a change"},
	PolicyBroken: {"policy_broken", 0, "rbac_access_denied_matched_policy", 403, "RBAC: access denied",
		"the AuthorizationPolicy that denies the request has a mistake, and what it is about is denied until that is mended",
		"correct the field that is named, or remove the policy; `weir status` says what is wrong with it"},
	ExtAuthzDenied: {"ext_authz_denied", UnauthorizedExternalService, "ext_authz_denied", 403, "",
		"the service that an AuthorizationPolicy with action CUSTOM asks denies the request",
		"that service's log says why; which it is says the policy's provider, among extensionProviders of the mesh's configuration"},
	ExtAuthzError: {"ext_authz_error", UnauthorizedExternalService, "ext_authz_error", 403, "",
		"the service that decides about the request (AuthorizationPolicy with action CUSTOM) gave no answer, or none that can be used",
		"does it run, and answer within the provider's timeout? failOpen of the provider lets requests pass meanwhile. not_asked: the request began before the policy came into force; whoever makes it again is asked about"},
	ExtAuthzTooLarge: {"ext_authz_too_large", 0, "request_payload_too_large", 413, "Payload Too Large",
		"the request body is larger than what is to be shown to the service that decides about the request",
		"raise includeRequestBodyInCheck.maxRequestBytes of the provider, or set allowPartialMessage"},
	RequestRateLimited: {"request_rate_limited", RateLimited, "local_rate_limited", 429, "local_rate_limited",
		"more requests came than a local rate limit lets pass",
		"see the limit's token_bucket; the response says when to come again where it is configured to"},
	FilterChainNotFound: {"filter_chain_not_found", NoRouteFound, "filter_chain_not_found", 0, "",
		"no filter chain of the listener accepts the connection",
		"a client without mesh TLS on a STRICT port? an SNI or port no Gateway server has?"},
	DownstreamTLSFailed: {"downstream_tls_failed", 0, "downstream_tls_failure", 0, "",
		"the TLS handshake with the client failed",
		"the details say on whose side: is the client's certificate of this mesh, and valid?"},

	DownstreamHeaderBad: {"downstream_header_bad", 0, "proxy_protocol_error", 0, "",
		"the PROXY protocol header at the beginning of the connection is missing or wrong",
		"do the load balancer and the listener agree on the PROXY protocol? see gatewayTopology.proxyProtocol"},
	DownstreamSilent: {"downstream_silent", 0, "listener_filter_timeout", 0, "",
		"the client did not say enough to choose a filter chain by",
		"is it a client whose server speaks first (MySQL, SMTP)? then name the service's port after its protocol (tcp-…, mysql); else it is slow, or a health check that only connects"},
	DownstreamMisjudged: {"downstream_misjudged", 0, "tls_after_server_first", 0, "",
		"a workload of the mesh began TLS when the application had spoken in plaintext already; its address is known now",
		"nothing: clients of the mesh connect again by themselves"},
	ConnectionLimit: {"connection_limit", OverloadManagerTerminated, "connection_limit", 0, "",
		"a limit of connections is reached: of the listener, the filter chain or the proxy",
		"raise the limit, or find out which clients do not close their connections"},
	DescriptorsExhausted: {"descriptors_exhausted", OverloadManagerTerminated, "descriptors_exhausted", 0, "",
		"the proxy may not open more descriptors; those it has go on being served",
		"raise the limit of open files (ulimit -n, LimitNOFILE=), or limit connections"},
	MemoryExhausted: {"memory_exhausted", OverloadManagerTerminated, "overload_memory", 503, "overloaded: the proxy's memory is nearly used up",
		"the proxy's memory is nearly used up: requests that have not begun and new connections are refused, who is being served is served to the end",
		"raise the proxy's memory limit (sidecar.istio.io/proxyMemoryLimit) or GOMEMLIMIT, or find out which clients hold so many connections or such large bodies: weir_proxy_memory_bytes, /stats overload"},

	OverloadDropped: {"overload_dropped", DropOverload, "drop_overload", 503, "drop overload",
		"the control plane has a share of the requests to the destination dropped, to protect its endpoints",
		"nothing here: see what sends policy.drop_overloads with the destination's endpoints"},
	OverloadAllDropped: {"overload_all_dropped", UnconditionalDropOverload, "unconditional_drop_overload", 503, "unconditional drop overload",
		"the control plane has all requests to the destination dropped, to protect its endpoints",
		"nothing here: see what sends policy.drop_overloads with the destination's endpoints"},

	UpstreamOverflow: {"upstream_overflow", UpstreamOverflowFlag, "upstream_reset_before_response_started{overflow}", 503, resetText + "overflow",
		"as many requests as may are under way to the destination",
		"raise http2MaxRequests where it is set (connectionPool.http of the DestinationRule, or inboundConnectionPool of the destination's Sidecar; it counts requests of HTTP/1.1, too), or give the destination more replicas"},
	PendingOverflow: {"pending_overflow", UpstreamOverflowFlag, "upstream_reset_before_response_started{overflow}", 503, resetText + "overflow",
		"as many requests as may already wait for a connection to the destination",
		"raise connectionPool.http.http1MaxPendingRequests or connectionPool.tcp.maxConnections in the DestinationRule, or give the destination more replicas"},
	ConnectionsOverflow: {"connections_overflow", UpstreamOverflowFlag, "upstream_reset_before_response_started{overflow}", 0, "",
		"the destination has as many connections as it may",
		"raise connectionPool.tcp.maxConnections in the DestinationRule, or find out which clients do not close their connections"},
	UpstreamConnectFailed: {"upstream_connect_failed", UpstreamConnectionFailure, "upstream_reset_before_response_started{remote_connection_failure}", 503, resetText + "remote connection failure",
		"no connection to the endpoint could be made: it cannot be reached from here",
		"the transport failure says what the network answered: does the address still exist, and does a firewall or NetworkPolicy stand between?"},
	UpstreamConnectRefused: {"upstream_connect_refused", UpstreamConnectionFailure, "upstream_reset_before_response_started{remote_connection_failure}", 503, resetText + "remote connection failure",
		"the endpoint refused the connection: nobody listens on its port",
		"does the application run, and listen on the service's targetPort, on all addresses or on that of its pod?"},
	UpstreamConnectTimeout: {"upstream_connect_timeout", UpstreamConnectionFailure, "upstream_reset_before_response_started{connection_timeout}", 503, resetText + "connection timeout",
		"the endpoint did not accept a connection, or not do its part of the TLS handshake, in time",
		"is the endpoint's address still in use and not filtered, and its program not stuck? see connectionPool.tcp.connectTimeout"},
	EndpointGone: {"endpoint_gone", UpstreamConnectionFailure, "upstream_reset_before_response_started{remote_connection_failure}", 503, resetText + "remote connection failure",
		"no connection to the endpoint could be made, and it was none of the destination's any more: the proxy had not heard of that yet",
		"was the proxy cut off from the control plane at that moment (`weir proxy-status`)? else let the application end only after its callers have heard of it, and let the route retry (connect-failure)"},
	ProxyGone: {"proxy_gone", UpstreamConnectionFailure, "upstream_reset_before_response_started{remote_connection_failure}", 503, resetText + "remote connection failure",
		"the proxy of the endpoint was not there: it has ended, or not begun, and its workload is an endpoint of the destination still",
		"why did it end? the last lines of its log, and of the pod's (OOMKilled?); a pod that ends should be no endpoint before its proxy ends (`weir proxy-status` lists the proxies that there are)"},
	UpstreamNoSocket: {"upstream_no_socket", UpstreamConnectionFailure, "upstream_reset_before_response_started{local_connection_failure}", 503, resetText + "local connection failure",
		"this machine could not make a socket for the connection: descriptors or local ports are used up, or the bind address is not local",
		"raise the limit of open files, or lower the number of connections"},
	UpstreamTLSFailed: {"upstream_tls_failed", UpstreamConnectionFailure, "upstream_reset_before_response_started{remote_connection_failure}", 503, resetText + "remote connection failure",
		"the endpoint accepted the connection, and the TLS handshake failed",
		"do both sides agree on TLS? compare the DestinationRule's tls mode with the destination's PeerAuthentication, and the names in its certificate"},
	UpstreamCertificateRefused: {"upstream_certificate_refused", UpstreamConnectionFailure, "upstream_reset_before_response_started{remote_connection_failure}", 503, resetText + "remote connection failure",
		"the endpoint accepted the connection, and its certificate was not accepted here",
		"the transport failure says what is wrong with it: compare subjectAltNames, sni and caCertificates of the DestinationRule's tls with the certificate, and is the endpoint of this mesh?"},
	UpstreamTLSRefused: {"upstream_tls_refused", UpstreamConnectionFailure, "upstream_reset_before_response_started{remote_connection_failure}", 503, resetText + "remote connection failure",
		"the endpoint refused the TLS handshake with an alert",
		"the alert is in the transport failure, with what it means; the endpoint's log says more"},
	UpstreamNotTLS: {"upstream_not_tls", UpstreamConnectionFailure, "upstream_reset_before_response_started{remote_connection_failure}", 503, resetText + "remote connection failure",
		"the proxy began TLS, and the endpoint does not speak it on this port",
		"has the endpoint a proxy, and is the port TLS? if not, tls.mode of the DestinationRule should be DISABLE, or absent"},
	NoOwnCertificate: {"no_own_certificate", UpstreamConnectionFailure, "upstream_reset_before_response_started{remote_connection_failure}", 503, resetText + "remote connection failure",
		"the proxy has no certificate yet that it could show to the endpoint",
		"is the certificate authority there? `weir identity` and the proxy's log say why it has not signed one"},
	UpstreamTerminated: {"upstream_terminated", UpstreamConnectionTermination, "upstream_reset_before_response_started{connection_termination}", 503, resetText + "connection termination",
		"the endpoint closed the connection instead of answering",
		"did the application crash, or close an idle connection just then? its keep-alive timeout should be longer than idleTimeout in the DestinationRule"},
	UpstreamConnectionReset: {"upstream_connection_reset", UpstreamConnectionTermination, "upstream_reset_before_response_started{connection_termination}", 503, resetText + "connection termination",
		"the endpoint reset the connection (RST) instead of answering",
		"did the application crash, or end without reading the request? look into its log of that moment"},
	UpstreamTLSEnded: {"upstream_tls_ended", UpstreamConnectionTermination, "upstream_reset_before_response_started{connection_termination}", 503, resetText + "connection termination",
		"the endpoint ended the connection with a TLS alert, or with a damaged record; in TLS 1.3 this is how a server refuses a client's certificate",
		"the alert is in the transport failure, with what it means: does the endpoint ask for a client certificate, and trust the authority of ours?"},
	UpstreamIdleClosed: {"upstream_idle_closed", UpstreamConnectionTermination, "upstream_reset_before_response_started{connection_termination}", 503, resetText + "connection termination",
		"the endpoint closed a connection that had been idle just as the request was sent on it, and the request is not one that may be sent twice",
		"the application's keep-alive timeout should be longer than the time for which the proxy keeps connections: lower connectionPool.http.idleTimeout in the DestinationRule, or raise the application's"},
	ResponseCut: {"response_cut", UpstreamConnectionTermination, "upstream_reset_after_response_started{connection_termination}", 503, resetText + "connection termination",
		"the endpoint ended the connection in the middle of its response",
		"did the application crash, or give up? look into its log of that moment"},
	UpstreamReset: {"upstream_reset", UpstreamRemoteReset, "upstream_reset_before_response_started{remote_reset}", 503, resetText + "remote reset",
		"the endpoint reset the request",
		"look into the application's log of that moment"},
	UpstreamRefused: {"upstream_refused", UpstreamRemoteReset, "upstream_reset_before_response_started{remote_refused_stream_reset}", 503, resetText + "remote refused stream reset",
		"the endpoint refused the request without looking at it",
		"it is going away, or takes fewer requests at once than it is sent: give the destination more replicas"},
	UpstreamGoingAway: {"upstream_going_away", UpstreamRemoteReset, "upstream_reset_before_response_started{remote_refused_stream_reset}", 503, resetText + "remote refused stream reset",
		"the endpoint is going away (GOAWAY), and said that it did not look at the request",
		"other endpoints, and retries on refused-stream, serve such requests while it restarts: give the destination more replicas"},
	UpstreamProtocolError: {"upstream_protocol_error", UpstreamProtocolErrorFlag, "upstream_reset_before_response_started{protocol_error}", 502, resetText + "protocol error",
		"the endpoint's answer is not valid HTTP",
		"does the port really speak HTTP? check the service port's name or appProtocol"},
	UpstreamTimeout: {"upstream_timeout", UpstreamRequestTimeout, "response_timeout", 504, "upstream request timeout",
		"the destination did not answer within the route's timeout",
		"raise http.timeout in the VirtualService, or find out why the destination is slow"},
	UpstreamPerTryTimeout: {"upstream_per_try_timeout", UpstreamRequestTimeout, "upstream_per_try_timeout", 504, "upstream request timeout",
		"the destination did not answer any attempt within retries.perTryTimeout",
		"raise retries.perTryTimeout in the VirtualService, or find out why the destination is slow"},
	UpstreamPerTryIdleTimeout: {"upstream_per_try_idle_timeout", UpstreamRequestTimeout, "upstream_per_try_idle_timeout", 504, "upstream request timeout",
		"nothing was transferred for longer than the retry policy's per_try_idle_timeout",
		"find out why the destination stalls in the middle of its answers, or raise the policy's per_try_idle_timeout"},
	MaxDurationReached: {"max_duration_reached", UpstreamMaxStreamDurationReached, "upstream_max_stream_duration_reached", 0, "upstream max stream duration reached",
		"the exchange lasted longer than the destination's max_stream_duration",
		"raise max_stream_duration of the cluster or route (no object of Istio sets it), or find out why the exchange takes so long"},

	StreamDurationReached: {"stream_duration_reached", 0, "max_duration_timeout", 0, "downstream duration timeout",
		"the exchange lasted longer than the listener's max_stream_duration",
		"raise the listener's max_stream_duration (no object of Istio sets it), or find out why the exchange takes so long"},
	DownstreamProtocolError: {"downstream_protocol_error", DownstreamProtocolErrorFlag, "http1.codec_error", 400, "Bad Request",
		"the client's request is not valid HTTP, or ambiguous", "the details name what was wrong, and `weir explain DETAILS` says it in a sentence"},
	RequestHeadTooLarge: {"request_head_too_large", DownstreamProtocolErrorFlag, "http1.codec_error", 431, "Bad Request",
		"the headers of the request are larger, or more, than the listener takes",
		"the details name the limit; cookies and tokens are what usually grows"},
	MissingHost: {"missing_host", 0, "missing_host_header", 400, "",
		"the request has no Host", "HTTP/1.1 clients must send Host"},
	StrictHeaders: {"strict_headers", InvalidEnvoyRequestHeaders, "request_headers_failed_strict_check", 400, "",
		"a header by which the client asks for timeouts or retries has a value that means nothing, and the listener is strict about it (strict_check_headers)",
		"the details name the header"},
	LowVersion: {"low_version", 0, "low_version", 426, "",
		"the client speaks HTTP/1.0, which the listener does not take (accept_http_10)", "let the client speak HTTP/1.1"},
	PathNormalizationFailed: {"path_normalization_failed", 0, "path_normalization_failed", 400, "",
		"the path has an incomplete percent escape or an escaped NUL", "repair the client's URL"},
	UpgradeRefused: {"upgrade_refused", 0, "upgrade_failed", 403, "",
		"the client asked for a protocol upgrade that is not allowed here", "only websocket is"},
	ConnectRefused: {"connect_refused", 0, "connect_not_supported", 405, "",
		"the client sent CONNECT, which this listener does not serve", "clients inside the mesh need no HTTP proxy settings"},
	EscapedSlash: {"escaped_slash", 0, "path_with_escaped_slashes", 0, "",
		"the path has escaped slashes (%2F, %5C), which the listener refuses or redirects (path_with_escaped_slashes_action)",
		"servers disagree about whether they separate segments: send the client plain URLs"},
	Underscore: {"underscore", DownstreamProtocolErrorFlag, "unexpected_underscore", 400, "Bad Request",
		"a header name has an underscore, which the listener refuses (headers_with_underscores_action)",
		"some servers take it for a hyphen: rename the header"},
	NoFurther: {"no_further", 0, "max_forwards", 0, "",
		"the client asked that its OPTIONS or TRACE request goes no further than here (Max-Forwards: 0)",
		"nothing, if it is meant so; else let the client leave Max-Forwards out, or set it higher"},
	RequestHeaderTimeout: {"request_header_timeout", 0, "request_header_timeout", 408, "request header timeout",
		"the client did not send its request head in time",
		"the client or the network before it is slow; the listener's request_headers_timeout is how long it may take"},
	RequestTimeout: {"request_timeout", 0, "request_overall_timeout", 408, "request timeout",
		"the client did not send its whole request in time",
		"the client or the network before it is slow; the listener's request_timeout is how long it may take"},
	StreamIdleTimeout: {"stream_idle_timeout", StreamIdleTimeoutFlag, "stream_idle_timeout", 408, "stream timeout",
		"nothing was transferred for the stream idle timeout, and the request was not complete",
		"the client stopped in the middle of its request; stream_idle_timeout is how long it may be silent"},
	StreamIdleTimeoutUpstream: {"stream_idle_timeout_upstream", StreamIdleTimeoutFlag, "stream_idle_timeout", 504, "stream timeout",
		"nothing was transferred for the stream idle timeout after the request was complete",
		"the destination is silent for longer than stream_idle_timeout (5 min): let it send something now and then, or answer sooner"},
	DownstreamDisconnected: {"downstream_disconnected", DownstreamConnectionTermination, "downstream_remote_disconnect", 0, "",
		"the client closed the connection before the response was complete",
		"compare the client's own timeout with how long the request took: does the caller give up, or somebody who called it? else did the client end just then?"},
	DownstreamReset: {"downstream_reset", DownstreamRemoteReset, "http2.remote_reset", 0, "",
		"the client cancelled the request before the response was complete",
		"compare the client's deadline (of gRPC, grpc-timeout) with how long the request took; a client that has what it wanted may cancel, too"},
	ConnectionDurationReached: {"connection_duration_reached", DurationTimeout, "duration_timeout", 0, "",
		"the connection reached its maximum duration",
		"let the client connect again, or raise connectionPool.tcp.maxConnectionDuration in the DestinationRule"},

	FaultAbort: {"fault_abort", FaultInjected, "fault_filter_abort", 0, "fault filter abort",
		"a fault was injected on purpose", "see http.fault of the VirtualService"},
	FaultDelay: {"fault_delay", DelayInjected, "fault_filter_delay", 0, "",
		"a delay was injected on purpose, and the client did not wait for its end", "see http.fault.delay of the VirtualService"},
	ChainRemoved: {"chain_removed", 0, "filter_chain_is_being_removed", 0, "",
		"the configuration does not let this connection in any more, and it was not finished in time",
		"clients of the mesh connect again by themselves; is another one to be let in (PeerAuthentication)?"},

	InternalError: {"internal_error", LocalReset, "internal_error", 500, "",
		"a bug in the proxy ended this exchange", "please report it with the log around this moment"},
}

// Name is the code of the cause, for `weir explain` and wherever a cause is written down.
func (c Cause) Name() string { return table[c].name }

// Failure reports whether the cause is of something that did not go well: not what was configured or asked for.
func (c Cause) Failure() bool {
	switch c {
	case NoCause, DirectResponse, CORSPreflight, NoFurther:
		return false
	}
	return true
}

// Told is the code that callers learn: which policy denies a request, and why, is not theirs to know.
func (c Cause) Told() string {
	if c >= TokenRefused && c <= ExtAuthzTooLarge {
		return string(Denied)
	}
	return c.Name()
}

// Flag is the response flag of the cause, 0 for none.
func (c Cause) Flag() Flags { return table[c].flag }

// Details is the RESPONSE_CODE_DETAILS of a reply with this cause; those of an exchange may say more, in braces.
func (c Cause) Details() string { return table[c].details }

// Status is the HTTP status of the reply; 0 when none can be made or when the reply itself decides (FaultAbort, DirectResponse).
func (c Cause) Status() int { return table[c].status }

// OfUpstream reports whether the cause is what an attempt at an endpoint came to.
func (c Cause) OfUpstream() bool { return c >= PendingOverflow && c <= MaxDurationReached }

// Body is the text of the reply.
func (c Cause) Body() string { return table[c].body }

// Sentence explains the cause to an operator.
func (c Cause) Sentence() string { return table[c].sentence }

// Remedy says what to look at or to change.
func (c Cause) Remedy() string { return table[c].remedy }

// Docs is where the documentation tells of the cause.
func (c Cause) Docs() string { return Page + "#" + c.Name() }

// Page is where causes and flags are documented.
const Page = "docs/causes.md"

// Answers reports whether the reply of the cause can have a status; 0: whether there may be no reply.
func (c Cause) Answers(status int) bool {
	switch c {
	case FaultAbort, DirectResponse:
		return status >= 200
	case NotInRegistry:
		return status == 502 || status == 0
	case EscapedSlash:
		return status == 307 || status == 400
	case CORSPreflight:
		return status == 200
	case NoFurther:
		return status == 200 || status == 405
	case MaxDurationReached, StreamDurationReached:
		return status == 408 || status == 504 || status == 0
	case DownstreamProtocolError: // the details say what
		return status == 400 || status == 414 || status == 417 || status == 501 || status == 505
	}
	return c.Status() == status
}

// All are the causes in the order of their table, without NoCause.
func All() iter.Seq[Cause] {
	return func(yield func(Cause) bool) {
		for c := NoCause + 1; c < numCauses; c++ {
			if !yield(c) {
				return
			}
		}
	}
}

// Named is the cause with a code; false: there is none.
func Named(code string) (Cause, bool) {
	for c := range All() {
		if c.Name() == code {
			return c, true
		}
	}
	return NoCause, false
}

// Find are the causes that a word of an access log stands for, whatever its case: a code, the details of a response, or one or several
// response flags.
func Find(word string) []Cause {
	var out []Cause
	for c := range All() {
		if strings.EqualFold(c.Name(), word) {
			return []Cause{c}
		}
	}
	details := kind(word)
	flags := Parse(word)
	for c := range All() {
		if strings.EqualFold(kind(c.Details()), details) || c.Flag()&flags != 0 {
			out = append(out, c)
		}
	}
	if len(out) == 0 && (strings.HasPrefix(details, "http1.") || strings.HasPrefix(details, "http2.")) { // what of HTTP, of which side
		return []Cause{DownstreamProtocolError, RequestHeadTooLarge, UpstreamProtocolError}
	}
	return out
}

// kind is what details have in common that differ in what they say besides: policies in brackets, transport failures, and whether the
// response had begun.
func kind(details string) string {
	head, braces, _ := strings.Cut(details, "{")
	head, _, _ = strings.Cut(head, "[")
	reason, _, _ := strings.Cut(strings.TrimSuffix(braces, "}"), "|")
	if strings.HasPrefix(strings.ToLower(head), "upstream_reset_") {
		return head + "{" + reason + "}"
	}
	return head
}
