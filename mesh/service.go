package mesh

import (
	"cmp"
	"net/netip"
)

// Protocol is what a port speaks, as declared (features.md B.19 "protocol selection").
type Protocol string

// The protocols ports are declared with. Auto means nothing was declared: sniff.
const (
	Auto    Protocol = ""
	HTTP    Protocol = "http"
	HTTP2   Protocol = "http2"
	GRPC    Protocol = "grpc"
	GRPCWeb Protocol = "grpc-web"
	HTTPS   Protocol = "https"
	TLS     Protocol = "tls"
	TCP     Protocol = "tcp"
	Mongo   Protocol = "mongo"
	MySQL   Protocol = "mysql"
	Redis   Protocol = "redis"
	UDP     Protocol = "udp"
)

// IsHTTP reports whether routes by host, path and header apply in the clear.
func (p Protocol) IsHTTP() bool {
	switch p {
	case HTTP, HTTP2, GRPC, GRPCWeb:
		return true
	}
	return false
}

// IsHTTP2 reports whether servers of the port speak HTTP/2. Those of a gRPC-Web port speak gRPC: the proxy before them
// translates.
func (p Protocol) IsHTTP2() bool { return p == HTTP2 || p == GRPC || p == GRPCWeb }

// IsTLS reports whether the application itself speaks TLS on the port.
func (p Protocol) IsTLS() bool { return p == HTTPS || p == TLS }

// Resolution says where a service's endpoints come from.
type Resolution uint8

// Resolutions of ServiceEntry; Kubernetes Services are Static or, headless, Passthrough.
const (
	Static Resolution = iota // the EndpointSet
	DNS                      // names in the EndpointSet, resolved by the proxy
	DNSRoundRobin
	Passthrough // the address the client dialled (resolution NONE, headless services)
	DynamicDNS  // the name that a call asks for, resolved by the proxy
)

// Service is something that can be called by name.
type Service struct {
	Ref       Ref
	Joined    []Ref  // ServiceEntries beside Ref that define it, too
	Hostname  string // FQDN; "reviews.default.svc.cluster.local", "api.example.com", "*.example.com"
	Name      string // short name: "reviews"; for a ServiceEntry its host
	Namespace string
	// Addresses are the virtual addresses clients dial; empty for headless services.
	Addresses []netip.Addr
	// Nominal says that nobody asked for these Addresses: they were allotted to a host outside,
	// so that only who resolves names by the mesh's name table ever dials them.
	Nominal bool
	// Led says that the network itself leads who dials Addresses to an endpoint that is there,
	// as kube-proxy does, whatever proxies know.
	Led bool
	// Prefixes are blocks of addresses that belong to the service, too (ServiceEntry
	// with CIDR addresses).
	Prefixes []netip.Prefix
	// Index is a small number, unique among services and stable over restarts, from
	// which per-caller virtual addresses are made (local mode, env capture).
	Index           uint32
	Ports           []Port
	Selector        Labels // nil: endpoints are listed, not selected
	External        bool   // outside the mesh (ServiceEntry MESH_EXTERNAL): no mTLS
	Resolution      Resolution
	ServiceAccounts []string // SPIFFE IDs expected in addition to those of the endpoints (subjectAltNames)
	Visible         Visibility
	Labels          Labels
}

// Key is the service's key in the Snapshot.
func (s *Service) Key() Key { return NewKey(s.Namespace, s.Hostname) }

// Port returns the service port with the given number, or nil.
func (s *Service) Port(number uint16) *Port {
	for i := range s.Ports {
		if s.Ports[i].Number == number {
			return &s.Ports[i]
		}
	}
	return nil
}

// Port is one port of a service.
type Port struct {
	Number   uint16
	Name     string
	Protocol Protocol
	// Target is the workload's port, or TargetName the name of one; Target 0 and
	// TargetName "" mean the same number.
	Target     uint16
	TargetName string
}

// TargetNumber is the workload's port as far as a number says it.
func (p *Port) TargetNumber() uint16 { return cmp.Or(p.Target, p.Number) }

// EndpointSet is who serves a service now.
type EndpointSet struct {
	// Ports maps a service port number to the endpoints behind it.
	Ports map[uint16][]Endpoint
}

// Endpoint is one address that serves one service port.
type Endpoint struct {
	Addr     netip.AddrPort // where it is reached; invalid if Host is set
	Host     string         // a DNS name (Resolution DNS) with Port, or "unix:///path"
	Port     uint16         // its own; that of Addr unless it is published elsewhere (env capture); 0 is the same
	Workload *Workload      // nil if it is only an address
	Labels   Labels         // for subsets; the workload's unless given
	Identity string         // SPIFFE ID expected from it, "" if unknown
	TLS      bool           // its proxy speaks mesh mTLS (security.istio.io/tlsMode=istio)
	Weight   uint32         // 0 means 1
	Locality Locality
	Health   Health
}

// Locality is region/zone/subzone.
type Locality struct{ Region, Zone, SubZone string }

// Health says whether an endpoint takes new requests.
type Health uint8

// Healths of endpoints. Draining endpoints finish what they have.
const (
	Healthy Health = iota
	Unhealthy
	Draining
)

// Workload is one running instance: a pod, a local process, a virtual machine.
type Workload struct {
	Ref            Ref
	Name           string // pod name: "reviews-v1-0"
	Namespace      string
	Owner          string // the Deployment: "reviews-v1"; labels source_workload, destination_workload
	OwnerKind      string // "Deployment"
	Addresses      []netip.Addr
	Host           string // DNS name of a workload without Addresses (WorkloadEntry)
	Labels         Labels
	Annotations    map[string]string
	ServiceAccount string
	Ports          map[string]uint16 // named container ports
	Declared       []uint16          // all at which its containers say that they listen; nil: not all of them say something
	// Published is where ports are reached that are not reached at Addresses under their
	// own numbers (env capture).
	Published map[uint16]netip.AddrPort
	Proxied   bool // has a sidecar: speaks mesh mTLS
	Settled   bool // nobody has to give it a proxy: it has one, says that it wants none, or has the network of its node
	Health    Health
	Locality  Locality
	Weight    uint32 // share of load among its like; 0 means 1
	// AdminAddr is where its proxy's admin interface is reached ("unix:///…"), "" if none.
	AdminAddr string
}

// Key is the workload's key in the Snapshot.
func (w *Workload) Key() Key { return NewKey(w.Namespace, w.Name) }

// Serves is the workload's port that p leads to; false if w has no port of the name that
// p asks for. The ports of a WorkloadEntry are named as the service's, those of a Pod by
// its containers.
func (w *Workload) Serves(p *Port) (uint16, bool) {
	if w.OwnerKind == "WorkloadEntry" {
		if n, ok := w.Ports[p.Name]; ok {
			return n, true
		}
		if n, ok := w.Ports[p.TargetName]; ok {
			return n, true
		}
	} else if p.TargetName != "" {
		n, ok := w.Ports[p.TargetName]
		return n, ok
	}
	return p.TargetNumber(), true
}

// SPIFFE is the workload's identity in trust domain td.
func (w *Workload) SPIFFE(td string) string {
	return "spiffe://" + td + "/ns/" + w.Namespace + "/sa/" + w.ServiceAccount
}
