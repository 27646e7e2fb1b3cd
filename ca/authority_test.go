package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirmesh/weir/identity"
)

var (
	cart   = identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "cart"}
	istiod = identity.ID{TrustDomain: "cluster.local", Namespace: "istio-system", ServiceAccount: "istiod"}
)

func newAuthorityIn(t testing.TB, dir string, o Options) *Authority {
	t.Helper()
	a, err := OpenSelfSigned(dir, "cluster.local", o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func selfSigned(t testing.TB, o Options) *Authority {
	return newAuthorityIn(t, filepath.Join(t.TempDir(), "ca"), o)
}

func request(t testing.TB, key crypto.Signer, template x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func ecKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// What is certified is the key of the request and the identity of the grant, for
// both roles, from two minutes ago until the life asked for; nothing else.
func TestSign(t *testing.T) {
	a := selfSigned(t, Options{})
	key := ecKey(t, elliptic.P256())
	admin, err := url.Parse("spiffe://cluster.local/ns/kube-system/sa/admin")
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	issued, err := a.Sign(request(t, key, x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "root of all"}, URIs: []*url.URL{admin}, DNSNames: []string{"bank.example"}, EmailAddresses: []string{"a@b"},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}}, // CA:TRUE
	}), Grant{ID: cart})
	if err != nil {
		t.Fatal(err)
	}
	leaf := issued.Leaf
	if !key.PublicKey.Equal(leaf.PublicKey) {
		t.Error("somebody else's key is certified")
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != cart.String() || len(leaf.DNSNames)+len(leaf.EmailAddresses)+len(leaf.IPAddresses) != 0 {
		t.Errorf("names %v %v", leaf.URIs, leaf.DNSNames)
	}
	if len(leaf.Subject.Names) != 0 || leaf.IsCA || !leaf.BasicConstraintsValid {
		t.Errorf("subject %q, CA %v", leaf.Subject, leaf.IsCA)
	}
	critical := false
	for _, e := range leaf.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			critical = e.Critical
		}
	}
	if !critical {
		t.Error("the name of a certificate without subject is not critical (RFC 5280 section 4.2.1.6)")
	}
	if leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.ExtKeyUsage) != 2 {
		t.Errorf("usage %v %v", leaf.KeyUsage, leaf.ExtKeyUsage)
	}
	if d := before.Sub(leaf.NotBefore); d < backdate-2*time.Second || d > backdate+2*time.Second {
		t.Errorf("begins %s ago", d)
	}
	if d := leaf.NotAfter.Sub(before); d < defaultTTL-2*time.Second || d > defaultTTL+2*time.Second {
		t.Errorf("ends in %s", d)
	}
	if n := leaf.SerialNumber.BitLen(); n < 96 || n > 128 {
		t.Errorf("serial number of %d bits", n)
	}

	for _, role := range []identity.Role{identity.Client, identity.Server} {
		if id, err := identity.VerifyPeer([][]byte{leaf.Raw}, a.Bundle(), time.Now(), role, identity.OneOf{cart}); err != nil || id != cart {
			t.Errorf("as a %s: %v, %v", role, id, err)
		}
	}
	if len(issued.Chain) != 2 || !strings.HasSuffix(issued.Chain[0], "-----END CERTIFICATE-----\n") || issued.Chain[1] != string(a.Bundle().PEM()) {
		t.Errorf("the answer is not leaf and root: %q", issued.Chain)
	}
	again, err := a.Sign(request(t, key, x509.CertificateRequest{}), Grant{ID: cart})
	if err != nil || again.Leaf.SerialNumber.Cmp(leaf.SerialNumber) == 0 {
		t.Errorf("serial number twice, or %v", err)
	}
}

func TestSignLife(t *testing.T) {
	hour := time.Hour
	a := selfSigned(t, Options{DefaultTTL: 10 * hour, MaxTTL: 100 * hour})
	csr := request(t, ecKey(t, elliptic.P256()), x509.CertificateRequest{})
	for _, c := range []struct{ ask, want time.Duration }{
		{0, 10 * hour}, {-hour, 10 * hour}, {hour, hour}, {99 * hour, 99 * hour}, {101 * hour, 100 * hour}, {1 << 62, 100 * hour},
	} {
		issued, err := a.Sign(csr, Grant{ID: cart, TTL: c.ask})
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Until(issued.Leaf.NotAfter); d > c.want || d < c.want-5*time.Second {
			t.Errorf("asked for %s: ends in %s, want %s", c.ask, d, c.want)
		}
	}
	for _, o := range []Options{{DefaultTTL: 200 * hour, MaxTTL: 100 * hour}, {DefaultTTL: -1}, {MaxTTL: -1}, {DefaultTTL: MaxTTL + 1}, {MaxTTL: MaxTTL + 1}} {
		if _, err := OpenSelfSigned(filepath.Join(t.TempDir(), "ca"), "cluster.local", o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
	if a := selfSigned(t, Options{MaxTTL: hour}); a.o.DefaultTTL != hour {
		t.Errorf("the longest life is an hour, the default %s", a.o.DefaultTTL)
	}
	for _, ttl := range []time.Duration{hour, 48 * hour} { // who names a life means that nobody gets a longer one
		if a := selfSigned(t, Options{DefaultTTL: ttl}); a.o.MaxTTL != ttl {
			t.Errorf("certificates live for %s, and whoever asks for more gets up to %s", ttl, a.o.MaxTTL)
		}
	}
}

// Near its end the authority signs no further than its own end, and then stops
// with an error that says so; it ends only if nobody made it a successor.
func TestSignAtTheEndOfTheRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "ca")
		a := newAuthorityIn(t, dir, Options{})
		csr := request(t, ecKey(t, elliptic.P256()), x509.CertificateRequest{})
		if d := time.Until(a.RootNotAfter()); d != rootLife || !a.ChainNotAfter().Equal(a.RootNotAfter()) {
			t.Errorf("the root ends in %s, signing in %s", d, time.Until(a.ChainNotAfter()))
		}
		time.Sleep(rootLife - time.Hour)
		issued, err := a.Sign(csr, Grant{ID: cart})
		if err != nil || !issued.Leaf.NotAfter.Equal(a.RootNotAfter()) {
			t.Fatalf("an hour before the end: %+v, %v", issued, err)
		}
		time.Sleep(time.Hour)
		if _, err := a.Sign(csr, Grant{ID: cart}); !errors.Is(err, ErrEnded) {
			t.Errorf("after the end: %v", err)
		}
		// Whoever opens it now succeeds: nobody has a certificate that another root would cut off.
		if next := newAuthorityIn(t, dir, Options{}); len(next.Bundle().Roots()) != 1 || next.root.Equal(a.root) {
			t.Errorf("opened after the end: signs with %q", next.root.Subject)
		}
	})
}

func TestBadRequests(t *testing.T) {
	a := selfSigned(t, Options{})
	good := request(t, ecKey(t, elliptic.P256()), x509.CertificateRequest{})
	rsaKey := func(bits int) crypto.Signer {
		t.Setenv("GODEBUG", "rsa1024min=0")
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(good)
	forged := append([]byte(nil), block.Bytes...)
	forged[len(forged)-1] ^= 1
	inPEM := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	strong := rsaKey(2048)
	for _, c := range []struct {
		name string
		csr  []byte
		err  string // empty: accepted
	}{
		{"ECDSA P-256", good, ""},
		{"ECDSA P-384", request(t, ecKey(t, elliptic.P384()), x509.CertificateRequest{}), ""},
		{"ECDSA P-521", request(t, ecKey(t, elliptic.P521()), x509.CertificateRequest{}), ""},
		{"Ed25519", request(t, edKey, x509.CertificateRequest{}), ""},
		{"RSA 2048", request(t, strong, x509.CertificateRequest{}), ""},
		{"under its old name", inPEM("NEW CERTIFICATE REQUEST", block.Bytes), ""},
		{"with white space after it", append(append([]byte(nil), good...), "\n\n"...), ""},

		{"nothing", nil, "no PEM block"},
		{"bare DER", block.Bytes, "no PEM block"},
		{"garbage", inPEM("CERTIFICATE REQUEST", []byte("garbage")), "certificate request:"},
		{"a certificate", a.Bundle().PEM(), `is "CERTIFICATE"`},
		{"two requests", append(append([]byte(nil), good...), good...), "one request at a time"},
		{"huge", make([]byte, maxRequest+1), "at most"},
		{"a signature by another key", inPEM("CERTIFICATE REQUEST", forged), "signature"},
		{"ECDSA P-224", request(t, ecKey(t, elliptic.P224()), x509.CertificateRequest{}), "curve P-224"},
		{"RSA 1024", request(t, rsaKey(1024), x509.CertificateRequest{}), "1024 bits"},
	} {
		issued, err := a.Sign(c.csr, Grant{ID: cart})
		if c.err == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			} else if rsa := issued.Leaf.PublicKeyAlgorithm == x509.RSA; rsa != (issued.Leaf.KeyUsage&x509.KeyUsageKeyEncipherment != 0) {
				t.Errorf("%s: usage %v", c.name, issued.Leaf.KeyUsage)
			}
			continue
		}
		if _, ok := errors.AsType[*RequestError](err); !ok || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: error %v, want a request error with %q", c.name, err, c.err)
		}
	}
	for _, id := range []identity.ID{{}, {TrustDomain: "td", Namespace: "a/sa/root", ServiceAccount: "x"}} {
		if _, err := a.Sign(good, Grant{ID: id}); err == nil {
			t.Errorf("a certificate for %q", id)
		}
	}
}

func FuzzSign(f *testing.F) {
	a := selfSigned(f, Options{})
	f.Add(request(f, ecKey(f, elliptic.P256()), x509.CertificateRequest{}))
	f.Add(request(f, ecKey(f, elliptic.P224()), x509.CertificateRequest{DNSNames: []string{"x"}}))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, csr []byte) {
		issued, err := a.Sign(csr, Grant{ID: cart})
		if err != nil {
			if _, ok := errors.AsType[*RequestError](err); !ok {
				t.Fatalf("not the asker's fault? %v", err)
			}
			return
		}
		if id, err := identity.FromCertificate(issued.Leaf); err != nil || id != cart || issued.Leaf.IsCA {
			t.Fatalf("certified %v, %v", id, err)
		}
	})
}

// The control plane keeps its own certificate as workloads do, by a manager whose
// signer is in the same process.
func TestSigner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := selfSigned(t, Options{})
		m, err := identity.NewManager(identity.Options{
			ID: istiod, Signer: a.Signer(Grant{ID: istiod, DNSNames: []string{"istiod.istio-system.svc", "localhost"}}), Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		synctest.Wait()
		for range 4 {
			held, changed := m.Watch()
			leaf := held.Leaf()
			if !held.Usable(time.Now()) || leaf.VerifyHostname("istiod.istio-system.svc") != nil || leaf.VerifyHostname("localhost") != nil {
				t.Errorf("material %v with names %v", held, leaf.DNSNames)
			}
			<-changed
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	a := selfSigned(b, Options{})
	csr := request(b, ecKey(b, elliptic.P256()), x509.CertificateRequest{})
	for b.Loop() {
		if _, err := a.Sign(csr, Grant{ID: cart}); err != nil {
			b.Fatal(err)
		}
	}
}
