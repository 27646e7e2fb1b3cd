package faults

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// authority vouches for certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // with its certificate
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newAuthority(t testing.TB, dir, name string) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	now := time.Now()
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-240 * time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	must(t, err)
	c, err = x509.ParseCertificate(der)
	must(t, err)
	a := &authority{c, key, filepath.Join(dir, name+".pem")}
	must(t, os.WriteFile(a.file, encoded("CERTIFICATE", der), 0o600))
	return a
}

func encoded(what string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: what, Bytes: der})
}

// issue makes a certificate for a DNS name, or a SPIFFE URI, that is valid until a moment.
func (a *authority) issue(t testing.TB, name string, until time.Time) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: until.Add(-time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if u, err := url.Parse(name); err == nil && u.Scheme != "" {
		c.URIs = []*url.URL{u}
	} else {
		c.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &key.PublicKey, a.key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// files writes a certificate and its key.
func files(t testing.TB, dir, name string, c tls.Certificate) (cert, key string) {
	cert, key = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	must(t, err)
	must(t, os.WriteFile(cert, encoded("CERTIFICATE", c.Certificate[0]), 0o600))
	must(t, os.WriteFile(key, encoded("PRIVATE KEY", der), 0o600))
	return cert, key
}

// secret is one of Kubernetes with a certificate.
func secret(t testing.TB, name string, c tls.Certificate, clients *authority) string {
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	must(t, err)
	b64 := base64.StdEncoding.EncodeToString
	return "apiVersion: v1\nkind: Secret\nmetadata: {name: " + name + ", namespace: istio-system}\ndata: {cert: " + b64(encoded("CERTIFICATE", c.Certificate[0])) +
		", key: " + b64(encoded("PRIVATE KEY", der)) + ", cacert: " + b64(encoded("CERTIFICATE", clients.cert.Raw)) + "}\n"
}

// issuer signs tokens.
type issuer struct {
	kid string
	key *ecdsa.PrivateKey
}

func newIssuer(t testing.TB, kid string) issuer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return issuer{kid, key}
}

func (i issuer) token(t testing.TB, claims string) string {
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: i.kid}}, nil)
	must(t, err)
	o, err := s.Sign([]byte(claims))
	must(t, err)
	out, err := o.CompactSerialize()
	must(t, err)
	return out
}

// keys is the issuer's set.
func (i issuer) keys(t testing.TB) string {
	out, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: i.kid}}})
	must(t, err)
	return string(out)
}

func pool(a *authority) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// authority is the mesh's own.
func (w *world) authority() *authority {
	text, err := os.ReadFile(filepath.Join(w.Dir, "state", "ca", "ca.pem"))
	must(w.T, err)
	a := &authority{}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" && a.cert == nil {
			a.cert, err = x509.ParseCertificate(block.Bytes)
		} else if key, e := x509.ParsePKCS8PrivateKey(block.Bytes); e == nil {
			a.key = key.(*ecdsa.PrivateKey)
		} else if key, e := x509.ParseECPrivateKey(block.Bytes); e == nil {
			a.key = key
		}
		must(w.T, err)
	}
	return a
}
