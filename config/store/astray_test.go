package store_test

import (
	"strings"
	"testing"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/store"
)

// What asks for a revision that there is not is in force nowhere, and that is an error of the object; a namespace that does has its own words.
// When the revision comes, with the very same object, it is in force.
func TestAstray(t *testing.T) {
	s := newStore(t, "")
	const deny = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny, namespace: shop, labels: {istio.io/rev: prod}}\nspec: {action: DENY, rules: [{}]}\n"
	const namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/rev: prod}}\n"
	for _, x := range []struct {
		astray bool
		state  store.State
		found  string
	}{{true, store.Unenforced, "AuthorizationPolicy Namespace"}, {false, store.Compiled, ""}, {true, store.Unenforced, "AuthorizationPolicy Namespace"}} {
		u := unit("shop.yaml", deny+"---\n"+namespace)
		for _, o := range u.Objects {
			if x.astray {
				o.Strand("prod")
			}
		}
		s.Step(u)
		now := s.Analyze()
		var found []string
		for _, f := range now.Findings {
			if f.Code == config.AsksForNobody {
				if f.Severity != config.Error || !strings.Contains(f.Message, "istio.io/rev=prod") || !strings.Contains(f.Hint, "weir tag list") {
					t.Errorf("%+v", f)
				}
				found = append(found, f.Object.Kind)
			}
		}
		if got := strings.Join(found, " "); got != x.found {
			t.Errorf("astray %v: findings about %q, want %q: %v", x.astray, got, x.found, now.Findings)
		}
		id := config.ID{Group: "security.istio.io", Kind: "AuthorizationPolicy", Namespace: "shop", Name: "deny"}
		if o := now.Objects.At(id.String()); o == nil || o.State != x.state || (o.Lowered != nil) == x.astray {
			t.Errorf("astray %v: %+v", x.astray, o)
		}
	}
}
