package install

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
)

// asked are the doors that the API server finds open for a pod, CONFIGURATION/WEBHOOK of all releases.
func asked(t *testing.T, releases []*Release, namespace, pod labels.Set) []string {
	t.Helper()
	var out []string
	for _, r := range releases {
		for _, o := range r.Objects {
			if o.GetKind() != "MutatingWebhookConfiguration" {
				continue
			}
			var c admissionregistrationv1.MutatingWebhookConfiguration
			b, err := json.Marshal(o)
			if err == nil {
				err = json.Unmarshal(b, &c)
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range c.Webhooks {
				selects := func(s *metav1.LabelSelector, l labels.Set) bool {
					x, err := metav1.LabelSelectorAsSelector(s)
					if err != nil {
						t.Fatal(err)
					}
					return x.Matches(l)
				}
				if selects(h.NamespaceSelector, namespace) && selects(h.ObjectSelector, pod) {
					out = append(out, c.Name)
				}
			}
		}
	}
	return out
}

// Whatever labels a namespace and a pod have, one control plane at most is asked about the pod, and it is the one they name.
func TestDoors(t *testing.T) {
	const absent = "-"
	for _, always := range []bool{false, true} {
		def := Settings{Set: []string{fmt.Sprintf("sidecarInjectorWebhook.enableNamespacesByDefault=%v", always)}}
		blue := Settings{Set: []string{"revision=blue", "revisionTags[0]=prod"}}
		all := []*Release{render(t, def), render(t, blue)}
		for _, name := range []string{"shop", "istio-system", "kube-system"} {
			for _, injection := range []string{absent, "enabled", "disabled"} {
				for _, nsRev := range []string{absent, "default", "blue", "prod", "gone"} {
					for _, inject := range []string{absent, "true", "false"} {
						for _, podRev := range []string{absent, "default", "blue", "prod"} {
							ns, pod := labels.Set{"kubernetes.io/metadata.name": name}, labels.Set{}
							for k, v := range map[string]string{"istio-injection": injection, "istio.io/rev": nsRev} {
								if v != absent {
									ns[k] = v
								}
							}
							for k, v := range map[string]string{"sidecar.istio.io/inject": inject, "istio.io/rev": podRev} {
								if v != absent {
									pod[k] = v
								}
							}
							who := absent
							switch own := name == "istio-system"; {
							case inject == "false", name == "kube-system":
							case own && (injection != absent || nsRev != absent):
							case injection == "enabled":
								who = "default"
							case injection == "disabled":
							case nsRev != absent:
								who = nsRev
							case podRev != absent:
								who = podRev
							case inject == "true" || always && !own:
								who = "default"
							}
							var want []string
							switch who {
							case "default":
								want = []string{"istio-sidecar-injector"}
							case "blue":
								want = []string{"istio-sidecar-injector-blue"}
							case "prod":
								want = []string{"istio-revision-tag-prod"}
							}
							if got := asked(t, all, ns, pod); !slices.Equal(got, want) {
								t.Errorf("by default %v, namespace %v, pod %v: asked are %v, want %v", always, ns, pod, got, want)
							}
						}
					}
				}
			}
		}
	}
}

// A revision or tag without injector is there all the same for objects that ask for it: its mark stays, and takes no pod.
func TestMarksWithoutInjector(t *testing.T) {
	r := render(t, Settings{Set: []string{"revision=blue", "revisionTags[0]=prod", "sidecarInjectorWebhook.enabled=false"}})
	for name, tag := range map[string]string{"istio-sidecar-injector-blue": "", "istio-revision-tag-prod": "prod"} {
		i := slices.IndexFunc(r.Objects, func(o *unstructured.Unstructured) bool {
			return o.GetKind() == "MutatingWebhookConfiguration" && o.GetName() == name
		})
		if i < 0 {
			t.Errorf("%s is not rendered: who asks for it would be told that nobody has that name", name)
			continue
		}
		o := r.Objects[i]
		doors, there, err := unstructured.NestedSlice(o.Object, "webhooks")
		if l := o.GetLabels(); l["istio.io/rev"] != "blue" || l["istio.io/tag"] != tag || !there || len(doors) > 0 || err != nil {
			t.Errorf("%s: labels %v, doors %v (%v)", name, l, doors, err)
		}
	}
}

// A revision stands beside another installation: they have no object in common.
func TestRevisions(t *testing.T) {
	names := map[string]string{}
	for _, s := range []Settings{{}, {Set: []string{"revision=1-1", "revisionTags[0]=prod", "pilot.replicaCount=2", "global.priorityClassName=system-cluster-critical"}}, {Set: []string{"revision=7"}}} {
		r := render(t, s)
		for _, o := range r.Objects {
			key := o.GetKind() + " " + o.GetName()
			if other, ok := names[key]; ok {
				t.Errorf("%s is of %s and %s", key, other, r.Name)
			}
			names[key] = r.Name
			if owner := o.GetLabels()[Owner]; owner != r.Name || r.Revision != "" && !strings.Contains(r.Name, r.Revision) {
				t.Errorf("%s: owner %s, release %s", key, owner, r.Name)
			}
		}
	}
	for key, owner := range map[string]string{"Deployment istiod-1-1": "weir-1-1", "Service istiod-7": "weir-7", "Service istio-pilot": "weir", "ConfigMap istio-1-1": "weir-1-1", "Deployment istio-ingressgateway": "weir",
		"ValidatingWebhookConfiguration istio-validator-1-1-istio-system": "weir-1-1"} {
		if names[key] != owner {
			t.Errorf("%s is of %q, want %s", key, names[key], owner)
		}
	}
	moved := render(t, Settings{Set: []string{"revision=1-1", "gateways.istio-ingressgateway.enabled=true"}})
	if !slices.ContainsFunc(moved.Objects, func(o *unstructured.Unstructured) bool {
		b, _ := json.Marshal(o)
		return o.GetKind() == "Deployment" && o.GetName() == "istio-ingressgateway" && strings.Contains(string(b), "istiod-1-1.istio-system.svc:15012")
	}) {
		t.Error("a gateway that is asked for does not get its configuration from the revision")
	}
	for set, want := range map[string]string{"revision=Blue": "is no name", "revisionTags[0]=a_b": "is no name", "revisionTags[0]=default": "the revision itself"} {
		if _, err := Render(Settings{Set: []string{set}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", set, err, want)
		}
	}
}
