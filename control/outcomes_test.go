package control

import (
	"log/slog"
	"testing"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
)

// What becomes of objects is told again if objects or findings are others than those told before, and not for an endpoint.
func TestOutcomesToldOnce(t *testing.T) {
	p, err := New(Options{Version: "test", State: t.TempDir(), Settings: mesh.Settings{DomainSuffix: "cluster.local", RootNamespace: "istio-system"}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	v, u := newVillage(t, t.TempDir(), villagers(1))
	var last, other Told
	look := func(when string, told *Told, wantSame bool, want int) {
		t.Helper()
		all, same, _ := p.Outcomes(func(id config.ID) bool { return id.Kind == "VirtualService" }, told)
		if same != wantSame || len(all) != want {
			t.Errorf("%s: same is %v, %d outcomes", when, same, len(all))
		}
	}
	look("nothing is read yet", &last, false, 0)
	p.latest.Store(u)
	look("the first time", &last, false, 2)
	look("nothing happened", &last, true, 0)
	look("somebody else asks", &other, false, 2)

	moved, snapshot := *u, *u.Snapshot
	snapshot.Version++
	moved.Snapshot = &snapshot
	p.latest.Store(&moved)
	look("endpoints changed", &last, true, 0)

	p.feeds.problems.Store(&[]translate.Problem{{Ref: mesh.Ref{Kind: "VirtualService", Namespace: "n0", Name: "s0"}, Text: "set aside"}})
	look("translation has set something aside", &last, false, 2)
	p.feeds.problems.Store(&[]translate.Problem{})
	look("and no longer", &last, false, 2)

	p.latest.Store(v.store.Step(config.Unit{Name: "edge-0.yaml", Gone: true}))
	look("an object is gone", &last, false, 1)
	last = Told{}
	look("it is to be told again", &last, false, 1)
}
