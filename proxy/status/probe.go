package status

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// Probe is one probe or lifecycle hook of the application, in the JSON of Kubernetes'
// core/v1 Probe. Exactly one of HTTP, TCP and GRPC is set.
type Probe struct {
	HTTP    *HTTPProbe `json:"httpGet,omitempty"`
	TCP     *TCPProbe  `json:"tcpSocket,omitempty"`
	GRPC    *GRPCProbe `json:"grpc,omitempty"`
	Seconds int        `json:"timeoutSeconds,omitempty"` // 0: 1
}

// HTTPProbe succeeds with a status from 200 to 399.
type HTTPProbe struct {
	Path    string   `json:"path,omitempty"`
	Port    Port     `json:"port"`
	Host    string   `json:"host,omitempty"`   // empty: the pod
	Scheme  string   `json:"scheme,omitempty"` // HTTP (default) or HTTPS, whose certificate is not looked at
	Headers []Header `json:"httpHeaders,omitempty"`
}

// Header is one header of a probe; Host is the request's authority.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// TCPProbe succeeds when a connection opens.
type TCPProbe struct {
	Port Port   `json:"port"`
	Host string `json:"host,omitempty"`
}

// GRPCProbe succeeds when grpc.health.v1 says SERVING.
type GRPCProbe struct {
	Port    Port    `json:"port"`
	Service *string `json:"service,omitempty"`
}

// Port is a number, also where it is written in quotation marks.
type Port uint16

// UnmarshalJSON reads Kubernetes' IntOrString. Names were replaced by injection, which
// knows the container.
func (p *Port) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("port %s: want a number from 1 to 65535", b)
	}
	*p = Port(n)
	return nil
}

// ParseProbes reads ISTIO_KUBE_APP_PROBERS: probes by path, "/app-health/<container>/readyz",
// livez or startupz, and "/app-lifecycle/<container>/prestopz" or poststartz.
func ParseProbes(text string) (map[string]Probe, error) {
	var all map[string]Probe
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return nil, err
	}
	for path, p := range all {
		rest, ok := strings.CutPrefix(path, "/app-health/")
		if !ok {
			if rest, ok = strings.CutPrefix(path, "/app-lifecycle/"); !ok {
				return nil, fmt.Errorf("%q: a path begins with /app-health/ or /app-lifecycle/", path)
			}
		}
		if container, kind, _ := strings.Cut(rest, "/"); container == "" || kind == "" || strings.Contains(kind, "/") {
			return nil, fmt.Errorf("%q: want /app-health/<container>/<probe>", path)
		}
		if err := p.check(); err != nil {
			return nil, fmt.Errorf("%q: %w", path, err)
		}
	}
	return all, nil
}

func (p *Probe) check() error {
	n := 0
	if h := p.HTTP; h != nil {
		n++
		if h.Port == 0 {
			return errors.New("httpGet.port is missing")
		}
		if s := strings.ToUpper(h.Scheme); s != "" && s != "HTTP" && s != "HTTPS" {
			return fmt.Errorf("httpGet.scheme %q: want HTTP or HTTPS", h.Scheme)
		}
		if _, err := h.url("pod"); err != nil {
			return fmt.Errorf("httpGet.path: %w", err)
		}
	}
	if p.TCP != nil {
		n++
		if p.TCP.Port == 0 {
			return errors.New("tcpSocket.port is missing")
		}
	}
	if p.GRPC != nil {
		n++
		if p.GRPC.Port == 0 {
			return errors.New("grpc.port is missing")
		}
	}
	if n != 1 {
		return errors.New("want exactly one of httpGet, tcpSocket and grpc")
	}
	if p.Seconds < 0 {
		return fmt.Errorf("timeoutSeconds %d is negative", p.Seconds)
	}
	return nil
}

func (p *Probe) timeout() time.Duration { return time.Duration(max(p.Seconds, 1)) * time.Second }

// url is as the kubelet makes it: a path may hold a query.
func (h *HTTPProbe) url(pod string) (*url.URL, error) {
	path := h.Path
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	u, err := url.ParseRequestURI(path)
	if err != nil {
		return nil, err
	}
	if h.Host != "" {
		pod = h.Host
	}
	u.Scheme = "http"
	if strings.EqualFold(h.Scheme, "HTTPS") {
		u.Scheme = "https"
	}
	u.Host = h.Port.at(pod)
	return u, nil
}

func (p Port) at(host string) string { return net.JoinHostPort(host, strconv.Itoa(int(p))) }

// maxProbeAnswer is what the kubelet reads of an answer (10 KiB, pkg/probe/http).
const maxProbeAnswer = 10 << 10

type prober struct {
	o      *Options
	client *http.Client
}

func newProber(o *Options) *prober {
	t := newTransport(o)
	t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // as the kubelet: a probe asks whether, not who
	return &prober{o, &http.Client{Transport: t, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		// The kubelet follows within the host, and takes another host for success.
		if r.URL.Hostname() != via[0].URL.Hostname() {
			return http.ErrUseLastResponse
		}
		if len(via) >= 10 {
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}}}
}

// ServeHTTP runs the probe of a path, and answers as the application did.
func (p *prober) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	probe, ok := p.o.Probes[r.URL.Path]
	if !ok {
		http.Error(w, "no such probe: the pod was injected with others (ISTIO_KUBE_APP_PROBERS)", http.StatusNotFound)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), probe.timeout())
	defer cancel()
	var err error
	switch {
	case probe.HTTP != nil:
		err = p.http(ctx, w, r, probe.HTTP)
	case probe.TCP != nil:
		err = p.tcp(ctx, probe.TCP)
	default:
		err = p.grpc(ctx, probe.GRPC)
	}
	switch {
	case err != nil:
		p.o.Log.Debug("probe failed", "path", r.URL.Path, "err", err)
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	case probe.HTTP == nil:
		say(w, "ok")
	}
}

// http answers what the application answered; an error means that it did not.
func (p *prober) http(ctx context.Context, w http.ResponseWriter, r *http.Request, h *HTTPProbe) error {
	u, err := h.url(p.o.PodIP.String())
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	// Some applications count probes apart by who asks.
	req.Header.Set("User-Agent", r.UserAgent())
	req.Header.Set("Accept", "*/*")
	for _, x := range h.Headers {
		if strings.EqualFold(x.Name, "Host") {
			req.Host = x.Value
			continue
		}
		if req.Header[http.CanonicalHeaderKey(x.Name)] != nil {
			req.Header.Del(x.Name)
		}
	}
	for _, x := range h.Headers {
		if !strings.EqualFold(x.Name, "Host") {
			req.Header.Add(x.Name, x.Value)
		}
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxProbeAnswer))
	if err != nil {
		return fmt.Errorf("reading the application's answer (%s): %w", resp.Status, err)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(body)
	return nil
}

func (p *prober) tcp(ctx context.Context, t *TCPProbe) error {
	host := t.Host
	if host == "" {
		host = p.o.PodIP.String()
	}
	c, err := p.o.Dial(ctx, "tcp", t.Port.at(host))
	if err != nil {
		return err
	}
	return c.Close()
}

func (p *prober) grpc(ctx context.Context, g *GRPCProbe) error {
	c, err := grpc.NewClient("passthrough:///"+g.Port.at(p.o.PodIP.String()), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithUserAgent("kube-probe/weir"),
		grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return p.o.Dial(ctx, "tcp", a) }))
	if err != nil {
		return err
	}
	defer c.Close()
	service := ""
	if g.Service != nil {
		service = *g.Service
	}
	answer, err := healthv1.NewHealthClient(c).Check(ctx, &healthv1.HealthCheckRequest{Service: service})
	if err != nil {
		return fmt.Errorf("asking for the health of %q: %w", service, err)
	}
	if s := answer.GetStatus(); s != healthv1.HealthCheckResponse_SERVING {
		return fmt.Errorf("service %q is %s", service, s)
	}
	return nil
}
