package translate_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/resource"
)

// forkNodes are nodes of one kind that see the mesh from everywhere.
func forkNodes(base translate.Node) []*translate.Node {
	var out []*translate.Node
	for _, ns := range []string{"a", "b", "istio-system"} {
		for i, labels := range []mesh.Labels{nil, {"v": "1"}, {"v": "2", "app": "x"}} {
			n := base
			n.Namespace, n.Name, n.Labels = ns, fmt.Sprintf("w%d", i), labels
			out = append(out, &n)
		}
	}
	return out
}

// Whoever comes first, and whatever others saw before: everybody gets what he would get alone,
// and what comes later takes nothing from those who were there.
func TestForksMakeNoDifference(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := &chaos{T: rt}
		learned := &translate.Learned{Listeners: []string{"0.0.0.0_80", "10.96.0.1_80", "missing"}, VirtualHosts: []string{"80/" + fqdn("x", "a"), "80/api.example.com"}}
		nodes := forkNodes(one(c, "kind",
			translate.Node{Type: translate.Sidecar, Interception: translate.Redirect, DNS: true},
			translate.Node{Type: translate.Sidecar, Interception: translate.Redirect, VHDS: true},
			translate.Node{Type: translate.Sidecar, Interception: translate.Redirect, VHDS: true, OnDemand: true},
			translate.Node{Type: translate.Sidecar, Interception: translate.TProxy, VHDS: true, OnDemand: true, Learned: learned},
			translate.Node{Type: translate.Sidecar, Interception: translate.NoInterception, VirtualNet: 9},
			translate.Node{Type: translate.Sidecar, Proxyless: true},
			translate.Node{Type: translate.Router}))
		snap := &mesh.Snapshot{}
		kept := translate.New()
		for range rapid.IntRange(1, 6).Draw(rt, "steps") {
			for range rapid.IntRange(1, 12).Draw(rt, "changes") {
				snap = c.step(snap)
			}
			for _, n := range rapid.Permutation(nodes).Draw(rt, "order")[:c.n("looks", len(nodes))] {
				diffViews(rt, n, translate.New().View(snap, n), kept.View(snap, n))
			}
		}
		for _, n := range nodes {
			diffViews(rt, n, translate.New().View(snap, n), kept.View(snap, n))
		}
	})
}

// Two namespaces that see the same hold it once, but for the hosts that they call by other
// names.
func TestNamespacesShareStructure(t *testing.T) {
	w := newWorld()
	for i := range 400 {
		w.service(fmt.Sprintf("ns-%d", i%40), fmt.Sprintf("s%d", i), httpPort(80), 1, "v1")
	}
	snap, c := w.publish(), translate.New()
	view := func(ns string) *resource.View {
		n := sidecar(ns, "client", nil)
		n.VHDS, n.OnDemand = true, true
		return c.View(snap, n)
	}
	a, b := view("ns-1"), view("ns-2")
	for typ, most := range map[string]int{ // the virtual hosts of the 10 services of each namespace, and the way to each; the 3 listeners
		resource.ClusterType: 0, resource.EndpointType: 0, resource.ListenerType: 3, resource.VirtualHostType: 250,
	} {
		compared := 0
		for range b.Set(typ).Diff(a.Set(typ), func(x, y *resource.Resource) bool { compared++; return x == y }) {
			compared++
		}
		if all := a.Set(typ).Len(); compared > most || all < 400 && typ != resource.ListenerType {
			t.Errorf("%s: %d of %d are held twice, want %d", resource.Short(typ), compared, all, most)
		}
	}
}
