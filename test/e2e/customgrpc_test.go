package e2e_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/test/mesh"
)

// guard is a provider of decisions by gRPC, a workload of the mesh. Of a request x-want says what it answers, of a connection what it was told.
type guard struct {
	authv3.UnimplementedAuthorizationServer
	mu    sync.Mutex
	mode  string // of connections
	asked []string
	left  chan struct{} // has a value when who asked went before the answer
}

func startGuard(t *testing.T, w *mesh.Workload) *guard {
	t.Helper()
	g := &guard{left: make(chan struct{}, 1)}
	l, err := net.Listen("tcp", w.App(9191).String())
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	authv3.RegisterAuthorizationServer(s, g)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return g
}

// says sets what connections are told, and forgets who was asked about.
func (g *guard) says(mode string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mode, g.asked = mode, nil
}

func (g *guard) saw() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asked
}

func (g *guard) Check(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	a, h := r.GetAttributes(), r.GetAttributes().GetRequest().GetHttp()
	about := fmt.Sprintf("%s>%s:%d", a.GetSource().GetPrincipal(), a.GetDestination().GetPrincipal(), a.GetDestination().GetAddress().GetSocketAddress().GetPortValue())
	if h != nil {
		about += fmt.Sprintf(" %s %s %s%s", h.GetMethod(), h.GetPath(), h.GetBody(), h.GetRawBody())
	}
	g.mu.Lock()
	mode := g.mode
	g.asked = append(g.asked, about)
	g.mu.Unlock()
	if h != nil {
		mode = h.GetHeaders()["x-want"]
	}
	header := func(k, v string) *corev3.HeaderValueOption {
		return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: k, Value: v}, Append: wrapperspb.Bool(false)}
	}
	switch mode {
	case "slow":
		<-ctx.Done()
		select {
		case g.left <- struct{}{}:
		default:
		}
		return nil, ctx.Err()
	case "broken":
		return nil, fmt.Errorf("the database of the provider is away")
	case "no":
		return &authv3.CheckResponse{Status: &status.Status{Code: int32(codes.PermissionDenied)}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode_PaymentRequired}, Body: "pay first", Headers: []*corev3.HeaderValueOption{header("x-reason", "unpaid")}}}}, nil
	}
	return &authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
		Headers: []*corev3.HeaderValueOption{header("x-user", "jane")}, HeadersToRemove: []string{"x-secret"},
		ResponseHeadersToAdd: []*corev3.HeaderValueOption{header("x-checked", "yes")}}}}, nil
}

// guarded is a mesh in which echo's requests under /ask and its connections to port 9000 are asked about.
func guarded(t *testing.T) (m *mesh.Mesh, client, echo *mesh.Workload, g *guard, config func(port, provider string)) {
	m = mesh.New(t, nil)
	m.Config("echo.yaml", echoService+"---\napiVersion: v1\nkind: Service\nmetadata: {name: guard}\nspec: {selector: {app: guard}, ports: [{name: grpc, port: 9191}]}\n")
	pod := echoPod("echo-0", "v1")
	pod.Proxy = func(o *proxy.Options) { o.ListenerDrain = 500 * time.Millisecond }
	all := m.Workloads(caller("client"), pod, mesh.Spec{Name: "guard-0", Owner: "guard", ServiceAccount: "guard", Labels: map[string]string{"app": "guard"}, Ports: []mesh.Port{{Name: "grpc", Number: 9191}}})
	client, echo, g = all[0], all[1], startGuard(t, all[2])
	config = func(to, provider string) {
		t.Helper()
		m.Config("custom.yaml", authorizationPolicy("custom", "{"+echoOnly+", action: CUSTOM, provider: {name: guard}, rules: [{to: [{operation: {"+to+"}}]}]}")+
			"---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    accessLogFile: /dev/stdout\n    extensionProviders:\n    - name: guard\n      "+provider+"\n")
	}
	return m, client, echo, g, config
}

const byGRPC = "envoyExtAuthzGrpc: {service: guard.default.svc.cluster.local, port: 9191, timeout: %s%s}"

// envoyExtAuthzGrpc about requests: a real gRPC server in the mesh says yes and changes headers, says no with status, headers and body,
// breaks, or takes too long; all of it over mTLS, told by identity.
func TestCustomByGRPC(t *testing.T) {
	t.Parallel()
	_, client, echo, g, config := guarded(t)
	const bodies = ", includeRequestBodyInCheck: {maxRequestBytes: 8, allowPartialMessage: %s, packAsBytes: %s}"
	last := ""
	for _, c := range []struct {
		name, provider string // provider "": as before
		path, header   string
		body           string
		want           int
		saw, log       string
		answer         string // "NAME: VALUE" of a header, or the body
		program        string // what echo got
	}{
		{name: "yes", provider: fmt.Sprintf(byGRPC, "5s", ""), path: "/ask/x?q", header: "x-want: yes", want: 200, saw: " GET /ask/x?q ", log: "200 - via_upstream", answer: "X-Checked: yes", program: "jane"},
		{name: "no", path: "/ask/x", header: "x-want: no", want: 402, saw: " GET /ask/x ", log: "402 UAEX ext_authz_denied", answer: "pay first"},
		{name: "no with a header", path: "/ask/x", header: "x-want: no", want: 402, saw: " GET /ask/x ", answer: "X-Reason: unpaid"},
		{name: "an error", path: "/ask/x", header: "x-want: broken", want: 403, saw: " GET /ask/x ", log: "403 UAEX ext_authz_error"},
		{name: "not asked", path: "/free", header: "x-want: no", want: 200},
		{name: "the body is not shown", path: "/ask/x", header: "x-want: yes", body: "secret", want: 200, saw: " POST /ask/x "},
		{name: "another status for errors", provider: fmt.Sprintf(byGRPC, "5s", ", statusOnError: '507'"), path: "/ask/x", header: "x-want: broken", want: 507, saw: " GET /ask/x ", log: "507 UAEX ext_authz_error"},
		{name: "open", provider: fmt.Sprintf(byGRPC, "5s", ", failOpen: true"), path: "/ask/x", header: "x-want: broken", want: 200, saw: " GET /ask/x ", log: "200 - via_upstream"},
		{name: "open is no yes to a no", path: "/ask/x", header: "x-want: no", want: 402, saw: " GET /ask/x "},
		{name: "too slow", provider: fmt.Sprintf(byGRPC, "0.05s", ""), path: "/ask/x", header: "x-want: slow", want: 403, saw: " GET /ask/x ", log: "403 UAEX ext_authz_error"},
		{name: "too slow and open", provider: fmt.Sprintf(byGRPC, "0.05s", ", failOpen: true"), path: "/ask/x", header: "x-want: slow", want: 200, saw: " GET /ask/x "},
		{name: "the body", provider: fmt.Sprintf(byGRPC, "5s", fmt.Sprintf(bodies, "false", "false")), path: "/ask/x", header: "x-want: yes", body: "12345678", want: 200, saw: " POST /ask/x 12345678"},
		{name: "too large a body", path: "/ask/x", header: "x-want: yes", body: "123456789", want: 413},
		{name: "a part of the body", provider: fmt.Sprintf(byGRPC, "5s", fmt.Sprintf(bodies, "true", "false")), path: "/ask/x", header: "x-want: yes", body: "123456789", want: 200, saw: " POST /ask/x 12345678"},
		{name: "the body as bytes", provider: fmt.Sprintf(byGRPC, "5s", fmt.Sprintf(bodies, "false", "true")), path: "/ask/x", header: "x-want: yes", body: "\xff\x00", want: 200, saw: " POST /ask/x \xff\x00"},
		{name: "no such service, though it is open", provider: strings.Replace(fmt.Sprintf(byGRPC, "5s", ", failOpen: true"), "guard.default", "missing.default", 1), path: "/ask/x", header: "x-want: yes", want: 403, log: "403 UAEX ext_authz_error"},
	} {
		if c.provider != "" && c.provider != last {
			config("paths: [/ask/*]", c.provider)
			last = c.provider
		}
		g.says("")
		id, method := strings.ReplaceAll(c.name, " ", "-"), "GET"
		if c.body != "" {
			method = "POST"
		}
		r := client.Do(method, "http://echo:8080"+c.path, []byte(c.body), "x-request-id: "+id, "x-secret: s", c.header)
		if r.Status != c.want {
			t.Errorf("%s: %v, want %d", c.name, r, c.want)
		}
		if name, value, ok := strings.Cut(c.answer, ": "); ok && r.Header.Get(name) != value || !ok && c.answer != "" && string(r.Body) != c.answer {
			t.Errorf("%s: %v with %v, want %q", c.name, r, r.Header, c.answer)
		}
		if got := string(r.Body); c.program != "" && (!strings.Contains(got, c.program) || strings.Contains(strings.ToLower(got), "x-secret")) {
			t.Errorf("%s: the program got %q, want %q in it, and no x-secret", c.name, got, c.program)
		}
		want := []string(nil)
		if c.saw != "" {
			want = []string{"spiffe://cluster.local/ns/default/sa/client>spiffe://cluster.local/ns/default/sa/echo:8080" + c.saw}
		}
		if got := g.saw(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: the provider saw %q, want %q", c.name, got, want)
		}
		if line := echo.AccessLog(id); c.log != "" && (len(line) != 1 || !strings.Contains(line[0], c.log)) {
			t.Errorf("%s: the log says %q, want %q", c.name, line, c.log)
		}
	}
}

// envoyExtAuthzGrpc about connections: nothing of a connection reaches the program before the provider has said yes. Who is refused is cut off
// and recorded with the policy; who goes before the answer takes the question along; a provider by HTTP cannot be asked, and denies.
func TestCustomOfConnections(t *testing.T) {
	t.Parallel()
	m, client, echo, g, config := guarded(t)
	outside := func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(echo.At(9000), "http://"))
	}
	const port, from = "ports: ['9000']", "spiffe://cluster.local/ns/default/sa/client>spiffe://cluster.local/ns/default/sa/echo:9000"
	last := ""
	for _, c := range []struct {
		name, provider, to string
		mode               string
		dial               func(context.Context) (net.Conn, error)
		passes             bool
		saw, log           string
	}{
		{name: "yes", provider: fmt.Sprintf(byGRPC, "5s", ""), mode: "yes", passes: true, saw: from},
		{name: "no", mode: "no", saw: from, log: " UAEX - ext_authz_denied "},
		{name: "an error", mode: "broken", saw: from, log: " UAEX - ext_authz_error "},
		{name: "without an identity", mode: "yes", dial: outside, passes: true, saw: ">:9000"},
		{name: "without an identity, no", mode: "no", dial: outside, saw: ">:9000", log: " UAEX - ext_authz_denied "},
		{name: "open", provider: fmt.Sprintf(byGRPC, "5s", ", failOpen: true"), mode: "broken", passes: true, saw: from},
		{name: "open is no yes to a no", mode: "no", saw: from},
		{name: "too slow", provider: fmt.Sprintf(byGRPC, "0.05s", ""), mode: "slow", saw: from, log: " UAEX - ext_authz_error "},
		{name: "too slow and open", provider: fmt.Sprintf(byGRPC, "0.05s", ", failOpen: true"), mode: "slow", passes: true, saw: from},
		{name: "a rule about requests asks about every connection", to: "methods: [POST]", provider: fmt.Sprintf(byGRPC, "5s", ""), mode: "no", saw: from},
		{name: "another port", to: "ports: ['8080']", provider: fmt.Sprintf(byGRPC, "5s", ""), mode: "no", passes: true},
		{name: "no such service, though it is open", provider: strings.Replace(fmt.Sprintf(byGRPC, "5s", ", failOpen: true"), "guard.default", "missing.default", 1), mode: "yes", log: " UAEX - ext_authz_error "},
		{name: "by HTTP nobody can be asked", provider: "envoyExtAuthzHttp: {service: guard.default.svc.cluster.local, port: 9191, failOpen: true}", mode: "yes", log: "ns[default]-policy[custom]-rule[0]-deny-due-to-bad-CUSTOM-action"},
	} {
		to := port
		if c.to != "" {
			to = c.to
		}
		if c.provider != "" && c.provider+to != last {
			config(to, c.provider)
			last = c.provider + to
		}
		g.says(c.mode)
		dial := c.dial
		if dial == nil {
			dial = dialer(client, "echo:9000")
		}
		seen := len(echo.LoggedWith(c.log))
		if got := passes(dial); got != c.passes {
			t.Errorf("%s: the connection passes: %v", c.name, got)
		}
		want := []string(nil)
		if c.saw != "" {
			want = []string{c.saw}
		}
		got := g.saw()
		if c.dial != nil { // may speak TLS, as long as it says nothing: asked about as the stranger that it seems to be, and, if that was refused, when it speaks
			got = slices.Compact(slices.Clone(got))
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: the provider saw %q, want %q", c.name, got, want)
		}
		if c.log != "" {
			m.Eventually(c.name+" is logged", func() error {
				if n := len(echo.LoggedWith(c.log)); n != seen+1 {
					return fmt.Errorf("%d lines more say %q", n-seen, c.log)
				}
				return nil
			})
		}
	}

	config(port, fmt.Sprintf(byGRPC, "600s", ""))
	g.says("slow")
	c, err := client.Dial(t.Context(), "echo:9000")
	if err != nil {
		t.Fatal(err)
	}
	m.Eventually("the provider is asked", func() error {
		if len(g.saw()) == 0 {
			return fmt.Errorf("it is not")
		}
		return nil
	})
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
	<-g.left

	// Who was let in is not asked about again when policies change in another way; who never was asked about has to be.
	g.says("yes")
	kept := open(t, client)
	kept.says(t, "one")
	config("ports: ['9000', '9001']", fmt.Sprintf(byGRPC, "5s", ", failOpen: true"))
	g.says("no")
	kept.says(t, "two")
	if got := g.saw(); len(got) > 0 {
		t.Errorf("a connection that was let in was asked about again: %q", got)
	}
	// A program that speaks first says nothing to who has not been asked about, and is heard at once by who may come: a client outside the mesh
	// does not have to say a word for that. Who may not come and says one is cut off.
	db := m.Workload(mesh.Spec{Name: "db-0", Labels: map[string]string{"app": "db"}, Ports: []mesh.Port{{Name: "tcp", Number: 5432}}})
	greet(t, db.App(5432).String())
	m.Config("db.yaml", documents("apiVersion: v1\nkind: Service\nmetadata: {name: db}\nspec: {selector: {app: db}, ports: [{name: tcp, port: 5432}]}\n",
		authorizationPolicy("db", "{selector: {matchLabels: {app: db}}, action: CUSTOM, provider: {name: guard}, rules: [{}]}")))
	first := func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(db.At(5432), "http://"))
	}
	for range 2 {
		g.says("yes")
		if got, err := greeted(first); err != nil || got != "hello, who are you?\nI am x\n" {
			t.Errorf("a program that speaks first: %q, %v", got, err)
		}
		g.says("no")
		if got, err := exchangeWith(first, "I am x\n"); err == nil {
			t.Errorf("a program that speaks first said %q to who is not let in", got)
		}
	}

	m.Remove("custom.yaml")
	m.Settle()
	free := open(t, client)
	free.says(t, "one")
	config(port, fmt.Sprintf(byGRPC, "5s", ""))
	if _, err := free.r.ReadString('\n'); err == nil {
		t.Error("a connection goes on that nobody has been asked about")
	}
	m.Eventually("the log says why", func() error {
		if len(echo.LoggedWith("ext_authz_error{not_asked}")) != 1 {
			return fmt.Errorf("%q", echo.AccessLog())
		}
		return nil
	})
}

// steady is a connection that stays.
type steady struct {
	c net.Conn
	r *bufio.Reader
}

func open(t *testing.T, w *mesh.Workload) *steady {
	t.Helper()
	c, err := w.Dial(t.Context(), "echo:9000")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return &steady{c, bufio.NewReader(c)}
}

func (k *steady) says(t *testing.T, word string) {
	t.Helper()
	if _, err := io.WriteString(k.c, word+"\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := k.r.ReadString('\n'); err != nil || got != word+"\n" {
		t.Fatalf("%s: the answer is %q, %v", word, got, err)
	}
}
