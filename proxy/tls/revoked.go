package tls

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// Revoked are revocation lists (RFC 5280, section 5) by issuer. Immutable.
type Revoked struct {
	lists map[string][]*revocationList // by the issuer's name in DER
}

type revocationList struct {
	list    *x509.RevocationList
	serials map[string]bool
}

// extensions of revocation lists that change nothing about what a list says.
var harmless = []asn1.ObjectIdentifier{{2, 5, 29, 20}, {2, 5, 29, 35}} // number, authority key identifier

// ParseRevoked reads lists in PEM, or one in DER.
func ParseRevoked(text []byte) (*Revoked, error) {
	var ders [][]byte
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "X509 CRL" {
			ders = append(ders, block.Bytes)
		}
	}
	if len(ders) == 0 && !bytes.Contains(text, []byte("-----BEGIN")) {
		ders = append(ders, text)
	}
	if len(ders) == 0 {
		return nil, errors.New("no revocation list (X509 CRL) in it")
	}
	r := &Revoked{lists: map[string][]*revocationList{}}
	for i, der := range ders {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("revocation list %d: %w", i+1, err)
		}
		for _, x := range list.Extensions {
			if x.Critical && !x.Id.Equal(harmless[0]) && !x.Id.Equal(harmless[1]) {
				return nil, fmt.Errorf("revocation list %d: its critical extension %v, which makes it one of a part only, is not supported", i+1, x.Id)
			}
		}
		l := &revocationList{list, map[string]bool{}}
		for _, e := range list.RevokedCertificateEntries {
			l.serials[string(e.SerialNumber.Bytes())] = true
		}
		issuer := string(list.RawIssuer)
		r.lists[issuer] = append(r.lists[issuer], l)
	}
	return r, nil
}

// check looks every certificate of a verified chain but the root up, as OpenSSL's
// CRL_CHECK_ALL: each issuer needs a list that is signed by it and not out of date.
func (r *Revoked) check(chain []*x509.Certificate, leafOnly bool, now time.Time) (until time.Time, err error) {
	until = forever
	for i, c := range chain[:len(chain)-1] {
		if leafOnly && i > 0 {
			break
		}
		found := &refusal{text: fmt.Sprintf("there is no revocation list of the issuer %q, and lists are required", c.Issuer)}
		for _, l := range r.lists[string(c.RawIssuer)] {
			if l.list.CheckSignatureFrom(chain[i+1]) != nil {
				continue
			}
			if now.Before(l.list.ThisUpdate) || !l.list.NextUpdate.IsZero() && !now.Before(l.list.NextUpdate) {
				found = &refusal{text: fmt.Sprintf("the revocation list of the issuer %q is out of date: it is good from %s to %s; install a newer one",
					c.Issuer, l.list.ThisUpdate.UTC().Format(time.RFC3339), l.list.NextUpdate.UTC().Format(time.RFC3339))}
				continue
			}
			if l.serials[string(c.SerialNumber.Bytes())] {
				return until, &refusal{text: fmt.Sprintf("the certificate of %q with the serial number %x was revoked by its issuer %q", c.Subject, c.SerialNumber, c.Issuer)}
			}
			if !l.list.NextUpdate.IsZero() && l.list.NextUpdate.Before(until) {
				until = l.list.NextUpdate
			}
			found = nil
			break
		}
		if found != nil {
			return until, found
		}
	}
	return until, nil
}
