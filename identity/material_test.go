package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/internal/redact"
)

var (
	noon    = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	evening = noon.Add(8 * time.Hour)
)

const cart = "spiffe://cluster.local/ns/shop/sa/cart"

func TestBundle(t *testing.T) {
	old, next := newForge(t, "old root", noon, evening), newForge(t, "next root", noon, evening)
	leaf, _ := old.leaf(cart, noon, evening, nil)

	both := old.bundle().Union(next.bundle()).Union(old.bundle()).Union(nil)
	if n := len(both.Roots()); n != 2 {
		t.Errorf("the union has %d roots, want 2", n)
	}
	if got := (*Bundle)(nil).Union(both); got != both {
		t.Error("nothing and a bundle is not the bundle")
	}
	again, err := ParseBundle(both.PEM())
	if err != nil || !again.Equal(both) || again.Equal(old.bundle()) || again.Equal(nil) {
		t.Errorf("written and read: %v, %v", again, err)
	}
	// As `openssl x509 -text` writes it.
	if b, err := ParseBundle([]byte("Certificate:\n    Data:\n" + string(both.PEM()) + "trailing words\n")); err != nil || !b.Equal(both) {
		t.Errorf("with comments: %v", err)
	}

	good := string(old.bundle().PEM())
	for _, c := range []struct{ name, text, err string }{
		{"nothing", "", "no PEM certificate found"},
		{"not PEM", "MIIB", "no PEM certificate found"},
		{"a key", good + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", `block 2 is "PRIVATE KEY"`},
		{"cut off", good + good[:len(good)-20], "block 2 is damaged"},
		{"damaged base64", strings.Replace(good, "MII", "M!I", 1), "block 1 is damaged"},
		{"damaged DER", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate 1:"},
		{"a leaf", string(EncodeCertificates(leaf)), "not a certificate authority"},
	} {
		if _, err := ParseBundle([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.err)
		}
	}
	var many []*x509.Certificate
	for i := range maxRoots + 1 {
		many = append(many, newForge(t, fmt.Sprint(i), noon, evening).cert)
	}
	if _, err := NewBundle(many...); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("%d roots: %v", len(many), err)
	}
}

func TestMaterial(t *testing.T) {
	root := newForge(t, "root", noon, evening)
	issuer := root.authority("issuer", noon.Add(time.Hour), evening.Add(-time.Hour))
	other := newForge(t, "other root", noon, evening)
	leaf, key := issuer.leaf(cart, noon, evening, nil)
	bundle := root.bundle()

	m, err := NewMaterial(key, []*x509.Certificate{leaf, issuer.cert}, bundle)
	if err != nil {
		t.Fatal(err)
	}
	if m.ID().String() != cart || m.Leaf() != leaf || len(m.Certificate().Certificate) != 2 || m.Certificate().Leaf != leaf || m.Bundle() != bundle {
		t.Errorf("material is not what went in: %+v", m)
	}
	// An issuer that ends before the leaf ends it.
	if !m.NotBefore().Equal(noon.Add(time.Hour)) || !m.NotAfter().Equal(evening.Add(-time.Hour)) {
		t.Errorf("valid %v to %v", m.NotBefore(), m.NotAfter())
	}
	for _, c := range []struct {
		now  time.Time
		want bool
	}{{noon, false}, {noon.Add(time.Hour), true}, {evening.Add(-time.Hour), false}} {
		if m.Usable(c.now) != c.want {
			t.Errorf("usable at %v: %v", c.now, !c.want)
		}
	}
	if (*Material)(nil).Usable(noon) {
		t.Error("no material is usable")
	}

	for _, c := range []struct {
		name  string
		chain []*x509.Certificate
		err   string
	}{
		{"no chain", nil, "0 certificates"},
		{"a chain of eleven", append([]*x509.Certificate{leaf}, slices.Repeat([]*x509.Certificate{issuer.cert}, 10)...), "want 1 to 10"},
		{"issuer left out", []*x509.Certificate{leaf}, "does not lead to a root"},
		{"issuer first", []*x509.Certificate{issuer.cert, leaf}, "no URI name"},
		{"other root's issuer", []*x509.Certificate{leaf, other.cert}, "does not lead to a root"},
	} {
		if _, err := NewMaterial(key, c.chain, bundle); err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.err)
		}
	}
	if _, err := NewMaterial(root.newKey(), m.Chain(), bundle); err == nil || !strings.Contains(err.Error(), "does not belong to the private key") {
		t.Errorf("somebody else's key: %v", err)
	}
	if _, err := NewMaterial(key, m.Chain(), nil); err == nil {
		t.Error("material without roots")
	}
}

// A leaf that is older than its root (backdated by an hour on the root's first
// day), and one that outlives it, are both well formed.
func TestMaterialAcrossTheEndsOfItsRoot(t *testing.T) {
	root := newForge(t, "root", noon, evening)
	root.material(cart, noon.Add(-time.Hour), noon.Add(time.Hour))
	root.material(cart, evening.Add(-time.Hour), evening.Add(time.Hour))
}

func TestMarshal(t *testing.T) {
	root := newForge(t, "root", noon, evening)
	issuer := root.authority("issuer", noon, evening)
	leaf, key := issuer.leaf(cart, noon, evening, nil)
	m, err := NewMaterial(key, []*x509.Certificate{leaf, issuer.cert}, root.bundle().Union(newForge(t, "next", noon, evening).bundle()))
	if err != nil {
		t.Fatal(err)
	}
	secret, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	text := secret.Reveal()
	got, err := Unmarshal(text)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID() != m.ID() || !got.Bundle().Equal(m.Bundle()) || len(got.Chain()) != 2 || !got.Leaf().Equal(leaf) ||
		!got.Certificate().PrivateKey.(interface{ Equal(crypto.PrivateKey) bool }).Equal(key) {
		t.Errorf("read back %+v", got)
	}
	if again, err := got.Marshal(); err != nil || !again.Equal(secret) {
		t.Errorf("marshalling is not stable: %v", err)
	}

	for _, c := range []struct {
		name string
		text string
	}{
		{"empty", ""},
		{"cut in the middle", string(text[:len(text)/2])},
		{"cut at the end", string(text[:len(text)-10])},
		{"without its key", string(text[bytes.Index(text, []byte("-----BEGIN CERT")):])},
		{"with two keys", string(text) + string(text[:bytes.Index(text, []byte("-----BEGIN CERT"))])},
		{"with a section it does not know", strings.Replace(string(text), "Section: roots", "Section: extra", 1)},
		{"without sections", strings.ReplaceAll(string(text), "Section: roots\n\n", "")},
		{"a bit flipped", strings.Replace(string(text), "M", "N", 1)},
	} {
		if m, err := Unmarshal([]byte(c.text)); err == nil {
			t.Errorf("%s: read as %v", c.name, m)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	root := newForge(&testing.T{}, "root", noon, evening)
	secret, err := root.material(cart, noon, evening).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(secret.Reveal())
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nSection: chain\n\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := Unmarshal(text)
		if err != nil {
			return
		}
		again, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Unmarshal(again.Reveal()); err != nil {
			t.Fatalf("cannot read what was written: %v", err)
		}
	})
}

func TestParseKey(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecKey := (&forge{t: t}).newKey()
	dhKey, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	pkcs8 := func(key any) string { der, err := x509.MarshalPKCS8PrivateKey(key); return block(keyPKCS8, der, err) }
	sec1 := func() string {
		der, err := x509.MarshalECPrivateKey(ecKey.(*ecdsa.PrivateKey))
		return block(keySEC1, der, err)
	}
	for _, c := range []struct{ name, text, err string }{
		{"PKCS #8 RSA", pkcs8(rsaKey), ""},
		{"PKCS #8 ECDSA", pkcs8(ecKey), ""},
		{"PKCS #8 Ed25519", pkcs8(edKey), ""},
		{"PKCS #1", block(keyPKCS1, x509.MarshalPKCS1PrivateKey(rsaKey), nil), ""},
		{"SEC 1", sec1(), ""},
		{"SEC 1 with parameters, as openssl ecparam -genkey writes", "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + sec1(), ""},

		{"nothing", "", "no readable PEM block"},
		{"a certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no readable PEM block"},
		{"garbage", block(keyPKCS8, []byte("garbage"), nil), "damaged"},
		{"encrypted", block("ENCRYPTED PRIVATE KEY", []byte("x"), nil), "openssl pkey"},
		{"a key that cannot sign", pkcs8(dhKey), "cannot sign"},
	} {
		key, err := ParseKey(redact.New([]byte(c.text)))
		switch {
		case c.err == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.err)
		case err == nil:
			out, err := EncodeKey(key)
			if err != nil || !strings.Contains(string(out.Reveal()), "BEGIN PRIVATE KEY") {
				t.Errorf("%s: encoded as %v, %v", c.name, out, err)
			}
		}
	}
}
