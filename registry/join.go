package registry

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/weirmesh/weir/mesh"
)

// joined is the service of one host, made of all objects that define it.
//
// ServiceEntries that agree on what holds for the whole service are one: their ports,
// addresses and endpoints add up, as in Istio (since 1.22; it demands equal labels, too,
// which surprises people). Of a port that two define differently the older one counts.
// Everything else belongs to the oldest alone.
type joined struct {
	*Service
	parts  []*Service // the oldest first
	unused []Unused
}

// Unused is an object, or one of its ports, that is not used because an older object
// defines the same host.
type Unused struct {
	Ref  mesh.Ref
	By   mesh.Ref // the object that is used
	Port uint16   // 0: the whole object
	Why  string   // what the two disagree about; "" if they could not have been joined at all
}

// join makes one service of candidates, the most authoritative first; nil of none.
func join(cs []candidate[*Service]) *joined {
	if len(cs) == 0 {
		return nil
	}
	first := cs[0].v
	out := &joined{Service: first, parts: []*Service{first}}
	for _, c := range cs[1:] {
		if why, ok := disagree(first, c.v); !ok {
			out.unused = append(out.unused, Unused{Ref: c.v.Mesh.Ref, By: first.Mesh.Ref, Why: why})
			continue
		}
		if out.Service == first { // not ours to change
			s := *first
			s.Mesh.Ports, s.Mesh.Addresses, s.Mesh.Prefixes, s.Mesh.ServiceAccounts = slices.Clone(first.Mesh.Ports), slices.Clone(first.Mesh.Addresses),
				slices.Clone(first.Mesh.Prefixes), slices.Clone(first.Mesh.ServiceAccounts)
			out.Service = &s
		}
		out.add(c.v)
	}
	return out
}

func (j *joined) add(s *Service) {
	m := &j.Mesh
	for _, p := range s.Mesh.Ports {
		switch have := m.Port(p.Number); {
		case have == nil:
			m.Ports = append(m.Ports, p)
		case *have != p:
			i := slices.IndexFunc(j.parts, func(o *Service) bool { return o.Mesh.Port(p.Number) != nil })
			j.unused = append(j.unused, Unused{Ref: s.Mesh.Ref, By: j.parts[i].Mesh.Ref, Port: p.Number, Why: "name, protocol or targetPort"})
		}
	}
	m.Joined = append(m.Joined, s.Mesh.Ref)
	m.Addresses = union(m.Addresses, s.Mesh.Addresses)
	m.Prefixes = union(m.Prefixes, s.Mesh.Prefixes)
	m.ServiceAccounts = union(m.ServiceAccounts, s.Mesh.ServiceAccounts)
	if s.Allocate != Nowhere { // neither asks for one, or both have what one of them asks for
		j.Allocate = cmp.Or(j.Allocate, s.Allocate)
	}
	j.parts = append(j.parts, s)
}

func union[T comparable](a, b []T) []T {
	for _, v := range b {
		if !slices.Contains(a, v) {
			a = append(a, v)
		}
	}
	return a
}

// disagree says what keeps two objects from being one service.
func disagree(a, b *Service) (why string, ok bool) {
	x, y := &a.Mesh, &b.Mesh
	switch {
	case x.Ref.Kind != serviceEntry || y.Ref.Kind != serviceEntry:
		return "", false
	case x.Resolution != y.Resolution:
		return "resolution", false
	case x.External != y.External:
		return "location", false
	case !maps.Equal(x.Selector, y.Selector):
		return "workloadSelector", false
	case x.Visible.Limited != y.Visible.Limited || !slices.Equal(x.Visible.Namespaces, y.Visible.Namespaces):
		return "exportTo", false
	}
	return "", true
}

const serviceEntry = "ServiceEntry"

// authority orders objects that define one host: a Kubernetes Service before
// ServiceEntries, as everywhere, then the oldest.
func authority(a, b *Service) int {
	rank := func(s *Service) int {
		if s.Mesh.Ref.Kind == serviceEntry {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Mesh.Ref.Created, b.Mesh.Ref.Created))
}

// listedOn are the endpoints that objects themselves give for a port, each once.
func (r *Registry) listedOn(j *joined, port mesh.Port) []mesh.Endpoint {
	type place struct {
		addr netip.AddrPort
		host string
		port uint16
	}
	seen := map[place]bool{}
	var out []mesh.Endpoint
	for _, part := range j.parts {
		if own := part.Mesh.Port(port.Number); own == nil || *own != port {
			continue
		}
		for i := range part.Listed {
			e := r.listed(part, &part.Listed[i], port)
			if at := (place{e.Addr, e.Host, e.Port}); len(j.parts) == 1 || !seen[at] {
				seen[at] = true
				out = append(out, e)
			}
		}
	}
	return out
}
