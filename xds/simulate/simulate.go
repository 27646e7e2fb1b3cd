// Package simulate answers where a call would land, by the rules of xDS alone: what a proxy was
// given and a call enter, everything that can become of the call leaves, each with its share.
//
// It is a reading of the xDS specification beside that of the data plane, whose code it does
// not use, so that the two can be held against each other; and it answers without a proxy,
// for who asks what a change would do. It knows what does not depend on time: no retries, no
// timeouts, no ejected endpoints, but it tells which of them would apply. Functions are pure:
// no clock, no goroutine, no network. A Proxy may be read by any number of goroutines once
// everything was added.
package simulate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	sniclusterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/sni_cluster/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weirmesh/weir/api/nds"
	"github.com/weirmesh/weir/xds/resource"
)

// Proxy is what one proxy was given, by name.
type Proxy struct {
	Listeners map[string]*listenerv3.Listener
	Routes    map[string]*routev3.RouteConfiguration
	Clusters  map[string]*clusterv3.Cluster
	Endpoints map[string]*endpointv3.ClusterLoadAssignment
	Secrets   map[string]*tlsv3.Secret
	Names     *nds.NameTable
	Files     map[string][]byte // that its configuration names, by path
	// Bound says that the proxy listens at the addresses of its listeners (a gateway, env
	// capture), and does not find them by original destination.
	Bound bool
}

// New returns a Proxy that was given nothing.
func New() *Proxy {
	return &Proxy{Listeners: map[string]*listenerv3.Listener{}, Routes: map[string]*routev3.RouteConfiguration{}, Clusters: map[string]*clusterv3.Cluster{},
		Endpoints: map[string]*endpointv3.ClusterLoadAssignment{}, Secrets: map[string]*tlsv3.Secret{}, Names: &nds.NameTable{}, Files: map[string][]byte{}}
}

// Add gives the proxy a resource. Types that say nothing about where calls go are left out.
func (p *Proxy) Add(name string, m proto.Message) {
	switch m := m.(type) {
	case *listenerv3.Listener:
		p.Listeners[name] = m
	case *routev3.RouteConfiguration:
		p.Routes[name] = m
	case *clusterv3.Cluster:
		p.Clusters[name] = m
	case *endpointv3.ClusterLoadAssignment:
		p.Endpoints[name] = m
	case *tlsv3.Secret:
		p.Secrets[name] = m
	case *nds.NameTable:
		p.Names = m
	}
}

// Header is a header of a request or response, its name in lower case.
type Header struct{ Name, Value string }

// Call is one connection with one request on it.
type Call struct {
	To     netip.AddrPort // where the connection goes
	From   netip.AddrPort // where it comes from, and Direct on whose behalf it connects: see Connection
	Direct netip.Addr
	Socket string // the Unix socket it goes to instead, by its path
	SNI    string // the client itself speaks TLS, and names this server
	Bytes  bool   // what it says, inside of TLS if it speaks that, is not HTTP
	Peer   Peer   // the client, where its TLS ends here
	H2     bool   // it speaks HTTP/2 without TLS

	Method, Host, Path string // Path with its query
	Headers            []Header
}

// Outcome is one thing that can become of a call.
type Outcome struct {
	Share float64 // of calls like this one; those of all Outcomes add up to 1

	Listener, Chain, Table, VirtualHost, Route string

	// Refused is why the client's handshake, if its TLS ends here, does not come about; nothing
	// else is told then. Shown is what the client sees.
	Refused string
	Shown   Server

	// Status, Flags and Details are of a call that the proxy answers by itself; Status 0
	// without Flags is forwarded to one of the Endpoints, as Request. A connection that is
	// not HTTP has Flags only.
	Status  int
	Flags   string
	Details string
	Body    string
	Reply   []Header // of the proxy's own answer
	Delayed bool     // fault injection: flag DI beside the others

	Cluster   string
	Endpoints []Endpoint
	Request   Request
	Response  []Mutation // of what the endpoint answers, in order
	Mirrors   []Mirror
	Action    *routev3.RouteAction // nil if nothing is forwarded by HTTP
}

// Request is what an endpoint gets.
type Request struct {
	Authority, Path string
	Headers         []Header // of the call, and those that routes add; not what proxies say for themselves
}

// Mirror is a cluster that gets a copy of a share of the requests, and an answer nobody reads.
type Mirror struct {
	Cluster   string
	Share     float64
	Endpoints []Endpoint
}

// Endpoint is one that may get the call.
type Endpoint struct {
	Address string  // host:port
	Weight  float64 // its share beside the others
	// TLS is how it is called; nil: in plaintext.
	TLS *corev3.TransportSocket
}

// Mutation is one operation on headers.
type Mutation struct {
	Op    Op
	Name  string
	Value string // as configured, with %OPERATORS%
}

// Op is what a Mutation does.
type Op uint8

// Operations.
const (
	Set Op = iota
	Append
	AddIfAbsent
	SetIfPresent
	Remove
)

// Apply does ms to headers.
func Apply(headers []Header, ms []Mutation, expand func(string) string) []Header {
	out := append([]Header(nil), headers...)
	has := func(name string) int {
		for i := range out {
			if out[i].Name == name {
				return i
			}
		}
		return -1
	}
	drop := func(name string) {
		kept := out[:0]
		for _, h := range out {
			if h.Name != name {
				kept = append(kept, h)
			}
		}
		out = kept
	}
	for _, m := range ms {
		switch m.Op {
		case Remove:
			drop(m.Name)
			continue
		case Set:
			drop(m.Name)
		case SetIfPresent:
			if has(m.Name) < 0 {
				continue
			}
			drop(m.Name)
		case AddIfAbsent:
			if has(m.Name) >= 0 {
				continue
			}
		case Append:
		}
		out = append(out, Header{m.Name, expand(m.Value)})
	}
	return out
}

// Call answers what can become of c.
func (p *Proxy) Call(c Call) ([]Outcome, error) {
	l := p.Listener(c.To)
	if c.Socket != "" {
		l = p.socket(c.Socket)
	}
	if l == nil {
		return []Outcome{{Share: 1, Flags: "NR", Details: "no listener"}}, nil
	}
	conn := Connection{Destination: c.To, Transport: "raw_buffer", ServerName: c.SNI, Source: c.From, Direct: c.Direct, Local: c.Socket != ""}
	switch {
	case c.SNI != "":
		conn.Transport = "tls"
	case c.H2:
		conn.Protocols = []string{"h2c"}
	case !c.Bytes:
		conn.Protocols = []string{"http/1.1"}
	}
	chain := Pick(l, conn)
	if chain == nil {
		return []Outcome{{Share: 1, Listener: l.GetName(), Flags: "NR", Details: "filter_chain_not_found"}}, nil
	}
	var shown Server
	switch ends := strings.HasSuffix(chain.GetTransportSocket().GetName(), "tls"); {
	case ends && c.SNI == "":
		return []Outcome{{Share: 1, Listener: l.GetName(), Chain: chain.GetName(), Refused: "the client does not speak TLS"}}, nil
	case ends:
		var why string
		var err error
		if shown, why, err = p.Accept(chain.GetTransportSocket(), c.Peer); err != nil || why != "" {
			return []Outcome{{Share: 1, Listener: l.GetName(), Chain: chain.GetName(), Refused: why}}, err
		}
	case c.SNI != "":
		c.Bytes = true // a proxy that does not end it sees no HTTP
	}
	out, err := p.through(chain, c)
	for i := range out {
		out[i].Listener, out[i].Chain, out[i].Shown = l.GetName(), chain.GetName(), shown
	}
	return out, err
}

// through follows a call through its filter chain.
func (p *Proxy) through(chain *listenerv3.FilterChain, c Call) ([]Outcome, error) {
	filters := chain.GetFilters()
	if len(filters) == 0 {
		return []Outcome{{Share: 1, Flags: "NR", Details: "the chain has no filters"}}, nil
	}
	m, err := filters[len(filters)-1].GetTypedConfig().UnmarshalNew()
	if err != nil {
		return nil, fmt.Errorf("filter %s: %w", filters[len(filters)-1].GetName(), err)
	}
	switch f := m.(type) {
	case *tcpproxyv3.TcpProxy:
		if slices.ContainsFunc(filters, func(f *listenerv3.Filter) bool { return f.GetTypedConfig().MessageIs(&sniclusterv3.SniCluster{}) }) {
			f.ClusterSpecifier = &tcpproxyv3.TcpProxy_Cluster{Cluster: c.SNI} // f is a copy of its own
		}
		return p.relay(f, c), nil
	case *hcmv3.HttpConnectionManager:
		if c.Bytes {
			return []Outcome{{Share: 1, Status: 400, Flags: "DPE"}}, nil
		}
		rc := f.GetRouteConfig()
		if rds := f.GetRds(); rds != nil {
			if rc = p.Routes[rds.GetRouteConfigName()]; rc == nil {
				return []Outcome{{Share: 1, Table: rds.GetRouteConfigName(), Status: 404, Flags: "NR", Details: "route_not_found"}}, nil
			}
		}
		return p.route(rc, f, c)
	}
	return nil, fmt.Errorf("filter %s: a chain that ends in %T cannot be followed", filters[len(filters)-1].GetName(), m)
}

// relay is what a TCP proxy does.
func (p *Proxy) relay(f *tcpproxyv3.TcpProxy, c Call) []Outcome {
	to := func(share float64, cluster string) Outcome {
		o := Outcome{Share: share, Cluster: cluster}
		var known bool
		if o.Endpoints, known = p.endpoints(cluster, c.To, c.SNI); !known {
			o.Flags = "NC"
		} else if len(o.Endpoints) == 0 {
			o.Flags = "UH"
		}
		return o
	}
	if f.GetCluster() != "" {
		return []Outcome{to(1, f.GetCluster())}
	}
	var out []Outcome
	total := 0.0
	for _, w := range f.GetWeightedClusters().GetClusters() {
		total += float64(w.GetWeight())
	}
	for _, w := range f.GetWeightedClusters().GetClusters() {
		if w.GetWeight() > 0 {
			out = append(out, to(float64(w.GetWeight())/total, w.GetName()))
		}
	}
	return out
}

// endpoints are those of a cluster that is called for a connection to dst, by a client that asks for a name.
func (p *Proxy) endpoints(cluster string, dst netip.AddrPort, name string) (out []Endpoint, known bool) {
	c := p.Clusters[cluster]
	if c == nil {
		return nil, false
	}
	if p.waits(c.GetTransportSocket()) {
		return nil, true
	}
	if c.GetClusterType().GetName() == resource.ForwardProxyCluster {
		of := c.GetMetadata().GetFilterMetadata()["weir"].GetFields()["dynamic"].GetStructValue().GetFields()
		name, _, _ = strings.Cut(strings.ToLower(name), ":")
		if name = strings.TrimSuffix(name, "."); !strings.HasSuffix(name, strings.TrimPrefix(of["host"].GetStringValue(), "*")) {
			return nil, true
		}
		return []Endpoint{{Address: fmt.Sprintf("%s:%d", name, int(of["port"].GetNumberValue())), TLS: c.GetTransportSocket()}}, true
	}
	if c.GetType() == clusterv3.Cluster_ORIGINAL_DST {
		return []Endpoint{{Address: dst.String(), TLS: c.GetTransportSocket()}}, true
	}
	load := c.GetLoadAssignment()
	if c.GetType() == clusterv3.Cluster_EDS {
		name := c.GetEdsClusterConfig().GetServiceName()
		if name == "" {
			name = cluster
		}
		load = p.Endpoints[name]
	}
	return Spread(c, load), true
}

// healthy reports whether an endpoint gets calls, degraded whether it gets those that healthy ones cannot take.
func healthy(e *endpointv3.LbEndpoint) bool {
	switch e.GetHealthStatus() {
	case corev3.HealthStatus_UNKNOWN, corev3.HealthStatus_HEALTHY:
		return true
	case corev3.HealthStatus_UNHEALTHY, corev3.HealthStatus_DRAINING, corev3.HealthStatus_TIMEOUT, corev3.HealthStatus_DEGRADED:
	}
	return false
}

func degraded(e *endpointv3.LbEndpoint) bool {
	return e.GetHealthStatus() == corev3.HealthStatus_DEGRADED
}

func anybody(*endpointv3.LbEndpoint) bool { return true }

func addressOf(a *corev3.Address) string {
	if pipe := a.GetPipe(); pipe != nil {
		return pipe.GetPath()
	}
	s := a.GetSocketAddress()
	host := s.GetAddress()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s:%d", host, s.GetPortValue())
}

// SocketFor is how an endpoint of a cluster is called: the first of the cluster's
// transport_socket_matches that its metadata satisfies.
func SocketFor(c *clusterv3.Cluster, e *endpointv3.LbEndpoint) *corev3.TransportSocket {
	has := e.GetMetadata().GetFilterMetadata()["envoy.transport_socket_match"].GetFields()
next:
	for _, m := range c.GetTransportSocketMatches() {
		for k, v := range m.GetMatch().GetFields() {
			if has[k] == nil || has[k].GetStringValue() != v.GetStringValue() {
				continue next
			}
		}
		return m.GetTransportSocket()
	}
	return c.GetTransportSocket()
}
