package ca

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/internal/redact"
)

// rootLife is Istio's CITADEL_SELF_SIGNED_CA_CERT_TTL, ten years.
const rootLife = 3650 * 24 * time.Hour

// layout names the files of an authority; chain is "" if there is none.
type layout struct{ key, cert, roots, chain string }

// layouts of a plugged-in authority: Istio's Secret cacerts, and a Kubernetes TLS
// Secret as cert-manager makes it.
var layouts = []layout{
	{"ca-key.pem", "ca-cert.pem", "root-cert.pem", "cert-chain.pem"},
	{"tls.key", "tls.crt", "ca.crt", ""},
}

// DistrustedFile has, beside the files of an authority, roots that are to be cut off at once, whoever holds certificates that
// lead to them: stolen ones. Others stay trusted while they are needed.
const DistrustedFile = "distrusted.pem"

// RevokedFile has, in Istio's form of the same files, lists of revoked certificates. They are not read, and that is said.
const RevokedFile = "ca-crl.pem"

// ParsePlugged is OpenPlugged for files that were read, by name: the data of a Secret. An
// empty file is none.
func ParsePlugged(files map[string][]byte, trustDomain string, o Options) (*Authority, error) {
	found := slices.DeleteFunc(slices.Clone(layouts), func(l layout) bool { return len(files[l.key]) == 0 })
	if len(found) != 1 {
		return nil, fmt.Errorf("want one private key, either %s or %s, and found %d", layouts[0].key, layouts[1].key, len(found))
	}
	l := found[0]
	certificates := func(name string) ([]*x509.Certificate, error) {
		if len(files[name]) == 0 {
			return nil, fmt.Errorf("%s is missing or empty", name)
		}
		certs, err := identity.ParseCertificates(files[name])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return certs, nil
	}
	key, err := identity.ParseKey(redact.New(files[l.key]))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.key, err)
	}
	certs, err := certificates(l.cert)
	if err != nil {
		return nil, err
	}
	roots, err := certificates(l.roots)
	if err != nil {
		return nil, err
	}
	bundle, err := identity.NewBundle(roots...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.roots, err)
	}
	names, others := []string{l.key, l.cert, l.roots}, certs[1:]
	if l.chain != "" {
		names = append(names, l.chain)
		if len(files[l.chain]) > 0 {
			more, err := certificates(l.chain)
			if err != nil {
				return nil, err
			}
			others = append(others, more...)
		}
	}
	a, err := newAuthority(o, trustDomain, key, certs[0], others, bundle)
	if err != nil {
		return nil, fmt.Errorf("%w (files %s)", err, strings.Join(names, ", "))
	}
	a.unread = len(files[RevokedFile]) > 0
	if len(files[DistrustedFile]) > 0 {
		if a.distrusted, err = certificates(DistrustedFile); err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(roots, a.distrusts); i >= 0 {
			return nil, fmt.Errorf("root %s is both in %s and in %s: take it out of one of them", name(roots[i]), l.roots, DistrustedFile)
		}
	}
	return a, nil
}

// NewSelfSigned makes a root of ECDSA P-256 for ten years, in the files that ParsePlugged
// and OwnOf read.
func NewSelfSigned(trustDomain string) (map[string][]byte, error) {
	now := time.Now().Round(0)
	own, err := (&Own{leaf: MaxTTL}).Succeed(trustDomain, now)
	if err != nil {
		return nil, err
	}
	return own.Files(now)
}
