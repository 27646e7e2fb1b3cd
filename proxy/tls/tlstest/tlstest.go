// Package tlstest makes certificates for tests of the data plane: an Authority
// signs identities of the mesh and ordinary server certificates. Nothing but tests
// may import it.
package tlstest

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	stdtls "crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/weirmesh/weir/identity"
)

// Authority is a self-signed root.
type Authority struct {
	t    testing.TB
	Cert *x509.Certificate
	key  crypto.Signer
}

// New makes an authority. Failing to is the end of the test.
func New(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t}
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	a.key = key
	template := &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: "test root"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	a.Cert = a.sign(template, template, key.Public())
	return a
}

// Bundle trusts the authority.
func (a *Authority) Bundle() *identity.Bundle {
	b, err := identity.NewBundle(a.Cert)
	if err != nil {
		a.t.Fatal(err)
	}
	return b
}

// Pool trusts the authority, for ordinary TLS.
func (a *Authority) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.Cert)
	return p
}

// Workload makes the identity spiffe://cluster.local/ns/<namespace>/sa/<account>.
func (a *Authority) Workload(namespace, account string) *identity.Material {
	a.t.Helper()
	return a.Member("cluster.local", namespace, account)
}

// Member is Workload in any trust domain.
func (a *Authority) Member(domain, namespace, account string) *identity.Material {
	a.t.Helper()
	id, err := identity.New(domain, namespace, account)
	if err != nil {
		a.t.Fatal(err)
	}
	cert := a.leaf(&x509.Certificate{URIs: []*url.URL{id.URL()}})
	m, err := identity.NewMaterial(cert.PrivateKey.(crypto.Signer), []*x509.Certificate{cert.Leaf}, a.Bundle())
	if err != nil {
		a.t.Fatal(err)
	}
	return m
}

// Sign makes the authority an identity.Signer, of whatever it is asked for.
func (a *Authority) Sign(_ context.Context, r identity.Request) ([]byte, error) {
	block, _ := pem.Decode(r.CSR)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	leaf := a.sign(leafTemplate(a.t, &x509.Certificate{URIs: csr.URIs}), a.Cert, csr.PublicKey)
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}), a.PEM()...), nil
}

// Server makes an ordinary certificate for host names, usable by clients too.
func (a *Authority) Server(names ...string) *stdtls.Certificate {
	a.t.Helper()
	return a.leaf(&x509.Certificate{DNSNames: names, Subject: pkix.Name{CommonName: names[0]}})
}

// ServerRSA is Server with an RSA key.
func (a *Authority) ServerRSA(names ...string) *stdtls.Certificate {
	a.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.leafWith(key, &x509.Certificate{DNSNames: names, Subject: pkix.Name{CommonName: names[0]}})
}

// Revoke makes a revocation list in PEM, good from an hour ago until the given time.
func (a *Authority) Revoke(until time.Time, certs ...*stdtls.Certificate) []byte {
	a.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: until}
	for _, c := range certs {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.Leaf.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.Cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// PEM is the root.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Cert.Raw})
}

// PEM is chain and key of a certificate.
func PEM(t testing.TB, c *stdtls.Certificate) (chain, key []byte) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range c.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})...)
	}
	return chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func (a *Authority) leaf(template *x509.Certificate) *stdtls.Certificate {
	a.t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		a.t.Fatal(err)
	}
	return a.leafWith(key, template)
}

func (a *Authority) leafWith(key crypto.Signer, template *x509.Certificate) *stdtls.Certificate {
	a.t.Helper()
	leaf := a.sign(leafTemplate(a.t, template), a.Cert, key.Public())
	return &stdtls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// leafTemplate fills in what all leaves have.
func leafTemplate(t testing.TB, template *x509.Certificate) *x509.Certificate {
	template.SerialNumber = serial(t)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	return template
}

func (a *Authority) sign(template, parent *x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

func serial(t testing.TB) *big.Int {
	n, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
