package observe

// Cause is why the proxy itself answered a request, or ended a connection
// early: a closed set. Every local reply has one, so that there is no
// unexplained 503.
type Cause uint8

// Causes. The names follow Envoy's response flags where there is one.
const (
	NoCause Cause = iota // the upstream answered

	// Routing.
	RouteNotFound
	ClusterNotFound
	NoHealthyUpstream
	DestinationRefused
	DestinationConfigUnavailable
	NoConfiguration
	DirectResponse
	CORSPreflight
	TokenRefused
	AccessDenied
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

	// The upstream failed before, or (without a reply) after, its response began.
	UpstreamOverflow
	UpstreamConnectFailed
	UpstreamConnectTimeout
	UpstreamNoSocket
	UpstreamTLSFailed
	UpstreamTerminated
	UpstreamReset
	UpstreamRefused
	UpstreamProtocolError
	UpstreamTimeout
	UpstreamPerTryTimeout
	UpstreamPerTryIdleTimeout
	MaxDurationReached
	StreamDurationReached

	// The client.
	DownstreamProtocolError
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
	ChainRemoved

	// The proxy.
	InternalError

	numCauses
)

type causeInfo struct {
	flag     Flags
	details  string // RESPONSE_CODE_DETAILS
	status   int    // 0: no reply can be made, or the reply says
	body     string // what the client reads, word for word as Envoy's where it has such a reply
	sentence string
	remedy   string
}

const resetText = "upstream connect error or disconnect/reset before headers. reset reason: "

var causes = [numCauses]causeInfo{
	NoCause: {0, "via_upstream", 0, "", "the upstream answered", ""},
	RouteNotFound: {NoRouteFound, "route_not_found", 404, "",
		"no route matches the request's host, path and headers",
		"compare the request's Host and path with the hosts and matches of the VirtualServices and Gateways of this listener"},
	ClusterNotFound: {NoClusterFound, "cluster_not_found", 503, "",
		"the route names a destination that does not exist",
		"check host, port and subset of the route's destination: is there a Service with that port, and a DestinationRule with that subset?"},
	NoHealthyUpstream: {NoHealthyUpstreamFlag, "no_healthy_upstream", 503, "no healthy upstream",
		"the destination has no endpoint that may be used",
		"check that workloads run, are ready and match the service's selector and the subset's labels; look for endpoints ejected by outlierDetection"},
	DestinationRefused: {NoHealthyUpstreamFlag, "destination_refused", 503, "destination refused: the object that secures it has errors",
		"the object that says how to secure connections to the destination has errors, and requests would be less protected than it asks for",
		"the details name the object: repair or remove it; `weir get` and `weir analyze` say what is wrong with it"},
	NoConfiguration: {NoClusterFound, "no_configuration_yet", 503, "",
		"the proxy has not got any configuration since it began",
		"is the control plane there? `weir proxy WORKLOAD ready` says what is missing"},
	DestinationConfigUnavailable: {NoClusterFound, "destination_config_unavailable", 503, "destination configuration unavailable",
		"the mesh has the destination, and its configuration did not come from the control plane in time, or too much waits for configuration already",
		"is the control plane there (`weir proxy-status`)? what the proxy has asked for is in its /state under onDemand; --on-demand=false makes it hold everything"},
	DirectResponse: {0, "direct_response", 0, "",
		"the route answers by itself: a redirect or a fixed response", ""},
	CORSPreflight: {0, "cors_response", 0, "",
		"a browser asked what a page of another origin may do, and the route's CORS policy says it", "see http.corsPolicy of the VirtualService"},
	TokenRefused: {0, "jwt_authn_access_denied", 401, "Jwt verification fails",
		"the request has a token (JWT) that is not valid, or none where one is needed",
		"the details say what is wrong with it: compare the token's iss, aud, exp and kid with the jwtRules of the RequestAuthentications of the destination"},
	AccessDenied: {0, "rbac_access_denied_matched_policy[none]", 403, "RBAC: access denied",
		"an AuthorizationPolicy of the destination denies the request, or none that allows anything allows this one",
		"the details name the policy and its rule; who may do what is said by the AuthorizationPolicies of the destination's namespace and of the root namespace"},
	ExtAuthzDenied: {UnauthorizedExternalService, "ext_authz_denied", 403, "",
		"the service that an AuthorizationPolicy with action CUSTOM asks denies the request",
		"that service's log says why; which it is says the policy's provider, among extensionProviders of the mesh's configuration"},
	ExtAuthzError: {UnauthorizedExternalService, "ext_authz_error", 403, "",
		"the service that decides about the request (AuthorizationPolicy with action CUSTOM) gave no answer, or none that can be used",
		"does it run, and answer within the provider's timeout? failOpen of the provider lets requests pass meanwhile"},
	ExtAuthzTooLarge: {0, "request_payload_too_large", 413, "Payload Too Large",
		"the request body is larger than what is to be shown to the service that decides about the request",
		"raise includeRequestBodyInCheck.maxRequestBytes of the provider, or set allowPartialMessage"},
	RequestRateLimited: {RateLimited, "local_rate_limited", 429, "local_rate_limited",
		"more requests came than a local rate limit lets pass",
		"see the limit's token_bucket; the response says when to come again where it is configured to"},
	FilterChainNotFound: {NoRouteFound, "filter_chain_not_found", 0, "",
		"no filter chain of the listener accepts the connection",
		"a client without mesh TLS on a STRICT port? an SNI or port no Gateway server has?"},
	DownstreamTLSFailed: {0, "downstream_tls_failure", 0, "",
		"the TLS handshake with the client failed",
		"the details say on whose side: is the client's certificate of this mesh, and valid?"},

	DownstreamHeaderBad: {0, "proxy_protocol_error", 0, "",
		"the PROXY protocol header at the beginning of the connection is missing or wrong",
		"do the load balancer and the listener agree on the PROXY protocol? see gatewayTopology.proxyProtocol"},
	DownstreamSilent: {0, "listener_filter_timeout", 0, "",
		"the client did not say enough to choose a filter chain by", ""},
	DownstreamMisjudged: {0, "tls_after_server_first", 0, "",
		"a workload of the mesh began TLS when the application had spoken in plaintext already; its address is known now",
		"nothing: clients of the mesh connect again by themselves"},
	ConnectionLimit: {OverloadManagerTerminated, "connection_limit", 0, "",
		"a limit of connections is reached: of the listener, the filter chain or the proxy",
		"raise the limit, or find out which clients do not close their connections"},
	DescriptorsExhausted: {OverloadManagerTerminated, "descriptors_exhausted", 0, "",
		"the proxy may not open more descriptors; those it has go on being served",
		"raise the limit of open files (ulimit -n, LimitNOFILE=), or limit connections"},
	MemoryExhausted: {OverloadManagerTerminated, "overload_memory", 503, "overloaded: the proxy's memory is nearly used up",
		"the proxy's memory is nearly used up: requests that have not begun and new connections are refused, who is being served is served to the end",
		"raise the proxy's memory limit (sidecar.istio.io/proxyMemoryLimit) or GOMEMLIMIT, or find out which clients hold so many connections or such large bodies: weir_proxy_memory_bytes, /stats overload"},

	UpstreamOverflow: {UpstreamOverflowFlag, "upstream_reset_before_response_started{overflow}", 503, resetText + "overflow",
		"a circuit breaker of the destination is open: too many connections, or pending or active requests",
		"raise connectionPool in the DestinationRule, or give the destination more replicas"},
	UpstreamConnectFailed: {UpstreamConnectionFailure, "upstream_reset_before_response_started{remote_connection_failure}", 503, resetText + "remote connection failure",
		"no connection to the endpoint could be made",
		"is the application listening on the service's targetPort, and reachable from here?"},
	UpstreamConnectTimeout: {UpstreamConnectionFailure, "upstream_reset_before_response_started{connection_timeout}", 503, resetText + "connection timeout",
		"the endpoint did not accept a connection in time",
		"is the endpoint's address still in use and not filtered? see connectionPool.tcp.connectTimeout"},
	UpstreamNoSocket: {UpstreamConnectionFailure, "upstream_reset_before_response_started{local_connection_failure}", 503, resetText + "local connection failure",
		"this machine could not make a socket for the connection: descriptors or local ports are used up, or the bind address is not local",
		"raise the limit of open files, or lower the number of connections"},
	UpstreamTLSFailed: {UpstreamConnectionFailure, "upstream_reset_before_response_started{remote_connection_failure}", 503, resetText + "remote connection failure",
		"the endpoint accepted the connection, and the TLS handshake failed",
		"do both sides agree on TLS? compare the DestinationRule's tls mode with the destination's PeerAuthentication, and the names in its certificate"},
	UpstreamTerminated: {UpstreamConnectionTermination, "upstream_reset_before_response_started{connection_termination}", 503, resetText + "connection termination",
		"the endpoint closed the connection instead of answering",
		"did the application crash, or close an idle connection just then? its keep-alive timeout should be longer than idleTimeout in the DestinationRule"},
	UpstreamReset: {UpstreamRemoteReset, "upstream_reset_before_response_started{remote_reset}", 503, resetText + "remote reset",
		"the endpoint reset the request",
		"look into the application's log of that moment"},
	UpstreamRefused: {UpstreamRemoteReset, "upstream_reset_before_response_started{remote_refused_stream_reset}", 503, resetText + "remote refused stream reset",
		"the endpoint refused the request without looking at it",
		"it is going away, or takes fewer requests at once than it is sent: give the destination more replicas"},
	UpstreamProtocolError: {UpstreamProtocolErrorFlag, "upstream_reset_before_response_started{protocol_error}", 502, resetText + "protocol error",
		"the endpoint's answer is not valid HTTP",
		"does the port really speak HTTP? check the service port's name or appProtocol"},
	UpstreamTimeout: {UpstreamRequestTimeout, "response_timeout", 504, "upstream request timeout",
		"the destination did not answer within the route's timeout",
		"raise http.timeout in the VirtualService, or find out why the destination is slow"},
	UpstreamPerTryTimeout: {UpstreamRequestTimeout, "upstream_per_try_timeout", 504, "upstream request timeout",
		"the destination did not answer any attempt within retries.perTryTimeout",
		"raise retries.perTryTimeout in the VirtualService, or find out why the destination is slow"},
	UpstreamPerTryIdleTimeout: {UpstreamRequestTimeout, "upstream_per_try_idle_timeout", 504, "upstream request timeout",
		"nothing was transferred for longer than the retry policy's per_try_idle_timeout", ""},
	MaxDurationReached: {UpstreamMaxStreamDurationReached, "upstream_max_stream_duration_reached", 0, "upstream max stream duration reached",
		"the exchange lasted longer than max_stream_duration", ""},

	StreamDurationReached: {0, "max_duration_timeout", 0, "downstream duration timeout",
		"the exchange lasted longer than the listener's max_stream_duration", ""},
	DownstreamProtocolError: {DownstreamProtocolErrorFlag, "http1.codec_error", 400, "Bad Request",
		"the client's request is not valid HTTP, or ambiguous", "the details name what was wrong"},
	MissingHost: {0, "missing_host_header", 400, "",
		"the request has no Host", "HTTP/1.1 clients must send Host"},
	StrictHeaders: {InvalidEnvoyRequestHeaders, "request_headers_failed_strict_check", 400, "",
		"a header by which the client asks for timeouts or retries has a value that means nothing, and the listener is strict about it (strict_check_headers)",
		"the details name the header"},
	LowVersion: {0, "low_version", 426, "",
		"the client speaks HTTP/1.0, which the listener does not take (accept_http_10)", "let the client speak HTTP/1.1"},
	PathNormalizationFailed: {0, "path_normalization_failed", 400, "",
		"the path has an incomplete percent escape or an escaped NUL", "repair the client's URL"},
	UpgradeRefused: {0, "upgrade_failed", 403, "",
		"the client asked for a protocol upgrade that is not allowed here", "only websocket is"},
	ConnectRefused: {0, "connect_not_supported", 405, "",
		"the client sent CONNECT, which this listener does not serve", "clients inside the mesh need no HTTP proxy settings"},
	EscapedSlash: {0, "path_with_escaped_slashes", 0, "",
		"the path has escaped slashes (%2F, %5C), which the listener refuses or redirects (path_with_escaped_slashes_action)",
		"servers disagree about whether they separate segments: send the client plain URLs"},
	Underscore: {DownstreamProtocolErrorFlag, "unexpected_underscore", 400, "Bad Request",
		"a header name has an underscore, which the listener refuses (headers_with_underscores_action)",
		"some servers take it for a hyphen: rename the header"},
	NoFurther: {0, "max_forwards", 0, "",
		"the client asked that its OPTIONS or TRACE request goes no further than here (Max-Forwards: 0)", ""},
	RequestHeaderTimeout: {0, "request_header_timeout", 408, "request header timeout",
		"the client did not send its request head in time", ""},
	RequestTimeout: {0, "request_overall_timeout", 408, "request timeout",
		"the client did not send its whole request in time", ""},
	StreamIdleTimeout: {StreamIdleTimeoutFlag, "stream_idle_timeout", 408, "stream timeout",
		"nothing was transferred for the stream idle timeout, and the request was not complete", ""},
	StreamIdleTimeoutUpstream: {StreamIdleTimeoutFlag, "stream_idle_timeout", 504, "stream timeout",
		"nothing was transferred for the stream idle timeout after the request was complete", ""},
	DownstreamDisconnected: {DownstreamConnectionTermination, "downstream_remote_disconnect", 0, "",
		"the client closed the connection before the response was complete", ""},
	DownstreamReset: {DownstreamRemoteReset, "http2.remote_reset", 0, "",
		"the client cancelled the request before the response was complete", ""},
	ConnectionDurationReached: {DurationTimeout, "duration_timeout", 0, "",
		"the connection reached its maximum duration", ""},

	FaultAbort: {FaultInjected, "fault_filter_abort", 0, "fault filter abort",
		"a fault was injected on purpose", "see http.fault of the VirtualService"},
	ChainRemoved: {0, "filter_chain_is_being_removed", 0, "",
		"the configuration does not let this connection in any more, and it was not finished in time",
		"clients of the mesh connect again by themselves; is another one to be let in (PeerAuthentication)?"},

	InternalError: {LocalReset, "internal_error", 500, "",
		"a bug in the proxy ended this exchange", "please report it with the log around this moment"},
}

// Flag is the response flag of the cause, 0 for none.
func (c Cause) Flag() Flags { return causes[c].flag }

// Details is the RESPONSE_CODE_DETAILS of a reply with this cause.
func (c Cause) Details() string { return causes[c].details }

// Status is the HTTP status of the reply; 0 when none can be made or when the reply itself decides (FaultAbort, DirectResponse).
func (c Cause) Status() int { return causes[c].status }

// Body is the text of the reply.
func (c Cause) Body() string { return causes[c].body }

// Sentence explains the cause to an operator.
func (c Cause) Sentence() string { return causes[c].sentence }

// Remedy says what to look at, "" where there is nothing to say.
func (c Cause) Remedy() string { return causes[c].remedy }
