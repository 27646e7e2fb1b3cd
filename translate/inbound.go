package translate

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

// inboundSet is a sidecar's own part. Workloads that serve the same ports of the same
// services under the same policy share one.
type inboundSet struct {
	listeners, clusters []*resource.Resource
	problems            []Problem
	used                uint64
}

func (in *inboundSet) of(typeURL string) []*resource.Resource {
	switch typeURL {
	case resource.ListenerType:
		return in.listeners
	case resource.ClusterType:
		return in.clusters
	}
	return nil
}

// served is one port of a workload that services lead to.
type served struct {
	port        uint16 // the workload's
	servicePort uint16
	protocol    mesh.Protocol
	mode        mesh.MTLSMode
	services    []*mesh.Service      // the first one decides
	app         netip.AddrPort       // where the application listens, if not where connections are dialled
	socket      string               // or its Unix socket
	bind        netip.Addr           // the one address at which it is served; invalid: all
	listens     netip.Addr           // where the proxy itself listens; invalid: nowhere
	tls         *mesh.ServerTLS      // of clients that are not of the mesh, ended here
	pool        *mesh.ConnectionPool // of connections to the application
	sidecar     *mesh.Sidecar        // that says so; nil: services do
	authz       *authorization       // who may do what
}

func (p *served) http() bool  { return p.protocol.IsHTTP() }
func (p *served) sniff() bool { return p.protocol == mesh.Auto }

// inbound returns what n accepts.
func (c *Cache) inbound(n *Node, labels mesh.Labels) *inboundSet {
	ports := c.servedPorts(n, labels)
	if n.Proxyless {
		ports = c.directPorts(n, labels)
	} else {
		s := c.index.sidecarFor(n.Namespace, labels, c.base.settings.RootNamespace)
		ports = ingress(s, n, ports)
		for i := range ports {
			if p := &ports[i]; p.pool == nil && s != nil && s.Pool != nil {
				p.pool, p.sidecar = s.Pool, s
			}
		}
	}
	accepts := c.base.authn.of(n.Namespace, labels)
	allows := c.authz.of(c.base.settings, n, labels)
	for i := range ports {
		ports[i].mode, ports[i].authz = accepts.on(ports[i].port), allows
	}
	var key strings.Builder
	fmt.Fprintf(&key, "%d %s %d %v", c.base.epoch, n.Interception, accepts.mode, n.Inbound)
	for _, at := range n.Inbound {
		fmt.Fprintf(&key, " %d", accepts.on(at.Port))
	}
	key.WriteString(allows.key)
	for _, p := range accepts.by { // those that say the same differ in what the resources are made of
		if p != nil {
			fmt.Fprintf(&key, " %s/%s", p.Namespace, p.Name)
		}
	}
	for _, p := range ports {
		fmt.Fprintf(&key, " %d,%d,%s,%d,%s,%s,%s,%s", p.port, p.servicePort, p.protocol, p.mode, p.app, p.socket, p.bind, p.listens)
		if p.tls != nil {
			fmt.Fprintf(&key, ",%+v", *p.tls)
		}
		if p.pool != nil {
			fmt.Fprintf(&key, ",%+v", *p.pool)
		}
		if p.sidecar != nil {
			fmt.Fprintf(&key, ",%s/%s", p.sidecar.Ref.Namespace, p.sidecar.Ref.Name)
		}
		for _, s := range p.services {
			key.WriteString("," + s.Hostname + "/" + s.Namespace)
		}
	}
	if n.Proxyless {
		key.WriteString(n.directKey(labels))
	}
	in := c.inbounds[key.String()]
	if in == nil {
		in = &inboundSet{}
		if n.Proxyless {
			c.base.directInbound(in, n, labels, ports)
		} else if n.Interception == NoInterception {
			c.base.boundInbound(in, n, ports, accepts, allows)
		} else {
			c.base.capturedInbound(in, n.Interception == TProxy, ports, accepts, allows)
		}
		in.intern(c.own)
		c.inbounds[key.String()] = in
	}
	in.used = c.gen
	return in
}

// servedPorts are the ports of n's workload that services lead to, in order. Readiness
// does not matter here: what a workload accepts must not change when its health does.
func (c *Cache) servedPorts(n *Node, labels mesh.Labels) []served {
	var out []served
	c.eachServed(n, labels, func(s *mesh.Service, p *mesh.Port, port uint16) {
		if i := slices.IndexFunc(out, func(o served) bool { return o.port == port }); i >= 0 {
			out[i].services = append(out[i].services, s)
			return
		}
		out = append(out, served{port: port, servicePort: p.Number, protocol: p.Protocol, services: []*mesh.Service{s}})
	})
	slices.SortFunc(out, func(a, b served) int { return int(a.port) - int(b.port) })
	return out
}

// ingress are the ports that s has a workload serve; those of services if it says nothing.
// A workload that no service leads to serves none, as in Istio.
func ingress(s *mesh.Sidecar, n *Node, ports []served) []served {
	if s == nil || s.Ingress == nil || len(ports) == 0 {
		return ports
	}
	var out []served
	for _, in := range s.Ingress {
		if in.Port == 0 { // as of services: nothing listens there
			continue
		}
		p := served{port: in.Port, servicePort: in.Port, protocol: in.Protocol, app: in.App, socket: in.Socket, bind: in.Bind,
			tls: in.TLS, pool: in.Pool, sidecar: s}
		if i := slices.IndexFunc(ports, func(o served) bool { return o.port == in.Port }); i >= 0 {
			p.servicePort, p.services = ports[i].servicePort, ports[i].services
			p.protocol = cmp.Or(p.protocol, ports[i].protocol)
		}
		if p.app.IsValid() && p.app.Addr().IsUnspecified() {
			i := slices.IndexFunc(n.Addresses, func(a netip.Addr) bool { return a.Is4() == in.App.Addr().Is4() })
			if p.app = (netip.AddrPort{}); i >= 0 {
				p.app = netip.AddrPortFrom(n.Addresses[i], in.App.Port())
			}
		}
		if p.tls != nil { // what is in it
			if p.protocol == mesh.HTTPS {
				p.protocol = mesh.HTTP
			} else if !p.http() {
				p.protocol = mesh.TCP
			}
		}
		if in.Uncaptured || in.Bind.IsValid() && n.Interception == NoInterception {
			p.listen(n)
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b served) int { return int(a.port) - int(b.port) })
	return slices.CompactFunc(out, func(a, b served) bool { return a.port == b.port })
}

// listen has the proxy itself listen for the port: at the workload's own address, unless another one is given.
func (p *served) listen(n *Node) {
	if p.listens = p.bind; !p.listens.IsValid() && len(n.Addresses) > 0 {
		p.listens = n.Addresses[0]
	}
	if !p.app.IsValid() && p.socket == "" { // not where the connection was dialled: that is the proxy
		p.app = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), p.port)
	}
}

// eachServed visits the ports of services that lead to n's workload, because they
// select it or list it, with the workload's port; the most authoritative service first.
func (c *Cache) eachServed(n *Node, labels mesh.Labels, visit func(s *mesh.Service, p *mesh.Port, port uint16)) {
	key := mesh.NewKey(n.Namespace, n.Name)
	w := c.snap.Workloads.At(key)
	var services []*mesh.Service
	for _, s := range c.index.inNamespace[n.Namespace] {
		if s.Selector.Selects(labels) && utf8.ValidString(s.Hostname) { // no resource could name it
			services = append(services, s)
		}
	}
	for sk := range c.index.instances[key] {
		if s := c.snap.Services.At(sk); s != nil && utf8.ValidString(s.Hostname) && !slices.Contains(services, s) {
			services = append(services, s)
		}
	}
	slices.SortFunc(services, mesh.Authority)
	for _, s := range services {
		for i := range s.Ports {
			p := &s.Ports[i]
			var port uint16
			if w != nil {
				port, _ = w.Serves(p)
			} else if p.TargetName == "" {
				port = p.TargetNumber()
			}
			if port == 0 || len(s.Selector) == 0 {
				port = c.endpointPort(s, p, key, port)
			}
			if port != 0 && p.Protocol != mesh.UDP {
				visit(s, p, port)
			}
		}
	}
}

// endpointPort is the port under which a workload is listed behind a service port.
func (c *Cache) endpointPort(s *mesh.Service, p *mesh.Port, workload mesh.Key, otherwise uint16) uint16 {
	if eps := c.snap.Endpoints.At(s.Key()); eps != nil {
		for i := range eps.Ports[p.Number] {
			if e := &eps.Ports[p.Number][i]; e.Workload != nil && e.Workload.Key() == workload && e.Addr.IsValid() {
				return cmp.Or(e.Port, e.Addr.Port())
			}
		}
	}
	return otherwise
}

// capturedInbound builds virtualInbound and a cluster per port.
func (b *base) capturedInbound(in *inboundSet, transparent bool, ports []served, rest acceptance, allows *authorization) {
	var k mint
	k.of(rest.by[:]...)
	allows.origins(&k)
	l := &listenerv3.Listener{
		Name:                virtualInbound,
		Address:             socketAddress(anyV4, inboundPort),
		AdditionalAddresses: []*listenerv3.AdditionalAddress{{Address: socketAddress(anyV6, inboundPort)}},
		UseOriginalDst:      wrapperspb.Bool(true),
		TrafficDirection:    corev3.TrafficDirection_INBOUND,
		ListenerFilters:     []*listenerv3.ListenerFilter{b.filters.originalDst},
	}
	if transparent {
		l.Transparent = wrapperspb.Bool(true)
		l.ListenerFilters = append(l.ListenerFilters, b.filters.originalSrc)
	}
	l.FilterChains = append(l.FilterChains, &listenerv3.FilterChain{ // it would come back for ever
		Name:             "virtualInbound-blackhole",
		FilterChainMatch: &listenerv3.FilterChainMatch{DestinationPort: u32(inboundPort)},
		Filters:          b.filters.tcpFilters(&k, inbound, lasting{}, share{blackHoleCluster, 1}),
	})
	var open, declared []uint16 // ports on which TLS, or HTTP, must not be waited for
	for i := range ports {
		p := &ports[i]
		if p.port == inboundPort {
			continue
		}
		for _, c := range b.inboundChains(&k, p) {
			c.Name = listenerName(anyV4, p.port)
			if c.FilterChainMatch == nil {
				c.FilterChainMatch = &listenerv3.FilterChainMatch{}
			}
			c.FilterChainMatch.DestinationPort = u32(uint32(p.port))
			if p.bind.IsValid() && !p.bind.IsUnspecified() {
				c.FilterChainMatch.PrefixRanges = []*corev3.CidrRange{{AddressPrefix: p.bind.String(), PrefixLen: u32(uint32(p.bind.BitLen()))}}
			}
			l.FilterChains = append(l.FilterChains, c)
		}
		if p.mode == mesh.MTLSDisable && !p.http() && p.tls == nil {
			open = append(open, p.port)
		}
		if !p.sniff() {
			declared = append(declared, p.port)
		}
		in.clusters = append(in.clusters, k.application(p))
		p.origins(&k)
		if p.listens.IsValid() {
			in.listeners = append(in.listeners, b.boundPort(in, p, netip.AddrPortFrom(p.listens, p.port), rest, allows))
		}
		in.note(p)
	}
	for _, c := range b.inboundChains(&k, &served{protocol: mesh.Auto, mode: rest.mode, authz: allows}) {
		c.Name = virtualInbound
		if isManager(c) {
			c.Name = "virtualInbound-catchall-http"
		}
		l.FilterChains = append(l.FilterChains, c)
	}
	l.ListenerFilters = append(l.ListenerFilters, exceptOn(b.filters.tlsInspector, open), exceptOn(b.filters.httpInspector, declared))
	l.ListenerFiltersTimeout = &durationpb.Duration{}
	l.ContinueOnListenerFiltersTimeout = true
	in.listeners = append(in.listeners, k.resource(virtualInbound, l))
	in.drop(&k, ports, allows)
}

// boundInbound builds the listeners of env capture.
func (b *base) boundInbound(in *inboundSet, n *Node, ports []served, accepts acceptance, allows *authorization) {
	var k mint
	done := map[uint16]bool{}
	for _, at := range n.Inbound {
		p := served{port: at.Port, servicePort: at.Port, mode: accepts.on(at.Port), authz: allows}
		if i := slices.IndexFunc(ports, func(o served) bool { return o.port == at.Port }); i >= 0 {
			p = ports[i]
		}
		if p.bind.IsValid() && p.bind != at.Bind.Addr() {
			continue
		}
		p.app = n.application(p.app, at.App)
		in.listeners = append(in.listeners, b.boundPort(in, &p, at.Bind, accepts, allows))
		if !done[p.port] {
			done[p.port] = true
			in.clusters = append(in.clusters, k.application(&p))
		}
	}
	for i := range ports {
		p := ports[i]
		in.note(&p)
		at := netip.AddrPortFrom(p.listens, p.port)
		if !p.listens.IsValid() || slices.ContainsFunc(n.Inbound, func(o Inbound) bool { return o.Bind == at }) {
			continue
		}
		p.app = n.application(p.app, p.app)
		in.listeners = append(in.listeners, b.boundPort(in, &p, at, accepts, allows))
		if !done[p.port] {
			in.clusters = append(in.clusters, k.application(&p))
		}
	}
	in.drop(&k, ports, allows)
}

// application is where the application listens that is meant to be at app, invalid for otherwise: env
// capture may have put it elsewhere.
func (n *Node) application(app, otherwise netip.AddrPort) netip.AddrPort {
	if !app.IsValid() {
		return otherwise
	}
	if i := slices.IndexFunc(n.Inbound, func(at Inbound) bool { return at.Port == app.Port() }); i >= 0 {
		return n.Inbound[i].App
	}
	return app
}

// boundPort is the listener of a port at which the proxy itself listens, nil if it cannot be built.
func (b *base) boundPort(in *inboundSet, p *served, at netip.AddrPort, accepts acceptance, allows *authorization) *resource.Resource {
	var k mint
	k.of(accepts.by[:]...)
	allows.origins(&k)
	p.origins(&k)
	c := &chainSet{chains: b.inboundChains(&k, p)}
	c.seesTLS = p.mode != mesh.MTLSDisable || p.http() || p.tls != nil
	c.sniffs = p.sniff()
	l := &listenerv3.Listener{
		Name:             at.String(),
		Address:          socketAddress(at.Addr().String(), at.Port()),
		TrafficDirection: corev3.TrafficDirection_INBOUND,
		FilterChains:     c.chains,
	}
	b.inspect(l, c)
	r := k.resource(l.Name, l)
	in.unwritten(&k, []served{*p}, allows)
	return r
}

// note says what of a port is not as its Sidecar asks.
func (in *inboundSet) note(p *served) {
	if p.tls != nil && p.mode == mesh.MTLSStrict {
		in.problems = append(in.problems, problem(&p.sidecar.Ref, 0, "tls of ingress port %d is not in force: a PeerAuthentication demands the mesh's own TLS there (mode STRICT)", p.port))
	}
}

// unwritten says, of all that has a part in it, that something could not be written for a proxy: who is to blame is not known, and each is
// read when somebody looks for the reason.
func (in *inboundSet) unwritten(k *mint, ports []served, allows *authorization) {
	if k.err == nil {
		return
	}
	note := func(r *mesh.Ref) {
		in.problems = append(in.problems, problem(r, 0, "with others it says what workloads accept, and that cannot be written for a proxy, so they accept nothing on some ports: %v", k.err))
	}
	for _, p := range allows.policies {
		note(&p.Ref)
	}
	for _, r := range allows.identify {
		note(&r.Ref)
	}
	for i := range ports {
		if p := &ports[i]; p.sidecar != nil {
			note(&p.sidecar.Ref)
		} else if len(p.services) > 0 {
			note(&p.services[0].Ref)
		}
	}
}

// drop removes what could not be built: ports and addresses out of range make none.
func (in *inboundSet) drop(k *mint, ports []served, allows *authorization) {
	in.unwritten(k, ports, allows)
	is := func(r *resource.Resource) bool { return r == nil }
	in.listeners, in.clusters = slices.DeleteFunc(in.listeners, is), slices.DeleteFunc(in.clusters, is)
}

// intern replaces resources by their equals in known, and adds the others to it.
func (in *inboundSet) intern(known map[string]*resource.Resource) {
	for _, list := range [][]*resource.Resource{in.listeners, in.clusters} {
		for i, r := range list {
			if k := known[r.Version()]; k != nil && k.Name() == r.Name() && resource.Equal(k, r) {
				list[i] = k
			} else {
				known[r.Version()] = r
			}
		}
	}
}

// exceptOn is a listener filter that does not wait for bytes on connections to certain
// ports: a client that lets the server speak first would wait for ever.
func exceptOn(f *listenerv3.ListenerFilter, ports []uint16) *listenerv3.ListenerFilter {
	if len(ports) == 0 {
		return f
	}
	var among []*listenerv3.ListenerFilterChainMatchPredicate
	for _, p := range ports {
		among = append(among, &listenerv3.ListenerFilterChainMatchPredicate{Rule: &listenerv3.ListenerFilterChainMatchPredicate_DestinationPortRange{
			DestinationPortRange: &typev3.Int32Range{Start: int32(p), End: int32(p) + 1}}})
	}
	match := among[0]
	if len(among) > 1 {
		match = &listenerv3.ListenerFilterChainMatchPredicate{Rule: &listenerv3.ListenerFilterChainMatchPredicate_OrMatch{
			OrMatch: &listenerv3.ListenerFilterChainMatchPredicate_MatchSet{Rules: among}}}
	}
	return &listenerv3.ListenerFilter{Name: f.Name, ConfigType: f.ConfigType, FilterDisabled: match}
}

func isManager(c *listenerv3.FilterChain) bool {
	return c.Filters[len(c.Filters)-1].Name == "envoy.filters.network.http_connection_manager"
}

// inboundChains are the chains of one workload port: which connections it takes follows
// from its protocol and its mode. Port 0 is every other port.
func (b *base) inboundChains(k *mint, p *served) []*listenerv3.FilterChain {
	const tls, plain = "tls", "raw_buffer"
	var out []*listenerv3.FilterChain
	decides := p.authz.deciders()
	chain := func(transport string, alpn []string, http, terminate bool) {
		c := &listenerv3.FilterChain{Filters: b.inboundFilters(k, p, http)}
		if transport != "" || alpn != nil {
			c.FilterChainMatch = &listenerv3.FilterChainMatch{TransportProtocol: transport, ApplicationProtocols: alpn}
		}
		if terminate {
			c.TransportSocket = meshServer(k, b.settings, http)
		}
		decides.put(c)
		out = append(out, c)
	}
	// Who comes by the last chain has not proved to be of the mesh, and could have.
	ofStrangers := func() {
		c := out[len(out)-1]
		if c.Metadata == nil {
			c.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{}}
		}
		ours(c.Metadata)["strangers"] = structpb.NewBoolValue(true)
	}
	http, tcp := true, false
	if p.tls != nil && p.mode != mesh.MTLSStrict { // in plaintext nobody is served
		if p.mode != mesh.MTLSDisable {
			chain(tls, alpnMeshAll, p.http(), true)
		}
		chain(tls, nil, p.http(), false)
		out[len(out)-1].TransportSocket = edgeServer(k, p.tls, b.settings, alpnOf(p))
		ofStrangers()
		return out
	}
	switch p.mode {
	case mesh.MTLSStrict:
		switch {
		case p.http():
			chain(tls, nil, http, true)
		case p.sniff():
			chain(tls, alpnMeshHTTP, http, true)
			chain(tls, nil, tcp, true)
		default:
			chain(tls, nil, tcp, true)
		}
	case mesh.MTLSDisable:
		switch {
		case p.http():
			chain(tls, alpnMeshAll, http, true) // a peer that has not heard of the change yet
			chain(plain, nil, http, false)
			chain(tls, nil, tcp, false)
		case p.sniff():
			chain(plain, alpnPlainHTTP, http, false)
			chain("", nil, tcp, false)
		default:
			chain("", nil, tcp, false)
		}
	default: // permissive
		switch {
		case p.http():
			chain(tls, alpnMeshAll, http, true)
			chain(plain, nil, http, false)
			ofStrangers()
		case p.sniff():
			chain(tls, alpnMeshHTTP, http, true)
			chain(tls, alpnMeshTCP, tcp, true)
			chain(plain, alpnPlainHTTP, http, false)
			ofStrangers()
			chain(plain, nil, tcp, false)
		default:
			chain(tls, alpnMeshAll, tcp, true)
			chain(plain, nil, tcp, false)
		}
		chain(tls, nil, tcp, false) // the application's own TLS
	}
	return out
}

// alpnOf is what a client may choose of where its TLS ends at a sidecar.
func alpnOf(p *served) []string {
	if p.http() {
		return alpnServerGateway
	}
	return nil
}

func (b *base) inboundFilters(k *mint, p *served, http bool) []*listenerv3.Filter {
	cluster := inboundPassthroughCluster
	if p.port != 0 {
		cluster = inboundClusterName(p.port)
	}
	if !http {
		return p.authz.guardTCP(k, b.filters.tcpFilters(k, inbound, lasting{}, share{cluster, 1}), p.port)
	}
	m := b.filters.httpManager(inbound, "inbound_"+listenerName(anyV4, p.port))
	p.authz.guardHTTP(k, m, p.port, false)
	if p.protocol == mesh.GRPCWeb {
		b.filters.grpcWeb(m)
	}
	m.RouteSpecifier = routeConfig(inboundRoutes(cluster, p))
	return managerFilter(k, m)
}

func inboundRoutes(cluster string, p *served) *routev3.RouteConfiguration {
	to := &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster},
		Timeout:          &durationpb.Duration{},
	}
	if p.protocol != mesh.GRPC {
		// The application may close an idle connection at the moment a request is sent.
		to.RetryPolicy = &routev3.RetryPolicy{RetryOn: "reset-before-request", NumRetries: u32(2)}
	}
	return &routev3.RouteConfiguration{
		Name:             cluster,
		ValidateClusters: wrapperspb.Bool(false),
		VirtualHosts: []*routev3.VirtualHost{{
			Name:    "inbound|http|" + itoa(p.servicePort),
			Domains: []string{"*"},
			Routes: []*routev3.Route{{
				Name:   "default",
				Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_Route{Route: to},
			}},
		}},
	}
}

// application is the cluster of one port.
func (k *mint) application(p *served) *resource.Resource {
	own := mint{err: k.err}
	p.origins(&own)
	r := own.resource(inboundClusterName(p.port), inboundCluster(&own, p))
	k.err = own.err
	return r
}

func (p *served) origins(k *mint) {
	if p.sidecar != nil {
		k.of(&p.sidecar.Ref)
	}
	for _, s := range p.services {
		k.from(originsOf(s)...)
	}
}

// inboundCluster is the application on one port.
func inboundCluster(k *mint, p *served) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name:            inboundClusterName(p.port),
		ConnectTimeout:  duration(defaultConnectTimeout),
		CircuitBreakers: circuitBreakers(p.pool, nil, 0),
	}
	if p.pool != nil {
		if p.pool.ConnectTimeout > 0 {
			c.ConnectTimeout = duration(p.pool.ConnectTimeout)
		}
		c.UpstreamConnectionOptions = keepalive(p.pool)
	}
	var app *corev3.Address
	switch {
	case p.socket != "":
		app = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: p.socket}}}
	case p.app.IsValid():
		app = socketAddress(p.app.Addr().String(), p.app.Port())
	}
	if app != nil {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
		c.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: c.Name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
				Endpoint: &endpointv3.Endpoint{Address: app}}}},
		}}}
	} else {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST}
		c.LbPolicy = clusterv3.Cluster_CLUSTER_PROVIDED
		c.UpstreamBindConfig = ownSource()
	}
	switch {
	case p.protocol == mesh.GRPCWeb: // whatever the client speaks, the application speaks gRPC
		c.TypedExtensionProtocolOptions = http2(k, p.pool)
	case p.http() || p.sniff():
		c.TypedExtensionProtocolOptions = clientsProtocol(k, p.pool)
	}
	var list []*structpb.Value
	for _, s := range p.services {
		list = append(list, serviceMetadata(s))
	}
	if p.pool != nil && p.sidecar != nil {
		c.Metadata = origin("sidecar", &p.sidecar.Ref, 0)
	}
	if len(list) > 0 {
		if c.Metadata == nil {
			c.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{}}
		}
		istio := c.Metadata.FilterMetadata["istio"]
		if istio == nil {
			istio = fields(map[string]*structpb.Value{})
			c.Metadata.FilterMetadata["istio"] = istio
		}
		istio.Fields["services"] = structpb.NewListValue(&structpb.ListValue{Values: list})
	}
	return c
}
