package control

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/mesh"
)

const (
	// soon is how long before the end of an authority that succeeds itself people are told: it should have,
	// months ago.
	soon = 30 * 24 * time.Hour
	// longAhead bounds how long before the end of another one they are told, which is half of its life: who rotates it has
	// done so by then, or has to find out who does. It is a year before the end of a root of ten.
	longAhead = 365 * 24 * time.Hour
)

// notice is how long before its end an authority that began at from is to be spoken of.
func (p *Plane) notice(now, from, until time.Time) time.Duration {
	for _, v := range p.views(now) {
		if v.Signs && v.Ours {
			return soon
		}
	}
	return min(until.Sub(from)/2, longAhead)
}

// openAuthority opens the one in the state folder, or the one plugged in, and says what keeps it
// alive.
func openAuthority(o Options) (ca.Source, func(context.Context) error, error) {
	ttl := ca.Options{DefaultTTL: o.CertTTL, MaxTTL: o.MaxCertTTL}
	if o.CA != "" {
		plugged, err := ca.FollowPlugged(o.CA, filepath.Join(o.State, "ca", "handover.pem"), o.TrustDomain, ttl, o.Log)
		if err != nil {
			return nil, nil, err
		}
		return plugged, plugged.Run, nil
	}
	own, err := ca.FollowSelfSigned(filepath.Join(o.State, "ca"), o.TrustDomain, ttl, o.Log)
	if err != nil {
		return nil, nil, err
	}
	return own, own.Run, nil
}

// overseen is the external authority, and notes which certificate above those that it signs ends first.
func (p *Plane) overseen() ca.External {
	if p.o.ExternalCA == nil {
		return nil
	}
	return overseen{p.o.ExternalCA, &p.above}
}

type overseen struct {
	ca.External
	above *atomic.Pointer[x509.Certificate]
}

// Certify is described at ca.External.
func (o overseen) Certify(ctx context.Context, csr []byte, key crypto.PublicKey, ttl time.Duration) ([]byte, error) {
	text, err := o.External.Certify(ctx, csr, key, ttl)
	if chain, bad := identity.ParseCertificates(text); err == nil && bad == nil && len(chain) > 1 {
		o.above.Store(slices.MinFunc(chain[1:], func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) }))
	}
	return text, err
}

// ended is how a certificate is called.
func ended(c *x509.Certificate, file string) apiv1.IdentityEnd {
	return apiv1.IdentityEnd{Name: fmt.Sprintf("%s (serial %x)", c.Subject, c.SerialNumber), File: file, Until: c.NotAfter}
}

// authorityFindings say what people have to do about the certificate authority.
func (p *Plane) authorityFindings(now time.Time) (out []config.Finding) {
	ref := mesh.Ref{Kind: "CertificateAuthority", Name: p.o.TrustDomain}
	held, _ := p.auth.Watch()
	if end := held.ChainNotAfter(); end.Sub(now) < p.notice(now, held.ChainNotBefore(), end) { // the first end of the root and what it signed
		what, hint := "root certificate", "replace it before, with both roots in force for a while"
		if end.Before(held.RootNotAfter()) {
			what, hint = "signing certificate", "replace it before by another of the same root"
		}
		out = append(out, config.New(config.AuthorityEnds, ref, "", 0, fmt.Sprintf("the %s of the mesh ends on %s", what, end.UTC().Format(time.DateOnly)), hint))
	}
	if follows, ok := p.auth.(interface{ Problem() string }); ok {
		if problem := follows.Problem(); problem != "" {
			out = append(out, config.New(config.AuthorityUnusable, ref, "", 0, problem, "correct it; what was in force stays so"))
		}
	}
	if rolls, ok := p.auth.(interface{ Notes() []string }); ok {
		for _, n := range rolls.Notes() {
			out = append(out, config.New(config.AuthorityChanges, ref, "", 0, n, ""))
		}
	}
	return out
}
