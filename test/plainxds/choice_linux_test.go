package plainxds

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
)

// Endpoints are secured by their metadata, called as health checks and priorities say, and requests pass the filters that are switched on:
// one of a kind that is not known here is left out if it is optional, and refused if it is not.
func TestChoice(t *testing.T) {
	both(t, func(t *testing.T, p *plane) {
		p.secured(p.ca)
		p.vars["ROOTS"], p.vars["OPTIONAL"], p.vars["NEAR"] = escaped(p.ca.PEM()), "true", "HEALTHY"
		var well atomic.Bool
		ailing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/healthz" && (r.Host != "checked.example" || !well.Load()) {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			fmt.Fprintf(w, "ailing %s", r.URL.Path)
		}))
		t.Cleanup(ailing.Close)
		_, p.vars["SICK"], _ = net.SplitHostPort(ailing.Listener.Addr().String())
		p.publish(nil, "choice.yaml")
		p.run()

		// seen waits until all answers came, and no other since the first of them.
		seen := func(path string, want ...string) {
			t.Helper()
			got := map[string]bool{}
			p.until(path, func() error {
				answer, err := p.get("http://" + p.ip + path)
				if err != nil {
					return err
				}
				got[strings.TrimSpace(answer)] = true
				for _, w := range want {
					if !got[w] {
						return fmt.Errorf("%q is not among %v", w, got)
					}
				}
				return nil
			})
			if len(got) > len(want) {
				t.Errorf("%s: %v, want %v only", path, got, want)
			}
		}
		seen(":10500/matched", "200 a /matched", "200 first.a.example")

		// Who does not pass is left alone, and comes back.
		p.until("the ailing one is left alone", func() error { return p.only(":10500/checked", "200 b /checked") })
		well.Store(true)
		p.until("it is well", func() error {
			if err := p.only(":10500/checked", "200 b /checked"); err == nil {
				return fmt.Errorf("it is still left alone")
			}
			return nil
		})

		p.answers(map[string]string{":10500/near": "200 b /near"})
		p.vars["NEAR"] = "UNHEALTHY"
		p.publish(nil, "choice.yaml")
		p.until("the next priority", func() error { return p.only(":10500/near", "200 c /near") })
		p.vars["NEAR"] = "HEALTHY"
		p.publish(nil, "choice.yaml")
		p.until("the first priority again", func() error { return p.only(":10500/near", "200 b /near") })

		p.answers(map[string]string{
			":10500/guarded":             "200 guarded",
			":10500/guarded x-bad=yes":   "403 RBAC: access denied",
			":10500/unguarded x-bad=yes": "200 unguarded",
			":10500/awake":               "403 RBAC: access denied",
		})
		if n := p.nacked(); len(n) > 0 {
			t.Errorf("refused: %v", n)
		}

		// The same filter, not optional: what is in force stays so.
		p.vars["OPTIONAL"] = "false"
		p.publish(nil, "choice.yaml")
		p.until("the filter is refused", func() error {
			if n := p.nacked(); len(n) == 0 || !strings.Contains(n[0], "http_filters[0]") || !strings.Contains(n[0], "lua") {
				return fmt.Errorf("%v", n)
			}
			return nil
		})
		p.answers(map[string]string{":10500/guarded": "200 guarded"})
	})
}

// only asks a few times, and expects the same answer each time.
func (p *plane) only(path, want string) error {
	for range 10 {
		if got, err := p.get("http://" + p.ip + path); err != nil || strings.TrimSpace(got) != want {
			return fmt.Errorf("%q, %w; want %q", got, err, want)
		}
	}
	return nil
}
