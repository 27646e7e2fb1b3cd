package http_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/api/substitution"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/filter/fault"
	"github.com/weirmesh/weir/proxy/filter/peermetadata"
	accessfilter "github.com/weirmesh/weir/proxy/filter/rbac"
	"github.com/weirmesh/weir/proxy/filter/session"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/inbound"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/observe/records"
	"github.com/weirmesh/weir/proxy/outbound"
	"github.com/weirmesh/weir/proxy/rbac"
	"github.com/weirmesh/weir/proxy/route"
)

// path is a client, a proxy with everything on, and an upstream that answers.
type path struct {
	net              *mem.Net
	worker           *http.Worker
	report           *http.Report
	records          *records.Recorder
	listener         *mem.Listener
	client, upstream *mem.Peer
	request          []byte
	response         []byte
	buf              []byte
}

func newPath(t testing.TB, direction http.Direction, request, response string, access ...http.Stage) *path {
	p := makePath(t, direction, []byte(request), []byte(response), cluster.HTTP1, access...)
	p.client.Send(p.request)
	p.net.Step()
	p.upstream = p.listener.Accept()
	p.answer(t)
	return p
}

// makePath is a path on which nothing has happened.
func makePath(t testing.TB, direction http.Direction, request, response []byte, upstream cluster.Protocol, access ...http.Stage) *path {
	p := &path{net: mem.New(), buf: make([]byte, 256<<10), request: request, response: response}
	l := p.net.Loop(loop.Options{})
	self := &observe.Node{ID: "sidecar~10.0.0.1~productpage-v1-0.default~default.svc.cluster.local", Name: "productpage-v1-0", Namespace: "default",
		Workload: "productpage-v1", Owner: "kubernetes://apis/apps/v1/namespaces/default/deployments/productpage-v1",
		Labels: map[string]string{"app": "productpage", "version": "v1"}}
	node, err := peermetadata.New(self, observe.NewPeers())
	if err != nil {
		t.Fatal(err)
	}
	stages, tells := outbound.Stages(outbound.Options{Metadata: node, Fault: fault.Stages(nil)}), http.Workload
	if direction == http.Inbound {
		tells = http.Peers
		stages = inbound.Stages(inbound.Options{Metadata: node, Fault: fault.Stages(nil), Access: access})
	}
	p.records = records.New(1)
	p.report = &http.Report{Self: self.Peer(), Numbers: observe.NewWorker(), Records: p.records, Log: observe.NewLog()}
	p.worker = http.NewWorker(http.Options{Loop: l, Observer: p.report})
	cfg := &http.Config{Direction: direction, ServerName: []byte("istio-envoy"), Stages: stages, TableName: "9080", Logs: istioLog(t), Tells: tells,
		Path: message.PathOptions{Normalize: true}}
	limits := &cluster.Limits{}
	for _, m := range []interface{ Store(uint32) }{&limits.MaxConnections, &limits.MaxPending, &limits.MaxRequests, &limits.MaxRetries} {
		m.Store(cluster.Unlimited)
	}
	at := netip.MustParseAddrPort("10.2.0.1:9080")
	c := &cluster.Cluster{Name: "outbound|9080||reviews.default.svc.cluster.local", Limits: limits, Protocol: upstream, Keeps: cluster.DefaultKeeps,
		Service:   cluster.Service{Host: "reviews.default.svc.cluster.local", Name: "reviews", Namespace: "default"},
		Endpoints: []*cluster.Endpoint{{Addr: at, Limits: limits, Workload: cluster.Workload{Name: "reviews-v1", Namespace: "default"}}}}
	c.Seal()
	retry := &route.Retry{On: route.OnConnectFailure | route.OnRefusedStream | route.OnResetBeforeRequest | route.OnResetIdempotent, Attempts: 2, HostAttempts: 5, OtherHosts: true}
	table, err := route.New("9080", "1", false, []*route.VirtualHost{{Name: "reviews", Domains: []string{"reviews:9080", "reviews"}, AttemptCount: true,
		Entries: []*route.Entry{{Name: "default", When: route.When{Path: "/", Per1M: 1_000_000}, Forward: &route.Forward{Clusters: []route.Weighted{{Name: c.Name, Weight: 1}}, Total: 1, Retry: retry}}}}})
	if err != nil {
		t.Fatal(err)
	}
	p.worker.SetState(&state{clusters: []*cluster.Cluster{c}, table: table})
	listen(t, l, front, func(c *conn.Conn) { c.HandOver(p.worker.Serve(c, cfg)) })
	if p.listener, err = p.net.Listen(at); err != nil {
		t.Fatal(err)
	}
	if p.client, err = p.net.Dial(front); err != nil {
		t.Fatal(err)
	}
	return p
}

// policies deny /admin/ and allow who comes from anywhere but there.
func policies() []*rbac.Filter {
	admin := rbac.Path(route.ValueMatch{Name: ":path", Kind: route.ValuePrefix, Value: "/admin/"})
	deny := &rbac.Rules{Action: rbac.Deny, Policies: []rbac.Policy{rbac.NewPolicy("no-admin", admin, rbac.Any())}}
	allow := &rbac.Rules{Policies: []rbac.Policy{rbac.NewPolicy("mesh", rbac.Any(), rbac.Not(rbac.Source(netip.MustParsePrefix("203.0.113.0/24"))))}}
	return []*rbac.Filter{{Rules: deny, Counts: &rbac.Counts{}}, {Rules: allow, Counts: &rbac.Counts{}}}
}

func (p *path) answer(t testing.TB) {
	if p.upstream.Take(p.buf) == 0 {
		t.Fatal("nothing reached the upstream")
	}
	p.upstream.Send(p.response)
	p.net.Step()
	n := p.client.Take(p.buf)
	if !bytes.HasPrefix(p.buf[:n], []byte("HTTP/1.1 200 OK\r\n")) {
		t.Fatalf("the client got %q", p.buf[:n])
	}
}

func (p *path) exchange(t testing.TB) {
	p.client.Send(p.request)
	p.net.Step()
	p.answer(t)
}

const getRequest = "GET /reviews/0?x=y HTTP/1.1\r\nHost: reviews:9080\r\nUser-Agent: python-requests/2.31\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nend-user: jason\r\n\r\n"

func okResponse(n int) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nserver: gunicorn\r\ncontent-length: %d\r\n\r\n%s", n, bytes.Repeat([]byte{'x'}, n))
}

// peerRequest comes from a sidecar, with its metadata.
func peerRequest(t testing.TB) string {
	n := &observe.Node{ID: "sidecar~10.0.0.2~a-0.default~default.svc.cluster.local", Name: "a-0", Namespace: "default", Workload: "a", Labels: map[string]string{"app": "a"}}
	h, err := n.Header()
	if err != nil {
		t.Fatal(err)
	}
	return "GET /reviews/0 HTTP/1.1\r\nhost: reviews:9080\r\nx-request-id: 0c7cd0b4-3f21-4d2b-9a55-5f0b7cfe5e21\r\nx-forwarded-proto: http\r\nx-envoy-attempt-count: 1\r\n" +
		"x-envoy-peer-metadata-id: " + n.ID + "\r\nx-envoy-peer-metadata: " + h + "\r\n\r\n"
}

func paths(t testing.TB) map[string]func() *path {
	return map[string]func() *path{
		"GET": func() *path { return newPath(t, http.Outbound, getRequest, okResponse(1024)) },
		"POST": func() *path {
			return newPath(t, http.Outbound, "POST /reviews HTTP/1.1\r\nHost: reviews:9080\r\nContent-Length: 1000\r\n\r\n"+string(bytes.Repeat([]byte{'x'}, 1000)), okResponse(10))
		},
		"chunked": func() *path {
			return newPath(t, http.Outbound, "POST /reviews HTTP/1.1\r\nHost: reviews:9080\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n",
				"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n")
		},
		"60KB": func() *path { return newPath(t, http.Outbound, getRequest, okResponse(60<<10)) },
		"inbound": func() *path {
			return newPath(t, http.Inbound, peerRequest(t), okResponse(1024))
		},
		"session": func() *path { // each client is told of its endpoint, and brings it along
			stays := &route.Session{Cookie: "at", SetCookie: cluster.CookieSuffix("/", time.Hour, nil), TTL: time.Hour}
			known := `at="` + base64.StdEncoding.EncodeToString([]byte("\n\x0d10.2.0.1:9080\x10\xff\xff\xff\xff\x0f")) + `"`
			return newPath(t, http.Inbound, strings.Replace(getRequest, "\r\n", "\r\ncookie: "+known+"\r\n", 1), okResponse(1024),
				session.Stage(stays), session.Stage(&route.Session{Header: "x-at"}), session.Stage(&route.Session{Cookie: "new", SetCookie: "; HttpOnly"}))
		},
		"policies": func() *path {
			return newPath(t, http.Inbound, peerRequest(t), okResponse(1024), accessfilter.Stages(policies())...)
		},
	}
}

// A proxied request leaves no garbage, whatever is on: metrics, access log, metadata exchange, retry policy, routing.
func TestExchangeAllocatesNothing(t *testing.T) {
	for name, start := range paths(t) {
		t.Run(name, func(t *testing.T) {
			p := start()
			for range 50 {
				p.exchange(t) // buffers and lists grow to their working size
			}
			if n := testing.AllocsPerRun(500, func() { p.exchange(t) }); n != 0 {
				t.Errorf("%v allocations per exchange, want 0", n)
			}
		})
	}
}

// BenchmarkExchange is the user code of a whole proxied request, with a network in memory instead of the kernel.
func BenchmarkExchange(b *testing.B) {
	for name, start := range paths(b) {
		b.Run(name, func(b *testing.B) {
			p := start()
			b.ReportAllocs()
			for b.Loop() {
				p.exchange(b)
			}
		})
	}
}

// istioLog is the access log that Istio asks for where nobody says otherwise.
func istioLog(t testing.TB) []observe.AccessLog {
	t.Helper()
	f, err := observe.ParseText(substitution.IstioText, false)
	if err != nil {
		t.Fatal(err)
	}
	return []observe.AccessLog{{Format: f}}
}
