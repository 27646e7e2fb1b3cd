package mesh

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/sample/echo"
)

// Services are those the control plane knows.
func (m *Mesh) Services() map[string]apiv1.Service {
	m.mu.Lock()
	known := m.services
	m.mu.Unlock()
	if known != nil {
		return known
	}
	list, err := m.API().Services(context.Background())
	if err != nil {
		return nil
	}
	known = map[string]apiv1.Service{}
	for _, s := range list {
		known[s.Hostname] = s
	}
	m.mu.Lock()
	m.services = known
	m.mu.Unlock()
	return known
}

// Virtual is the address at which the workload calls a service, by any name it has.
func (w *Workload) Virtual(host string) (netip.Addr, error) {
	s, err := w.service(host)
	return w.addr(byte(s.Index>>8), byte(s.Index)), err
}

func (w *Workload) service(host string) (apiv1.Service, error) {
	services := w.mesh.Services()
	for _, suffix := range []string{"", "." + w.Namespace + ".svc.cluster.local", ".svc.cluster.local", ".cluster.local"} {
		if s, ok := services[host+suffix]; ok {
			return s, nil
		}
	}
	return apiv1.Service{}, fmt.Errorf("the mesh has no service %q", host)
}

// Resolve turns host:port as the program writes it into where its proxy listens.
func (w *Workload) Resolve(target string) (string, error) {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return "", err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return target, nil
	}
	a, err := w.Virtual(host)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(a.String(), port), nil
}

// Dial connects as the workload's program would: "tcp-echo:9000".
func (w *Workload) Dial(ctx context.Context, target string) (net.Conn, error) {
	if w.Captured {
		dst, err := w.address(target)
		if err != nil {
			return nil, err
		}
		if dst.Addr() == loopback {
			return new(net.Dialer).DialContext(ctx, "tcp", w.here(dst).String())
		}
		return w.DialAt(ctx, dst)
	}
	at, err := w.Resolve(target)
	if err != nil {
		return nil, err
	}
	return new(net.Dialer).DialContext(ctx, "tcp", at)
}

// transport is made when it is needed.
type transport struct {
	once sync.Once
	t    *http.Transport
}

func (x *transport) get(w *Workload) *http.Transport {
	x.once.Do(func() {
		x.t = &http.Transport{
			DialContext:         func(ctx context.Context, _, target string) (net.Conn, error) { return w.Dial(ctx, target) },
			MaxIdleConnsPerHost: 64,
			DisableCompression:  true,
		}
	})
	return x.t
}

func (x *transport) close() {
	x.once.Do(func() { x.t = &http.Transport{} })
	x.t.CloseIdleConnections()
}

// Client is an HTTP client that calls as the workload's program would. It follows no
// redirects and tries nothing twice.
func (w *Workload) Client() *http.Client {
	return &http.Client{Transport: w.http.get(w), Timeout: patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// Response is an answer, or why there was none.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
	// Trailer is what came behind the body.
	Trailer http.Header
	Took    time.Duration
	Err     error
}

// String is for failures.
func (r *Response) String() string {
	if r.Err != nil {
		return r.Err.Error()
	}
	return fmt.Sprintf("%d %q", r.Status, r.Body[:min(len(r.Body), 300)])
}

// Report is the body as the echo program wrote it.
func (r *Response) Report(t testing.TB) *echo.Report {
	t.Helper()
	var out echo.Report
	if err := json.Unmarshal(r.Body, &out); err != nil || r.Status != http.StatusOK {
		t.Fatalf("not an answer of echo: %v", r)
	}
	return &out
}

// Get asks for a URL as the workload's program would. Headers are "name: value".
func (w *Workload) Get(url string, headers ...string) *Response {
	return w.Do(http.MethodGet, url, nil, headers...)
}

// Do sends a request as the workload's program would.
func (w *Workload) Do(method, url string, body []byte, headers ...string) *Response {
	return Do(w.Client(), method, url, body, headers...)
}

// Do sends a request. Headers are "name: value"; host is the authority.
func Do(c *http.Client, method, url string, body []byte, headers ...string) *Response {
	req, err := http.NewRequest(method, url, bytes.NewReader(body)) //nolint:noctx // the client has a timeout
	if err != nil {
		return &Response{Err: err}
	}
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ": ")
		if !ok {
			return &Response{Err: errors.New("not a header: " + h)}
		}
		if strings.EqualFold(name, "host") {
			req.Host = value
			continue
		}
		req.Header.Add(name, value)
	}
	begin := time.Now()
	res, err := c.Do(req)
	if err != nil {
		return &Response{Err: err, Took: time.Since(begin)}
	}
	defer func() { _ = res.Body.Close() }()
	out := &Response{Status: res.StatusCode, Header: res.Header}
	out.Body, out.Err = io.ReadAll(res.Body)
	out.Trailer = res.Trailer
	out.Took = time.Since(begin)
	return out
}

// Outside is a client that is not in the mesh: it calls addresses as they are, and
// "gateway" as the gateway. Each request has a connection of its own; it follows no
// redirects.
func (w *Workload) Outside() *http.Client {
	c := w.OutsideKept()
	c.Transport.(*http.Transport).DisableKeepAlives = true
	return c
}

// OutsideKept is Outside with connections that are kept.
func (w *Workload) OutsideKept() *http.Client {
	t := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true,
		DialContext: func(ctx context.Context, network, target string) (net.Conn, error) {
			if host, port, err := net.SplitHostPort(target); err == nil && host == "gateway" {
				target = net.JoinHostPort(w.IP().String(), port)
			}
			return new(net.Dialer).DialContext(ctx, network, target)
		}}
	w.mesh.T.Cleanup(t.CloseIdleConnections)
	return &http.Client{Timeout: patience, Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// At is the URL of a workload's own port, for callers that bypass the mesh.
func (w *Workload) At(port uint16) string {
	return "http://" + net.JoinHostPort(w.IP().String(), strconv.Itoa(int(port)))
}
