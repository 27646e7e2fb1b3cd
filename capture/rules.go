package capture

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Chain priorities (linux/netfilter_ipv4.h): destination translation, and mangling
// before it. Both come after connection tracking at -200.
const (
	priorityNAT    = -100
	priorityMangle = -150
)

const lo = "lo"

var (
	loopback4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)
	loopback6 = netip.PrefixFrom(netip.IPv6Loopback(), 128)
)

// Rules is the ruleset that c describes. Equal configurations give equal rulesets;
// the order and repetition of ports, prefixes and ids does not matter.
func Rules(c Config) (Ruleset, error) {
	if err := c.Validate(); err != nil {
		return Ruleset{}, fmt.Errorf("capture: %w", err)
	}
	c.Outbound.CIDRs = prefixes(c.Outbound.CIDRs)
	c.Outbound.ExcludeCIDRs = prefixes(c.Outbound.ExcludeCIDRs)
	for _, p := range []*[]uint16{&c.Outbound.Ports, &c.Outbound.ExcludePorts, &c.Inbound.Ports, &c.Inbound.ExcludePorts} {
		*p = sorted(*p)
	}
	for _, p := range []*[]uint32{&c.Exempt.UIDs, &c.Exempt.GIDs, &c.Outbound.GIDs, &c.Outbound.ExcludeGIDs} {
		*p = sorted(*p)
	}
	for _, p := range []*[]string{&c.ExcludeInterfaces, &c.VirtualInterfaces} {
		*p = sorted(*p)
	}
	c.DNSServers = slices.Clone(c.DNSServers)
	slices.SortFunc(c.DNSServers, netip.Addr.Compare)
	c.DNSServers = slices.Compact(c.DNSServers)

	var r Ruleset
	if c.IPv6 {
		r.Lo = []netip.Prefix{netip.PrefixFrom(Passthrough6, 128)}
	}
	if c.DropInvalid {
		ch := Chain{Name: "inv", Type: Filter, Hook: Prerouting, Priority: priorityMangle}
		ch.add(Invalid{}, Drop{})
		r.Chains = append(r.Chains, ch)
	}
	r.Chains = append(r.Chains, output(c))
	if len(c.VirtualInterfaces) > 0 {
		r.Chains = append(r.Chains, virtual(c))
	}
	switch {
	case !c.capturesInbound():
	case c.Mode == Redirect:
		r.Chains = append(r.Chains, redirectInbound(c))
	default:
		r.Chains = append(r.Chains, tproxyInbound(c), tproxyReplies())
		r.Local = []uint32{c.tproxyMark(), DialMark}
		r.RouteTable = c.routeTable()
		r.Families = []Family{IPv4}
		if c.IPv6 {
			r.Families = append(r.Families, IPv6)
		}
	}
	return r, nil
}

// output takes what the application sends. Chains of type nat see only the first
// packet of a connection, so every rule is about connections.
func output(c Config) Chain {
	ch := Chain{Name: "out", Type: NAT, Hook: Output, Priority: priorityNAT}
	add := ch.add

	if c.ProbePort != 0 {
		add(Destination{netip.PrefixFrom(Passthrough4, 32), false}, Port{TCP, c.ProbePort}, RedirectTo(c.InboundPort))
	}
	for _, name := range c.ExcludeInterfaces {
		add(OutIface(name), Return{})
	}
	// The proxy's connection to the application, also to its port 53.
	add(OutIface(lo), Source(netip.PrefixFrom(Passthrough4, 32)), Return{})
	if c.IPv6 {
		add(OutIface(lo), Source(netip.PrefixFrom(Passthrough6, 128)), Return{})
	}
	if c.Mode == TProxy {
		add(Mark(DialMark), Return{})
	}
	exempt := c.Exempt.conditions()
	if c.capturesInbound() {
		// A proxy that balances to its own pod meets its inbound side, as from anywhere else.
		for _, who := range exempt {
			add(OutIface(lo), Destination{loopback4, true}, who, TCP, RedirectTo(c.InboundPort))
			if c.IPv6 {
				add(OutIface(lo), Destination{loopback6, true}, who, TCP, RedirectTo(c.InboundPort))
			}
		}
	}
	for _, who := range exempt {
		add(who, Return{})
	}

	for _, id := range c.Outbound.ExcludeGIDs {
		add(OwnerGID(id), Return{})
	}
	if len(c.Outbound.GIDs) > 0 {
		var none Rule
		for _, id := range c.Outbound.GIDs {
			none = append(none, OwnerGIDNot(id))
		}
		add(append(none, Return{})...)
	}

	for _, p := range c.Outbound.ExcludePorts {
		add(Port{TCP, p}, Return{})
		if p == 53 {
			add(Port{UDP, p}, Return{})
		}
	}
	if c.DNSPort != 0 {
		// Before lo is let through: a resolver stub on 127.0.0.53 is a DNS server like others.
		for _, p := range []Protocol{UDP, TCP} {
			if len(c.DNSServers) == 0 {
				add(Port{p, 53}, RedirectTo(c.DNSPort))
			}
			for _, server := range c.DNSServers {
				add(Destination{netip.PrefixFrom(server, server.BitLen()), false}, Port{p, 53}, RedirectTo(c.DNSPort))
			}
		}
	}
	add(OutIface(lo), Return{})
	c.outbound(add)
	return ch
}

// outbound adds what decides by destination.
func (c Config) outbound(add func(...Statement)) {
	for _, p := range c.Outbound.ExcludeCIDRs {
		add(Destination{p, false}, Return{})
	}
	if c.Outbound.All {
		add(TCP, RedirectTo(c.OutboundPort))
		return
	}
	for _, p := range c.Outbound.Ports {
		add(Port{TCP, p}, RedirectTo(c.OutboundPort))
	}
	for _, p := range c.Outbound.CIDRs {
		add(Destination{p, false}, TCP, RedirectTo(c.OutboundPort))
	}
}

// virtual takes what virtual machines in the pod send.
func virtual(c Config) Chain {
	ch := Chain{Name: "virt", Type: NAT, Hook: Prerouting, Priority: priorityNAT}
	for _, name := range c.VirtualInterfaces {
		add := func(s ...Statement) { ch.add(append([]Statement{InIface(name)}, s...)...) }
		for _, p := range c.Outbound.ExcludePorts {
			add(Port{TCP, p}, Return{})
		}
		c.outbound(add)
	}
	return ch
}

func redirectInbound(c Config) Chain {
	ch := Chain{Name: "pre", Type: NAT, Hook: Prerouting, Priority: priorityNAT}
	for _, captured := range c.inbound(&ch) {
		ch.add(captured, RedirectTo(c.InboundPort))
	}
	return ch
}

// tproxyInbound sees every packet, not only the first, hence the marks: those of the
// proxy's spoofed dials are remembered on the connection for tproxyReplies.
func tproxyInbound(c Config) Chain {
	ch := Chain{Name: "tpre", Type: Filter, Hook: Prerouting, Priority: priorityMangle}
	ch.add(Mark(DialMark), SaveMark{}, Return{})
	ch.add(Reply{}, Return{})
	for _, captured := range c.inbound(&ch) {
		ch.add(captured, TProxyTo(c.InboundPort), SetMark(c.tproxyMark()), Accept{})
		// No proxy is listening. Without this rule the application would be reached uncaptured.
		ch.add(captured, Reset{})
	}
	return ch
}

// tproxyReplies turns the application's answers to a spoofed dial, addressed to the
// real client, back to the proxy.
func tproxyReplies() Chain {
	ch := Chain{Name: "tout", Type: Route, Hook: Output, Priority: priorityMangle}
	ch.add(ConnMark(DialMark), SetMark(DialMark))
	return ch
}

// inbound adds the exceptions to ch and returns the conditions of what is captured.
func (c Config) inbound(ch *Chain) []Statement {
	for _, name := range slices.Concat([]string{lo}, c.ExcludeInterfaces, c.VirtualInterfaces) {
		ch.add(InIface(name), Return{})
	}
	except := c.Inbound.ExcludePorts
	if c.HealthPort != 0 {
		except = sorted(append(slices.Clip(except), c.HealthPort))
	}
	for _, p := range except {
		ch.add(Port{TCP, p}, Return{})
	}
	if c.Inbound.All {
		return []Statement{TCP}
	}
	var out []Statement
	for _, p := range c.Inbound.Ports {
		out = append(out, Port{TCP, p})
	}
	return out
}

func (e Exempt) conditions() []Statement {
	var out []Statement
	for _, id := range e.UIDs {
		out = append(out, OwnerUID(id))
	}
	for _, id := range e.GIDs {
		out = append(out, OwnerGID(id))
	}
	if e.Mark != 0 {
		out = append(out, Mark(e.Mark))
	}
	return out
}

func (c *Chain) add(s ...Statement) { c.Rules = append(c.Rules, s) }

func sorted[T cmp.Ordered](in []T) []T {
	out := slices.Clone(in)
	slices.Sort(out)
	return slices.Compact(out)
}

func prefixes(in []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range in {
		out = append(out, p.Masked())
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}
