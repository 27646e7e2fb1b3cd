package admin

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/weirmesh/weir/internal/memnet"
)

type fake struct {
	err           error
	drained, quit bool
}

func (f *fake) Ready() error { return f.err }
func (f *fake) Stats(_ context.Context, w io.Writer) error {
	_, err := io.WriteString(w, "istio_requests_total 1\n")
	return err
}
func (f *fake) Info() any      { return map[string]string{"version": "x"} }
func (f *fake) Dump() any      { return []string{"dump"} }
func (f *fake) Certs() any     { return nil }
func (f *fake) Clusters() any  { return nil }
func (f *fake) Listeners() any { return nil }
func (f *fake) Drain()         { f.drained = true }
func (f *fake) Quit()          { f.quit = true }

func TestPaths(t *testing.T) {
	f := &fake{err: errors.New("no certificate yet")}
	o := Options{Proxy: f, Level: new(slog.LevelVar), Log: slog.New(slog.DiscardHandler)}
	call := start(t, func(ctx context.Context, l net.Listener) error { return Serve(ctx, l, o) })
	health := start(t, func(ctx context.Context, l net.Listener) error { return ServeHealth(ctx, l, o) })
	for _, c := range []struct {
		call         func(method, path, origin string) (int, string)
		method, path string
		status       int
		body         string
	}{
		{call, "GET", "/healthz/ready", 503, "not ready: no certificate yet"},
		{health, "GET", "/healthz/ready", 503, "not ready: no certificate yet"},
		{health, "GET", "/stats/prometheus", 200, "istio_requests_total 1"},
		{call, "GET", "/server_info", 200, `"version": "x"`},
		{call, "GET", "/config_dump", 200, "dump"},
		{call, "GET", "/", 200, "/quitquitquit"},
		{call, "GET", "/quitquitquit", 405, ""},
		{call, "POST", "/logging?level=debug", 200, "DEBUG"},
		{call, "POST", "/logging?level=loud", 400, "level must be"},
		{call, "POST", "/drain", 200, "draining"},
		{call, "POST", "/quitquitquit", 200, "bye"},
		{health, "GET", "/config_dump", 404, ""},
		{health, "POST", "/quitquitquit", 404, ""},
	} {
		status, body := c.call(c.method, c.path, "")
		if status != c.status || !strings.Contains(body, c.body) {
			t.Errorf("%s %s: %d %q, want %d %q", c.method, c.path, status, body, c.status, c.body)
		}
	}
	if !f.drained || !f.quit {
		t.Error("drain and quit must reach the proxy")
	}
	f.err = nil
	if status, _ := call("GET", "/healthz/ready", ""); status != 200 {
		t.Errorf("ready: %d", status)
	}
	if status, _ := call("POST", "/drain", "http://evil.example"); status != 403 {
		t.Errorf("a web page's request: %d, want 403", status)
	}
}

// start serves over an in-memory network and returns a way to call.
func start(t *testing.T, serve func(context.Context, net.Listener) error) func(method, path, origin string) (int, string) {
	t.Helper()
	network := &memnet.Network{}
	l, err := network.Listen("admin:80")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- serve(ctx, l) }()
	client := &http.Client{Transport: &http.Transport{DialContext: network.DialContext}}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return func(method, path, origin string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(method, "http://admin"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if origin != "" {
			req.Header.Set("Origin", origin)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
}
