package verdict

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// edge is a kind of gateway workloads: what they have in common.
type edge struct {
	namespace string
	labels    mesh.Labels
	at        netip.Addr
	openings  []*opening
	left      map[*mesh.Server]Verdict // servers that are left out
}

// opening is an address and port of a gateway, and the servers there.
type opening struct {
	bind    string
	port    uint16
	servers []server
}

// address is where connections to the opening go.
func (o *opening) address(e *edge) netip.AddrPort {
	at := e.at
	if bind, err := netip.ParseAddr(o.bind); err == nil && !bind.IsUnspecified() {
		at = bind
	}
	return netip.AddrPortFrom(at, o.port)
}

type server struct {
	*mesh.Server
	gateway *mesh.Gateway
	index   int
}

func (s *server) name() string {
	return string(mesh.NewKey(s.gateway.Ref.Namespace, s.gateway.Ref.Name))
}
func (s *server) part() string { return document.Index("spec.servers", s.index) }

func (s *server) redirects() bool { return s.TLS != nil && s.TLS.HTTPSRedirect && s.Protocol.IsHTTP() }

// family is what can share a port.
func family(s *mesh.Server) string {
	switch {
	case s.Protocol.IsHTTP():
		return "HTTP"
	case s.Protocol.IsTLS():
		return "TLS"
	}
	return "TCP"
}

// edges are the kinds of workloads that a Gateway selects.
func (v *View) edges(gw *mesh.Gateway) []*edge {
	var out []*edge
	for w := range v.snap.Workloads.Values() {
		if !gw.Selector.Selects(w.Labels) || slices.ContainsFunc(out, func(e *edge) bool { return e.namespace == w.Namespace && maps.Equal(e.labels, w.Labels) }) {
			continue
		}
		e := &edge{namespace: w.Namespace, labels: w.Labels, at: netip.IPv4Unspecified(), left: map[*mesh.Server]Verdict{}}
		if len(w.Addresses) > 0 {
			e.at = w.Addresses[0]
		}
		v.open(e, w)
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b *edge) int { return strings.Compare(a.namespace, b.namespace) })
	return out
}

// open gives a gateway its openings. The oldest Gateway on a port says what it speaks.
func (v *View) open(e *edge, w *mesh.Workload) {
	targets := map[uint16]uint16{}
	var serving []*mesh.Service
	for s := range v.snap.Services.Values() {
		if s.Namespace == w.Namespace && len(s.Selector) > 0 && s.Selector.Selects(w.Labels) {
			serving = append(serving, s)
		}
	}
	slices.SortFunc(serving, mesh.Authority)
	for _, s := range serving {
		for i := range s.Ports {
			p := &s.Ports[i]
			if port, _ := w.Serves(p); port != 0 && p.Protocol != mesh.UDP && targets[p.Number] == 0 {
				targets[p.Number] = port
			}
		}
	}
	for _, g := range v.gateways {
		if !g.Selector.Selects(w.Labels) {
			continue
		}
		for i := range g.Servers {
			s := &g.Servers[i]
			port := s.Port
			if t := targets[s.Port]; t != 0 {
				port = t
			}
			if port == 0 || s.Protocol == mesh.UDP {
				e.left[s] = rejected("a gateway does not serve UDP")
				continue
			}
			n := slices.IndexFunc(e.openings, func(o *opening) bool { return o.bind == s.Bind && o.port == port })
			switch {
			case n < 0:
				e.openings = append(e.openings, &opening{s.Bind, port, []server{{s, g, i}}})
			case family(e.openings[n].servers[0].Server) == family(s):
				e.openings[n].servers = append(e.openings[n].servers, server{s, g, i})
			default:
				f := &e.openings[n].servers[0]
				e.left[s] = shadowed(&f.gateway.Ref, f.part(), "port %d speaks %s: Gateway %s is older, or the server stands before this one", s.Port, family(f.Server), f.name())
			}
		}
	}
}

// meet is the host for which a VirtualService's host and a server's hold both, "" if there is
// none.
func meet(h mesh.GatewayHost, x *expanded, host string) string {
	switch {
	case h.Namespace != "*" && h.Namespace != "" && h.Namespace != x.Ref.Namespace:
		return ""
	case mesh.Covers(h.Host, host):
		return host
	case mesh.Covers(host, h.Host):
		return h.Host
	}
	return ""
}

// at are the VirtualServices that may speak for a server, oldest first.
func (v *View) at(s *server, e *edge) []*expanded {
	var out []*expanded
	for _, x := range v.virtuals {
		_, bound := x.places[s.name()]
		if bound && x.Visible.VisibleTo(e.namespace) && slices.ContainsFunc(s.Hosts, func(h mesh.GatewayHost) bool {
			return slices.ContainsFunc(x.Hosts, func(vh string) bool { return meet(h, x, vh) != "" })
		}) {
			out = append(out, x)
		}
	}
	return out
}

// atGateway judges the rules of x at a Gateway.
func (v *View) atGateway(x *expanded, place string, out *judged) {
	gw := v.snap.Gateways.At(mesh.Key(place))
	if gw == nil {
		out.all(rejected("Gateway %s does not exist", place))
		return
	}
	for _, e := range v.edges(gw) {
		if !x.Visible.VisibleTo(e.namespace) {
			out.all(rejected("it is not visible in namespace %s, where the gateway runs", e.namespace))
			continue
		}
		for i := range gw.Servers {
			s := &gw.Servers[i]
			if d, left := e.left[s]; left {
				out.all(d)
			}
		}
		for _, o := range e.openings {
			for i := range o.servers {
				if s := &o.servers[i]; s.gateway == gw {
					v.atServer(x, e, o, s, out)
				}
			}
		}
	}
	out.all(rejected("no gateway has the labels that Gateway %s selects", place))
}

func (v *View) atServer(x *expanded, e *edge, o *opening, s *server, out *judged) {
	if !slices.Contains(v.at(s, e), x) {
		out.all(rejected("Gateway %s has no server for a host of it in its namespace", s.name()))
		return
	}
	secured := s.TLS != nil && s.Protocol.IsTLS()
	passes := secured && strings.HasSuffix(s.TLS.Mode, "PASSTHROUGH")
	kinds := struct{ http, tls, tcp bool }{
		http: s.Protocol.IsHTTP() || s.Protocol == mesh.HTTPS && secured && !passes,
		tls:  passes && s.TLS.Mode == "PASSTHROUGH",
		tcp:  family(s.Server) == "TCP" || secured && !passes && s.Protocol != mesh.HTTPS,
	}
	if kinds.http {
		v.requests(x, e, o, s, out)
	}
	if kinds.tls || kinds.tcp {
		part := *x
		vs := *x.VirtualService
		if part.VirtualService = &vs; !kinds.tls {
			vs.TLS = nil
		}
		if !kinds.tcp {
			vs.TCP = nil
		}
		entrance := v.entranceOf(e, o)
		for i := range entrance.chains { // what is judged is a part of x
			if r := entrance.chains[i].rule; r != nil && r.of == x {
				entrance.chains[i].rule = &l4Rule{&part, r.tls, r.index}
			}
		}
		v.atEntrance(&part, entrance, s.name(), &mesh.Port{Number: s.Port, Protocol: s.Protocol}, e.namespace, e.labels, out)
	}
	out.all(rejected("the servers of Gateway %s for its hosts speak something else", s.name()))
}

// part of a virtual host: a VirtualService that a Gateway binds to it, or a redirect to HTTPS.
type portion struct {
	x        *expanded
	server   *server
	redirect bool
}

// hosted are the virtual hosts of servers that share a table, by host and port of the server.
func (v *View) hosted(e *edge, servers []server) map[string][]portion {
	out := map[string][]portion{}
	add := func(host string, p portion) {
		id := fmt.Sprintf("%s:%d", host, p.server.Port)
		if !slices.ContainsFunc(out[id], func(o portion) bool {
			return o.x == p.x && o.redirect == p.redirect && (p.redirect || o.server.gateway == p.server.gateway)
		}) {
			out[id] = append(out[id], p)
		}
	}
	for i := range servers {
		s := &servers[i]
		if s.redirects() {
			for _, h := range s.Hosts {
				add(h.Host, portion{server: s, redirect: true})
			}
			continue
		}
		for _, x := range v.at(s, e) {
			for _, h := range s.Hosts {
				for _, vh := range slices.Compact(slices.Sorted(slices.Values(x.Hosts))) {
					if host := meet(h, x, vh); host != "" {
						add(host, portion{x: x, server: s})
					}
				}
			}
		}
	}
	return out
}

// routes are the entries of a virtual host, as it tries them; by is the server that redirects
// instead.
func (e *edge) routes(parts []portion) (out []entry, by *server) {
	var rest *entry
	for _, p := range parts {
		if p.redirect {
			return nil, p.server
		}
		for _, en := range p.x.entries(p.server.name(), p.server.Port, e.namespace) {
			if !en.match.SourceLabels.Selects(e.labels) {
				continue
			}
			if !everything(en.match) {
				out = append(out, en)
				continue
			}
			if rest == nil {
				rest = &en
			}
			break // nothing follows in this VirtualService
		}
	}
	if rest != nil {
		out = append(out, *rest)
	}
	return out, nil
}

// everything reports whether a match at a gateway, whose labels are known, holds for all
// requests.
func everything(m *mesh.HTTPMatch) bool {
	o := *m
	if o.URI.Kind == mesh.Prefix && o.URI.Value == "/" {
		o.URI = mesh.StringMatch{}
	}
	o.SourceLabels = nil
	return len(atoms(&o)) == 0
}

// requests judges the HTTP rules of x at a server.
func (v *View) requests(x *expanded, e *edge, o *opening, s *server, out *judged) {
	servers, in := o.servers, room{scheme: "http", labels: e.labels}
	sni := ""
	if s.Protocol == mesh.HTTPS {
		servers, in.scheme = []server{*s}, "https"
	}
	hosted := v.hosted(e, servers)
	for _, id := range slices.Sorted(maps.Keys(hosted)) {
		parts := hosted[id]
		host := id[:strings.LastIndexByte(id, ':')]
		if !slices.ContainsFunc(parts, func(p portion) bool { return p.redirect || p.x == x && p.server.gateway == s.gateway }) {
			continue
		}
		if slices.ContainsFunc(parts, func(p portion) bool { return p.redirect }) && !slices.ContainsFunc(s.Hosts, func(h mesh.GatewayHost) bool {
			return slices.ContainsFunc(x.Hosts, func(vh string) bool { return meet(h, x, vh) == host })
		}) {
			continue
		}
		entries, by := e.routes(parts)
		if by != nil {
			for i := range out.http {
				out.http[i].better(shadowed(&by.gateway.Ref, by.part()+".tls.httpsRedirect", "Gateway %s redirects all requests for %s to HTTPS", by.name(), host))
			}
			continue
		}
		var others []string
		for other, parts := range hosted {
			h := other[:strings.LastIndexByte(other, ':')]
			if h != host && mesh.Covers(host, h) {
				if entries, by := e.routes(parts); len(entries) > 0 || by != nil {
					others = append(others, h)
				}
			}
		}
		if in.authorities = covered(host, others, `:[0-9]+`); !strings.HasPrefix(host, "*") {
			name := strings.ToLower(host)
			in.authorities = []way{{in: []pattern{exactly(name)}}, {in: []pattern{like(regexp.QuoteMeta(name) + `:[0-9]+`)}, try: name + ":80"}}
		}
		if s.Protocol == mesh.HTTPS {
			var ok bool
			if sni, ok = v.named(e, o, s); !ok {
				for i := range out.http {
					out.http[i].better(rejected("other servers of port %d have all names of the server", s.Port))
				}
				continue
			}
		}
		v.inRoom(&in, entries, out, x, func(x *Example) bool {
			x.Namespace, x.Labels, x.SNI, x.To = e.namespace, e.labels, sni, o.address(e)
			return true
		})
	}
}

// named is a server name that leads a client to a server of a TLS port.
func (v *View) named(e *edge, o *opening, s *server) (string, bool) {
	entrance := v.entranceOf(e, o)
	var hosts []string
	for _, h := range s.Hosts {
		hosts = append(hosts, h.Host)
	}
	for _, sni := range entrance.asking(hosts) {
		if sni == "" {
			continue
		}
		if c := entrance.pick(entrance.at, sni); c != nil && c.ref == &s.gateway.Ref && c.part == s.part() {
			return sni, true
		}
	}
	return "", false
}

// entranceOf are the chains of an opening that is not for HTTP alone.
func (v *View) entranceOf(e *edge, o *opening) *entrance {
	out := &entrance{port: o.port, at: o.address(e).Addr()}
	for i := range o.servers {
		s := &o.servers[i]
		var hosts []string
		for _, h := range s.Hosts {
			hosts = append(hosts, h.Host)
		}
		whole := chain{names: serverNames(hosts), ref: &s.gateway.Ref, part: s.part()}
		switch {
		case s.TLS != nil && s.Protocol.IsTLS() && s.TLS.Mode == "PASSTHROUGH":
			for _, x := range v.at(s, e) {
				out.chains = append(out.chains, x.passing(s, e)...)
			}
		case s.Protocol == mesh.HTTPS, s.TLS != nil && s.TLS.Mode == "AUTO_PASSTHROUGH":
			out.chains = append(out.chains, whole)
		default:
			for _, x := range v.at(s, e) {
				for _, c := range x.l4Chains(&mesh.Port{Number: s.Port, Protocol: mesh.TCP}, s.name(), e.namespace, e.labels, nil) {
					if s.TLS != nil {
						c.names = whole.names
					}
					out.chains = append(out.chains, c)
				}
			}
		}
	}
	out.chains = oneNameEach(out.chains)
	return out
}

// passing are the chains by which TLS rules of x pass through a server.
func (x *expanded) passing(s *server, e *edge) []chain {
	var out []chain
	for i := range x.TLS {
		for _, m := range x.TLS[i].Matches {
			if !x.admits(m.Gateways, m.Port, m.SourceNamespace, s.name(), s.Port, e.namespace) || !m.SourceLabels.Selects(e.labels) {
				continue
			}
			names := slices.DeleteFunc(slices.Clone(m.SNIHosts), func(n string) bool {
				return !slices.ContainsFunc(s.Hosts, func(h mesh.GatewayHost) bool { return meet(h, x, n) == n })
			})
			if len(names) > 0 {
				r := &l4Rule{x, true, i}
				out = append(out, chain{names: serverNames(names), rule: r, ref: &x.Ref, part: r.part()})
			}
		}
	}
	return out
}

// Gateway judges each server of a Gateway.
func (v *View) Gateway(key mesh.Key) []Verdict {
	gw := v.snap.Gateways.At(key)
	if gw == nil {
		return nil
	}
	var out []Verdict
	edges := v.edges(gw)
	for i := range gw.Servers {
		d := pending(&gw.Ref, document.Index("spec.servers", i), "")
		for _, e := range edges {
			if why, left := e.left[&gw.Servers[i]]; left {
				d.better(why)
			}
			for _, o := range e.openings {
				for j := range o.servers {
					if s := &o.servers[j]; s.gateway == gw && s.index == i {
						d.better(v.serving(e, o, s))
					}
				}
			}
		}
		d.better(rejected("no gateway has the labels that it selects"))
		out = append(out, d)
	}
	return out
}

// serving judges a server where it is opened.
func (v *View) serving(e *edge, o *opening, s *server) Verdict {
	call := &Example{Namespace: e.namespace, Labels: e.labels, To: o.address(e)}
	if s.Protocol.IsHTTP() {
		return active(call)
	}
	whole := s.TLS != nil && (s.Protocol == mesh.HTTPS && s.TLS.Mode != "PASSTHROUGH" || s.TLS.Mode == "AUTO_PASSTHROUGH")
	if whole {
		sni, ok := v.named(e, o, s)
		if call.SNI = sni; ok {
			return active(call)
		}
		for _, other := range o.servers {
			if other.Server != s.Server {
				return shadowed(&other.gateway.Ref, other.part(), "other servers of the port have all its hosts")
			}
		}
		return rejected("no server name leads to it")
	}
	d := Verdict{State: Rejected}
	for _, x := range v.at(s, e) { // it is what its rules are
		out := &judged{http: make([]Verdict, len(x.rules)), tls: make([]Verdict, len(x.TLS)), tcp: make([]Verdict, len(x.TCP))}
		for _, list := range [][]Verdict{out.tls, out.tcp} {
			for i := range list {
				list[i].State = Rejected
			}
		}
		v.atServer(x, e, o, s, out)
		for _, r := range slices.Concat(out.tls, out.tcp) {
			d.better(r)
		}
	}
	if d.Why == "" && d.State != Active {
		return rejected("no VirtualService has rules for it: nothing is served there")
	}
	return d
}
