package forward

import (
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// A control plane that serves a cluster from outside is known by the EndpointSlice of its installation, and not by another's.
func TestOutside(t *testing.T) {
	slice := func(name, service, by, address string) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "istio-system", Labels: map[string]string{discoveryv1.LabelServiceName: service, discoveryv1.LabelManagedBy: by}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{address}}}}
	}
	k := fake.NewClientset(slice("a", "istiod-next", "weir", "192.0.2.10"), slice("b", "istiod", "endpointslice-controller.k8s.io", "10.0.0.1"))
	for revision, want := range map[string]string{"": "", "default": "", "next": "192.0.2.10", "other": ""} {
		if got := outside(t.Context(), k, "istio-system", revision); got != want {
			t.Errorf("revision %q: %q, want %q", revision, got, want)
		}
	}
}
