package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/weirmesh/weir/mesh"
)

// Called returns the services that variables tell pods of a namespace about: its own,
// sorted by name. at says where the pod calls each port of one, nil: it cannot. It is asked
// about all that the pod may call by name.
func (p *Plan) Called(namespace string, at func(*mesh.Service) []netip.AddrPort) []ServiceAddress {
	var out []ServiceAddress
	for _, s := range p.Hosts {
		if !s.Visible.VisibleTo(namespace) {
			continue
		}
		if ports := at(s); ports != nil && s.Namespace == namespace && s.Ref.Kind == service {
			out = append(out, ServiceAddress{s, ports})
		}
	}
	slices.SortFunc(out, func(a, b ServiceAddress) int { return cmp.Compare(a.Service.Name, b.Service.Name) })
	return out
}

// domain is what follows a namespace in services' names (mesh.Settings.DomainSuffix).
const domain = "svc.cluster.local"

// Host finds the service that a program in a namespace means by a name: as the resolver of
// a pod does, which tries the search domains first.
func (p *Plan) Host(namespace, name string) *mesh.Service {
	name = strings.ToLower(name)
	absolute, rooted := strings.CutSuffix(name, ".")
	if absolute == "localhost" {
		return nil // as /etc/hosts says
	}
	if !rooted {
		_, last, _ := strings.Cut(domain, ".")
		for _, search := range []string{namespace + "." + domain, domain, last} {
			if s := p.host(namespace, name+"."+search); s != nil {
				return s
			}
		}
	}
	return p.host(namespace, absolute)
}

// host prefers what the namespace itself defines, as translate does.
func (p *Plan) host(namespace, name string) *mesh.Service {
	var found *mesh.Service
	for _, s := range p.Hosts {
		switch {
		case s.Hostname != name || !s.Visible.VisibleTo(namespace):
		case s.Namespace == namespace:
			return s
		case found == nil:
			found = s
		}
	}
	return found
}
