package kubewatch

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Whatever the number of kinds and tries, an outage is one line, its end another; a kind
// that may not be watched is one line; and what is missing can be said at any time.
func TestTold(t *testing.T) {
	var log bytes.Buffer
	s := New(slog.New(slog.NewTextHandler(&log, nil)))
	ctx := t.Context()
	s.note("Pod", true, 0)
	s.note("Service", true, 0)
	down := errors.New("connection refused")
	for range 3 {
		s.told(ctx, "Pod", false, down)
		s.told(ctx, "Service", false, down)
	}
	if !strings.HasPrefix(s.Trouble(), "it does not answer since ") {
		t.Errorf("trouble: %q", s.Trouble())
	}
	if s.Away().IsZero() || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("away %v\n%s", s.Away(), &log)
	}
	if got, want := s.Awaits(), ": waiting for Pod (connection refused), Service (connection refused)"; got != want {
		t.Errorf("%q", got)
	}
	s.told(ctx, "Pod", false, nil)
	s.note("Pod", false, 5)
	if s.Trouble() != "" {
		t.Errorf("trouble when it is over: %q", s.Trouble())
	}
	if !s.Away().IsZero() || strings.Count(log.String(), "\n") != 2 {
		t.Errorf("away %v\n%s", s.Away(), &log)
	}
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "services"}, "", errors.New("no"))
	for range 3 {
		if !s.told(ctx, "Service", false, forbidden) {
			t.Error("a refusal is no refusal")
		}
	}
	if strings.Count(log.String(), "\n") != 3 || !s.Away().IsZero() {
		t.Errorf("\n%s", &log)
	}
	// Expired watches are everyday life, and so are requests that were given up.
	s.told(ctx, "Pod", false, apierrors.NewResourceExpired("too old"))
	over, cancel := context.WithCancel(ctx)
	cancel()
	s.told(over, "Pod", false, down)
	if strings.Count(log.String(), "\n") != 3 || !s.Away().IsZero() {
		t.Errorf("\n%s", &log)
	}
	s.note("Service", false, 0)
	if got := s.Awaits(); got != "" {
		t.Errorf("%q", got)
	}
	var m bytes.Buffer
	s.Metrics(&m)
	for _, want := range []string{"weir_kubernetes_up 1\n", "weir_kubernetes_outages_total 1\n", "weir_kubernetes_objects{kind=\"Pod\"} 5\n"} {
		if !strings.Contains(m.String(), want) {
			t.Errorf("no %s in\n%s", want, &m)
		}
	}
}
