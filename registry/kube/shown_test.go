package kube

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirmesh/weir/config/kube"
	"github.com/weirmesh/weir/inject"
)

// Who shows a pod's token: the pod itself, another pod, or somebody of whom nothing is known, as all who come through a node, a gateway or
// from outside. Only another pod that is alive, and alone has its address, counts as one.
func TestShown(t *testing.T) {
	w := newWorld(kube.Options{DomainSuffix: "cluster.local"}, "istio-system")
	has := func(uid types.UID, name string, change func(*corev1.Pod), ips ...string) {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: uid}}
		for _, ip := range ips {
			p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
		}
		if change != nil {
			change(p)
		}
		w.trimPod(p)
		w.pod(p)
	}
	ended := func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }
	host := func(p *corev1.Pod) { p.Spec.HostNetwork = true }
	role := func(args ...string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Containers = []corev1.Container{{Name: "app", Args: []string{"router"}}, {Name: inject.ProxyContainer, Args: args}}
		}
	}
	has("u-cart", "cart", role("proxy", "sidecar"), "10.0.0.1", "fd00::1")
	has("u-thief", "thief", nil, "10.0.0.2", "fd00::2")
	has("u-job", "job", nil, "10.0.0.3")
	has("u-job", "job", ended, "10.0.0.3")
	has("u-next", "next", nil, "10.0.0.3") // has the address of the job
	has("u-agent", "agent", host, "192.0.2.1")
	has("u-proxy", "kube-proxy", host, "192.0.2.1")
	has("u-gateway", "gateway", role("proxy", "router"), "10.0.0.8")
	has("u-new", "new", nil)
	has("u-late", "late", nil, "10.0.0.9") // its containers are gone, and its address is heir's; the API server still has it
	has("u-heir", "heir", nil, "10.0.0.9")
	has("u-web-1", "web-0", nil, "10.0.0.10")
	has("u-web-1", "web-0", ended, "10.0.0.10")
	w.noPod(types.NamespacedName{Namespace: "shop", Name: "web-0"})
	has("u-web-2", "web-0", nil, "10.0.0.11")
	has("u-gone", "gone", nil, "10.0.0.12")
	w.noPod(types.NamespacedName{Namespace: "shop", Name: "gone"})

	for _, c := range []struct {
		name, pod    string
		uid          types.UID
		from         string
		known, ended bool
		at           string
	}{
		{"its own address", "cart", "u-cart", "10.0.0.1", true, false, ""},
		{"its other one", "cart", "u-cart", "fd00::1", true, false, ""},
		{"a token that names no uid", "cart", "", "10.0.0.1", true, false, ""},
		{"another pod", "cart", "u-cart", "10.0.0.2", true, false, "thief"},
		{"another pod, by IPv6", "cart", "u-cart", "fd00::2", true, false, "thief"},
		{"another pod, a token that names no uid", "cart", "", "10.0.0.2", true, false, "thief"},
		{"nobody's address", "cart", "u-cart", "203.0.113.9", true, false, ""},
		{"a node's, as after SNAT", "cart", "u-cart", "192.0.2.1", true, false, ""},
		{"a gateway's, which passes on what others send", "cart", "u-cart", "10.0.0.8", true, false, ""},
		{"a gateway's token, elsewhere", "gateway", "u-gateway", "10.0.0.2", true, false, "thief"},
		{"a pod in the host's network", "agent", "u-agent", "192.0.2.1", true, false, ""},
		{"another pod there, which has the address in common", "kube-proxy", "u-proxy", "192.0.2.1", true, false, ""},
		{"a pod in the host's network, from another pod", "agent", "u-agent", "10.0.0.2", true, false, "thief"},
		{"a pod that has ended", "job", "u-job", "203.0.113.9", true, true, ""},
		{"a pod that has ended, from who has its address now", "job", "u-job", "10.0.0.3", true, true, "next"},
		{"who has the address of one that has ended", "next", "u-next", "10.0.0.3", true, false, ""},
		{"who has the address of one that is about to be gone", "heir", "u-heir", "10.0.0.9", true, false, ""},
		{"one that is about to be gone", "late", "u-late", "10.0.0.9", true, false, ""},
		{"an address that nobody told of yet", "new", "u-new", "203.0.113.9", false, false, ""},
		{"an address that nobody told of yet, and was another's", "new", "u-new", "10.0.0.2", false, false, "thief"},
		{"a pod that was made anew", "web-0", "u-web-2", "10.0.0.11", true, false, ""},
		{"a pod of before of the name", "web-0", "u-web-1", "10.0.0.11", false, false, ""},
		{"a pod of before of the name, elsewhere", "web-0", "u-web-1", "10.0.0.2", false, false, "thief"},
		{"a pod that is gone", "gone", "u-gone", "10.0.0.12", false, false, ""},
		{"a pod that is gone, elsewhere", "gone", "u-gone", "10.0.0.2", false, false, "thief"},
		{"no address", "cart", "u-cart", "", true, false, ""},
	} {
		from, _ := netip.ParseAddr(c.from)
		known, ended, at := w.shown(types.NamespacedName{Namespace: "shop", Name: c.pod}, c.uid, from)
		want := types.NamespacedName{}
		if c.at != "" {
			want = types.NamespacedName{Namespace: "shop", Name: c.at}
		}
		if known != c.known || ended != c.ended || at != want {
			t.Errorf("%s: known %v, ended %v, at %v; want %v %v %v", c.name, known, ended, at, c.known, c.ended, want)
		}
	}
}
