package cli

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/weirmesh/weir/cli/archive"
)

// Of a cluster the namespaces of the mesh are taken, logs of the mesh's own containers, and what ran before a restart; not those that are
// excluded. What may not be read is missing and keeps nothing else out. Values of variables and ConfigMaps go.
func TestKubeParts(t *testing.T) {
	const planted = "hunter2planted"
	pod := func(ns, name string, restarts int32, containers ...string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
		for _, c := range containers {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: c, Env: []corev1.EnvVar{{Name: "DB", Value: planted}}})
			p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: c, RestartCount: restarts})
		}
		return p
	}
	k := fake.NewClientset(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "istio-system"}}, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
		pod("istio-system", "istiod-0", 1, "discovery"), pod("shop", "cart-0", 0, "cart", "istio-proxy"), pod("payroll", "pay-0", 0, "istio-proxy"), pod("other", "x-0", 0, "x"),
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istio"}, Data: map[string]string{"values": `{"token": "` + planted + `"}`}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "cacerts"}, Data: map[string][]byte{"ca-key.pem": []byte(planted)}})
	k.PrependReactor("list", "services", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("services is forbidden")
	})
	missing := map[string]error{}
	parts, proxied := kubeParts(t.Context(), k, "istio-system", &collection{exclude: []string{"payroll"}, since: time.Hour, tail: 10, piece: 1}, missing)
	if !slices.Equal(proxied, []string{"shop/cart-0"}) || len(missing) > 0 {
		t.Errorf("proxies %q, missing %v", proxied, missing)
	}
	var names, failed []string
	for _, c := range parts {
		for _, p := range c.pieces {
			names = append(names, p.Name)
			data, err := p.Fetch(t.Context())
			if err != nil {
				failed = append(failed, p.Name)
			}
			if got := string(archive.Redact(p.Name, data)); strings.Contains(got, planted) || strings.Contains(got, "aHVudGVy") {
				t.Errorf("%s has the secret:\n%s", p.Name, got)
			}
		}
	}
	for _, want := range []string{"kubernetes/istio-system/configmaps.json", "kubernetes/shop/pods.json", "kubernetes/shop/events.json", "logs/istio-system/istiod-0/discovery.log", "logs/istio-system/istiod-0/discovery-before.log", "logs/shop/cart-0/istio-proxy.log"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not there", want)
		}
	}
	for _, n := range names {
		if strings.Contains(n, "payroll") || strings.Contains(n, "other") || strings.Contains(n, "cart.log") || strings.Contains(n, "secrets") {
			t.Errorf("%s is there", n)
		}
	}
	if want := []string{"kubernetes/istio-system/services.json", "kubernetes/shop/services.json"}; !slices.Equal(failed, want) {
		t.Errorf("failed %q, want %q", failed, want)
	}
}
