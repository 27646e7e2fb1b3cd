package admin

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	"github.com/weirmesh/weir/internal/memnet"
	"github.com/weirmesh/weir/xds/dump"
)

type fake struct {
	err                    error
	drained, leaving, quit bool
	metrics                string
}

func (f *fake) Ready() error { return f.err }
func (f *fake) Stats(_ context.Context, w io.Writer) error {
	_, err := io.WriteString(w, cmp.Or(f.metrics, "istio_requests_total 1\n"))
	return err
}
func (f *fake) Info() any     { return map[string]string{"version": "x"} }
func (f *fake) State() any    { return []string{"state"} }
func (f *fake) Identity() any { return nil }

func (f *fake) OnDemand() *dump.OnDemand { return &dump.OnDemand{Why: "nobody asked"} }

func (f *fake) Unknown() []dump.UnknownHost { return []dump.UnknownHost{{Host: "a.exmaple"}} }

func (f *fake) Records(q *observev1.RecordsRequest) *observev1.Records {
	return &observev1.Records{Records: []*observev1.Record{{Id: q.GetId(), Status: q.GetLastErrors()}}}
}

func (f *fake) Drain()        { f.drained = true }
func (f *fake) DrainInbound() { f.leaving = true }
func (f *fake) Quit()         { f.quit = true }

func (f *fake) Dump() (*dump.Dump, error) {
	if f.err != nil {
		return nil, f.err
	}
	return &dump.Dump{Bootstrap: &bootstrapv3.Bootstrap{Node: &corev3.Node{Id: "me"}}}, nil
}

func (f *fake) Certs() []Certificates {
	return []Certificates{{Source: "default", Chain: []*x509.Certificate{{SerialNumber: big.NewInt(255), DNSNames: []string{"a.example"},
		NotAfter: time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)}}}}
}

func (f *fake) Clusters() []Cluster {
	return []Cluster{{Name: "c", EDSName: "e", Hosts: []Host{
		{Address: netip.MustParseAddrPort("10.0.0.1:80"), Healthy: true, Active: 3, Ejected: true, Silent: true}, {Path: "/run/x", Weight: 7}}, Stats: []Stat{{Name: "upstream_cx_overflow", Value: 2}, {Name: "upstream_rq_pending_overflow", Value: 5}}}, {Name: "s", Static: true}}
}

func (f *fake) ServerStats() []Stat {
	return []Stat{{Name: "vhost.v.route.r.upstream_rq_2xx", Value: 3}, {Name: "server.state", Gauge: true}, {Name: "server.concurrency", Value: 2, Gauge: true}}
}

func (f *fake) Life() Life {
	switch {
	case f.drained:
		return Draining
	case f.err != nil:
		return Initializing
	}
	return Live
}

func (f *fake) Listeners() []Listener {
	return []Listener{{Name: "l", Addresses: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:80"), netip.MustParseAddrPort("[::]:80")}}, {Name: "nowhere"}}
}

// The forms are Envoy's: protos of envoy.admin.v3 can be read from them, and the lines of
// text are those that people grep for.
func TestEnvoysForms(t *testing.T) {
	f := &fake{}
	o := Options{Proxy: f, Level: NewLevel(nil, slog.New(slog.DiscardHandler)), Log: slog.New(slog.DiscardHandler)}
	call := start(t, func(ctx context.Context, l net.Listener) error { return Serve(ctx, l, o) })
	read := func(path string, m proto.Message) {
		t.Helper()
		status, body := call("GET", path, "")
		if err := protojson.Unmarshal([]byte(body), m); status != 200 || err != nil {
			t.Errorf("%s: %d, %v\n%s", path, status, err, body)
		}
	}
	clusters, listeners, certs, all := &adminv3.Clusters{}, &adminv3.Listeners{}, &adminv3.Certificates{}, &adminv3.ConfigDump{}
	read("/clusters?format=json", clusters)
	read("/listeners?format=json", listeners)
	read("/certs", certs)
	read("/config_dump?include_eds", all)
	if hosts := clusters.GetClusterStatuses()[0].GetHostStatuses(); hosts[0].GetHealthStatus().GetEdsHealthStatus() != corev3.HealthStatus_HEALTHY || !hosts[0].GetHealthStatus().GetFailedOutlierCheck() ||
		hosts[1].GetAddress().GetPipe().GetPath() != "/run/x" || hosts[1].GetHealthStatus().GetEdsHealthStatus() != corev3.HealthStatus_UNHEALTHY {
		t.Errorf("clusters: %v", clusters)
	}
	if s := clusters.GetClusterStatuses()[0].GetHostStatuses(); len(s[0].GetStats()) != 2 || s[0].GetStats()[1].GetName() != "silent" || len(s[1].GetStats()) != 1 {
		t.Errorf("who does not answer to connections: %v", s)
	}
	if s := clusters.GetClusterStatuses(); !s[0].GetAddedViaApi() || s[1].GetAddedViaApi() {
		t.Errorf("who was sent by a control plane: %v", s)
	}
	if l := listeners.GetListenerStatuses(); len(l) != 1 || l[0].GetLocalAddress().GetSocketAddress().GetPortValue() != 80 || len(l[0].GetAdditionalLocalAddresses()) != 1 {
		t.Errorf("listeners: %v", listeners)
	}
	if c := certs.GetCertificates()[0].GetCertChain()[0]; c.GetSerialNumber() != "ff" || c.GetSubjectAltNames()[0].GetDns() != "a.example" {
		t.Errorf("certificates: %v", certs)
	}
	boot := &adminv3.BootstrapConfigDump{}
	if err := all.GetConfigs()[0].UnmarshalTo(boot); err != nil || boot.GetBootstrap().GetNode().GetId() != "me" || len(all.GetConfigs()) != 6 {
		t.Errorf("dump: %v, %v", all, err)
	}
	for path, want := range map[string]string{
		"/clusters":                    "c::10.0.0.1:80::health_flags::/failed_outlier_check\n",
		"/listeners":                   "l::0.0.0.0:80\nl::[::]:80\n",
		"/stats":                       "cluster.c.upstream_cx_overflow: 2\ncluster.c.upstream_rq_pending_overflow: 5\n",
		"/clusters?format=text":        "c::added_via_api::true\n",
		"/clusters?":                   "c::10.0.0.1:80::silent::1\n",
		"/clusters?filter=x":           "s::added_via_api::false\n",
		"/clusters?format=yaml":        "format=\"yaml\" is not supported: /clusters has text, json\n",
		"/listeners?format=html":       "format=\"html\" is not supported: /listeners has text, json\n",
		"/config_dump?resource=secret": "is not part of a dump",
	} {
		if _, body := call("GET", path, ""); !strings.Contains(body, want) {
			t.Errorf("%s has no %q:\n%s", path, want, body)
		}
	}
}

func TestPaths(t *testing.T) {
	f := &fake{err: errors.New("no certificate yet")}
	o := Options{Proxy: f, Level: NewLevel(nil, slog.New(slog.DiscardHandler)), Log: slog.New(slog.DiscardHandler)}
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
		{call, "GET", "/config_dump", 501, "no certificate yet"},
		{call, "GET", "/state", 200, "state"},
		{call, "GET", "/", 200, "/quitquitquit"},
		{call, "GET", "/quitquitquit", 405, "say POST"},
		{call, "GET", "/ready", 503, "INITIALIZING: no certificate yet"},
		{call, "GET", "/stats?filter=(", 400, "filter: error parsing"},
		{call, "GET", "/stats?format=html", 400, "/stats has text, json, prometheus"},
		{call, "GET", "/stats?type=Colours", 400, "is not one of All, Counters"},
		{health, "GET", "/stats/prometheus?filter=(", 400, "filter: error parsing"},
		{call, "GET", "/config_dump?mask=bootstrap", 400, "mask is not supported: resource and name_regex choose parts"},
		{call, "GET", "/config_dump?name_regex=(", 400, "name_regex: error parsing"},
		{call, "GET", "/memory", 404, "has no GET /memory; GET / lists"},
		{call, "POST", "/healthcheck/fail", 404, "POST /drain does that"},
		{health, "GET", "/ready", 404, ""},
		{call, "POST", "/drain", 200, "draining"},
		{call, "POST", "/drain_listeners", 200, "OK"},
		{call, "POST", "/drain_listeners?inboundonly&graceful", 200, "OK"},
		{call, "GET", "/drain_listeners", 405, "say POST"},
		{call, "POST", "/quitquitquit", 200, "bye"},
		{health, "GET", "/config_dump", 404, ""},
		{health, "POST", "/quitquitquit", 404, ""},
	} {
		status, body := c.call(c.method, c.path, "")
		if status != c.status || !strings.Contains(body, c.body) {
			t.Errorf("%s %s: %d %q, want %d %q", c.method, c.path, status, body, c.status, c.body)
		}
	}
	if !f.drained || !f.leaving || !f.quit {
		t.Error("drain and quit must reach the proxy")
	}
	f.err = nil
	if status, _ := call("GET", "/healthz/ready", ""); status != 200 {
		t.Errorf("ready: %d", status)
	}
	if _, body := call("GET", "/ready", ""); body != "LIVE\n" {
		t.Errorf("ready: %q", body)
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

// What became of requests is asked for by id or by how many.
func TestWhy(t *testing.T) {
	o := Options{Proxy: &fake{}, Level: NewLevel(nil, slog.New(slog.DiscardHandler)), Log: slog.New(slog.DiscardHandler)}
	call := start(t, func(ctx context.Context, l net.Listener) error { return Serve(ctx, l, o) })
	for path, want := range map[string]string{"/why": `"status":20`, "/why?last=3": `"status":3`, "/why?id=abc": `"id":"abc"`, "/why?last=x": "last must be a number"} {
		_, body := call("GET", path, "")
		if !strings.Contains(strings.ReplaceAll(body, " ", ""), strings.ReplaceAll(want, " ", "")) {
			t.Errorf("%s: %s", path, body)
		}
	}
}
