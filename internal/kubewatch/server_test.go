package kubewatch

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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

// An API server that takes requests and never answers is away from the moment in which the first of them was sent; whatever it answers
// ends that. Neither requests that fail at once say so, of which others are tried, nor those that were given up.
func TestWaitedInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		late := errors.New("late")
		s := New(slog.New(slog.NewTextHandler(&log, nil)))
		var next error // nil: it answers; context.Canceled: never; late: after six seconds
		api := s.Through(roundTrip(func(r *http.Request) (*http.Response, error) {
			if errors.Is(next, context.Canceled) {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			if errors.Is(next, late) {
				time.Sleep(6 * time.Second)
				return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
			}
			return &http.Response{StatusCode: http.StatusServiceUnavailable, Body: http.NoBody}, next
		}))
		call := func(within time.Duration, cause error) {
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			if errors.Is(cause, context.Canceled) {
				ctx, cancel = context.WithCancel(t.Context())
				time.AfterFunc(within, cancel)
			}
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://api/x", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			if resp, err := api.RoundTrip(r); err == nil {
				_ = resp.Body.Close()
			}
		}
		began := time.Now()
		for _, step := range []struct {
			what   string
			next   error
			within time.Duration
			cause  error
			away   time.Duration // since when, from the beginning; -1: it is not
			lines  int
		}{
			{"it answers", nil, time.Second, nil, -1, 0},
			{"a connection breaks", errors.New("reset"), time.Second, nil, -1, 0},
			{"a request is given up", context.Canceled, 10 * time.Second, context.Canceled, -1, 0},
			{"a request waits in vain", context.Canceled, 10 * time.Second, nil, 10 * time.Second, 1},
			{"so does the next", context.Canceled, 10 * time.Second, nil, 10 * time.Second, 1},
			{"a connection cannot be made", errors.New("refused"), time.Second, nil, 10 * time.Second, 1},
			{"a request that was sent before has its answer", late, time.Minute, nil, -1, 2},
			{"it answers, be it an error", nil, time.Second, nil, -1, 2},
		} {
			next = step.next
			call(step.within, step.cause)
			away := time.Duration(-1)
			if at := s.Away(); !at.IsZero() {
				away = at.Sub(began)
			}
			if n := strings.Count(log.String(), "\n"); away != step.away || n != step.lines {
				t.Errorf("%s: away since %v, want %v; the log, want %d lines:\n%s", step.what, away, step.away, step.lines, &log)
			}
		}
		if got := s.Trouble(); got != "" {
			t.Errorf("afterwards people are told: %s", got)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
