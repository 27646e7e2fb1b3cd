package demo_test

import (
	"testing"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/local/demo"
	"github.com/weirmesh/weir/local/plan"
	"github.com/weirmesh/weir/mesh"
)

// What a newcomer sees first has nothing to complain about.
func TestDemosAreFlawless(t *testing.T) {
	gateway := &mesh.Workload{Name: "istio-ingressgateway-0", Namespace: "istio-system", Labels: mesh.Labels{"istio": "ingressgateway"}}
	for _, name := range demo.Names() {
		data, ok := demo.YAML(name)
		if !ok {
			t.Fatalf("demo %s is listed and not there", name)
		}
		s, err := store.New(store.Options{Settings: mesh.Settings{TrustDomain: "cluster.local", DomainSuffix: "cluster.local", RootNamespace: "istio-system"}, Assume: []*mesh.Workload{gateway}})
		if err != nil {
			t.Fatal(err)
		}
		s.Step(file.Parse(name+".yaml", data, "default"))
		u := s.Analyze()
		in, _ := plan.From(u, nil)
		p := plan.Make(in)
		for _, f := range append(u.Findings, p.Findings...) {
			if f.Severity > config.Info {
				t.Errorf("%s: %s", name, f)
			}
		}
		if len(p.Groups) == 0 {
			t.Errorf("%s runs nothing", name)
		}
	}
	if _, ok := demo.YAML("nothing"); ok {
		t.Error("a demo that does not exist")
	}
}
