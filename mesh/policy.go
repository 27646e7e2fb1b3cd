package mesh

import "time"

// DestinationRule says how a host is called: subsets and traffic policy.
type DestinationRule struct {
	Ref              Ref
	Host             string // FQDN or "*.suffix"
	Policy           TrafficPolicy
	PortPolicies     map[uint16]TrafficPolicy // replace Policy for that port, block by block not inherited
	Subsets          []Subset
	Visible          Visibility
	WorkloadSelector Labels // nil: every client
	// Refused says that the object has errors and never was in force, and that it asks for
	// protection. Its TLS blocks count, so that nobody is called with less than it asks
	// for: a block with the Mode TLSRefused closes what it speaks about. Nothing else of
	// the object counts: its subsets do not exist.
	Refused bool
}

// Subset is a named part of a host's endpoints.
type Subset struct {
	Name         string
	Labels       Labels
	Policy       *TrafficPolicy // its set blocks replace those of the rule
	PortPolicies map[uint16]TrafficPolicy
}

// TrafficPolicy blocks are nil when not given.
type TrafficPolicy struct {
	LoadBalancer *LoadBalancer
	Pool         *ConnectionPool
	Outlier      *OutlierDetection
	TLS          *ClientTLS
	// ProxyProtocol is the version of the PROXY protocol (1 or 2) by which servers learn
	// whose connection it is; 0: they do not.
	ProxyProtocol uint8
}

// Balancing names an algorithm.
type Balancing string

// Algorithms of loadBalancer.simple. LeastRequest is the default.
const (
	LeastRequest Balancing = "LEAST_REQUEST"
	RoundRobin   Balancing = "ROUND_ROBIN"
	Random       Balancing = "RANDOM"
	OriginalDst  Balancing = "PASSTHROUGH"
)

// LoadBalancer chooses among endpoints.
type LoadBalancer struct{ Simple Balancing }

// ConnectionPool limits and times connections. 0 means the default (no limit; 10 s to
// connect; 1 h idle).
type ConnectionPool struct {
	MaxConnections           uint32
	ConnectTimeout           time.Duration
	MaxConnectionDuration    time.Duration
	TCPIdleTimeout           time.Duration
	KeepaliveTime            time.Duration
	KeepaliveInterval        time.Duration
	KeepaliveProbes          uint32
	Keepalive                bool
	MaxPendingRequests       uint32
	MaxRequests              uint32
	MaxRequestsPerConnection uint32
	MaxRetries               uint32
	HTTPIdleTimeout          time.Duration
	H2Upgrade                string // "", "DO_NOT_UPGRADE", "UPGRADE"
	UseClientProtocol        bool
	MaxConcurrentStreams     uint32
}

// OutlierDetection ejects endpoints that fail. Pointers are nil when not given.
type OutlierDetection struct {
	Consecutive5xx         *uint32
	ConsecutiveGateway     *uint32
	SplitLocalOrigin       bool
	ConsecutiveLocalOrigin *uint32
	Interval               time.Duration
	BaseEjection           time.Duration
	MaxEjectionPercent     uint32
	MinHealthPercent       uint32
}

// ClientTLS is how the connection to the host is secured. nil: automatic mesh mTLS.
type ClientTLS struct {
	Mode           string // DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL; TLSRefused in a DestinationRule that is Refused
	Certificate    string // paths as seen by the proxy
	PrivateKey     string
	CACertificates string
	CredentialName string
	SANs           []string
	SNI            string
	SkipVerify     bool
}

// TLSRefused is the Mode of a TLS block that cannot be understood or given: no connection
// is what it asks for.
const TLSRefused = "REFUSED"

// Gateway configures the edge proxies its selector picks.
type Gateway struct {
	Ref      Ref
	Selector Labels
	Servers  []Server
}

// Server is one listening port of a Gateway.
type Server struct {
	Name     string
	Bind     string
	Port     uint16
	PortName string
	Protocol Protocol
	Hosts    []GatewayHost
	TLS      *ServerTLS
}

// GatewayHost is a host a Server accepts, with the namespace whose VirtualServices may
// bind to it ("*" any, otherwise a name).
type GatewayHost struct{ Namespace, Host string }

// ServerTLS is a Server's TLS.
type ServerTLS struct {
	Mode           string // PASSTHROUGH, SIMPLE, MUTUAL, OPTIONAL_MUTUAL, ISTIO_MUTUAL, AUTO_PASSTHROUGH
	HTTPSRedirect  bool
	Certificate    string
	PrivateKey     string
	CACertificates string
	CredentialName string
	MinVersion     string
	MaxVersion     string
	CipherSuites   []string
	SANs           []string
}

// MTLSMode is what a workload accepts.
type MTLSMode uint8

// Modes of PeerAuthentication. Unset inherits; the mesh default is Permissive.
const (
	MTLSUnset MTLSMode = iota
	MTLSDisable
	MTLSPermissive
	MTLSStrict
)

// PeerAuthentication says which connections workloads accept: those Selector picks,
// or the whole namespace, or (in the root namespace, without Selector) the mesh.
type PeerAuthentication struct {
	Ref      Ref
	Selector Labels // nil: the namespace
	Mode     MTLSMode
	Ports    map[uint16]MTLSMode // by workload port
	// Refused says that the object has errors and never was in force, and that it asks for
	// protection, or may: Mode and Ports hold nothing but MTLSStrict and MTLSUnset, and
	// hold beside what other objects say.
	Refused bool
}
