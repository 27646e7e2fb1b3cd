package ca

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weirmesh/weir/identity"
)

// External is a certificate authority of somebody else, which signs in place of the mesh's own. The roots that its
// certificates lead to are among those of the Authority in force: what it signs is judged by them. ca/kube has one.
type External interface {
	// Certify has a request certified whose names were checked, for about as long as ttl, and returns the chain: leaf
	// first, PEM. Its errors may be told to who asks.
	Certify(ctx context.Context, csr []byte, key crypto.PublicKey, ttl time.Duration) ([]byte, error)
}

// ErrExternal is in the error of SignBy if the other authority is to blame.
var ErrExternal = errors.New("the external certificate authority")

// slack is how much longer than asked for a certificate may live: authorities round, and some grant no less than ten minutes.
const slack = 15 * time.Minute

// SignBy is Sign by another authority, which goes by the request: so the request has to ask for the identity granted and
// nothing else. What comes back has to be what peers accept as that identity, for the request's key.
func (a *Authority) SignBy(ctx context.Context, e External, csr []byte, g Grant) (*Issued, error) {
	if err := g.ID.Validate(); err != nil {
		return nil, fmt.Errorf("identity to certify: %w", err)
	}
	req, err := parseRequest(csr)
	if err != nil {
		return nil, err
	}
	if err := asksFor(req, g.ID); err != nil {
		return nil, &RequestError{err}
	}
	ttl := a.grants(g.TTL)
	text, err := e.Certify(ctx, csr, req.PublicKey, ttl)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrExternal, err)
	}
	chain, err := identity.ParseCertificates(text)
	if err == nil {
		err = a.judge(chain, req.PublicKey, g.ID, ttl)
	}
	if err != nil {
		return nil, fmt.Errorf("%w gave a certificate that cannot be used: %w", ErrExternal, err)
	}
	out := &Issued{Leaf: chain[0]}
	for _, c := range slices.Concat(chain, a.bundle.Roots()) {
		out.Chain = append(out.Chain, string(identity.EncodeCertificates(c)))
	}
	return out, nil
}

// asksFor reports what a request asks for beside an identity, or instead.
func asksFor(req *x509.CertificateRequest, id identity.ID) error {
	switch {
	case len(req.URIs) != 1 || req.URIs[0].String() != id.URL().String():
		return fmt.Errorf("it asks for the names %v; it has to ask for %s", req.URIs, id)
	case len(req.DNSNames)+len(req.IPAddresses)+len(req.EmailAddresses) > 0:
		return fmt.Errorf("it asks for more names than %s", id)
	}
	return nil
}

// judge looks at what another authority made as peers will, and as who asked for it.
func (a *Authority) judge(chain []*x509.Certificate, key crypto.PublicKey, id identity.ID, ttl time.Duration) error {
	now := time.Now()
	leaf := chain[0]
	if k, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(key) {
		return errors.New("it is for another key")
	}
	if leaf.IsCA {
		return errors.New("it is a certificate authority's")
	}
	if len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) > 0 {
		return fmt.Errorf("it has more names than %s", id)
	}
	if life := leaf.NotAfter.Sub(now); life > ttl+slack {
		return fmt.Errorf("it lives for %s, and %s was asked for", life.Round(time.Minute), ttl)
	}
	var raw [][]byte
	for _, c := range chain {
		raw = append(raw, c.Raw)
	}
	for _, role := range []identity.Role{identity.Client, identity.Server} {
		if _, err := identity.VerifyPeer(raw, a.bundle, now, role, identity.OneOf{id}); err != nil {
			return fmt.Errorf("%w (its root belongs into root-cert.pem of the mesh's own authority)", err)
		}
	}
	return nil
}
