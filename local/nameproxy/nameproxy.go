// Package nameproxy serves names to a workload without a network namespace: an HTTP proxy
// for its variables http_proxy and https_proxy.
//
// Requests in absolute form (RFC 9112, section 3.2.2) and CONNECT (section 3.2.3) enter on
// a listener of the loopback that the caller opened. They leave for where Lookup says that
// a host's port is called, which for the mesh's is a listener of the workload's own
// weir-proxy, and else for the host itself, as without a proxy. Nothing of a request is
// changed but what belongs to one connection only: for those who look, this is part of the
// client, so there is no Via either. A request in origin form is refused: no web page,
// whatever its name resolves to, can use the proxy. Requests are served concurrently.
package nameproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Limits on clients, which are programs of this machine. How long a request, an answer
// or a tunnel lasts is their business.
const (
	// maxConns is how many connections one workload's clients may have.
	maxConns = 1024
	// maxHeader is a head's size; the weir-proxy behind allows less (60 KiB).
	maxHeader = 128 << 10
	// maxAnswer is what an answer's head may have.
	maxAnswer = 1 << 20
	// readHeader bounds how long a head takes, idle how long a connection waits for
	// another request: as long as most servers let it.
	readHeader = 10 * time.Second
	idle       = 60 * time.Second
	// idleOut is shorter than what weir-proxy and most servers allow.
	idleOut        = 30 * time.Second
	idleOutPerHost = 64
	dialTime       = 10 * time.Second
)

// Lookup says where a port of a host, as the client spells it, is called. ok is false for
// a host that is not the mesh's; the error says why one of the mesh cannot be called.
type Lookup func(host string, port uint16) (at netip.AddrPort, ok bool, err error)

// Serve serves until the listener is closed, ends what is under way and returns.
func Serve(l net.Listener, find Lookup) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &proxy{find: find}
	transport := &http.Transport{
		DialContext: p.dial, DisableCompression: true, MaxIdleConnsPerHost: idleOutPerHost,
		IdleConnTimeout: idleOut, MaxResponseHeaderBytes: maxAnswer,
	}
	quiet := log.New(io.Discard, "", 0) // what goes wrong is said to the client
	p.forward = &httputil.ReverseProxy{
		Rewrite: unchanged, Transport: transport, FlushInterval: -1, ErrorLog: quiet,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { fail(w, r.URL.Host, err) },
	}
	server := &http.Server{
		Handler: p, ReadHeaderTimeout: readHeader, IdleTimeout: idle, MaxHeaderBytes: maxHeader, ErrorLog: quiet,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	conns := &listener{Listener: l, open: map[*conn]bool{}}
	_ = server.Serve(conns) // its end is the listener's
	cancel()
	conns.closeAll()
	transport.CloseIdleConnections()
}

type proxy struct {
	find    Lookup
	forward *httputil.ReverseProxy
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodConnect:
		p.tunnel(w, r)
	case r.URL.Host == "":
		http.Error(w, "weir: this is an HTTP proxy, for http_proxy and https_proxy: ask it for http://SERVICE:PORT", http.StatusBadRequest)
	case r.URL.Scheme != "http":
		http.Error(w, fmt.Sprintf("weir: this proxy is asked for http://HOST; for %s://%s it is asked by CONNECT", r.URL.Scheme, r.URL.Host), http.StatusBadRequest)
	default:
		p.forward.ServeHTTP(w, r)
	}
}

// unchanged undoes what httputil does for gateways: here the client's request counts, to
// the letter.
func unchanged(r *httputil.ProxyRequest) {
	_, target, _ := strings.Cut(r.In.RequestURI, "://")
	if i := strings.IndexAny(target, "/?"); i >= 0 {
		target, _, _ = strings.Cut(target[i:], "?")
		// With two slashes net/url takes it for something else, and spells the path anew.
		if strings.HasPrefix(target, "/") && !strings.HasPrefix(target, "//") {
			r.Out.URL.Opaque = target
		}
	}
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v, ok := r.In.Header[name]; ok {
			r.Out.Header[name] = v
		}
	}
}

func fail(w http.ResponseWriter, host string, err error) {
	status := http.StatusBadGateway
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		status = http.StatusGatewayTimeout
	}
	http.Error(w, fmt.Sprintf("weir: calling %s: %v", host, err), status)
}

// dial connects to host:port.
func (p *proxy) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil || port == 0 || host == "" {
		return nil, fmt.Errorf("%q is not a host and a port", address)
	}
	at, ok, err := p.find(host, uint16(port))
	switch {
	case err != nil:
		return nil, err
	case ok:
		address = at.String()
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

// tunnel serves CONNECT: for TLS, for WebSocket and gRPC clients that ask for it in clear
// text too, and for all else that is TCP.
func (p *proxy) tunnel(w http.ResponseWriter, r *http.Request) {
	far, err := p.dial(r.Context(), "tcp", r.Host)
	if err != nil {
		fail(w, r.Host, err)
		return
	}
	defer far.Close()
	near, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		fail(w, r.Host, err)
		return
	}
	defer near.Close()
	if _, err := io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { relay(far, near, buffered) })
	both.Go(func() { relay(near, far, far) })
	both.Wait()
}

// relay moves what from sends, which read gives, to the other side, the end of it included.
// What breaks one direction ends the other.
func relay(to, from net.Conn, read io.Reader) {
	_, err := io.Copy(to, read)
	if half, ok := to.(interface{ CloseWrite() error }); err == nil && ok && half.CloseWrite() == nil {
		return
	}
	to.Close()
	from.Close()
}

// listener knows its open connections: http.Server forgets those of tunnels and WebSockets.
type listener struct {
	net.Listener

	mu   sync.Mutex
	open map[*conn]bool
}

type conn struct {
	net.Conn
	from *listener
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		accepted, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &conn{accepted, l}
		l.mu.Lock()
		room := len(l.open) < maxConns
		if room {
			l.open[c] = true
		}
		l.mu.Unlock()
		if room {
			return c, nil
		}
		_, _ = io.WriteString(accepted, "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\nweir: too many connections\n") // fits the socket's buffer
		accepted.Close()
	}
}

func (l *listener) closeAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		c.Conn.Close()
	}
}

func (c *conn) Close() error {
	c.from.mu.Lock()
	delete(c.from.open, c)
	c.from.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite passes on that there is nothing more to come.
func (c *conn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}
