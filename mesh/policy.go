package mesh

import (
	"cmp"
	"slices"
	"time"
)

// DestinationRule says how a host is called: subsets and traffic policy.
type DestinationRule struct {
	Ref              Ref
	Host             string // FQDN or "*.suffix"
	Policy           TrafficPolicy
	PortPolicies     map[uint16]TrafficPolicy // replace Policy for that port, block by block not inherited
	Subsets          []Subset
	HealthCheck      *HealthCheck // what endpoints are asked from time to time; nil: nothing
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
	Budget       *RetryBudget
	Tunnel       *Tunnel
	// ProxyProtocol is the version of the PROXY protocol (1 or 2) by which servers learn
	// whose connection it is; 0: they do not.
	ProxyProtocol uint8
}

// CheckKind is what an active health check asks.
type CheckKind uint8

// Kinds of checks: a request, grpc.health.v1.Health/Check, or that a connection opens.
const (
	CheckHTTP CheckKind = iota
	CheckGRPC
	CheckTCP
)

// HealthCheck is what endpoints must answer to be used.
type HealthCheck struct {
	Kind               CheckKind
	Ports              []uint16 // of the service; nil: all that speak what is asked
	Interval, Timeout  time.Duration
	Unhealthy, Healthy uint32 // so many answers in a row change what an endpoint is taken for
	// Of HTTP: Method "" is GET, Host "" the service's, no Statuses are 200, no Retriable all.
	Method, Host, Path string
	Headers            []Header
	Statuses           []StatusRange
	// Retriable are the other statuses that count towards Unhealthy; what is not among them takes an endpoint out at once.
	Retriable []StatusRange
	Service   string // of gRPC; "": the whole server
}

// StatusRange is From to To, both included.
type StatusRange struct{ From, To uint16 }

// On reports whether a port of a service is checked.
func (h *HealthCheck) On(p *Port) bool {
	switch {
	case h == nil, p.Protocol == UDP:
		return false
	case h.Ports != nil:
		return slices.Contains(h.Ports, p.Number)
	case h.Kind == CheckHTTP:
		return p.Protocol.IsHTTP()
	case h.Kind == CheckGRPC:
		return p.Protocol.IsHTTP2()
	}
	return true
}

// Tunnel says that the host's endpoints are forward proxies, which take TCP connections on to somewhere else.
type Tunnel struct {
	Post bool // asked for by POST instead of CONNECT
	Host string
	Port uint16
}

// RetryBudget bounds retries by the requests under way, instead of ConnectionPool.MaxRetries.
type RetryBudget struct {
	Percent        float64
	MinConcurrency uint32
	Interval       time.Duration // requests that began so lately count, too
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
type LoadBalancer struct {
	Simple Balancing       // "": the mesh's default
	Hash   *ConsistentHash // instead of Simple; nil: none
	Warmup *Warmup         // of endpoints that are new; nil: they get their share at once
	// Locality prefers endpoints by where they are; nil: as Settings.Locality.
	Locality *LocalityPolicy
}

// LocalityPolicy prefers endpoints by where they and their client are: by shares (Distribute), or in an order, where the
// next ones are used as far as those before are not healthy. Without any of the three lists the order is subzone, zone,
// region, the rest.
type LocalityPolicy struct {
	Off bool
	// ZonesFrom, if it is not 0, has only regions come before each other, also in Priority. From so many endpoints in its region
	// on a client's zone is preferred as far as it has capacity for the client's peers there, and the rest is divided among zones
	// that have more than their own need.
	ZonesFrom  uint32
	Distribute []LocalityShares
	Failover   []RegionFailover  // which region comes before the others
	Priority   []LabelPreference // those who have the first n labels in common with the client come before those who have fewer
}

// LocalityShares are for clients somewhere. Localities are "region/zone/subzone", of which the end may be missing or "*".
type LocalityShares struct {
	From string
	To   []LocalityShare
}

// LocalityShare is a part of the requests.
type LocalityShare struct {
	To      string
	Percent uint32
}

// RegionFailover names the region that stands in for another.
type RegionFailover struct{ From, To string }

// LabelPreference is a label whose value endpoints should share with their client, or that should be Value if Fixed.
type LabelPreference struct {
	Label, Value string
	Fixed        bool
}

// Active is the policy, nil if it is off.
func (p *LocalityPolicy) Active() *LocalityPolicy {
	if p == nil || p.Off {
		return nil
	}
	return p
}

// ConsistentHash sends requests that have something in common to the same endpoint, as long as it is there. Exactly one of
// the first four says what.
type ConsistentHash struct {
	Header, Query string // a header's or query parameter's name
	SourceIP      bool
	Cookie        *HashCookie
	RingSize      uint64 // at least so many points; 0: 1024
	Maglev        bool   // by a table instead of a ring
	TableSize     uint64 // of Maglev, a prime number; 0: 65537
}

// HashCookie is a cookie to hash.
type HashCookie struct {
	Name, Path string
	Generate   bool          // clients without one get one
	TTL        time.Duration // that lasts so long; 0: as long as their session
	Attributes []NameValue
}

// NameValue is a name with a value, which may be empty.
type NameValue struct{ Name, Value string }

// Warmup lets new endpoints take their share step by step.
type Warmup struct {
	Duration            time.Duration
	Percent, Aggression float64 // of the share to begin with, and the curve; 0: 10, 1
}

// ConnectionPool limits and times connections. 0 means the default (no limit; 10 s to
// connect; 1 h idle), a negative idle timeout none.
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
	// Every PingInterval a server is asked by HTTP/2 PING whether it is there, and has PingTimeout to answer.
	PingInterval, PingTimeout time.Duration
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
	Statuses               []uint16 // of HTTP, sorted: they and no others are errors; nil: those from 500 on
	// Probes is how many requests at once may try an endpoint that returns, until one of them has ended; 0: it returns wholly.
	Probes uint32
}

// ClientTLS is how the connection to the host is secured. nil: automatic mesh mTLS.
type ClientTLS struct {
	Mode           string // DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL; TLSRefused in a DestinationRule that is Refused
	Certificate    string // paths as seen by the proxy
	PrivateKey     string
	CACertificates string
	CRL            string
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
	Line     int // in the object's file
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
	CRL            string    // path: revoked certificates of clients
	More           []KeyPair // beside Certificate, or instead: of other kinds of keys
	// Credentials are Secrets that hold certificates, the first of them the authorities of
	// clients, too, unless CACredential names another.
	Credentials  []string
	CACredential string
	MinVersion   string
	MaxVersion   string
	CipherSuites []string
	SANs         []string
	// Clients must show one of these, by the SHA-256 of its public key in base64 or of the
	// whole in hexadecimal; nil: any that the authorities vouch for.
	PinnedKeys, PinnedCertificates []string
	SkipVerify                     bool // clients may show what they like
}

// KeyPair is a certificate and its key, as paths seen by the proxy.
type KeyPair struct{ Certificate, PrivateKey string }

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
	Ref       Ref
	Namespace string // if it is not Ref's: the object was made of one of Istio before 1.5
	Selector  Labels // nil: the namespace
	Mode      MTLSMode
	Ports     map[uint16]MTLSMode // by workload port
	// Refused says that Mode and Ports hold nothing but MTLSStrict and MTLSUnset, and hold
	// beside what other objects say: the object has errors, never was in force, and asks for
	// protection, or may; or it is a Policy of Istio before 1.5 for services.
	Refused bool
}

// Home is the namespace the object is in.
func (p *PeerAuthentication) Home() string { return cmp.Or(p.Namespace, p.Ref.Namespace) }
