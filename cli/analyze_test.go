package cli

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// A Deployment of a cluster is looked at itself: an annotation in the wrong place is not in its pods, and one that the injector refuses
// has no pods.
func TestAnnotatedDeployments(t *testing.T) {
	deployment := func(namespace, name string, own, pods map[string]string) *appsv1.Deployment {
		return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: own},
			Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Annotations: pods}}}}
	}
	type m = map[string]string
	k := fake.NewClientset(
		deployment("shop", "cart", m{"sidecar.istio.io/inject": "false"}, m{"sidecar.istio.io/logLevel": "loud"}),
		deployment("shop", "meant", m{"galley.istio.io/analyze-suppress": "*", "sidecar.istio.io/inject": "false"}, m{"sidecar.istio.io/logLevel": "loud"}),
		deployment("edge", "web", nil, m{"sidecar.istio.io/proxyCpu": "1"}))
	for namespace, want := range map[string]string{
		"shop": "2: IST0107 shop/cart metadata.annotations[\"sidecar.istio.io/inject\"], IST0125 shop/cart spec.template.metadata.annotations[\"sidecar.istio.io/logLevel\"]",
		"edge": "1: IST0108 edge/web spec.template.metadata.annotations[\"sidecar.istio.io/proxyCpu\"]",
	} {
		fs, looked, err := annotated(t.Context(), k, namespace)
		var got []string
		for _, f := range fs {
			got = append(got, fmt.Sprintf("%s %s/%s %s", f.Code, f.Namespace, f.Name, f.Field))
		}
		if s := fmt.Sprintf("%d: %s", looked, strings.Join(got, ", ")); s != want || err != nil {
			t.Errorf("%s: %s, want %s (%v)", namespace, s, want, err)
		}
	}
	if fs, looked, err := annotated(t.Context(), k, ""); len(fs) != 3 || looked != 3 || err != nil {
		t.Errorf("all: %v of %d, %v", fs, looked, err)
	}
}
