package cluster

import (
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/weirmesh/weir/install"
)

// A namespace that is being deleted takes nothing in: its end is waited for, and the wait said.
func TestANamespaceThatGoesIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := metav1.Now()
		typed := fake.NewClientset(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "mesh", DeletionTimestamp: &now, Finalizers: []string{"example.org/slow"}}})
		asked := 0
		typed.PrependReactor("get", "namespaces", func(clienttesting.Action) (bool, runtime.Object, error) {
			if asked++; asked == 10 {
				if err := typed.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("namespaces"), "", "mesh"); err != nil {
					t.Error(err)
				}
			}
			return false, nil, nil
		})
		var said []string
		c := &Cluster{typed: typed, say: func(line string) { said = append(said, line) }}
		if err := c.namespace(t.Context(), &install.Release{Name: "weir", Namespace: "mesh"}); err != nil {
			t.Fatal(err)
		}
		ns, err := typed.CoreV1().Namespaces().Get(t.Context(), "mesh", metav1.GetOptions{})
		if err != nil || ns.DeletionTimestamp != nil || ns.Labels[install.Owner] != "weir" {
			t.Errorf("%+v, %v", ns, err)
		}
		if got := strings.Join(said, "\n"); got != "waiting for the end of namespace mesh: it is being deleted, and waits for its finalizers (example.org/slow)" {
			t.Errorf("said %q", got)
		}
	})
}
