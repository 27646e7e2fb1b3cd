package identity

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// maxRoots bounds a bundle. Two roots overlap in a rotation; federated meshes
// bring a few each; verification stops after 100 signature checks anyway
// (crypto/x509, as of Go 1.26).
const maxRoots = 64

// Bundle is the set of roots by which peers are judged: one, or several while
// roots rotate or meshes federate. It is immutable and safe for concurrent use.
type Bundle struct {
	roots []*x509.Certificate // in the order given, no two alike
	pool  *x509.CertPool
}

// NewBundle makes a bundle of at least one root. A root need not sign itself (an
// intermediate may be trusted directly) but must be a certificate authority.
func NewBundle(roots ...*x509.Certificate) (*Bundle, error) {
	b := &Bundle{pool: x509.NewCertPool()}
	for _, r := range roots {
		if slices.ContainsFunc(b.roots, r.Equal) {
			continue
		}
		if !r.BasicConstraintsValid || !r.IsCA {
			return nil, fmt.Errorf("trust bundle: %s is not a certificate authority and cannot be a root", describe(r))
		}
		b.roots = append(b.roots, r)
		b.pool.AddCert(r)
	}
	switch n := len(b.roots); {
	case n == 0:
		return nil, errors.New("trust bundle: no root certificate")
	case n > maxRoots:
		return nil, fmt.Errorf("trust bundle: %d roots, at most %d are allowed", n, maxRoots)
	}
	return b, nil
}

// ParseBundle reads the roots of a PEM file such as Istio's root-cert.pem.
func ParseBundle(text []byte) (*Bundle, error) {
	roots, err := ParseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("trust bundle: %w", err)
	}
	return NewBundle(roots...)
}

// Roots returns the roots. The slice is the caller's, the certificates are not.
func (b *Bundle) Roots() []*x509.Certificate { return slices.Clone(b.roots) }

// PEM is what ParseBundle reads.
func (b *Bundle) PEM() []byte { return EncodeCertificates(b.roots...) }

// Union has the roots of b and then those of o that b has not. Either may be nil.
func (b *Bundle) Union(o *Bundle) *Bundle {
	if b == nil || o == nil || b == o {
		if b == nil {
			return o
		}
		return b
	}
	u := &Bundle{roots: slices.Clone(b.roots), pool: b.pool.Clone()}
	for _, r := range o.roots {
		if !slices.ContainsFunc(u.roots, r.Equal) {
			u.roots = append(u.roots, r)
			u.pool.AddCert(r)
		}
	}
	return u
}

// Equal reports whether both hold the same roots in the same order.
func (b *Bundle) Equal(o *Bundle) bool {
	if b == nil || o == nil {
		return b == o
	}
	return slices.EqualFunc(b.roots, o.roots, (*x509.Certificate).Equal)
}

// meets reports whether some root is in both.
func (b *Bundle) meets(o *Bundle) bool {
	return slices.ContainsFunc(b.roots, func(r *x509.Certificate) bool { return slices.ContainsFunc(o.roots, r.Equal) })
}

// ParseCertificates reads one or more PEM certificates. Text between blocks is
// allowed, as openssl writes it; another kind of block or a damaged one is not.
func ParseCertificates(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			// Decode passes over a block that it cannot read.
			if bytes.Count(text, []byte("-----BEGIN ")) != len(certs) {
				return nil, fmt.Errorf("PEM block %d is damaged: its base64 text or END line cannot be read", len(certs)+1)
			}
			if len(certs) == 0 {
				return nil, errors.New(`no PEM certificate found: want blocks that begin with "-----BEGIN CERTIFICATE-----"`)
			}
			return certs, nil
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %d is %q, want CERTIFICATE", len(certs)+1, clip(block.Type))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
	}
}

// Ends is the certificate with which a PEM text ceases to be of use: of a chain, leaf first, the first that ends; of authorities, by which
// others are judged, the last. What is in the text beside certificates, a key for example, does not matter. Nil if there is no certificate.
func Ends(text []byte) *x509.Certificate {
	var out *x509.Certificate
	authorities := false
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if block.Type != "CERTIFICATE" || err != nil {
			continue
		}
		if out == nil {
			authorities = c.IsCA
		}
		if out == nil || c.NotAfter.After(out.NotAfter) == authorities {
			out = c
		}
	}
	return out
}

// EncodeCertificates is the inverse of ParseCertificates.
func EncodeCertificates(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// describe names a certificate for an operator: what `openssl x509` would show
// to find it again.
func describe(c *x509.Certificate) string {
	name := c.Subject.String()
	if id, err := FromCertificate(c); err == nil {
		name = id.String()
	}
	return fmt.Sprintf("%q (serial %x, valid until %s)", clip(name), c.SerialNumber, c.NotAfter.UTC().Format(time.RFC3339))
}
