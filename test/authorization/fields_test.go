package authorization

import (
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	securityv1beta1 "istio.io/api/security/v1beta1"
)

// elsewhere are fields that no random policy has, and why.
var elsewhere = map[string]string{
	"AuthorizationPolicy.targetRef":  "refused: config/istio",
	"AuthorizationPolicy.targetRefs": "the same",
}

// Random policies have every field that an AuthorizationPolicy has, and every action: one that Istio adds, and that we
// come to know, has to be here, too.
func TestRandomPoliciesHaveEveryField(t *testing.T) {
	seen := map[string]bool{}
	short := func(name protoreflect.FullName) string {
		return strings.TrimPrefix(strings.TrimPrefix(string(name), "istio.security.v1beta1."), "istio.type.v1beta1.")
	}
	var visit func(m protoreflect.Message)
	visit = func(m protoreflect.Message) {
		m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			seen[short(f.FullName())] = true
			switch {
			case f.IsMap() || f.Message() == nil:
			case f.IsList():
				for i := range v.List().Len() {
					visit(v.List().Get(i).Message())
				}
			default:
				visit(v.Message())
			}
			return true
		})
	}
	r := rand.New(rand.NewPCG(1, 11))
	for range 1000 {
		p := randomPolicy(r)
		seen["AuthorizationPolicy.Action "+p.Action.String()] = true
		visit(p.ProtoReflect())
	}
	var walk func(d protoreflect.MessageDescriptor)
	walk = func(d protoreflect.MessageDescriptor) {
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			if elsewhere[short(f.FullName())] != "" {
				continue
			}
			if !seen[short(f.FullName())] {
				t.Errorf("no random policy has %s: teach randomPolicy and naive what it means", short(f.FullName()))
			}
			if f.Message() != nil && !f.IsMap() {
				walk(f.Message())
			}
		}
	}
	walk((&securityv1beta1.AuthorizationPolicy{}).ProtoReflect().Descriptor())
	for n, name := range securityv1beta1.AuthorizationPolicy_Action_name {
		if key := "AuthorizationPolicy.Action " + name; !seen[key] && elsewhere[key] == "" {
			t.Errorf("no random policy has action %s (%d)", name, n)
		}
	}
}
