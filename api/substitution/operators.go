package substitution

// Op is what an operator stands for.
type Op uint8

// Operators, by what they need: nothing, a request, a connection, an upstream. A Part with Literal is text, one with
// Nothing an operator whose value nobody ever sets here.
const (
	Literal Op = iota
	Nothing

	StartTime
	Duration
	RequestDuration
	ResponseDuration
	ResponseTXDuration
	BytesReceived
	BytesSent
	Protocol
	ResponseCode
	ResponseCodeDetails
	ResponseFlags
	ResponseFlagsLong
	ConnectionTerminationDetails
	RouteName
	Hostname
	AccessLogType
	AuditHint
	AuditPolicy
	Cause
	RouteObject
	ClusterObject
	DecidedObjects

	Req
	ReqWithoutQuery
	Resp
	Trailer
	QueryParam
	GRPCStatus
	GRPCStatusNumber

	DownstreamRemoteAddress
	DownstreamRemoteAddressWithoutPort
	DownstreamRemotePort
	DownstreamDirectRemoteAddress
	DownstreamDirectRemoteAddressWithoutPort
	DownstreamDirectRemotePort
	DownstreamLocalAddress
	DownstreamLocalAddressWithoutPort
	DownstreamLocalPort
	RequestedServerName
	DownstreamPeerURISAN
	DownstreamPeerDNSSAN
	DownstreamPeerSubject
	DownstreamPeerFingerprint256
	DownstreamLocalURISAN
	DownstreamTLSVersion
	DownstreamTransportFailureReason
	DownstreamTLSCipher

	UpstreamHost
	UpstreamHostName
	UpstreamCluster
	UpstreamLocalAddress
	UpstreamLocalAddressWithoutPort
	UpstreamLocalPort
	UpstreamRemoteAddress
	UpstreamRemoteAddressWithoutPort
	UpstreamRemotePort
	UpstreamProtocol
	UpstreamTransportFailureReason
	UpstreamRequestAttemptCount
	UpstreamPeerURISAN
	UpstreamPeerDNSSAN
	UpstreamPeerSubject
	UpstreamLocalURISAN
	UpstreamTLSVersion
	UpstreamTLSCipher

	numOps
)

// Number reports whether the operator's value is a number, which JSON shows as one.
func (o Op) Number() bool {
	switch o {
	case Duration, RequestDuration, ResponseDuration, ResponseTXDuration, BytesReceived, BytesSent, ResponseCode, GRPCStatusNumber,
		DownstreamRemotePort, DownstreamDirectRemotePort, DownstreamLocalPort, UpstreamLocalPort, UpstreamRemotePort, UpstreamRequestAttemptCount:
		return true
	}
	return false
}

// takes is what an operator's parentheses hold.
type takes uint8

const (
	nothing  takes = iota
	header         // NAME or NAME?OTHER
	one            // something
	choice         // nothing, or one of choices
	layout         // nothing, or a format of time
	anything       // it does not matter
)

type known struct {
	op      Op
	takes   takes
	choices []string
}

// operators are those that mean something here.
var operators = map[string]known{
	"START_TIME":                     {op: StartTime, takes: layout},
	"DURATION":                       {op: Duration},
	"REQUEST_DURATION":               {op: RequestDuration},
	"RESPONSE_DURATION":              {op: ResponseDuration},
	"RESPONSE_TX_DURATION":           {op: ResponseTXDuration},
	"BYTES_RECEIVED":                 {op: BytesReceived},
	"BYTES_SENT":                     {op: BytesSent},
	"PROTOCOL":                       {op: Protocol},
	"RESPONSE_CODE":                  {op: ResponseCode},
	"RESPONSE_CODE_DETAILS":          {op: ResponseCodeDetails, takes: choice, choices: []string{"ALLOW_WHITESPACES"}},
	"RESPONSE_FLAGS":                 {op: ResponseFlags},
	"RESPONSE_FLAGS_LONG":            {op: ResponseFlagsLong},
	"CONNECTION_TERMINATION_DETAILS": {op: ConnectionTerminationDetails},
	"ROUTE_NAME":                     {op: RouteName},
	"HOSTNAME":                       {op: Hostname},
	"ACCESS_LOG_TYPE":                {op: AccessLogType},

	"REQ":                {op: Req, takes: header},
	"REQ_WITHOUT_QUERY":  {op: ReqWithoutQuery, takes: header},
	"RESP":               {op: Resp, takes: header},
	"TRAILER":            {op: Trailer, takes: header},
	"QUERY_PARAM":        {op: QueryParam, takes: one},
	"GRPC_STATUS":        {op: GRPCStatus, takes: choice, choices: []string{"CAMEL_STRING", "SNAKE_STRING", "NUMBER"}},
	"GRPC_STATUS_NUMBER": {op: GRPCStatusNumber},

	"DOWNSTREAM_REMOTE_ADDRESS":                     {op: DownstreamRemoteAddress},
	"DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT":        {op: DownstreamRemoteAddressWithoutPort},
	"DOWNSTREAM_REMOTE_PORT":                        {op: DownstreamRemotePort},
	"DOWNSTREAM_DIRECT_REMOTE_ADDRESS":              {op: DownstreamDirectRemoteAddress},
	"DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT": {op: DownstreamDirectRemoteAddressWithoutPort},
	"DOWNSTREAM_DIRECT_REMOTE_PORT":                 {op: DownstreamDirectRemotePort},
	"DOWNSTREAM_LOCAL_ADDRESS":                      {op: DownstreamLocalAddress},
	"DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT":         {op: DownstreamLocalAddressWithoutPort},
	"DOWNSTREAM_LOCAL_PORT":                         {op: DownstreamLocalPort},
	"REQUESTED_SERVER_NAME":                         {op: RequestedServerName},
	"DOWNSTREAM_PEER_URI_SAN":                       {op: DownstreamPeerURISAN},
	"DOWNSTREAM_PEER_DNS_SAN":                       {op: DownstreamPeerDNSSAN},
	"DOWNSTREAM_PEER_SUBJECT":                       {op: DownstreamPeerSubject},
	"DOWNSTREAM_PEER_FINGERPRINT_256":               {op: DownstreamPeerFingerprint256},
	"DOWNSTREAM_LOCAL_URI_SAN":                      {op: DownstreamLocalURISAN},
	"DOWNSTREAM_TLS_VERSION":                        {op: DownstreamTLSVersion},
	"DOWNSTREAM_TRANSPORT_FAILURE_REASON":           {op: DownstreamTransportFailureReason},
	"DOWNSTREAM_TLS_CIPHER":                         {op: DownstreamTLSCipher},

	"UPSTREAM_HOST":                        {op: UpstreamHost},
	"UPSTREAM_HOST_NAME":                   {op: UpstreamHostName},
	"UPSTREAM_CLUSTER":                     {op: UpstreamCluster},
	"UPSTREAM_CLUSTER_RAW":                 {op: UpstreamCluster}, // differs from the other where a cluster has an alt_stat_name
	"UPSTREAM_LOCAL_ADDRESS":               {op: UpstreamLocalAddress},
	"UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT":  {op: UpstreamLocalAddressWithoutPort},
	"UPSTREAM_LOCAL_PORT":                  {op: UpstreamLocalPort},
	"UPSTREAM_REMOTE_ADDRESS":              {op: UpstreamRemoteAddress},
	"UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": {op: UpstreamRemoteAddressWithoutPort},
	"UPSTREAM_REMOTE_PORT":                 {op: UpstreamRemotePort},
	"UPSTREAM_PROTOCOL":                    {op: UpstreamProtocol},
	"UPSTREAM_TRANSPORT_FAILURE_REASON":    {op: UpstreamTransportFailureReason},
	"UPSTREAM_REQUEST_ATTEMPT_COUNT":       {op: UpstreamRequestAttemptCount},
	"UPSTREAM_PEER_URI_SAN":                {op: UpstreamPeerURISAN},
	"UPSTREAM_PEER_DNS_SAN":                {op: UpstreamPeerDNSSAN},
	"UPSTREAM_PEER_SUBJECT":                {op: UpstreamPeerSubject},
	"UPSTREAM_LOCAL_URI_SAN":               {op: UpstreamLocalURISAN},
	"UPSTREAM_TLS_VERSION":                 {op: UpstreamTLSVersion},
	"UPSTREAM_TLS_CIPHER":                  {op: UpstreamTLSCipher},

	// What filters of Envoy leave for one another. Formats of old installations ask for it (Istio 1.1's default for
	// istio.mixer:status), and must go on working: there it is empty as soon as the filter is not there.
	"DYNAMIC_METADATA":      {op: Nothing, takes: one}, // but for marks
	"CLUSTER_METADATA":      {op: Nothing, takes: one},
	"UPSTREAM_METADATA":     {op: Nothing, takes: one},
	"METADATA":              {op: Nothing, takes: one},
	"FILTER_STATE":          {op: Nothing, takes: one},
	"UPSTREAM_FILTER_STATE": {op: Nothing, takes: one},
	"VIRTUAL_CLUSTER_NAME":  {op: Nothing},
	"LOCAL_REPLY_BODY":      {op: Nothing},
	"ROUNDTRIP_DURATION":    {op: Nothing},
	"CUSTOM_FLAGS":          {op: Nothing},
}

// marks are what DYNAMIC_METADATA has: of what AuthorizationPolicies with action AUDIT match Envoy's hint, and the name of
// the policy and its rule; why it failed, the objects that routes and clusters were made from, and those that refused it. Envoy takes
// them, and has no value for them.
var marks = map[string]Op{"envoy.common:access_log_hint": AuditHint, AuditName: AuditPolicy, "weir.dev:cause": Cause, "weir.dev:route": RouteObject, "weir.dev:cluster": ClusterObject, "weir.dev:decided": DecidedObjects}

// AuditName is the argument of DYNAMIC_METADATA for AuditPolicy.
const AuditName = "weir.dev:audit"

// refused are Envoy's other operators: an empty value of these would be taken for an answer.
var refused = map[string]string{
	"CEL":                                     "expressions are not evaluated in access logs; say what is to be logged by operators",
	"TRACE_ID":                                "spans are not made in this version; %REQ(TRACEPARENT)% is what the client sent",
	"ENVIRONMENT":                             "a proxy does not read its environment; write the value itself",
	"FILTER_CHAIN_NAME":                       noName + "%DOWNSTREAM_LOCAL_ADDRESS% and %ROUTE_NAME% tell listeners apart",
	"CONNECTION_ID":                           noName + "%DOWNSTREAM_REMOTE_ADDRESS% identifies a connection while it is open",
	"UPSTREAM_CONNECTION_ID":                  noName + "%UPSTREAM_LOCAL_ADDRESS% identifies a connection while it is open",
	"STREAM_ID":                               noName + "%REQ(X-REQUEST-ID)% identifies a request",
	"UNIQUE_ID":                               noName + "%REQ(X-REQUEST-ID)% identifies a request",
	"REQUEST_TX_DURATION":                     "use %REQUEST_DURATION%, which ends with the last byte of the client",
	"COMMON_DURATION":                         "use %DURATION%, %REQUEST_DURATION%, %RESPONSE_DURATION% or %RESPONSE_TX_DURATION%",
	"EMIT_TIME":                               "use %START_TIME% and %DURATION%",
	"START_TIME_LOCAL":                        "proxies log in UTC: use %START_TIME%",
	"UPSTREAM_WIRE_BYTES_SENT":                noWire,
	"UPSTREAM_WIRE_BYTES_RECEIVED":            noWire,
	"UPSTREAM_HEADER_BYTES_SENT":              noWire,
	"UPSTREAM_HEADER_BYTES_RECEIVED":          noWire,
	"DOWNSTREAM_WIRE_BYTES_SENT":              noWire,
	"DOWNSTREAM_WIRE_BYTES_RECEIVED":          noWire,
	"DOWNSTREAM_HEADER_BYTES_SENT":            noWire,
	"DOWNSTREAM_HEADER_BYTES_RECEIVED":        noWire,
	"DOWNSTREAM_HANDSHAKE_DURATION":           "handshakes are not timed",
	"DOWNSTREAM_PEER_CERT":                    noCert,
	"DOWNSTREAM_PEER_ISSUER":                  noCert,
	"DOWNSTREAM_PEER_SERIAL":                  noCert,
	"DOWNSTREAM_PEER_FINGERPRINT_1":           noCert,
	"DOWNSTREAM_PEER_CERT_V_START":            noCert,
	"DOWNSTREAM_PEER_CERT_V_END":              noCert,
	"DOWNSTREAM_LOCAL_SUBJECT":                noCert,
	"DOWNSTREAM_TLS_SESSION_ID":               "TLS 1.3 has no session IDs",
	"UPSTREAM_PEER_CERT":                      noCert,
	"UPSTREAM_PEER_ISSUER":                    noCert,
	"UPSTREAM_PEER_CERT_V_START":              noCert,
	"UPSTREAM_PEER_CERT_V_END":                noCert,
	"UPSTREAM_LOCAL_SUBJECT":                  noCert,
	"UPSTREAM_TLS_SESSION_ID":                 "TLS 1.3 has no session IDs",
	"UPSTREAM_CONNECTION_POOL_READY_DURATION": "the wait for a connection is not timed",
}

const (
	noName = "no such name exists here; "
	noWire = "only bytes of bodies are counted: use %BYTES_RECEIVED% and %BYTES_SENT%"
	noCert = "of a peer's certificate its names, subject and SHA-256 are kept: use ..._PEER_URI_SAN, ..._PEER_SUBJECT or %DOWNSTREAM_PEER_FINGERPRINT_256%"
)
