package http

import (
	"cmp"
	"time"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/http/h1"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/route"
)

// Direction says on which side of a workload a listener is.
type Direction uint8

// Directions.
const (
	Outbound Direction = iota
	Inbound
	Gateway
)

// State is what an exchange needs of the proxy's state. proxy/state implements it; it is immutable.
type State interface {
	Cluster(id cluster.ID) *cluster.Cluster
	ClusterNamed(name string) *cluster.Cluster // does not keep the name
	Table(name string) *route.Table
}

// Config is one HTTP connection manager. It is immutable. Fields name the
// HttpConnectionManager field they come from; durations of zero mean none unless
// a default is named.
type Config struct {
	StatPrefix string
	Direction  Direction
	// Chain is the filter chain that connections come by, for whoever decides in Worker.Adopt.
	Chain any

	Table     *route.Table // route_config
	TableName string       // rds.route_config_name, if Table is nil

	// Stages are the filters in order, the router last. See proxy/inbound, outbound, gateway.
	Stages []Stage

	ServerName []byte // server_name
	ServerMode ServerMode

	Path        message.PathOptions // normalize_path, merge_slashes, path_with_escaped_slashes_action
	NoHostDot   bool                // strip_trailing_host_dot
	Underscores Underscores         // common_http_protocol_options.headers_with_underscores_action
	Via         []byte              // via; nil: none
	Limits      h1.Limits           // max_request_headers_kb, common_http_protocol_options.max_headers_count

	// Tells is who learns why this proxy, or a peer of the mesh, answered instead of the application.
	Tells Confidants

	// Quiet leaves out the router's x-envoy headers (Router.suppress_envoy_headers).
	Quiet bool
	// Strict are headers whose value must mean something (Router.strict_check_headers).
	Strict []message.ID

	// Edge says that clients are not trusted with x-envoy headers, and that the connection tells their address
	// (use_remote_address).
	Edge bool
	// Strangers says that who calls here has not proved to be of the mesh, where those of the mesh do: neither x-envoy headers
	// nor x-forwarded-for are believed (metadata weir.strangers of the filter chain).
	Strangers bool
	// SkipXFF does not append the client's address to x-forwarded-for at the edge (skip_xff_append).
	SkipXFF bool
	// TrustedHops is how many proxies in front are trusted to have appended to x-forwarded-for (xff_num_trusted_hops).
	TrustedHops int
	// KeepRequestID trusts an edge client's x-request-id (preserve_external_request_id).
	KeepRequestID bool
	// NoRequestID makes none (generate_request_id false).
	NoRequestID bool
	// AnswerRequestID puts it into responses (always_set_request_id_in_response).
	AnswerRequestID bool

	ClientCert ClientCert     // forward_client_cert_details
	CertParts  ClientCertPart // set_current_client_cert_details

	Upgrades []string // upgrade_configs that are enabled, lower case

	Codec Codec                // codec_type
	HTTP1 h1.Rules             // http_protocol_options
	HTTP2 cluster.HTTP2Options // http2_protocol_options

	HeaderTimeout  time.Duration // request_headers_timeout; 0: DefaultHeaderTimeout, negative: none
	RequestTimeout time.Duration // request_timeout
	StreamIdle     time.Duration // stream_idle_timeout
	StreamMax      time.Duration // common_http_protocol_options.max_stream_duration
	IdleTimeout    time.Duration // common_http_protocol_options.idle_timeout; 0: 1 h, negative: none
	MaxRequests    uint32        // common_http_protocol_options.max_requests_per_connection
	MaxDuration    time.Duration // common_http_protocol_options.max_connection_duration
	DurationJitter float64       // how much longer it may be, by chance, as a share of it
	// SafeMaxDuration leaves idle HTTP/1.1 connections that have served their time open until their next response has
	// said that it is the last (http1_safe_max_connection_duration).
	SafeMaxDuration bool

	Logs []observe.AccessLog // access_log

	// Deciders are the objects by which Stages decide (metadata weir.deciders of the filter chain).
	Deciders observe.Deciders

	// Asks are the clusters that filters ask before a request goes on.
	Asks []cluster.ID
}

// DefaultHeaderTimeout bounds how long a client may take for a request head, where nothing is configured: a client
// that sends a byte now and then must not hold a connection for ever.
const DefaultHeaderTimeout = time.Minute

// unread is how long a client may leave complete answers unread.
func (c *Config) unread() time.Duration { return cmp.Or(c.StreamIdle, DefaultHeaderTimeout) }

const (
	defaultConnIdle = time.Hour // Envoy's idle timeout of downstream connections
	forEver         = 1 << 61   // nanoseconds: 73 years
)

// idle is how long a connection may wait for a request, in nanoseconds.
func (c *Config) idle() int64 {
	switch t := c.IdleTimeout; {
	case t > 0:
		return int64(t)
	case t < 0:
		return forEver
	}
	return int64(defaultConnIdle)
}

// ends is when a connection that begins now has served its time.
func (c *Config) ends(l *loop.Loop) int64 {
	if c.MaxDuration <= 0 {
		return forEver
	}
	d := float64(c.MaxDuration)
	if c.DurationJitter > 0 {
		d += d * c.DurationJitter * float64(l.Rand()>>11) / (1 << 53)
	}
	return l.Now() + int64(d)
}

// Underscores is what becomes of clients' headers whose names have an underscore.
type Underscores uint8

// Modes.
const (
	UnderscoresPass Underscores = iota
	UnderscoresRefuse
	UnderscoresDrop
)

// Codec says which HTTP versions a connection manager speaks.
type Codec uint8

// Codecs.
const (
	AutoCodec  Codec = iota // what TLS agreed on, else what the client begins with
	HTTP1Codec              // HTTP/1.1 only
	HTTP2Codec              // HTTP/2 only
)

// ServerMode is server_header_transformation.
type ServerMode uint8

// Modes.
const (
	ServerOverwrite ServerMode = iota
	ServerIfAbsent
	ServerPassThrough
)

// ClientCert is forward_client_cert_details: what becomes of x-forwarded-client-cert.
type ClientCert uint8

// Modes. Where the client has no verified certificate, the last three behave as Envoy's do on a connection without mTLS.
const (
	CertSanitize          ClientCert = iota // remove it
	CertForwardOnly                         // pass it on if the connection is mTLS
	CertAppendForward                       // append this client's certificate if the connection is mTLS
	CertSanitizeSet                         // replace it by this client's certificate
	CertAlwaysForwardOnly                   // pass it on always
)

// ClientCertPart is a set of what an element of x-forwarded-client-cert tells besides By and Hash.
type ClientCertPart uint8

// Parts.
const (
	CertSubject ClientCertPart = 1 << iota
	CertURI
	CertDNS
)
