//go:build linux

package acceptance_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weirmesh/weir/install/monitoring"
)

// What people load into Grafana and Prometheus shows something: every query of a dashboard returns data from the demo, and
// every metric that a rule is about is there.
func TestDashboardsShowSomething(t *testing.T) {
	rules, err := os.ReadFile("../../install/monitoring/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m := prepare(t, options{args: []string{"--demo", "bookinfo"}})
	m.up()
	m.sees()
	m.apply(`apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings}
spec:
  hosts: [ratings]
  http:
  - fault: {abort: {httpStatus: 503, percentage: {value: 50}}}
    route: [{destination: {host: ratings}}]
`)
	ask := prometheus(t, m)
	wait(t, patience, "something that fails", func() error {
		for range 10 {
			_, _ = m.view("")
		}
		if got, err := ask(`rate(istio_requests_total{reporter="source",response_code="503"}[1m]) > 0`); err != nil || got == "[]" {
			return fmt.Errorf("%s %w", got, err)
		}
		return nil
	})
	queries := monitoring.Queries()
	metrics := regexp.MustCompile(`\b(weir|istio|pilot|citadel|sidecar)_[a-z_]+\b`)
	elsewhere := func(name string) bool {
		return strings.HasPrefix(name, "weir_kubernetes_") || strings.HasPrefix(name, "weir_cni_") || strings.HasPrefix(name, "istio_cni_") || name == "sidecar_injection_failure_total" || // only in a cluster
			name == "weir_identity_horizon_seconds" // only when something is in sight
	}
	maps.DeleteFunc(queries, func(_, q string) bool { return slices.ContainsFunc(metrics.FindAllString(q, -1), elsewhere) })
	for _, name := range metrics.FindAllString(string(rules), -1) {
		if !elsewhere(name) {
			queries["rules.yaml: "+name] = "count(" + name + ")"
		}
	}
	for _, name := range slices.Sorted(maps.Keys(queries)) {
		wait(t, patience, name, func() error {
			_, _ = m.view("")
			if got, err := ask(queries[name]); err != nil || got == "[]" {
				return errors.Join(fmt.Errorf("%s returns %s", queries[name], got), err)
			}
			return nil
		})
	}
	t.Logf("%d queries returned data", len(queries))
}
