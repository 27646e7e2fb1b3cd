package e2e_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/test/mesh"
)

// enveloped are the x-envoy headers that a server was sent, but for those that are checked elsewhere.
func enveloped(t *testing.T, r *mesh.Response) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, h := range r.Report(t).Headers {
		if name := strings.ToLower(h.Name); strings.HasPrefix(name, "x-envoy-") {
			out[name] = h.Value
		}
	}
	return out
}

// What programs of the mesh may say by x-envoy headers, and what they are told by them. Who is outside says nothing.
func TestEnvoyHeaders(t *testing.T) {
	t.Parallel()
	m, client, pods := echoMesh(t, nil, echoPod("echo-0", "v1"))
	m.Config("routes.yaml", documents(mesh.IngressGateway, `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [echo.example]}]}
`, virtualService("echo", `
  hosts: [echo, echo.example]
  gateways: [mesh, edge]
  http:
  - {match: [{uri: {prefix: /rewritten}}], rewrite: {uri: /new}, timeout: 20s, route: &echo [{destination: {host: echo, port: {number: 8080}}}]}
  - {match: [{uri: {prefix: /counted}, statPrefix: checkout}], retries: {attempts: 1, retryOn: 5xx, backoff: 1ms}, route: *echo}
  - {match: [{uri: {prefix: /try}}], timeout: 20s, retries: {attempts: 1, perTryTimeout: 7s, retryOn: 5xx}, route: *echo}
  - {route: *echo}
`)))
	gateway := m.Workload(mesh.Gateway())
	outside := gateway.Outside()
	through := func(path string, headers ...string) *mesh.Response {
		return mesh.Do(outside, http.MethodGet, "http://gateway:8080"+path, nil, append(headers, "host: echo.example")...)
	}
	inside := func(path string, headers ...string) *mesh.Response {
		return client.Get("http://echo:8080"+path, headers...)
	}

	m.Run("the server learns of attempts, time-outs and rewriting", func(t *testing.T) {
		for name, call := range map[string]func(string, ...string) *mesh.Response{"a workload": inside, "the gateway": through} {
			got := enveloped(t, call("/rewritten/x"))
			if got["x-envoy-attempt-count"] != "1" || got["x-envoy-expected-rq-timeout-ms"] != "20000" || got["x-envoy-original-path"] != "/rewritten/x" {
				t.Errorf("%s: %v", name, got)
			}
			if got := enveloped(t, call("/try")); got["x-envoy-expected-rq-timeout-ms"] != "7000" {
				t.Errorf("%s, by attempts: %v", name, got)
			}
		}
	})
	m.Run("the answer says how long the server took", func(t *testing.T) {
		r := inside("/?delay=30ms")
		if ms, err := strconv.Atoi(r.Header.Get("x-envoy-upstream-service-time")); err != nil || ms < 30 || r.Header.Get("x-envoy-decorator-operation") != "" || r.Header.Get("x-envoy-peer-metadata") != "" {
			t.Errorf("%v: %v", err, r.Header)
		}
	})
	m.Run("a workload asks for a time-out", func(t *testing.T) {
		r := inside("/?delay=20s", "x-envoy-upstream-rq-timeout-ms: 50", "x-request-id: asked-timeout")
		if r.Status != 504 || r.Took > 15*time.Second {
			t.Errorf("%v after %v", r, r.Took)
		}
		client.AccessLog("asked-timeout", "504 UT response_timeout")
		if got := enveloped(t, inside("/", "x-envoy-upstream-rq-timeout-ms: 7000", "x-envoy-upstream-rq-per-try-timeout-ms: 3000")); got["x-envoy-expected-rq-timeout-ms"] != "3000" ||
			got["x-envoy-upstream-rq-timeout-ms"] != "" || got["x-envoy-upstream-rq-per-try-timeout-ms"] != "" {
			t.Errorf("the server was sent %v", got)
		}
	})
	m.Run("a workload asks for retries", func(t *testing.T) {
		for id, c := range map[string]struct {
			path     string
			headers  []string
			attempts int
		}{
			"by-status":   {"/?status=500", []string{"x-envoy-retry-on: 5xx", "x-envoy-max-retries: 3"}, 4},
			"by-code":     {"/?status=418", []string{"x-envoy-retry-on: retriable-status-codes", "x-envoy-retriable-status-codes: 418,500", "x-envoy-max-retries: 1"}, 2},
			"not-asked":   {"/?status=500", nil, 1},
			"overloaded":  {"/?status=503&header=x-envoy-overloaded:%20true", []string{"x-envoy-retry-on: 5xx", "x-envoy-max-retries: 3"}, 1},
			"may-limited": {"/?status=429&header=x-envoy-ratelimited:%20true", []string{"x-envoy-retry-on: envoy-ratelimited", "x-envoy-max-retries: 1"}, 2},
			"not-limited": {"/?status=503&header=x-envoy-ratelimited:%20true", []string{"x-envoy-retry-on: 5xx", "x-envoy-max-retries: 1"}, 1},
		} {
			inside(c.path, append(c.headers, "x-request-id: "+id+"-")...)
			client.AccessLog(id + "-")
			m.Eventually(id+": every attempt is logged", func() error { return times(pods[0], id+"-", c.attempts) })
		}
	})
	m.Run("a stranger asks for nothing", func(t *testing.T) {
		headers := []string{"x-envoy-upstream-rq-timeout-ms: 1", "x-envoy-retry-on: 5xx", "x-envoy-max-retries: 9", "x-envoy-expected-rq-timeout-ms: 5", "x-envoy-attempt-count: 77",
			"x-envoy-original-path: /forged", "x-envoy-internal: true", "x-envoy-decorator-operation: x", "x-request-id: stranger-1"}
		r := through("/?delay=30ms", headers...)
		got := enveloped(t, r)
		if got["x-envoy-attempt-count"] != "1" || got["x-envoy-expected-rq-timeout-ms"] != "" || got["x-envoy-original-path"] != "" || got["x-envoy-internal"] != "" || got["x-envoy-external-address"] != gateway.IP().String() && got["x-envoy-external-address"] != "127.0.0.1" {
			t.Errorf("the server was sent %v", got)
		}
		if id := r.Report(t).Header("x-request-id"); id == "stranger-1" || len(id) != 36 {
			t.Errorf("the request id is %q", id)
		}
		id := through("/?status=500", headers...).Header.Get("x-request-id")
		if id != "" {
			t.Errorf("the answer has the request id %q", id)
		}
	})
	m.Run("a match with a statPrefix has counters of its own", func(t *testing.T) {
		for _, path := range []string{"/counted", "/counted", "/counted?status=404", "/counted?status=500"} {
			inside(path)
		}
		m.Eventually("they are counted", func() error {
			stats, text := string(client.Admin(http.MethodGet, "/stats?filter=^vhost").Body), string(client.Admin(http.MethodGet, "/stats/prometheus").Body)
			for _, want := range []string{"upstream_rq_total: 4", "upstream_rq_2xx: 2", "upstream_rq_4xx: 1", "upstream_rq_5xx: 1", "upstream_rq_retry: 1", "upstream_rq_timeout: 0"} {
				if !strings.Contains(stats, "vhost.echo.default.svc.cluster.local:8080.route.checkout."+want+"\n") {
					return fmt.Errorf("no %s in %s", want, stats)
				}
			}
			for _, want := range []string{`_rq_total{`, `_rq_xx{envoy_response_code_class="2",`} {
				if !strings.Contains(text, "envoy_vhost_route_upstream"+want+`envoy_route="checkout",envoy_virtual_host="echo.default.svc.cluster.local:8080"} `) {
					return fmt.Errorf("/stats/prometheus has no %s", want)
				}
			}
			return nil
		})
	})
	m.Run("a request keeps its id through the mesh", func(t *testing.T) {
		if id := inside("/", "x-request-id: mine").Report(t).Header("x-request-id"); id != "mine" {
			t.Errorf("%q", id)
		}
		if id := inside("/").Report(t).Header("x-request-id"); len(id) != 36 || strings.Count(id, "-") != 4 || id[14] != '4' {
			t.Errorf("%q is no UUID version 4", id)
		}
	})
}

// times is whether a workload's proxy has logged so many lines with a word.
func times(w *mesh.Workload, word string, want int) error {
	if n := len(w.LoggedWith(word)); n != want {
		return fmt.Errorf("%d", n)
	}
	return nil
}
