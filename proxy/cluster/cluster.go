// Package cluster is where requests are sent: clusters, their endpoints, limits and
// the choice among endpoints (lb).
//
// proxy/state makes Clusters from xDS; routes name them by dense ID; workers read
// them. A Cluster is immutable: a change makes a new one that shares Endpoints and
// Limits with the old. Endpoint and Limits hold the few numbers that must be exact
// across workers, as atomics; everything else may be read by any worker at any time.
package cluster

import (
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster/outlier"
	"github.com/weirmesh/weir/proxy/http/h1"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/proxyproto"
	"github.com/weirmesh/weir/proxy/tls"
)

// ID is a cluster's dense number in one proxy process: stable from one State to the
// next while the name is in use, so that routes and per-worker pools are slices.
type ID int32

// NoCluster is the ID of nothing.
const NoCluster ID = -1

// Kind says where endpoints come from.
type Kind uint8

// Kinds of clusters (Envoy's discovery types).
const (
	Static      Kind = iota // listed in the cluster (STATIC) or sent by EDS
	StrictDNS               // every address of the names
	LogicalDNS              // the first address of the name, at connect time
	OriginalDst             // the address the client dialled
	Dynamic                 // the addresses of the name that the client asks for (proxy/hosts)
)

// Policy names a load-balancing algorithm.
type Policy uint8

// Policies of lb_policy.
const (
	RoundRobin Policy = iota
	LeastRequest
	Random
	Provided // the cluster decides: OriginalDst, Dynamic
	RingHash
	Maglev
)

// Protocol is the HTTP version spoken to endpoints (HttpProtocolOptions.upstream_protocol_options).
type Protocol uint8

// Protocols.
const (
	HTTP1      Protocol = iota // explicit_http_config.http_protocol_options, and the default
	HTTP2                      // explicit_http_config.http2_protocol_options: without asking the peer
	Negotiated                 // auto_config: what TLS agrees on by ALPN
	Downstream                 // use_downstream_protocol_config: what the client speaks
	Raw                        // no HTTP: the payload of a CONNECT
)

// HTTP2Options are Http2ProtocolOptions; zero fields are the proxy's defaults.
type HTTP2Options struct {
	MaxStreams   uint32 // max_concurrent_streams: that the peer may open, or that we do
	StreamWindow uint32 // initial_stream_window_size
	ConnWindow   uint32 // initial_connection_window_size
	TableSize    uint32 // hpack_table_size
	// connection_keepalive: every PingEvery the peer is asked whether it is there, and must answer within PingTimeout.
	PingEvery, PingTimeout time.Duration // 0: never
}

// Cluster is one upstream service (or subset of one), as configured.
type Cluster struct {
	ID        ID
	Name      string
	Kind      Kind
	Policy    Policy
	Endpoints []*Endpoint // all that may ever be chosen: see View
	Weights   []uint32    // of Endpoints, same order; nil: all alike; 0 means 1
	// Names to resolve for the DNS kinds.
	Names []Name
	// Led is an address from which the network itself leads to an endpoint that is there (kube-proxy, from a Service's
	// address), for when ours may be out of date; invalid: there is none.
	Led netip.AddrPort
	// Leaving says that all endpoints are about to end, and that the control plane knows no others yet.
	Leaving bool
	// Drop is how many of a million requests are dropped because the control plane says so (drop_overloads).
	Drop uint32
	// Overprovisioning is the share in percent of endpoints that are well below which a priority or locality gives work away, as its
	// inverse: 140 means 71 %; 0: 140.
	Overprovisioning uint32

	ConnectTimeout        time.Duration // 0 was replaced by 10 s
	IdleTimeout           time.Duration // of a pooled connection; 0: 1 h
	MaxConnectionDuration time.Duration // 0: none
	MaxRequestsPerConn    uint32        // 0: no limit
	MaxStreamDuration     time.Duration // of an attempt; 0: none
	Keepalive             Keepalive
	Protocol              Protocol
	HTTP1                 h1.Rules  // http_protocol_options
	ResponseLimits        h1.Limits // max_response_headers_kb, max_headers_count
	HTTP2                 HTTP2Options
	// Transports holds the cluster's transport_socket_matches in order, the default
	// last (empty Labels); Endpoint.Transport is the one chosen for an endpoint.
	Transports []TransportMatch
	// Bind and Bind6 are the local addresses of connections, by family; invalid: the kernel
	// chooses.
	Bind, Bind6 netip.Addr
	// Inbound clusters dial the workload's own application.
	Inbound bool
	// LocalAddress, for OriginalDst clusters that must reach the application on a
	// fixed address whatever was dialled; invalid: what was dialled.
	LocalAddress netip.Addr

	// DestinationHeader, for OriginalDst clusters, may name another address and port than the client dialled; "": none may. Port, if
	// it is not 0, takes the place of any of these addresses' port.
	DestinationHeader string
	Port              uint16

	// Pattern is what names of a Dynamic cluster must be covered by; Lookup says which of their addresses are called, at Port.
	Pattern string
	Lookup  Lookup

	// Refused names the object because of which nobody is to be called here, or "A against B"; "" for all
	// other clusters. Awaited says that it is a secret that may still come: calls wait for it.
	Refused string
	Awaited bool

	// Tunnel says that TCP is to be taken further by endpoints; nil: they are where it goes.
	Tunnel *Tunnel

	Limits *Limits
	// Service is what the cluster stands for in metrics and logs.
	Service Service
	// Source is the object that says how the service is called, if there is one.
	Source observe.Origin
	// Version is the xDS version it came with.
	Version string

	// Places are of Endpoints, same order: where they stand; nil: all alike. Localities are what Place.Locality names.
	Places     []Place
	Localities []Locality
	// LocalityWeighted divides requests among the localities of a priority by their weights
	// (locality_weighted_lb_config); otherwise localities make no difference within a priority.
	LocalityWeighted bool
	// PanicAt is the percentage of endpoints in use below which health is not looked at (healthy_panic_threshold).
	PanicAt uint32
	// Keeps are the endpoints that sessions stay with (override_host_status).
	Keeps Keeps
	// Outlier is when endpoints are set aside for failing; nil: never.
	Outlier   *outlier.Config
	SlowStart SlowStart
	Check     *Check // what endpoints are asked from time to time; nil: nothing
	// Hash is what requests have in common that RingHash and Maglev send to one endpoint; TableSize is Maglev's, and four
	// times the points that RingHash gives an endpoint of weight 1.
	Hash      []HashKey
	TableSize uint32

	// Health is what was learned of the endpoints. It survives while the cluster's name does; Seal makes one where there is
	// none.
	Health *Health
}

// From is the local address of connections to e: the cluster's, or own towards other loopback addresses (env capture,
// where a workload is told by its address from others of the machine); invalid: the kernel chooses.
func (c *Cluster) From(e *Endpoint, own netip.Addr) netip.Addr {
	bind := c.Bind
	if e.Addr.Addr().Is6() && !e.Addr.Addr().Is4In6() {
		bind = c.Bind6
	}
	if !bind.IsValid() && !c.Inbound && own.IsLoopback() && e.Addr.Addr().IsLoopback() {
		return own
	}
	return bind
}

// Ported is an original destination with the cluster's own port, if it has one.
func (c *Cluster) Ported(a netip.AddrPort) netip.AddrPort {
	if c.Port != 0 && a.IsValid() {
		return netip.AddrPortFrom(a.Addr(), c.Port)
	}
	return a
}

// Pick is one of the addresses of a name, of those that Lookup wants, and another than those tried while there is one; invalid: there
// is none.
func (c *Cluster) Pick(all []netip.Addr, tried []*Endpoint, random uint64) (out netip.AddrPort) {
	six := c.Lookup == OnlyIPv6
	if c.Lookup == PreferIPv4 || c.Lookup == PreferIPv6 {
		six = c.Lookup == PreferIPv6
		if !slices.ContainsFunc(all, func(a netip.Addr) bool { return a.Is6() == six }) {
			six = !six
		}
	}
	n, again := uint64(0), false // of so many each is out with the same probability
	for _, a := range all {
		if c.Lookup != Both && a.Is6() != six {
			continue
		}
		at := netip.AddrPortFrom(a, c.Port)
		known := slices.ContainsFunc(tried, func(e *Endpoint) bool { return e.Addr == at })
		switch {
		case known && n > 0 && !again:
			continue
		case !known && again || n == 0:
			n, again = 0, known
		}
		if n++; reduced(random, n) == 0 {
			out = at
		}
		random = mix(random + 0x9e3779b97f4a7c15)
	}
	return out
}

// Tunnel is where connections to a cluster's endpoints, which are forward proxies, go on to.
type Tunnel struct {
	Host string // host:port
	Post bool   // asked for by POST instead of CONNECT
}

// Place is where an endpoint stands in its cluster.
type Place struct {
	Priority  uint8 // lower ones are used first
	Locality  uint16
	Unhealthy bool // as the control plane says: chosen in panic only
	Degraded  bool // as the control plane says: chosen as far as those that are not cannot take all
	Draining  bool // and Unhealthy: it is about to end
}

// Locality is a group of endpoints near each other.
type Locality struct {
	Name   string // "region/zone/subzone", "" for none
	Weight uint32 // load_balancing_weight, for LocalityWeighted
}

// SlowStart lets endpoints that are new take their share step by step (slow_start_config).
type SlowStart struct {
	Window     time.Duration // 0: at once
	Aggression float64       // 1 is linear, more is faster at first
	MinPercent float64       // of the share, at the beginning
}

// Name is a DNS name and port of a StrictDNS or LogicalDNS cluster.
type Name struct {
	Host   string
	Shown  string // what its endpoints are called: Host, unless the control plane says otherwise
	Port   uint16
	Weight uint32
	Lookup Lookup
	// Where its endpoints stand.
	Priority uint8
	Locality Locality
}

// Found is an address and which of the names of its cluster it was resolved from.
type Found struct {
	netip.AddrPort
	Name int
}

// Lookup says which of the addresses of a name are used (dns_lookup_family).
type Lookup uint8

// Lookups.
const (
	PreferIPv6 Lookup = iota // AUTO: IPv4 where there is no other
	PreferIPv4
	OnlyIPv4
	OnlyIPv6
	Both
)

// Of returns the addresses that are used.
func (l Lookup) Of(all []netip.Addr) []netip.Addr {
	var v4, v6 []netip.Addr
	for _, a := range all {
		if a = a.Unmap(); a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	switch {
	case l == OnlyIPv4, l == PreferIPv4 && len(v4) > 0, l == PreferIPv6 && len(v6) == 0:
		return v4
	case l == Both:
		return append(v4, v6...)
	}
	return v6
}

// Keepalive is TCP keep-alive; zero fields are the kernel's defaults.
type Keepalive struct {
	On             bool
	Time, Interval time.Duration
	Probes         uint32
}

// Service names the service behind a cluster, for destination_service labels.
type Service struct {
	Host, Name, Namespace string
	Port                  uint16 // of the cluster: the service's, of inbound ones the workload's; 0: unknown
}

// TransportMatch secures connections to endpoints whose metadata matches.
type TransportMatch struct {
	Name      string
	Labels    map[string]string // of envoy.transport_socket_match; empty matches all
	Transport *Transport        // nil: raw_buffer
}

// Transport is a transport socket: how connections begin and are secured.
type Transport struct {
	// Proxy is the PROXY protocol header that connections begin with, before TLS.
	Proxy proxyproto.Version
	// TCP is the context to dial with for TCP; those for HTTP differ in the protocols they
	// offer (ALPN): HTTP for HTTP/1.1, HTTP2, and Negotiated for whichever of them the
	// server prefers. proxy/state makes them. nil: plaintext.
	TCP, HTTP, HTTP2, Negotiated *tls.Client

	SNI  string
	ALPN []string
	// Istio says the ALPN is replaced by HTTP protocols (istio-http/1.1, istio,
	// http/1.1) when the connection carries HTTP (filter istio.alpn).
	Istio bool
	// Names are those accepted from the server.
	Names tls.Names
	// Key is equal for transports whose connections are interchangeable.
	Key string
}

// Endpoint is one address. Its address in memory and ID stay the same from one
// Cluster to the next while Key is unchanged, so pools and counts survive.
type Endpoint struct {
	ID   int32 // dense in one proxy process
	Key  string
	Addr netip.AddrPort
	Path string // a Unix socket instead of Addr
	// Also are further addresses of the same endpoint, of the other family mostly.
	Also []netip.AddrPort
	// Host is the name it was resolved from, or that the control plane says it has; "": neither.
	Host string
	// Checked is what active health checks are to ask instead.
	Checked  CheckedAt
	Workload Workload
	Limits   *Limits // of its cluster
	// Proxied: a workload of the mesh with a proxy, which speaks mesh TLS as a client too.
	Proxied bool

	// Transport secures new connections; nil is plaintext. It is replaced in place when
	// only the names accepted from the server change: connections stay.
	Transport atomic.Pointer[Transport]
	// Behalf says for which client connections are made, of an endpoint that is to know and
	// therefore serves one client each; nil of all others.
	Behalf *Behalf
	// Outlier is how it did lately, Sick that active health checks say it must not be used, Withdrawn that it asked for that itself, and
	// Degraded that it is to be used only where there are too few others: only they write these.
	Outlier                   outlier.Host
	Sick, Withdrawn, Degraded atomic.Bool
	// Unproven: it came to a cluster that was under checks before, and has not answered one yet. It is used where there is no other.
	Unproven atomic.Bool
	// Since is when it came, by the clock of the loops, for SlowStart; 0: that is not known yet.
	Since atomic.Int64
	// Active counts requests (or TCP connections) in flight, over all workers.
	Active atomic.Int32
	// Silent is until when, by the clock of the loops, others are called where there are any: it does not answer to
	// connections. 0: it does, as far as is known. Only Hush writes it but for that.
	Silent, SilentSince atomic.Int64
	// Gone is set when the endpoint left its cluster: idle connections are closed,
	// busy ones finish.
	Gone atomic.Bool
}

// Hush notes that the endpoint does not answer to connections.
func (e *Endpoint) Hush(now, until int64) {
	if e.Silent.Swap(until) < now {
		e.SilentSince.Store(now)
	}
}

// Silence is how long an endpoint may take to accept a connection, or to refuse it, before those who wait may choose another: its kernel
// does that, so it takes a round trip, unless more than one packet is lost or nobody is there. Avoided is for how long one that did not
// answer is not asked where others are, after it was last tried; Absent the same of one that is not there, which a round trip finds out.
const (
	Silence = 500 * time.Millisecond
	Avoided = 5 * time.Second
	Absent  = time.Second
)

// EachAddr visits the IP addresses of the endpoint.
func (e *Endpoint) EachAddr(visit func(netip.Addr)) {
	if e.Addr.IsValid() {
		visit(e.Addr.Addr())
	}
	for _, a := range e.Also {
		visit(a.Addr())
	}
}

// Behalf is a client and the address it connected to, for a PROXY protocol header, and the
// local address and packet mark of connections that carry its address.
type Behalf struct {
	Client, Asked, Source netip.AddrPort
	Mark                  uint32
}

// Workload is what endpoint metadata says about who listens there, for labels.
type Workload struct{ Name, Namespace, Service, Revision, Cluster string }

// Refusal is Refused as details of a response say it.
func (c *Cluster) Refusal() string {
	return causes.DestinationRefused.Details() + "{" + strings.ReplaceAll(c.Refused, " ", ":") + "}"
}

// InMesh reports whether the endpoints are workloads of the mesh: the control plane says which workload each is. An
// address a client dialled, a name that only DNS knows, or an address outside the mesh is a stranger's.
func (c *Cluster) InMesh() bool { return len(c.Endpoints) > 0 && c.Endpoints[0].Workload.Name != "" }

// Limits are a cluster's circuit breakers with what is in use, exact over workers.
// A Limits survives while the cluster's name does; maxima change in place.
type Limits struct {
	MaxConnections, MaxPending, MaxRequests, MaxRetries atomic.Uint32
	Connections, Pending, Requests, Retries             Use
	// What a maximum did not permit: a new connection, a request that would have waited, a request, another attempt.
	CxOverflow, PendingOverflow, RqOverflow, RetryOverflow atomic.Uint64
	Dropped                                                atomic.Uint64 // requests, by Cluster.Drop
	// What came of those that had a place, and is rare: connections that could not be made, those of them that took too long,
	// requests that did, attempts that did, further attempts, those of them that helped, requests that had no more left, and
	// attempts that the endpoint reset.
	ConnectFail, ConnectTimeout, RqTimeout, TryTimeout, Retried, RetrySuccess, RetryLimit, RqReset atomic.Uint64

	budget atomic.Pointer[RetryBudget] // instead of MaxRetries; nil: none
	recent recent
}

// Unlimited is Envoy's and Istio's "no limit": 2^32-1.
const Unlimited = ^uint32(0)

// Use is how many of something are in use.
type Use struct {
	atomic.Int32
	peak atomic.Int32
}

// Peak is the most that ever were.
func (u *Use) Peak() int32 { return u.peak.Load() }

func (u *Use) reached(n int32) {
	for {
		p := u.peak.Load()
		if n <= p || u.peak.CompareAndSwap(p, n) {
			return
		}
	}
}

// Acquire takes one of u unless max are in use.
func Acquire(u *Use, max *atomic.Uint32) bool {
	n := u.Add(1)
	if uint32(n) > max.Load() {
		u.Add(-1)
		return false
	}
	u.reached(n)
	return true
}
