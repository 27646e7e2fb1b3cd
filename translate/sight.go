package translate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

// content is equal for versions of a Sidecar that let the viewers of one namespace see the
// same.
func content(s *mesh.Sidecar) string {
	if s == nil {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s/%s %d", s.Ref.Namespace, s.Ref.Name, s.Strangers)
	if d := s.Proxy; d != nil {
		b.WriteString(" " + clusterName(d.Port, d.Subset, d.Host))
	}
	for i := range s.Egress {
		e := &s.Egress[i]
		fmt.Fprintf(&b, "\x00%d %s %t %s", e.Port, e.Bind, e.Uncaptured, e.Protocol)
		for _, m := range e.Hosts {
			fmt.Fprintf(&b, " %t %s/%s", m.Exclude, m.Namespace, m.Host)
		}
	}
	return b.String()
}

// service is the service that viewers mean by host.
func (x *index) service(host string, v *mesh.Sight) *mesh.Service {
	return v.Service(x.hosts[host])
}

// behind is the service that VirtualServices lead viewers to who need not see it: what of
// it they do not see can be reached that way, and no other. nil if there is none.
func (x *index) behind(host string, v *mesh.Sight) *mesh.Service {
	if v.Everything() {
		return nil
	}
	for key := range x.byTarget[host] {
		if r := x.virtuals[key]; r != nil && v.SeesRules(r.VirtualService) && slices.Contains(r.boundTo(), mesh.Mesh) {
			return (&mesh.Sight{Namespace: v.Namespace}).Service(x.hosts[host])
		}
	}
	return nil
}

// sidecarFor is the Sidecar of a workload, nil if there is none.
func (x *index) sidecarFor(namespace string, labels mesh.Labels, root string) *mesh.Sidecar {
	return mesh.SidecarFor(x.sidecars[namespace], x.sidecars[root], labels)
}

func (x *index) swapSidecar(old, now *mesh.Sidecar) {
	if old != nil {
		put(x.sidecars, old.Ref.Namespace, remove(x.sidecars[old.Ref.Namespace], func(s *mesh.Sidecar) bool { return s == old }))
	}
	if now != nil {
		put(x.sidecars, now.Ref.Namespace, insert(x.sidecars[now.Ref.Namespace], now, func(a, b *mesh.Sidecar) int { return mesh.Older(&a.Ref, &b.Ref) }))
	}
}

// narrow leaves of what a service has in a scope what is for the ports that are seen;
// reached says that VirtualServices may lead to the others, everywhere that there is no other
// place where ports are served than that of the service.
func (t *tenant) narrow(s *mesh.Service, v *mesh.Sight, reached, everywhere bool) *tenant {
	inPlace := v.InPlace
	if everywhere {
		inPlace = v.Port
	}
	if v.Everything() || !slices.ContainsFunc(s.Ports, func(p mesh.Port) bool { return !inPlace(s, p.Number) }) {
		return t
	}
	whole := *t
	t = &whole
	hidden, away := map[string]bool{}, map[string]bool{} // names of resources: not seen, or not where the service is
	for _, p := range s.Ports {
		if !inPlace(s, p.Number) {
			away[hostPort(s.Hostname, p.Number)] = true
			hidden[itoa(p.Number)+"|"+s.Hostname] = !v.Port(s, p.Number)
		}
	}
	cluster := func(r *resource.Resource) bool { // outbound|<port>|<subset>|<host>
		parts := strings.SplitN(r.Name(), "|", 4)
		return len(parts) == 4 && hidden[parts[1]+"|"+parts[3]]
	}
	without := func(list []*resource.Resource, drop func(*resource.Resource) bool) []*resource.Resource {
		return slices.DeleteFunc(slices.Clone(list), drop)
	}
	if !reached {
		t.clusters, t.assignments = without(t.clusters, cluster), without(t.assignments, cluster)
	}
	t.tables = without(t.tables, func(r *resource.Resource) bool { return away[r.Name()] || cluster(r) })
	t.hosts = slices.DeleteFunc(slices.Clone(t.hosts), func(h *vhost) bool { return away[hostPort(s.Hostname, h.port)] })
	t.doors = slices.DeleteFunc(slices.Clone(t.doors), func(d *door) bool { return away[hostPort(s.Hostname, d.port)] })
	return t
}
