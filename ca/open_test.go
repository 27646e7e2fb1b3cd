package ca

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirmesh/weir/identity"
)

// The authority of a folder is made once and is the same ever after, for every
// process.
func TestOpenSelfSigned(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "ca")
	var wg sync.WaitGroup
	bundles := make([]*identity.Bundle, 8)
	for i := range bundles {
		wg.Go(func() {
			a, err := OpenSelfSigned(dir, "cluster.local", Options{})
			if err != nil {
				t.Error(err)
				return
			}
			bundles[i] = a.Bundle()
		})
	}
	wg.Wait()
	again := newAuthorityIn(t, dir, Options{})
	for _, b := range bundles {
		if !b.Equal(again.Bundle()) {
			t.Fatal("two processes got two roots")
		}
	}
	root := again.Bundle().Roots()[0]
	if !root.IsCA || !strings.HasPrefix(root.Subject.CommonName, "Weir root ") || root.Subject.Organization[0] != "cluster.local" {
		t.Errorf("root %q", root.Subject)
	}
	if other := selfSigned(t, Options{}).Bundle().Roots()[0]; other.Subject.CommonName == root.Subject.CommonName {
		t.Error("two roots have one name")
	}
	public, err := os.ReadFile(filepath.Join(dir, rootFile))
	if err != nil || !bytes.Equal(public, again.Bundle().PEM()) {
		t.Errorf("%s: %s, %v", rootFile, public, err)
	}
	for name, want := range map[string]os.FileMode{"": 0o700, authorityFile: 0o600, rootFile: 0o644} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%q: %v, %v", name, info.Mode(), err)
		}
	}
}

// A root that is to come, or one that was, is trusted by being in the file.
func TestSelfSignedWithFurtherRoots(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	newAuthorityIn(t, dir, Options{})
	next := selfSigned(t, Options{})
	path := filepath.Join(dir, authorityFile)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, next.Bundle().PEM()...), 0o600); err != nil {
		t.Fatal(err)
	}
	a := newAuthorityIn(t, dir, Options{})
	issued, err := a.Sign(request(t, ecKey(t, elliptic.P256()), x509.CertificateRequest{}), Grant{ID: cart})
	if err != nil || len(a.Bundle().Roots()) != 2 || len(issued.Chain) != 3 || issued.Chain[2] != string(next.Bundle().PEM()) {
		t.Errorf("%d roots, answer of %d, %v", len(a.Bundle().Roots()), len(issued.Chain), err)
	}
}

func TestDamagedSelfSigned(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	newAuthorityIn(t, dir, Options{})
	text, err := os.ReadFile(filepath.Join(dir, authorityFile))
	if err != nil {
		t.Fatal(err)
	}
	cut := bytes.Index(text, []byte("-----BEGIN CERTIFICATE"))
	key, cert := text[:cut], text[cut:]
	other := selfSigned(t, Options{})
	for _, c := range []struct {
		name, err string
		text      []byte
	}{
		{"empty", "damaged", nil},
		{"text", "damaged", []byte("hello")},
		{"no certificate", "no PEM certificate", key},
		{"no key", "private key", cert},
		{"cut off in the key", "", text[:cut/2]},
		{"cut off in the certificate", "damaged", text[:len(text)-30]},
		{"another's certificate", "does not belong to the signing key", append(slices.Clone(key), other.Bundle().PEM()...)},
	} {
		path := filepath.Join(dir, authorityFile)
		if err := os.WriteFile(path, c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := OpenSelfSigned(dir, "cluster.local", Options{})
		if err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "restore the file") {
			t.Errorf("%s: error %v, want the path, a remedy and %q", c.name, err, c.err)
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, c.text) {
			t.Errorf("%s: the file was changed", c.name)
		}
	}
}

// A key that is gone is not replaced by another one as long as somebody may trust its root.
func TestMissingSelfSigned(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	old := newAuthorityIn(t, dir, Options{})
	path := filepath.Join(dir, authorityFile)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSelfSigned(dir, "cluster.local", Options{}); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "restore it") {
		t.Errorf("error %v, want the path and a remedy", err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("there is a new key")
	}
	if err := os.Remove(filepath.Join(dir, rootFile)); err != nil {
		t.Fatal(err)
	}
	if newAuthorityIn(t, dir, Options{}).Bundle().Equal(old.Bundle()) {
		t.Error("the new root is the old one")
	}
}

// An organisation with a root, an issuing authority and ours below.
type organisation struct {
	t                *testing.T
	root, issuer, ca node
}

type node struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func (n node) pem() string { return string(identity.EncodeCertificates(n.cert)) }

func (n node) below(t *testing.T, name string, key crypto.Signer, change func(*x509.Certificate)) node {
	t.Helper()
	template := x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if change != nil {
		change(&template)
	}
	parent, parentKey := n.cert, n.key
	if parent == nil {
		parent, parentKey = &template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return node{cert, key}
}

func newOrganisation(t *testing.T, caKey crypto.Signer, change func(*x509.Certificate)) *organisation {
	root := node{}.below(t, "root", ecKey(t, elliptic.P256()), nil)
	issuer := root.below(t, "issuer", ecKey(t, elliptic.P384()), nil)
	return &organisation{t, root, issuer, issuer.below(t, "mesh", caKey, change)}
}

// dir writes files, name and content alternating; an empty content leaves one out.
func dir(t *testing.T, nameAndContent ...string) string {
	t.Helper()
	d := t.TempDir()
	for i := 0; i < len(nameAndContent); i += 2 {
		if nameAndContent[i+1] == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(d, nameAndContent[i]), []byte(nameAndContent[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func keyPEM(t *testing.T, kind string, key crypto.Signer) string {
	t.Helper()
	var der []byte
	var err error
	switch kind {
	case "PRIVATE KEY":
		der, err = x509.MarshalPKCS8PrivateKey(key)
	case "RSA PRIVATE KEY":
		der = x509.MarshalPKCS1PrivateKey(key.(*rsa.PrivateKey))
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func TestOpenPlugged(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	inTwoHours := time.Now().Add(2 * time.Hour).Truncate(time.Second)
	org := newOrganisation(t, rsaKey, func(c *x509.Certificate) { c.NotAfter = inTwoHours })
	own := newOrganisation(t, rsaKey, func(c *x509.Certificate) {
		c.NotAfter, c.PermittedURIDomains, c.PermittedDNSDomainsCritical = inTwoHours, []string{"cluster.local"}, true
	})
	pkcs8, pkcs1 := keyPEM(t, "PRIVATE KEY", rsaKey), keyPEM(t, "RSA PRIVATE KEY", rsaKey)
	all := org.ca.pem() + org.issuer.pem()
	for _, c := range []struct {
		name  string
		files []string
		above int
	}{
		{"Istio's four files", []string{"ca-key.pem", pkcs8, "ca-cert.pem", org.ca.pem(), "root-cert.pem", org.root.pem(), "cert-chain.pem", all}, 2},
		{"the chain with its root", []string{"ca-key.pem", pkcs1, "ca-cert.pem", org.ca.pem(), "root-cert.pem", org.root.pem(), "cert-chain.pem", all + org.root.pem()}, 2},
		{"the chain in ca-cert.pem", []string{"ca-key.pem", pkcs8, "ca-cert.pem", all, "root-cert.pem", org.root.pem()}, 2},
		{"cert-manager's files", []string{"tls.key", pkcs1, "tls.crt", all, "ca.crt", org.root.pem()}, 2},
		{"the issuer trusted as root", []string{"tls.key", pkcs8, "tls.crt", org.ca.pem(), "ca.crt", org.issuer.pem()}, 1},
		{"ourselves trusted as root", []string{"tls.key", pkcs8, "tls.crt", org.ca.pem(), "ca.crt", org.ca.pem()}, 0},
		{"constrained to the mesh", []string{"ca-key.pem", pkcs8, "ca-cert.pem", own.ca.pem(), "root-cert.pem", own.root.pem(), "cert-chain.pem", own.issuer.pem()}, 2},
	} {
		a, err := OpenPlugged(dir(t, c.files...), "cluster.local", Options{})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		m, err := a.Issue(Grant{ID: cart})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if len(m.Chain()) != 1+c.above {
			t.Errorf("%s: %d certificates are shown, want %d above the leaf", c.name, len(m.Chain()), c.above)
		}
		if !m.NotAfter().Equal(inTwoHours) || !a.ChainNotAfter().Equal(inTwoHours) {
			t.Errorf("%s: ends %s, the authority %s", c.name, m.NotAfter(), a.ChainNotAfter())
		}
		file := "ca-cert.pem"
		if c.above == 0 {
			file = "root-cert.pem"
		}
		if first, from := a.FirstEnd(); !first.NotAfter.Equal(inTwoHours) || from != file {
			t.Errorf("%s: %s of %s ends first", c.name, first.Subject, from)
		}
		issued, err := a.Sign(request(t, ecKey(t, elliptic.P256()), x509.CertificateRequest{}), Grant{ID: cart})
		if err != nil || len(issued.Chain) != 1+c.above+1 {
			t.Errorf("%s: answer of %d, %v", c.name, len(issued.Chain), err)
		}
	}
}

func TestBadPlugged(t *testing.T) {
	key := ecKey(t, elliptic.P256())
	text := keyPEM(t, "PRIVATE KEY", key)
	org := newOrganisation(t, key, nil)
	all := org.ca.pem() + org.issuer.pem()
	other := newOrganisation(t, ecKey(t, elliptic.P256()), nil)
	spoilt := func(change func(*x509.Certificate)) *organisation { return newOrganisation(t, key, change) }
	plugged := func(o *organisation) []string {
		return []string{"ca-key.pem", text, "ca-cert.pem", o.ca.pem(), "root-cert.pem", o.root.pem(), "cert-chain.pem", o.ca.pem() + o.issuer.pem()}
	}
	noRoom := node{}.below(t, "root", ecKey(t, elliptic.P256()), func(c *x509.Certificate) { c.MaxPathLenZero = true })
	belowNoRoom := noRoom.below(t, "mesh", key, nil)
	weak := ecKey(t, elliptic.P224())
	for _, c := range []struct {
		name, err string
		files     []string
	}{
		{"an empty folder", "either ca-key.pem or tls.key", nil},
		{"both kinds", "found 2", []string{"ca-key.pem", text, "tls.key", text}},
		{"no certificate", "ca-cert.pem", []string{"ca-key.pem", text, "root-cert.pem", org.root.pem()}},
		{"no root", "root-cert.pem", []string{"ca-key.pem", text, "ca-cert.pem", org.ca.pem()}},
		{"no chain though there is an intermediate", "does not lead to a root", []string{"ca-key.pem", text, "ca-cert.pem", org.ca.pem(), "root-cert.pem", org.root.pem()}},
		{"a damaged chain", "cert-chain.pem", []string{"ca-key.pem", text, "ca-cert.pem", org.ca.pem(), "root-cert.pem", org.root.pem(), "cert-chain.pem", "x"}},
		{"a damaged key", "ca-key.pem: private key", []string{"ca-key.pem", "x", "ca-cert.pem", org.ca.pem(), "root-cert.pem", org.root.pem()}},
		{"an encrypted key", "openssl pkey", []string{"ca-key.pem", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"}},
		{"a certificate for the key's file", "private key", []string{"ca-key.pem", all}},
		{"another's key", "does not belong to the signing key", []string{"ca-key.pem", text, "ca-cert.pem", other.ca.pem(), "root-cert.pem", other.root.pem()}},
		{"another's root", "does not lead to a root", []string{"ca-key.pem", text, "ca-cert.pem", org.ca.pem(), "root-cert.pem", other.root.pem(), "cert-chain.pem", all}},
		{"a leaf", "not a certificate authority", plugged(spoilt(func(c *x509.Certificate) { c.IsCA = false; c.KeyUsage = x509.KeyUsageDigitalSignature }))},
		{"not for signing", "keyCertSign", plugged(spoilt(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }))},
		{"expired", "expired", plugged(spoilt(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }))},
		{"for e-mail only", "peers would refuse", plugged(spoilt(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection} }))},
		{"of one domain only", "peers would refuse", plugged(spoilt(func(c *x509.Certificate) { c.PermittedURIDomains = []string{"example.com"} }))},
		{"under a root that allows none below", "", []string{"tls.key", text, "tls.crt", belowNoRoom.pem(), "ca.crt", noRoom.pem()}},
		{"a root that is not to be trusted", "both in root-cert.pem and in distrusted.pem", append(plugged(org), "distrusted.pem", org.root.pem())},
		{"damaged roots that are not to be trusted", "distrusted.pem", append(plugged(org), "distrusted.pem", "x")},
		{"a weak key", "curve P-224", []string{"tls.key", keyPEM(t, "PRIVATE KEY", weak), "tls.crt", org.issuer.below(t, "weak", weak, nil).pem() + org.issuer.pem(), "ca.crt", org.root.pem()}},
	} {
		d := dir(t, c.files...)
		_, err := OpenPlugged(d, "cluster.local", Options{})
		if err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), d) {
			t.Errorf("%s: error %v, want the folder and %q", c.name, err, c.err)
		}
	}
}

func serial(t *testing.T) *big.Int {
	t.Helper()
	n, err := newSerial()
	if err != nil {
		t.Fatal(err)
	}
	return n
}
