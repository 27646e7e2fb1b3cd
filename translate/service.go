package translate

import (
	"slices"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

// service is everything built from one mesh.Service: for each way of looking at it
// (there are few: different rules apply in different namespaces) the resources made of
// it, shared by all viewers that look at it that way. A change of whatever it depends
// on makes a new one.
type service struct {
	*mesh.Service
	ports []*mesh.Port // those that can be served, each number once
	crews []crew       // parallel to ports

	clusters []*clusterSet
	hosts    []*hostSet
	doors    []*doorSet
	names    []byte // entries of the name table
	origins  []resource.Origin

	// prev is what this one replaced. Resources of equal content are taken over from
	// it, so that only what really changed has a new address.
	prev *service
}

// clusterSet are the clusters of a service under certain rules.
type clusterSet struct {
	rules       []*mesh.DestinationRule
	originalDst bool
	clusters    []*resource.Resource
	assignments []*resource.Resource
	problems    []Problem
}

// hostSet are the virtual hosts of a service, or of a host only a VirtualService knows.
type hostSet struct {
	virtual       *virtual
	sameNamespace bool
	source        string
	hosts         []*vhost
	problems      []Problem
}

// doorSet is what a service contributes to listeners.
type doorSet struct {
	virtual *virtual
	rules   []*mesh.DestinationRule
	source  string
	doors   []*door
}

func newService(b *base, s *mesh.Service, eps *mesh.EndpointSet) *service {
	out := &service{Service: s, origins: originsOf(s)}
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Number == 0 || p.Protocol == mesh.UDP || out.port(p.Number) != nil {
			continue
		}
		var list []mesh.Endpoint
		if eps != nil {
			list = eps.Ports[p.Number]
		}
		out.ports = append(out.ports, p)
		out.crews = append(out.crews, newCrew(list, b.authn, b.settings.TrustDomain))
	}
	out.names = nameEntries(out, b.settings.DomainSuffix)
	return out
}

// originsOf are the objects a service was defined by.
func originsOf(s *mesh.Service) []resource.Origin {
	out := []resource.Origin{originOf(&s.Ref)}
	for i := range s.Joined {
		out = append(out, originOf(&s.Joined[i]))
	}
	return out
}

func (s *service) port(number uint16) *mesh.Port {
	for _, p := range s.ports {
		if p.Number == number {
			return p
		}
	}
	return nil
}

// kept returns the resource of old that equals r, or r.
func kept(r *resource.Resource, old []*resource.Resource) *resource.Resource {
	for _, o := range old {
		if o.Name() == r.Name() && resource.Equal(o, r) {
			return o
		}
	}
	return r
}

func (s *service) clusterSet(b *base, rules []*mesh.DestinationRule, originalDst bool) *clusterSet {
	for _, c := range s.clusters {
		if c.originalDst == originalDst && slices.Equal(c.rules, rules) {
			return c
		}
	}
	c := &clusterSet{rules: rules, originalDst: originalDst}
	keep := func(list *[]*resource.Resource, r *resource.Resource, of func(*clusterSet) []*resource.Resource) {
		if r == nil {
			return
		}
		for _, from := range []*service{s, s.prev} {
			if from == nil {
				continue
			}
			for _, o := range from.clusters {
				r = kept(r, of(o))
			}
		}
		*list = append(*list, r)
	}
	merged := merge(rules)
	for i, p := range s.ports {
		for _, subset := range merged.named() {
			u := &upstream{svc: s.Service, origins: s.origins, port: p, subset: subset, rule: merged, crew: &s.crews[i], settings: b.settings, originalDst: originalDst}
			cluster, assignment := u.build(&c.problems)
			keep(&c.clusters, cluster, func(o *clusterSet) []*resource.Resource { return o.clusters })
			keep(&c.assignments, assignment, func(o *clusterSet) []*resource.Resource { return o.assignments })
		}
	}
	s.clusters = append(s.clusters, c)
	return c
}

func (s *service) hostSet(b *base, v *virtual, a *audience, source string) *hostSet {
	if v == nil || !v.sourced {
		source = ""
	}
	same := s.Namespace == a.namespace
	for _, h := range s.hosts {
		if h.virtual == v && h.sameNamespace == same && h.source == source {
			return h
		}
	}
	h := &hostSet{virtual: v, sameNamespace: same, source: source}
	for _, p := range s.ports {
		if !p.Protocol.IsHTTP() && p.Protocol != mesh.Auto {
			continue
		}
		vh, problems := b.virtualHost(s.Hostname, s.Service, p.Number, v, a)
		h.problems = append(h.problems, problems...)
		if vh == nil {
			continue
		}
		if s.prev != nil {
			for _, o := range s.prev.hosts {
				for _, was := range o.hosts {
					if was.same(vh) {
						vh = was
					}
				}
			}
		}
		h.hosts = append(h.hosts, vh)
	}
	s.hosts = append(s.hosts, h)
	return h
}

func (s *service) doorSet(b *base, v *virtual, rules []*mesh.DestinationRule, a *audience, source string) *doorSet {
	if v == nil || !v.sourced {
		source = ""
	}
	for _, d := range s.doors {
		if d.virtual == v && d.source == source && slices.Equal(d.rules, rules) {
			return d
		}
	}
	d := &doorSet{virtual: v, rules: rules, source: source, doors: b.doors(s, v, merge(rules), a)}
	if s.prev != nil {
		for _, o := range s.prev.doors {
			for _, was := range o.doors {
				for _, now := range d.doors {
					for i, r := range now.own {
						now.own[i] = kept(r, was.own)
					}
				}
			}
		}
	}
	s.doors = append(s.doors, d)
	return d
}
