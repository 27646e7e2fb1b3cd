package translate

import (
	"cmp"
	"slices"

	"github.com/weirmesh/weir/internal/persist"
	"github.com/weirmesh/weir/mesh"
)

// authn answers what a workload accepts: PeerAuthentication objects by precedence,
// workload before namespace before mesh, the oldest where several say something.
type authn struct {
	root        string
	byNamespace map[string][]*mesh.PeerAuthentication // oldest first
}

func newAuthn(root string, all persist.Map[mesh.Key, *mesh.PeerAuthentication]) *authn {
	a := &authn{root, map[string][]*mesh.PeerAuthentication{}}
	for p := range all.Values() {
		a.byNamespace[p.Ref.Namespace] = append(a.byNamespace[p.Ref.Namespace], p)
	}
	for _, l := range a.byNamespace {
		slices.SortFunc(l, func(x, y *mesh.PeerAuthentication) int { return older(&x.Ref, &y.Ref) })
	}
	return a
}

// acceptance is what one workload accepts.
type acceptance struct {
	mode  mesh.MTLSMode // never Unset
	ports map[uint16]mesh.MTLSMode
}

func (a acceptance) on(port uint16) mesh.MTLSMode {
	return cmp.Or(a.ports[port], a.mode)
}

// of resolves the policies for a workload with the given labels. Of several policies on
// one level the oldest counts alone, as in Istio; what it leaves unset is inherited.
func (a *authn) of(namespace string, labels mesh.Labels) acceptance {
	var out acceptance
	for _, p := range a.byNamespace[namespace] {
		if len(p.Selector) > 0 && p.Selector.Selects(labels) {
			out = acceptance{p.Mode, p.Ports}
			break
		}
	}
	out.mode = cmp.Or(out.mode, a.whole(namespace), a.whole(a.root), mesh.MTLSPermissive)
	return out
}

// whole is the mode for everything in a namespace.
func (a *authn) whole(namespace string) mesh.MTLSMode {
	for _, p := range a.byNamespace[namespace] {
		if len(p.Selector) == 0 {
			return p.Mode
		}
	}
	return mesh.MTLSUnset
}
