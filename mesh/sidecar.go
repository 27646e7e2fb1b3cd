package mesh

import (
	"net/netip"
	"strings"
)

// Sidecar says what workloads see of the mesh, and what of them is seen: those Selector
// picks, or the whole namespace, or (in the root namespace, without Selector) all
// namespaces that have none. Of several for one workload the one with a Selector is used,
// else that of the namespace; of equals the oldest.
type Sidecar struct {
	Ref      Ref
	Selector Labels // nil: the namespace
	// Egress is what the workloads see, by port; nil: all that is exported to them.
	Egress []Egress
	// Ingress are the workload's ports that are served, instead of those that services
	// lead to; nil: those.
	Ingress []Ingress
	// Strangers says where calls to what they do not see go.
	Strangers Strangers
	// Proxy is where they go instead if they may pass; nil: where they were dialled.
	Proxy *Destination
	// Pool limits and times connections to the applications of the workloads; nil: nothing does.
	Pool *ConnectionPool
}

// Strangers is outboundTrafficPolicy.
type Strangers uint8

// Where calls to what is not seen go: as Settings.RegistryOnly says, to where they were
// dialled, nowhere.
const (
	StrangersDefault Strangers = iota
	StrangersPass
	StrangersRefused
)

// Egress is what is seen on a port: those of Hosts that have it.
type Egress struct {
	Port  uint16 // 0: on every port that no other Egress has; with a socket on every port
	Hosts []Import
	// Bind is where Hosts are served instead of at their own addresses: an IP address, or
	// "unix://" and the path of a socket; "": there, unless Uncaptured.
	Bind string
	// Uncaptured says that applications call the proxy where Hosts are served: by Bind, or at
	// 127.0.0.1.
	Uncaptured bool
	Protocol   Protocol // of ports that declare none, and at a socket which of them are served; "": nothing is said
}

// Apart reports whether the hosts are served where the Egress says, and nowhere else.
func (e *Egress) Apart() bool { return e.Bind != "" || e.Uncaptured }

// Socket is the path of the Unix socket where the hosts are served, "" if it is an address.
func (e *Egress) Socket() string {
	path, ok := strings.CutPrefix(e.Bind, "unix://")
	if !ok {
		return ""
	}
	return path
}

// Import names hosts by the namespace of the object that defines them, and by pattern.
type Import struct {
	Namespace string // "*": any, ".": that of the workload that sees
	Host      string // a host, "*.suffix" or "*"
	Exclude   bool   // what it names is not seen, whatever the others say
}

// Ingress is a port that the workload serves.
type Ingress struct {
	Port     uint16
	Protocol Protocol
	// Bind is the address at which the port is served, of those that the workload has; invalid: all.
	Bind netip.Addr
	// Uncaptured says that the proxy listens there: nothing redirects connections to it.
	Uncaptured bool
	// App is where the application listens: a loopback address; an unspecified one stands
	// for the workload's own; invalid: where the connection was dialled.
	App netip.AddrPort
	// Socket is the path of the Unix socket where it listens instead.
	Socket string
	// TLS ends at the proxy, of clients that are not of the mesh; nil: theirs is the application's.
	TLS *ServerTLS
	// Pool is what holds for the port instead of that of the Sidecar.
	Pool *ConnectionPool
}

// Covers reports whether a host pattern (a host, "*.suffix" or "*") covers host, which may
// be a pattern itself: it stands for nothing that pattern does not stand for.
func Covers(pattern, host string) bool {
	switch {
	case pattern == host, pattern == "*":
		return true
	case !strings.HasPrefix(pattern, "*"):
		return false
	}
	return strings.HasSuffix(host, pattern[1:]) && len(host) > len(pattern)-1
}

// names reports whether i is about the objects of namespace ns, for a workload in own.
func (i *Import) names(ns, own string) bool {
	return i.Namespace == "*" || i.Namespace == ns || i.Namespace == "." && ns == own
}

// Imports reports whether a service of host, defined in namespace ns, is seen by a
// workload in own.
func (e *Egress) Imports(own, ns, host string) bool {
	return e.any(own, ns, func(pattern string) bool { return Covers(pattern, host) }) && !e.excludes(own, ns, host)
}

// Meets reports whether a VirtualService of host, which may be a pattern, in namespace ns
// holds for a workload in own: both stand for some host.
func (e *Egress) Meets(own, ns, host string) bool {
	return e.any(own, ns, func(pattern string) bool { return Covers(pattern, host) || Covers(host, pattern) }) && !e.excludes(own, ns, host)
}

func (e *Egress) any(own, ns string, holds func(pattern string) bool) bool {
	for i := range e.Hosts {
		if m := &e.Hosts[i]; !m.Exclude && m.names(ns, own) && holds(m.Host) {
			return true
		}
	}
	return false
}

func (e *Egress) excludes(own, ns, host string) bool {
	for i := range e.Hosts {
		if m := &e.Hosts[i]; m.Exclude && m.names(ns, own) && Covers(m.Host, host) {
			return true
		}
	}
	return false
}
