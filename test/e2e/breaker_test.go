package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/weirmesh/weir/test/mesh"
)

// breakerFixture is circuit-breaker.yaml as it is; the test is skipped where it is not.
func breakerFixture(t *testing.T) string {
	for _, up := range []string{"../../..", "../../../.."} {
		if text, err := os.ReadFile(filepath.Join(up, "shared/fixtures/circuit-breaker.yaml")); err == nil {
			return string(text)
		}
	}
	t.Skip("circuit-breaker.yaml is not at ../shared/fixtures")
	return ""
}

// The circuit breaker of the articles: one connection with one request each and one that waits. Of two callers at once some
// get 200 and some 503; the latter say who refused them and why, in the answer, the log, the metrics and the statistics.
func TestCircuitBreaker(t *testing.T) {
	t.Parallel()
	rule := breakerFixture(t)
	m, client, _ := echoMesh(t, nil, echoPod("echo-v1-0", "v1"))
	m.Config("notifications.yaml", strings.NewReplacer("name: echo}", "name: notifications}").Replace(echoService))
	m.Config("circuit-breaker.yaml", rule)
	var ok, refused, unmarked atomic.Int64
	l := startLoadOf(t, 2, 0, func() *mesh.Response { return client.Get("http://notifications:8080/?delay=2ms") }, func(r *mesh.Response) error {
		switch {
		case r.Err == nil && r.Status == http.StatusOK:
			ok.Add(1)
		case r.Err == nil && r.Status == http.StatusServiceUnavailable:
			if refused.Add(1); r.Header.Get("x-envoy-overloaded") != "true" {
				unmarked.Add(1)
			}
		default:
			return r.Err
		}
		return nil
	})
	m.Eventually("a mix of 200 and 503", func() error {
		if ok.Load() >= 20 && refused.Load() >= 5 {
			return nil
		}
		return errors.New("not yet")
	})
	l.cancel()
	l.wg.Wait()
	t.Logf("%d answers of 200, %d of 503", ok.Load(), refused.Load())
	if unmarked.Load() > 0 {
		t.Errorf("%d of the answers of 503 do not say x-envoy-overloaded", unmarked.Load())
	}
	overflows := 0.0
	for _, s := range client.Metrics()["istio_requests_total"] {
		if s.Labels["response_code"] == "503" && s.Labels["response_flags"] == "UO" && s.Labels["source_workload"] == "client" && s.Labels["destination_workload"] == "echo-v1" && s.Labels["destination_service_name"] == "notifications" {
			overflows += s.Value
		}
	}
	if int64(overflows) != refused.Load() {
		t.Errorf("the metrics count %v requests refused with UO, the callers %d", overflows, refused.Load())
	}
	if stats := string(client.Admin(http.MethodGet, "/stats?filter=8080.*notifications.*upstream_rq_pending_overflow").Body); !strings.Contains(stats, "upstream_rq_pending_overflow: ") || strings.Contains(stats, "overflow: 0\n") {
		t.Errorf("statistics: %q", stats)
	}
	if lines := client.AccessLog("503", "UO"); int64(len(lines)) != refused.Load() {
		t.Errorf("%d lines of the log say UO, of %d", len(lines), refused.Load())
	}
}

// A circuit breaker of three states: closed until an endpoint fails; open for its time; then half-open, with one request that
// tries it while all others are refused, and closed when that one is answered.
func TestHalfOpen(t *testing.T) {
	t.Parallel()
	pod := echoPod("echo-v1-0", "v1")
	pod.Program = nil
	m, client, pods := echoMesh(t, nil, pod)
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", pods[0].App(8080).String())
	if err != nil {
		t.Fatal(err)
	}
	var ill atomic.Bool
	arrived, release := make(chan string, 10), make(chan struct{})
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ill.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		arrived <- r.URL.Path
		if r.URL.Path == "/probe" {
			<-release
		}
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	m.Config("rule.yaml", strings.Replace(destinationRule("echo", "{host: echo, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 1, interval: 50ms, baseEjectionTime: 2s, maxEjectionPercent: 100}}}"),
		"{name: echo}", `{name: echo, annotations: {weir.dev/half-open-probes: "1"}}`, 1))
	call := func(path string) *mesh.Response { return client.Get("http://echo:8080" + path) }

	ill.Store(true)
	if r := call("/closed"); r.Status != http.StatusInternalServerError {
		t.Fatal(r)
	}
	if r := call("/open"); r.Status != http.StatusServiceUnavailable {
		t.Errorf("open: %v", r)
	}
	ill.Store(false)
	probed := make(chan *mesh.Response, 1)
	go func() { // until its time is over everybody is refused
		for {
			r := call("/probe")
			if r.Err != nil || r.Status != http.StatusServiceUnavailable {
				probed <- r
				return
			}
		}
	}()
	if path := <-arrived; path != "/probe" {
		t.Fatal(path)
	}
	for range 5 {
		if r := call("/while"); r.Status != http.StatusServiceUnavailable {
			t.Errorf("beside the one that tries: %v", r)
		}
	}
	close(release)
	if r := <-probed; r.Err != nil || r.Status != http.StatusOK {
		t.Errorf("the one that tries: %v", r)
	}
	if r := call("/after"); r.Err != nil || r.Status != http.StatusOK {
		t.Errorf("closed again: %v", r)
	}
	if lines := client.AccessLog("UH"); len(lines) < 6 {
		t.Errorf("%d lines of the log say UH", len(lines))
	}
}

// outlierDetectionHttpErrorCodes says what is an error: of 429 alone, a 500 is none.
func TestWhichStatusesAreErrors(t *testing.T) {
	t.Parallel()
	m, client, _ := echoMesh(t, nil, echoPod("echo-v1-0", "v1"))
	m.Config("rule.yaml", destinationRule("echo", "{host: echo, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 2, outlierDetectionHttpErrorCodes: [429], maxEjectionPercent: 100}}}"))
	for i, c := range []struct{ ask, get int }{{500, 500}, {503, 503}, {429, 429}, {500, 500}, {429, 429}, {200, 200}, {429, 429}, {429, 429}, {200, 503}} {
		if r := client.Get(fmt.Sprintf("http://echo:8080/?status=%d", c.ask)); r.Err != nil || r.Status != c.get {
			t.Errorf("call %d: %v, want %d", i, r, c.get)
		}
	}
	if lines := client.AccessLog("UH"); len(lines) != 1 {
		t.Errorf("%d lines of the log say UH", len(lines))
	}
}

// A request too many (http2MaxRequests, of all HTTP versions) is counted for the workload that would have got it.
func TestRequestLimitNamesItsWorkload(t *testing.T) {
	t.Parallel()
	m, client, _ := echoMesh(t, nil, echoPod("echo-v1-0", "v1"))
	m.Config("rule.yaml", destinationRule("echo", "{host: echo, trafficPolicy: {connectionPool: {http: {http2MaxRequests: 1}}}}"))
	l := startLoadOf(t, 2, 0, func() *mesh.Response { return client.Get("http://echo:8080/?delay=2ms") }, func(*mesh.Response) error { return nil })
	refused := 0.0
	m.Eventually("a request is refused for being too many", func() error {
		for _, s := range client.Metrics()["istio_requests_total"] {
			if s.Labels["response_flags"] != "UO" {
				continue
			}
			if s.Labels["destination_workload"] != "echo-v1" {
				t.Errorf("it is counted for %q", s.Labels["destination_workload"])
			}
			refused += s.Value
		}
		if refused == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	l.cancel()
	l.wg.Wait()
}
