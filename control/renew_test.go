package control

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	securityv1alpha1 "istio.io/api/security/v1alpha1"

	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/identity"
)

// Who took a key and its certificate cannot renew it once the account is gone; what it has is good until it ends.
func TestRenewalEndsWithTheAccount(t *testing.T) {
	gone := false
	p, err := New(Options{State: t.TempDir(), Log: slog.New(slog.DiscardHandler), Renew: func(_ context.Context, id identity.ID, held *x509.Certificate) error {
		if !gone || id.ServiceAccount != "cart" || len(held.URIs) != 1 || held.URIs[0].String() != id.String() {
			return nil
		}
		return errors.New("service account shop/cart does not exist")
	}})
	if err != nil {
		t.Fatal(err)
	}
	authority, _ := p.auth.Watch()
	held, err := authority.Issue(ca.Grant{ID: identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "cart"}})
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := identity.NewRequest(key, identity.ID{})
	if err != nil {
		t.Fatal(err)
	}
	ctx := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: []*x509.Certificate{held.Certificate().Leaf}}}})
	for _, gone = range []bool{false, true} {
		_, err := p.signer.CreateCertificate(ctx, &securityv1alpha1.IstioCertificateRequest{Csr: string(csr)})
		if s := status.Convert(err); !gone && err != nil || gone && (s.Code() != codes.PermissionDenied || !strings.Contains(s.Message(), "spiffe://cluster.local/ns/shop/sa/cart is not renewed: service account shop/cart does not exist")) {
			t.Errorf("gone %v: %v", gone, err)
		}
		if _, _, err := p.authenticate(ctx); err != nil {
			t.Errorf("gone %v: xDS: %v", gone, err)
		}
	}
}
