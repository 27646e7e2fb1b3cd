//go:build linux

package acceptance_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weirmesh/weir/internal/locked"
)

// tally is what two callers at once got.
type tally struct {
	OK, Refused, Overloaded int
	Other                   []string
}

// two calls a URL over two connections at once until it was both served and refused, and prints a tally.
func two() error {
	var sum tally
	var mu sync.Mutex
	var callers sync.WaitGroup
	end := time.Now().Add(patience / 2)
	for range 2 {
		callers.Go(func() {
			c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}
			for done := false; !done && time.Now().Before(end); {
				r, err := c.Get(os.Args[1]) //nolint:noctx // the client has a timeout
				mu.Lock()
				switch {
				case err != nil:
					sum.Other = append(sum.Other, err.Error())
				case r.StatusCode == http.StatusOK:
					sum.OK++
				case r.StatusCode == http.StatusServiceUnavailable:
					if sum.Refused++; r.Header.Get("x-envoy-overloaded") == "true" {
						sum.Overloaded++
					}
				default:
					sum.Other = append(sum.Other, r.Status)
				}
				done = sum.OK >= 20 && sum.Refused >= 5 || len(sum.Other) > 0
				mu.Unlock()
				if err == nil {
					_, _ = io.Copy(io.Discard, r.Body)
					r.Body.Close()
				}
			}
		})
	}
	callers.Wait()
	return json.NewEncoder(os.Stdout).Encode(&sum)
}

// The circuit breaker of the articles as a user meets it: `weir up`, a service called notifications, the DestinationRule
// as it was published, two callers at once, and the published query, asked of a real Prometheus that scrapes the mesh.
func TestCircuitBreaker(t *testing.T) {
	rule, err := os.ReadFile(fixture(t, "circuit-breaker.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	query, err := os.ReadFile(fixture(t, "circuit-breaker.promql"))
	if err != nil {
		t.Fatal(err)
	}
	m := prepare(t, options{})
	m.write("caller.yaml", programYAML(m, "caller", "stubborn", 9080))
	m.write("notifications.yaml", fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: notifications}
spec: {selector: {app: notifications}, ports: [{name: http, port: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: notifications}
spec:
  selector: {matchLabels: {app: notifications}}
  template:
    metadata: {labels: {app: notifications}}
    spec: {containers: [{name: main, image: example.com/notifications, command: [%q, echo, --port, "8080"], ports: [{containerPort: 8080}]}]}
`, filepath.Join(m.bin, "weir-sample")))
	m.up()
	wait(t, patience, "the caller reaches the service", func() error {
		if got := m.weir("exec", "caller", "--", filepath.Join(m.bin, "weir-sample"), "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://notifications:8080/"); got.out != "200" {
			return errors.New(got.String())
		}
		return nil
	})
	m.apply(string(rule))

	var got tally
	wait(t, patience, "a mix of 200 and 503", func() error { // the rule is in force when `apply` says so; who calls meanwhile is served
		out := m.must("exec", "caller", "--", "env", "ACCEPTANCE_PROGRAM=two", filepath.Join(m.bin, "program"), "http://notifications:8080/?delay=2ms")
		var now tally
		if err := json.Unmarshal([]byte(out), &now); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		got.OK, got.Refused, got.Overloaded, got.Other = got.OK+now.OK, got.Refused+now.Refused, got.Overloaded+now.Overloaded, append(got.Other, now.Other...)
		if now.OK < 20 || now.Refused < 5 {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
	t.Logf("two callers at once: %+v", got)
	if got.Overloaded != got.Refused || len(got.Other) > 0 {
		t.Errorf("of %d that were refused %d say x-envoy-overloaded; others got %q", got.Refused, got.Overloaded, got.Other)
	}
	if lines := m.must("logs", "caller", "--proxy"); !strings.Contains(lines, " 503 UO upstream_reset_before_response_started{overflow} ") { // the end of the log
		t.Errorf("the access log does not say UO:\n%s", lines)
	}

	ask := prometheus(t, m)
	wait(t, patience, "the query returns caller, callee and count", func() error {
		result, err := ask(string(query))
		if err != nil {
			return err
		}
		want := fmt.Sprintf(`[{"metric":{"destination_workload":"notifications","response_code":"503","source_workload":"caller"},"value":"%d"}]`, got.Refused)
		if result != want {
			return fmt.Errorf("it returns %s, want %s", result, want)
		}
		return nil
	})
}

// fixture is the path of a file of ../shared/fixtures; the test is skipped where there is none.
func fixture(t *testing.T, name string) string {
	t.Helper()
	for _, up := range []string{"../../..", "../../../.."} {
		if p := filepath.Join(up, "shared/fixtures", name); exists(p) {
			return p
		}
	}
	t.Skipf("%s is not at ../shared/fixtures", name)
	return ""
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// prometheus runs one that scrapes the mesh every second. What it returns asks a query, and answers with the vector
// without its times.
func prometheus(t *testing.T, m *mesh) func(query string) (string, error) {
	t.Helper()
	binary, err := exec.LookPath("prometheus")
	if err != nil && os.Getenv("WEIR_PROMETHEUS") == "require" {
		t.Fatal(err)
	} else if err != nil {
		t.Skip("prometheus is not installed (Debian: apt-get install prometheus): the query was not asked")
	}
	at := freePort(t)
	config := m.file("prometheus.yaml", fmt.Sprintf("global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs: [{job_name: mesh, static_configs: [{targets: [%q]}]}]\n", m.api))
	cmd := exec.Command(binary, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(m.dir, "tsdb"), "--web.listen-address="+at)
	logs := &locked.Buffer{}
	cmd.Stdout, cmd.Stderr = logs, logs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("what prometheus printed:\n%s", logs.Tail(3000))
		}
	})
	return func(query string) (string, error) {
		r, err := m.client.Get("http://" + at + "/api/v1/query?query=" + url.QueryEscape(query))
		if err != nil {
			return "", err
		}
		defer r.Body.Close()
		var answer struct {
			Error string
			Data  struct {
				Result []struct {
					Metric map[string]string `json:"metric"`
					Value  []any             `json:"value"`
				}
			}
		}
		if err := json.NewDecoder(r.Body).Decode(&answer); err != nil || answer.Error != "" {
			return "", fmt.Errorf("%s %s: %w", r.Status, answer.Error, err)
		}
		type sample struct {
			Metric map[string]string `json:"metric"`
			Value  any               `json:"value"`
		}
		out := []sample{}
		for _, s := range answer.Data.Result {
			out = append(out, sample{s.Metric, s.Value[1]})
		}
		text, err := json.Marshal(out)
		return string(text), err
	}
}
