package store

import (
	"testing"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/mesh"
)

// An object that is not stored yet is judged by itself and beside the others, which it
// does not change.
func TestJudge(t *testing.T) {
	s, err := New(Options{Settings: mesh.Settings{TrustDomain: "cluster.local", DomainSuffix: "cluster.local", RootNamespace: "istio-system"}})
	if err != nil {
		t.Fatal(err)
	}
	u := s.Step(file.Parse("mesh.yaml", []byte("apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop}\nspec: {ports: [{port: 80, name: http}]}\n"), "shop"))
	var j Judge
	virtualService := func(host string) *config.Object {
		unit := file.Parse("given", []byte("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v, namespace: shop}\nspec: {hosts: [a], http: [{route: [{destination: {host: "+host+"}}]}]}\n"), "shop")
		if len(unit.Objects) != 1 {
			t.Fatal(unit.Findings)
		}
		return unit.Objects[0]
	}
	if fs := j.Of(u, virtualService("a")); len(fs) != 0 {
		t.Errorf("a good one: %v", fs)
	}
	fs := j.Of(u, virtualService("nowhere"))
	if len(fs) != 1 || fs[0].Code != config.ReferenceNotFound {
		t.Errorf("a host that is not there: %v", fs)
	}
	if fs := j.Of(u, virtualService("'*'")); config.Errors(fs) == 0 {
		t.Errorf("wrong by itself: %v", fs)
	}
	if u.Snapshot.VirtualServices.Len() != 0 {
		t.Error("judging stored the object")
	}
}
