package identity

import (
	"cmp"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Accept says which proven identities are welcome. Implementations are
// immutable; String completes the sentence "expected …" for an operator.
type Accept interface {
	Accepts(ID) bool
	String() string
}

// OneOf accepts the identities listed: for a client, those of the service
// accounts that may serve the destination. Empty, it accepts nobody.
type OneOf []ID

// Accepts reports whether id is listed.
func (o OneOf) Accepts(id ID) bool { return slices.Contains(o, id) }

func (o OneOf) String() string {
	switch len(o) {
	case 0:
		return "nobody (the list of expected identities is empty)"
	case 1:
		return o[0].String()
	}
	return "one of " + listed(o, ID.String)
}

// TrustDomains accepts every workload of the mesh's own trust domain and its
// aliases. Empty, it accepts nobody.
type TrustDomains []string

// Accepts reports whether id is of a listed trust domain.
func (d TrustDomains) Accepts(id ID) bool { return slices.Contains(d, id.TrustDomain) }

func (d TrustDomains) String() string {
	if len(d) == 0 {
		return "nobody (no trust domain is configured)"
	}
	return "an identity in trust domain " + listed(d, func(s string) string { return s })
}

// listed writes the first few: a destination can have hundreds of accounts.
func listed[T any](all []T, text func(T) string) string {
	const most = 5
	var words []string
	for _, t := range all[:min(most, len(all))] {
		words = append(words, text(t))
	}
	s := strings.Join(words, ", ")
	if more := len(all) - most; more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}

// Role is the part the peer plays in the handshake.
type Role uint8

// A peer is a client or a server; its certificate must allow that use.
const (
	Client Role = iota + 1
	Server
)

func (r Role) String() string {
	switch r {
	case Client:
		return "client"
	case Server:
		return "server"
	}
	return "peer"
}

// Reason is why a peer was refused: a closed set, for causes and counters.
type Reason uint8

// The reasons, in the order in which they are looked for.
const (
	NoCertificate    Reason = iota + 1 // nothing was presented
	Malformed                          // not X.509, or too much of it
	NotSPIFFE                          // not exactly one URI name of the mesh's form
	Expired                            // its time, or that of an authority above it, is over
	NotYetValid                        // its time, or that of an authority above it, has not begun
	UnknownAuthority                   // no trusted root vouches for it
	WrongUsage                         // the certificate may not be used in this role
	InvalidChain                       // a constraint of some certificate is violated
	WrongIdentity                      // proven, but somebody else than expected
)

func (r Reason) String() string {
	if i := int(r) - 1; i >= 0 && i < len(reasonNames) {
		return reasonNames[i]
	}
	return fmt.Sprintf("reason_%d", uint8(r))
}

var reasonNames = [...]string{
	"no_certificate", "malformed", "not_spiffe", "expired", "not_yet_valid",
	"unknown_authority", "wrong_usage", "invalid_chain", "wrong_identity",
}

// PeerError is the refusal of a peer: who presented what, and what was expected.
// Its text is one sentence with the remedy, where there is one.
type PeerError struct {
	Reason    Reason
	Role      Role
	Presented ID     // as claimed; zero if there is none
	Expected  string // as Accept says
	Detail    string
	Err       error // what crypto/x509 said, or nil
}

func (e *PeerError) Error() string {
	claims := "presented no identity"
	if e.Presented != (ID{}) {
		claims = "presented " + e.Presented.String()
	}
	return fmt.Sprintf("the %s %s, expected %s: %s", e.Role, claims, e.Expected, e.Detail)
}

func (e *PeerError) Unwrap() error { return e.Err }

// maxPresented bounds a presented chain before anything is parsed. crypto/tls
// reads up to 256 KiB of certificates (as of Go 1.26); a chain of three EC
// certificates is 2 KiB, one of four large RSA certificates 8 KiB.
const maxPresented = 64 << 10

// VerifyPeer judges the certificates a peer presented in a TLS handshake (leaf
// first, as crypto/tls and RFC 8446 section 4.4.2 give them): exactly one SPIFFE
// identity, a leaf that leads to a root of the bundle, valid now and for the
// peer's role, an identity that is accepted. Host names play no part.
//
// Any error is a *PeerError. A nil bundle or accept refuses everybody.
func VerifyPeer(raw [][]byte, bundle *Bundle, now time.Time, role Role, accept Accept) (ID, error) {
	fail := &PeerError{Role: role, Expected: "nobody (nothing is accepted)"}
	if accept != nil {
		fail.Expected = accept.String()
	}
	leaf, between, err := fail.parse(raw)
	if err != nil {
		return ID{}, err
	}
	id, err := FromCertificate(leaf)
	if err != nil {
		return ID{}, fail.refuse(NotSPIFFE, err, "%v", err)
	}
	fail.Presented = id

	if err := fail.judge(leaf, between, bundle, now); err != nil {
		return ID{}, err
	}
	if accept == nil || !accept.Accepts(id) {
		return ID{}, fail.refuse(WrongIdentity, nil, "the certificate is good, but it is somebody else's")
	}
	return id, nil
}

// VerifyServerName judges a server that proves a DNS name instead of a SPIFFE identity: the control
// plane of Istio, whose serving certificate names istiod.istio-system.svc. Everything else
// is as in VerifyPeer.
func VerifyServerName(raw [][]byte, bundle *Bundle, now time.Time, name DNSName) error {
	fail := &PeerError{Role: Server, Expected: name.String()}
	leaf, between, err := fail.parse(raw)
	if err != nil {
		return err
	}
	fail.Presented, _ = FromCertificate(leaf)
	if err := fail.judge(leaf, between, bundle, now); err != nil {
		return err
	}
	if err := leaf.VerifyHostname(string(name)); name == "" || err != nil {
		return fail.refuse(WrongIdentity, err, "the certificate is good, but its DNS names are %s", cmp.Or(clip(strings.Join(leaf.DNSNames, ", ")), "none"))
	}
	return nil
}

// DNSName is an Accept for ClientTLS: the server has to prove this DNS name, as
// VerifyServerName says, and no SPIFFE identity. It accepts no identity.
type DNSName string

// Accepts reports false.
func (DNSName) Accepts(ID) bool { return false }

func (n DNSName) String() string { return "the DNS name " + strconv.Quote(string(n)) }

func (e *PeerError) refuse(r Reason, err error, format string, args ...any) error {
	e.Reason, e.Err, e.Detail = r, err, fmt.Sprintf(format, args...)
	return e
}

// parse reads a presented chain.
func (e *PeerError) parse(raw [][]byte) (leaf *x509.Certificate, between *x509.CertPool, err error) {
	if len(raw) == 0 {
		return nil, nil, e.refuse(NoCertificate, nil, "it sent no certificate")
	}
	size := 0
	for _, der := range raw {
		size += len(der)
	}
	if len(raw) > maxChain || size > maxPresented {
		return nil, nil, e.refuse(Malformed, nil, "it sent %d certificates of %d bytes, at most %d of %d are read", len(raw), size, maxChain, maxPresented)
	}
	leaf, err = x509.ParseCertificate(raw[0])
	if err != nil {
		return nil, nil, e.refuse(Malformed, err, "its certificate cannot be read: %v", err)
	}
	between = x509.NewCertPool()
	for i, der := range raw[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, e.refuse(Malformed, err, "certificate %d of its chain cannot be read: %v", i+2, err)
		}
		between.AddCert(c)
	}
	return leaf, between, nil
}

// minRSA is what NIST SP 800-57 asks for until 2030; crypto/tls takes 1024 (as of Go 1.26).
const minRSA = 2048

func weak(leaf *x509.Certificate) bool {
	k, ok := leaf.PublicKey.(*rsa.PublicKey)
	return ok && k.N.BitLen() < minRSA
}

// judge asks whether a chain is good now, for the peer's role.
func (e *PeerError) judge(leaf *x509.Certificate, between *x509.CertPool, bundle *Bundle, now time.Time) error {
	switch {
	case now.After(leaf.NotAfter):
		return e.refuse(Expired, nil, "its certificate expired %s ago (%s): it could not renew, or the clocks of the two machines differ",
			now.Sub(leaf.NotAfter).Round(time.Second), leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return e.refuse(NotYetValid, nil, "its certificate becomes valid in %s (%s): the clocks of the two machines differ",
			leaf.NotBefore.Sub(now).Round(time.Second), leaf.NotBefore.UTC().Format(time.RFC3339))
	case leaf.IsCA:
		return e.refuse(InvalidChain, nil, "its certificate is that of a certificate authority, which no workload may use (SPIFFE X.509-SVID section 4.1)")
	case leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return e.refuse(InvalidChain, nil, "its certificate may sign others or revocation lists, which no workload's may (SPIFFE X.509-SVID section 5.2)")
	case weak(leaf):
		return e.refuse(InvalidChain, nil, "its RSA key has %d bits, at least %d are wanted", leaf.PublicKey.(*rsa.PublicKey).N.BitLen(), minRSA)
	case bundle == nil:
		return e.refuse(UnknownAuthority, nil, "there is no trust bundle yet to judge it by")
	}
	usage := x509.ExtKeyUsageClientAuth
	if e.Role == Server {
		usage = x509.ExtKeyUsageServerAuth
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: bundle.pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
			switch {
			case invalid.Reason == x509.IncompatibleUsage:
				return e.refuse(WrongUsage, err, "its certificate, or an authority above it, may not be used by a TLS %s", e.Role)
			case invalid.Reason == x509.Expired && now.Before(invalid.Cert.NotBefore):
				return e.refuse(NotYetValid, err, "the authority above it, %s, is not valid before %s: the clocks of the two machines differ",
					describe(invalid.Cert), invalid.Cert.NotBefore.UTC().Format(time.RFC3339))
			case invalid.Reason == x509.Expired:
				return e.refuse(Expired, err, "the authority above it, %s, has expired: the mesh needs a new one", describe(invalid.Cert))
			}
		}
		if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
			return e.refuse(UnknownAuthority, err, "none of the %d trusted roots (%s) vouches for its issuer %q: %v", len(bundle.roots),
				listed(bundle.roots, func(c *x509.Certificate) string { return fmt.Sprintf("%q", clip(c.Subject.String())) }),
				clip(cmp.Or(leaf.Issuer.String(), "(no name)")), err)
		}
		return e.refuse(InvalidChain, err, "%v", err)
	}
	return nil
}
