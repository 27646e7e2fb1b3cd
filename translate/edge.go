package translate

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	sniclusterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/sni_cluster/v3"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

// edgeSet is a gateway proxy's own part: the listeners of the Gateways that select it
// and their routes.
type edgeSet struct {
	gen, used uint64
	form      form
	listeners []*resource.Resource
	routes    []*resource.Resource
	vhosts    resource.Set // of the form in pieces
	secrets   []*resource.Resource
	hosts     map[string]*edgeHost // virtual hosts by table and name
	problems  []Problem
	withheld  []Problem // if secrets are not given
	authz     *authorization
	topology  mesh.Topology
}

// edgeHost is a virtual host and what it was built of.
type edgeHost struct {
	parts    []edgePart
	vhost    *vhost // nil: there is nothing to serve
	problems []Problem
}

// edgePart is a VirtualService bound to a host by a Gateway, or a redirect to HTTPS.
type edgePart struct {
	v        *virtual
	gateway  string
	port     uint16 // the server's
	redirect bool
}

func (e *edgeSet) of(typeURL string) []*resource.Resource {
	switch typeURL {
	case resource.ListenerType:
		return e.listeners
	case resource.RouteType:
		return e.routes
	case resource.VirtualHostType:
		return slices.Collect(e.vhosts.Values())
	case resource.SecretType:
		return e.secrets
	}
	return nil
}

// family is what can share a port.
type family string

const (
	familyHTTP family = "HTTP"
	familyTLS  family = "TLS"
	familyTCP  family = "TCP"
)

func familyOf(s *mesh.Server) family {
	switch {
	case s.Protocol.IsHTTP():
		return familyHTTP
	case s.Protocol.IsTLS():
		return familyTLS
	}
	return familyTCP
}

// opening is an address and port of a gateway proxy and the servers on it.
type opening struct {
	bind    string
	port    uint16
	servers []openServer
	origins []resource.Origin
}

type openServer struct {
	*mesh.Server
	gateway *mesh.Gateway
}

func (o *openServer) gatewayName() string {
	return string(mesh.NewKey(o.gateway.Ref.Namespace, o.gateway.Ref.Name))
}

// edge returns what the Gateways make of n.
func (c *Cache) edge(n *Node, labels mesh.Labels, s *scope) *edgeSet {
	var gateways []*mesh.Gateway
	for g := range c.snap.Gateways.Values() {
		if g.Selector.Selects(labels) {
			gateways = append(gateways, g)
		}
	}
	slices.SortFunc(gateways, func(a, b *mesh.Gateway) int { return mesh.Older(&a.Ref, &b.Ref) })
	targets := map[uint16]uint16{} // by service port
	var key strings.Builder
	f := whole
	if n.VHDS {
		f = pieces
	}
	front := c.base.settings.Topology
	if n.Topology != nil {
		front = *n.Topology
	}
	fmt.Fprintf(&key, "%d %d %s %t %v", c.base.epoch, f, s.source, n.ProxyProtocol, front)
	for _, g := range gateways {
		fmt.Fprintf(&key, " %s/%s", g.Ref.Namespace, g.Ref.Name)
	}
	c.eachServed(n, labels, func(_ *mesh.Service, p *mesh.Port, port uint16) {
		if _, ok := targets[p.Number]; !ok {
			targets[p.Number] = port
			fmt.Fprintf(&key, " %d>%d", p.Number, port)
		}
	})
	allows := c.authz.of(c.base.settings, n, labels)
	key.WriteString(allows.key)
	e := c.edges[key.String()]
	if e == nil || e.gen < c.edgeGen {
		e = c.buildEdge(e, f, gateways, targets, n.ProxyProtocol, front, &s.audience, allows)
		c.edges[key.String()] = e
	}
	e.used = c.gen
	return e
}

func (c *Cache) buildEdge(old *edgeSet, f form, gateways []*mesh.Gateway, targets map[uint16]uint16, proxyProtocol bool, front mesh.Topology, a *audience, allows *authorization) *edgeSet {
	e := &edgeSet{gen: c.gen, form: f, authz: allows, topology: front, hosts: map[string]*edgeHost{}}
	if old == nil {
		old = &edgeSet{}
	}
	for _, o := range e.openings(gateways, targets) {
		var l *listenerv3.Listener
		var k mint
		switch familyOf(o.servers[0].Server) {
		case familyHTTP:
			l = c.httpOpening(&k, e, old, o, a)
		case familyTLS:
			l = c.tlsOpening(e, old, o, a)
		case familyTCP:
			l = c.tcpOpening(e, o, a)
		}
		if l == nil || len(l.FilterChains) == 0 {
			continue
		}
		if proxyProtocol {
			l.ListenerFilters = slices.Insert(l.ListenerFilters, 0, c.base.filters.proxyProtocol)
		}
		for i := range o.servers {
			k.of(&o.servers[i].gateway.Ref)
		}
		allows.origins(&k)
		k.from(o.origins...)
		r := k.resource(l.Name, l)
		if r == nil {
			e.problems = append(e.problems, problem(&o.servers[0].gateway.Ref, 0, "port %d has no listener: %v", o.port, k.err))
			continue
		}
		e.listeners = append(e.listeners, kept(r, old.listeners))
		for i := range o.servers {
			c.credentials(e, old, &o.servers[i], a.namespace)
		}
	}
	return e
}

// openings groups servers by the address they listen on. The oldest Gateway on a port
// says what it speaks; what does not fit is left out.
func (e *edgeSet) openings(gateways []*mesh.Gateway, targets map[uint16]uint16) []*opening {
	var out []*opening
	for _, g := range gateways {
		for i := range g.Servers {
			s := &g.Servers[i]
			at := &opening{bind: cmp.Or(s.Bind, anyV4), port: s.Port}
			if at.spot().socket != "" {
				if i := slices.IndexFunc(out, func(o *opening) bool { return o.bind == at.bind && o.port != at.port }); i >= 0 {
					e.problems = append(e.problems, problem(&g.Ref, 0, "server on port %d is left out: at %s is that of port %d", s.Port, clip(s.Bind), out[i].port))
					continue
				}
			} else {
				if t, ok := targets[s.Port]; ok {
					at.port = t
				} else if len(targets) > 0 && !slices.Contains(slices.Collect(maps.Values(targets)), s.Port) {
					e.problems = append(e.problems, problem(&g.Ref, 0, "port %d is not among the ports of the gateway's Service: nothing outside reaches it", s.Port))
				}
				addr, err := netip.ParseAddr(at.bind)
				if err != nil {
					e.problems = append(e.problems, problem(&g.Ref, 0, "server on port %d is left out: bind %q is neither an IP address nor unix:///path", s.Port, clip(s.Bind)))
					continue
				}
				at.bind = addr.String()
			}
			if at.port == 0 || s.Protocol == mesh.UDP {
				continue
			}
			i := slices.IndexFunc(out, func(o *opening) bool { return o.bind == at.bind && o.port == at.port })
			switch {
			case i < 0:
				at.servers = []openServer{{s, g}}
				out = append(out, at)
			case familyOf(out[i].servers[0].Server) == familyOf(s):
				out[i].servers = append(out[i].servers, openServer{s, g})
			default:
				first := &out[i].servers[0]
				e.problems = append(e.problems, problem(&g.Ref, 0, "server on port %d is left out: it speaks %s, and the older Gateway %s speaks %s there",
					s.Port, familyOf(s), first.gatewayName(), familyOf(first.Server)))
			}
		}
	}
	return out
}

func (o *opening) spot() *spot {
	if path, ok := strings.CutPrefix(o.bind, "unix://"); ok {
		return &spot{socket: path, bound: true}
	}
	return &spot{addr: o.bind, port: o.port, bound: true}
}

func (o *opening) listener(d corev3.TrafficDirection) *listenerv3.Listener {
	return &listenerv3.Listener{
		Name:             o.spot().name(),
		Address:          o.spot().address(),
		TrafficDirection: d,
	}
}

// suffix distinguishes the tables of one port number on several addresses.
func (o *opening) suffix() string {
	if o.bind == anyV4 {
		return ""
	}
	return "." + o.bind
}

func (c *Cache) httpOpening(k *mint, e, old *edgeSet, o *opening, a *audience) *listenerv3.Listener {
	name := "http." + itoa(o.port) + o.suffix()
	c.edgeTable(e, old, name, o.servers, a)
	l := o.listener(corev3.TrafficDirection_OUTBOUND)
	m := c.base.filters.edgeManager("outbound_"+l.Name, e.topology)
	e.authz.guardHTTP(k, m, o.port, true)
	if slices.ContainsFunc(o.servers, func(s openServer) bool { return s.Protocol == mesh.GRPCWeb }) {
		c.base.filters.grpcWeb(m)
	}
	m.RouteSpecifier = rds(name)
	chain := &listenerv3.FilterChain{Filters: managerFilter(k, m)}
	e.deciders(o.servers...).put(chain)
	l.FilterChains = []*listenerv3.FilterChain{chain}
	return l
}

// deciders are the objects by which a gateway decides about who comes to servers.
func (e *edgeSet) deciders(servers ...openServer) deciders {
	d := e.authz.deciders()
	for i := range servers {
		d.add("server", &servers[i].gateway.Ref, servers[i].Line)
	}
	return d
}

func (c *Cache) tlsOpening(e, old *edgeSet, o *opening, a *audience) *listenerv3.Listener {
	l := o.listener(corev3.TrafficDirection_OUTBOUND)
	c.base.inspect(l, &chainSet{seesTLS: true})
	for i := range o.servers {
		s := &o.servers[i]
		var k mint
		e.admit(l, o, s, &k, c.tlsServer(&k, e, old, o, s, a))
	}
	l.FilterChains = oneNameEach(l.FilterChains)
	return l
}

// admit adds the chains of a server to its listener, unless a proxy would refuse them.
func (e *edgeSet) admit(l *listenerv3.Listener, o *opening, s *openServer, k *mint, chains []*listenerv3.FilterChain) {
	decides := e.deciders(*s)
	for _, f := range chains {
		decides.put(f)
		if !isManager(f) {
			f.Filters = e.authz.guardTCP(k, f.Filters, o.port)
		}
		k.vet(f)
	}
	if k.err != nil {
		e.problems = append(e.problems, problem(&s.gateway.Ref, 0, "server on port %d is left out: %v", s.Port, k.err))
		return
	}
	l.FilterChains = append(l.FilterChains, chains...)
	o.origins = append(o.origins, k.origins...)
}

// tlsServer builds the chains of one server of a TLS port.
func (c *Cache) tlsServer(k *mint, e, old *edgeSet, o *opening, s *openServer, a *audience) []*listenerv3.FilterChain {
	if s.TLS == nil {
		k.fail(fmt.Errorf("protocol %s needs tls", s.Protocol))
		return nil
	}
	switch s.TLS.Mode {
	case "PASSTHROUGH":
		return c.base.sniChains(k, s, c.bound(s, a), a)
	case "AUTO_PASSTHROUGH":
		return c.base.namedChain(k, s)
	case "SIMPLE", "MUTUAL", "OPTIONAL_MUTUAL", "ISTIO_MUTUAL":
	default:
		k.fail(fmt.Errorf("tls.mode %q is not supported", s.TLS.Mode))
		return nil
	}
	socket := edgeServer(k, s.TLS, c.base.settings, alpnServerGateway)
	var names []string
	for _, h := range s.Hosts {
		names = append(names, h.Host)
	}
	match := matching(names, netip.Prefix{})
	if s.Protocol != mesh.HTTPS {
		chains := c.base.tcpChains(k, s, c.bound(s, a), a)
		for _, f := range chains {
			f.TransportSocket = socket
			if f.FilterChainMatch == nil {
				f.FilterChainMatch = &listenerv3.FilterChainMatch{}
			}
			f.FilterChainMatch.ServerNames = match.GetServerNames()
		}
		return chains
	}
	name := strings.Join([]string{"https", itoa(s.Port), s.PortName, s.gateway.Ref.Name, s.gateway.Ref.Namespace}, ".") + o.suffix()
	m := c.base.filters.edgeManager("outbound_"+o.spot().name(), e.topology)
	e.authz.guardHTTP(k, m, o.port, true)
	if s.Protocol == mesh.GRPCWeb {
		c.base.filters.grpcWeb(m)
	}
	m.RouteSpecifier = rds(name)
	chain := &listenerv3.FilterChain{FilterChainMatch: match, Filters: managerFilter(k, m), TransportSocket: socket}
	if k.vet(chain); k.err == nil {
		c.edgeTable(e, old, name, []openServer{*s}, a)
	}
	return []*listenerv3.FilterChain{chain}
}

func (c *Cache) tcpOpening(e *edgeSet, o *opening, a *audience) *listenerv3.Listener {
	l := o.listener(corev3.TrafficDirection_OUTBOUND)
	for i := range o.servers {
		s := &o.servers[i]
		var k mint
		e.admit(l, o, s, &k, c.base.tcpChains(&k, s, c.bound(s, a), a))
	}
	l.FilterChains = oneNameEach(l.FilterChains)
	return l
}

// bound lists the VirtualServices that may speak for a server, oldest first.
func (c *Cache) bound(s *openServer, a *audience) []*virtual {
	var out []*virtual
	for _, v := range c.index.byGateway[s.gatewayName()] {
		if v.Visible.VisibleTo(a.namespace) && slices.ContainsFunc(s.Hosts, func(h mesh.GatewayHost) bool {
			return slices.ContainsFunc(v.Hosts, func(vh string) bool { return meet(h, v, vh) != "" })
		}) {
			out = append(out, v)
		}
	}
	return out
}

// meet is the host for which a VirtualService's host and a server's host both hold: the
// more specific of the two; "" if there is none.
func meet(h mesh.GatewayHost, v *virtual, host string) string {
	switch {
	case h.Namespace != "*" && h.Namespace != "" && h.Namespace != v.Ref.Namespace:
		return ""
	case covers(h.Host, host):
		return host
	case covers(host, h.Host):
		return h.Host
	}
	return ""
}

// edgeTable builds the route table of servers, taking over virtual hosts whose parts
// did not change.
func (c *Cache) edgeTable(e, old *edgeSet, name string, servers []openServer, a *audience) {
	parts := map[string][]edgePart{}
	var order []string
	add := func(host string, p edgePart) {
		id := hostPort(host, p.port)
		if _, ok := parts[id]; !ok {
			order = append(order, host)
		}
		if !slices.Contains(parts[id], p) {
			parts[id] = append(parts[id], p)
		}
	}
	for i := range servers {
		s := &servers[i]
		if s.TLS != nil && s.TLS.HTTPSRedirect && s.Protocol.IsHTTP() {
			for _, h := range s.Hosts {
				add(h.Host, edgePart{port: s.Port, redirect: true})
			}
			continue
		}
		for _, v := range c.bound(s, a) {
			for _, h := range s.Hosts {
				for _, vh := range v.hosts() {
					if host := meet(h, v, vh); host != "" {
						add(host, edgePart{v: v, gateway: s.gatewayName(), port: s.Port})
					}
				}
			}
		}
	}
	t := &table{}
	for i := range servers {
		t.origins = append(t.origins, originOf(&servers[i].gateway.Ref))
	}
	done := map[string]bool{}
	for _, host := range order {
		for i := range servers {
			id := hostPort(host, servers[i].Port)
			if done[id] || parts[id] == nil {
				continue
			}
			done[id] = true
			key := name + " " + id
			eh := old.hosts[key]
			if eh == nil || !slices.Equal(eh.parts, parts[id]) {
				eh = &edgeHost{parts: parts[id]}
				c.fill(eh, host, a)
			}
			e.hosts[key] = eh
			e.problems = append(e.problems, eh.problems...)
			if eh.vhost != nil {
				t.put(eh.vhost)
			}
		}
	}
	if t.hosts.Len() == 0 {
		var k mint
		t.put(seal(&k, &routev3.VirtualHost{Name: "blackhole:" + itoa(servers[0].Port), Domains: []string{"*"}}, servers[0].Port, 1, 1))
	}
	if e.form == whole {
		e.routes = append(e.routes, kept(t.join(name, nil, true), old.routes))
		return
	}
	e.routes = append(e.routes, kept(t.shell(name, nil, true), old.routes))
	for id, r := range t.update(resource.Set{}, name, pieces).All() {
		if was := old.vhosts.At(id); resource.Equal(was, r) {
			r = was
		}
		e.vhosts = e.vhosts.Set(id, r)
	}
}

// fill builds a virtual host of the routes of all VirtualServices bound to it: the
// older first, but what takes everything behind all that picks.
func (c *Cache) fill(eh *edgeHost, host string, a *audience) {
	port := eh.parts[0].port
	m := &routev3.VirtualHost{Name: hostPort(host, port), Domains: []string{strings.ToLower(host)}, IncludeRequestAttemptCount: true}
	var k mint
	var last *routev3.Route
	for _, p := range eh.parts {
		if p.redirect {
			m.Routes, last = nil, httpsRedirect()
			break
		}
		rb := &routeBuilder{v: p.v, port: p.port, retries: c.base.settings.DefaultRetries}
		routes := rb.httpRoutes(&audience{gateway: p.gateway, namespace: a.namespace, satisfied: a.satisfied})
		for _, r := range routes {
			rb.vet(r)
		}
		eh.problems = append(eh.problems, rb.problems...)
		if rb.err != nil {
			eh.problems = append(eh.problems, problem(&p.v.Ref, 0, "is not in force for %s: %v", m.Name, rb.err))
			continue
		}
		k.of(p.v.refs()...)
		for _, r := range routes {
			switch {
			case !takesEverything(r):
				m.Routes = append(m.Routes, r)
			case last == nil:
				last = r
			}
		}
	}
	if last != nil {
		m.Routes = append(m.Routes, last)
	}
	if len(m.Routes) == 0 {
		return
	}
	if h := seal(&k, m, port, 1, 1); k.err == nil {
		eh.vhost = h
	}
}

func httpsRedirect() *routev3.Route {
	return &routev3.Route{
		Name:  "https-redirect",
		Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_Redirect{Redirect: &routev3.RedirectAction{
			SchemeRewriteSpecifier: &routev3.RedirectAction_HttpsRedirect{HttpsRedirect: true}}},
	}
}

// sniChains are the chains of a server that passes TLS through, by server name.
func (b *base) sniChains(k *mint, s *openServer, bound []*virtual, a *audience) []*listenerv3.FilterChain {
	var out []*listenerv3.FilterChain
	who := &audience{gateway: s.gatewayName(), namespace: a.namespace, satisfied: a.satisfied}
	for _, v := range bound {
		for i := range v.TLS {
			r := &v.TLS[i]
			for j := range r.Matches {
				m := &r.Matches[j]
				if !who.admits(v, m.Gateways, m.SourceLabels, m.SourceNamespace) || m.Port != 0 && m.Port != s.Port {
					continue
				}
				names := slices.DeleteFunc(slices.Clone(m.SNIHosts), func(n string) bool {
					return !slices.ContainsFunc(s.Hosts, func(h mesh.GatewayHost) bool { return meet(h, v, n) == n })
				})
				if len(names) == 0 {
					continue
				}
				k.of(&v.Ref)
				out = append(out, &listenerv3.FilterChain{
					FilterChainMatch: matching(names, netip.Prefix{}),
					Filters:          b.filters.tcpFilters(k, edge, lasting{}, shares(v, r.Route, s.Port)...),
					Metadata:         origin("virtual-service", &v.Ref, r.Line),
				})
			}
		}
	}
	return out
}

// namedChain is the chain of a server whose clients are proxies, and name the cluster they want (upstream.passing).
func (b *base) namedChain(k *mint, s *openServer) []*listenerv3.FilterChain {
	var names []string
	for _, h := range s.Hosts {
		names = append(names, h.Host)
	}
	byName := &listenerv3.Filter{Name: "envoy.filters.network.sni_cluster", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: k.any(&sniclusterv3.SniCluster{})}}
	return []*listenerv3.FilterChain{{
		FilterChainMatch: matching(names, netip.Prefix{}),
		Filters:          append([]*listenerv3.Filter{byName}, b.filters.tcpFilters(k, edge, lasting{}, share{blackHoleCluster, 1})...),
	}}
}

// passes reports whether a server of g lets clients name clusters.
func passes(g *mesh.Gateway) bool {
	return slices.ContainsFunc(g.Servers, func(s mesh.Server) bool { return s.TLS != nil && s.TLS.Mode == "AUTO_PASSTHROUGH" })
}

// tcpChains are the chains of a server that speaks TCP inside.
func (b *base) tcpChains(k *mint, s *openServer, bound []*virtual, a *audience) []*listenerv3.FilterChain {
	var out []*listenerv3.FilterChain
	who := &audience{gateway: s.gatewayName(), namespace: a.namespace, satisfied: a.satisfied}
	p := &mesh.Port{Number: s.Port, Protocol: mesh.TCP}
	for _, v := range bound {
		out = append(out, b.l4Chains(k, v, p, who, lasting{}, nil)...)
	}
	return out
}
