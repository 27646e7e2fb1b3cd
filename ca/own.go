package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/internal/redact"
)

// Own are the roots that a mesh made for itself, with their keys, and further ones that were
// put beside them to be trusted. It is immutable.
type Own struct {
	roots []ownRoot     // in the order of the text
	leaf  time.Duration // the longest life that any control plane of the mesh may have granted
}

type ownRoot struct {
	cert *x509.Certificate
	key  crypto.Signer // nil: it is only trusted
}

// ParseOwn reads private keys and certificates in PEM: at least one of each that belong
// together.
func ParseOwn(text redact.Bytes) (*Own, error) {
	var keys []crypto.Signer
	var certs []byte
	blocks := 0
	for rest := text.Reveal(); ; blocks++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch {
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			key, err := identity.ParseKey(redact.New(pem.EncodeToMemory(block)))
			if err != nil {
				return nil, err
			}
			keys = append(keys, key)
		case block.Type != "EC PARAMETERS":
			certs = append(certs, pem.EncodeToMemory(block)...)
		}
	}
	if bytes.Count(text.Reveal(), []byte("-----BEGIN ")) != blocks {
		return nil, fmt.Errorf("PEM block %d is damaged: its base64 text or END line cannot be read", blocks+1)
	}
	if len(keys) == 0 {
		return nil, errors.New("the text is damaged: it has no private key in PEM")
	}
	all, err := identity.ParseCertificates(certs)
	if err != nil {
		return nil, err
	}
	o := &Own{leaf: MaxTTL}
	for _, c := range all {
		if slices.ContainsFunc(o.roots, func(r ownRoot) bool { return r.cert.Equal(c) }) {
			continue
		}
		r := ownRoot{cert: c}
		if i := slices.IndexFunc(keys, func(k crypto.Signer) bool { return belongs(c, k) }); i >= 0 {
			r.key = keys[i]
		}
		o.roots = append(o.roots, r)
	}
	for _, k := range keys {
		if !slices.ContainsFunc(o.roots, func(r ownRoot) bool { return r.key == k }) {
			return nil, errors.New("the signing certificate does not belong to the signing key")
		}
	}
	return o, nil
}

func belongs(c *x509.Certificate, key crypto.Signer) bool {
	pub, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(key.Public())
}

// Marshal writes what ParseOwn reads, the private keys included.
func (o *Own) Marshal() (redact.Bytes, error) {
	var out []byte
	for _, r := range o.roots {
		if r.key != nil {
			text, err := identity.EncodeKey(r.key)
			if err != nil {
				return redact.Bytes{}, err
			}
			out = append(out, text.Reveal()...)
		}
		out = append(out, identity.EncodeCertificates(r.cert)...)
	}
	return redact.New(out), nil
}

// SuccessorsFile has the roots of a Secret, with keys, that do not sign: those that will, and
// those that did.
const SuccessorsFile = "successors.pem"

// OwnOf are the roots in the data of the Secret that a mesh keeps for itself: Istio's, whose
// one certificate is the root, and beside it SuccessorsFile.
func OwnOf(files map[string][]byte) (*Own, error) {
	l := layouts[0]
	o, err := ParseOwn(redact.New(bytes.Join([][]byte{files[l.key], files[l.cert], files[SuccessorsFile], files[l.roots]}, []byte("\n"))))
	if err != nil {
		return nil, fmt.Errorf("%s, %s, %s and %s: %w", l.key, l.cert, l.roots, SuccessorsFile, err)
	}
	return o, nil
}

// Files are what OwnOf reads: what others than we take for the authority is the one that
// signs now.
func (o *Own) Files(now time.Time) (map[string][]byte, error) {
	p, l := o.Plan(now), layouts[0]
	if p.Signer < 0 {
		return nil, errors.New("no root of the mesh's own")
	}
	key, err := identity.EncodeKey(o.roots[p.Signer].key)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{l.key: key.Reveal(), l.cert: identity.EncodeCertificates(o.roots[p.Signer].cert)}
	for _, i := range p.Trust {
		files[l.roots] = append(files[l.roots], identity.EncodeCertificates(o.roots[i].cert)...)
	}
	rest := &Own{leaf: o.leaf}
	for i, r := range o.roots {
		if r.key != nil && i != p.Signer {
			rest.roots = append(rest.roots, r)
		}
	}
	if len(rest.roots) > 0 {
		text, err := rest.Marshal()
		if err != nil {
			return nil, err
		}
		files[SuccessorsFile] = text.Reveal()
	}
	return files, nil
}

// Authority is the one in force now.
func (o *Own) Authority(opts Options, trustDomain string, now time.Time) (*Authority, error) {
	return o.authority(opts, trustDomain, o.Plan(now))
}

// Plan says what the roots are for now.
func (o *Own) Plan(now time.Time) Plan {
	roots := make([]Root, len(o.roots))
	for i, r := range o.roots {
		roots[i] = Root{r.cert.NotBefore, r.cert.NotAfter, r.key != nil}
	}
	return Succession{o.leaf}.Step(now, roots)
}

// Succeed adds a root that was made now. Who signs is for Plan to say.
func (o *Own) Succeed(trustDomain string, now time.Time) (*Own, error) {
	key, err := identity.NewKey()
	if err != nil {
		return nil, err
	}
	cert, err := newRoot(trustDomain, key, now, rootLife)
	if err != nil {
		return nil, err
	}
	return &Own{append(slices.Clone(o.roots), ownRoot{cert, key}), o.leaf}, nil
}

// Same reports whether two plans of the same roots give the same authority.
func (p Plan) Same(o Plan) bool { return p.Signer == o.Signer && slices.Equal(p.Trust, o.Trust) }

// authority is the one in force by a plan.
func (o *Own) authority(opts Options, trustDomain string, p Plan) (*Authority, error) {
	var trusted []*x509.Certificate
	for _, i := range p.Trust {
		trusted = append(trusted, o.roots[i].cert)
	}
	signer := o.roots[p.Signer]
	if !slices.ContainsFunc(trusted, signer.cert.Equal) {
		trusted = append(trusted, signer.cert) // ended: newAuthority says so
	}
	bundle, err := identity.NewBundle(trusted...)
	if err != nil {
		return nil, err
	}
	return newAuthority(opts, trustDomain, signer.key, signer.cert, nil, bundle)
}

// View is a root for people: what it is for, and until when.
type View struct {
	Name        string    // its subject
	Serial      string    // hexadecimal
	From, Until time.Time // validity
	Ours        bool      // its key is here: it can be succeeded
	Signs       bool
	Begins      time.Time // when it begins to sign; zero: it does not
	Retires     time.Time // when it ceases to be trusted; zero: when it is taken away
}

// Rooted reports whether all that have keys are roots: they sign themselves.
func (o *Own) Rooted() bool {
	return !slices.ContainsFunc(o.roots, func(r ownRoot) bool { return r.key != nil && r.cert.CheckSignatureFrom(r.cert) != nil })
}

// Views are the roots that are trusted now.
func (o *Own) Views(now time.Time) []View {
	p := o.Plan(now)
	var out []View
	for _, i := range p.Trust {
		v := viewOf(o.roots[i].cert)
		v.Ours, v.Signs, v.Begins, v.Retires = o.roots[i].key != nil, i == p.Signer, p.Begins[i], p.Retires[i]
		out = append(out, v)
	}
	return out
}

func viewOf(c *x509.Certificate) View {
	return View{Name: c.Subject.String(), Serial: fmt.Sprintf("%x", c.SerialNumber), From: c.NotBefore, Until: c.NotAfter}
}
