package server

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"context"
)

// started runs HTTP on two free ports and returns their base URLs, what stops it
// and what it returned.
func started(t *testing.T, h http.Handler, drain time.Duration) (urls []string, stop func(), ended <-chan error) {
	t.Helper()
	lns, err := Listen(t.Context(), "127.0.0.1", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- HTTP(ctx, lns, h, drain, slog.New(slog.DiscardHandler)) }()
	for _, ln := range lns {
		urls = append(urls, "http://"+ln.Addr().String())
	}
	return urls, cancel, done
}

func get(t *testing.T, client *http.Client, url string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("reading: %v", err)
	}
	return res, string(body)
}

func newClient(t *testing.T) *http.Client {
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// A request in flight when the server is told to stop gets its answer.
func TestRequestInFlightFinishes(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	urls, stop, ended := started(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		io.WriteString(w, "done")
	}), 0)
	type answer struct {
		res  *http.Response
		body string
	}
	answers := make(chan answer, 1)
	client := newClient(t)
	go func() {
		res, body := get(t, client, urls[1])
		answers <- answer{res, body}
	}()
	<-entered
	stop()
	for { // the listeners close without waiting for the request
		c, err := net.Dial("tcp", strings.TrimPrefix(urls[0], "http://"))
		if err != nil {
			break
		}
		c.Close()
	}
	close(release)
	if a := <-answers; a.body != "done" {
		t.Errorf("answer %q", a.body)
	}
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

// During the drain new connections are served and told to close; keep-alive is
// the rule before.
func TestDrainServesAndCloses(t *testing.T) {
	urls, stop, _ := started(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "hello")
	}), time.Hour)
	client := newClient(t)
	for _, url := range urls {
		if res, body := get(t, client, url); body != "hello" || res.Close {
			t.Errorf("before: %q, close %v", body, res.Close)
		}
	}
	stop()
	for range 2 {
		if res, body := get(t, newClient(t), urls[0]); body != "hello" || !res.Close {
			t.Errorf("during the drain: %q, close %v", body, res.Close)
		}
	}
}

// A port that is taken ends the start, and no other port stays open.
func TestListenIsAllOrNothing(t *testing.T) {
	lns, err := Listen(t.Context(), "127.0.0.1", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lns[0].Close()
	taken := lns[0].Addr().(*net.TCPAddr).Port
	if more, err := Listen(t.Context(), "127.0.0.1", 0, taken); err == nil || more != nil {
		t.Fatalf("listening twice on port %d: %v", taken, err)
	}
}

func TestFailedListenerIsAnError(t *testing.T) {
	lns, err := Listen(t.Context(), "127.0.0.1", 0)
	if err != nil {
		t.Fatal(err)
	}
	lns[0].Close()
	if err := HTTP(t.Context(), lns, http.NotFoundHandler(), 0, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("serving a closed listener ended well")
	}
}
