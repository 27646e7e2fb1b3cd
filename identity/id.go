package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Limits of the parts of an ID. The first two are the SPIFFE-ID specification's
// (sections 2.1 and 2.3), the others are Kubernetes' limits for object names.
const (
	maxTrustDomain    = 255
	maxID             = 2048
	maxNamespace      = 63
	maxServiceAccount = 253
)

// ID is the identity of a workload, written
// spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
//
// It is comparable. A value made by New or Parse is valid; the zero value means
// "no identity".
type ID struct {
	TrustDomain    string
	Namespace      string
	ServiceAccount string
}

// New makes an ID of its parts, or says which part is wrong.
func New(trustDomain, namespace, serviceAccount string) (ID, error) {
	id := ID{trustDomain, namespace, serviceAccount}
	return id, id.Validate()
}

// Parse reads the URI form. Anything but exactly five parts is refused: the
// trust domain, "ns", a namespace, "sa", a service account.
func Parse(s string) (ID, error) {
	if len(s) > maxID {
		return ID{}, fmt.Errorf("spiffe id of %d bytes, at most %d are allowed: %q", len(s), maxID, clip(s))
	}
	u, err := spiffeid.FromString(s)
	if err != nil {
		return ID{}, fmt.Errorf("spiffe id %q: %w", clip(s), err)
	}
	// A valid path begins with a slash, so the first of five parts is empty.
	p := strings.Split(u.Path(), "/")
	if len(p) != 5 || p[1] != "ns" || p[3] != "sa" {
		return ID{}, fmt.Errorf("spiffe id %q: want the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>", clip(s))
	}
	return New(u.TrustDomain().Name(), p[2], p[4])
}

// Validate reports the first part that is empty, too long, or has characters
// that SPIFFE does not allow.
func (id ID) Validate() error {
	switch td, err := spiffeid.TrustDomainFromString(id.TrustDomain); {
	case err != nil:
		return fmt.Errorf("trust domain %q: %w", clip(id.TrustDomain), err)
	case td.Name() != id.TrustDomain:
		// TrustDomainFromString takes a whole SPIFFE ID too.
		return fmt.Errorf("trust domain %q: give the name alone, for example cluster.local", clip(id.TrustDomain))
	case len(id.TrustDomain) > maxTrustDomain:
		return fmt.Errorf("trust domain %q: %d characters, at most %d are allowed", clip(id.TrustDomain), len(id.TrustDomain), maxTrustDomain)
	}
	for _, part := range []struct {
		name, value string
		max         int
	}{
		{"namespace", id.Namespace, maxNamespace},
		{"service account", id.ServiceAccount, maxServiceAccount},
	} {
		if part.value == "" {
			return fmt.Errorf("%s is empty", part.name)
		}
		if len(part.value) > part.max {
			return fmt.Errorf("%s %q: %d characters, at most %d are allowed", part.name, clip(part.value), len(part.value), part.max)
		}
		if err := spiffeid.ValidatePathSegment(part.value); err != nil {
			return fmt.Errorf("%s %q: %w", part.name, clip(part.value), err)
		}
	}
	return nil
}

// String is the URI form; empty for the zero ID.
func (id ID) String() string {
	if id == (ID{}) {
		return ""
	}
	return "spiffe://" + id.TrustDomain + "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount
}

// URL is the form that goes into a certificate.
func (id ID) URL() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: id.TrustDomain, Path: "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount}
}

// MarshalText gives the URI form, empty for the zero ID.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (id *ID) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*id = ID{}
		return nil
	}
	*id, err = Parse(string(text))
	return err
}

// FromCertificate returns the identity a certificate claims: exactly one URI
// name, and that a SPIFFE ID (SPIFFE X.509-SVID section 2). Other kinds of names
// may be present. It proves nothing; see VerifyPeer.
func FromCertificate(c *x509.Certificate) (ID, error) {
	switch len(c.URIs) {
	case 0:
		return ID{}, errors.New("the certificate has no URI name: it is not a SPIFFE certificate")
	case 1:
		return Parse(c.URIs[0].String())
	}
	return ID{}, fmt.Errorf("the certificate has %d URI names (first %q), a SPIFFE certificate has exactly one", len(c.URIs), clip(c.URIs[0].String()))
}

// clip bounds what a peer can write into our messages.
func clip(s string) string {
	const most = 128 // enough for any ID seen in practice
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
