package healthz_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/weirmesh/weir/internal/healthz"
)

// Who is not ready is quoted, in a line; 200 alone is ready.
func TestGet(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/ready", http.StatusFound)
		case "/waiting":
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, "waiting for a certificate\nand more")
		case "/long":
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, strings.Repeat("x", 1<<20))
		case "/silent":
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer s.Close()
	transport := &http.Transport{DisableKeepAlives: true}
	for path, want := range map[string]string{"/ready": "", "/waiting": "waiting for a certificate", "/silent": "503 Service Unavailable", "/long": strings.Repeat("x", 512), "/moved": `<a href="/ready">Found</a>.`} {
		got := ""
		if err := healthz.Get(t.Context(), transport, s.URL+path); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	s.Close()
	if err := healthz.Get(t.Context(), transport, s.URL); err == nil {
		t.Error("nobody listens, and is ready")
	}
}
