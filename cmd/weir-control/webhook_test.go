package main

import (
	"testing"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/mesh"
)

// The webhook leaves objects of other control planes to them; one that asks for nobody is told so (WEIR0119), although none that is stored says it yet.
func TestJudgingByRevision(t *testing.T) {
	place := func(o *config.Object) (elsewhere bool) {
		switch name := o.Root().Get("metadata").Get("labels").Get(config.RevisionLabel).String(); name {
		case "", "default":
			return false
		case "blue":
			return true
		default:
			o.Strand(name)
			return false
		}
	}
	judge := judging(place, func(o *config.Object) []config.Finding {
		_, _, findings := store.Lower(o, &mesh.Settings{RootNamespace: "istio-system"})
		return findings
	})
	for _, tc := range []struct {
		rev  string
		hots string // the field, which judged objects have wrong
		want config.Code
	}{
		{rev: "default", hots: "hosts"},
		{rev: "default", hots: "hots", want: config.SchemaError},
		{rev: "blue", hots: "hots"},
		{rev: "green", hots: "hosts", want: config.AsksForNobody},
	} {
		part := document.Part{Text: "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: cart, namespace: shop, labels: {istio.io/rev: " + tc.rev +
			"}}\nspec: {" + tc.hots + ": [cart], http: [{route: [{destination: {host: cart}}]}]}\n", Line: 1}
		root, err := document.Parse(part)
		if err != nil {
			t.Fatal(err)
		}
		o, findings := config.NewObject(root, part, "", "shop")
		if o == nil {
			t.Fatal(findings)
		}
		found := judge(o)
		has := false
		for _, f := range found {
			has = has || f.Code == tc.want
		}
		if has != (tc.want != "") || tc.want == "" && len(found) > 0 {
			t.Errorf("an object for %s with the field %s: %v, want %q", tc.rev, tc.hots, found, tc.want)
		}
	}
}
