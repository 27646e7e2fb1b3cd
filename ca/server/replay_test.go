package server

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	securityv1alpha1 "istio.io/api/security/v1alpha1"

	"net"

	"github.com/weirmesh/weir/ca/token"
	"github.com/weirmesh/weir/identity"
)

// A token for one machine is stolen and shown from elsewhere, before and after a restart of the control plane: no
// certificate, a reason for the thief that helps nobody but the owner, and a line in the log. The machine itself is served.
func TestAReplayedTokenIsRefusedAndLogged(t *testing.T) {
	var log bytes.Buffer
	logging := func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) }
	c := newControlPlane(t, logging)
	once, err := token.NewOnce()
	if err != nil {
		t.Fatal(err)
	}
	text, err := c.key.Mint(token.Claims{ID: cart, Audience: token.Audience, Expires: time.Now().Add(time.Hour), Once: once})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(from string) error {
		key, err := identity.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		csr, err := identity.NewRequest(key, cart)
		if err != nil {
			t.Fatal(err)
		}
		ctx := peer.NewContext(t.Context(), &peer.Peer{Addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))})
		ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", "Bearer "+text.Reveal()))
		_, err = c.server.CreateCertificate(ctx, &securityv1alpha1.IstioCertificateRequest{Csr: string(csr)})
		return err
	}
	refused := func(when string) {
		t.Helper()
		log.Reset()
		if s := status.Convert(ask("192.0.2.66:40000")); s.Code() != codes.Unauthenticated || !strings.Contains(s.Message(), "is for one machine, which used it from 192.0.2.7") {
			t.Errorf("%s: %v", when, s)
		}
		if l := log.String(); !strings.Contains(l, "certificate request refused") || !strings.Contains(l, "peer=192.0.2.66") || strings.Contains(l, text.Reveal()) {
			t.Errorf("%s, the log: %s", when, l)
		}
	}
	if err := ask("192.0.2.7:1234"); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), `by="bearer token `+once) {
		t.Errorf("the log does not name the token: %s", log.String())
	}
	refused("at once")
	c.stop()
	c.start(logging)
	refused("after a restart")
	if err := ask("192.0.2.7:4321"); err != nil {
		t.Errorf("the machine itself, whose answer was lost: %v", err)
	}
}
