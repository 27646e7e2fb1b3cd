package inject

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/mesh"
)

// What an annotation is worth depends on the object that it is written on; and who has it for a reason is not told twice.
func TestExamine(t *testing.T) {
	type m = map[string]string
	for _, c := range []struct {
		name                string
		kind                string
		labels, annotations m
		user                int64
		want                string // codes
	}{
		{name: "nobody else's annotations are looked at", kind: "Deployment", annotations: m{"prometheus.io/scrape": "true", "notistio.io/x": "y", "deployment.kubernetes.io/revision": "3", "weir.dev/x": "y"}},
		{name: "what belongs to the pods, on what makes them", kind: "Deployment", annotations: m{"sidecar.istio.io/inject": "false"}, want: "IST0107"},
		{name: "on a namespace", kind: "Namespace", annotations: m{"sidecar.istio.io/proxyCPU": "1"}, want: "IST0107"},
		{name: "what belongs to Services, on a pod", kind: "Pod", annotations: m{"networking.istio.io/exportTo": "."}, want: "IST0107"},
		{name: "and where it belongs", kind: "Service", annotations: m{"networking.istio.io/exportTo": "."}},
		{name: "where it belongs, and nobody does it", kind: "Service", annotations: m{"traffic.istio.io/nodeSelector": "x"}, want: "WEIR0303"},
		{name: "what belongs everywhere", kind: "Service", annotations: m{"galley.istio.io/analyze-suppress": "IST0001"}},
		{name: "a slip of the pen", kind: "Service", annotations: m{"networking.istio.io/exportto": "."}, want: "IST0108"},
		{name: "a label of Istio's is no annotation", kind: "Pod", annotations: m{"security.istio.io/tlsMode": "istio"}, want: "IST0108"},
		{name: "a value that cannot be", kind: "Pod", annotations: m{"sidecar.istio.io/interceptionMode": "redirect"}, want: "IST0125"},
		{name: "one that cannot be, of several fields", kind: "Pod", annotations: m{"proxy.istio.io/config": "concurency: 2"}, want: "IST0125"},
		{name: "neither yes nor no, and old", kind: "Pod", annotations: m{"sidecar.istio.io/inject": "maybe"}, want: "IST0125 IST0135"},
		{name: "old", kind: "Pod", annotations: m{"sidecar.istio.io/inject": "true"}, want: "IST0135"},
		{name: "old beside its successor", kind: "Pod", labels: m{"sidecar.istio.io/inject": "true"}, annotations: m{"sidecar.istio.io/inject": "maybe"}},
		{name: "nothing here does it", kind: "Pod", annotations: m{"sidecar.istio.io/proxyImageType": "debug"}, want: "WEIR0303"},
		{name: "runs as the proxy", kind: "Pod", user: 1337, want: "IST0144"},
		{name: "as the proxy, without one", kind: "Pod", labels: m{"sidecar.istio.io/inject": "false"}, user: 1337},
		{name: "a gateway is its proxy", kind: "Pod", annotations: m{"inject.istio.io/templates": "gateway"}, user: 1337},
		{name: "turned off", kind: "Pod", annotations: m{"galley.istio.io/analyze-suppress": "IST0108, IST0144", "sidecar.istio.io/proxyCpu": "1", "sidecar.istio.io/proxyMemory": "x"}, user: 1337, want: "IST0125"},
		{name: "all turned off", kind: "Deployment", annotations: m{"galley.istio.io/analyze-suppress": "*", "sidecar.istio.io/inject": "false"}},
	} {
		o := Examined{Object: mesh.Ref{Kind: "Deployment", Namespace: "shop", Name: "cart"}, Kind: c.kind, Meta: &metav1.ObjectMeta{Labels: c.labels, Annotations: c.annotations}}
		at := "metadata."
		if c.kind == "Pod" {
			o.Path = "spec.template"
			o.Spec = &corev1.PodSpec{Containers: []corev1.Container{{Name: "app", SecurityContext: &corev1.SecurityContext{RunAsUser: &c.user}}}}
			at = "spec.template."
		}
		var got []string
		for _, f := range config.Tidy(Examine(o)) {
			got = append(got, string(f.Code))
			if !strings.HasPrefix(f.FieldPath, at) || f.Hint == "" || f.Object != o.Object {
				t.Errorf("%s: %v", c.name, f)
			}
		}
		if got := strings.Join(got, " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
