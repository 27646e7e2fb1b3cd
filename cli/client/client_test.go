package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirmesh/weir/internal/redact"
)

// What is sent for each call, and what becomes of each kind of answer.
func TestCalls(t *testing.T) {
	var got, answer string
	status := http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = strings.TrimSpace(r.Method + " " + r.URL.RequestURI() + " " + r.Header.Get("Authorization") + " " + string(body))
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	defer srv.Close()
	c := New(strings.TrimPrefix(srv.URL, "http://"), redact.New("secret"))
	ctx := t.Context()
	discard := func(_ any, err error) error { return err }

	for _, tc := range []struct {
		call   func() error
		status int
		answer string
		want   string
		err    string
	}{
		{call: func() error { return discard(c.Status(ctx)) }, answer: `{}`, want: "GET /api/v1/status"},
		{call: func() error { return discard(c.Objects(ctx, "", "", "")) }, answer: `[]`, want: "GET /api/v1/objects"},
		{call: func() error { return discard(c.Objects(ctx, "vs", "default", "reviews")) }, answer: `[]`, want: "GET /api/v1/objects/vs/default/reviews"},
		{call: func() error { return discard(c.Objects(ctx, "Namespace", "", "a/b")) }, answer: `[]`, want: "GET /api/v1/objects/Namespace/-/a%2Fb"},
		{call: func() error { return discard(c.Raw(ctx, "vs", "default", "")) }, want: "GET /api/v1/objects/vs/default?raw Bearer secret"},
		{call: func() error { return discard(c.Apply(ctx, []byte("a: 1"), false)) }, answer: `{}`, want: "POST /api/v1/objects Bearer secret a: 1"},
		{call: func() error { return discard(c.Apply(ctx, nil, true)) }, answer: `{}`, want: "POST /api/v1/objects?dry-run=true Bearer secret"},
		{call: func() error { return discard(c.Delete(ctx, "vs", "default", "reviews")) }, answer: `{}`, want: "DELETE /api/v1/objects/vs/default/reviews Bearer secret"},
		{call: func() error { return c.WaitActive(ctx, 7, time.Second) }, want: "GET /api/v1/wait?timeout=1s&version=7"},
		{call: func() error { return c.WaitWorkload(ctx, "default", "a-0", "gone", time.Second) }, want: "GET /api/v1/wait?health=gone&timeout=1s&workload=default%2Fa-0"},

		{call: func() error { return discard(c.Status(ctx)) }, status: 503, answer: `{"error":"not yet","hint":"wait"}`, want: "GET /api/v1/status", err: "not yet"},
		{call: func() error { return discard(c.Status(ctx)) }, status: 502, answer: "<html>", want: "GET /api/v1/status", err: "the control plane answers 502 Bad Gateway: <html>"},
		{call: func() error { return discard(c.Status(ctx)) }, answer: "hello", want: "GET /api/v1/status", err: "does not answer like a control plane"},
		{call: func() error {
			r, err := c.Apply(ctx, nil, false)
			if err == nil && !r.Refused {
				t.Error("the refusal is lost")
			}
			return err
		}, status: 422, answer: `{"refused":true}`, want: "POST /api/v1/objects Bearer secret"},
	} {
		status, answer = max(tc.status, 200), tc.answer
		err := tc.call()
		if got != tc.want {
			t.Errorf("sent %q, want %q", got, tc.want)
		}
		if tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%s, answer %d %q: error %v, want %q", tc.want, status, answer, err, tc.err)
		}
	}
	status, answer = 503, `{"error":"not yet","hint":"wait"}`
	_, err := c.Status(ctx)
	if e := (*Error)(nil); !errors.As(err, &e) || e.Status != 503 || e.Hint != "wait" {
		t.Errorf("error %#v, want status and hint", err)
	}
}

// Who did not say which proxies are connected comes along with the list.
func TestProxies(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Add("Weir-Silent", "the control plane at 10.0.0.1:15012")
		_, _ = io.WriteString(w, `[{"name": "default/reviews-v1-0"}]`)
	}))
	defer srv.Close()
	all, silent, err := New(strings.TrimPrefix(srv.URL, "http://"), redact.String{}).Proxies(t.Context())
	if err != nil || len(all) != 1 || all[0].Name != "default/reviews-v1-0" || len(silent) != 1 {
		t.Errorf("%+v, silent %q, %v", all, silent, err)
	}
}

// A mesh is found by its lock; a lock without a holder is a mesh that was killed.
func TestState(t *testing.T) {
	state := t.TempDir()
	if _, err := Open(state); !errors.Is(err, ErrNoMesh) {
		t.Errorf("empty folder: %v, want ErrNoMesh", err)
	}
	f, err := os.Create(LockFile(state))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	held := func(want bool) {
		t.Helper()
		if got, err := Held(state); err != nil || got != want {
			t.Errorf("held %v, %v; want %v", got, err, want)
		}
	}
	held(false)
	if _, err := ReadLock(state); !errors.Is(err, ErrNoMesh) {
		t.Errorf("empty lock that nobody holds: %v, want ErrNoMesh", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	held(true)
	if _, err := ReadLock(state); err == nil || errors.Is(err, ErrNoMesh) {
		t.Errorf("empty lock that is held: %v, want an error that it is starting", err)
	}
	if _, err := f.WriteString(`{"pid":12,"http":"127.0.0.1:1"}`); err != nil {
		t.Fatal(err)
	}
	if l, err := ReadLock(state); err != nil || l.PID != 12 || l.HTTP != "127.0.0.1:1" {
		t.Errorf("lock %+v, %v", l, err)
	}
	c, err := Open(state)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// Port 1 of loopback has no listener: the cause must stay visible to errors.Is.
	if _, err := c.Status(ctx); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody there: %v, want ECONNREFUSED inside", err)
	}
}
