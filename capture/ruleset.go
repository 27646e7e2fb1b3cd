package capture

import (
	"fmt"
	"net/netip"
	"strings"
)

// Ruleset is what a network namespace needs for capture: one table of family inet
// that nobody else writes to, and, for TPROXY and IPv6, a few addresses and routes.
// Its values are shared: treat them as read-only.
type Ruleset struct {
	Chains []Chain
	// Lo lists addresses to add to lo.
	Lo []netip.Prefix
	// Local lists the marks whose packets are delivered locally whatever their destination:
	// a policy rule per mark, and one route in table RouteTable, for each of Families.
	Local      []uint32
	RouteTable int
	Families   []Family
}

// Table is the name of the table.
const Table = "weir"

// Family is an address family.
type Family uint8

const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// ChainType decides what a chain's verdicts may do (nft(8), CHAINS).
type ChainType string

const (
	NAT    ChainType = "nat"
	Filter ChainType = "filter"
	Route  ChainType = "route"
)

// Hook is where a packet meets a chain.
type Hook string

const (
	Prerouting Hook = "prerouting"
	Output     Hook = "output"
)

// Chain is a base chain whose policy is accept.
type Chain struct {
	Name     string
	Type     ChainType
	Hook     Hook
	Priority int32
	Rules    []Rule
}

// Rule is a sequence of statements, evaluated until one does not hold or decides.
type Rule []Statement

// Statement is a condition or an action. Its String is nft text, and the set of
// types below is closed: capture/nft knows each.
type Statement interface {
	fmt.Stringer
	statement()
}

// Conditions.
type (
	// OutIface and InIface match an interface by name.
	OutIface string
	InIface  string
	// Source and Destination match an address, and by it the family. Not inverts the
	// address only: the family must match in either case.
	Source      netip.Prefix
	Destination struct {
		Prefix netip.Prefix
		Not    bool
	}
	// Protocol matches the transport protocol.
	Protocol uint8
	// Port matches a transport protocol and destination port.
	Port struct {
		Protocol Protocol
		Port     uint16
	}
	// Mark matches a packet's mark, ConnMark its connection's.
	Mark     uint32
	ConnMark uint32
	// OwnerUID and OwnerGID match the owner of the sending socket, OwnerGIDNot any other.
	OwnerUID    uint32
	OwnerGID    uint32
	OwnerGIDNot uint32
	// Reply matches packets that answer a connection's first one.
	Reply struct{}
	// Invalid matches packets that belong to no connection and begin none.
	Invalid struct{}
)

// Actions.
type (
	// SetMark marks the packet; SaveMark copies its mark to the connection.
	SetMark  uint32
	SaveMark struct{}
	// RedirectTo rewrites the destination to a port of this namespace.
	RedirectTo uint16
	// TProxyTo hands the packet to the transparent socket on a port; without such a
	// socket the rule does not hold.
	TProxyTo uint16
	// Return and Accept end the evaluation of the chain, Drop discards the packet, Reset
	// answers with a TCP reset.
	Return struct{}
	Accept struct{}
	Drop   struct{}
	Reset  struct{}
)

// Protocol numbers (IANA).
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

func (OutIface) statement()    {}
func (InIface) statement()     {}
func (Source) statement()      {}
func (Destination) statement() {}
func (Protocol) statement()    {}
func (Port) statement()        {}
func (Mark) statement()        {}
func (ConnMark) statement()    {}
func (OwnerUID) statement()    {}
func (OwnerGID) statement()    {}
func (OwnerGIDNot) statement() {}
func (Reply) statement()       {}
func (Invalid) statement()     {}
func (SetMark) statement()     {}
func (SaveMark) statement()    {}
func (RedirectTo) statement()  {}
func (TProxyTo) statement()    {}
func (Return) statement()      {}
func (Accept) statement()      {}
func (Drop) statement()        {}
func (Reset) statement()       {}

func (s OutIface) String() string    { return fmt.Sprintf("oifname %q", string(s)) }
func (s InIface) String() string     { return fmt.Sprintf("iifname %q", string(s)) }
func (s Source) String() string      { return address("saddr ", netip.Prefix(s)) }
func (s Destination) String() string { return address(s.operator(), s.Prefix) }
func (s Protocol) String() string    { return "meta l4proto " + s.name() }
func (s Port) String() string        { return fmt.Sprintf("%s dport %d", s.Protocol.name(), s.Port) }
func (s Mark) String() string        { return fmt.Sprintf("meta mark 0x%08x", uint32(s)) }
func (s ConnMark) String() string    { return fmt.Sprintf("ct mark 0x%08x", uint32(s)) }
func (s OwnerUID) String() string    { return fmt.Sprintf("meta skuid %d", uint32(s)) }
func (s OwnerGID) String() string    { return fmt.Sprintf("meta skgid %d", uint32(s)) }
func (s OwnerGIDNot) String() string { return fmt.Sprintf("meta skgid != %d", uint32(s)) }
func (Reply) String() string         { return "ct direction reply" }
func (Invalid) String() string       { return "ct state invalid" }
func (s SetMark) String() string     { return fmt.Sprintf("meta mark set 0x%08x", uint32(s)) }
func (SaveMark) String() string      { return "ct mark set meta mark" }
func (s RedirectTo) String() string  { return fmt.Sprintf("redirect to :%d", uint16(s)) }
func (s TProxyTo) String() string    { return fmt.Sprintf("tproxy to :%d", uint16(s)) }
func (Return) String() string        { return "return" }
func (Accept) String() string        { return "accept" }
func (Drop) String() string          { return "drop" }
func (Reset) String() string         { return "reject with tcp reset" }

func (s Protocol) name() string {
	if s == UDP {
		return "udp"
	}
	return "tcp"
}

func (s Destination) operator() string {
	if s.Not {
		return "daddr != "
	}
	return "daddr "
}

func address(field string, p netip.Prefix) string {
	family := "ip "
	if p.Addr().Is6() {
		family = "ip6 "
	}
	if p.IsSingleIP() {
		return family + field + p.Addr().String()
	}
	return family + field + p.String()
}

func (r Rule) String() string {
	words := make([]string, len(r))
	for i, s := range r {
		words[i] = s.String()
	}
	return strings.Join(words, " ")
}

// String is the ruleset as a file for nft -f; what nft cannot do is shown as comments
// in the words of ip(8).
func (r Ruleset) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", Table)
	for i, c := range r.Chains {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "\tchain %s {\n", c.Name)
		fmt.Fprintf(&b, "\t\ttype %s hook %s priority %d; policy accept;\n", c.Type, c.Hook, c.Priority)
		for _, rule := range c.Rules {
			fmt.Fprintf(&b, "\t\t%s\n", rule)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	for _, p := range r.Lo {
		fmt.Fprintf(&b, "# ip address add %s dev lo\n", p)
	}
	for _, f := range r.Families {
		for _, m := range r.Local {
			fmt.Fprintf(&b, "# ip -%d rule add fwmark %#x lookup %d\n", f, m, r.RouteTable)
		}
		fmt.Fprintf(&b, "# ip -%d route add local default dev lo table %d\n", f, r.RouteTable)
	}
	return b.String()
}
