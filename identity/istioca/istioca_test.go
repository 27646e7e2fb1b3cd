package istioca

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	securityv1alpha1 "istio.io/api/security/v1alpha1"

	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/internal/redact"
)

var (
	cart   = identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "cart"}
	istiod = identity.ID{TrustDomain: "cluster.local", Namespace: "istio-system", ServiceAccount: "istiod"}
)

// istio is a control plane that writes down what it is asked and answers what a
// test wants.
type istio struct {
	securityv1alpha1.UnimplementedIstioCertificateServiceServer
	got    *securityv1alpha1.IstioCertificateRequest
	header metadata.MD
	answer *securityv1alpha1.IstioCertificateResponse
	err    error
}

func (s *istio) CreateCertificate(ctx context.Context, r *securityv1alpha1.IstioCertificateRequest) (*securityv1alpha1.IstioCertificateResponse, error) {
	s.got = r
	s.header, _ = metadata.FromIncomingContext(ctx)
	return s.answer, s.err
}

func serve(t *testing.T, s *istio, creds credentials.TransportCredentials) grpc.DialOption {
	l := bufconn.Listen(1 << 16)
	g := grpc.NewServer(grpc.Creds(creds))
	securityv1alpha1.RegisterIstioCertificateServiceServer(g, s)
	go g.Serve(l)
	t.Cleanup(g.Stop)
	return grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) })
}

func TestSign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		authority, err := ca.OpenSelfSigned(t.TempDir()+"/ca", "cluster.local", ca.Options{})
		if err != nil {
			t.Fatal(err)
		}
		material := func(id identity.ID) *identity.Material {
			m, err := authority.Issue(ca.Grant{ID: id})
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		own := material(cart)
		s := &istio{answer: &securityv1alpha1.IstioCertificateResponse{CertChain: []string{"leaf", "root\n"}}}
		dial := serve(t, s, credentials.NewTLS(identity.ServerTLS(material(istiod), identity.TrustDomains{"cluster.local"}, false)))

		tokens := []string{" first \n", "second"} // files end in newlines
		var tokenErr error
		c, err := New(Options{
			Address: "passthrough:///istiod", Servers: identity.OneOf{istiod}, Dial: []grpc.DialOption{dial},
			WorkloadName: "cart-0", WorkloadIP: "10.0.0.7", ClusterID: "Kubernetes",
			Token: func() (redact.String, error) {
				if tokenErr != nil {
					return redact.String{}, tokenErr
				}
				next := tokens[0]
				tokens = tokens[1:]
				return redact.New(next), nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		req := identity.Request{CSR: []byte("csr"), TTL: 90*time.Second + time.Millisecond, As: own}
		sign := func() (string, error) {
			chain, err := c.Sign(t.Context(), req)
			return string(chain), err
		}

		for _, want := range []string{"Bearer first", "Bearer second"} {
			chain, err := sign()
			if err != nil || chain != "leaf\nroot\n" {
				t.Fatalf("%q, %v", chain, err)
			}
			if diff := cmp.Diff([]string{want}, s.header.Get("authorization")); diff != "" {
				t.Errorf("the token is not read anew (-want +got):\n%s", diff)
			}
		}
		if s.header.Get("clusterid")[0] != "Kubernetes" || s.got.Csr != "csr" || s.got.ValidityDuration != 91 {
			t.Errorf("asked %v with %v", s.got, s.header)
		}
		if diff := cmp.Diff(map[string]any{"WorkloadName": "cart-0", "WorkloadIP": "10.0.0.7", "ClusterID": "Kubernetes"}, s.got.Metadata.AsMap()); diff != "" {
			t.Errorf("metadata (-want +got):\n%s", diff)
		}

		// Without a token the certificate must do, and if it does not, both are said.
		tokenErr = errors.New("open /var/run/token: no such file")
		if chain, err := sign(); err != nil || len(s.header.Get("authorization")) != 0 {
			t.Errorf("by certificate alone: %q, %v, header %v", chain, err, s.header)
		}
		s.err = status.Error(codes.Unauthenticated, "no credential")
		if _, err := sign(); err == nil || !strings.Contains(err.Error(), "Unauthenticated: no credential") || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("neither token nor certificate: %v", err)
		}
		m, err := identity.NewManager(identity.Options{ID: cart, Signer: c, Bootstrap: authority.Bundle(), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		s.got, req.As = nil, m // holds nothing
		if _, err := sign(); err == nil || !strings.Contains(err.Error(), "reading the bearer token") || s.got != nil {
			t.Errorf("with nothing at all: %v", err)
		}

		tokenErr, tokens = nil, []string{" ", "x", "x", "x"}
		if _, err := sign(); err == nil || !strings.Contains(err.Error(), "empty") {
			t.Errorf("an empty token: %v", err)
		}
		s.err, s.answer = nil, &securityv1alpha1.IstioCertificateResponse{}
		if _, err := sign(); err == nil || !strings.Contains(err.Error(), "empty") {
			t.Errorf("an empty answer: %v", err)
		}
		s.answer.CertChain = []string{strings.Repeat("x", maxAnswer+1)}
		if _, err := sign(); err == nil || !strings.Contains(err.Error(), "ResourceExhausted") {
			t.Errorf("a huge answer: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Sign(ctx, req); err == nil {
			t.Error("asked after the end")
		}
	})
}

// A token never goes over a connection that others can read, whatever options say.
func TestTokenNeedsTLS(t *testing.T) {
	s := &istio{answer: &securityv1alpha1.IstioCertificateResponse{CertChain: []string{"leaf"}}}
	c, err := New(Options{
		Address: "passthrough:///istiod", Servers: identity.OneOf{istiod},
		Token: func() (redact.String, error) { return redact.New("secret"), nil },
		Dial:  []grpc.DialOption{serve(t, s, insecure.NewCredentials()), grpc.WithTransportCredentials(insecure.NewCredentials())},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Sign(t.Context(), identity.Request{CSR: []byte("csr")})
	if err == nil || s.got != nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("sent %v, %v", s.header, err)
	}
}

func TestNewWants(t *testing.T) {
	for _, o := range []Options{{}, {Address: "istiod:15012"}, {Servers: identity.OneOf{istiod}},
		{Address: "istiod:15012", Servers: identity.OneOf{istiod}, WorkloadName: "\xff"}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}
