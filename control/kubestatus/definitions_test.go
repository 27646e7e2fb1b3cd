package kubestatus

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	sigsyaml "sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/mesh"
)

// definition is what matters here of a CustomResourceDefinition.
type definition struct {
	Spec struct {
		Group    string
		Names    struct{ Kind, Plural string }
		Versions []struct {
			Name         string
			Served       bool
			Subresources struct{ Status *struct{} }
		}
	}
}

// Of every kind that an installation defines, in every version served, an object is either
// done or told of: by a finding, and by a condition of its status, which may be written and
// has the name under which the API server knows it.
func TestEveryKindIsDoneOrTold(t *testing.T) {
	text, err := os.ReadFile("../../install/chart/crds/istio.yaml")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := os.ReadFile("../../install/chart/templates/rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	settings := &mesh.Settings{DomainSuffix: "cluster.local", RootNamespace: "istio-system", TrustDomain: "cluster.local"}
	done, told := 0, 0
	for doc := range bytes.SplitSeq(text, []byte("\n---\n")) {
		var crd definition
		if err := sigsyaml.Unmarshal(doc, &crd); err != nil {
			t.Fatal(err)
		}
		kind, group := crd.Spec.Names.Kind, crd.Spec.Group
		if kind == "" {
			continue // a comment
		}
		if got := plural(kind); got != crd.Spec.Names.Plural {
			t.Errorf("%s: plural %q, want %q", kind, got, crd.Spec.Names.Plural)
		}
		if !hasStatus(config.ID{Group: group, Kind: kind, Namespace: "shop", Name: "a"}) {
			t.Errorf("%s: no status is written", kind)
		}
		if !strings.Contains(string(rules), fmt.Sprintf("%q", crd.Spec.Names.Plural)) {
			t.Errorf("%s: its status may not be written", kind)
		}
		for _, v := range crd.Spec.Versions {
			if !v.Served {
				continue
			}
			name := group + "/" + v.Name + " " + kind
			if v.Subresources.Status == nil {
				t.Errorf("%s has no status", name)
			}
			part := document.Part{Line: 1, Text: fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"name":"a","namespace":"shop","generation":1},"spec":{}}`, group+"/"+v.Name, kind)}
			root, err := document.Parse(part)
			if err != nil {
				t.Fatal(err)
			}
			o, problems := config.NewObject(root, part, "", "")
			if o == nil {
				t.Fatal(problems)
			}
			_, state, findings := store.Lower(o, settings)
			verdict, _ := judge(&control.Outcome{Object: &store.Object{ID: o.ID, Raw: o, State: state}, Findings: findings, Settled: true}, 1, time.Now())
			use, problem, _ := config.Classify(o.APIVersion, kind)
			switch {
			case problem != "":
				t.Errorf("%s: %s", name, problem)
			case use == config.Enforced:
				done++
				if state == store.Unenforced || state == store.Ignored && len(findings) == 0 {
					t.Errorf("%s is done, and its state is %s", name, state)
				}
			default:
				told++
				if !slices.ContainsFunc(findings, func(f config.Finding) bool { return f.Code == config.KindNotEnforced && f.Severity >= config.Warning }) {
					t.Errorf("%s: no finding: %v", name, findings)
				}
				if a := verdict.accepted; a.status != "False" || a.reason != reasonNotImplemented || a.message == "" {
					t.Errorf("%s: Accepted is %+v", name, a)
				}
			}
		}
	}
	if done == 0 || told == 0 {
		t.Errorf("%d done, %d told", done, told)
	}
}
