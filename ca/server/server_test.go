package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/structpb"
	securityv1alpha1 "istio.io/api/security/v1alpha1"

	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/ca/internal/limit"
	"github.com/weirmesh/weir/ca/token"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/identity/istioca"
	"github.com/weirmesh/weir/internal/redact"
)

var (
	cart   = identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "cart"}
	istiod = identity.ID{TrustDomain: "cluster.local", Namespace: "istio-system", ServiceAccount: "istiod"}
)

// controlPlane is the authority with its port, which can go away and come back.
type controlPlane struct {
	t      *testing.T
	dir    string
	key    *token.Key
	server *Server

	mu   sync.Mutex
	port *bufconn.Listener // nil: away
	grpc *grpc.Server
}

// longest is what the operator allows.
const longest = 45 * 24 * time.Hour

func newControlPlane(t *testing.T, change func(*Options)) *controlPlane {
	t.Helper()
	c := &controlPlane{t: t, dir: filepath.Join(t.TempDir(), "ca")}
	c.start(change)
	t.Cleanup(c.stop)
	return c
}

// start opens everything from the folder, as a control plane that starts does.
func (c *controlPlane) start(change func(*Options)) {
	c.t.Helper()
	authority, err := ca.OpenSelfSigned(c.dir, "cluster.local", ca.Options{MaxTTL: longest})
	if err != nil {
		c.t.Fatal(err)
	}
	if c.key, err = token.OpenKey(c.dir); err != nil {
		c.t.Fatal(err)
	}
	mesh := identity.TrustDomains{"cluster.local", "old.domain"}
	o := Options{
		Authority: authority, TrustDomains: func() []string { return mesh }, Log: slog.New(slog.DiscardHandler),
		Authenticators: []Authenticator{Certificates{Authority: authority, Accept: mesh}, Tokens{Key: c.key, Uses: token.OpenUses(c.dir)}},
	}
	if change != nil {
		change(&o)
	}
	if c.server, err = New(o); err != nil {
		c.t.Fatal(err)
	}
	own, err := authority.Issue(ca.Grant{ID: istiod, TTL: longest})
	if err != nil {
		c.t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(identity.ServerTLS(own, mesh, false))))
	c.server.Register(s)
	l := bufconn.Listen(1 << 16)
	go s.Serve(l)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.port, c.grpc = l, s
}

func (c *controlPlane) authority() *ca.Authority {
	a, _ := c.server.o.Authority.Watch()
	return a
}

func (c *controlPlane) stop() {
	c.mu.Lock()
	s := c.grpc
	c.port, c.grpc = nil, nil
	c.mu.Unlock()
	if s != nil {
		s.Stop()
	}
}

func (c *controlPlane) dial(ctx context.Context, _ string) (net.Conn, error) {
	c.mu.Lock()
	l := c.port
	c.mu.Unlock()
	if l == nil {
		return nil, errors.New("connection refused")
	}
	return l.DialContext(ctx)
}

func (c *controlPlane) token(id identity.ID, life time.Duration) redact.String {
	c.t.Helper()
	s, err := c.key.Mint(token.Claims{ID: id, Workload: id.ServiceAccount + "-0", Audience: token.Audience, Expires: time.Now().Add(life)})
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// client is what a proxy asks with.
func (c *controlPlane) client(tok func() (redact.String, error)) *istioca.Client {
	c.t.Helper()
	client, err := istioca.New(istioca.Options{
		Address: "passthrough:///istiod", Servers: identity.OneOf{istiod}, Token: tok, WorkloadName: "cart-0", ClusterID: "Kubernetes",
		Dial: []grpc.DialOption{grpc.WithContextDialer(c.dial)},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return client
}

func (c *controlPlane) counters() map[string]float64 {
	got := map[string]float64{}
	for _, m := range c.server.Metrics() {
		if m.Counter && m.Value != 0 {
			name := strings.TrimPrefix(m.Name, "citadel_server_")
			if m.Error != "" {
				name += "{" + m.Error + "}"
			}
			got[name] = m.Value
		}
	}
	return got
}

func once(s redact.String) func() (redact.String, error) {
	return func() (redact.String, error) { return s, nil }
}

// A workload starts before its control plane with nothing but a token; gets its
// certificate; renews with that when the token is long expired; lives through
// outages and restarts of the control plane, one of them longer than its
// certificate; and comes back by a new token.
func TestLifeOfAWorkload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newControlPlane(t, nil)
		bundle := c.authority().Bundle()
		var mu sync.Mutex
		tok := c.token(cart, time.Hour)
		m, err := identity.NewManager(identity.Options{
			ID: cart, Bootstrap: bundle, Log: slog.New(slog.DiscardHandler),
			Signer: c.client(func() (redact.String, error) { mu.Lock(); defer mu.Unlock(); return tok, nil }),
		})
		if err != nil {
			t.Fatal(err)
		}
		c.stop()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()

		time.Sleep(time.Minute)
		if s := m.Status(); m.Current() != nil || s.Failures < 5 || !strings.Contains(s.LastError, "connection refused") {
			t.Errorf("before the control plane: %+v", s)
		}
		_, changed := m.Watch()
		c.start(nil)
		<-changed
		first := m.Current()
		if first.ID() != cart || !first.Usable(time.Now()) {
			t.Fatalf("first certificate: %v", first)
		}

		// Two days, in which the token has long expired.
		time.Sleep(48 * time.Hour)
		if now := m.Current(); now == first || !now.Usable(time.Now()) {
			t.Errorf("after two days: %v", now)
		}
		if got := c.counters(); got["authentication_failure_count"] != 0 || got["success_cert_issuance_count"] < 4 {
			t.Errorf("counters %v", got)
		}

		c.stop()
		time.Sleep(6 * time.Hour)
		if !m.Current().Usable(time.Now()) {
			t.Error("lost in an outage of six hours")
		}
		c.start(nil)
		time.Sleep(24 * time.Hour)
		if s := m.Status(); !m.Current().Usable(time.Now()) || s.Failures != 0 {
			t.Errorf("after a restart of the control plane: %+v", s)
		}

		// Longer than its certificate lives: the token is needed again.
		c.stop()
		time.Sleep(time.Until(m.Current().NotAfter()) + 5*time.Minute)
		c.start(nil)
		time.Sleep(time.Minute)
		if s := m.Status(); m.Current().Usable(time.Now()) || !strings.Contains(s.LastError, "bearer token: the token of "+cart.String()+" expired") {
			t.Errorf("with an expired certificate and token: %+v", s)
		}
		_, changed = m.Watch()
		mu.Lock()
		tok = c.token(cart, time.Hour)
		mu.Unlock()
		<-changed
		if s := m.Status(); !m.Current().Usable(time.Now()) || s.Failures != 0 {
			t.Errorf("with a new token: %+v", s)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A control plane whose folder was lost has a new root. A workload that trusted
// the old one refuses it, and says so.
func TestLostFolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, c := newControlPlane(t, nil), newControlPlane(t, nil)
		held, err := old.authority().Issue(ca.Grant{ID: cart})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.client(once(c.token(cart, time.Hour))).Sign(t.Context(), identity.Request{CSR: csr(t), As: held})
		if err == nil || !strings.Contains(err.Error(), "none of the 1 trusted roots") || !strings.Contains(err.Error(), "the server presented "+istiod.String()) {
			t.Errorf("error %v", err)
		}
	})
}

func csr(t *testing.T) []byte {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := identity.NewRequest(key, istiod) // a wish that must not come true
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func weakCSR(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// Who is answered what, as any client on the wire sees it; and each answer is a line of the log that says who got what, or
// who was refused and why, without the credential.
func TestCreateCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		c := newControlPlane(t, func(o *Options) {
			o.Log = slog.New(slog.NewTextHandler(&log, nil))
			certificates := o.Authenticators[0].(Certificates)
			certificates.Renew = func(_ context.Context, id identity.ID, _ *x509.Certificate) error {
				if id.ServiceAccount == "gone" {
					return errors.New("the service account does not exist")
				}
				return nil
			}
			o.Authenticators[0] = certificates
		})
		authority := c.authority()
		material := func(id identity.ID) *identity.Material {
			m, err := authority.Issue(ca.Grant{ID: id})
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		account := func(name string) identity.ID {
			return identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: name}
		}
		foreign := identity.ID{TrustDomain: "other.domain", Namespace: "shop", ServiceAccount: "cart"}
		alias := identity.ID{TrustDomain: "old.domain", Namespace: "shop", ServiceAccount: "cart"}
		bearer := func(s redact.String) []string { return []string{"authorization", "Bearer " + s.Reveal()} }
		good := bearer(c.token(cart, time.Hour))
		other := newControlPlane(t, nil)

		for _, test := range []struct {
			name    string
			headers []string
			held    *identity.Material
			request *securityv1alpha1.IstioCertificateRequest // nil: a good one
			code    codes.Code
			text    string
			want    identity.ID
			ttl     time.Duration // zero: the default
			count   string
		}{
			{name: "a token", headers: good, want: cart},
			{name: "a token with the scheme in capitals", headers: []string{"authorization", "BEARER " + c.token(cart, time.Hour).Reveal()}, want: cart},
			{name: "a token beside other credentials", headers: append([]string{"authorization", "Basic dTpw"}, good...), want: cart},
			{name: "a certificate", held: material(cart), want: cart},
			{name: "a certificate of an alias", held: material(alias), want: alias},
			{name: "a certificate and a useless token", held: material(cart), headers: bearer(redact.New("weir1.x.y")), want: cart},
			{name: "a shorter life", headers: good, request: &securityv1alpha1.IstioCertificateRequest{ValidityDuration: 3600}, want: cart, ttl: time.Hour},
			{name: "the longest life that the operator allows", headers: good, request: &securityv1alpha1.IstioCertificateRequest{ValidityDuration: int64(longest / time.Second)}, want: cart, ttl: longest},
			{name: "a life of ten years", headers: good, request: &securityv1alpha1.IstioCertificateRequest{ValidityDuration: 315360000}, want: cart, ttl: longest},
			{name: "a life that overflows", headers: good, request: &securityv1alpha1.IstioCertificateRequest{ValidityDuration: 1<<63 - 1}, want: cart, ttl: longest},
			{name: "a life of less than nothing", headers: good, request: &securityv1alpha1.IstioCertificateRequest{ValidityDuration: -1 << 63}, want: cart},
			{name: "its own identity by name", headers: good, request: wish("ImpersonatedIdentity", cart.String()), want: cart},

			{name: "nothing", code: codes.Unauthenticated, text: "no credential: send a bearer token", count: "authentication_failure_count"},
			{name: "a password", headers: []string{"authorization", "Basic dTpw"}, code: codes.Unauthenticated, text: "no credential", count: "authentication_failure_count"},
			{name: "a Kubernetes token, which nobody here knows", headers: []string{"authorization", "Bearer eyJhbGciOiJSUzI1NiJ9.e30.AAAA"}, code: codes.Unauthenticated, text: "no credential", count: "authentication_failure_count"},
			{name: "an expired token", headers: bearer(c.token(cart, -time.Minute)), code: codes.Unauthenticated, text: "expired 1m0s ago", count: "authentication_failure_count"},
			{name: "another mesh's token", headers: bearer(other.token(cart, time.Hour)), code: codes.Unauthenticated, text: "not made by this mesh's key", count: "authentication_failure_count"},
			{name: "a token of another trust domain", headers: bearer(c.token(foreign, time.Hour)), code: codes.PermissionDenied, text: "is not of this mesh: its trust domain is cluster.local or old.domain", count: "id_extraction_err_count"},
			{name: "a certificate of an account that is gone", held: material(account("gone")), code: codes.PermissionDenied, text: "spiffe://cluster.local/ns/shop/sa/gone is not renewed: the service account does not exist", count: "mesh_ca_renewals_refused_total"},
			{name: "that and a token, which is another's to judge", held: material(account("gone")), headers: bearer(c.token(account("gone"), time.Hour)), want: account("gone")},
			{name: "another's identity", headers: good, request: wish("ImpersonatedIdentity", istiod.String()), code: codes.PermissionDenied, text: "lets nobody do so", count: "id_extraction_err_count"},
			{name: "a signer of its own", headers: good, request: wish("CertSigner", "clusterissuers.example"), code: codes.InvalidArgument, text: "CertSigner"},
			{name: "no request", headers: good, request: &securityv1alpha1.IstioCertificateRequest{Csr: "none"}, code: codes.InvalidArgument, text: "no PEM block", count: "csr_sign_err_count{CSR_ERROR}"},
			{name: "a weak key", headers: good, request: &securityv1alpha1.IstioCertificateRequest{Csr: string(weakCSR(t))}, code: codes.InvalidArgument, text: "P-224", count: "csr_parsing_err_count"},
			{name: "a huge request", headers: good, request: &securityv1alpha1.IstioCertificateRequest{Csr: strings.Repeat("x", 1<<20)}, code: codes.InvalidArgument, text: "at most", count: "csr_parsing_err_count"},
		} {
			before := c.counters()
			log.Reset()
			if test.request == nil {
				test.request = &securityv1alpha1.IstioCertificateRequest{}
			}
			if test.request.Csr == "" {
				test.request.Csr = string(csr(t))
			}
			held := identity.Source(source{bundle: authority.Bundle()})
			if test.held != nil {
				held = test.held
			}
			conn, err := grpc.NewClient("passthrough:///istiod", grpc.WithContextDialer(c.dial),
				grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(held, identity.OneOf{istiod}))))
			if err != nil {
				t.Fatal(err)
			}
			answer, err := securityv1alpha1.NewIstioCertificateServiceClient(conn).CreateCertificate(
				metadata.AppendToOutgoingContext(t.Context(), test.headers...), test.request)
			conn.Close()
			synctest.Wait()

			s := status.Convert(err)
			if s.Code() != test.code || !strings.Contains(s.Message(), test.text) || strings.Contains(s.Message(), "weir1.") && !strings.Contains(test.text, "weir1.") {
				t.Errorf("%s: %s %q, want %s with %q", test.name, s.Code(), s.Message(), test.code, test.text)
			}
			line := log.String()
			said := `msg="certificate request refused"`
			if test.code == codes.OK {
				said = `msg="certificate issued" id=` + test.want.String()
			}
			if strings.Count(line, "\n") != 1 || !strings.Contains(line, said) || !strings.Contains(line, " peer=bufconn ") || !strings.Contains(line, test.text) || strings.Contains(line, "Bearer") {
				t.Errorf("%s: the log says %q, want one line with %q and %q", test.name, line, said, test.text)
			}
			for _, header := range test.headers {
				if secret, ok := strings.CutPrefix(header, "Bearer "); ok && strings.Contains(line, secret) {
					t.Errorf("%s: the token is in the log", test.name)
				}
			}
			after := c.counters()
			if after["csr_count"] != before["csr_count"]+1 || test.count != "" && after[test.count] != before[test.count]+1 {
				t.Errorf("%s: counters %v became %v, want one more %s", test.name, before, after, test.count)
			}
			if err != nil {
				continue
			}
			if after["success_cert_issuance_count"] != before["success_cert_issuance_count"]+1 {
				t.Errorf("%s: a success is not counted", test.name)
			}
			certs, err := identity.ParseCertificates([]byte(strings.Join(answer.CertChain, "")))
			if err != nil || len(answer.CertChain) != 2 {
				t.Fatalf("%s: answer of %d, %v", test.name, len(answer.CertChain), err)
			}
			if got, err := identity.FromCertificate(certs[0]); err != nil || got != test.want {
				t.Errorf("%s: certified %v, %v; want %v", test.name, got, err, test.want)
			}
			if test.ttl == 0 {
				test.ttl = 24 * time.Hour
			}
			if d := time.Until(certs[0].NotAfter); d != test.ttl {
				t.Errorf("%s: certified for %s, want %s", test.name, d, test.ttl)
			}
		}
	})
}

func wish(key, value string) *securityv1alpha1.IstioCertificateRequest {
	return &securityv1alpha1.IstioCertificateRequest{Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{key: structpb.NewStringValue(value)}}}
}

type source struct{ bundle *identity.Bundle }

func (s source) Certificate() *tls.Certificate { return nil }
func (s source) Bundle() *identity.Bundle      { return s.bundle }

// The authority reaches its end: what it says is that it is unavailable, which
// keeps proxies trying, and why.
func TestEndOfTheAuthority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newControlPlane(t, nil)
		tok := c.token(cart, 20*365*24*time.Hour)
		time.Sleep(time.Until(c.authority().ChainNotAfter()))
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+tok.Reveal()))
		_, err := c.server.CreateCertificate(ctx, &securityv1alpha1.IstioCertificateRequest{Csr: string(csr(t))})
		if s := status.Convert(err); s.Code() != codes.Unavailable || !strings.Contains(s.Message(), "not valid now") {
			t.Errorf("%v", err)
		}
		if got := c.counters(); got["csr_sign_err_count{CA_NOT_READY}"] != 1 {
			t.Errorf("counters %v", got)
		}
		for _, m := range c.server.Metrics() {
			if strings.HasSuffix(m.Name, "expiry_seconds") && m.Value > 0 || strings.HasSuffix(m.Name, "expiry_timestamp") && m.Value != float64(time.Now().Unix()) {
				t.Errorf("%s is %v at the end", m.Name, m.Value)
			}
		}
	})
}

// A caller in a loop is slowed down, and nobody else is.
func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newControlPlane(t, nil)
		ask := func(id identity.ID) codes.Code {
			ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+c.token(id, time.Hour).Reveal()))
			_, err := c.server.CreateCertificate(ctx, &securityv1alpha1.IstioCertificateRequest{Csr: string(csr(t))})
			return status.Code(err)
		}
		for i := range limit.Burst {
			if code := ask(cart); code != codes.OK {
				t.Fatalf("request %d of a start: %s", i+1, code)
			}
		}
		if code := ask(cart); code != codes.ResourceExhausted {
			t.Errorf("one more: %s", code)
		}
		if code := ask(istiod); code != codes.OK {
			t.Errorf("somebody else: %s", code)
		}
		time.Sleep(time.Second)
		allowed := 0
		for range 2 * limit.Rate {
			if ask(cart) == codes.OK {
				allowed++
			}
		}
		if allowed != limit.Rate {
			t.Errorf("a second later %d are answered, want %d", allowed, limit.Rate)
		}
		if got := c.counters(); got[metricLimited] != 1+limit.Rate {
			t.Errorf("counters %v", got)
		}
	})
}

func TestMetricNames(t *testing.T) {
	c := newControlPlane(t, nil)
	names := map[string]bool{}
	for _, m := range c.server.Metrics() {
		names[m.Name] = true
		if m.Help == "" {
			t.Errorf("%s has no help", m.Name)
		}
	}
	// Names that dashboards read.
	for _, want := range []string{
		"csr_count", "authentication_failure_count", "csr_parsing_err_count", "id_extraction_err_count", "csr_sign_err_count",
		"success_cert_issuance_count", "root_cert_expiry_timestamp", "root_cert_expiry_seconds", "cert_chain_expiry_timestamp", "cert_chain_expiry_seconds",
	} {
		if !names["citadel_server_"+want] {
			t.Errorf("citadel_server_%s is missing among %v", want, slices.Sorted(maps.Keys(names)))
		}
	}
}

func TestNewWants(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("a server of nothing")
	}
}
