package plainxds

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/local_ratelimit/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// guard decides who may come in, asked by HTTP or by gRPC, by x-token alone.
type guard struct {
	authv3.UnimplementedAuthorizationServer
	asked atomic.Int64
	last  atomic.Value // what it saw, as text
	ended chan struct{}
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.asked.Add(1)
	body, _ := io.ReadAll(r.Body)
	g.last.Store(fmt.Sprintf("%s %s%s asker=%s token=%s other=%s partial=%s body=%s", r.Method, r.Host, r.URL, r.Header.Get("x-asker"), r.Header.Get("x-token"), r.Header.Get("x-other"), r.Header.Get("x-envoy-auth-partial-body"), body))
	switch r.Header.Get("x-token") {
	case "good":
		w.Header().Set("x-added", "by the guard")
		w.Header().Set("x-not-added", "x")
		w.Header().Set("x-greeting", "welcome")
		w.Header().Set("x-envoy-auth-headers-to-remove", "x-secret, X-Other")
	case "vip":
		w.Header().Set("x-added", "vip")
	case "slow":
		select {
		case <-r.Context().Done():
		case <-g.ended:
		}
	case "broken":
		w.WriteHeader(http.StatusInternalServerError)
	default:
		w.Header().Set("www-authenticate", "Bearer")
		w.Header().Set("x-reason", "no token")
		w.Header().Set("x-internal", "not for clients")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, "go away")
	}
}

func (g *guard) Check(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	g.asked.Add(1)
	h := r.GetAttributes().GetRequest().GetHttp()
	g.last.Store(fmt.Sprintf("%s %s%s from=%s context=%v headers=%s,%s,%s body=%s", h.GetMethod(), h.GetHost(), h.GetPath(), r.GetAttributes().GetSource().GetAddress().GetSocketAddress().GetAddress(),
		r.GetAttributes().GetContextExtensions(), h.GetHeaders()[":method"], h.GetHeaders()["x-token"], h.GetHeaders()["x-other"], h.GetBody()))
	header := func(k, v string, appends bool) *corev3.HeaderValueOption {
		return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: k, Value: v}, Append: wrapperspb.Bool(appends)}
	}
	switch h.GetHeaders()["x-token"] {
	case "good":
		return &authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers: []*corev3.HeaderValueOption{header("x-added", "by the guard", false)}, HeadersToRemove: []string{"x-secret"},
			ResponseHeadersToAdd: []*corev3.HeaderValueOption{header("x-greeting", "welcome", true)}}}}, nil
	case "slow":
		select {
		case <-ctx.Done():
		case <-g.ended:
		}
		return nil, ctx.Err()
	case "broken":
		return &authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers: []*corev3.HeaderValueOption{header("x-added", "a\r\nx-injected: b", false)}}}}, nil
	case "bare":
		return &authv3.CheckResponse{Status: &status.Status{Code: int32(codes.PermissionDenied)}}, nil
	}
	return &authv3.CheckResponse{Status: &status.Status{Code: int32(codes.Unauthenticated)}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
		Status: &typev3.HttpStatus{Code: typev3.StatusCode_Unauthorized}, Body: "go away", Headers: []*corev3.HeaderValueOption{header("x-reason", "no token", false), header("content-type", "text/html", false)}}}}, nil
}

func (g *guard) saw() string {
	s, _ := g.last.Load().(string)
	return s
}

// guarded is a proxy whose listeners ask a guard.
func guarded(t *testing.T) (*plane, *guard) {
	t.Helper()
	p, g := newPlane(t, false), &guard{ended: make(chan struct{})}
	web := httptest.NewServer(g)
	t.Cleanup(web.Close)
	_, p.vars["AUTH"], _ = net.SplitHostPort(web.Listener.Addr().String())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, p.vars["AUTHGRPC"], _ = net.SplitHostPort(l.Addr().String())
	s := grpc.NewServer()
	authv3.RegisterAuthorizationServer(s, g)
	var running sync.WaitGroup
	running.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { s.Stop(); running.Wait() })
	t.Cleanup(func() { close(g.ended) })
	p.vars["OPEN"], p.vars["PARTIAL"] = "false", "false"
	p.publish(nil, "authz.yaml")
	p.run()
	p.answers(map[string]string{":10100/free": "200 a /free", ":10104/x": "200 a /x"})
	return p, g
}

// call makes one request and returns the answer with the headers that are asked about.
func (p *plane) call(method, url, body string, header ...string) (*http.Response, string) {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), method, "http://"+p.vars["IP"]+url, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	r.Host = "app.example"
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp, strings.TrimSpace(fmt.Sprintf("%d %s", resp.StatusCode, b))
}

// An HTTP service says yes, with headers for the request and for the client, says no, or says nothing of use.
func TestAskedByHTTP(t *testing.T) {
	p, g := guarded(t)
	expect := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	resp, got := p.call("POST", ":10100/x?q=1", "12345678", "x-token", "good", "x-other", "o", "authorization", "me")
	expect("yes", got, "200 a /x by the guard")
	expect("yes, for the client", resp.Header.Get("x-greeting"), "welcome")
	expect("what the service saw", g.saw(), "POST app.example/check/x?q=1 asker=proxy token=good other= partial=false body=12345678")
	resp, got = p.call("GET", ":10100/x", "", "x-token", "bad")
	expect("no", got, "401 go away")
	expect("no, for the client", resp.Header.Get("www-authenticate")+"|"+resp.Header.Get("x-reason")+"|"+resp.Header.Get("x-internal"), "Bearer|no token|")
	_, got = p.call("GET", ":10100/x", "", "x-token", "vip")
	expect("another route", got, "200 a /vipx vip")
	_, got = p.call("GET", ":10100/x", "", "x-token", "broken")
	expect("status_on_error", got, "503")
	_, got = p.call("GET", ":10100/x", "", "x-token", "slow")
	expect("timeout", got, "503")
	_, got = p.call("POST", ":10100/x", "123456789", "x-token", "good")
	expect("too large a body", got, "413 Payload Too Large")
	n := g.asked.Load()
	_, got = p.call("GET", ":10100/free", "")
	expect("a route that asks nobody", got, "200 a /free")
	if g.asked.Load() != n {
		t.Error("the service was asked about a route without it")
	}
	p.vars["OPEN"], p.vars["PARTIAL"] = "true", "true"
	p.publish(nil, "authz.yaml")
	p.until("failure_mode_allow", func() error {
		if _, got := p.call("GET", ":10100/x", "", "x-token", "broken"); got != "200 a /x" {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
	_, got = p.call("POST", ":10100/x", "123456789", "x-token", "good")
	expect("a part of the body", got, "200 a /x by the guard")
	expect("what the service saw of it", g.saw(), "POST app.example/check/x asker=proxy token=good other= partial=true body=12345678")
}

// A gRPC service does the same.
func TestAskedByGRPC(t *testing.T) {
	p, g := guarded(t)
	for _, c := range []struct{ token, want, headers string }{
		{"good", "200 a /x by the guard", "welcome||text/plain; charset=utf-8"},
		{"bad", "401 go away", "|no token|text/html"},
		{"bare", "403", "||"},
		{"broken", "403", "||"},
		{"slow", "403", "||"},
	} {
		resp, got := p.call("POST", ":10101/x", "body", "x-token", c.token, "x-other", "o")
		if h := resp.Header.Get("x-greeting") + "|" + resp.Header.Get("x-reason") + "|" + resp.Header.Get("content-type"); got != c.want || h != c.headers {
			t.Errorf("%s: %q %q, want %q %q", c.token, got, h, c.want, c.headers)
		}
		if want := "POST app.example/x from=127.0.0.1 context=map[] headers=POST," + c.token + ",o body=body"; g.saw() != want {
			t.Errorf("the service saw %q, want %q", g.saw(), want)
		}
	}
	stats := map[string]int64{}
	for _, s := range p.proxy.ServerStats() {
		stats[s.Name] = s.Value
	}
	for name, want := range map[string]int64{"http.by_grpc.ext_authz.ok": 1, "http.by_grpc.ext_authz.denied": 2, "http.by_grpc.ext_authz.error": 1} {
		if stats[name] != want {
			t.Errorf("%s is %d, want %d", name, stats[name], want)
		}
	}
	if p.call("GET", ":10101/context", "", "x-token", "good"); !strings.Contains(g.saw(), "context=map[route:special]") {
		t.Errorf("the service saw %q", g.saw())
	}
	if _, got := p.call("GET", ":10101/x", "", "x-token", "bad", "content-type", "application/grpc"); got != "200" {
		t.Errorf("a gRPC client: %q, want a status of gRPC's", got)
	}
}

// As AuthorizationPolicy CUSTOM has it: who is asked about is said by shadow rules, and whoever reads the path otherwise does
// not get around it.
func TestAskedOnCondition(t *testing.T) {
	p, g := guarded(t)
	for path, want := range map[string]string{"/": "200 a /", "/admin": "401 go away", "/admin/x": "401 go away", "/public": "200 a /public", "//admin": "401 go away", "/%2Fadmin": "401 go away"} {
		before := g.asked.Load()
		if _, got := p.call("GET", ":10102"+path, ""); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
		if asked := g.asked.Load() > before; asked != strings.HasPrefix(want, "401") {
			t.Errorf("%s: asked: %v", path, asked)
		}
	}
	if _, got := p.call("GET", ":10102/admin", "", "x-token", "good"); got != "200 a /admin" {
		t.Errorf("with a token: %q", got)
	}
}

// A limit lets exactly so many pass, however many workers there are, and says so; a route's is its own.
func TestLocalRateLimit(t *testing.T) {
	p, _ := guarded(t)
	var passed, refused, odd atomic.Int64
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			switch resp, got := p.call("GET", ":10103/x", ""); {
			case got == "200 a /x" && resp.Header.Get("x-ratelimit-limit") == "40":
				passed.Add(1)
			case got == "429 local_rate_limited" && resp.Header.Get("x-local-rate-limit") == "true" && resp.Header.Get("x-ratelimit-remaining") == "0":
				refused.Add(1)
			default:
				odd.Add(1)
				t.Errorf("%q %v", got, resp.Header)
			}
		})
	}
	all.Wait()
	if passed.Load() != 40 || refused.Load() != 60 {
		t.Errorf("%d passed, %d were refused; want 40, 60", passed.Load(), refused.Load())
	}
	stats := map[string]int64{}
	for _, s := range p.proxy.ServerStats() {
		stats[s.Name] = s.Value
	}
	const limit = "http_local_rate_limiter.http_local_rate_limit."
	for name, want := range map[string]int64{limit + "enabled": 100, limit + "enforced": 60, limit + "ok": 40, limit + "rate_limited": 60} {
		if stats[name] != want {
			t.Errorf("%s is %d, want %d", name, stats[name], want)
		}
	}
	var got []string
	for range 3 {
		resp, s := p.call("GET", ":10103/seldom", "")
		got = append(got, strings.TrimSpace(s+" "+resp.Header.Get("retry-after")))
	}
	if want := "200 a /seldom,200 a /seldom,503 local_rate_limited 3600"; strings.Join(got, ",") != want {
		t.Errorf("%v, want %s", got, want)
	}
	for i := range 4 { // one came when the proxy began
		if got, err := p.relayed("10104", "127.0.0.1"); (err == nil) != (i < 2) {
			t.Errorf("connection %d: %q, %v", i+2, got, err)
		}
	}
}
