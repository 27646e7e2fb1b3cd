package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

func TestRequest(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/none" {
			w.WriteHeader(http.StatusNotFound)
		}
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL, body)
	}))
	defer s.Close()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, want, failure string }{
		{"GET /stats?x=1", "GET /stats?x=1 ", ""},
		{"POST logging level=debug", "POST /logging level=debug", ""},
		{"GET /none", "GET /none ", "404"},
		{"GET", "", "METHOD PATH"},
		{"G(T /x", "", "request:"},
	} {
		var out strings.Builder
		err := runRequest(t.Context(), append([]string{"--debug-port", u.Port()}, strings.Fields(c.args)...), &out)
		if (err == nil) != (c.failure == "") || err != nil && !strings.Contains(err.Error(), c.failure) || out.String() != c.want {
			t.Errorf("%s: %q, %v, want %q, %q", c.args, out.String(), err, c.want, c.failure)
		}
	}
}

// It asks until the answer is 200, and says at last why it gave up.
func TestWait(t *testing.T) {
	var asked atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer s.Close()
	if err := runWait(t.Context(), []string{"--url", s.URL, "--periodMillis", "1"}); err != nil || asked.Load() != 3 {
		t.Errorf("%v after %d attempts, want nil after 3", err, asked.Load())
	}
	asked.Store(-1 << 20)
	if err := runWait(t.Context(), []string{"--url", s.URL, "--periodMillis", "10", "--timeoutSeconds", "1"}); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("a proxy that is never ready: %v", err)
	}
	if err := runWait(t.Context(), []string{"--periodMillis", "0"}); err == nil {
		t.Error("a period of 0 was accepted")
	}
}
