package server

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	securityv1alpha1 "istio.io/api/security/v1alpha1"

	"github.com/weirmesh/weir/ca/internal/limit"
	"github.com/weirmesh/weir/identity"
)

// What a request asks for beside its key is no wish that is granted: another's names, a
// certificate authority. Whoever reads the log sees that another was asked for.
func TestWishesOfARequestAreNotGranted(t *testing.T) {
	var log bytes.Buffer
	c := newControlPlane(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := url.Parse(istiod.String())
	if err != nil {
		t.Fatal(err)
	}
	constraints := []byte{0x30, 0x03, 0x01, 0x01, 0xff} // SEQUENCE { BOOLEAN TRUE }: CA:TRUE (RFC 5280 section 4.2.1.9)
	template := &x509.CertificateRequest{URIs: []*url.URL{other}, DNSNames: []string{"istiod.istio-system.svc"}}
	template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: constraints})
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+c.token(cart, time.Hour).Reveal()))
	answer, err := c.server.CreateCertificate(ctx, &securityv1alpha1.IstioCertificateRequest{Csr: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))})
	if err != nil {
		t.Fatal(err)
	}
	certs, err := identity.ParseCertificates([]byte(strings.Join(answer.CertChain, "")))
	if err != nil {
		t.Fatal(err)
	}
	if id, err := identity.FromCertificate(certs[0]); err != nil || id != cart || certs[0].IsCA || len(certs[0].DNSNames) != 0 || certs[0].KeyUsage&x509.KeyUsageCertSign != 0 {
		t.Errorf("certified %v, %v, authority %v, names %v", id, err, certs[0].IsCA, certs[0].DNSNames)
	}
	ask := func(uris ...*url.URL) string {
		log.Reset()
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: uris}, key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.server.CreateCertificate(ctx, &securityv1alpha1.IstioCertificateRequest{Csr: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))}); err != nil {
			t.Fatal(err)
		}
		return log.String()
	}
	if line := log.String(); !strings.Contains(line, " id="+cart.String()) || !strings.Contains(line, " asked="+istiod.String()) {
		t.Errorf("the log: %s", line)
	}
	if line := ask(cart.URL(), other); !strings.Contains(line, " asked="+istiod.String()) {
		t.Errorf("its own identity and another: %s", line)
	}
	if line := ask(cart.URL()); strings.Contains(line, "asked=") {
		t.Errorf("its own identity: %s", line)
	}
	if line := ask(); strings.Contains(line, "asked=") {
		t.Errorf("no identity: %s", line)
	}
	if line := ask(&url.URL{Scheme: "spiffe", Host: "cluster.local", Path: "/" + strings.Repeat("x", 8<<10)}); len(line) > 2<<10 || !strings.Contains(line, "asked=spiffe://cluster.local/xxx") {
		t.Errorf("an endless name: a line of %d bytes", len(line))
	}
}

// For ten seconds 10,000 requests a second come from strangers, from a workload in a loop, and from one whose
// token has expired. What they cost is a refusal; what they fill of the log is
// bounded; whoever comes meanwhile is served.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log counted
		c := newControlPlane(t, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
		request := &securityv1alpha1.IstioCertificateRequest{Csr: string(csr(t))}
		ask := func(headers ...string) codes.Code {
			_, err := c.server.CreateCertificate(metadata.NewIncomingContext(t.Context(), metadata.Pairs(headers...)), request)
			return status.Code(err)
		}
		loop := identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "loop"}
		expired, looping, honest := c.token(cart, -time.Hour).Reveal(), c.token(loop, time.Hour).Reveal(), c.token(cart, time.Hour).Reveal()
		got := map[codes.Code]int{}
		for range 100 { // tenths of a second
			for range 333 {
				got[ask()]++
				got[ask("authorization", "Bearer "+expired)]++
				got[ask("authorization", "Bearer "+looping)]++
			}
			time.Sleep(100 * time.Millisecond)
		}
		signed := limit.Burst + 10*limit.Rate
		if got[codes.Unauthenticated] != 66_600 || got[codes.OK] > signed || got[codes.OK] < signed-limit.Rate || got[codes.OK]+got[codes.ResourceExhausted] != 33_300 {
			t.Errorf("answers %v", got)
		}
		// One line for each certificate, and for as many strangers.
		if n := log.lines(); n > 3*signed {
			t.Errorf("%d lines in the log", n)
		}
		if code := ask("authorization", "Bearer "+honest); code != codes.OK {
			t.Errorf("an honest one: %s", code)
		}
	})
}

// counted counts lines.
type counted struct {
	mu sync.Mutex
	n  int
}

func (c *counted) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += strings.Count(string(b), "\n")
	return len(b), nil
}

func (c *counted) lines() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}
