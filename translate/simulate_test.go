package translate_test

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/simulate"
)

// The simulator describes where a call would land from what translation generated: the
// caller's listeners, routes, clusters and endpoints, then the callee's inbound listener.
// What matches and who is picked is answered by xds/simulate.

// call is one connection with one request on it.
type call struct {
	to      string // host:port, a name or an address; at a gateway the address of the gateway
	host    string // Host header; to's host by default
	path    string
	method  string
	headers []simulate.Header
	tcp     bool   // bytes that are not HTTP
	sni     string // the client speaks TLS itself
}

// simulator holds the mesh a call runs through.
type simulator struct {
	t     testing.TB
	cache *translate.Cache
	snap  *mesh.Snapshot
}

func simulated(t testing.TB, snap *mesh.Snapshot) *simulator {
	return &simulator{t, translate.New(), snap}
}

// given is everything a node gets.
func (s *simulator) given(n *translate.Node) *simulate.Proxy {
	p := simulate.New()
	p.Bound = n.Type == translate.Router || n.Interception == translate.NoInterception
	for _, set := range s.cache.View(s.snap, n).Sets {
		for name, r := range set.All() {
			p.Add(name, decode(s.t, r))
		}
	}
	return p
}

// send describes where c lands when from makes it: "outcome [route=…] [cluster=…] …".
func (s *simulator) send(from *translate.Node, c call) string {
	d := s.given(from)
	host, port, _ := strings.Cut(c.to, ":")
	if c.host == "" {
		c.host = host
		if port != "80" {
			c.host = c.to
		}
	}
	c.path, c.method = cmp.Or(c.path, "/"), cmp.Or(c.method, "GET")
	dst, err := netip.ParseAddr(host)
	if err != nil {
		var ok bool
		if dst, ok = d.Resolve(host, from.Namespace); !ok {
			return "no such name"
		}
	}
	var number uint16
	if _, err := fmt.Sscan(port, &number); err != nil {
		s.t.Fatalf("call to %q: %v", c.to, err)
	}
	conn := simulate.Connection{Destination: netip.AddrPortFrom(dst, number), Transport: "raw_buffer", ServerName: c.sni}
	l := d.Listener(conn.Destination)
	if l == nil {
		return "no listener"
	}
	switch {
	case c.sni != "":
		conn.Transport = "tls"
	case !c.tcp:
		conn.Protocols = []string{"http/1.1"}
	}
	chain := simulate.Pick(l, conn)
	if chain == nil {
		return "no filter chain"
	}
	return s.through(d, l, chain, conn, c)
}

// through follows a connection through its chain.
func (s *simulator) through(d *simulate.Proxy, l *listenerv3.Listener, chain *listenerv3.FilterChain, conn simulate.Connection, c call) string {
	last := chain.GetFilters()[len(chain.GetFilters())-1].GetTypedConfig()
	m, err := last.UnmarshalNew()
	if err != nil {
		s.t.Fatal(err)
	}
	switch f := m.(type) {
	case *tcpproxyv3.TcpProxy:
		if f.GetCluster() != "" {
			return "tcp " + s.upstream(d, f.GetCluster(), conn, false)
		}
		var out []string
		for _, w := range f.GetWeightedClusters().GetClusters() {
			out = append(out, fmt.Sprintf("%d%% %s", w.GetWeight(), s.upstream(d, w.GetName(), conn, false)))
		}
		return "tcp " + strings.Join(out, " | ")
	case *hcmv3.HttpConnectionManager:
		if c.tcp {
			return "400 not HTTP"
		}
		rc := f.GetRouteConfig()
		if f.GetRds() != nil {
			if rc = d.Routes[f.GetRds().GetRouteConfigName()]; rc == nil {
				return "no routes " + f.GetRds().GetRouteConfigName()
			}
		}
		return s.route(d, rc, conn, c)
	}
	s.t.Fatalf("listener %s: %T", l.GetName(), m)
	return ""
}

func (s *simulator) route(d *simulate.Proxy, rc *routev3.RouteConfiguration, conn simulate.Connection, c call) string {
	vh := simulate.VirtualHost(rc, c.host)
	if vh == nil {
		return "404 no virtual host"
	}
	for _, r := range vh.GetRoutes() {
		share, err := simulate.Matches(r.GetMatch(), simulate.Call{Method: c.method, Host: c.host, Path: c.path, Headers: c.headers})
		if err != nil {
			s.t.Fatal(err)
		}
		if share == 0 {
			continue
		}
		out := ""
		if r.GetName() != "" && r.GetName() != "default" {
			out = "route=" + r.GetName() + " "
		}
		switch {
		case r.GetRedirect() != nil:
			x := r.GetRedirect()
			scheme := x.GetSchemeRedirect()
			if x.GetHttpsRedirect() {
				scheme = "https"
			}
			return fmt.Sprintf("%s%s to %s://%s%s%s", out, x.GetResponseCode(), scheme, x.GetHostRedirect(), x.GetPathRedirect(), x.GetPrefixRewrite())
		case r.GetDirectResponse() != nil:
			return fmt.Sprintf("%s%d from the proxy", out, r.GetDirectResponse().GetStatus())
		}
		if len(r.GetTypedPerFilterConfig()) > 0 {
			out += strings.Join(slices.Sorted(maps.Keys(r.GetTypedPerFilterConfig())), ",") + " "
		}
		a := r.GetRoute()
		if w := a.GetPrefixRewrite(); w != "" {
			out += "path=" + w + " "
		}
		if h := a.GetHostRewriteLiteral(); h != "" {
			out += "host=" + h + " "
		}
		if a.GetCluster() != "" {
			return out + s.upstream(d, a.GetCluster(), conn, true)
		}
		var all []string
		for _, w := range a.GetWeightedClusters().GetClusters() {
			all = append(all, fmt.Sprintf("%d%% %s", w.GetWeight().GetValue(), s.upstream(d, w.GetName(), conn, true)))
		}
		return out + strings.Join(all, " | ")
	}
	return "404 no route"
}

// upstream describes a cluster and, for its first endpoint, what the workload there does
// with the connection.
func (s *simulator) upstream(d *simulate.Proxy, name string, conn simulate.Connection, http bool) string {
	c := d.Clusters[name]
	if c == nil {
		return name + " 503 NC"
	}
	var endpoints []*endpointv3.LbEndpoint
	load := c.GetLoadAssignment()
	if c.GetType() == clusterv3.Cluster_EDS {
		load = d.Endpoints[c.GetEdsClusterConfig().GetServiceName()]
	}
	for _, l := range load.GetEndpoints() {
		endpoints = append(endpoints, l.GetLbEndpoints()...)
	}
	out := name
	if after, ok := strings.CutPrefix(out, "outbound|"); ok {
		out = strings.TrimSuffix(after, ".svc.cluster.local")
	}
	var to netip.AddrPort
	var socket *corev3.TransportSocket
	switch {
	case c.GetType() == clusterv3.Cluster_ORIGINAL_DST:
		to, socket = conn.Destination, c.GetTransportSocket()
	case len(endpoints) == 0:
		if why := c.GetMetadata().GetFilterMetadata()["weir"].GetFields()["refused"].GetStringValue(); why != "" {
			return out + " 503 UH refused: " + why
		}
		return out + " 503 UH"
	default:
		at := endpoints[0].GetEndpoint().GetAddress().GetSocketAddress()
		addr, err := netip.ParseAddr(at.GetAddress())
		if err != nil {
			return fmt.Sprintf("%s -> %s:%d%s", out, at.GetAddress(), at.GetPortValue(), s.tls(c.GetTransportSocket()))
		}
		to = netip.AddrPortFrom(addr, uint16(at.GetPortValue()))
		socket = simulate.SocketFor(c, endpoints[0])
	}
	if c.GetType() == clusterv3.Cluster_STATIC { // the application behind a proxy
		return out
	}
	return fmt.Sprintf("%s -> %s%s %s", out, to, s.tls(socket), s.arrive(to, socket, conn, http))
}

func (s *simulator) context(socket *corev3.TransportSocket) *tlsv3.UpstreamTlsContext {
	u := &tlsv3.UpstreamTlsContext{}
	if socket == nil || !socket.GetTypedConfig().MessageIs(u) {
		return nil
	}
	if err := socket.GetTypedConfig().UnmarshalTo(u); err != nil {
		s.t.Fatal(err)
	}
	return u
}

func (s *simulator) tls(socket *corev3.TransportSocket) string {
	u := s.context(socket)
	switch {
	case u == nil:
		return ""
	case slices.Contains(u.GetCommonTlsContext().GetAlpnProtocols(), "istio"):
		return " mTLS"
	}
	return " TLS sni=" + u.GetSni()
}

// arrive is what the workload at an address does with the connection: "ok", or why not.
// "" if no workload with a proxy is there.
func (s *simulator) arrive(to netip.AddrPort, socket *corev3.TransportSocket, conn simulate.Connection, http bool) string {
	for w := range s.snap.Workloads.Values() {
		if !slices.Contains(w.Addresses, to.Addr()) || !w.Proxied {
			continue
		}
		d := s.given(&translate.Node{Type: translate.Sidecar, Namespace: w.Namespace, Name: w.Name, Interception: translate.Redirect})
		in := simulate.Connection{Destination: to, Transport: "raw_buffer", ServerName: conn.ServerName}
		if http {
			in.Protocols = []string{"http/1.1"}
		}
		u := s.context(socket)
		if conn.Transport == "tls" && u == nil {
			in.Transport, in.Protocols = "tls", nil
		}
		if u != nil {
			in.Transport, in.ServerName, in.Protocols = "tls", u.GetSni(), u.GetCommonTlsContext().GetAlpnProtocols()
			if http && slices.Contains(in.Protocols, "istio") {
				in.Protocols = []string{"istio-http/1.1", "istio", "http/1.1"} // the istio.alpn filter
			}
		}
		chain := simulate.Pick(d.Listeners["virtualInbound"], in)
		switch {
		case chain == nil:
			return "refused"
		case u != nil && chain.GetTransportSocket() == nil:
			return "refused: TLS, and the workload takes it for the application's"
		}
		return "ok"
	}
	return ""
}
