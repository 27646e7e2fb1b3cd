package registry

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/weirmesh/weir/mesh"
)

// endpoints finds who serves j: final is it with its addresses.
func (r *Registry) endpoints(j *joined, final *mesh.Service) *mesh.EndpointSet {
	set := &mesh.EndpointSet{Ports: map[uint16][]mesh.Endpoint{}}
	s := j.Service
	if len(s.Mesh.Ports) == 0 {
		return set
	}
	workloads := r.selected(s)
	if s.Sliced {
		workloads = slices.DeleteFunc(workloads, func(w *mesh.Workload) bool { return w.OwnerKind != "WorkloadEntry" })
	}
	for _, port := range s.Mesh.Ports {
		out := r.listedOn(j, port)
		if s.Sliced {
			out = append(out, r.inSlices(s, port)...)
		}
		for _, w := range workloads {
			out = append(out, r.served(s, final, w, port)...)
		}
		if len(out) > 0 {
			set.Ports[port.Number] = out
		}
	}
	return set
}

func (r *Registry) listed(s *Service, l *Listed, port mesh.Port) mesh.Endpoint {
	number, ok := l.Ports[port.Name]
	if !ok {
		number = port.TargetNumber()
	}
	e := mesh.Endpoint{Host: l.Host, Port: number, Labels: l.Labels, TLS: l.TLS, Weight: l.Weight, Locality: l.Locality}
	if l.Addr.IsValid() {
		e.Addr = netip.AddrPortFrom(l.Addr, number)
	}
	if l.Account != "" {
		e.Identity = "spiffe://" + r.trustDomain + "/ns/" + s.Mesh.Namespace + "/sa/" + l.Account
	}
	return e
}

// served lists the addresses at which w serves a port of s; none if w does not have
// the port by its name.
func (r *Registry) served(s *Service, final *mesh.Service, w *mesh.Workload, port mesh.Port) []mesh.Endpoint {
	number, ok := w.Serves(&port)
	if !ok {
		return nil
	}
	e := mesh.Endpoint{
		Port: number, Workload: w, Labels: w.Labels, Identity: w.SPIFFE(r.trustDomain), TLS: w.Proxied, Weight: w.Weight, Locality: w.Locality, Health: w.Health,
	}
	if s.NotReady && e.Health == mesh.Unhealthy {
		e.Health = mesh.Healthy
	}
	if w.Host != "" {
		e.Host = w.Host
		return []mesh.Endpoint{e}
	}
	if at, ok := w.Published[number]; ok {
		e.Addr = at
		return []mesh.Endpoint{e}
	}
	var out []mesh.Endpoint
	for _, a := range families(w.Addresses, final.Addresses) {
		e.Addr = netip.AddrPortFrom(a, number)
		out = append(out, e)
	}
	return out
}

// families keeps the addresses of the families in which the service is called; a
// service without virtual addresses has all.
func families(addrs, virtual []netip.Addr) []netip.Addr {
	is4 := func(a netip.Addr) bool { return a.Is4() }
	is6 := func(a netip.Addr) bool { return a.Is6() }
	want4, want6 := slices.ContainsFunc(virtual, is4), slices.ContainsFunc(virtual, is6)
	if want4 == want6 {
		return addrs
	}
	out := slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return a.Is4() != want4 })
	if len(out) == 0 {
		return addrs // a proxy translates between families; a program could not
	}
	return out
}

// same reports whether two sets are equal; workloads are compared by identity, which is
// how a Snapshot says that they did not change.
func same(a, b *mesh.EndpointSet) bool {
	return maps.EqualFunc(a.Ports, b.Ports, func(x, y []mesh.Endpoint) bool {
		return slices.EqualFunc(x, y, func(p, q mesh.Endpoint) bool {
			return p.Addr == q.Addr && p.Host == q.Host && p.Port == q.Port && p.Workload == q.Workload && p.Identity == q.Identity &&
				p.TLS == q.TLS && p.Weight == q.Weight && p.Locality == q.Locality && p.Health == q.Health &&
				(p.Workload != nil || maps.Equal(p.Labels, q.Labels))
		})
	})
}
