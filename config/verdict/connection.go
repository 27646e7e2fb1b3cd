package verdict

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// chain is what takes connections of a listener: those to a subnet (the zero Prefix: to
// anywhere) that ask for one of names (none: or for none).
type chain struct {
	names  []string
	subnet netip.Prefix
	plain  bool // without TLS only
	http   bool // only what looks like HTTP

	rule *l4Rule // whose it is; nil: nobody's rule
	ref  *mesh.Ref
	part string // of ref
}

// l4Rule is a rule for TLS or TCP of a VirtualService.
type l4Rule struct {
	of    *expanded
	tls   bool
	index int
}

func (r *l4Rule) part() string {
	if r.tls {
		return document.Index("spec.tls", r.index)
	}
	return document.Index("spec.tcp", r.index)
}

// entrance is where connections arrive.
type entrance struct {
	chains []chain
	last   *chain
	port   uint16
	at     netip.Addr // to which all of them go; invalid: they go anywhere, but to taken
	taken  []netip.Addr
}

// pick is the chain for a connection, as proxies pick: criterion after criterion, never going
// back.
func (e *entrance) pick(to netip.Addr, sni string) *chain {
	left := make([]*chain, 0, len(e.chains))
	for i := range e.chains {
		left = append(left, &e.chains[i])
	}
	narrow := func(score func(*chain) int) {
		best := -1
		for _, c := range left {
			best = max(best, score(c))
		}
		left = slices.DeleteFunc(left, func(c *chain) bool { s := score(c); return s < 0 || s != best })
	}
	scored := func(ok bool, n int) int {
		if ok {
			return n
		}
		return -1
	}
	narrow(func(c *chain) int {
		if !c.subnet.IsValid() {
			return 0
		}
		return scored(c.subnet.Contains(to), c.subnet.Bits()+1)
	})
	narrow(func(c *chain) int {
		if len(c.names) == 0 {
			return 0
		}
		best := -1
		for _, n := range c.names {
			best = max(best, scored(n == sni || strings.HasPrefix(n, "*.") && strings.HasSuffix(sni, n[1:]), len(n)+1))
		}
		return best
	})
	narrow(func(c *chain) int {
		if !c.plain {
			return 0
		}
		return scored(sni == "", 1)
	})
	narrow(func(c *chain) int { return scored(!c.http, 0) })
	if len(left) == 0 {
		return e.last
	}
	return left[0]
}

// oneNameEach leaves each name, in a subnet, to the first chain that has it.
func oneNameEach(chains []chain) []chain {
	type place struct {
		name   string
		subnet netip.Prefix
	}
	taken := map[place]bool{}
	var out []chain
	for _, c := range chains {
		names := c.names
		if len(names) == 0 {
			names = []string{""}
		}
		free := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return taken[place{n, c.subnet}] })
		for _, n := range free {
			taken[place{n, c.subnet}] = true
		}
		if len(free) == 0 {
			continue
		}
		if len(free) < len(names) {
			c.names = free
		}
		out = append(out, c)
	}
	return out
}

// serverNames are names as proxies match them; none: all.
func serverNames(hosts []string) []string {
	var out []string
	if slices.Contains(hosts, "*") {
		return nil
	}
	for _, h := range hosts {
		if i := strings.LastIndexByte(h, '*'); i > 0 || i == 0 && !strings.HasPrefix(h, "*.") {
			h = h[i+1:]
		}
		out = append(out, h)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// l4Chains are the chains that x's rules make on a port, for clients with labels of a
// namespace. subnets are where the service is.
func (x *expanded) l4Chains(p *mesh.Port, place, namespace string, labels mesh.Labels, subnets []netip.Prefix) []chain {
	var out []chain
	all := false
	put := func(r *l4Rule, m *mesh.L4Match) {
		if all || !x.admits(m.Gateways, m.Port, m.SourceNamespace, place, p.Number, namespace) || !m.SourceLabels.Selects(labels) {
			return
		}
		where := subnets
		if len(m.DestinationSubnets) > 0 {
			where = m.DestinationSubnets
		}
		if len(where) == 0 {
			where = []netip.Prefix{{}}
		}
		for _, n := range where {
			c := chain{names: serverNames(m.SNIHosts), subnet: n, rule: r, ref: &x.Ref, part: r.part()}
			out = append(out, c)
			all = all || len(c.names) == 0 && len(m.DestinationSubnets) == 0
		}
	}
	if p.Protocol.IsTLS() {
		for i := range x.TLS {
			for j := range x.TLS[i].Matches {
				put(&l4Rule{x, true, i}, &x.TLS[i].Matches[j])
			}
		}
	}
	for i := range x.TCP {
		r := &l4Rule{x, false, i}
		for j := range x.TCP[i].Matches {
			put(r, &x.TCP[i].Matches[j])
		}
		if len(x.TCP[i].Matches) == 0 {
			put(r, &mesh.L4Match{})
		}
	}
	return out
}

// relays are the chains of a port of a service for w. own says that nobody else's connections
// arrive there.
func (v *View) relays(s *mesh.Service, p *mesh.Port, w *viewer, subnets []netip.Prefix, own bool) []chain {
	var out []chain
	if x, _ := v.speaker(s.Hostname, w); x != nil {
		out = x.l4Chains(p, mesh.Mesh, w.Namespace, w.labels, subnets)
	}
	c := chain{ref: &s.Ref}
	if p.Protocol.IsTLS() && !own && len(subnets) == 0 {
		c.names = serverNames([]string{s.Hostname})
	}
	if len(subnets) == 0 {
		out = append(out, c)
	}
	for _, n := range subnets {
		c.subnet = n
		out = append(out, c)
	}
	return oneNameEach(out)
}

// addressesOf are where a port of a service has listeners of its own.
func (v *View) addressesOf(s *mesh.Service, p *mesh.Port) []netip.Addr {
	if len(s.Addresses) > 0 || s.Resolution != mesh.Passthrough {
		return s.Addresses
	}
	var out []netip.Addr
	if set := v.snap.Endpoints.At(s.Key()); set != nil {
		for _, e := range set.Ports[p.Number] {
			if e.Addr.IsValid() {
				out = append(out, e.Addr.Addr())
			}
		}
	}
	return out
}

// connections judges the TLS and TCP rules of x for a port of a service.
func (v *View) connections(x *expanded, s *mesh.Service, p *mesh.Port, w *viewer, out *judged) {
	at := v.addressesOf(s, p)
	for _, a := range at {
		e := &entrance{port: p.Number, at: a}
		if p.Protocol == mesh.Auto {
			e.chains = append(e.chains, chain{http: true, ref: &s.Ref})
		}
		e.chains = append(e.chains, v.relays(s, p, w, nil, true)...)
		if slices.ContainsFunc(e.chains, func(c chain) bool { return c.subnet.IsValid() }) {
			i := slices.IndexFunc(e.chains, func(c chain) bool { return len(c.names) == 0 && !c.subnet.IsValid() && !c.http })
			if i >= 0 {
				last := e.chains[i]
				e.last, e.chains = &last, slices.Delete(e.chains, i, i+1)
			}
		}
		v.atEntrance(x, e, mesh.Mesh, p, w.Namespace, w.labels, out)
	}
	if len(at) == 0 || len(s.Prefixes) > 0 {
		v.atEntrance(x, v.shared(p.Number, w), mesh.Mesh, p, w.Namespace, w.labels, out)
	}
}

// shared is where connections arrive whose address says nothing about the service.
func (v *View) shared(port uint16, w *viewer) *entrance {
	e := &entrance{port: port}
	var all []*mesh.Service
	for host := range v.hosts {
		if s := w.Service(v.hosts[host]); s != nil && s.Port(port) != nil && w.Port(s, port) {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b *mesh.Service) int {
		return cmp.Or(mesh.Older(&a.Ref, &b.Ref), strings.Compare(a.Hostname, b.Hostname))
	})
	http, sniffed := false, false
	if port == lonePort {
		for h := range v.byHost {
			if x, pattern := v.speaker(h, w); w.Service(v.hosts[h]) == nil && x != nil && pattern == h {
				http = true
			}
		}
	}
	for _, s := range all {
		p := s.Port(port)
		if p.Protocol.IsHTTP() {
			http = true
			continue
		}
		at := v.addressesOf(s, p)
		e.taken = append(e.taken, at...)
		if len(at) > 0 && len(s.Prefixes) == 0 {
			continue
		}
		if sniffed = sniffed || p.Protocol == mesh.Auto; p.Protocol == mesh.Auto && len(s.Prefixes) == 0 {
			continue
		}
		for _, c := range v.relays(s, p, w, s.Prefixes, false) {
			if len(c.names) > 0 || c.subnet.IsValid() {
				e.chains = append(e.chains, c)
			} else if e.last == nil {
				e.last = &c
			}
		}
	}
	e.chains = oneNameEach(e.chains)
	tls := slices.ContainsFunc(e.chains, func(c chain) bool { return len(c.names) > 0 })
	switch {
	case http:
		e.chains = append(e.chains, chain{plain: tls})
	case sniffed:
		e.chains = append(e.chains, chain{http: true})
	}
	return e
}

// atEntrance judges the TLS and TCP rules of x by the chains they have.
func (v *View) atEntrance(x *expanded, e *entrance, place string, p *mesh.Port, namespace string, labels mesh.Labels, out *judged) {
	judge := func(r *l4Rule, matches []mesh.L4Match, d *Verdict) {
		if d.State == Active {
			return
		}
		mine := func(c *chain) bool {
			return c != nil && c.rule != nil && c.rule.of == r.of && c.rule.tls == r.tls && c.rule.index == r.index
		}
		if r.tls && place == mesh.Mesh && !p.Protocol.IsTLS() {
			return
		}
		if len(matches) == 0 {
			matches = []mesh.L4Match{{}}
		}
		for i := range matches {
			m := &matches[i]
			if !x.admits(m.Gateways, m.Port, m.SourceNamespace, place, p.Number, namespace) || !m.SourceLabels.Selects(labels) {
				continue
			}
			var by *chain
			for _, sni := range e.asking(m.SNIHosts) {
				for _, to := range e.called(m.DestinationSubnets) {
					c := e.pick(to, sni)
					if mine(c) {
						d.better(active(&Example{Namespace: namespace, Labels: labels, To: netip.AddrPortFrom(to, e.port), SNI: sni}))
						return
					}
					if by == nil {
						by = c
					}
				}
			}
			switch {
			case by != nil && by.rule != nil:
				d.better(shadowed(by.ref, by.part, "%s of VirtualService %s/%s already takes all that it matches", by.part, by.ref.Namespace, by.ref.Name))
			case by != nil && by.ref != nil:
				d.better(rejected("connections like that go where %s %s/%s says", by.ref.Kind, by.ref.Namespace, by.ref.Name))
			default:
				d.better(rejected("no connection to a host of it is like that"))
			}
		}
		d.better(rejected("none of its matches is for this place: they name other gateways, ports or clients"))
	}
	for i := range x.TLS {
		judge(&l4Rule{x, true, i}, x.TLS[i].Matches, &out.tls[i])
	}
	for i := range x.TCP {
		judge(&l4Rule{x, false, i}, x.TCP[i].Matches, &out.tcp[i])
	}
}

// asking are server names that tell chains apart: of those that hosts stand for one each, and
// if there are no hosts none and every one that some chain has.
func (e *entrance) asking(hosts []string) []string {
	var out []string
	add := func(n string) {
		if rest, ok := strings.CutPrefix(n, "*"); ok { // nobody else has this name
			n = strings.TrimPrefix("any-"+strings.TrimPrefix(rest, ".")+".invalid", "-")
			if rest != "" {
				n = "any-one" + rest
			}
		}
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	if len(hosts) == 0 {
		out = append(out, "")
		for _, c := range e.chains {
			for _, n := range c.names {
				add(n)
			}
		}
		return out
	}
	for _, h := range hosts {
		add(h)
	}
	for _, c := range e.chains { // of what a wildcard covers some may be taken and some not
		for _, n := range c.names {
			if slices.ContainsFunc(hosts, func(h string) bool { return mesh.Covers(h, n) }) {
				add(n)
			}
		}
	}
	return out
}

// called are addresses that tell chains apart, within subnets if there are any.
func (e *entrance) called(subnets []netip.Prefix) []netip.Addr {
	if e.at.IsValid() {
		return []netip.Addr{e.at}
	}
	var out []netip.Addr
	within := func(a netip.Addr) bool {
		return len(subnets) == 0 || slices.ContainsFunc(subnets, func(s netip.Prefix) bool { return s.Contains(a) })
	}
	add := func(a netip.Addr) {
		if a.IsValid() && within(a) && !slices.Contains(out, a) && !slices.Contains(e.taken, a) {
			out = append(out, a)
		}
	}
	if len(subnets) == 0 {
		add(nowhere)
	}
	for _, s := range subnets {
		add(s.Masked().Addr())
		add(s.Masked().Addr().Next())
	}
	for _, c := range e.chains {
		if c.subnet.IsValid() { // at its ends, and beside them
			first := c.subnet.Masked().Addr()
			add(first)
			add(first.Prev())
			add(last(c.subnet))
			add(last(c.subnet).Next())
		}
	}
	return out
}

// nowhere is an address of documentation (RFC 5737), which is nobody's.
var nowhere = netip.MustParseAddr("203.0.113.7")

// last address of a subnet.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
