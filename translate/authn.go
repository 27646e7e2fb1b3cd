package translate

import (
	"cmp"
	"maps"
	"slices"

	"github.com/weirmesh/weir/internal/persist"
	"github.com/weirmesh/weir/mesh"
)

// authn answers what a workload accepts: PeerAuthentication objects by precedence,
// workload before namespace before mesh, the oldest where several say something.
type authn struct {
	root        string
	byNamespace map[string][]*mesh.PeerAuthentication // oldest first
	refused     map[string][]*mesh.PeerAuthentication
}

func newAuthn(root string, all persist.Map[mesh.Key, *mesh.PeerAuthentication]) *authn {
	a := &authn{root, map[string][]*mesh.PeerAuthentication{}, map[string][]*mesh.PeerAuthentication{}}
	for p := range all.Values() {
		if p.Refused {
			a.refused[p.Home()] = append(a.refused[p.Home()], p)
			continue
		}
		a.byNamespace[p.Home()] = append(a.byNamespace[p.Home()], p)
	}
	for _, l := range a.byNamespace {
		slices.SortFunc(l, func(x, y *mesh.PeerAuthentication) int { return mesh.Older(&x.Ref, &y.Ref) })
	}
	return a
}

// acceptance is what one workload accepts.
type acceptance struct {
	mode  mesh.MTLSMode // never Unset
	ports map[uint16]mesh.MTLSMode
	// by are the policies that say so: of the workload, refused, of the namespace, of the mesh.
	by [4]*mesh.Ref
}

func (a acceptance) on(port uint16) mesh.MTLSMode {
	return cmp.Or(a.ports[port], a.mode)
}

// decider is the policy that says what is accepted on a port, nil if none does or what a refused one asks for counts.
func (a acceptance) decider(port uint16) *mesh.Ref {
	if a.ports[port] != mesh.MTLSUnset {
		return a.by[0]
	}
	return cmp.Or(a.by[3], a.by[2], a.by[0]) // those of namespace and mesh are there only if they were asked
}

// of resolves the policies for a workload with the given labels. Of several policies on
// one level the oldest counts alone, as in Istio; what it leaves unset is inherited.
// STRICT of a refused one counts beside it.
func (a *authn) of(namespace string, labels mesh.Labels) acceptance {
	var out acceptance
	selects := func(p *mesh.PeerAuthentication) bool { return len(p.Selector) > 0 && p.Selector.Selects(labels) }
	if i := slices.IndexFunc(a.byNamespace[namespace], selects); i >= 0 {
		p := a.byNamespace[namespace][i]
		out = acceptance{mode: p.Mode, ports: p.Ports, by: [4]*mesh.Ref{&p.Ref}}
	}
	for _, p := range a.refused[namespace] {
		switch {
		case !selects(p), len(p.Ports) == 0 && p.Mode == mesh.MTLSUnset:
		case p.Mode == mesh.MTLSStrict:
			return acceptance{mode: mesh.MTLSStrict, by: [4]*mesh.Ref{1: &p.Ref}}
		default:
			ports := maps.Clone(p.Ports)
			for port, mode := range out.ports {
				ports[port] = max(mode, ports[port])
			}
			out.ports, out.by[1] = ports, &p.Ref
		}
	}
	for i, ns := range []string{namespace, a.root} {
		if out.mode == mesh.MTLSUnset {
			out.mode, out.by[2+i] = a.whole(ns)
		}
	}
	out.mode = cmp.Or(out.mode, mesh.MTLSPermissive)
	return out
}

// whole is the mode for everything in a namespace, and who says so.
func (a *authn) whole(namespace string) (mesh.MTLSMode, *mesh.Ref) {
	for _, p := range a.refused[namespace] {
		if len(p.Selector) == 0 && p.Mode == mesh.MTLSStrict {
			return mesh.MTLSStrict, &p.Ref
		}
	}
	for _, p := range a.byNamespace[namespace] {
		if len(p.Selector) == 0 {
			return p.Mode, &p.Ref
		}
	}
	return mesh.MTLSUnset, nil
}
