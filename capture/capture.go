// Package capture says how a workload's traffic gets into its proxy.
//
// In: a [Config] (ports, what to include and exclude, who is exempt). Out: a
// [Ruleset], which prints as nft text, and which capture/nft applies to a network
// namespace; and, on the proxy's side, [OriginalDst], which recovers where a
// redirected connection wanted to go. Rules is a pure function and everything here
// is safe for concurrent use. Netlink stays in capture/nft, so that the data plane
// can import this package and stay small.
//
// Three shapes of the same rules exist. A proxy outside the workload's network
// namespace (the laptop mesh) needs no exemption: whatever leaves the namespace is
// the application's. A proxy inside it is exempt by its user (a pod) or by a socket
// mark (where the user cannot be changed, as in a user namespace with one id).
//
// What the rules cannot see and the proxy must handle: a client that connects to
// the inbound or outbound port itself has that port as its original destination.
// The proxy refuses it, or it would loop.
package capture

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
)

// Mode is how inbound connections reach the proxy. Outbound ones are always redirected.
type Mode uint8

const (
	// Redirect rewrites the destination; the application sees the proxy as its peer.
	Redirect Mode = iota
	// TProxy leaves both addresses alone, so that the proxy can dial the application
	// from the client's address. Its sockets need IP_TRANSPARENT; see DialMark.
	TProxy
)

func (m Mode) String() string {
	if m == TProxy {
		return "TPROXY"
	}
	return "REDIRECT"
}

const (
	// interceptMark is on packets that TPROXY hands to the proxy: a policy route makes
	// them local whatever their destination. 1332, as in the other meshes' 133x range.
	interceptMark = 0x534
	// DialMark is the SO_MARK of a connection that the proxy opens to the application
	// from its client's address (TPROXY only), so that replies find the proxy and not
	// the client. No ordinary socket may carry it: its packets would go to lo.
	DialMark = 0x53b
	// ProbePort is the usual Config.ProbePort, Istio's.
	ProbePort = 15002
	// routeTable holds the policy route; 133 is what Istio uses for the same purpose.
	routeTable = 133
)

// Passthrough4 and Passthrough6 are the source addresses of a proxy's connection to
// its own application, which no rule captures. 127.0.0.6 and ::6 are Istio's.
var (
	Passthrough4 = netip.AddrFrom4([4]byte{127, 0, 0, 6})
	Passthrough6 = netip.AddrFrom16([16]byte{15: 6})
)

// Config describes the capture of one network namespace.
type Config struct {
	Mode Mode

	OutboundPort uint16 // where the proxy takes what the application sends
	InboundPort  uint16 // where it takes what others send to the application
	// DNSPort takes every DNS query, UDP and TCP, whatever server it is meant for; 0 leaves
	// DNS alone. The UDP listener binds 127.0.0.1 and ::1: answers from a wildcard socket
	// do not match the translated query and are lost.
	DNSPort    uint16
	DNSServers []netip.Addr // only queries to these are taken; none: those to every server
	HealthPort uint16       // reached directly from outside; 0: none
	// ProbePort lets Verify prove that the rules are there: connections to 127.0.0.6 and
	// this port reach InboundPort, whoever makes them and whatever else is captured. 0: none.
	ProbePort uint16

	Outbound Outbound
	Inbound  Inbound
	Exempt   Exempt

	// ExcludeInterfaces are left alone in both directions.
	ExcludeInterfaces []string
	// VirtualInterfaces lead to virtual machines in the pod: what arrives there is an
	// application's, and captured as Outbound says.
	VirtualInterfaces []string
	// DropInvalid drops packets that belong to no connection, which would otherwise be
	// answered with a reset that the connection's other end believes.
	DropInvalid bool

	TProxyMark uint32 // on packets that TPROXY hands to the proxy; 0: the usual one
	RouteTable int    // of the route that brings them there; 0: the usual one

	// IPv6 says that the workload has IPv6 addresses. Without it IPv6 connections are
	// redirected all the same, to find no listener: refused, rather than uncaptured.
	IPv6 bool
}

// Outbound selects connections of the application. The zero value captures none.
// ExcludePorts wins over everything, ExcludeCIDRs over Ports and CIDRs.
type Outbound struct {
	All          bool
	CIDRs        []netip.Prefix // captured destinations, if not All
	Ports        []uint16       // captured whatever the destination, if not All
	ExcludeCIDRs []netip.Prefix
	ExcludePorts []uint16 // 53 here leaves DNS alone too
	GIDs         []uint32 // if any, only what processes of these groups send is captured
	ExcludeGIDs  []uint32 // and what these send is not
}

// Inbound selects connections to the application. The zero value captures none.
type Inbound struct {
	All          bool
	Ports        []uint16 // captured, if not All
	ExcludePorts []uint16
}

// Exempt names the proxy, if it shares the application's network namespace. The zero
// value exempts nobody.
type Exempt struct {
	UIDs, GIDs []uint32
	Mark       uint32 // SO_MARK of the proxy's sockets; 0: none
}

// Default captures everything to the mesh's usual ports and exempts nobody.
func Default() Config {
	return Config{
		OutboundPort: 15001,
		InboundPort:  15006,
		DNSPort:      15053,
		HealthPort:   15021,
		Outbound:     Outbound{All: true},
		Inbound:      Inbound{All: true},
	}
}

// Validate reports what keeps c from being a ruleset, every fault at once.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	if c.Mode > TProxy {
		bad("mode %d: use REDIRECT or TPROXY", c.Mode)
	}
	owner := map[uint16]string{}
	for _, p := range []struct {
		name string
		port uint16
		must bool
	}{
		{"outbound port", c.OutboundPort, c.capturesOutbound()},
		{"inbound port", c.InboundPort, c.capturesInbound()},
		{"DNS port", c.DNSPort, false},
		{"health port", c.HealthPort, false},
		{"probe port", c.ProbePort, false},
	} {
		switch other, taken := owner[p.port]; {
		case p.port == 0 && p.must:
			bad("%s: set the proxy's listening port, or capture nothing in that direction", p.name)
		case p.port != 0 && taken:
			bad("%s %d: already the %s; give each its own", p.name, p.port, other)
		case p.port != 0:
			owner[p.port] = p.name
		}
	}
	for _, l := range []struct {
		name     string
		prefixes []netip.Prefix
	}{
		{"outbound CIDRs", c.Outbound.CIDRs},
		{"excluded outbound CIDRs", c.Outbound.ExcludeCIDRs},
	} {
		for _, p := range l.prefixes {
			if !p.IsValid() || p.Addr().Is4In6() {
				bad("%s: %v is not an IPv4 or IPv6 prefix such as 10.0.0.0/8", l.name, p)
			}
		}
	}
	for _, l := range []struct {
		name  string
		ports []uint16
	}{
		{"outbound ports", c.Outbound.Ports},
		{"excluded outbound ports", c.Outbound.ExcludePorts},
		{"inbound ports", c.Inbound.Ports},
		{"excluded inbound ports", c.Inbound.ExcludePorts},
	} {
		for _, p := range l.ports {
			if p == 0 {
				bad("%s: 0 is not a port; use 1 to 65535", l.name)
			}
		}
	}
	if m := c.Exempt.Mark; c.Mode == TProxy && m != 0 && (m == c.tproxyMark() || m == DialMark) {
		bad("exempt mark %#x: TPROXY routes packets with that mark to lo; use another", m)
	}
	if c.TProxyMark == DialMark {
		bad("TPROXY mark %#x: the proxy's own connections to the application have it; use another", DialMark)
	}
	if t := c.routeTable(); t < 1 || t > 252 {
		bad("route table %d: use 1 to 252, those above are the kernel's", t)
	}
	if c.ProbePort != 0 && c.InboundPort == 0 {
		bad("probe port %d: it leads to the inbound port, which is not set", c.ProbePort)
	}
	for _, a := range c.DNSServers {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			bad("DNS server %v: not an IPv4 or IPv6 address", a)
		}
	}
	for _, name := range slices.Concat(c.ExcludeInterfaces, c.VirtualInterfaces) {
		if !interfaceName.MatchString(name) {
			bad("interface %q: not a name of up to 15 letters, digits and .:_@-", name)
		}
	}
	return errors.Join(errs...)
}

// interfaceName is stricter than the kernel (IFNAMSIZ less its NUL): nft reads "*" as a
// pattern.
var interfaceName = regexp.MustCompile(`^[A-Za-z0-9_.:@-]{1,15}$`)

func (c Config) tproxyMark() uint32 { return cmp.Or(c.TProxyMark, interceptMark) }
func (c Config) routeTable() int    { return cmp.Or(c.RouteTable, routeTable) }

func (c Config) capturesOutbound() bool {
	return c.Outbound.All || len(c.Outbound.CIDRs) > 0 || len(c.Outbound.Ports) > 0
}

func (c Config) capturesInbound() bool {
	return c.Inbound.All || len(c.Inbound.Ports) > 0
}
