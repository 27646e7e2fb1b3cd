package registry

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/weirmesh/weir/mesh"
)

// Slice is a part of a service's endpoints as somebody else counts them: the controllers
// of Kubernetes, or an operator who writes EndpointSlices.
type Slice struct {
	Service   mesh.Key
	Ports     []SlicePort
	Endpoints []SliceEndpoint
}

// SlicePort is where the endpoints of a Slice serve the service port of a name.
type SlicePort struct {
	Name   string
	Number uint16 // 0: the service port's target
}

// SliceEndpoint is one address of a Slice.
type SliceEndpoint struct {
	Addr netip.Addr
	// Workload is what serves there. One that is not known yet is waited for: without it
	// nobody could tell whom to expect. "" is only an address.
	Workload mesh.Key
	Health   mesh.Health
	Locality mesh.Locality // used where the workload has none
}

// sliced knows the slices of services, and which workloads are in them.
type sliced struct {
	byID       map[string]*Slice
	byService  map[mesh.Key]map[string]bool
	byWorkload map[mesh.Key]map[mesh.Key]int // service → endpoints
}

func newSliced() sliced {
	return sliced{byID: map[string]*Slice{}, byService: map[mesh.Key]map[string]bool{}, byWorkload: map[mesh.Key]map[mesh.Key]int{}}
}

// SetSlice says what the object id lists now; nil removes it. Slices of services that are
// not Sliced are kept in case they become so.
func (r *Registry) SetSlice(id string, s *Slice) {
	x := &r.sliced
	if old := x.byID[id]; old != nil {
		r.dirtyEndpoints[old.Service] = true
		if delete(x.byService[old.Service], id); len(x.byService[old.Service]) == 0 {
			delete(x.byService, old.Service)
		}
		x.count(old, -1)
		delete(x.byID, id)
	}
	if s != nil {
		r.dirtyEndpoints[s.Service] = true
		x.byID[id] = s
		if x.byService[s.Service] == nil {
			x.byService[s.Service] = map[string]bool{}
		}
		x.byService[s.Service][id] = true
		x.count(s, 1)
	}
}

func (x *sliced) count(s *Slice, by int) {
	for _, e := range s.Endpoints {
		if e.Workload == "" {
			continue
		}
		m := x.byWorkload[e.Workload]
		if m == nil {
			m = map[mesh.Key]int{}
			x.byWorkload[e.Workload] = m
		}
		if m[s.Service] += by; m[s.Service] == 0 {
			if delete(m, s.Service); len(m) == 0 {
				delete(x.byWorkload, e.Workload)
			}
		}
	}
}

// changedWorkload marks the services in whose slices the workload k is.
func (r *Registry) changedWorkload(k mesh.Key) {
	for s := range r.sliced.byWorkload[k] {
		r.dirtyEndpoints[s] = true
	}
}

// inSlices lists who serves a port of s by its slices. An address that is in two of them,
// as happens while a controller moves it, is one endpoint; the better word counts.
func (r *Registry) inSlices(s *Service, port mesh.Port) []mesh.Endpoint {
	var out []mesh.Endpoint
	at := map[netip.AddrPort]int{}
	for _, id := range slices.Sorted(maps.Keys(r.sliced.byService[s.Mesh.Key()])) {
		slice := r.sliced.byID[id]
		i := slices.IndexFunc(slice.Ports, func(p SlicePort) bool { return p.Name == port.Name })
		if i < 0 {
			continue
		}
		number := slice.Ports[i].Number
		if number == 0 {
			number = port.TargetNumber()
		}
		for _, x := range slice.Endpoints {
			e := mesh.Endpoint{Addr: netip.AddrPortFrom(x.Addr, number), Port: number, Health: x.Health, Locality: x.Locality}
			if x.Workload != "" {
				w := r.workload(x.Workload)
				if w == nil {
					continue
				}
				e.Workload, e.Labels, e.Identity, e.TLS, e.Weight = w, w.Labels, w.SPIFFE(r.trustDomain), w.Proxied, w.Weight
				if w.Locality != (mesh.Locality{}) {
					e.Locality = w.Locality
				}
				if w.Health == mesh.Draining && !s.NotReady { // the pod knows first
					e.Health = mesh.Draining
				}
			}
			if j, again := at[e.Addr]; again {
				if better(e.Health, out[j].Health) {
					out[j] = e
				}
				continue
			}
			at[e.Addr] = len(out)
			out = append(out, e)
		}
	}
	return out
}

// better reports whether an endpoint of health a is of more use than one of b.
func better(a, b mesh.Health) bool {
	order := []mesh.Health{mesh.Healthy, mesh.Draining, mesh.Unhealthy}
	return slices.Index(order, a) < slices.Index(order, b)
}
