package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// patient is an application that says how it is.
type patient struct {
	ill     atomic.Bool
	leaving atomic.Bool // and says so itself
	checks  atomic.Int64
	calls   atomic.Int64
	address string
}

func (p *patient) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.leaving.Load() {
		w.Header().Set("x-envoy-immediate-health-check-fail", "true")
	}
	if r.URL.Path != "/health" {
		p.calls.Add(1)
		return
	}
	if p.checks.Add(1); p.ill.Load() || r.Header.Get("x-check") != "1" || r.Header.Get("user-agent") != "weir-health-check" {
		w.WriteHeader(http.StatusTeapot)
	}
}

// Endpoints are asked how they are, one by one, by each proxy that calls them and only once however many subsets they are
// in: who is not well gets no requests, and is back when it is.
func TestHealthChecks(t *testing.T) {
	t.Parallel()
	a, b := echoPod("echo-v1-0", "v1"), echoPod("echo-v1-1", "v1")
	a.Program, b.Program = nil, nil
	m, client, pods := echoMesh(t, nil, a, b)
	var apps [2]*patient
	for i, w := range pods {
		apps[i] = &patient{address: w.App(8080).String()}
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", apps[i].address)
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: apps[i]}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { _ = s.Close() })
	}
	began := time.Now()
	rule := `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: echo
  annotations:
    weir.dev/health-check: |
      http: {path: /health, headers: {x-check: "1"}}
      interval: 100ms
      unhealthyThreshold: 2
      healthyThreshold: 1
spec:
  host: echo
  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}}
  subsets: [{name: v1, labels: {version: v1}}]
`
	m.Config("rule.yaml", rule)
	answer := func() (who [2]int64) {
		before := [2]int64{apps[0].calls.Load(), apps[1].calls.Load()}
		for range 10 {
			if r := client.Get("http://echo:8080/"); r.Err != nil || r.Status != 200 {
				t.Fatal(r)
			}
		}
		return [2]int64{apps[0].calls.Load() - before[0], apps[1].calls.Load() - before[1]}
	}
	becomes := func(what string, want [2]int64) {
		t.Helper()
		m.Eventually(what, func() error {
			if got := answer(); got != want {
				return errors.New(fmt.Sprint(got))
			}
			return nil
		})
	}
	becomes("both answer", [2]int64{5, 5})
	apps[0].ill.Store(true)
	becomes("only the second answers", [2]int64{0, 10})
	stats := string(client.Admin(http.MethodGet, "/stats?filter=8080..echo.*health_check").Body)
	for _, want := range []string{"health_check.attempt: ", "health_check.healthy: 1\n"} {
		if !strings.Contains(stats, want) {
			t.Errorf("statistics lack %q: %s", want, stats)
		}
	}
	if strings.Contains(stats, "health_check.failure: 0\n") {
		t.Errorf("no failures are counted: %s", stats)
	}
	if out := string(client.Admin(http.MethodGet, "/clusters").Body); !strings.Contains(out, "/failed_active_hc") {
		t.Errorf("clusters: %s", out)
	}
	apps[0].ill.Store(false)
	becomes("both answer again", [2]int64{5, 5})
	m.Eventually("there were several checks", func() error {
		if n := apps[1].checks.Load(); n < 10 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	// Three proxies that could call; each asks at most once an interval.
	if n, most := apps[1].checks.Load(), 3*(int64(time.Since(began)/(100*time.Millisecond))+2); n > most {
		t.Errorf("%d checks, at most %d are due", n, most)
	}
	m.Config("rule.yaml", strings.Replace(rule, "unhealthyThreshold: 2", "unhealthyThreshold: 1000000", 1))
	apps[1].leaving.Store(true)
	becomes("who leaves is out at once", [2]int64{10, 0})
	apps[1].leaving.Store(false)
	becomes("and is back", [2]int64{5, 5})
	m.Remove("rule.yaml")
	apps[0].ill.Store(true) // which nobody asks about any more
	if got := answer(); got[0] == 0 {
		t.Error("without checks the first one still gets nothing")
	}
	if stats := string(client.Admin(http.MethodGet, "/stats?filter=health_check").Body); strings.Contains(stats, "health_check") {
		t.Errorf("without checks there are statistics of them: %s", stats)
	}
}
