package state

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/xds/resource"
)

// A health check is what HealthCheck says, and what cannot be asked is refused by its path.
func TestHealthCheck(t *testing.T) {
	const timing = `timeout { seconds: 1 } interval { seconds: 5 } `
	for _, c := range []struct {
		text string
		want *cluster.Check
		err  string
	}{
		{``, nil, ""},
		{`health_checks { ` + timing + `tcp_health_check {} }`, &cluster.Check{Kind: cluster.CheckTCP, Interval: 5 * time.Second, Timeout: time.Second, Unhealthy: 1, Healthy: 1}, ""},
		{`health_checks { ` + timing + `interval_jitter { seconds: 1 } interval_jitter_percent: 10 unhealthy_threshold { value: 3 } healthy_threshold { value: 2 }
			http_health_check { host: "h" path: "/p" method: HEAD expected_statuses { start: 200 end: 300 } retriable_statuses { start: 500 end: 503 } request_headers_to_add { header { key: "X-A" value: "b" } } } }`,
			&cluster.Check{Kind: cluster.CheckHTTP, Interval: 5 * time.Second, Timeout: time.Second, Jitter: 1500 * time.Millisecond, Unhealthy: 3, Healthy: 2,
				Host: "h", Path: "/p", Method: "HEAD", Statuses: [][2]int{{200, 300}}, Retriable: [][2]int{{500, 503}}, Headers: [][2]string{{"x-a", "b"}}}, ""},
		{`health_checks { ` + timing + `grpc_health_check { service_name: "s" authority: "a" } }`,
			&cluster.Check{Kind: cluster.CheckGRPC, Interval: 5 * time.Second, Timeout: time.Second, Unhealthy: 1, Healthy: 1, Service: "s", Host: "a"}, ""},
		{`health_checks { timeout { seconds: 1 } tcp_health_check {} }`, nil, "health_checks[0].interval"},
		{`health_checks { interval { seconds: 1 } tcp_health_check {} }`, nil, "health_checks[0].timeout"},
		{`health_checks { ` + timing + `tcp_health_check { send { text: "00" } } }`, nil, "tcp_health_check"},
		{`health_checks { ` + timing + `http_health_check { path: "p" } }`, nil, "http_health_check.path"},
		{`health_checks { ` + timing + `http_health_check { path: "/" expected_statuses { start: 300 end: 200 } } }`, nil, "expected_statuses[0]"},
		{`health_checks { ` + timing + `http_health_check { path: "/" retriable_statuses { start: 200 end: 700 } } }`, nil, "retriable_statuses[0]"},
		{`health_checks { ` + timing + `http_health_check { path: "/" request_headers_to_add { header { key: "a b" value: "c" } } } }`, nil, "request_headers_to_add[0]"},
		{`health_checks { ` + timing + `grpc_health_check { service_name: "` + strings.Repeat("s", 101) + `" } }`, nil, "service_name"},
		{`health_checks { ` + timing + `tcp_health_check {} } health_checks { ` + timing + `tcp_health_check {} }`, nil, "one is supported"},
		{`health_checks { ` + timing + `}`, nil, "health_checker"},
	} {
		s, _, err := newBuilder().Apply(update(t, resource.ClusterType, `name: "c" `+eds+c.text))
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want something about %s", c.text, err, c.err)
			}
		case err != nil:
			t.Errorf("%s: %v", c.text, err)
		default:
			if diff := cmp.Diff(c.want, s.ClusterNamed("c").Check, cmpopts.IgnoreFields(cluster.Check{}, "Key")); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.text, diff)
			}
		}
	}
}

// A retry budget has Envoy's defaults; a tunnel is host and port, what the network leads from is address and port.
func TestBudgetAndTunnel(t *testing.T) {
	allowed := func(text string) uint32 {
		s, _ := apply(t, newBuilder(), update(t, resource.ClusterType, `name: "c" `+eds+`circuit_breakers { thresholds { max_retries { value: 7 } `+text+` } }`))
		l := s.ClusterNamed("c").Limits
		l.Requests.Store(100)
		return l.RetriesAllowed(0)
	}
	for text, want := range map[string]uint32{``: 7, `retry_budget {}`: 20, `retry_budget { budget_percent { value: 1 } }`: 3, `retry_budget { budget_percent { value: 1 } min_retry_concurrency { value: 5 } }`: 5} {
		if got := allowed(text); got != want {
			t.Errorf("%s: %d retries of 100 requests, want %d", text, got, want)
		}
	}
	const tunnel = `metadata { filter_metadata { key: "weir" value { fields { key: "tunnel" value { struct_value { fields { key: "host" value { string_value: "HOST" } } fields { key: "post" value { bool_value: true } } } } } } } }`
	s, _ := apply(t, newBuilder(), update(t, resource.ClusterType, `name: "c" `+eds+strings.Replace(tunnel, "HOST", "[2001:db8::1]:22", 1)))
	if diff := cmp.Diff(&cluster.Tunnel{Host: "[2001:db8::1]:22", Post: true}, s.ClusterNamed("c").Tunnel); diff != "" {
		t.Errorf("tunnel (-want +got):\n%s", diff)
	}
	const led = `metadata { filter_metadata { key: "weir" value { fields { key: "led" value { string_value: "ADDR" } } } } }`
	s, _ = apply(t, newBuilder(), update(t, resource.ClusterType, `name: "c" `+eds+strings.Replace(led, "ADDR", "[fd00::7]:80", 1)))
	if a := s.ClusterNamed("c").Led.String(); a != "[fd00::7]:80" {
		t.Errorf("the network leads from %s", a)
	}
	for _, text := range []string{strings.Replace(led, "ADDR", "fd00::7", 1), `circuit_breakers { thresholds { retry_budget { budget_percent { value: 101 } } } }`, strings.Replace(tunnel, "HOST", "db", 1), strings.Replace(tunnel, "HOST", "a b:1", 1)} {
		if _, _, err := newBuilder().Apply(update(t, resource.ClusterType, `name: "c" `+eds+text)); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
}
