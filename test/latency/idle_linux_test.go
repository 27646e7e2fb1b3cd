package latency_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestIdle shows what a proxy costs that has the configuration of 1,000 services, a cluster with two endpoints, a virtual host and a
// circuit breaker each, and nothing to do; and what one with a single service does.
func TestIdle(t *testing.T) {
	program := build(t)
	for _, services := range []int{1, 1000} {
		t.Run(fmt.Sprint(services), func(t *testing.T) {
			file, port := filepath.Join(t.TempDir(), "idle.yaml"), freePort(t)
			if err := os.WriteFile(file, []byte(idle(services, port)), 0o600); err != nil {
				t.Fatal(err)
			}
			p := run(t, program, "run", "-c", file, "--workers", "1")
			eventually(t, "the proxy listens", func() error {
				c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
				if err != nil {
					return fmt.Errorf("%w; %w", err, p.ended())
				}
				return c.Close()
			})
			settle, span := 20*time.Second, 20*time.Second // memory that the beginning took goes back meanwhile
			if !measured() {
				settle, span = 0, 50*time.Millisecond
			}
			<-time.After(settle)
			spent := p.exactly(t)
			<-time.After(span)
			share := float64(p.exactly(t)-spent) / float64(span)
			if err := p.ended(); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d services, idle: %.3f %% of a core (bar: 0.1 %%), RssAnon %s, RSS %s", services, share*100, p.status(t, "RssAnon"), p.status(t, "VmRSS"))
			if measured() && share > 0.001 {
				t.Errorf("an idle proxy takes %.3f %% of a core, the bar is 0.1 %%", share*100)
			}
		})
	}
}

// idle is a bootstrap for that many services.
func idle(services, port int) string {
	var clusters, hosts strings.Builder
	for i := range services {
		fmt.Fprintf(&hosts, "            - {name: s%[1]d, domains: [\"s%[1]d.default.svc.cluster.local\", s%[1]d.default, s%[1]d], routes: [{match: {prefix: /}, route: {cluster: s%[1]d}}]}\n", i)
		fmt.Fprintf(&clusters, `  - name: s%[1]d
    type: STATIC
    circuit_breakers: {thresholds: [{max_connections: 100}]}
    outlier_detection: {consecutive_5xx: 5}
    load_assignment: {cluster_name: s%[1]d, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 10.%[2]d.%[3]d.1, port_value: 8080}}}}, {endpoint: {address: {socket_address: {address: 10.%[2]d.%[3]d.2, port_value: 8080}}}}]}]}
`, i, i>>8, i&255)
	}
	return fmt.Sprintf(`
static_resources:
  listeners:
  - name: web
    address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
          route_config:
            virtual_hosts:
%s  clusters:
%s`, port, hosts.String(), clusters.String())
}

// exactly is the processor time the process has had, in nanoseconds: clock_getcpuclockid(3), which the kernel lets anybody read.
func (p *process) exactly(t *testing.T) time.Duration {
	t.Helper()
	const scheduled = 2
	var at unix.Timespec
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|scheduled), &at); err != nil {
		t.Fatal(err)
	}
	return time.Duration(at.Nano())
}

// status is a line of /proc/PID/status.
func (p *process) status(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
