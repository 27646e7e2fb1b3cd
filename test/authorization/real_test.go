package authorization

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/go-jose/go-jose/v4"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/weirmesh/weir/control"
	testmesh "github.com/weirmesh/weir/test/mesh"
)

const echoService = `apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  selector: {app: echo}
  ports: [{name: http, port: 8080}, {name: tcp, port: 9000}]
`

// real is the workload default/echo with its proxy, and whoever calls it.
type real struct {
	m      *testmesh.Mesh
	echo   netip.Addr
	certs  map[string]*tls.Certificate // by identity
	tokens []string                    // of tokensOf
	yes    atomic.Pointer[map[string]bool]
}

// Check is the provider that is asked by gRPC, ServeHTTP the one by HTTP.
func (x *real) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	if (*x.yes.Load())["guard"] {
		return &authv3.CheckResponse{Status: &rpcstatus.Status{}}, nil
	}
	return &authv3.CheckResponse{Status: &rpcstatus.Status{Code: int32(codes.PermissionDenied)}}, nil
}

func (x *real) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	if !(*x.yes.Load())["old"] {
		w.WriteHeader(http.StatusForbidden)
	}
}

// provide runs the providers, outside the mesh: no policy is about them.
func (x *real) provide(t *testing.T) {
	t.Helper()
	text := "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    extensionProviders:\n" +
		"    - {name: guard, envoyExtAuthzGrpc: {service: guard.default.svc.cluster.local, port: 9191}}\n    - {name: old, envoyExtAuthzHttp: {service: old.default.svc.cluster.local, port: 9292}}\n"
	x.m.Config("providers.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: guard}\nspec: {selector: {app: guard}, ports: [{name: grpc, port: 9191}]}\n"+
		"---\napiVersion: v1\nkind: Service\nmetadata: {name: old}\nspec: {selector: {app: guard}, ports: [{name: http, port: 9292}]}\n"+text)
	w := x.m.Workload(testmesh.Spec{Name: "guard-0", NoProxy: true, Labels: map[string]string{"app": "guard"}, Ports: []testmesh.Port{{Name: "grpc", Number: 9191}, {Name: "http", Number: 9292}}})
	byGRPC, err := net.Listen("tcp", w.App(9191).String())
	if err != nil {
		t.Fatal(err)
	}
	byHTTP, err := net.Listen("tcp", w.App(9292).String())
	if err != nil {
		t.Fatal(err)
	}
	g, h := grpc.NewServer(), &http.Server{Handler: x, ReadHeaderTimeout: time.Minute}
	authv3.RegisterAuthorizationServer(g, x)
	var running sync.WaitGroup
	running.Go(func() { _ = g.Serve(byGRPC) })
	running.Go(func() { _ = h.Serve(byHTTP) })
	t.Cleanup(func() { g.Stop(); _ = h.Close(); running.Wait() })
}

func newReal(t *testing.T) *real {
	m := testmesh.New(t, func(o *control.Options) { o.Settings.TrustDomainAliases = []string{"old.example"} })
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var rules []string
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range issuers().Rules {
		rules = append(rules, fmt.Sprintf("{issuer: %q, jwks: '%s'}", r.Issuer, keys))
	}
	m.Config("echo.yaml", echoService+"---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: all}\nspec: {jwtRules: ["+strings.Join(rules, ", ")+"]}\n")
	w := m.Workload(testmesh.Spec{Name: "echo-0", Owner: "echo", ServiceAccount: "echo", Labels: map[string]string{"app": "echo"},
		Ports:   []testmesh.Port{{Name: "http", Number: 8080}, {Name: "tcp", Number: 9000}},
		Program: []string{"echo", "--port", "8080", "--tcp-port", "9000"}})
	x := &real{m: m, echo: w.IP(), certs: map[string]*tls.Certificate{}}
	x.provide(t)
	held := m.Certificate("default", "client")
	for _, id := range ids {
		uri, err := url.Parse("spiffe://" + id)
		if err != nil {
			t.Fatal(err)
		}
		x.certs[id] = m.Forge(held, func(leaf *x509.Certificate) { leaf.URIs = []*url.URL{uri} })
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: crypto.Signer(key), KeyID: "k"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, claims := range tokensOf {
		text := ""
		if claims != nil {
			b, err := json.Marshal(claims)
			if err != nil {
				t.Fatal(err)
			}
			signed, err := signer.Sign(b)
			if err != nil {
				t.Fatal(err)
			}
			if text, err = signed.CompactSerialize(); err != nil {
				t.Fatal(err)
			}
		}
		x.tokens = append(x.tokens, text)
	}
	return x
}

// randomCall is a call that can be made here: over IPv4 loopback, to ports that are served, by identities that the mesh knows; by
// whom the header says counts of those who prove who they are.
func (x *real) randomCall(r *mathrand.Rand) (c *call, token string) {
	for {
		c = randomCall(r)
		if c.source.Is4() && c.port != 7777 && !strings.HasPrefix(c.id, "other.example") {
			break
		}
	}
	c.to = x.echo
	if c.id == "" {
		c.sni, c.remote = "", c.source
	}
	if c.method != "" {
		n := r.IntN(len(tokensOf))
		c.claims, token = tokensOf[n], x.tokens[n]
	}
	return c, token
}

// make makes a call and reports whether it was let through.
func (x *real) make(c *call, token string) (allowed bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.source, 0))}
	conn, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(x.echo, c.port).String())
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return false, err
	}
	if c.id != "" {
		conn = tls.Client(conn, &tls.Config{ServerName: c.sni, Certificates: []tls.Certificate{*x.certs[c.id]}, NextProtos: []string{"istio-http/1.1", "istio"}, InsecureSkipVerify: true})
	}
	if c.method == "" {
		if _, err := io.WriteString(conn, "hello\n"); err != nil {
			return false, nil //nolint:nilerr // reset: refused
		}
		line, _ := bufio.NewReader(conn).ReadString('\n')
		return line == "hello\n", nil
	}
	head := fmt.Sprintf("%s %s?q=/admin HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: 0\r\n", c.method, c.path, c.host)
	if v := c.headers["x-token"]; v != "" {
		head += "x-token: " + v + "\r\n"
	}
	if c.remote != c.source {
		head += "x-forwarded-for: " + c.remote.String() + "\r\n"
	}
	if token != "" {
		head += "Authorization: Bearer " + token + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		return false, err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return false, err
	}
	defer func() { _ = res.Body.Close() }()
	switch res.StatusCode {
	case http.StatusOK:
		return true, nil
	case http.StatusForbidden:
		return false, nil
	}
	text, _ := io.ReadAll(res.Body)
	return false, fmt.Errorf("answered %d %s", res.StatusCode, text)
}

// A proxy that runs lets through and refuses what the policies say, for calls with real certificates, tokens and addresses.
// AUTHORIZATION_SETS is how many sets of policies, of 20 calls each.
func TestARunningProxyDecidesAlike(t *testing.T) {
	sets := 15
	if testing.Short() {
		sets = 4
	}
	if n, err := strconv.Atoi(os.Getenv("AUTHORIZATION_SETS")); err == nil {
		sets = n
	}
	const calls = 20
	x := newReal(t)
	denied := 0
	for seed := range uint64(sets) {
		r := mathrand.New(mathrand.NewPCG(seed, 12))
		var texts []string
		var set []policy
		for i := range 1 + r.IntN(3) {
			set = append(set, randomPolicy(r))
			_, text := lower(t, fmt.Sprintf("p%d", i), &set[i])
			texts = append(texts, text)
		}
		x.m.Config("set.yaml", strings.Join(texts, "\n---\n")+"\n")
		for range calls {
			c, token := x.randomCall(r)
			x.yes.Store(&c.yes)
			want := naive(set, c)
			got, err := x.make(c, token)
			if err != nil || got != want {
				t.Fatalf("seed %d: %+v is allowed %v by the proxy (%v), %v by what the policies say:\n%s", seed, c, got, err, want, strings.Join(texts, "\n"))
			}
			if !got {
				denied++
			}
		}
	}
	if all := sets * calls; denied < all/5 || denied > all*4/5 {
		t.Errorf("%d of %d are denied: the policies or calls are not random enough", denied, all)
	}
	t.Logf("%d of %d are denied", denied, sets*calls)
	if slices.Contains(x.tokens[2:], "") {
		t.Error("a token is missing")
	}
}
