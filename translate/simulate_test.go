package translate_test

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
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
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weirmesh/weir/api/nds"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
)

// The simulator answers where a call would land, by the rules of xDS alone, from what
// translation generated: the caller's listeners, routes, clusters and endpoints, then
// the callee's inbound listener.

// call is one connection with one request on it.
type call struct {
	to      string // host:port, a name or an address; at a gateway the address of the gateway
	host    string // Host header; to's host by default
	path    string
	method  string
	headers map[string]string
	tcp     bool   // bytes that are not HTTP
	sni     string // the client speaks TLS itself
}

// simulator holds the mesh a call runs through.
type simulator struct {
	t     testing.TB
	cache *translate.Cache
	snap  *mesh.Snapshot
}

func simulate(t testing.TB, snap *mesh.Snapshot) *simulator {
	return &simulator{t, translate.New(), snap}
}

// view decodes everything a node gets.
type decoded struct {
	listeners map[string]*listenerv3.Listener
	routes    map[string]*routev3.RouteConfiguration
	clusters  map[string]*clusterv3.Cluster
	loads     map[string]*endpointv3.ClusterLoadAssignment
	names     *nds.NameTable
}

func (s *simulator) decode(n *translate.Node) *decoded {
	d := &decoded{map[string]*listenerv3.Listener{}, map[string]*routev3.RouteConfiguration{}, map[string]*clusterv3.Cluster{},
		map[string]*endpointv3.ClusterLoadAssignment{}, &nds.NameTable{}}
	for _, set := range s.cache.View(s.snap, n).Sets {
		for name, r := range set.All() {
			switch m := decode(s.t, r).(type) {
			case *listenerv3.Listener:
				d.listeners[name] = m
			case *routev3.RouteConfiguration:
				d.routes[name] = m
			case *clusterv3.Cluster:
				d.clusters[name] = m
			case *endpointv3.ClusterLoadAssignment:
				d.loads[name] = m
			case *nds.NameTable:
				d.names = m
			}
		}
	}
	return d
}

// send describes where c lands when from makes it: "outcome [route=…] [cluster=…] …".
func (s *simulator) send(from *translate.Node, c call) string {
	d := s.decode(from)
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
		if dst, ok = d.resolve(host, from.Namespace); !ok {
			return "no such name"
		}
	}
	var number uint16
	if _, err := fmt.Sscan(port, &number); err != nil {
		s.t.Fatalf("call to %q: %v", c.to, err)
	}
	l := d.listener(from, dst, number)
	if l == nil {
		return "no listener"
	}
	conn := connection{dst: netip.AddrPortFrom(dst, number), transport: "raw_buffer", sni: c.sni}
	switch {
	case c.sni != "":
		conn.transport = "tls"
	case !c.tcp:
		conn.alpn = []string{"http/1.1"}
	}
	chain := pick(l, conn)
	if chain == nil {
		return "no filter chain"
	}
	return s.through(d, l, chain, conn, c)
}

// resolve is a resolver with Kubernetes' search list.
func (d *decoded) resolve(host, ns string) (netip.Addr, bool) {
	for _, suffix := range []string{"", "." + ns + ".svc.cluster.local", ".svc.cluster.local", ".cluster.local"} {
		if info := d.names.GetTable()[host+suffix]; info != nil {
			return netip.MustParseAddr(info.GetIps()[0]), true
		}
	}
	return netip.Addr{}, false
}

func (d *decoded) listener(from *translate.Node, dst netip.Addr, port uint16) *listenerv3.Listener {
	bound := func(l *listenerv3.Listener) bool {
		a := l.GetAddress().GetSocketAddress()
		return (a.GetAddress() == dst.String() || a.GetAddress() == "0.0.0.0") && a.GetPortValue() == uint32(port)
	}
	if from.Type == translate.Router || from.Interception == translate.NoInterception {
		for _, name := range slices.Sorted(maps.Keys(d.listeners)) {
			if bound(d.listeners[name]) {
				return d.listeners[name]
			}
		}
		return nil
	}
	for _, name := range []string{fmt.Sprintf("%s_%d", dst, port), fmt.Sprintf("0.0.0.0_%d", port), "virtualOutbound"} {
		if l := d.listeners[name]; l != nil {
			return l
		}
	}
	return nil
}

// connection is what filter chains match.
type connection struct {
	dst       netip.AddrPort
	transport string
	sni       string
	alpn      []string
}

// pick chooses a chain as FilterChainMatch specifies: criterion after criterion, the
// most specific that matches, never going back.
func pick(l *listenerv3.Listener, c connection) *listenerv3.FilterChain {
	left := l.GetFilterChains()
	narrow := func(score func(*listenerv3.FilterChainMatch) int) { // -1: no match, 0: not said
		best := -1
		for _, f := range left {
			best = max(best, score(f.GetFilterChainMatch()))
		}
		left = slices.DeleteFunc(slices.Clone(left), func(f *listenerv3.FilterChain) bool {
			v := score(f.GetFilterChainMatch())
			return v < 0 || v != best
		})
	}
	narrow(func(m *listenerv3.FilterChainMatch) int {
		if m.GetDestinationPort() == nil {
			return 0
		}
		return match(m.GetDestinationPort().GetValue() == uint32(c.dst.Port()), 1)
	})
	narrow(func(m *listenerv3.FilterChainMatch) int {
		if len(m.GetPrefixRanges()) == 0 {
			return 0
		}
		best := -1
		for _, r := range m.GetPrefixRanges() {
			p := netip.PrefixFrom(netip.MustParseAddr(r.GetAddressPrefix()), int(r.GetPrefixLen().GetValue()))
			best = max(best, match(p.Contains(c.dst.Addr()), p.Bits()+1))
		}
		return best
	})
	narrow(func(m *listenerv3.FilterChainMatch) int {
		if len(m.GetServerNames()) == 0 {
			return 0
		}
		best := -1
		for _, n := range m.GetServerNames() {
			best = max(best, match(n == c.sni || strings.HasPrefix(n, "*.") && strings.HasSuffix(c.sni, n[1:]), len(n)+1))
		}
		return best
	})
	narrow(func(m *listenerv3.FilterChainMatch) int {
		if m.GetTransportProtocol() == "" {
			return 0
		}
		return match(m.GetTransportProtocol() == c.transport, 1)
	})
	narrow(func(m *listenerv3.FilterChainMatch) int {
		if len(m.GetApplicationProtocols()) == 0 {
			return 0
		}
		return match(slices.ContainsFunc(c.alpn, func(p string) bool { return slices.Contains(m.GetApplicationProtocols(), p) }), 1)
	})
	if len(left) == 0 {
		return l.GetDefaultFilterChain()
	}
	return left[0]
}

func match(ok bool, score int) int {
	if ok {
		return score
	}
	return -1
}

// through follows a connection through its chain.
func (s *simulator) through(d *decoded, l *listenerv3.Listener, chain *listenerv3.FilterChain, conn connection, c call) string {
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
			if rc = d.routes[f.GetRds().GetRouteConfigName()]; rc == nil {
				return "no routes " + f.GetRds().GetRouteConfigName()
			}
		}
		return s.route(d, rc, conn, c)
	}
	s.t.Fatalf("listener %s: %T", l.GetName(), m)
	return ""
}

func (s *simulator) route(d *decoded, rc *routev3.RouteConfiguration, conn connection, c call) string {
	vh := virtualHost(rc, c.host)
	if vh == nil {
		return "404 no virtual host"
	}
	for _, r := range vh.GetRoutes() {
		if !matches(s.t, r.GetMatch(), c) {
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

func virtualHost(rc *routev3.RouteConfiguration, host string) *routev3.VirtualHost {
	if rc.GetIgnorePortInHostMatching() {
		host, _, _ = strings.Cut(host, ":")
	}
	var best *routev3.VirtualHost
	length := -1
	for _, vh := range rc.GetVirtualHosts() {
		for _, d := range vh.GetDomains() {
			n := -1
			switch {
			case d == host:
				n = 10_000
			case d == "*":
				n = 0
			case strings.HasPrefix(d, "*") && strings.HasSuffix(host, d[1:]):
				n = len(d)
			}
			if n > length {
				best, length = vh, n
			}
		}
	}
	return best
}

func matches(t testing.TB, m *routev3.RouteMatch, c call) bool {
	path, query, _ := strings.Cut(c.path, "?")
	fold := m.GetCaseSensitive() != nil && !m.GetCaseSensitive().GetValue()
	is := func(s string) string {
		if fold {
			return strings.ToLower(s)
		}
		return s
	}
	switch p := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Path:
		if is(path) != is(p.Path) {
			return false
		}
	case *routev3.RouteMatch_Prefix:
		if !strings.HasPrefix(is(path), is(p.Prefix)) {
			return false
		}
	case *routev3.RouteMatch_SafeRegex:
		if !regexp.MustCompile("^(?:" + p.SafeRegex.GetRegex() + ")$").MatchString(path) {
			return false
		}
	default:
		t.Fatalf("path match %T", p)
	}
	for _, h := range m.GetHeaders() {
		v, ok := c.headers[h.GetName()]
		switch h.GetName() {
		case ":method":
			v, ok = c.method, true
		case ":authority":
			v, ok = c.host, true
		case ":scheme":
			v, ok = "http", true
		}
		if (ok && holds(h.GetStringMatch(), v)) == h.GetInvertMatch() {
			return false
		}
	}
	for _, q := range m.GetQueryParameters() {
		found := false
		for kv := range strings.SplitSeq(query, "&") {
			k, v, _ := strings.Cut(kv, "=")
			found = found || k == q.GetName() && holds(q.GetStringMatch(), v)
		}
		if !found {
			return false
		}
	}
	return true
}

// holds is true for no matcher at all: presence.
func holds(m *matcherv3.StringMatcher, v string) bool {
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		return v == p.Exact
	case *matcherv3.StringMatcher_Prefix:
		return strings.HasPrefix(v, p.Prefix)
	case *matcherv3.StringMatcher_SafeRegex:
		return regexp.MustCompile("^(?:" + p.SafeRegex.GetRegex() + ")$").MatchString(v)
	}
	return true
}

// upstream describes a cluster and, for its first endpoint, what the workload there does
// with the connection.
func (s *simulator) upstream(d *decoded, name string, conn connection, http bool) string {
	c := d.clusters[name]
	if c == nil {
		return name + " 503 NC"
	}
	var endpoints []*endpointv3.LbEndpoint
	load := c.GetLoadAssignment()
	if c.GetType() == clusterv3.Cluster_EDS {
		load = d.loads[c.GetEdsClusterConfig().GetServiceName()]
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
		to, socket = conn.dst, c.GetTransportSocket()
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
		socket = socketFor(c, endpoints[0])
	}
	if c.GetType() == clusterv3.Cluster_STATIC { // the application behind a proxy
		return out
	}
	return fmt.Sprintf("%s -> %s%s %s", out, to, s.tls(socket), s.arrive(to, socket, conn, http))
}

func socketFor(c *clusterv3.Cluster, e *endpointv3.LbEndpoint) *corev3.TransportSocket {
	has := e.GetMetadata().GetFilterMetadata()["envoy.transport_socket_match"].GetFields()
	for _, m := range c.GetTransportSocketMatches() {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(m.GetMatch().GetFields())), func(k string) bool {
			return !equalValue(has[k], m.GetMatch().GetFields()[k])
		}) {
			return m.GetTransportSocket()
		}
	}
	return c.GetTransportSocket()
}

func equalValue(a, b *structpb.Value) bool {
	return a != nil && a.GetStringValue() == b.GetStringValue()
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
func (s *simulator) arrive(to netip.AddrPort, socket *corev3.TransportSocket, conn connection, http bool) string {
	for w := range s.snap.Workloads.Values() {
		if !slices.Contains(w.Addresses, to.Addr()) || !w.Proxied {
			continue
		}
		d := s.decode(&translate.Node{Type: translate.Sidecar, Namespace: w.Namespace, Name: w.Name, Interception: translate.Redirect})
		in := connection{dst: to, transport: "raw_buffer", sni: conn.sni}
		if http {
			in.alpn = []string{"http/1.1"}
		}
		u := s.context(socket)
		if conn.transport == "tls" && u == nil {
			in.transport, in.alpn = "tls", nil
		}
		if u != nil {
			in.transport, in.sni, in.alpn = "tls", u.GetSni(), u.GetCommonTlsContext().GetAlpnProtocols()
			if http && slices.Contains(in.alpn, "istio") {
				in.alpn = []string{"istio-http/1.1", "istio", "http/1.1"} // the istio.alpn filter
			}
		}
		chain := pick(d.listeners["virtualInbound"], in)
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
