package kube

import (
	"bytes"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
)

func namespace(t *testing.T, client kubernetes.Interface, name string) {
	t.Helper()
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// published is what pods of a namespace would mount, "" for nothing.
func published(t *testing.T, client kubernetes.Interface, ns string) string {
	t.Helper()
	m, err := client.CoreV1().ConfigMaps(ns).Get(t.Context(), RootConfigMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return ""
	}
	if err != nil || m.Labels["app.kubernetes.io/managed-by"] != "weir" {
		t.Errorf("%s: %v %v", ns, m, err)
	}
	return m.Data[RootKey]
}

// Every namespace that may have workloads has the roots: from its creation on, whatever is
// done to the ConfigMap, and the new ones when the authority changes.
func TestPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		client := fake.NewClientset()
		for _, ns := range []string{"default", system, "kube-system", "kube-node-lease"} {
			namespace(t, client, ns)
		}
		// Somebody's ConfigMap of that name, as an older installation leaves it.
		if _, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: RootConfigMap, Labels: map[string]string{"istio.io/config": "true"}},
			Data: map[string]string{RootKey: "old"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		a := mustOpen(t, client, nil)
		defer background(t, a.Run)()
		p, err := NewPublisher(PublisherOptions{Client: client, Authority: a, Labels: labels, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		stop := background(t, p.Run)
		defer func() { stop() }()
		everywhere := func(when string, namespaces ...string) {
			t.Helper()
			for _, ns := range namespaces {
				if published(t, client, ns) != rootOf(a) {
					t.Errorf("%s: not in %s", when, ns)
				}
			}
		}
		pass(time.Second)
		everywhere("at the beginning", "default", system)
		for _, ns := range []string{"kube-system", "kube-node-lease"} {
			if published(t, client, ns) != "" {
				t.Error("published in " + ns)
			}
		}
		if m, _ := client.CoreV1().ConfigMaps("default").Get(t.Context(), RootConfigMap, metav1.GetOptions{}); m.Labels["istio.io/config"] != "true" {
			t.Error("a label was taken away")
		}

		namespace(t, client, "shop")
		pass(time.Second)
		everywhere("a new namespace", "shop")

		if err := client.CoreV1().ConfigMaps("shop").Delete(t.Context(), RootConfigMap, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		everywhere("after a deletion", "shop")

		edit := func(ns, text string) {
			m, err := client.CoreV1().ConfigMaps(ns).Get(t.Context(), RootConfigMap, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			m.Data = map[string]string{RootKey: text}
			if _, err := client.CoreV1().ConfigMaps(ns).Update(t.Context(), m, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		edit("shop", "not a root")
		pass(time.Second)
		everywhere("after an edit", "shop")

		next := selfSigned(t)
		next[RootKey] = append(bytes.Clone(next[RootKey]), rootOf(a)...)
		put(t, client, secret(PluggedSecret, next))
		pass(time.Second)
		if n := strings.Count(rootOf(a), "BEGIN CERTIFICATE"); n != 2 {
			t.Fatalf("%d roots in an overlap", n)
		}
		everywhere("with a new authority", "default", system)
		pass(time.Minute)
		everywhere("with a new authority", "shop")

		// Who insists is not fought but answered ever less often, and named.
		log.Reset()
		repairs := 0
		for range 3600 {
			if published(t, client, "shop") != "theirs" {
				repairs++
				edit("shop", "theirs")
			}
			pass(time.Second)
		}
		if repairs < 5 || repairs > 25 || !strings.Contains(log.String(), "somebody else writes") {
			t.Errorf("%d repairs in an hour\n%s", repairs, log.String())
		}

		// The next leader goes on.
		stop()
		namespace(t, client, "later")
		stop = background(t, p.Run)
		pass(time.Second)
		everywhere("the next term", "later", "shop")
	})
}

func TestServerNames(t *testing.T) {
	got := map[string]bool{}
	for _, n := range ServerNames("mesh", "canary") {
		got[n] = true
	}
	want := map[string]bool{"localhost": true}
	for _, s := range []string{"istiod", "istio-pilot", "istio-sidecar-injector", "istiod-canary"} {
		want[s+".mesh.svc"], want[s+".mesh.svc.cluster.local"], want[s+".mesh"] = true, true, true
	}
	if !maps.Equal(got, want) || len(ServerNames("mesh", "default")) != 10 {
		t.Errorf("%v", got)
	}
}
