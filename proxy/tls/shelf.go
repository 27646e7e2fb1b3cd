package tls

import (
	stdtls "crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
)

// shelf holds a server's certificates, from which each client is shown the one that fits.
type shelf struct {
	all    []*stdtls.Certificate
	first  []*stdtls.Certificate            // those with the first one's name, for clients that ask for none or another
	byName map[string][]*stdtls.Certificate // DNS names in lower case, wildcards as they are
}

func newShelf(all []*stdtls.Certificate) (*shelf, error) {
	s := &shelf{all: all, byName: map[string][]*stdtls.Certificate{}}
	var first string
	for i, c := range all {
		leaf := c.Leaf
		if leaf == nil {
			if len(c.Certificate) == 0 {
				return nil, fmt.Errorf("certificate %d is empty", i+1)
			}
			var err error
			if leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
				return nil, fmt.Errorf("certificate %d: %w", i+1, err)
			}
		}
		names := leaf.DNSNames
		if len(names) == 0 && leaf.Subject.CommonName != "" {
			names = []string{leaf.Subject.CommonName} // as Envoy
		}
		for _, n := range names {
			n = strings.ToLower(n)
			s.byName[n] = append(s.byName[n], c)
		}
		if i == 0 && len(names) > 0 {
			first = strings.ToLower(names[0])
		}
	}
	s.first = s.byName[first]
	return s, nil
}

var errNoFit = errors.New("no certificate of the server can be used with the signature algorithms and versions that the client offers (doesn't support any of the certificates)")

// choose picks by server name, an exact one before a wildcard, any for a name that none
// has; among those, the first that the client can verify, one with a key other than RSA
// first, because its signatures cost a tenth.
func (s *shelf) choose(h *stdtls.ClientHelloInfo) (*stdtls.Certificate, error) {
	if len(s.all) == 1 || h == nil {
		return s.all[0], nil
	}
	name := strings.ToLower(strings.TrimSuffix(h.ServerName, "."))
	if c := usable(s.byName[name], h); c != nil {
		return c, nil
	}
	if _, domain, ok := strings.Cut(name, "."); ok {
		if c := usable(s.byName["*."+domain], h); c != nil {
			return c, nil
		}
	}
	for _, any := range [][]*stdtls.Certificate{s.first, s.all} {
		if c := usable(any, h); c != nil {
			return c, nil
		}
	}
	return nil, errNoFit
}

func usable(from []*stdtls.Certificate, h *stdtls.ClientHelloInfo) (found *stdtls.Certificate) {
	if len(from) == 0 {
		return nil
	}
	anyName := *h
	anyName.ServerName = ""
	for _, c := range from {
		if anyName.SupportsCertificate(c) != nil {
			continue
		}
		if c.Leaf == nil || c.Leaf.PublicKeyAlgorithm != x509.RSA {
			return c
		}
		if found == nil {
			found = c
		}
	}
	return found
}
