package tls

import (
	"crypto/sha256"
	stdtls "crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/weirmesh/weir/identity"
)

// Trust says by what a peer's certificate is judged: either as a workload of the
// mesh, or by ordinary public key infrastructure.
type Trust struct {
	// Mesh holds the trust bundle of the moment; the peer must prove a SPIFFE identity.
	Mesh identity.Source
	// Foreign are trust domains whose peers are judged by these roots alone, and not by those of Mesh; nil: none.
	Foreign map[string]*identity.Bundle
	// Roots judge other peers: a chain to one of them.
	Roots *x509.CertPool
	// System judges them by the roots of the operating system instead.
	System bool
	// Names are the alternative names that are accepted; one must match. None
	// listed: whoever the roots vouch for, as in Envoy.
	Names Names
	// SkipVerify accepts anybody, who then proves nothing: Peer tells nothing of the
	// certificate. Not for peers of the mesh.
	SkipVerify bool
	// Hashes and Keys pin the peer: SHA-256 of its certificate, or of its public key
	// (SubjectPublicKeyInfo), must be one of all of them. With neither Mesh nor Roots they
	// alone decide, and the certificate must be within its time.
	Hashes, Keys [][sha256.Size]byte
	// Revoked are the revocation lists that every certificate of the chain, or with
	// RevokedLeafOnly the peer's own, is looked up in; nil: none.
	Revoked         *Revoked
	RevokedLeafOnly bool

	seen *verified
}

func (t *Trust) pins() bool { return len(t.Hashes)+len(t.Keys) > 0 }

// same reports whether o accepts the same certificates, but for revocation.
func (t *Trust) same(o *Trust) bool {
	return t.Mesh == o.Mesh && maps.EqualFunc(t.Foreign, o.Foreign, (*identity.Bundle).Equal) && t.SkipVerify == o.SkipVerify && slices.Equal(t.Hashes, o.Hashes) && slices.Equal(t.Keys, o.Keys) &&
		slices.EqualFunc(t.Names, o.Names, Name.same) && (t.Roots == nil) == (o.Roots == nil) && (t.Roots == nil || t.Roots.Equal(o.Roots))
}

// resolve checks t and reads the system's roots if they are wanted.
func (t *Trust) resolve() error {
	if t.System && t.Mesh == nil && t.Roots == nil {
		roots, err := x509.SystemCertPool()
		if err != nil {
			return fmt.Errorf("reading the system's root certificates: %w", err)
		}
		t.Roots = roots
	}
	t.seen = &verified{}
	if t.Mesh == nil && t.Roots == nil && !t.pins() && !t.SkipVerify {
		return errors.New("nothing is configured to judge the peer's certificate by; say SkipVerify if that is meant")
	}
	return nil
}

// verify judges a chain. The identity is the proven SPIFFE ID of a mesh peer, zero otherwise.
func (t *Trust) verify(chain []*x509.Certificate, role identity.Role) (identity.ID, error) {
	return t.verifyAt(chain, role, time.Now())
}

func (t *Trust) verifyAt(chain []*x509.Certificate, role identity.Role, now time.Time) (identity.ID, error) {
	if t.Mesh != nil {
		return t.verifyMesh(chain, role, now)
	}
	if t.SkipVerify {
		return identity.ID{}, nil
	}
	if len(chain) == 0 {
		return identity.ID{}, errNotShown
	}
	if err := t.pinned(chain[0], role, now); err != nil {
		return identity.ID{}, err
	}
	key := keyOf(chain, role)
	if _, ok := t.seen.recall(key, nil, now); !ok && t.Roots != nil {
		chains, err := chain[0].Verify(options(t.Roots, chain, role, now))
		if err != nil {
			return identity.ID{}, explained(err, chain[0], role)
		}
		until, err := t.current(chains, now)
		if err != nil {
			return identity.ID{}, err
		}
		t.seen.remember(key, nil, identity.ID{}, now, until, chains[0]...)
	}
	if len(t.Names) == 0 || t.Names.matchCertificate(chain[0]) {
		return identity.ID{}, nil
	}
	return identity.ID{}, &refusal{text: fmt.Sprintf("none of the names in the %s's certificate (%s) is %s: compare the names that are to be accepted (subjectAltNames), and the server name (SNI) that was asked for", role, namesOf(chain[0]), t.Names)}
}

func (t *Trust) verifyMesh(chain []*x509.Certificate, role identity.Role, now time.Time) (identity.ID, error) {
	held := t.Mesh.Bundle()
	key := keyOf(chain, role)
	if id, ok := t.seen.recall(key, held, now); ok && t.Names.Accepts(id) {
		return id, t.pinned(chain[0], role, now)
	}
	raw := make([][]byte, len(chain))
	for i, c := range chain {
		raw[i] = c.Raw
	}
	bundle := t.rootsFor(chain, held)
	id, err := identity.VerifyPeer(raw, bundle, now, role, t.Names)
	if err != nil {
		return id, err
	}
	if err := t.pinned(chain[0], role, now); err != nil {
		return identity.ID{}, err
	}
	until := forever
	if t.Revoked != nil {
		roots := x509.NewCertPool()
		for _, c := range bundle.Roots() {
			roots.AddCert(c)
		}
		chains, err := chain[0].Verify(options(roots, chain, role, now))
		if err != nil {
			return identity.ID{}, explained(err, chain[0], role)
		}
		if until, err = t.current(chains, now); err != nil {
			return identity.ID{}, err
		}
	}
	t.seen.remember(key, held, id, now, until, append(bundle.Roots(), chain...)...)
	return id, nil
}

// rootsFor are the roots that may vouch for a chain, by the trust domain that it claims: whoever has one domain's roots
// makes nobody of another.
func (t *Trust) rootsFor(chain []*x509.Certificate, held *identity.Bundle) *identity.Bundle {
	if len(t.Foreign) == 0 || len(chain) == 0 {
		return held
	}
	if id, err := identity.FromCertificate(chain[0]); err == nil {
		if b := t.Foreign[id.TrustDomain]; b != nil {
			return b
		}
	}
	return held
}

// forever is later than any certificate ends.
var forever = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) // RFC 5280, section 4.1.2.5

// current looks chains up in the revocation lists: one must be without a revoked
// certificate. until is when the lists are to be looked at again.
func (t *Trust) current(chains [][]*x509.Certificate, now time.Time) (until time.Time, err error) {
	if t.Revoked == nil {
		return forever, nil
	}
	for _, chain := range chains {
		if until, err = t.Revoked.check(chain, t.RevokedLeafOnly, now); err == nil {
			return until, nil
		}
	}
	return until, err
}

// pinned compares a certificate with the pins, where there are some.
func (t *Trust) pinned(leaf *x509.Certificate, role identity.Role, now time.Time) error {
	if !t.pins() {
		return nil
	}
	hash, key := sha256.Sum256(leaf.Raw), sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	switch {
	case !slices.Contains(t.Hashes, hash) && !slices.Contains(t.Keys, key):
		return &refusal{text: fmt.Sprintf("the %s's certificate (SHA-256 %x, of its key %s) is none of the %d that are pinned",
			role, hash, base64.StdEncoding.EncodeToString(key[:]), len(t.Hashes)+len(t.Keys))}
	case now.After(leaf.NotAfter) || now.Before(leaf.NotBefore):
		return explained(x509.CertificateInvalidError{Cert: leaf, Reason: x509.Expired}, leaf, role)
	}
	return nil
}

var errNotShown = &refusal{text: "the peer showed no certificate, and one is required: give it one, or let the server's TLS mode do without"}

// refusal is why a certificate is not accepted, in a sentence.
type refusal struct {
	text string
	err  error // what crypto/x509 said, or nil
}

func (e *refusal) Error() string { return e.text }
func (e *refusal) Unwrap() error { return e.err }

// explained says what crypto/x509 found, of whose certificate, and what to do.
func explained(err error, leaf *x509.Certificate, role identity.Role) error {
	what := fmt.Sprintf("the %s's certificate (%s), issued by %q, ", role, namesOf(leaf), clip(leaf.Issuer.String()))
	invalid, _ := errors.AsType[x509.CertificateInvalidError](err)
	switch {
	case is[x509.UnknownAuthorityError](err):
		what += "is not vouched for by any of the CA certificates that are trusted here: add the root of its issuer, or the intermediate certificates that it did not send"
	case invalid.Cert != nil && invalid.Reason == x509.Expired:
		what += fmt.Sprintf("is out of time: %q is good from %s to %s; renew it, or compare the clocks of the two machines",
			clip(invalid.Cert.Subject.String()), invalid.Cert.NotBefore.UTC().Format(time.RFC3339), invalid.Cert.NotAfter.UTC().Format(time.RFC3339))
	case invalid.Cert != nil && invalid.Reason == x509.IncompatibleUsage:
		what += fmt.Sprintf("or an authority above it, may not be used by a TLS %s (extended key usage)", role)
	default:
		what += "is not accepted: " + err.Error()
	}
	return &refusal{what, err}
}

func options(roots *x509.CertPool, chain []*x509.Certificate, role identity.Role, now time.Time) x509.VerifyOptions {
	usage := x509.ExtKeyUsageServerAuth
	if role == identity.Client {
		usage = x509.ExtKeyUsageClientAuth
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	return x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}
}

// Name is one accepted alternative name: exactly one of Exact to Regex is set.
type Name struct {
	Exact, Prefix, Suffix, Contains string
	Regex                           *regexp.Regexp // of the whole name: anchored by whoever makes it
	IgnoreCase                      bool           // for those before Regex
	Kind                            NameKind
}

// NameKind is the kind of alternative name (RFC 5280, section 4.2.1.6) that a Name stands for.
type NameKind uint8

// The kinds of names.
const (
	AnyName NameKind = iota
	DNSName
	URIName
	IPName
	EmailName
)

var kindNames = [...]string{"", "DNS:", "URI:", "IP:", "email:"}

func (n Name) same(o Name) bool {
	if n.Regex != nil && o.Regex != nil && n.Regex.String() == o.Regex.String() {
		n.Regex = o.Regex
	}
	return n == o
}

func (n Name) match(s string) bool {
	if n.IgnoreCase {
		s = strings.ToLower(s)
		n.Exact, n.Prefix, n.Suffix, n.Contains = strings.ToLower(n.Exact), strings.ToLower(n.Prefix), strings.ToLower(n.Suffix), strings.ToLower(n.Contains)
	}
	switch {
	case n.Exact != "":
		return s == n.Exact
	case n.Prefix != "":
		return strings.HasPrefix(s, n.Prefix)
	case n.Suffix != "":
		return strings.HasSuffix(s, n.Suffix)
	case n.Contains != "":
		return strings.Contains(s, n.Contains)
	}
	return n.Regex != nil && n.Regex.MatchString(s)
}

func (n Name) String() string {
	var s string
	switch {
	case n.Exact != "":
		s = n.Exact
	case n.Prefix != "":
		s = n.Prefix + "*"
	case n.Suffix != "":
		s = "*" + n.Suffix
	case n.Contains != "":
		s = "*" + n.Contains + "*"
	case n.Regex != nil:
		s = "/" + n.Regex.String() + "/"
	}
	return kindNames[n.Kind] + s
}

// Names is a list of accepted names, one of which must match. It is an
// identity.Accept; empty, it accepts every identity that the roots vouch for.
type Names []Name

// Accepts reports whether the identity's URI is among the names.
func (n Names) Accepts(id identity.ID) bool { return len(n) == 0 || n.match(URIName, id.String()) }

func (n Names) match(kind NameKind, s string) bool {
	for i := range n {
		if (n[i].Kind == AnyName || n[i].Kind == kind) && n[i].match(s) {
			return true
		}
	}
	return false
}

// matchCertificate compares with every alternative name. A DNS name with a
// wildcard label stands for names one label deep (RFC 9525, section 6.3), and DNS
// names are the same in any case.
func (n Names) matchCertificate(c *x509.Certificate) bool {
	for _, d := range c.DNSNames {
		if n.match(DNSName, d) {
			return true
		}
		domain, wildcard := strings.CutPrefix(d, "*.")
		for _, x := range n {
			if x.Kind != AnyName && x.Kind != DNSName || x.Exact == "" {
				continue
			}
			if strings.EqualFold(x.Exact, d) {
				return true
			}
			if _, rest, ok := strings.Cut(x.Exact, "."); ok && wildcard && strings.EqualFold(rest, domain) {
				return true
			}
		}
	}
	for _, u := range c.URIs {
		if n.match(URIName, u.String()) {
			return true
		}
	}
	for _, ip := range c.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok && n.match(IPName, a.Unmap().String()) {
			return true
		}
	}
	for _, e := range c.EmailAddresses {
		if n.match(EmailName, e) {
			return true
		}
	}
	return false
}

func (n Names) String() string {
	if len(n) == 0 {
		return "any identity of the mesh"
	}
	const most = 5
	var b strings.Builder
	if len(n) > 1 {
		b.WriteString("one of ")
	}
	for i, x := range n[:min(most, len(n))] {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(x.String())
	}
	if more := len(n) - most; more > 0 {
		fmt.Fprintf(&b, " and %d more", more)
	}
	return b.String()
}

func namesOf(c *x509.Certificate) string {
	var all []string
	all = append(all, c.DNSNames...)
	for _, u := range c.URIs {
		all = append(all, u.String())
	}
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	all = append(all, c.EmailAddresses...)
	if len(all) == 0 {
		return "it has none"
	}
	s := strings.Join(all[:min(len(all), 5)], ", ")
	if len(s) > 256 { // the peer chose them
		s = s[:256] + "…"
	}
	return s
}

// Peer is who the other end of a connection proved to be, and what was agreed.
type Peer struct {
	Version uint16         // as in crypto/tls
	Suite   uint16         // as in crypto/tls
	Curve   stdtls.CurveID // 0: none, or not known
	Resumed bool           // certificates are those of an earlier handshake, judged anew
	ALPN    string         // "" if none was agreed
	SNI     string         // what the client asked for
	// ID is the verified SPIFFE identity; zero if there is none, or the peer was not
	// judged by the mesh's bundle.
	ID identity.ID
	// Presented, Hash, Subject, URI and DNS describe the peer's certificate, if it was
	// verified, for x-forwarded-client-cert: SHA-256 of the DER, RFC 2253 name, first alternative names.
	Presented bool
	Hash      [sha256.Size]byte
	Subject   string
	URI       string
	DNS       []string
	// Local is the first URI name of our own certificate, for the header's By.
	Local string
	// Truncated is set when the connection ended without close_notify: the end of a
	// body that only the end of the connection delimits may be missing.
	Truncated bool
}

// OfMesh reports whether the peer proved to be of the mesh; nil: it did not use TLS.
func (p *Peer) OfMesh() bool { return p != nil && p.ID != (identity.ID{}) }

func (n *handshake) describe(st *stdtls.ConnectionState) *Peer {
	p := &Peer{Version: st.Version, Suite: st.CipherSuite, Curve: st.CurveID, Resumed: st.DidResume, ALPN: st.NegotiatedProtocol, SNI: st.ServerName}
	if c := certificate(n.config, n.hello); c != nil && c.Leaf != nil && len(c.Leaf.URIs) > 0 {
		p.Local = c.Leaf.URIs[0].String()
	}
	if len(st.PeerCertificates) == 0 || n.trust.SkipVerify && n.trust.Mesh == nil {
		return p
	}
	leaf := st.PeerCertificates[0]
	p.Presented = true
	p.Hash = sha256.Sum256(leaf.Raw)
	p.Subject = leaf.Subject.String()
	p.DNS = leaf.DNSNames
	if len(leaf.URIs) > 0 {
		p.URI = leaf.URIs[0].String()
	}
	if n.trust.Mesh != nil {
		// VerifyConnection has accepted it, or the handshake had failed.
		p.ID, _ = identity.FromCertificate(leaf)
	}
	return p
}

// certificate is the one a context shows, to a client that said hello.
func certificate(c *stdtls.Config, hello *stdtls.ClientHelloInfo) *stdtls.Certificate {
	var cert *stdtls.Certificate
	switch {
	case c.GetCertificate != nil:
		cert, _ = c.GetCertificate(hello)
	case c.GetClientCertificate != nil:
		cert, _ = c.GetClientCertificate(nil)
	}
	return cert
}
