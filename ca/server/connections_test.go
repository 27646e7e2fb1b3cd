package server

import (
	"bytes"
	"context"
	"crypto/x509"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	securityv1alpha1 "istio.io/api/security/v1alpha1"

	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/ca/internal/limit"
	"github.com/weirmesh/weir/ca/token"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/internal/locked"
)

// connect opens a connection with TLS, as whoever holds held, or nobody.
func (c *controlPlane) connect(held identity.Source) *grpc.ClientConn {
	c.t.Helper()
	if held == nil {
		held = source{bundle: c.authority().Bundle()}
	}
	conn, err := grpc.NewClient("passthrough:///istiod", grpc.WithContextDialer(c.dial),
		grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(held, identity.OneOf{istiod}))))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return conn
}

// Over TLS and gRPC, on many connections at once, come requests without a token, with expired ones, another mesh's, replayed ones, of a
// workload in a loop and for another's identity. All are refused and counted, of each kind lines are in the log, and not one for each
// request; what is signed for the loop is what one caller may have. Whoever renews meanwhile gets a certificate at the first attempt.
func TestFloodOfConnections(t *testing.T) {
	var log locked.Buffer
	c := newControlPlane(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	other := newControlPlane(t, nil)
	bearer := func(text string) []string { return []string{"authorization", "Bearer " + text} }
	account := func(name string) identity.ID {
		return identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: name}
	}
	used, err := c.key.Mint(token.Claims{ID: account("machine"), Audience: token.Audience, Expires: time.Now().Add(time.Hour), Once: "used"})
	if err != nil {
		t.Fatal(err)
	}
	// The machine itself was here an hour ago.
	uses := token.OpenUses(c.dir)
	if err := uses.Use(token.Claims{ID: account("machine"), Once: "used", Expires: time.Now().Add(time.Hour)}, "192.0.2.7", time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	wanted := wish("ImpersonatedIdentity", istiod.String())
	const each, streams, renewals = 400, 8, 20
	type kind struct {
		name    string
		headers []string
		request *securityv1alpha1.IstioCertificateRequest
		code    codes.Code
		said    string
	}
	kinds := []kind{
		{name: "no token", code: codes.Unauthenticated, said: "no credential"},
		{name: "an expired token", headers: bearer(c.token(cart, -time.Hour).Reveal()), code: codes.Unauthenticated, said: "expired 1h0m0s ago"},
		{name: "another mesh's token", headers: bearer(other.token(cart, time.Hour).Reveal()), code: codes.Unauthenticated, said: "not made by this mesh's key"},
		{name: "a replayed token", headers: bearer(used.Reveal()), code: codes.Unauthenticated, said: "is for one machine, which used it from 192.0.2.7"},
		{name: "a loop", headers: bearer(c.token(account("loop"), time.Hour).Reveal()), code: codes.ResourceExhausted, said: "is a proxy in a loop?"},
		{name: "another's identity", headers: bearer(c.token(account("thief"), time.Hour).Reveal()), request: wanted, code: codes.PermissionDenied, said: "lets nobody do so"},
	}
	began := time.Now()
	var wg sync.WaitGroup
	var mu sync.Mutex
	issued := 0
	for _, k := range kinds {
		request := proto.CloneOf(k.request)
		if request == nil {
			request = &securityv1alpha1.IstioCertificateRequest{}
		}
		request.Csr = string(csr(t))
		client := securityv1alpha1.NewIstioCertificateServiceClient(c.connect(nil))
		for range streams {
			wg.Go(func() {
				for range each / streams {
					_, err := client.CreateCertificate(metadata.AppendToOutgoingContext(t.Context(), k.headers...), request)
					switch code := status.Code(err); {
					case code == codes.OK && k.code == codes.ResourceExhausted:
						mu.Lock()
						issued++
						mu.Unlock()
					case code != k.code && (code != codes.ResourceExhausted || k.code != codes.PermissionDenied):
						t.Errorf("%s: %v", k.name, err)
					}
				}
			})
		}
	}
	for i := range renewals {
		wg.Go(func() {
			id := account("honest-" + string(rune('a'+i)))
			held, err := c.authority().Issue(ca.Grant{ID: id})
			if err != nil {
				t.Error(err)
				return
			}
			chain, err := c.client(nil).Sign(t.Context(), identity.Request{CSR: csr(t), As: held})
			if err != nil {
				t.Errorf("an honest one: %v", err)
				return
			}
			if certs, err := identity.ParseCertificates(chain); err != nil || !isOf(certs[0], id) {
				t.Errorf("an honest one got %v, %v", certs, err)
			}
		})
	}
	wg.Wait()
	allowed := limit.Burst + limit.Rate*(1+int(time.Since(began)/time.Second))
	if issued < limit.Burst || issued > allowed {
		t.Errorf("%d certificates for who is in a loop, %d are allowed", issued, allowed)
	}
	counts := c.counters()
	if n := counts["csr_count"]; n != float64(len(kinds)*each+renewals) {
		t.Errorf("%v requests are counted", n)
	}
	if n := counts["success_cert_issuance_count"]; n != float64(issued+renewals) {
		t.Errorf("%v certificates are counted, want %d", n, issued+renewals)
	}
	text := log.String()
	// Strangers share an address here, and its lines: who comes first has them.
	if !slices.ContainsFunc(kinds[:4], func(k kind) bool { return strings.Contains(text, k.said) }) {
		t.Error("strangers: the log says nothing")
	}
	for _, k := range kinds[4:] {
		if !strings.Contains(text, k.said) {
			t.Errorf("%s: the log says nothing", k.name)
		}
	}
	// Strangers from one address, the loop and the thief have so many lines each.
	if n := strings.Count(text, "certificate request refused"); n > 3*allowed {
		t.Errorf("%d refusals in the log, at most %d should be", n, 3*allowed)
	}
	if strings.Contains(text, used.Reveal()) {
		t.Error("a token is in the log")
	}
}

func isOf(cert *x509.Certificate, id identity.ID) bool {
	got, err := identity.FromCertificate(cert)
	return err == nil && got == id
}

// A stranger who begins a request and never sends it, or sends one of megabytes, is refused by what came first: the server
// does not wait, and holds nothing.
func TestStrangersAreRefusedUnread(t *testing.T) {
	c := newControlPlane(t, nil)
	const method = securityv1alpha1.IstioCertificateService_CreateCertificate_FullMethodName
	for name, send := range map[string]func(grpc.ClientStream) error{
		"nothing is sent": func(grpc.ClientStream) error { return nil },
		"eight megabytes come": func(s grpc.ClientStream) error {
			return s.SendMsg(&securityv1alpha1.IstioCertificateRequest{Csr: string(bytes.Repeat([]byte("x"), 8<<20))})
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		s, err := c.connect(nil).NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, method)
		if err != nil {
			t.Fatal(err)
		}
		_ = send(s) // io.EOF once it is refused
		if err := s.RecvMsg(&securityv1alpha1.IstioCertificateResponse{}); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	// Who may ask is read, and told that it is too much.
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+c.token(cart, time.Hour).Reveal())
	_, err := securityv1alpha1.NewIstioCertificateServiceClient(c.connect(nil)).CreateCertificate(ctx, &securityv1alpha1.IstioCertificateRequest{Csr: strings.Repeat("x", 1<<20)})
	if s := status.Convert(err); s.Code() != codes.InvalidArgument || !strings.Contains(s.Message(), "at most") {
		t.Errorf("a workload: %v", err)
	}
}
