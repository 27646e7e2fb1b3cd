package store_test

import (
	"fmt"
	"slices"
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

// What a pod's own label asks for counts where its namespace says nothing. A name that is not there is an error of who wrote the label, a namespace
// that has decided is why, and a pod that began too early is to be restarted. Gateways, the network of the node and pods that want no proxy are left alone.
func TestOwnLabels(t *testing.T) {
	namespace := func(name, labels string) string {
		return "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + name + ", labels: {" + labels + "}}\n---\n"
	}
	n := 0
	pod := func(namespace, owner, labels, spec string) string {
		n++
		return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %[1]s-%[2]d, namespace: %[3]s, labels: {%[4]s}, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: %[1]s, uid: '1', controller: true}]}\n"+
			"spec: {containers: [{name: c, image: c}]%[5]s}\nstatus: {podIP: 10.1.0.%[2]d}\n---\n", owner, n, namespace, labels, spec)
	}
	const yes, typo, prod = `sidecar.istio.io/inject: "true"`, "istio.io/rev: typo", "istio.io/rev: prod"
	text := namespace("open", "") + namespace("off", "istio-injection: disabled") + namespace("on", "istio.io/rev: prod") +
		pod("open", "db", typo, "") + pod("open", "db", typo, "") + pod("open", "cart", yes, "") + pod("open", "early", prod, "") +
		pod("open", "not", typo+`, sidecar.istio.io/inject: "false"`, "") + pod("open", "node", typo, ", hostNetwork: true") +
		pod("open", "gateway", prod, ", initContainers: [{name: istio-proxy, image: p}]") + pod("off", "ask", yes, "") + pod("on", "late", typo, "")
	one := strings.Replace(pod("open", "alone", typo, ""), "ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: alone, uid: '1', controller: true}]", "", 1)
	for _, x := range []struct {
		names []string
		want  string
	}{
		{nil, "IST0103 Pod/alone-10 metadata.labels, IST0103 StatefulSet/cart spec.template.metadata.labels, IST0103 StatefulSet/db spec.template.metadata.labels, IST0103 StatefulSet/early spec.template.metadata.labels, " +
			"IST0103 StatefulSet/late , WEIR0302 StatefulSet/ask spec.template.metadata.labels"},
		{[]string{"blue", "prod"}, "IST0103 StatefulSet/early spec.template.metadata.labels, IST0103 StatefulSet/late , WEIR0119 Pod/alone-10 metadata.labels, WEIR0119 StatefulSet/cart spec.template.metadata.labels, " +
			"WEIR0119 StatefulSet/db spec.template.metadata.labels, WEIR0302 StatefulSet/ask spec.template.metadata.labels"},
		{[]string{"default", "prod", "typo"}, "IST0103 Pod/alone-10 metadata.labels, IST0103 StatefulSet/cart spec.template.metadata.labels, IST0103 StatefulSet/db spec.template.metadata.labels, " +
			"IST0103 StatefulSet/early spec.template.metadata.labels, IST0103 StatefulSet/late , WEIR0302 StatefulSet/ask spec.template.metadata.labels"},
	} {
		s := newStore(t, "")
		for _, names := range [][]string{{"other"}, x.names} { // names change while everything runs
			u := unit("all.yaml", text+one)
			for _, o := range u.Objects {
				if o.ID.Kind == "Namespace" && names != nil {
					o.Know(names)
				}
			}
			s.Step(u)
		}
		var found []string
		for _, f := range s.Analyze().Findings {
			if f.Code == config.AsksForNobody || f.Code == config.PodMissingProxy || f.Code == config.NotInjectable {
				found = append(found, fmt.Sprintf("%s %s/%s %s", f.Code, f.Object.Kind, f.Object.Name, f.FieldPath))
				if f.Code == config.AsksForNobody && f.Object.Name == "db" && (f.Severity != config.Error || !strings.HasPrefix(f.Message, `2 pods of it ask for a proxy with the label istio.io/rev=typo`)) {
					t.Errorf("%+v", f)
				}
			}
		}
		slices.Sort(found)
		if got := strings.Join(found, ", "); got != x.want {
			t.Errorf("names %v:\n got %s\nwant %s", x.names, got, x.want)
		}
	}
}
