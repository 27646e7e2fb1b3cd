package translate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

// sight is what a class of viewers may see: what is exported to its namespace and, if a
// Sidecar is for it, imported by that. Whatever is visible is decided here.
type sight struct {
	namespace string
	sidecar   *mesh.Sidecar // that says what is imported; nil: everything is
}

// content is equal for versions of a Sidecar that let the viewers of one namespace see the
// same.
func content(s *mesh.Sidecar) string {
	if s == nil {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s/%s %d", s.Ref.Namespace, s.Ref.Name, s.Strangers)
	for i := range s.Egress {
		e := &s.Egress[i]
		fmt.Fprintf(&b, "\x00%d", e.Port)
		for _, m := range e.Hosts {
			fmt.Fprintf(&b, " %t %s/%s", m.Exclude, m.Namespace, m.Host)
		}
	}
	return b.String()
}

// everything reports whether all that is exported is imported.
func (v *sight) everything() bool { return v.sidecar == nil || v.sidecar.Egress == nil }

// port reports whether port of s is imported: by the Egress for that port, or else by
// that for all others.
func (v *sight) port(s *mesh.Service, port uint16) bool {
	if v.everything() {
		return true
	}
	var rest *mesh.Egress
	for i := range v.sidecar.Egress {
		switch e := &v.sidecar.Egress[i]; e.Port {
		case port:
			return e.Imports(v.namespace, s.Namespace, s.Hostname)
		case 0:
			rest = e
		}
	}
	return rest != nil && rest.Imports(v.namespace, s.Namespace, s.Hostname)
}

// service reports whether a port of s is seen.
func (v *sight) service(s *mesh.Service) bool {
	switch {
	case !s.Visible.VisibleTo(v.namespace):
		return false
	case v.everything():
		return true
	case len(s.Ports) == 0:
		return v.port(s, 0)
	}
	return slices.ContainsFunc(s.Ports, func(p mesh.Port) bool { return v.port(s, p.Number) })
}

// virtual reports whether the rules of s are seen: one of its hosts may be imported.
func (v *sight) virtual(s *mesh.VirtualService) bool {
	if !s.Visible.VisibleTo(v.namespace) {
		return false
	}
	if v.everything() {
		return true
	}
	for i := range v.sidecar.Egress {
		for _, h := range s.Hosts {
			if v.sidecar.Egress[i].Meets(v.namespace, s.Ref.Namespace, h) {
				return true
			}
		}
	}
	return false
}

// service is the service that viewers mean by host: their namespace's own, else the most
// authoritative that they see.
func (x *index) service(host string, v *sight) *mesh.Service {
	return first(x.hosts[host], v.namespace, v.service)
}

// first is the one of namespace, else the first, of those that are seen.
func first(list []*mesh.Service, namespace string, seen func(*mesh.Service) bool) *mesh.Service {
	var out *mesh.Service
	for _, s := range list {
		switch {
		case !seen(s):
		case s.Namespace == namespace:
			return s
		case out == nil:
			out = s
		}
	}
	return out
}

// behind is the service that VirtualServices lead viewers to who need not see it: what of
// it they do not see can be reached that way, and no other. nil if there is none.
func (x *index) behind(host string, v *sight) *mesh.Service {
	if v.everything() {
		return nil
	}
	for key := range x.byTarget[host] {
		if r := x.virtuals[key]; r != nil && v.virtual(r.VirtualService) && slices.Contains(r.boundTo(), mesh.Mesh) {
			return first(x.hosts[host], v.namespace, func(s *mesh.Service) bool { return s.Visible.VisibleTo(v.namespace) })
		}
	}
	return nil
}

// sidecarFor is the Sidecar of a workload, nil if there is none.
func (x *index) sidecarFor(namespace string, labels mesh.Labels, root string) *mesh.Sidecar {
	var whole *mesh.Sidecar
	for _, s := range x.sidecars[namespace] {
		switch {
		case s.Selector != nil && s.Selector.Selects(labels):
			return s
		case s.Selector == nil && whole == nil:
			whole = s
		}
	}
	if whole != nil || namespace == root {
		return whole
	}
	if i := slices.IndexFunc(x.sidecars[root], func(s *mesh.Sidecar) bool { return s.Selector == nil }); i >= 0 {
		return x.sidecars[root][i]
	}
	return nil
}

func (x *index) swapSidecar(old, now *mesh.Sidecar) {
	if old != nil {
		put(x.sidecars, old.Ref.Namespace, remove(x.sidecars[old.Ref.Namespace], func(s *mesh.Sidecar) bool { return s == old }))
	}
	if now != nil {
		put(x.sidecars, now.Ref.Namespace, insert(x.sidecars[now.Ref.Namespace], now, func(a, b *mesh.Sidecar) int { return older(&a.Ref, &b.Ref) }))
	}
}

// narrow leaves of what a service has in a scope what is for the ports that are seen;
// reached says that VirtualServices may lead to the others.
func (t *tenant) narrow(s *mesh.Service, v *sight, reached bool) {
	if v.everything() || !slices.ContainsFunc(s.Ports, func(p mesh.Port) bool { return !v.port(s, p.Number) }) {
		return
	}
	hidden := map[string]bool{} // names of resources
	for _, p := range s.Ports {
		if !v.port(s, p.Number) {
			hidden[hostPort(s.Hostname, p.Number)], hidden[itoa(p.Number)+"|"+s.Hostname] = true, true
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
	t.tables = without(t.tables, func(r *resource.Resource) bool { return hidden[r.Name()] || cluster(r) })
	t.hosts = slices.DeleteFunc(slices.Clone(t.hosts), func(h *vhost) bool { return hidden[hostPort(s.Hostname, h.port)] })
	t.doors = slices.DeleteFunc(slices.Clone(t.doors), func(d *door) bool { return hidden[hostPort(s.Hostname, d.port)] })
}
