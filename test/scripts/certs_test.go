package scripts

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// shown are the certificates of the cast, by name: whom they are for, and which of the two
// authorities vouches.
var shown = []struct {
	name, authority string
	names           []string
}{
	{"shop", "ca", []string{"shop.example", "*.shop.example"}},
	{"echo", "ca", []string{"echo.example"}},
	{"web", "ca", []string{"web.example"}},
	{"client", "ca", []string{"client.example"}},
	{"friend", "ca", []string{"spiffe://friends.example/ns/x/sa/friend"}},
	{"revoked", "ca", []string{"revoked.example"}},
	{"stranger", "strangers", []string{"client.example"}},
}

// vault holds files by name: NAME.pem, NAME.key, NAME-2.pem, ca.pem, strangers.pem and crl.pem.
type vault struct {
	files map[string][]byte
	pairs map[string]tls.Certificate
	pins  map[string][2]string // hash of the certificate in hexadecimal, of its key in base64
}

func newVault(t testing.TB) *vault {
	v := &vault{map[string][]byte{}, map[string]tls.Certificate{}, map[string][2]string{}}
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	now, serial := time.Now(), int64(0)
	type pair struct {
		cert *x509.Certificate
		key  *ecdsa.PrivateKey
	}
	issue := func(file string, template *x509.Certificate, by *pair) *pair {
		serial++
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(err)
		template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(serial), now.Add(-time.Hour), now.Add(time.Hour)
		if by == nil {
			by = &pair{template, key}
		}
		der, err := x509.CreateCertificate(rand.Reader, template, by.cert, &key.PublicKey, by.key)
		must(err)
		cert, err := x509.ParseCertificate(der)
		must(err)
		text, err := x509.MarshalPKCS8PrivateKey(key)
		must(err)
		v.files[file+".pem"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		v.files[file+".key"] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text})
		v.pairs[file], err = tls.X509KeyPair(v.files[file+".pem"], v.files[file+".key"])
		must(err)
		whole, spki := sha256.Sum256(der), sha256.Sum256(cert.RawSubjectPublicKeyInfo)
		v.pins[file] = [2]string{hex.EncodeToString(whole[:]), base64.StdEncoding.EncodeToString(spki[:])}
		return &pair{cert, key}
	}
	authorities := map[string]*pair{}
	for _, name := range []string{"ca", "strangers"} {
		authorities[name] = issue(name, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}, nil)
	}
	for _, s := range shown {
		template := &x509.Certificate{Subject: pkix.Name{CommonName: s.name}, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
		for _, n := range s.names {
			if u, err := url.Parse(n); err == nil && u.Scheme != "" {
				template.URIs = append(template.URIs, u)
			} else {
				template.DNSNames = append(template.DNSNames, n)
			}
		}
		issue(s.name, template, authorities[s.authority])
	}
	revoked, err := x509.ParseCertificate(v.pairs["revoked"].Certificate[0])
	must(err)
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: revoked.SerialNumber, RevocationTime: now.Add(-time.Minute)}}},
		authorities["ca"].cert, authorities["ca"].key)
	must(err)
	v.files["crl.pem"] = pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
	return v
}

// write puts the files into a folder.
func (v *vault) write(t testing.TB, dir string) {
	for name, data := range v.files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

var placeholder = regexp.MustCompile(`\$(IP|FILE|BASE64|HASH|SPKI)\(([^)]*)\)`)

// fill puts addresses of the cast, and paths and contents of files in dir, into a text.
func (v *vault) fill(text, dir string, address func(name string) string) string {
	return placeholder.ReplaceAllStringFunc(text, func(s string) string {
		m := placeholder.FindStringSubmatch(s)
		switch m[1] {
		case "IP":
			return address(m[2])
		case "FILE":
			return filepath.Join(dir, m[2])
		case "HASH":
			return v.pins[m[2]][0]
		case "SPKI":
			return v.pins[m[2]][1]
		}
		var all []byte
		for name := range strings.FieldsSeq(m[2]) {
			all = append(all, v.files[name]...)
		}
		return base64.StdEncoding.EncodeToString(all)
	})
}
