// Package nameproxy serves names to a workload without network namespaces: an HTTP proxy
// for its variable http_proxy.
//
// Requests in absolute form (RFC 9112, section 3.2.2) enter on a listener the caller
// opened; they leave for where Lookup says that a host is called, which for services of
// the mesh is a listener of the workload's own weir-proxy, and for all other hosts is the
// network of this machine. So http://ratings:9080 works as it does in a cluster. Nothing
// of a request is changed. A request in origin form is refused: no web page can use the
// proxy. Requests are served concurrently.
package nameproxy

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const (
	// readHeader bounds how long a client may take for a head, idle how long a connection
	// is kept for another request: as long as most servers do.
	readHeader = 10 * time.Second
	idle       = 60 * time.Second
	// dialTime is for hosts outside the mesh; a listener of weir-proxy answers at once.
	dialTime = 10 * time.Second
)

// Lookup says where a host's port is called. ok is false for a host that is not the
// mesh's; the error says why one of the mesh cannot be called.
type Lookup func(host string, port uint16) (at netip.AddrPort, ok bool, err error)

// Serve serves until the listener is closed.
func Serve(l net.Listener, find Lookup) {
	d := dialer{find: find}
	transport := &http.Transport{DialContext: d.dial, DisableCompression: true, IdleConnTimeout: idle / 2}
	defer transport.CloseIdleConnections()
	quiet := log.New(io.Discard, "", 0) // what goes wrong is said to the client
	forward := &httputil.ReverseProxy{
		Rewrite: unchanged, Transport: transport, FlushInterval: -1, ErrorLog: quiet,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			http.Error(w, fmt.Sprintf("weir: calling %s: %v", r.URL.Host, err), http.StatusBadGateway)
		},
	}
	server := &http.Server{ReadHeaderTimeout: readHeader, IdleTimeout: idle, ErrorLog: quiet, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodConnect:
			http.Error(w, "weir: this proxy is for http only: leave https_proxy unset, https needs no proxy here", http.StatusMethodNotAllowed)
		case r.URL.Scheme != "http" || r.URL.Host == "":
			http.Error(w, "weir: this is an HTTP proxy: set http_proxy to its address and call http://SERVICE:PORT", http.StatusBadRequest)
		default:
			forward.ServeHTTP(w, r)
		}
	})}
	_ = server.Serve(l) // its end is the listener's
	server.Close()
}

// unchanged undoes what httputil does for gateways: here the client's request counts.
func unchanged(r *httputil.ProxyRequest) {
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v, ok := r.In.Header[name]; ok {
			r.Out.Header[name] = v
		}
	}
}

type dialer struct {
	find Lookup
	net.Dialer
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("%q is not a port", service)
	}
	at, ok, err := d.find(strings.TrimSuffix(strings.ToLower(host), "."), uint16(port))
	switch {
	case err != nil:
		return nil, err
	case ok:
		address = at.String()
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	return d.DialContext(ctx, network, address)
}
