package tls

import (
	"crypto/sha256"
	stdtls "crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/proxy/tls/tlstest"
)

func revoked(t *testing.T, text ...[]byte) *Revoked {
	t.Helper()
	var all []byte
	for _, b := range text {
		all = append(all, b...)
	}
	r, err := ParseRevoked(all)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Pins and revocation lists refuse what roots would accept, peers of the mesh included.
func TestPinsAndRevocation(t *testing.T) {
	ca, other := tlstest.New(t), tlstest.New(t)
	w := ca.Workload("default", "shop")
	cert := w.Certificate()
	hash, key := sha256.Sum256(w.Leaf().Raw), sha256.Sum256(w.Leaf().RawSubjectPublicKeyInfo)
	later, over := time.Now().Add(time.Hour), time.Now().Add(-time.Minute)
	somebody := ca.Server("x")
	for _, tc := range []struct {
		name  string
		trust Trust
		text  string // of the refusal; "": accepted
	}{
		{"pinned by hash", Trust{Hashes: [][32]byte{{1}, hash}}, ""},
		{"pinned by key", Trust{Keys: [][32]byte{key}}, ""},
		{"pinned by one of both", Trust{Hashes: [][32]byte{{1}}, Keys: [][32]byte{key}}, ""},
		{"another is pinned", Trust{Hashes: [][32]byte{{1}}, Keys: [][32]byte{{2}}}, "none of the 2 that are pinned"},
		{"a hash taken for a key", Trust{Keys: [][32]byte{hash}}, "pinned"},
		{"a list without it", Trust{Revoked: revoked(t, ca.Revoke(later, somebody))}, ""},
		{"revoked", Trust{Revoked: revoked(t, ca.Revoke(later, somebody, cert))}, "was revoked by its issuer"},
		{"one of two lists", Trust{Revoked: revoked(t, other.Revoke(later), ca.Revoke(later, cert)), RevokedLeafOnly: true}, "was revoked"},
		{"a list out of date", Trust{Revoked: revoked(t, ca.Revoke(over))}, "out of date"},
		{"an old list beside a new one", Trust{Revoked: revoked(t, ca.Revoke(over), ca.Revoke(later))}, ""},
		{"a list somebody else signed", Trust{Revoked: revoked(t, other.Revoke(later))}, "no revocation list"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, in := range []string{"mesh", "roots"} {
				trust := tc.trust
				if in == "mesh" {
					trust.Mesh = w
				} else {
					trust.Roots = ca.Pool()
				}
				if err := trust.resolve(); err != nil {
					t.Fatal(err)
				}
				for range 2 { // the second time from memory
					_, err := trust.verify([]*x509.Certificate{w.Leaf()}, identity.Client)
					if tc.text == "" && err != nil || tc.text != "" && (err == nil || !strings.Contains(err.Error(), tc.text)) {
						t.Errorf("%s: %v, want %q", in, err, tc.text)
					}
					if err == nil {
						continue
					}
					if e, ok := errors.AsType[*Error](classify(err)); !ok || e.Reason != PeerRefused {
						t.Errorf("%s: %v", in, e)
					}
				}
			}
		})
	}
	// Pins alone decide, within the certificate's time.
	trust := Trust{Hashes: [][32]byte{hash}}
	if err := trust.resolve(); err != nil {
		t.Fatal(err)
	}
	chain := []*x509.Certificate{w.Leaf()}
	if _, err := trust.verify(chain, identity.Server); err != nil {
		t.Error(err)
	}
	if _, err := trust.verifyAt(chain, identity.Server, time.Now().Add(2*time.Hour)); err == nil {
		t.Error("an expired certificate was accepted")
	}
	// A list that runs out is looked at again.
	trust = Trust{Roots: ca.Pool(), Revoked: revoked(t, ca.Revoke(time.Now().Add(time.Minute)))}
	if err := trust.resolve(); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.verify(chain, identity.Server); err != nil {
		t.Error(err)
	}
	if _, err := trust.verifyAt(chain, identity.Server, time.Now().Add(2*time.Minute)); err == nil {
		t.Error("what an old list said was believed")
	}
}

func TestParseRevoked(t *testing.T) {
	ca := tlstest.New(t)
	for _, text := range []string{"", "x", string(ca.PEM()), "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"} {
		if _, err := ParseRevoked([]byte(text)); err == nil {
			t.Errorf("%q was taken for a revocation list", text)
		}
	}
}

// FuzzParseRevoked: lists come from configuration, which the control plane may have copied
// from anywhere.
func FuzzParseRevoked(f *testing.F) {
	ca := tlstest.New(f)
	f.Add(ca.Revoke(time.Now().Add(time.Hour), ca.Server("a")))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRevoked(b)
		if (r == nil) == (err == nil) {
			t.Error("neither lists nor an error, or both")
		}
	})
}

// A gateway that accepts anybody's certificate tells nothing of it: nobody proved it.
func TestUnverifiedClient(t *testing.T) {
	ca, stranger := tlstest.New(t), tlstest.New(t)
	s := server(t, ServerOptions{Certificates: []*stdtls.Certificate{ca.Server("a")}, Clients: RequireClientCert, Trust: Trust{SkipVerify: true}})
	w := stranger.Workload("default", "x")
	p := mustJoin(t, s, client(t, ClientOptions{Identity: w, Trust: Trust{Roots: ca.Pool()}}))
	if peer := p.server.Peer(); peer.Presented || peer.URI != "" || peer.Hash != [32]byte{} {
		t.Errorf("peer %+v", peer)
	}
	if _, serr, _ := join(s, client(t, ClientOptions{Trust: Trust{Roots: ca.Pool()}})); serr == nil || !strings.Contains(serr.Error(), "showed no certificate") {
		t.Errorf("a client without a certificate: %v", serr)
	}
}

// Which certificate is shown: by name, exact before wildcard; by what the client can
// verify; the first where nothing else decides.
func TestCertificateChoice(t *testing.T) {
	ca := tlstest.New(t)
	first, wild, exactRSA, exact := ca.Server("first.example"), ca.Server("*.shop.example"), ca.ServerRSA("www.shop.example"), ca.Server("www.shop.example")
	all := []*stdtls.Certificate{first, wild, exactRSA, exact}
	s := server(t, ServerOptions{Certificates: all, MinVersion: TLS12})
	rsaOnly := []uint16{stdtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	for _, tc := range []struct {
		sni    string
		suites []uint16 // of a TLS 1.2 client
		want   *stdtls.Certificate
	}{
		{"www.shop.example", nil, exact},
		{"WWW.Shop.Example", nil, exact},
		{"www.shop.example", rsaOnly, exactRSA},
		{"api.shop.example", nil, wild},
		{"a.b.shop.example", nil, first},
		{"first.example", nil, first},
		{"unknown.example", nil, first},
		{"", nil, first},
		{"first.example", rsaOnly, exactRSA}, // another name, but one that can be verified at all
	} {
		o := ClientOptions{SNI: tc.sni, Trust: Trust{Roots: ca.Pool()}}
		if tc.suites != nil {
			o.CipherSuites, o.MaxVersion = tc.suites, TLS12
		}
		p, serr, cerr := join(s, client(t, o))
		if serr != nil || cerr != nil {
			t.Errorf("%q: %v, %v", tc.sni, serr, cerr)
			continue
		}
		if got := p.client.Peer().Hash; got != sha256.Sum256(tc.want.Leaf.Raw) {
			t.Errorf("%q was shown the certificate for %v, want %v", tc.sni, p.client.Peer().DNS, tc.want.Leaf.DNSNames)
		}
	}
	ecdsa := server(t, ServerOptions{Certificates: all[:2], MinVersion: TLS12})
	_, serr, _ := join(ecdsa, client(t, ClientOptions{SNI: "first.example", Trust: Trust{Roots: ca.Pool()}, CipherSuites: rsaOnly, MaxVersion: TLS12}))
	if serr == nil || !strings.Contains(serr.Error(), "the client offers the cipher suites TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256") {
		t.Errorf("no certificate fits: %v", serr)
	}
}

// What failed for want of something in common says what the client offered.
func TestFailuresNameTheOffer(t *testing.T) {
	ca := tlstest.New(t)
	certs := []*stdtls.Certificate{ca.Server("a.example")}
	anybody := Trust{SkipVerify: true}
	for _, tc := range []struct {
		name string
		s    ServerOptions
		c    ClientOptions
		text string
	}{
		{"versions", ServerOptions{MinVersion: TLS13}, ClientOptions{MaxVersion: TLS12}, "the client offers TLS 1.2, this side takes TLS 1.3 to TLS 1.3"},
		{"curves", ServerOptions{Curves: []stdtls.CurveID{stdtls.X25519MLKEM768}}, ClientOptions{Curves: []stdtls.CurveID{stdtls.CurveP521}}, "the curves CurveP521"},
		{"no name", ServerOptions{RequireSNI: true}, ClientOptions{}, "names no server (SNI)"},
	} {
		tc.s.Certificates, tc.c.Trust = certs, anybody
		_, serr, cerr := join(server(t, tc.s), client(t, tc.c))
		if serr == nil || !strings.Contains(serr.Error(), tc.text) || cerr == nil {
			t.Errorf("%s: %v, want %q; client %v", tc.name, serr, tc.text, cerr)
		}
	}
	p := mustJoin(t, server(t, ServerOptions{Certificates: certs, Curves: []stdtls.CurveID{stdtls.X25519MLKEM768}}),
		client(t, ClientOptions{Trust: anybody, Curves: []stdtls.CurveID{stdtls.X25519MLKEM768, stdtls.X25519}}))
	if p.server.Peer().Curve != stdtls.X25519MLKEM768 {
		t.Errorf("curve %v", p.server.Peer().Curve)
	}
}

// A refusal says whose certificate it is, what is wrong with it and what to do.
func TestRefusalsAreSentences(t *testing.T) {
	ca, stranger := tlstest.New(t), tlstest.New(t)
	shop := []*x509.Certificate{ca.Server("shop.example").Leaf}
	for _, tc := range []struct {
		name  string
		trust Trust
		chain []*x509.Certificate
		at    time.Duration
		want  []string
	}{
		{"unknown authority", Trust{Roots: stranger.Pool()}, shop, 0, []string{"the server's certificate (shop.example)", `issued by "CN=test root"`, "add the root of its issuer"}},
		{"expired", Trust{Roots: ca.Pool()}, shop, 2 * time.Hour, []string{"shop.example", "out of time", "renew it", shop[0].NotAfter.UTC().Format(time.RFC3339)}},
		{"another name", Trust{Roots: ca.Pool(), Names: Names{{Exact: "blog.example"}}}, shop, 0, []string{"shop.example", "is blog.example", "subjectAltNames"}},
		{"none", Trust{Roots: ca.Pool()}, nil, 0, []string{"showed no certificate", "let the server's TLS mode do without"}},
	} {
		if err := tc.trust.resolve(); err != nil {
			t.Fatal(err)
		}
		_, err := tc.trust.verifyAt(tc.chain, identity.Server, time.Now().Add(tc.at))
		for _, want := range tc.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", tc.name, err, want)
			}
		}
	}
}

// A trust domain with roots of its own is judged by those alone, as client and as server; all others by the mesh's.
func TestForeignRoots(t *testing.T) {
	mesh, partner, other := tlstest.New(t), tlstest.New(t), tlstest.New(t)
	of := func(ca *tlstest.Authority, domain string) []*x509.Certificate {
		return []*x509.Certificate{ca.Member(domain, "default", "shop").Leaf()}
	}
	trust := Trust{Mesh: mesh.Workload("default", "judge"), Foreign: map[string]*identity.Bundle{"partner.example": partner.Bundle(), "other.example": other.Bundle()}}
	if err := trust.resolve(); err != nil {
		t.Fatal(err)
	}
	for _, role := range []identity.Role{identity.Client, identity.Server} {
		for range 2 { // judged, and remembered
			for _, c := range []struct {
				name  string
				chain []*x509.Certificate
				ok    bool
			}{
				{"ours", of(mesh, "cluster.local"), true},
				{"a partner", of(partner, "partner.example"), true},
				{"a partner's name by somebody else's root", of(other, "partner.example"), false},
				{"a partner's name by our root", of(mesh, "partner.example"), false},
				{"our name by a partner's root", of(partner, "cluster.local"), false},
			} {
				for range 2 {
					if id, err := trust.verify(c.chain, role); (err == nil) != c.ok {
						t.Errorf("%s as %s: %v, %v", c.name, role, id, err)
					}
				}
			}
		}
	}
}
