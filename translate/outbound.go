package translate

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

// chainSet is the filter chains of one listener.
type chainSet struct {
	chains  []*listenerv3.FilterChain
	last    *listenerv3.FilterChain // default_filter_chain
	seesTLS bool                    // needs the TLS inspector
	sniffs  bool                    // needs the HTTP inspector too
}

// spot is where connections arrive.
type spot struct {
	addr   string // an IP address
	port   uint16
	socket string // or the path of a Unix socket
	bound  bool   // somebody listens there; connections are redirected otherwise
}

func (at *spot) name() string {
	if at.socket != "" {
		return "unix://" + at.socket
	}
	return listenerName(at.addr, at.port)
}

func (at *spot) address() *corev3.Address {
	if at.socket != "" {
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: at.socket}}}
	}
	return socketAddress(at.addr, at.port)
}

// outboundListener makes a listener of outbound chains. Only those of env capture, and where a
// Sidecar says so, are bound; the others get their connections from virtualOutbound by original destination.
func (b *base) outboundListener(at *spot, c *chainSet) *listenerv3.Listener {
	l := &listenerv3.Listener{
		Name:               at.name(),
		Address:            at.address(),
		TrafficDirection:   corev3.TrafficDirection_OUTBOUND,
		FilterChains:       c.chains,
		DefaultFilterChain: c.last,
	}
	if !at.bound {
		l.BindToPort = wrapperspb.Bool(false)
	}
	b.inspect(l, c)
	return l
}

func (b *base) inspect(l *listenerv3.Listener, c *chainSet) {
	if c.seesTLS || c.sniffs {
		l.ListenerFilters = append(l.ListenerFilters, b.filters.tlsInspector)
		// Never guess after a timeout: a slow client is not a TCP client.
		l.ListenerFiltersTimeout = &durationpb.Duration{}
		l.ContinueOnListenerFiltersTimeout = true
	}
	if c.sniffs {
		l.ListenerFilters = append(l.ListenerFilters, b.filters.httpInspector)
	}
}

// door is what one port of a service contributes to the listeners of a sidecar that
// captures by redirection.
type door struct {
	port     uint16
	ref      *mesh.Ref
	own      []*resource.Resource      // listeners on the service's own addresses
	http     bool                      // wants HTTP on 0.0.0.0_<port>
	sniffed  bool                      // wants HTTP there if it looks like HTTP
	shared   []*listenerv3.FilterChain // chains on 0.0.0.0_<port>, by server name
	plain    *listenerv3.FilterChain   // what else arrives on 0.0.0.0_<port>
	origins  []resource.Origin         // of shared and plain
	problems []Problem
}

// doors builds the contributions of all ports of s.
// doors are those of a service for viewers who dial its addresses, or, named false, do not
// know the Nominal ones.
func (b *base) doors(s *service, v *virtual, r *rule, a *audience, named bool) []*door {
	var out []*door
	for i, p := range s.ports {
		d := &door{port: p.Number, ref: &s.Ref, http: p.Protocol.IsHTTP()}
		if !d.http {
			b.open(d, s, i, v, r, a, named)
		}
		out = append(out, d)
	}
	return out
}

func (b *base) open(d *door, s *service, i int, v *virtual, r *rule, a *audience, named bool) {
	p := s.ports[i]
	k := mint{origins: slices.Clone(s.origins)}
	at := s.Addresses
	if s.Nominal && !named {
		at = nil
	}
	if len(at) == 0 && s.Resolution == mesh.Passthrough { // headless: where its pods are
		at = s.crews[i].addresses()
	}
	if len(at) > 0 {
		c := b.chainsFor(&k, s, p, v, r, a)
		for _, addr := range at {
			at := spot{addr: addr.String(), port: p.Number}
			d.own = append(d.own, k.resource(at.name(), b.outboundListener(&at, c)))
		}
	}
	if len(at) == 0 || len(s.Prefixes) > 0 {
		d.sniffed = p.Protocol == mesh.Auto
		if !d.sniffed || len(s.Prefixes) > 0 {
			for _, c := range b.relays(&k, s, p, v, r, a, s.Prefixes, false) {
				if c.FilterChainMatch == nil {
					d.plain = c
				} else {
					d.shared = append(d.shared, c)
				}
				k.vet(c)
			}
		}
	}
	d.origins = k.origins
	if k.err != nil {
		*d = door{port: d.port, ref: d.ref, problems: []Problem{problem(&s.Ref, 0, "port %d has no listener: %v", p.Number, k.err)}}
	}
}

// chainsFor are the chains of a listener that serves one port of s only.
func (b *base) chainsFor(k *mint, s *service, p *mesh.Port, v *virtual, r *rule, a *audience) *chainSet {
	c := &chainSet{}
	if p.Protocol.IsHTTP() || p.Protocol == mesh.Auto {
		chain := b.httpChain(k, hostPort(s.Hostname, p.Number))
		if p.Protocol == mesh.Auto {
			c.sniffs = true
			chain.FilterChainMatch = &listenerv3.FilterChainMatch{ApplicationProtocols: alpnPlainHTTP}
		}
		c.chains = append(c.chains, chain)
		if !c.sniffs {
			return c
		}
	}
	relays := b.relays(k, s, p, v, r, a, nil, true)
	if c.sniffs {
		c.chains = append(c.chains, inSubnets(c.chains[0], relays)...)
	}
	c.chains = append(c.chains, relays...)
	c.seesTLS = p.Protocol.IsTLS()
	// A chain for certain subnets is chosen before server names are looked at, and nobody goes back: what else comes there
	// finds only the default chain.
	rest := slices.IndexFunc(c.chains, func(f *listenerv3.FilterChain) bool { return f.FilterChainMatch == nil })
	if rest >= 0 && slices.ContainsFunc(c.chains, func(f *listenerv3.FilterChain) bool { return len(f.GetFilterChainMatch().GetPrefixRanges()) > 0 }) {
		c.last = c.chains[rest]
		c.chains = slices.Delete(c.chains, rest, rest+1)
	}
	return c
}

// inSubnets is the chain for what looks like HTTP in each subnet that others are for: which subnet is asked before
// what is spoken.
func inSubnets(http *listenerv3.FilterChain, others []*listenerv3.FilterChain) []*listenerv3.FilterChain {
	var out []*listenerv3.FilterChain
	for _, o := range others {
		subnets := o.GetFilterChainMatch().GetPrefixRanges()
		if len(subnets) == 0 || slices.ContainsFunc(out, func(f *listenerv3.FilterChain) bool {
			return proto.Equal(f.FilterChainMatch.PrefixRanges[0], subnets[0])
		}) {
			continue
		}
		out = append(out, &listenerv3.FilterChain{Filters: http.Filters, FilterChainMatch: &listenerv3.FilterChainMatch{
			PrefixRanges: subnets, ApplicationProtocols: http.FilterChainMatch.GetApplicationProtocols()}})
	}
	return out
}

func (b *base) httpChain(k *mint, routes string) *listenerv3.FilterChain {
	m := b.filters.httpManager(outbound, "outbound_"+routes)
	m.RouteSpecifier = rds(routes)
	return &listenerv3.FilterChain{Filters: managerFilter(k, m)}
}

// relays are the TCP chains of a port: those its VirtualService names, then its own
// cluster, for what arrives from anywhere or for certain subnets. There is at least
// one, and no two have the same match. own says that nobody else's connections arrive there.
func (b *base) relays(k *mint, s *service, p *mesh.Port, v *virtual, r *rule, a *audience, subnets []netip.Prefix, own bool) []*listenerv3.FilterChain {
	var l lasting
	if pool := r.policyOn(p.Number, nil).Pool; pool != nil {
		l = lasting{pool.TCPIdleTimeout, pool.MaxConnectionDuration}
		k.of(r.refs...)
	}
	out := b.l4Chains(k, v, p, a, l, subnets)
	var names []string
	if p.Protocol.IsTLS() && !own && len(subnets) == 0 {
		names = []string{s.Hostname}
	}
	for _, n := range orAnywhere(subnets) {
		out = append(out, &listenerv3.FilterChain{
			FilterChainMatch: matching(names, n),
			Filters:          b.filters.tcpFilters(k, outbound, l, share{clusterName(p.Number, "", s.Hostname), 1}),
		})
	}
	return oneNameEach(out)
}

func orAnywhere(subnets []netip.Prefix) []netip.Prefix {
	if len(subnets) == 0 {
		return []netip.Prefix{{}}
	}
	return subnets
}

// l4Chains are the chains the tls (on ports where TLS passes through) and tcp rules of
// v make for a port. Proxies take the most specific chain and rules are tried in order,
// so nothing follows a rule that takes everything. subnets are where the service is.
func (b *base) l4Chains(k *mint, v *virtual, p *mesh.Port, a *audience, l lasting, subnets []netip.Prefix) []*listenerv3.FilterChain {
	var out []*listenerv3.FilterChain
	if v == nil {
		return nil
	}
	all := false
	chain := func(line int, m *mesh.L4Match, to []mesh.Destination) {
		if all || !a.admits(v, m.Gateways, m.SourceLabels, m.SourceNamespace) || m.Port != 0 && m.Port != p.Number {
			return
		}
		where := subnets
		if len(m.DestinationSubnets) > 0 {
			where = m.DestinationSubnets
		}
		for _, n := range orAnywhere(where) {
			c := &listenerv3.FilterChain{
				FilterChainMatch: matching(m.SNIHosts, n),
				Filters:          b.filters.tcpFilters(k, outbound, l, shares(v, to, p.Number)...),
				Metadata:         origin("virtual-service", &v.Ref, line),
			}
			out = append(out, c)
			k.of(&v.Ref)
			all = all || len(c.FilterChainMatch.GetServerNames()) == 0 && len(m.DestinationSubnets) == 0
		}
	}
	if p.Protocol.IsTLS() {
		for i := range v.TLS {
			r := &v.TLS[i]
			for j := range r.Matches {
				chain(r.Line, &r.Matches[j], r.Route)
			}
		}
	}
	for i := range v.TCP {
		r := &v.TCP[i]
		for j := range r.Matches {
			chain(r.Line, &r.Matches[j], r.Route)
		}
		if len(r.Matches) == 0 {
			chain(r.Line, &mesh.L4Match{}, r.Route)
		}
	}
	return out
}

// shares are the targets of a TCP route; nothing to send to is the black hole.
func shares(v *virtual, to []mesh.Destination, port uint16) []share {
	var out []share
	for i := range to {
		if len(to) == 1 || to[i].Weight > 0 {
			out = append(out, share{v.cluster(&to[i], port), min(max(to[i].Weight, 1), maxWeight)})
		}
	}
	if len(out) == 0 {
		return []share{{blackHoleCluster, 1}}
	}
	return out
}

// matching is a match of server names (none, or "*": any) in a subnet (the zero Prefix:
// anywhere); nil if everything matches.
func matching(names []string, subnet netip.Prefix) *listenerv3.FilterChainMatch {
	m := &listenerv3.FilterChainMatch{}
	if !slices.Contains(names, "*") {
		for _, n := range names {
			m.ServerNames = append(m.ServerNames, serverName(n))
		}
		slices.Sort(m.ServerNames)
		m.ServerNames = slices.Compact(m.ServerNames)
	}
	if subnet.IsValid() {
		m.PrefixRanges = []*corev3.CidrRange{{AddressPrefix: subnet.Masked().Addr().String(), PrefixLen: u32(uint32(subnet.Bits()))}}
	}
	if len(m.ServerNames) == 0 && len(m.PrefixRanges) == 0 {
		return nil
	}
	return m
}

// serverName is a host as a chain can match it. Istio's hosts may have part of a label
// after the wildcard ("*-shop.example.com"); Envoy refuses a listener with such a server
// name, so what is left of it is the one name that it covers beyond doubt.
func serverName(host string) string {
	if i := strings.LastIndexByte(host, '*'); i > 0 || i == 0 && !strings.HasPrefix(host, "*.") {
		return host[i+1:]
	}
	return host
}

// shared builds the listener at which the doors of several services are, oldest first: 0.0.0.0_<port>, or
// where a Sidecar says. It is nil if they contribute nothing.
func (b *base) shared(at spot, routes string, doors []*door, strangers string) (*resource.Resource, error) {
	var k mint
	c := &chainSet{}
	http, sniff := false, false
	for _, d := range doors {
		http, sniff = http || d.http, sniff || d.sniffed
		c.chains = append(c.chains, d.shared...)
		if len(d.shared) > 0 || d.plain != nil { // what HTTP there is made of is in the route table
			k.from(d.origins...)
		}
		if c.last == nil {
			c.last = d.plain
		}
	}
	c.chains = oneNameEach(c.chains)
	c.seesTLS = slices.ContainsFunc(c.chains, func(f *listenerv3.FilterChain) bool { return len(f.GetFilterChainMatch().GetServerNames()) > 0 })
	if !http && !sniff && len(c.chains) == 0 && c.last == nil {
		return nil, nil
	}
	if http || sniff {
		m := b.filters.httpManager(outbound, "outbound_"+at.name())
		m.RouteSpecifier = rds(routes)
		chain := &listenerv3.FilterChain{Filters: managerFilter(&k, m)}
		switch {
		case !http:
			c.sniffs = true
			chain.FilterChainMatch = &listenerv3.FilterChainMatch{ApplicationProtocols: alpnPlainHTTP}
		case c.seesTLS:
			chain.FilterChainMatch = &listenerv3.FilterChainMatch{TransportProtocol: "raw_buffer"}
		}
		sniffing := &listenerv3.FilterChain{Filters: chain.Filters, FilterChainMatch: &listenerv3.FilterChainMatch{ApplicationProtocols: alpnPlainHTTP}}
		ofSniffed := slices.DeleteFunc(slices.Clone(c.chains), func(f *listenerv3.FilterChain) bool {
			return !slices.ContainsFunc(doors, func(d *door) bool { return d.sniffed && slices.Contains(d.shared, f) })
		})
		if own := inSubnets(sniffing, ofSniffed); len(own) > 0 { // what comes to their own addresses may be HTTP, too
			c.sniffs = true
			c.chains = append(c.chains, own...)
		}
		c.chains = append(c.chains, chain)
	}
	if c.last == nil && (!http || c.seesTLS) { // otherwise the HTTP chain takes all
		c.last = b.strangers(&k, "PassthroughFilterChain", strangers)
	}
	if len(c.chains) == 0 { // a listener has a chain, not only a default one
		c.chains, c.last = []*listenerv3.FilterChain{c.last}, nil
	}
	r := k.resource(at.name(), b.outboundListener(&at, c))
	return r, k.err
}

// oneNameEach leaves every server name (per subnet) to the first chain that has it:
// a proxy refuses a listener in which two chains match the same. A chain left without
// names goes.
func oneNameEach(chains []*listenerv3.FilterChain) []*listenerv3.FilterChain {
	taken := map[string]bool{}
	var out []*listenerv3.FilterChain
	for _, c := range chains {
		m := c.GetFilterChainMatch()
		names := m.GetServerNames()
		if len(names) == 0 {
			names = []string{""}
		}
		subnet := ""
		for _, r := range m.GetPrefixRanges() {
			subnet = r.GetAddressPrefix() + "/" + strconv.Itoa(int(r.GetPrefixLen().GetValue()))
		}
		free := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return taken[n+" "+subnet] })
		for _, n := range free {
			taken[n+" "+subnet] = true
		}
		if len(free) == 0 {
			continue
		}
		if len(free) < len(names) {
			c = &listenerv3.FilterChain{Filters: c.Filters, Metadata: c.Metadata,
				FilterChainMatch: &listenerv3.FilterChainMatch{ServerNames: free, PrefixRanges: m.PrefixRanges}}
		}
		out = append(out, c)
	}
	return out
}

// strangers is the chain for destinations the mesh does not know.
func (b *base) strangers(k *mint, name, to string) *listenerv3.FilterChain {
	return &listenerv3.FilterChain{Name: name, Filters: b.filters.tcpFilters(k, outbound, lasting{}, share{to, 1})}
}

// virtualOutbound is where redirected connections arrive.
func (b *base) virtualOutbound(k *mint, strangers string, transparent bool) *resource.Resource {
	l := &listenerv3.Listener{
		Name:                virtualOutbound,
		Address:             socketAddress(anyV4, outboundPort),
		AdditionalAddresses: []*listenerv3.AdditionalAddress{{Address: socketAddress(anyV6, outboundPort)}},
		UseOriginalDst:      wrapperspb.Bool(true),
		TrafficDirection:    corev3.TrafficDirection_OUTBOUND,
		FilterChains: []*listenerv3.FilterChain{
			{ // a connection to the proxy itself would come back for ever
				Name:             "virtualOutbound-blackhole",
				FilterChainMatch: &listenerv3.FilterChainMatch{DestinationPort: u32(outboundPort)},
				Filters:          b.filters.tcpFilters(k, outbound, lasting{}, share{blackHoleCluster, 1}),
			},
			b.strangers(k, "virtualOutbound-catchall-tcp", strangers),
		},
	}
	if transparent {
		l.Transparent = wrapperspb.Bool(true)
	}
	return k.resource(virtualOutbound, l)
}
