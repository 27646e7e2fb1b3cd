package ca

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"time"

	"github.com/weirmesh/weir/identity"
)

const (
	// backdate lets a certificate be good at once on machines whose clock is a
	// little behind. Machines that keep time by NTP are milliseconds apart; two
	// minutes cover one that has not synchronised since a restart, and cost
	// nothing, for the key did not exist then.
	backdate = 2 * time.Minute

	// Istio's DEFAULT_WORKLOAD_CERT_TTL.
	defaultTTL = 24 * time.Hour
	// MaxTTL is the longest life that Options may allow, Istio's MAX_WORKLOAD_CERT_TTL. Successions of a mesh's own
	// roots go by it, whatever Options say now: what was allowed before, or is by another replica, holds.
	MaxTTL = 90 * 24 * time.Hour
)

// ErrEnded is in the error of Sign when the signing certificate, or one above it,
// is not valid at present: nothing that is signed would be accepted.
var ErrEnded = errors.New("the signing certificate is not valid now")

// Options of an Authority. The zero value allows nobody more than the default.
type Options struct {
	DefaultTTL time.Duration // where none is asked for; zero: 24 h, or MaxTTL if that is less
	MaxTTL     time.Duration // longer wishes are shortened to it; zero: DefaultTTL
}

// Authority signs certificates.
type Authority struct {
	o           Options
	trustDomain string
	key         crypto.Signer
	cert        *x509.Certificate   // of key
	above       []*x509.Certificate // cert and what is between it and the root; empty if cert is a root
	root        *x509.Certificate   // where cert leads
	bundle      *identity.Bundle
	from        time.Time // when all of cert, above and root are valid
	until       time.Time
	tail        []string // what follows a leaf in an answer: above and the bundle, PEM
	// distrusted are roots that the operator wants cut off, whoever needs them.
	distrusted []*x509.Certificate
	unread     bool // there is a RevokedFile
}

// Grant is what a certificate is to say.
type Grant struct {
	ID       identity.ID
	DNSNames []string      // beside the identity, for a server that is asked by name
	TTL      time.Duration // zero: the default
}

// Issued is a new certificate.
type Issued struct {
	Leaf *x509.Certificate
	// Chain is an answer in the form of IstioCertificateResponse.cert_chain: one
	// PEM certificate per element, each with its final newline; the leaf first,
	// then intermediates, then every root of the bundle.
	Chain []string
	// Asked is what the request named instead of the identity that was granted; "" if nothing.
	Asked string
}

// newAuthority checks that key and certificates make an authority whose
// certificates peers will accept, by making one and judging it as a peer would.
func newAuthority(o Options, trustDomain string, key crypto.Signer, cert *x509.Certificate, others []*x509.Certificate, bundle *identity.Bundle) (*Authority, error) {
	o.DefaultTTL = cmp.Or(o.DefaultTTL, min(defaultTTL, cmp.Or(o.MaxTTL, defaultTTL)))
	o.MaxTTL = cmp.Or(o.MaxTTL, o.DefaultTTL)
	if o.DefaultTTL < 0 || o.DefaultTTL > o.MaxTTL || o.MaxTTL > MaxTTL {
		return nil, fmt.Errorf("certificate lives: the default %s must be positive and at most the longest, %s, and that at most %s", o.DefaultTTL, o.MaxTTL, MaxTTL)
	}
	if !belongs(cert, key) {
		return nil, errors.New("the signing certificate does not belong to the signing key")
	}
	if err := checkKey(cert.PublicKey); err != nil {
		return nil, fmt.Errorf("the signing key: %w", err)
	}
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return nil, errors.New("the signing certificate is not a certificate authority (basic constraints CA:TRUE)")
	case cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, errors.New("the signing certificate may not sign certificates (key usage keyCertSign)")
	}
	a := &Authority{o: o, trustDomain: trustDomain, key: key, cert: cert, bundle: bundle, from: cert.NotBefore, until: cert.NotAfter}
	path, err := a.path(others)
	if err != nil {
		return nil, err
	}
	a.above, a.root = path[:len(path)-1], path[len(path)-1]
	for _, c := range path {
		if c.NotBefore.After(a.from) {
			a.from = c.NotBefore
		}
		if c.NotAfter.Before(a.until) {
			a.until = c.NotAfter
		}
	}
	for _, c := range slices.Concat(a.above, bundle.Roots()) {
		a.tail = append(a.tail, string(identity.EncodeCertificates(c)))
	}
	return a, a.rehearse(trustDomain)
}

// withBundle is the same authority with other roots, which have to vouch for it.
func (a *Authority) withBundle(bundle *identity.Bundle) (*Authority, error) {
	others := slices.Clone(a.above)
	n, err := newAuthority(a.o, a.trustDomain, a.key, a.cert, others, bundle)
	if err == nil {
		n.distrusted, n.unread = a.distrusted, a.unread
	}
	return n, err
}

// grants is the life that a wish is answered with.
func (a *Authority) grants(wish time.Duration) time.Duration {
	if wish <= 0 {
		wish = a.o.DefaultTTL
	}
	return min(wish, a.o.MaxTTL)
}

// path is the way from the signing certificate to a root of the bundle.
func (a *Authority) path(others []*x509.Certificate) ([]*x509.Certificate, error) {
	if slices.ContainsFunc(a.bundle.Roots(), a.cert.Equal) {
		return []*x509.Certificate{a.cert}, nil
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range a.bundle.Roots() {
		roots.AddCert(c)
	}
	for _, c := range others {
		between.AddCert(c)
	}
	paths, err := a.cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil, fmt.Errorf("the signing certificate %q does not lead to a root: %w", a.cert.Subject, err)
	}
	return slices.MinFunc(paths, func(x, y []*x509.Certificate) int { return len(x) - len(y) }), nil
}

// rehearse finds what no field shows by itself: a path length that leaves no room,
// a usage or name constraint of some certificate above.
func (a *Authority) rehearse(trustDomain string) error {
	id := identity.ID{TrustDomain: trustDomain, Namespace: "rehearsal", ServiceAccount: "rehearsal"}
	if err := id.Validate(); err != nil {
		return err
	}
	m, err := a.Issue(Grant{ID: id})
	for _, role := range []identity.Role{identity.Client, identity.Server} {
		if err == nil {
			_, err = identity.VerifyPeer(m.Certificate().Certificate, a.bundle, time.Now(), role, identity.OneOf{id})
		}
	}
	if err != nil {
		return fmt.Errorf("peers would refuse what this authority signs: %w", err)
	}
	return nil
}

// Sign makes a certificate for the key of a request (PEM, PKCS #10). Nothing else
// of the request is used: names in it are wishes, the grant decides. A bad
// request is a *RequestError.
func (a *Authority) Sign(csr []byte, g Grant) (*Issued, error) {
	if err := g.ID.Validate(); err != nil {
		return nil, fmt.Errorf("identity to certify: %w", err)
	}
	req, err := parseRequest(csr)
	if err != nil {
		return nil, err
	}
	issued, err := a.sign(req.PublicKey, g)
	if err == nil {
		if i := slices.IndexFunc(req.URIs, func(u *url.URL) bool { return u.String() != g.ID.String() }); i >= 0 {
			issued.Asked = req.URIs[i].String()
		}
	}
	return issued, err
}

func (a *Authority) sign(key crypto.PublicKey, g Grant) (*Issued, error) {
	now := time.Now()
	if now.Before(a.from) || !now.Before(a.until) {
		return nil, fmt.Errorf("%w: %q and those above it are valid from %s until %s", ErrEnded,
			a.cert.Subject, a.from.UTC().Format(time.RFC3339), a.until.UTC().Format(time.RFC3339))
	}
	until := now.Add(a.grants(g.TTL))
	if until.After(a.until) {
		until = a.until // beyond it nobody would accept the certificate
	}
	usage := x509.KeyUsageDigitalSignature
	if _, ok := key.(*rsa.PublicKey); ok {
		usage |= x509.KeyUsageKeyEncipherment // TLS 1.2 with RSA key exchange, for peers that are not ours
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	// The subject stays empty: so the SPIFFE name is marked critical (RFC 5280
	// section 4.2.1.6), and no name that grants nothing distracts from it.
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, NotBefore: now.Add(-backdate), NotAfter: until,
		URIs: []*url.URL{g.ID.URL()}, DNSNames: g.DNSNames, BasicConstraintsValid: true,
		KeyUsage: usage, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of %s: %w", g.ID, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of %s: %w", g.ID, err)
	}
	return &Issued{Leaf: leaf, Chain: append([]string{string(identity.EncodeCertificates(leaf))}, a.tail...)}, nil
}

// Issue makes a key and a certificate for a server in the same process.
func (a *Authority) Issue(g Grant) (*identity.Material, error) {
	key, err := identity.NewKey()
	if err != nil {
		return nil, err
	}
	issued, err := a.sign(key.Public(), g)
	if err != nil {
		return nil, err
	}
	return identity.NewMaterial(key, append([]*x509.Certificate{issued.Leaf}, a.above...), a.bundle)
}

// Signer lets an identity.Manager in the same process keep a certificate of its
// own: the control plane's. The identity and names of the grant are certified, its
// TTL unless the manager asks for one.
func (a *Authority) Signer(g Grant) identity.Signer { return signer{a, g} }

type signer struct {
	authority *Authority
	grant     Grant
}

func (s signer) Sign(_ context.Context, req identity.Request) ([]byte, error) {
	g := s.grant
	if req.TTL > 0 {
		g.TTL = req.TTL
	}
	issued, err := s.authority.Sign(req.CSR, g)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, c := range issued.Chain {
		out.WriteString(c)
	}
	return out.Bytes(), nil
}

// Bundle is the set of roots that workloads are to trust.
func (a *Authority) Bundle() *identity.Bundle { return a.bundle }

// RootNotAfter is the end of the root that our certificates lead to.
func (a *Authority) RootNotAfter() time.Time { return a.root.NotAfter }

// ChainNotAfter is when signing ends: the first end of the signing certificate
// and all above it.
func (a *Authority) ChainNotAfter() time.Time { return a.until }

// FirstEnd is the certificate with which signing ends, and the file of a plugged-in authority that it is from.
func (a *Authority) FirstEnd() (c *x509.Certificate, file string) {
	c, file = a.cert, "ca-cert.pem"
	for _, above := range a.above {
		if above.NotAfter.Before(c.NotAfter) {
			c, file = above, "cert-chain.pem"
		}
	}
	if a.root.NotAfter.Before(c.NotAfter) || a.root.Equal(c) {
		c, file = a.root, "root-cert.pem"
	}
	return c, file
}

// ChainNotBefore is when signing began: the last beginning of the signing certificate and
// all above it.
func (a *Authority) ChainNotBefore() time.Time { return a.from }

func newSerial() (*big.Int, error) {
	// 128 bits: twice what the CA/Browser Forum asks for (Baseline Requirements
	// 7.1), and within the 20 octets of RFC 5280 section 4.1.2.2.
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("drawing a serial number: %w", err)
	}
	return new(big.Int).SetBytes(b[:]), nil
}

func newRoot(trustDomain string, key crypto.Signer, now time.Time, life time.Duration) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: now.Add(-backdate), NotAfter: now.Add(life),
		// Each root has a name of its own: a server names the roots it accepts, and a
		// client whose certificate is of an earlier one knows that it need not try.
		Subject: pkix.Name{Organization: []string{trustDomain}, CommonName: fmt.Sprintf("Weir root %x", serial.Bytes()[:4])},
		IsCA:    true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing the root certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}
