package control

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/internal/redact"
)

// guard lets requests through that no web page could have made (Host and Origin), and
// writes only with the token of the state folder. Other users of the machine may read
// what is no secret.
//
// In a cluster the port is open to every pod: they get health and metrics. All else is for
// who comes by a port-forward, that is over loopback, which the API server grants (pods/
// portforward in the namespace of the installation); objects are changed in the API server.
func (p *Plane) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if p.o.Cluster != nil {
			switch open := slices.Contains(openPaths, r.URL.Path); {
			case open && (r.Method == http.MethodGet || r.Method == http.MethodHead):
				next.ServeHTTP(w, r)
				return
			case !fromHere(r):
				fail(w, http.StatusForbidden, "only "+strings.Join(openPaths, ", ")+" are answered to other machines", "use weir, or kubectl port-forward to a pod of weir-control")
				return
			case r.URL.Path == "/api/v1/objects" && r.Method == http.MethodPost || r.Method == http.MethodDelete:
				fail(w, http.StatusForbidden, "objects are those of Kubernetes", "use kubectl apply and kubectl delete")
				return
			}
		}
		if !ownHost(r) {
			fail(w, http.StatusForbidden, "Host "+quote(r.Host)+" is not this control plane", "call it by 127.0.0.1 or localhost")
			return
		}
		if o := r.Header.Get("Origin"); o != "" && o != "http://"+r.Host {
			fail(w, http.StatusForbidden, "a web page of "+quote(o)+" may not call the control plane", "")
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			if !p.holdsToken(w, r, "changes need") {
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// holdsToken refuses a request without the token of the state folder; what says what
// needs it.
func (p *Plane) holdsToken(w http.ResponseWriter, r *http.Request, what string) bool {
	if p.o.Cluster != nil {
		return true // see guard
	}
	given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case !ok:
		fail(w, http.StatusUnauthorized, what+" the token of the state folder", "send Authorization: Bearer with the content of STATE/token; weir does so by itself")
		return false
	case p.o.Token.Reveal() == "" || !p.o.Token.Equal(redact.New(given)):
		fail(w, http.StatusForbidden, "the token is not the one in the state folder", "is another mesh running? compare --state")
		return false
	}
	return true
}

// openPaths are what a kubelet and Prometheus ask for.
var openPaths = []string{"/healthz/live", "/healthz/ready", "/live", "/ready", "/metrics", "/version"}

// fromHere reports whether the connection came over loopback.
func fromHere(r *http.Request) bool {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && from.Addr().Unmap().IsLoopback()
}

// ownHost reports whether the Host header names this machine: a loopback name or the
// very address the connection came in on. A name that DNS could point here (rebinding)
// is refused.
func ownHost(r *http.Request) bool {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	if ip.IsLoopback() {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	ap, err := netip.ParseAddrPort(local.String())
	return err == nil && ap.Addr().Unmap() == ip.Unmap()
}

func quote(s string) string {
	const longest = 100 // the caller chose it
	if len(s) > longest {
		s = s[:longest] + "…"
	}
	b, _ := json.Marshal(s)
	return string(b)
}

func fail(w http.ResponseWriter, status int, message, hint string) {
	answer(w, status, apiv1.Error{Error: message, Hint: hint})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v) // an error here is the client's going away
}
