package identity

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"
)

// A forge makes certificates of every kind, wrong ones above all. (Package ca
// makes only right ones.)
type forge struct {
	t    *testing.T
	cert *x509.Certificate // of the signer
	key  crypto.Signer
}

func newForge(t *testing.T, name string, from, until time.Time) *forge {
	t.Helper()
	return (&forge{t: t}).authority(name, from, until)
}

// authority makes a subordinate of f, or a root if f has no certificate.
func (f *forge) authority(name string, from, until time.Time) *forge {
	f.t.Helper()
	return f.authorityWith(x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
}

func (f *forge) authorityWith(template x509.Certificate) *forge {
	f.t.Helper()
	sub := &forge{t: f.t, key: f.newKey()}
	signer := *f
	if f.cert == nil {
		signer = forge{cert: &template, key: sub.key}
	}
	sub.cert = f.sign(template, sub.key.Public(), signer.cert, signer.key)
	return sub
}

func (f *forge) newKey() crypto.Signer {
	f.t.Helper()
	key, err := NewKey()
	if err != nil {
		f.t.Fatal(err)
	}
	return key
}

func (f *forge) sign(template x509.Certificate, key crypto.PublicKey, parent *x509.Certificate, parentKey crypto.Signer) *x509.Certificate {
	f.t.Helper()
	var err error
	if template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<60)); err != nil {
		f.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, parent, key, parentKey)
	if err != nil {
		f.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

// leaf makes a workload certificate as it should be, then lets spoil change the
// template.
func (f *forge) leaf(id string, from, until time.Time, spoil func(*x509.Certificate)) (*x509.Certificate, crypto.Signer) {
	f.t.Helper()
	u, err := url.Parse(id)
	if err != nil {
		f.t.Fatal(err)
	}
	template := x509.Certificate{
		NotBefore: from, NotAfter: until, URIs: []*url.URL{u}, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if spoil != nil {
		spoil(&template)
	}
	key := f.newKey()
	return f.sign(template, key.Public(), f.cert, f.key), key
}

func (f *forge) bundle() *Bundle {
	f.t.Helper()
	b, err := NewBundle(f.cert)
	if err != nil {
		f.t.Fatal(err)
	}
	return b
}

func (f *forge) material(id string, from, until time.Time) *Material {
	f.t.Helper()
	leaf, key := f.leaf(id, from, until, nil)
	m, err := NewMaterial(key, []*x509.Certificate{leaf}, f.bundle())
	if err != nil {
		f.t.Fatal(err)
	}
	return m
}
