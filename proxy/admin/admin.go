// Package admin is the proxy's window for operators: readiness, metrics, what
// configuration is live, drain and shutdown, over HTTP.
//
// HTTP requests enter on listeners the caller opened (a Unix socket, 127.0.0.1:15000,
// the health port 15021); what the proxy says about itself through Proxy leaves. It
// runs on goroutines, apart from the workers, so that a busy or stuck data path can
// still be looked at. Only read-only paths are served on health listeners.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	"github.com/weirmesh/weir/xds/dump"
)

// Proxy is what the admin interface shows and does. Implementations are safe for
// concurrent use.
type Proxy interface {
	// Ready is nil when the certificate is held, configuration is live and it does not drain;
	// otherwise it says what is missing.
	Ready() error
	// Life is the same in Envoy's words.
	Life() Life
	// Stats writes metrics in the Prometheus text format.
	Stats(ctx context.Context, w io.Writer) error
	// Info answers /server_info, State /state and Identity /identity, as values for JSON:
	// what the proxy has made of what it was sent.
	Info() any
	State() any
	Identity() any
	// Dump is what it was sent and has accepted; an error says why it does not know.
	Dump() (*dump.Dump, error)
	// OnDemand is what it holds of its configuration on demand, and what it waits for.
	OnDemand() *dump.OnDemand
	// Unknown are hosts that were asked for and that nobody knows, with the nearest that are known.
	Unknown() []dump.UnknownHost
	// Records are what became of requests.
	Records(*observev1.RecordsRequest) *observev1.Records
	// Certs, Clusters and Listeners are in order of name.
	Certs() []Certificates
	Clusters() []Cluster
	// ServerStats are the counters and gauges that are of no cluster, by their whole names.
	ServerStats() []Stat
	Listeners() []Listener
	// Drain stops accepting, for good, and asks clients on kept connections to go; Quit ends
	// the proxy.
	Drain()
	DrainInbound()
	Quit()
}

// Options are a Server's collaborators.
type Options struct {
	Proxy Proxy
	Level *Level // of the log
	Log   *slog.Logger
}

// Serve answers on l until ctx ends, with everything there is. The socket must be
// reachable by the operator only (a Unix socket of the owner, or loopback).
func Serve(ctx context.Context, l net.Listener, o Options) error {
	mux := http.NewServeMux()
	health(mux, o.Proxy)
	mux.HandleFunc("GET /{$}", index)
	for path, value := range map[string]func() any{
		"/server_info": o.Proxy.Info, "/state": o.Proxy.State, "/identity": o.Proxy.Identity,
		"/ondemand": func() any { return o.Proxy.OnDemand() }, "/unknown_hosts": func() any { return o.Proxy.Unknown() },
	} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, value()) })
	}
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) { // Envoy's, and words of its own
		if err := o.Proxy.Ready(); err != nil {
			http.Error(w, o.Proxy.Life().String()+": "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		say(w, Live.String())
	})
	mux.HandleFunc("/", unknown)
	mux.HandleFunc("GET /why", handleWhy(o.Proxy))
	mux.HandleFunc("GET /config_dump", handleDump(o.Proxy))
	mux.HandleFunc("GET /clusters", handleClusters(o.Proxy))
	mux.HandleFunc("GET /stats", handleStats(o.Proxy))
	mux.HandleFunc("GET /listeners", handleListeners(o.Proxy))
	mux.HandleFunc("GET /certs", handleCerts(o.Proxy))
	mux.HandleFunc("POST /drain_listeners", func(w http.ResponseWriter, r *http.Request) { // Envoy's; graceful is what it always is
		if r.URL.Query().Has("inboundonly") {
			o.Proxy.DrainInbound()
		} else {
			o.Proxy.Drain()
		}
		say(w, "OK")
	})
	mux.HandleFunc("POST /drain", func(w http.ResponseWriter, _ *http.Request) { o.Proxy.Drain(); say(w, "draining") })
	mux.HandleFunc("POST /quitquitquit", func(w http.ResponseWriter, _ *http.Request) { say(w, "bye"); o.Proxy.Quit() })
	mux.HandleFunc("GET /logging", func(w http.ResponseWriter, _ *http.Request) { say(w, o.Level.said()) })
	mux.HandleFunc("POST /logging", handleLogging(o.Level))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return serve(ctx, l, mux, o.Log)
}

// ServeHealth answers on l with readiness and metrics only: for ports that others reach
// (15021, 15020, 15090).
func ServeHealth(ctx context.Context, l net.Listener, o Options) error {
	mux := http.NewServeMux()
	health(mux, o.Proxy)
	return serve(ctx, l, mux, o.Log)
}

// ServeHandler answers on l with h, within the limits that the others have.
func ServeHandler(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	return serve(ctx, l, h, log)
}

func health(mux *http.ServeMux, p Proxy) {
	mux.HandleFunc("GET /healthz/ready", func(w http.ResponseWriter, _ *http.Request) {
		if err := p.Ready(); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		say(w, "ready")
	})
	mux.HandleFunc("GET /stats/prometheus", handlePrometheus(p))
}

const (
	headerTimeout = 5 * time.Second
	idleTimeout   = 60 * time.Second
	closeTimeout  = time.Second
)

func serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{Handler: localOnly(h), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	stopped := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		defer close(stopped)
		short, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if srv.Shutdown(short) != nil {
			_ = srv.Close()
		}
	})()
	err := srv.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		<-stopped
		return nil
	}
	return fmt.Errorf("serving admin on %s: %w", l.Addr(), err)
}

// localOnly refuses requests a web page sent from a browser on the same machine: they
// carry an Origin.
func localOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") != "" {
			http.Error(w, "requests from web pages are refused", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// unknown says what to ask for instead.
func unknown(w http.ResponseWriter, r *http.Request) {
	message := "this proxy is not Envoy and has no " + r.Method + " " + r.URL.Path + "; GET / lists what there is"
	switch r.URL.Path {
	case "/quitquitquit", "/drain", "/drain_listeners":
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "say POST "+r.URL.Path, http.StatusMethodNotAllowed)
		return
	case "/healthcheck/fail":
		message += ": POST /drain does that"
	}
	http.Error(w, message, http.StatusNotFound)
}

func index(w http.ResponseWriter, _ *http.Request) {
	say(w, `GET  /healthz/ready       200 when certificate and configuration are there
GET  /ready               the same, as Envoy says it
GET  /stats/prometheus    metrics; ?filter=REGEX, ?usedonly, ?type=Counters
GET  /stats               counters and gauges of the proxy, clusters and routes, as Envoy says it; the same, and ?format=json, ?format=prometheus
GET  /server_info         version, state, uptime, node, as Envoy says it; workers, generation, what the control plane sent
GET  /state               live listeners, routes, clusters, endpoints
GET  /identity            certificate, validity, next renewal
GET  /ondemand            configuration on demand: what is held, since when, what is waited for
GET  /unknown_hosts       hosts that were asked for and that no route table has, and the nearest that there are
GET  /why                 what became of requests: the last that failed, or ?id=ID (x-request-id, or of a trace), ?last=N
GET  /config_dump         configuration as it came, in Envoy's form; ?include_eds, ?resource=, ?name_regex=
GET  /clusters            clusters with endpoints, as Envoy says it; ?format=json
GET  /listeners           listeners, as Envoy says it; ?format=json
GET  /certs               certificates, as Envoy says it
GET  /logging             log level; POST ?level=debug changes it, as Envoy says it; &for=10m for that long, ?reset to what it was at the start
POST /drain               take no new connections any more, answer with connection: close
POST /drain_listeners     the same, as Envoy says it; ?inboundonly: clients from outside are asked to go, and served until they do
POST /quitquitquit        end the proxy
GET  /debug/pprof/        profiles`)
}

func say(w http.ResponseWriter, s string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, s+"\n")
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		panic(http.ErrAbortHandler)
	}
}
