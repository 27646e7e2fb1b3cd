// Package status is what a proxy in a pod answers on port 15020: whether it is ready,
// its metrics together with the application's, the application's probes that injection
// led here, and the calls by which a pod's other containers end it.
//
// Requests of the kubelet, of Prometheus and of the pod's own containers enter; what
// leaves are answers, and requests to the application. Handler makes one immutable
// http.Handler of Options, safe for concurrent use; whoever assembles a proxy serves it.
// Anybody who reaches the pod reaches this port, so everything is bounded, and what ends
// or drains the proxy is answered to loopback addresses only.
package status

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"
)

// Options say what is shown. Ready, Stats, Drain, Quit and Log are required.
type Options struct {
	// Ready is nil when the proxy is, otherwise a sentence with what is missing.
	Ready func() error
	// Stats writes the proxy's own metrics in the Prometheus text format.
	Stats func(ctx context.Context, w io.Writer) error
	// Drain asks clients to go elsewhere; Quit ends the proxy.
	Drain, Quit func()
	// Probes are the application's, by path.
	Probes map[string]Probe
	// Scrape is where the application's own metrics are; nil: it has none.
	Scrape *Scrape
	// PodIP is where the application is asked, as the kubelet would.
	PodIP netip.Addr
	// Dial connects to the application; nil: from this network namespace, past capture.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	Log  *slog.Logger
}

// atOnce is how many probes, and how many scrapes, are under way side by side. The kubelet
// has three probes a container, Prometheus usually one or two scrapers; more is somebody else.
const atOnce = 16

// Handler is what port 15020 answers.
func Handler(o Options) http.Handler {
	if o.Dial == nil {
		o.Dial = dialApplication
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz/ready", func(w http.ResponseWriter, _ *http.Request) {
		if err := o.Ready(); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		say(w, "ready")
	})
	mux.Handle("GET /stats/prometheus", limited(newMerger(&o)))
	probes := limited(newProber(&o))
	mux.Handle("/app-health/", probes)
	mux.Handle("/app-lifecycle/", probes)
	mux.HandleFunc("POST /drain", ownPod(func(w http.ResponseWriter) { o.Drain(); say(w, "draining") }))
	mux.HandleFunc("POST /quitquitquit", ownPod(func(w http.ResponseWriter) { say(w, "bye"); o.Quit() }))
	return mux
}

// ownPod lets the containers of this pod alone call f: they come from a loopback address.
func ownPod(f func(http.ResponseWriter)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil || !from.Addr().Unmap().IsLoopback() {
			http.Error(w, "only the containers of this pod may ask for this: call 127.0.0.1 from one of them", http.StatusForbidden)
			return
		}
		f(w)
	}
}

func limited(h http.Handler) http.Handler {
	var n atomic.Int32
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer n.Add(-1)
		if n.Add(1) > atOnce {
			http.Error(w, "too many requests at once", http.StatusTooManyRequests)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// Sources of connections to the application that no rule of capture sends back to the
// proxy. They are Istio's.
var passthrough4, passthrough6 = net.IPv4(127, 0, 0, 6), net.ParseIP("::6")

// dialApplication connects as the proxy's inbound side does: to the pod's address from an
// address that capture lets through. A connection to the pod's address from anywhere else
// in the pod would come back to the proxy.
func dialApplication(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{}
	if a, err := netip.ParseAddrPort(address); err == nil && !a.Addr().IsLoopback() {
		if a.Addr().Unmap().Is4() {
			d.LocalAddr = &net.TCPAddr{IP: passthrough4}
		} else {
			d.LocalAddr = &net.TCPAddr{IP: passthrough6}
		}
	}
	return d.DialContext(ctx, network, address)
}

func say(w http.ResponseWriter, s string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, s+"\n")
}

// newTransport reaches the application with a connection a request: one kept would hide
// that nobody accepts any more.
func newTransport(o *Options) *http.Transport {
	return &http.Transport{DialContext: o.Dial, DisableKeepAlives: true, DisableCompression: true, Proxy: nil,
		MaxResponseHeaderBytes: 64 << 10, TLSHandshakeTimeout: 10 * time.Second}
}
