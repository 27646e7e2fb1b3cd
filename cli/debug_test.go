package cli

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// A container with tools is added beside the proxy, a second one beside the first; what is not there is said.
func TestAddTools(t *testing.T) {
	k := fake.NewClientset(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-0"},
		Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "istio-proxy"}}, Containers: []corev1.Container{{Name: "cart"}}}})
	for i, want := range []string{"weir-debug-1", "weir-debug-2"} {
		name, err := addTools(t.Context(), k, "shop", "cart-0", "istio-proxy", "tools", []string{"sh"})
		if err != nil || name != want {
			t.Fatalf("%q %v, want %q", name, err, want)
		}
		p, err := k.CoreV1().Pods("shop").Get(t.Context(), "cart-0", metav1.GetOptions{})
		if err != nil || len(p.Spec.EphemeralContainers) != i+1 {
			t.Fatalf("%+v %v", p, err)
		}
		if c := p.Spec.EphemeralContainers[i]; c.Name != want || c.TargetContainerName != "istio-proxy" || c.Image != "tools" || c.Command[0] != "sh" {
			t.Errorf("%+v", c)
		}
	}
	for _, tc := range []struct{ pod, target, want string }{{"cart-1", "istio-proxy", "not found"}, {"cart-0", "carts", "has no container carts"}} {
		if _, err := addTools(t.Context(), k, "shop", tc.pod, tc.target, "tools", nil); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: %v", tc, err)
		}
	}
}
