package inject

import (
	"fmt"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/mesh"
)

// injecting is a configuration with a webhook about pods of namespaces and of pods with certain labels: as selectors are written.
func injecting(name, service, namespaces, pods string) Webhooks {
	selector := func(text string) *metav1.LabelSelector {
		s, err := metav1.ParseToLabelSelector(text)
		if err != nil {
			panic(err)
		}
		return s
	}
	return Webhooks{Object: mesh.Ref{Kind: "MutatingWebhookConfiguration", Name: name}, Meta: metav1.ObjectMeta{Name: name}, Mutating: []admissionv1.MutatingWebhook{{
		Name: "x.sidecar-injector.istio.io", NamespaceSelector: selector(namespaces), ObjectSelector: selector(pods),
		ClientConfig: admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Namespace: "istio-system", Name: service}, CABundle: []byte("ca")},
		Rules:        []admissionv1.RuleWithOperations{{Rule: admissionv1.Rule{Resources: []string{"pods"}}}}}}}
}

func validating(name, hook, service string) Webhooks {
	ignore := admissionv1.Ignore
	return Webhooks{Object: mesh.Ref{Kind: "ValidatingWebhookConfiguration", Name: name}, Meta: metav1.ObjectMeta{Name: name}, Validating: []admissionv1.ValidatingWebhook{{
		Name: hook, FailurePolicy: &ignore, ClientConfig: admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Namespace: "istio-system", Name: service}, CABundle: []byte("ca")}}}}
}

// What the API server is told to ask is wrong where nobody answers, nobody can be believed, or two answer.
func TestExamineWebhooks(t *testing.T) {
	with := func(w Webhooks, change func(*Webhooks)) Webhooks {
		change(&w)
		return w
	}
	plain := injecting("plain", "istiod", "istio-injection=enabled", "sidecar.istio.io/inject notin (false)")
	url := "https://192.0.2.1/inject"
	for _, c := range []struct {
		what    string
		hooks   []Webhooks
		offline bool
		want    string // the only finding, "" none
	}{
		{"one", []Webhooks{plain}, false, ""},
		{"one and a revision, as they are installed", []Webhooks{plain, injecting("blue", "istiod-blue", "istio.io/rev=blue,!istio-injection", "sidecar.istio.io/inject notin (false)")}, false, ""},
		{"two for one label", []Webhooks{plain, injecting("old", "istiod-blue", "istio-injection in (enabled,yes)", "")}, false,
			"old webhooks[0]: a pod without labels in a namespace labelled istio-injection=enabled is given a proxy by plain, too"},
		{"labels that do not exclude each other", []Webhooks{plain, injecting("blue", "istiod-blue", "istio.io/rev=blue", "")}, false,
			"blue webhooks[0]: a pod without labels in a namespace labelled istio-injection=enabled, istio.io/rev=blue is given a proxy by plain"},
		{"one for all", []Webhooks{plain, injecting("all", "istiod-blue", "", "")}, false, "all webhooks[0]: a pod without labels in a namespace labelled istio-injection=enabled is"},
		{"all but some names", []Webhooks{plain, injecting("all", "istiod-blue", "istio-injection notin (enabled,disabled)", "")}, false, ""},
		{"pods of one, pods of another", []Webhooks{injecting("a", "istiod", "", "istio.io/rev=a"), injecting("b", "istiod-blue", "", "istio.io/rev=b")}, false, ""},
		{"pods with any value, and with one", []Webhooks{injecting("a", "istiod", "", "istio.io/rev"), injecting("b", "istiod-blue", "", "istio.io/rev=b")}, false,
			"b webhooks[0]: a pod labelled istio.io/rev=b in a namespace without labels is given a proxy by a, too"},
		{"a tag of the same control plane", []Webhooks{plain, injecting("tag", "istiod", "istio-injection=enabled", "")}, false, ""},
		{"conditions of its own", []Webhooks{plain, with(injecting("old", "istiod-blue", "istio-injection=enabled", ""), func(w *Webhooks) {
			w.Mutating[0].MatchConditions = []admissionv1.MatchCondition{{Name: "x", Expression: "false"}}
		})}, false, ""},
		{"by its address", []Webhooks{plain, with(injecting("old", "", "istio-injection=enabled", ""), func(w *Webhooks) { w.Mutating[0].ClientConfig = admissionv1.WebhookClientConfig{URL: &url} })}, false,
			"old webhooks[0]: a pod without labels"},
		{"somebody else's", []Webhooks{plain, with(injecting("theirs", "gone", "", ""), func(w *Webhooks) { w.Mutating[0].Name = "pods.example.com" })}, false, ""},
		{"a revision that is gone", []Webhooks{with(injecting("tag", "gone", "istio.io/rev=prod", ""), func(w *Webhooks) { w.Meta.Labels = map[string]string{"istio.io/rev": "1-1"} })}, false,
			"tag webhooks[0].clientConfig.service: there is no Service istio-system/gone of revision 1-1: nobody answers, and what it is asked about is refused"},
		{"of which it is said once", []Webhooks{with(injecting("tag", "gone", "istio.io/rev=prod", ""), func(w *Webhooks) { w.Mutating = append(w.Mutating, w.Mutating[0]) })}, false,
			"tag webhooks[0].clientConfig.service: there is no Service istio-system/gone: nobody answers"},
		{"nobody validates", []Webhooks{validating("v", "validation.istio.io", "gone")}, false, "v webhooks[0].clientConfig.service: there is no Service istio-system/gone: nobody answers, and what it is asked about goes on unasked"},
		{"somebody else does not", []Webhooks{validating("v", "validation.example.com", "gone")}, false, ""},
		{"nobody is known by anything", []Webhooks{with(plain, func(w *Webhooks) {
			w.Mutating = []admissionv1.MutatingWebhook{w.Mutating[0]}
			w.Mutating[0].ClientConfig.CABundle = nil
		})}, false, "plain webhooks[0].clientConfig.caBundle: it is empty"},
		{"which is written later", []Webhooks{with(plain, func(w *Webhooks) {
			w.Mutating = []admissionv1.MutatingWebhook{w.Mutating[0]}
			w.Mutating[0].ClientConfig.CABundle = nil
		})}, true, ""},
		{"meant to be so", []Webhooks{plain, with(injecting("old", "istiod-blue", "istio-injection=enabled", ""), func(w *Webhooks) {
			w.Meta.Annotations = map[string]string{"galley.istio.io/analyze-suppress": "IST0139"}
		})}, false, ""},
	} {
		got := []string{}
		for _, f := range ExamineWebhooks(c.hooks, func(_, name string) (bool, bool) { return name != "gone", true }, !c.offline) {
			got = append(got, fmt.Sprintf("%s %s: %s", f.Object.Name, f.FieldPath, f.Message))
		}
		if (c.want == "") != (len(got) == 0) || len(got) > 1 || len(got) == 1 && !strings.HasPrefix(got[0], c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
	if fs := ExamineWebhooks([]Webhooks{injecting("a", "gone", "", "")}, func(string, string) (bool, bool) { return false, false }, false); len(fs) != 0 {
		t.Errorf("of services that nobody knows: %v", fs)
	}
}
