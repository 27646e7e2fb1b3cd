package identity

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

func mustParse(t *testing.T, s string) ID {
	t.Helper()
	id, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Every way in which a peer can be wrong is refused for that reason, in a
// sentence that says who it claims to be and who was expected.
func TestVerifyPeer(t *testing.T) {
	root := newForge(t, "mesh root", noon.Add(-time.Hour), evening)
	issuer := root.authority("issuer", noon.Add(-time.Hour), evening)
	lapsed := root.authority("lapsed issuer", noon.Add(-time.Hour), noon.Add(-time.Minute))
	later := root.authority("later issuer", noon.Add(2*time.Hour), evening)
	clientsOnly := root.authorityWith(x509.Certificate{
		Subject: pkix.Name{CommonName: "clients only"}, NotBefore: noon.Add(-time.Hour), NotAfter: evening, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	constrained := root.authorityWith(x509.Certificate{
		Subject: pkix.Name{CommonName: "constrained"}, NotBefore: noon.Add(-time.Hour), NotAfter: evening, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, PermittedURIDomains: []string{"other.domain"}, PermittedDNSDomainsCritical: true,
	})
	stranger := newForge(t, "stranger", noon.Add(-time.Hour), evening)
	// Same name as our root: only signatures tell them apart.
	impostor := newForge(t, "mesh root", noon.Add(-time.Hour), evening)

	type spoil = func(*x509.Certificate)
	chain := func(f *forge, id string, from, until time.Time, s spoil, rest ...*forge) [][]byte {
		leaf, _ := f.leaf(id, from, until, s)
		raw := [][]byte{leaf.Raw}
		for _, r := range rest {
			raw = append(raw, r.cert.Raw)
		}
		return raw
	}
	good := func(s spoil) [][]byte { return chain(root, cart, noon, evening, s) }
	uris := func(list ...string) spoil {
		return func(c *x509.Certificate) {
			c.URIs = nil
			for _, s := range list {
				u, err := url.Parse(s)
				if err != nil {
					t.Fatal(err)
				}
				c.URIs = append(c.URIs, u)
			}
		}
	}
	usage := func(u ...x509.ExtKeyUsage) spoil { return func(c *x509.Certificate) { c.ExtKeyUsage = u } }

	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	sound, _ := root.leaf(cart, noon, evening, nil)
	weak := root.sign(*sound, small.Public(), root.cert, root.key)

	var (
		now     = noon.Add(time.Hour)
		cartID  = OneOf{mustParse(t, cart)}
		someone = OneOf{mustParse(t, "spiffe://cluster.local/ns/shop/sa/other"), mustParse(t, "spiffe://cluster.local/ns/x/sa/y")}
		mesh    = TrustDomains{"cluster.local", "old.domain"}
	)
	for _, c := range []struct {
		name   string
		raw    [][]byte
		now    time.Time // zero: now
		role   Role      // zero: Server
		accept Accept    // nil: cartID
		reason Reason    // zero: accepted
		text   []string
	}{
		{name: "as it should be", raw: good(nil)},
		{name: "as a client", raw: good(nil), role: Client},
		{name: "accepted by its trust domain", raw: good(nil), accept: mesh},
		{name: "one of several accounts", raw: good(nil), accept: append(someone, cartID...)},
		{name: "accepted by an alias of the trust domain", raw: good(uris("spiffe://old.domain/ns/shop/sa/cart")), accept: mesh},
		{name: "by an issuer it presents", raw: chain(issuer, cart, noon, evening, nil, issuer)},
		{name: "with its root presented too", raw: chain(issuer, cart, noon, evening, nil, issuer, root)},
		{name: "with certificates that do not belong to it", raw: chain(root, cart, noon, evening, nil, stranger, issuer)},
		{name: "with DNS names beside the identity", raw: good(func(c *x509.Certificate) { c.DNSNames = []string{"istiod.istio-system.svc"} })},
		{name: "in its last second", raw: good(nil), now: evening},

		{name: "no certificate", raw: nil, reason: NoCertificate, text: []string{"the server presented no identity", "expected " + cart, "no certificate"}},
		{name: "garbage", raw: [][]byte{[]byte("hello")}, reason: Malformed},
		{name: "garbage above", raw: append(good(nil), []byte("hello")), reason: Malformed, text: []string{"certificate 2"}},
		{name: "an endless chain", raw: append(good(nil), slices.Repeat([][]byte{root.cert.Raw}, 10)...), reason: Malformed, text: []string{"11 certificates", "at most 10"}},
		{name: "a huge certificate", raw: [][]byte{make([]byte, maxPresented+1)}, reason: Malformed, text: []string{"at most"}},
		{name: "no URI name", raw: good(func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"cart.shop.svc"} }), reason: NotSPIFFE, text: []string{"no URI name"}},
		{name: "two URI names", raw: good(uris(cart, "spiffe://cluster.local/ns/shop/sa/other")), reason: NotSPIFFE, text: []string{"2 URI names"}},
		{name: "not a SPIFFE ID", raw: good(uris("https://cluster.local/ns/shop/sa/cart")), reason: NotSPIFFE},
		{name: "not the mesh's form", raw: good(uris("spiffe://cluster.local/shop/cart")), reason: NotSPIFFE, text: []string{"want the form"}},
		{name: "expired", raw: good(nil), now: evening.Add(time.Hour), reason: Expired, text: []string{"presented " + cart, "expired 1h0m0s ago", "2026-11-01T20:00:00Z"}},
		{name: "not yet valid", raw: good(nil), now: noon.Add(-10 * time.Minute), reason: NotYetValid, text: []string{"becomes valid in 10m0s", "clocks"}},
		{name: "unknown root", raw: chain(stranger, cart, noon, evening, nil), reason: UnknownAuthority, text: []string{`"CN=mesh root"`, `"CN=stranger"`}},
		{name: "unknown root, which it presents", raw: chain(stranger, cart, noon, evening, nil, stranger), reason: UnknownAuthority},
		{name: "another root of the same name", raw: chain(impostor, cart, noon, evening, nil, impostor), reason: UnknownAuthority},
		{name: "issuer not presented", raw: chain(issuer, cart, noon, evening, nil), reason: UnknownAuthority},
		{name: "issuer expired", raw: chain(lapsed, cart, noon, evening, nil, lapsed), reason: Expired, text: []string{"authority above it", "lapsed issuer"}},
		{name: "issuer not yet valid", raw: chain(later, cart, noon, evening, nil, later), reason: NotYetValid, text: []string{"later issuer", "clocks"}},
		{name: "root expired", raw: chain(root, cart, noon, evening.Add(24*time.Hour), nil), now: evening.Add(time.Hour), reason: Expired, text: []string{"mesh root", "needs a new one"}},
		{name: "an authority's own certificate", raw: good(func(c *x509.Certificate) { c.IsCA = true }), reason: InvalidChain, text: []string{"authority"}},
		{name: "a certificate that may sign others", raw: good(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }), reason: InvalidChain, text: []string{"may sign"}},
		{name: "a certificate that may sign revocation lists", raw: good(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }), reason: InvalidChain, text: []string{"may sign"}},
		{name: "a weak key", raw: [][]byte{weak.Raw}, reason: InvalidChain, text: []string{"1024 bits", "2048"}},
		{name: "signed by a workload", raw: chain(func() *forge { leaf, key := root.leaf(cart, noon, evening, nil); return &forge{t, leaf, key} }(), cart, noon, evening, nil, root), reason: UnknownAuthority},
		{name: "issuer constrained to another domain", raw: chain(constrained, cart, noon, evening, nil, constrained), reason: InvalidChain},
		{name: "client certificate at a server", raw: good(usage(x509.ExtKeyUsageClientAuth)), reason: WrongUsage, text: []string{"TLS server"}},
		{name: "server certificate at a client", raw: good(usage(x509.ExtKeyUsageServerAuth)), role: Client, reason: WrongUsage, text: []string{"the client presented", "TLS client"}},
		{name: "code signing certificate", raw: good(usage(x509.ExtKeyUsageCodeSigning)), reason: WrongUsage},
		{name: "issuer for clients only", raw: chain(clientsOnly, cart, noon, evening, nil, clientsOnly), reason: WrongUsage},
		{name: "somebody else", raw: good(nil), accept: someone, reason: WrongIdentity, text: []string{"presented " + cart, "one of spiffe://cluster.local/ns/shop/sa/other, spiffe://cluster.local/ns/x/sa/y"}},
		{name: "another trust domain", raw: good(nil), accept: TrustDomains{"other.domain"}, reason: WrongIdentity, text: []string{"in trust domain other.domain"}},
		{name: "nobody is accepted", raw: good(nil), accept: OneOf{}, reason: WrongIdentity, text: []string{"nobody"}},
		{name: "no trust domain is configured", raw: good(nil), accept: TrustDomains{}, reason: WrongIdentity, text: []string{"nobody"}},
	} {
		if c.now.IsZero() {
			c.now = now
		}
		if c.role == 0 {
			c.role = Server
		}
		if c.accept == nil {
			c.accept = cartID
		}
		id, err := VerifyPeer(c.raw, root.bundle(), c.now, c.role, c.accept)
		if c.reason == 0 {
			if err != nil || id.ServiceAccount != "cart" {
				t.Errorf("%s: %v, %v", c.name, id, err)
			}
			continue
		}
		refused, ok := errors.AsType[*PeerError](err)
		if !ok || refused.Reason != c.reason || id != (ID{}) {
			t.Errorf("%s: %v, %v; want reason %s", c.name, id, err, c.reason)
			continue
		}
		for _, want := range c.text {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %q", c.name, err, want)
			}
		}
	}
}

// Whatever is missing on our side, nobody gets in.
func TestVerifyPeerFailsClosed(t *testing.T) {
	root := newForge(t, "root", noon, evening)
	leaf, _ := root.leaf(cart, noon, evening, nil)
	if id, err := VerifyPeer([][]byte{leaf.Raw}, nil, noon, Server, TrustDomains{"cluster.local"}); err == nil {
		t.Errorf("without a bundle %s is accepted", id)
	}
	if id, err := VerifyPeer([][]byte{leaf.Raw}, root.bundle(), noon, Server, nil); err == nil {
		t.Errorf("without anybody expected %s is accepted", id)
	}
}

func TestReasonsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for r := NoCertificate; r <= WrongIdentity; r++ {
		if name := r.String(); seen[name] || strings.HasPrefix(name, "reason_") {
			t.Errorf("reason %d is called %q", r, name)
		} else {
			seen[name] = true
		}
	}
}

// Certificates are bytes of strangers: any of them is refused or accepted, none
// is fatal.
func FuzzVerifyPeer(f *testing.F) {
	root := newForge(&testing.T{}, "root", noon, evening)
	leaf, _ := root.leaf(cart, noon, evening, nil)
	bundle := root.bundle()
	f.Add(leaf.Raw, root.cert.Raw)
	f.Add([]byte{0x30}, []byte{})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		id, err := VerifyPeer([][]byte{first, second}, bundle, noon, Server, TrustDomains{"cluster.local"})
		if err == nil && !bytes.Equal(first, leaf.Raw) {
			t.Fatalf("a certificate nobody signed proves %s", id)
		}
	})
}
