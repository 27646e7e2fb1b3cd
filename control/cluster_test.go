package control

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/internal/persist"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/server"
)

// In a cluster every pod reaches the port: it gets health and metrics, and no more. Who
// comes over loopback was let through by the API server, and may read; objects are changed
// where they live.
func TestGuardInCluster(t *testing.T) {
	p := &Plane{o: Options{Cluster: &Cluster{}}}
	h := p.guard(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
	for _, c := range []struct {
		method, path, from, host string
		want                     int
	}{
		{"GET", "/metrics", "10.1.2.3:5", "istiod.istio-system:15014", 200},
		{"GET", "/ready", "10.1.2.3:5", "10.9.9.9", 200},
		{"GET", "/api/v1/status", "10.1.2.3:5", "localhost", 403},
		{"GET", "/debug/config_dump", "10.1.2.3:5", "127.0.0.1", 403},
		{"POST", "/metrics", "10.1.2.3:5", "localhost", 403},
		{"GET", "/api/v1/status", "127.0.0.1:5", "localhost:15014", 200},
		{"GET", "/api/v1/status", "[::1]:5", "localhost", 200},
		{"GET", "/api/v1/status", "127.0.0.1:5", "evil.example.com", 403},
		{"POST", "/api/v1/receipts", "127.0.0.1:5", "localhost", 200},
		{"POST", "/api/v1/objects", "127.0.0.1:5", "localhost", 403},
		{"DELETE", "/api/v1/objects/VirtualService/a/b", "127.0.0.1:5", "localhost", 403},
	} {
		r := httptest.NewRequest(c.method, c.path, nil)
		r.RemoteAddr, r.Host = c.from, c.host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%s %s from %s for %s: %d, want %d: %s", c.method, c.path, c.from, c.host, w.Code, c.want, w.Body)
		}
	}
}

func known(pods ...*mesh.Workload) *mesh.Snapshot {
	var w persist.Map[mesh.Key, *mesh.Workload]
	for _, p := range pods {
		w = w.Set(p.Key(), p)
	}
	return &mesh.Snapshot{Workloads: w}
}

// A proxy that is faster than the news of its pod waits for it; one whose pod stays unknown
// is served, and the log says why; one that runs as somebody else is refused.
func TestMeet(t *testing.T) {
	pod := &mesh.Workload{Namespace: "shop", Name: "cart-1", ServiceAccount: "cart"}
	node := &translate.Node{Namespace: "shop", Name: "cart-1", ServiceAccount: "cart"}
	start := func(log *strings.Builder) *feeds {
		f := newFeeds(nil, slog.New(slog.NewTextHandler(log, nil)), func(int) {})
		f.why = func(string, string) string { return "nobody told of it" }
		return f
	}
	synctest.Test(t, func(t *testing.T) {
		f := start(&strings.Builder{})
		f.publish(known())
		begun := time.Now()
		time.AfterFunc(time.Second, func() { f.publish(known(pod)) })
		if err := f.meet(t.Context(), node); err != nil || time.Since(begun) != time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		if err := f.meet(t.Context(), &translate.Node{Namespace: "shop", Name: "cart-1", ServiceAccount: "other"}); err == nil || !strings.Contains(err.Error(), "service account cart") {
			t.Errorf("somebody else's pod: %v", err)
		}
		if err := f.meet(t.Context(), &translate.Node{Namespace: "shop", Name: "cart-1", Unproven: true}); err != nil {
			t.Errorf("one that proves nothing: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f := start(&strings.Builder{})
		f.publish(known(pod))
		ctx, cancel := context.WithCancel(t.Context())
		proxy := &corev3.Node{Id: "sidecar~10.1.2.3~cart-1.shop~shop.svc.cluster.local"}
		if _, err := f.Connect(ctx, proxy, server.Peer{Plaintext: true}); err != nil {
			t.Fatal(err)
		}
		if got := f.plaintextFindings(); len(got) != 1 || got[0].Code != config.PlaintextProxy || got[0].Object != (mesh.Ref{Kind: "Pod", Namespace: "shop", Name: "cart-1"}) {
			t.Errorf("a plaintext proxy: %v", got)
		}
		cancel()
		synctest.Wait()
		if got := f.plaintextFindings(); len(got) > 0 {
			t.Errorf("it has gone: %v", got)
		}
		if _, err := f.Connect(t.Context(), proxy, server.Peer{ID: "spiffe://cluster.local/ns/shop/sa/cart"}); err != nil || len(f.plaintextFindings()) > 0 {
			t.Errorf("one with a certificate: %v, %v", f.plaintextFindings(), err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		f := start(&log)
		begun := time.Now()
		if err := f.meet(t.Context(), node); err != nil || time.Since(begun) != meeting || !strings.Contains(log.String(), "nobody told of it") {
			t.Errorf("%v after %v: %s", err, time.Since(begun), &log)
		}
	})
}

// An API server that is away or slow is a finding as long as it is so: what people change is not what is in force.
func TestClusterFindings(t *testing.T) {
	trouble := ""
	p := &Plane{o: Options{Settings: mesh.Settings{ClusterID: "Kubernetes"}, Cluster: &Cluster{Trouble: func() string { return trouble }}}}
	for _, trouble = range []string{"it does not answer since 2026-11-22T18:00:00Z: connection refused", ""} {
		all := p.clusterFindings(nil)
		if (len(all) == 1) != (trouble != "") || len(all) > 0 && (all[0].Code != config.ClusterAway || !strings.Contains(all[0].Message, trouble)) {
			t.Errorf("%q: %+v", trouble, all)
		}
	}
	if all := (&Plane{}).clusterFindings(nil); len(all) > 0 {
		t.Errorf("without a cluster: %+v", all)
	}
}
