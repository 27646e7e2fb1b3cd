package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/internal/redact"
)

// levelled answers as a proxy that was started with info.
func levelled(stream observing) {
	for level := "info"; ; {
		m, err := stream.Recv()
		if err != nil {
			return
		}
		q := m.GetLogLevel()
		if q.GetLevel() != "" {
			level = q.GetLevel()
		}
		_ = stream.Send(&observev1.ProxyMessage{Message: &observev1.ProxyMessage_LogLevel{LogLevel: &observev1.LogLevel{Request: q.GetRequest(), Level: level, Usual: "info", UntilUnixNano: q.GetForNano()}}})
	}
}

// All pods of a Deployment are told, at whichever control plane they are; nobody else is, and a question that makes no sense is refused
// with what would.
func TestLogLevel(t *testing.T) {
	folder, first, second := t.TempDir(), t.TempDir(), t.TempDir()
	token := func(o *Options) { o.Token = redact.New("sesame") }
	a := startReplica(t, first, folder, 0, token)
	copyAuthority(t, first, second)
	b := startReplica(t, second, folder, 0, token, func(o *Options) { o.Replicas = []string{a.grpc} })
	a.edges.asking.patience, b.edges.asking.patience = time.Hour, time.Hour // whatever else the machine does
	for i, at := range []*replica{a, b, b} {
		account := []string{"reviews", "reviews", "page"}[i]
		stream, _ := at.connect(t, account, fmt.Sprintf("sidecar~10.0.0.%d~%s-%d.default~default.svc.cluster.local", i, account, i))
		go levelled(stream)
	}
	for r, want := range map[*replica]int{a: 1, b: 2} {
		eventually(t, "the proxies have introduced themselves", func() error {
			r.edges.asking.mu.Lock()
			defer r.edges.asking.mu.Unlock()
			if n := len(r.edges.asking.proxies); n != want {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
	}
	ask := func(method, query string) (int, []byte) {
		r := httptest.NewRequestWithContext(t.Context(), method, "http://127.0.0.1/api/v1/log-level?"+query, nil)
		r.Header.Set("Authorization", "Bearer sesame")
		w := httptest.NewRecorder()
		b.guard(b.mux()).ServeHTTP(w, r)
		return w.Code, bytes.TrimSpace(w.Body.Bytes())
	}
	level := func(proxy, level string, until int64) apiv1.LogLevel {
		x := apiv1.LogLevel{Proxy: "default/" + proxy, Level: level, Usual: "info"}
		if until > 0 {
			x.Until = new(time.Unix(0, until))
		}
		return x
	}
	for _, tc := range []struct {
		method, query string
		want          []apiv1.LogLevel
	}{
		{"GET", "workload=default/reviews-v1", []apiv1.LogLevel{level("reviews-0", "info", 0), level("reviews-1", "info", 0)}},
		{"POST", "workload=default/reviews-v1&level=debug&for=1s", []apiv1.LogLevel{level("reviews-0", "debug", 1e9), level("reviews-1", "debug", 1e9)}},
		{"POST", "workload=default/reviews-0&level=error", []apiv1.LogLevel{level("reviews-0", "error", 0)}},
		{"GET", "workload=default/page-v1", []apiv1.LogLevel{level("page-2", "info", 0)}},
	} {
		code, body := ask(tc.method, tc.query)
		var got apiv1.LogLevels
		if err := json.Unmarshal(body, &got); err != nil || code != http.StatusOK || len(got.Silent) > 0 {
			t.Fatalf("%s %s: %d %s", tc.method, tc.query, code, body)
		}
		for i := range got.Proxies {
			if u := got.Proxies[i].Until; u != nil {
				got.Proxies[i].Until = new(time.Unix(0, u.UnixNano()))
			}
		}
		if !reflect.DeepEqual(got.Proxies, tc.want) {
			t.Errorf("%s %s: %s", tc.method, tc.query, body)
		}
	}
	for _, tc := range []struct {
		method, query string
		code          int
		want          string
	}{
		{"GET", "workload=default/ratings-v1", 404, "no proxy of"},
		{"GET", "workload=reviews", 400, "is not NAMESPACE/NAME"},
		{"GET", "workload=default/page-v1&level=debug", 400, "by POST"},
		{"POST", "workload=default/page-v1", 400, "which level?"},
		{"POST", "workload=default/page-v1&level=loud", 400, "one of: debug, info"},
		{"POST", "workload=default/page-v1&level=debug&reset", 400, "not both"},
		{"POST", "workload=default/page-v1&level=debug&for=25h", 400, "up to 24h"},
		{"POST", "workload=default/page-v1&reset&for=1h", 400, "up to 24h"},
	} {
		if code, body := ask(tc.method, tc.query); code != tc.code || !strings.Contains(string(body), tc.want) {
			t.Errorf("%s %s: %d %s, want %d %q", tc.method, tc.query, code, body, tc.code, tc.want)
		}
	}
	r := httptest.NewRequestWithContext(t.Context(), "POST", "http://127.0.0.1/api/v1/log-level?workload=default/page-v1&level=debug", nil)
	w := httptest.NewRecorder()
	if b.guard(b.mux()).ServeHTTP(w, r); w.Code != http.StatusUnauthorized {
		t.Errorf("without the token: %d", w.Code)
	}
}
