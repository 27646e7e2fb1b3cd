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
	tenants  []tenancy
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
	edge        bool   // of a gateway, where that makes a difference
	passing     bool   // with those that clients of a gateway name
	at          string // whose place, "" where that makes no difference
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
	named   bool
	doors   []*door
}

// tenancy is what a service is to viewers who look at it these ways; hosts and doors are nil
// for gateways.
type tenancy struct {
	clusters *clusterSet
	hosts    *hostSet
	doors    *doorSet
	tenant   *tenant
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

// clusterSet are the clusters under rules; at is where the viewer is, and atKey its key.
func (s *service) clusterSet(b *base, rules []*mesh.DestinationRule, originalDst, edge, passing bool, at *place, atKey string) *clusterSet {
	if at = b.near(rules, at); at == nil {
		atKey = ""
	}
	edge = edge && slices.ContainsFunc(rules, func(r *mesh.DestinationRule) bool { return len(credentialsOf(r)) > 0 })
	for _, c := range s.clusters {
		if c.originalDst == originalDst && c.edge == edge && c.passing == passing && c.at == atKey && slices.Equal(c.rules, rules) {
			return c
		}
	}
	c := &clusterSet{rules: rules, originalDst: originalDst, edge: edge, passing: passing, at: atKey}
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
			u := upstream{svc: s.Service, origins: s.origins, port: p, subset: subset, rule: merged, crew: &s.crews[i], settings: b.settings, at: at, originalDst: originalDst, edge: edge}
			cluster, assignment := u.build(&c.problems)
			keep(&c.clusters, cluster, func(o *clusterSet) []*resource.Resource { return o.clusters })
			keep(&c.assignments, assignment, func(o *clusterSet) []*resource.Resource { return o.assignments })
			if u.passing = passing && !s.External; u.passing {
				cluster, same := u.build(&c.problems)
				keep(&c.clusters, cluster, func(o *clusterSet) []*resource.Resource { return o.clusters })
				if assignment == nil { // the other cluster is left out, for a reason that is not one of this
					keep(&c.assignments, same, func(o *clusterSet) []*resource.Resource { return o.assignments })
				}
			}
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

func (s *service) doorSet(b *base, v *virtual, rules []*mesh.DestinationRule, a *audience, source string, named bool) *doorSet {
	if v == nil || !v.sourced {
		source = ""
	}
	named = named || !s.Nominal
	for _, d := range s.doors {
		if d.virtual == v && d.source == source && d.named == named && slices.Equal(d.rules, rules) {
			return d
		}
	}
	d := &doorSet{virtual: v, rules: rules, source: source, named: named, doors: b.doors(s, v, merge(rules), a, named)}
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

// tenant puts together what a service has for viewers with original destinations, or, without h
// and d, for gateways.
func (s *service) tenant(c *clusterSet, h *hostSet, d *doorSet) *tenant {
	for _, t := range s.tenants {
		if t.clusters == c && t.hosts == h && t.doors == d {
			return t.tenant
		}
	}
	t := &tenant{clusters: c.clusters, assignments: c.assignments, problems: c.problems}
	if h != nil {
		t.hosts, t.doors, t.names, t.origins = h.hosts, d.doors, s.names, s.origins
		t.problems = slices.Concat(t.problems, h.problems)
		for _, d := range t.doors {
			t.problems = append(t.problems, d.problems...)
		}
		for _, vh := range h.hosts {
			if s.port(vh.port).Protocol == mesh.Auto {
				t.tables = append(t.tables, vh.table())
			}
		}
	}
	s.tenants = append(s.tenants, tenancy{c, h, d, t})
	return t
}
