package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/weirmesh/weir/capture/cni"
)

// await waits until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(60 * time.Second)
	for !so() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// cluster is an API server with the agent's node and DaemonSet, which gives tokens.
func cluster(t *testing.T) *fake.Clientset {
	t.Helper()
	c := fake.NewClientset(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "cni.istio.io/not-ready", Effect: "NoSchedule"}, {Key: "gpu", Effect: "NoSchedule"}}}},
		&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istio-cni-node"}},
		pod(1, proving))
	c.PrependReactor("create", "serviceaccounts", func(a ktesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "token" {
			return false, nil, nil
		}
		return true, &authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{Token: "t1", ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Hour))}}, nil
	})
	return c
}

// An agent's life on a node: the network comes late, pods that began before are repaired,
// the taint goes when all is well, others' changes are put right, calls are counted; its end
// leaves the plugin to the next agent, and takes it away when the DaemonSet is gone.
func TestRun(t *testing.T) {
	n, client := newNode(t), cluster(t)
	n.process(100, cgroup(1, "pause"), "p1")
	f := host(t, nil)
	start := func() (*Agent, string, func()) {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		a := New(Options{Client: client, Node: "n1", Namespace: "istio-system", ServiceAccount: "istio-cni", DaemonSet: "istio-cni-node", Files: *f, Server: "https://10.0.0.1:443",
			CA: func() ([]byte, error) { return []byte("PEM"), nil }, Exclude: []string{"kube-system", "istio-system"}, Repair: Repair, Taint: "cni.istio.io/not-ready",
			Proc: n.proc, Kernel: n.kernel(), HTTP: l, Log: slog.New(slog.DiscardHandler), Plain: true})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		return a, "http://" + l.Addr().String(), func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	get := func(url string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		c := &http.Client{}
		defer c.CloseIdleConnections()
		resp, err := c.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	taints := func() int {
		n, err := client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return len(n.Spec.Taints)
	}
	read := func(path string) string {
		b, _ := os.ReadFile(path)
		return string(b)
	}
	network, plugin := filepath.Join(f.Net, "10-a.conflist"), filepath.Join(f.Bin, cni.Type)

	a, url, stop := start()
	await(t, "the pod's repair", func() bool {
		_, s := get(url + "/metrics")
		return strings.Contains(s, `repaired_total{result="success",type="repair"} 1`)
	})
	if code, why := get(url + "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(why, "not installed") || taints() != 2 {
		t.Errorf("without a network: %d %s, %d taints", code, why, taints())
	}
	write(t, network, list)
	await(t, "the taint's end", func() bool { return taints() == 1 })
	if code, why := get(url + "/readyz"); code != http.StatusOK {
		t.Error(code, why)
	}
	access, err := cni.ReadAccess([]byte(read(filepath.Join(f.Run, "kubeconfig"))))
	if err != nil || access.Token != "t1" || access.Server != "https://10.0.0.1:443" || string(access.CA) != "PEM" {
		t.Errorf("%+v %v", access, err)
	}
	write(t, network, list)
	await(t, "the plugin's return into the network configuration", func() bool { return strings.Contains(read(network), cni.Type) })
	if err := os.Remove(plugin); err != nil {
		t.Fatal(err)
	}
	await(t, "the plugin's return", func() bool { return read(plugin) == "ELF 1" })
	cni.Send(&cni.Config{Socket: f.socket()}, cni.Report{Operation: "ADD", Pod: "shop/p2", Result: "captured", Seconds: .02})
	await(t, "the call's count", func() bool {
		_, s := get(url + "/metrics")
		return strings.Contains(s, `istio_cni_plugin_requests_total{operation="ADD",result="captured"} 1`)
	})
	if a.unready() != "" {
		t.Error(a.unready())
	}
	stop()
	if !strings.Contains(read(network), cni.Type) || read(plugin) == "" || read(filepath.Join(f.Run, "kubeconfig")) == "" {
		t.Error("an agent that is replaced took the plugin with it")
	}

	_, url, stop = start()
	await(t, "the next agent", func() bool { code, _ := get(url + "/readyz"); return code == http.StatusOK })
	if err := client.AppsV1().DaemonSets("istio-system").Delete(t.Context(), "istio-cni-node", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	stop()
	if strings.Contains(read(network), cni.Type) || read(plugin) != "" || len(folder(t, f.Run)) > 0 {
		t.Errorf("left behind: %s, %v %v", read(network), folder(t, f.Bin), folder(t, f.Run))
	}
}

// Whether an installation is over: only somebody who knows may say so.
func TestOver(t *testing.T) {
	group := schema.GroupResource{Group: "apps", Resource: "daemonsets"}
	now := metav1.Now()
	for _, c := range []struct {
		name string
		set  *appsv1.DaemonSet
		err  error
		want bool
	}{
		{"it is there", &appsv1.DaemonSet{}, nil, false},
		{"it is being deleted", &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}}, nil, true},
		{"it is gone", nil, apierrors.NewNotFound(group, "x"), true},
		{"so are the agent's rights", nil, apierrors.NewForbidden(group, "x", errors.New("no")), true},
		{"and its account", nil, apierrors.NewUnauthorized("no"), true},
		{"nobody answers", nil, errors.New("connection refused"), false},
		{"an API server in trouble", nil, apierrors.NewInternalError(errors.New("etcd")), false},
	} {
		client := fake.NewClientset()
		client.PrependReactor("get", "daemonsets", func(ktesting.Action) (bool, runtime.Object, error) { return true, c.set, c.err })
		if got := New(Options{Client: client}).over(t.Context()); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// A token is renewed when a quarter of its life is over, and kept when nobody gives another.
func TestToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := host(t, nil)
		client := cluster(t)
		a := New(Options{Client: client, Files: *f, Server: "https://x", CA: func() ([]byte, error) { return nil, nil }, Log: slog.New(slog.DiscardHandler)})
		var k keeper
		began := time.Now()
		if err := a.access(t.Context(), &k); err != nil {
			t.Fatal(err)
		}
		if left := k.renew.Sub(began); left != 15*time.Minute {
			t.Errorf("a token good for an hour is renewed after %v", left)
		}
		client.PrependReactor("create", "serviceaccounts", func(ktesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("away") })
		k.renew = time.Time{}
		if err := a.access(t.Context(), &k); err != nil || k.access.Token != "t1" {
			t.Errorf("%+v %v", k, err)
		}
		if err := a.access(t.Context(), &keeper{}); err == nil || !strings.Contains(err.Error(), "asking for a token: away") {
			t.Error(err)
		}
	})
}
