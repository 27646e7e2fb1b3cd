package identity

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weirmesh/weir/internal/redact"
)

// maxChain bounds a certificate chain, the leaf included: an organisation's root
// with two levels below it makes three.
const maxChain = 10

// Material is what a workload shows and judges by: private key, certificate
// chain, trust bundle. It is immutable and safe for concurrent use, and it is a
// Source that never changes.
type Material struct {
	id     ID
	cert   tls.Certificate
	chain  []*x509.Certificate // leaf first, without the root
	bundle *Bundle
	root   *x509.Certificate // of bundle, to which chain leads
	from   time.Time         // when all of chain are valid
	until  time.Time
}

// NewMaterial puts a key, its chain (leaf first, intermediates in order, the root
// left out) and a bundle together. It demands a SPIFFE leaf that belongs to the
// key and leads to a root of the bundle. It does not look at the clock: expired
// material can be made, and is useless but not damaged.
func NewMaterial(key crypto.Signer, chain []*x509.Certificate, bundle *Bundle) (*Material, error) {
	if len(chain) == 0 || len(chain) > maxChain {
		return nil, fmt.Errorf("certificate chain: %d certificates, want 1 to %d", len(chain), maxChain)
	}
	if bundle == nil {
		return nil, errors.New("certificate chain: no trust bundle with it")
	}
	leaf := chain[0]
	id, err := FromCertificate(leaf)
	if err != nil {
		return nil, err
	}
	if pub, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(key.Public()) {
		return nil, fmt.Errorf("certificate %s does not belong to the private key: replace both together", describe(leaf))
	}
	m := &Material{id: id, chain: slices.Clone(chain), bundle: bundle, from: leaf.NotBefore, until: leaf.NotAfter}
	m.cert = tls.Certificate{PrivateKey: key, Leaf: leaf}
	between := x509.NewCertPool()
	for _, c := range chain {
		m.cert.Certificate = append(m.cert.Certificate, c.Raw)
		if c != leaf {
			between.AddCert(c)
		}
		if c.NotBefore.After(m.from) {
			m.from = c.NotBefore
		}
		if c.NotAfter.Before(m.until) {
			m.until = c.NotAfter
		}
	}
	// Whether signatures lead to a root is no question of time, but Verify wants
	// one. The root may begin later than a backdated leaf or end earlier than it:
	// one end of the leaf's life is enough.
	for _, moment := range []time.Time{m.from, m.until} {
		var paths [][]*x509.Certificate
		paths, err = leaf.Verify(x509.VerifyOptions{
			Roots: bundle.pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, CurrentTime: moment,
		})
		if err == nil {
			m.root = paths[0][len(paths[0])-1]
			return m, nil
		}
	}
	return nil, fmt.Errorf("certificate %s does not lead to a root of its trust bundle: %w", describe(leaf), err)
}

// ParseMaterial reads a key, a chain and roots in PEM: the three files of a
// mounted certificate, the two secrets of SDS. A root that stands at the end of
// the chain is left out of what is shown to peers.
func ParseMaterial(key redact.Bytes, chain, roots []byte) (*Material, error) {
	bundle, err := ParseBundle(roots)
	if err != nil {
		return nil, err
	}
	certs, err := ParseCertificates(chain)
	if err != nil {
		return nil, fmt.Errorf("certificate chain: %w", err)
	}
	for n := len(certs); n > 1 && selfSigned(certs[n-1]); n-- {
		certs = certs[:n-1]
	}
	k, err := ParseKey(key)
	if err != nil {
		return nil, err
	}
	return NewMaterial(k, certs, bundle)
}

// String names the certificate, for logs; the key stays out of it.
func (m *Material) String() string {
	if m == nil {
		return "no certificate"
	}
	return describe(m.Leaf())
}

// ID is the identity that the certificate proves.
func (m *Material) ID() ID { return m.id }

// Leaf is the workload's own certificate.
func (m *Material) Leaf() *x509.Certificate { return m.chain[0] }

// Chain is what peers are shown, leaf first.
func (m *Material) Chain() []*x509.Certificate { return slices.Clone(m.chain) }

// Certificate is key and chain in the form crypto/tls takes. The caller must not
// modify it.
func (m *Material) Certificate() *tls.Certificate { return &m.cert }

// Bundle is what peers are judged by.
func (m *Material) Bundle() *Bundle { return m.bundle }

// Root is the root of Bundle to which the certificate leads: peers that do not trust it refuse us.
func (m *Material) Root() *x509.Certificate { return m.root }

// NotBefore is when the last certificate of the chain begins to be valid.
func (m *Material) NotBefore() time.Time { return m.from }

// NotAfter is when the first certificate of the chain ceases to be valid.
func (m *Material) NotAfter() time.Time { return m.until }

// Usable reports whether peers with a clock like ours accept the certificate.
func (m *Material) Usable(now time.Time) bool {
	return m != nil && !now.Before(m.NotBefore()) && now.Before(m.NotAfter())
}

// Key is the private key in PEM (PKCS #8).
func (m *Material) Key() (redact.Bytes, error) { return EncodeKey(m.cert.PrivateKey.(crypto.Signer)) }

// Headers that divide a marshalled Material; the PEM blocks alone do not tell an
// intermediate from a root.
const (
	sectionHeader = "Section"
	sectionChain  = "chain"
	sectionRoots  = "roots"
)

// Marshal writes everything into one PEM text, the private key included: whoever
// stores it must keep it from other users (folder 0700, file 0600).
func (m *Material) Marshal() (redact.Bytes, error) {
	key, err := m.Key()
	if err != nil {
		return redact.Bytes{}, err
	}
	out := slices.Clone(key.Reveal())
	add := func(section string, certs []*x509.Certificate) {
		for _, c := range certs {
			out = append(out, pem.EncodeToMemory(&pem.Block{
				Type: "CERTIFICATE", Headers: map[string]string{sectionHeader: section}, Bytes: c.Raw,
			})...)
		}
	}
	add(sectionChain, m.chain)
	add(sectionRoots, m.bundle.roots)
	return redact.New(out), nil
}

// Unmarshal reads what Marshal wrote. Damage is an error, never partial material.
func Unmarshal(text []byte) (*Material, error) {
	var key redact.Bytes
	sections := map[string][]byte{}
	blocks := 0
	for rest := text; ; blocks++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if section := block.Headers[sectionHeader]; block.Type == "CERTIFICATE" && (section == sectionChain || section == sectionRoots) {
			block.Headers = nil
			sections[section] = append(sections[section], pem.EncodeToMemory(block)...)
		} else if block.Type == keyPKCS8 && key.IsZero() {
			key = redact.New(pem.EncodeToMemory(block))
		} else {
			return nil, fmt.Errorf("stored identity: unexpected PEM block %d, %q", blocks+1, clip(block.Type))
		}
	}
	if bytes.Count(text, []byte("-----BEGIN ")) != blocks {
		return nil, fmt.Errorf("stored identity: PEM block %d is damaged", blocks+1)
	}
	m, err := ParseMaterial(key, sections[sectionChain], sections[sectionRoots])
	if err != nil {
		return nil, fmt.Errorf("stored identity: %w", err)
	}
	return m, nil
}

func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(c) == nil
}
