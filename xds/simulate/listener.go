package simulate

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
)

// Resolve answers for the proxy's name table as a resolver with Kubernetes' search list of
// a namespace does.
func (p *Proxy) Resolve(host, namespace string) (netip.Addr, bool) {
	for _, suffix := range []string{"", "." + namespace + ".svc.cluster.local", ".svc.cluster.local", ".cluster.local"} {
		for _, ip := range p.Names.GetTable()[host+suffix].GetIps() {
			if a, err := netip.ParseAddr(ip); err == nil {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// Listener is where a connection to dst arrives; nil if nowhere.
func (p *Proxy) Listener(dst netip.AddrPort) *listenerv3.Listener {
	if p.Bound {
		for _, at := range []string{dst.Addr().String(), "0.0.0.0"} {
			for _, name := range slices.Sorted(maps.Keys(p.Listeners)) {
				l := p.Listeners[name]
				if a := l.GetAddress().GetSocketAddress(); a.GetPortValue() == uint32(dst.Port()) && a.GetAddress() == at {
					return l
				}
			}
		}
		return nil
	}
	for _, name := range []string{fmt.Sprintf("%s_%d", dst.Addr(), dst.Port()), fmt.Sprintf("0.0.0.0_%d", dst.Port()), "virtualOutbound"} {
		if l := p.Listeners[name]; l != nil {
			return l
		}
	}
	return nil
}

// socket is the listener at a Unix socket; nil if there is none.
func (p *Proxy) socket(path string) *listenerv3.Listener {
	for _, l := range p.Listeners {
		if l.GetAddress().GetPipe().GetPath() == path {
			return l
		}
	}
	return nil
}

// Connection is what filter chains match.
type Connection struct {
	Destination netip.AddrPort
	Transport   string // transport_protocol: "tls" or "raw_buffer"
	ServerName  string
	Protocols   []string // application_protocols
	// Source is the client, and Direct who connected, if that is somebody else, on its behalf (a PROXY header). Without an address, or a port,
	// nobody knows: chains for certain ones are not for it. Local: it comes by a Unix socket.
	Source netip.AddrPort
	Direct netip.Addr
	Local  bool
}

// local reports whether a connection is for source_type SAME_IP_OR_LOOPBACK, and whether that can be said.
func (c *Connection) local() (is, known bool) {
	a := c.Source.Addr().Unmap()
	return c.Local || a.IsLoopback() || a == c.Destination.Addr(), c.Local || a.IsValid()
}

// inRange is the length of the longest prefix that an address is in, plus one; 0: there are none, -1: it is in none.
func inRange(list []*corev3.CidrRange, a netip.Addr) int {
	if len(list) == 0 {
		return 0
	}
	best := -1
	for _, r := range list {
		if start, err := netip.ParseAddr(r.GetAddressPrefix()); err == nil {
			p := netip.PrefixFrom(start, int(r.GetPrefixLen().GetValue()))
			best = max(best, scored(p.Contains(a), p.Bits()+1))
		}
	}
	return best
}

// Pick chooses a chain as FilterChainMatch specifies: criterion after criterion the most
// specific that matches, never going back; nil if there is none.
func Pick(l *listenerv3.Listener, c Connection) *listenerv3.FilterChain {
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
		return scored(m.GetDestinationPort().GetValue() == uint32(c.Destination.Port()), 1)
	})
	narrow(func(m *listenerv3.FilterChainMatch) int {
		return inRange(m.GetPrefixRanges(), c.Destination.Addr())
	})
	narrow(func(m *listenerv3.FilterChainMatch) int {
		if len(m.GetServerNames()) == 0 {
			return 0
		}
		best := -1
		for _, n := range m.GetServerNames() {
			best = max(best, scored(n == c.ServerName || strings.HasPrefix(n, "*.") && strings.HasSuffix(c.ServerName, n[1:]), len(n)+1))
		}
		return best
	})
	narrow(func(m *listenerv3.FilterChainMatch) int {
		if m.GetTransportProtocol() == "" {
			return 0
		}
		return scored(m.GetTransportProtocol() == c.Transport, 1)
	})
	narrow(func(m *listenerv3.FilterChainMatch) int {
		if len(m.GetApplicationProtocols()) == 0 {
			return 0
		}
		return scored(slices.ContainsFunc(c.Protocols, func(p string) bool { return slices.Contains(m.GetApplicationProtocols(), p) }), 1)
	})
	direct := c.Direct
	if !direct.IsValid() {
		direct = c.Source.Addr()
	}
	narrow(func(m *listenerv3.FilterChainMatch) int {
		return inRange(m.GetDirectSourcePrefixRanges(), direct.Unmap())
	})
	narrow(func(m *listenerv3.FilterChainMatch) int {
		is, known := c.local()
		switch m.GetSourceType() {
		case listenerv3.FilterChainMatch_SAME_IP_OR_LOOPBACK:
			return scored(known && is, 1)
		case listenerv3.FilterChainMatch_EXTERNAL:
			return scored(known && !is, 1)
		case listenerv3.FilterChainMatch_ANY:
		}
		return 0
	})
	narrow(func(m *listenerv3.FilterChainMatch) int {
		return inRange(m.GetSourcePrefixRanges(), c.Source.Addr().Unmap())
	})
	narrow(func(m *listenerv3.FilterChainMatch) int {
		if len(m.GetSourcePorts()) == 0 {
			return 0
		}
		return scored(slices.Contains(m.GetSourcePorts(), uint32(c.Source.Port())), 1)
	})
	if len(left) == 0 {
		return l.GetDefaultFilterChain()
	}
	return left[0]
}

func scored(ok bool, score int) int {
	if ok {
		return score
	}
	return -1
}
