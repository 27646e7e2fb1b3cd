package client

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirmesh/weir/sample/health"
)

// Calls of every kind are made, counted, and what fails is told with its reason.
func TestRun(t *testing.T) {
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		health.Handler("pod-1").ServeHTTP(w, r)
	}))
	web.Config.Protocols = new(http.Protocols)
	web.Config.Protocols.SetHTTP1(true)
	web.Config.Protocols.SetUnencryptedHTTP2(true)
	web.Start()
	defer web.Close()
	db, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	go func() {
		for {
			c, err := db.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("5.7.0 ready\n"))
			c.Close()
		}
	}()
	at := web.Listener.Addr().String()
	for _, test := range []struct {
		name string
		o    Options
		want Summary
		told string
	}{
		{"http", Options{URLs: []string{"http://" + at + "/good"}, Count: 3, Idle: 2}, Summary{Calls: 5}, ""},
		{"a status that is a failure", Options{URLs: []string{"http://" + at + "/", "http://" + at + "/bad"}, Count: 4, Rate: 1000}, Summary{Calls: 4, Failed: 2}, "status 503"},
		{"grpc", Options{URLs: []string{"grpc://" + at}, Count: 2}, Summary{Calls: 2, First: "pod-1"}, ""},
		{"the server speaks first", Options{URLs: []string{"tcp://" + db.Addr().String()}, Count: 1}, Summary{Calls: 1, First: "5.7.0 ready"}, ""},
		{"nobody there", Options{URLs: []string{"tcp://127.0.0.1:1"}, Count: 1}, Summary{Calls: 1, Failed: 1}, "refused"},
	} {
		var out bytes.Buffer
		test.o.Out, test.o.Timeout = &out, 10*time.Second
		got, err := Run(t.Context(), test.o)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		var last Summary
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last != got {
			t.Errorf("%s: the last line is %q, %v", test.name, lines[len(lines)-1], err)
		}
		if got.P50, got.P99, got.Max = 0, 0, 0; got != test.want || !strings.Contains(out.String(), test.told) {
			t.Errorf("%s: %+v, want %+v; %s", test.name, got, test.want, out.String())
		}
	}
}

// At the end, after all calls and whatever became of them, somebody may be told.
func TestQuit(t *testing.T) {
	var seen []string
	sidecar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Method+" "+r.URL.Path)
		if r.URL.Path == "/other" {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer sidecar.Close()
	for _, test := range []struct{ quit, want string }{{"/quitquitquit", ""}, {"/other", "status 404"}} {
		seen = nil
		o := Options{URLs: []string{sidecar.URL + "/work"}, Count: 2, Timeout: 10 * time.Second, Quit: sidecar.URL + test.quit, Out: io.Discard}
		if _, err := Run(t.Context(), o); (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.quit, err, test.want)
		}
		if diff := cmp.Diff([]string{"GET /work", "GET /work", "POST " + test.quit}, seen); diff != "" {
			t.Error(diff)
		}
	}
}

// It goes on calling for a time after it was told to end.
func TestLinger(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer web.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	s, err := Run(ctx, Options{URLs: []string{web.URL}, Rate: 1000, Linger: 100 * time.Millisecond, Timeout: 10 * time.Second, Out: &out})
	if err != nil || s.Calls == 0 || s.Failed > 0 {
		t.Errorf("%+v, %v", s, err)
	}
}
