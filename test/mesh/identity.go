package mesh

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"time"

	"github.com/weirmesh/weir/ca/token"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/identity/istioca"
	"github.com/weirmesh/weir/internal/redact"
)

// istiod is who the control plane proves to be.
func istiod() identity.OneOf {
	return identity.OneOf{{TrustDomain: trustDomain, Namespace: "istio-system", ServiceAccount: "istiod"}}
}

// target is where the control plane serves xDS and certificates.
func (m *Mesh) target() string { return "unix://" + m.path("xds.sock") }

// token is what the runtime would give a workload for its first certificate.
func (m *Mesh) token(id identity.ID, workload string) (redact.String, error) {
	return m.keys.Mint(token.Claims{ID: id, Workload: workload, Audience: token.Audience, Expires: time.Now().Add(time.Hour)})
}

// signer asks the control plane for certificates of a service account.
func (m *Mesh) signer(namespace, serviceAccount, workload string) (identity.ID, identity.Signer, error) {
	id, err := identity.New(trustDomain, namespace, serviceAccount)
	if err != nil {
		return id, nil, err
	}
	given, err := m.token(id, workload)
	if err != nil {
		return id, nil, err
	}
	s, err := istioca.New(istioca.Options{Address: m.target(), Servers: istiod(), WorkloadName: workload, ClusterID: "Kubernetes",
		Token: func() (redact.String, error) { return given, nil }})
	return id, s, err
}

// Certificate has the control plane certify a key of the test's own for a service account.
func (m *Mesh) Certificate(namespace, serviceAccount string) *tls.Certificate {
	m.T.Helper()
	id, signer, err := m.signer(namespace, serviceAccount, "test")
	if err != nil {
		m.T.Fatal(err)
	}
	roots, err := m.Roots()
	if err != nil {
		m.T.Fatal(err)
	}
	held, err := identity.NewManager(identity.Options{ID: id, Signer: signer, Bootstrap: roots, Log: m.log})
	if err != nil {
		m.T.Fatal(err)
	}
	r := start(held.Run)
	m.Eventually("the test has a certificate for "+id.String(), func() error {
		if held.Certificate() == nil {
			return errors.New(held.Status().LastError)
		}
		return nil
	})
	_ = r.stop()
	return held.Certificate()
}

// Forge has the authority's own key sign a certificate for cert's key that the authority itself never would: leaf as it was
// signed, after spoil has changed it.
func (m *Mesh) Forge(cert *tls.Certificate, spoil func(leaf *x509.Certificate)) *tls.Certificate {
	m.T.Helper()
	text, err := os.ReadFile(m.path("state", "ca", "ca.pem"))
	if errors.Is(err, os.ErrNotExist) { // a plugged-in authority
		text, err = os.ReadFile(m.path("state", "ca", "ca-key.pem"))
	}
	if err != nil {
		m.T.Fatal(err)
	}
	key, err := identity.ParseKey(redact.New(text))
	if err != nil {
		m.T.Fatal(err)
	}
	roots, err := m.Roots()
	if err != nil {
		m.T.Fatal(err)
	}
	issuer := roots.Roots()[0]
	if len(cert.Certificate) > 1 {
		if issuer, err = x509.ParseCertificate(cert.Certificate[1]); err != nil {
			m.T.Fatal(err)
		}
	}
	leaf := *cert.Leaf
	leaf.PublicKey = cert.PrivateKey.(crypto.Signer).Public()
	leaf.ExtraExtensions, leaf.Extensions = nil, nil
	spoil(&leaf)
	leaf.SignatureAlgorithm = x509.UnknownSignatureAlgorithm // that of the key
	der, err := x509.CreateCertificate(rand.Reader, &leaf, issuer, leaf.PublicKey, key)
	if err != nil {
		m.T.Fatal(err)
	}
	return &tls.Certificate{Certificate: append([][]byte{der}, cert.Certificate[1:]...), PrivateKey: cert.PrivateKey}
}

// Roots vouch for the mesh's certificates.
func (m *Mesh) Roots() (*identity.Bundle, error) {
	pem, err := os.ReadFile(m.path("state", "ca", "root-cert.pem"))
	if err != nil {
		return nil, err
	}
	return identity.ParseBundle(pem)
}
