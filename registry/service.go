package registry

import (
	"net/netip"

	"github.com/weirmesh/weir/mesh"
)

// Service is a service as it was asked for. Who serves it, and under which addresses it
// is called, the Registry finds out.
type Service struct {
	// Mesh has no Index, and as Addresses only those that were asked for.
	Mesh     mesh.Service
	Allocate Allocate
	// IPv6 asks for a second virtual address; IPv6Only for no other.
	IPv6, IPv6Only bool
	// NotReady says that endpoints count before they are ready.
	NotReady bool
	// Sliced says that the Pods which serve it are those in its Slices: readiness and ports
	// are then what these say. WorkloadEntries are selected by labels all the same.
	Sliced bool
	// Listed are the endpoints given by the service itself.
	Listed []Listed
}

// Allocate says from where a service without addresses gets one.
type Allocate uint8

// Nowhere is for headless services and wildcard hosts.
const (
	Nowhere Allocate = iota
	FromCluster
	FromExternal
)

// Listed is an endpoint that was written down: an address or a DNS name.
type Listed struct {
	Addr     netip.Addr
	Host     string
	Ports    map[string]uint16 // by port name; otherwise the service port's target
	Labels   mesh.Labels
	Locality mesh.Locality
	Weight   uint32
	Account  string // service account, "" if unknown
	TLS      bool   // speaks mesh mTLS
}
