package tls

import (
	"crypto/sha256"
	stdtls "crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/weirmesh/weir/identity"
)

// Trust says by what a peer's certificate is judged: either as a workload of the
// mesh, or by ordinary public key infrastructure.
type Trust struct {
	// Mesh holds the trust bundle of the moment; the peer must prove a SPIFFE identity.
	Mesh identity.Source
	// Roots judge other peers: a chain to one of them.
	Roots *x509.CertPool
	// System judges them by the roots of the operating system instead.
	System bool
	// Names are the alternative names that are accepted; one must match. None
	// listed: whoever the roots vouch for, as in Envoy.
	Names Names
	// SkipVerify accepts anybody. For simple TLS to a server outside the mesh only.
	SkipVerify bool

	seen *verified
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
	if t.Mesh == nil && t.Roots == nil && !t.SkipVerify {
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
		return identity.ID{}, errors.New("the peer showed no certificate")
	}
	key := keyOf(chain, role)
	if _, ok := t.seen.recall(key, nil, now); !ok {
		chains, err := chain[0].Verify(options(t.Roots, chain, role, now))
		if err != nil {
			return identity.ID{}, err
		}
		t.seen.remember(key, nil, identity.ID{}, chains[0]...)
	}
	if len(t.Names) == 0 || t.Names.matchCertificate(chain[0]) {
		return identity.ID{}, nil
	}
	return identity.ID{}, fmt.Errorf("none of the names in the %s's certificate (%s) is %s", role, namesOf(chain[0]), t.Names)
}

func (t *Trust) verifyMesh(chain []*x509.Certificate, role identity.Role, now time.Time) (identity.ID, error) {
	bundle := t.Mesh.Bundle()
	key := keyOf(chain, role)
	if id, ok := t.seen.recall(key, bundle, now); ok && t.Names.Accepts(id) {
		return id, nil
	}
	raw := make([][]byte, len(chain))
	for i, c := range chain {
		raw[i] = c.Raw
	}
	id, err := identity.VerifyPeer(raw, bundle, now, role, t.Names)
	if err == nil {
		t.seen.remember(key, bundle, id, append(bundle.Roots(), chain...)...)
	}
	return id, err
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

// Name is one accepted alternative name: exactly one of the fields is set.
type Name struct {
	Exact, Prefix, Suffix, Contains string
}

func (n Name) match(s string) bool {
	switch {
	case n.Exact != "":
		return s == n.Exact
	case n.Prefix != "":
		return strings.HasPrefix(s, n.Prefix)
	case n.Suffix != "":
		return strings.HasSuffix(s, n.Suffix)
	}
	return n.Contains != "" && strings.Contains(s, n.Contains)
}

func (n Name) String() string {
	switch {
	case n.Exact != "":
		return n.Exact
	case n.Prefix != "":
		return n.Prefix + "*"
	case n.Suffix != "":
		return "*" + n.Suffix
	}
	return "*" + n.Contains + "*"
}

// Names is a list of accepted names, one of which must match. It is an
// identity.Accept; empty, it accepts every identity that the roots vouch for.
type Names []Name

// Accepts reports whether the identity's URI is among the names.
func (n Names) Accepts(id identity.ID) bool { return len(n) == 0 || n.match(id.String()) }

func (n Names) match(s string) bool {
	for _, x := range n {
		if x.match(s) {
			return true
		}
	}
	return false
}

// matchCertificate compares with every alternative name. A DNS name with a
// wildcard label stands for names one label deep (RFC 9525, section 6.3).
func (n Names) matchCertificate(c *x509.Certificate) bool {
	for _, d := range c.DNSNames {
		if n.match(d) {
			return true
		}
		if domain, ok := strings.CutPrefix(d, "*."); ok {
			for _, x := range n {
				if _, rest, ok := strings.Cut(x.Exact, "."); ok && strings.EqualFold(rest, domain) {
					return true
				}
			}
		}
	}
	for _, u := range c.URIs {
		if n.match(u.String()) {
			return true
		}
	}
	for _, ip := range c.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok && n.match(a.Unmap().String()) {
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
	// Presented, Hash, Subject, URI and DNS describe the peer's certificate, for
	// x-forwarded-client-cert: SHA-256 of the DER, RFC 2253 name, first alternative names.
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

func (n *handshake) describe(st *stdtls.ConnectionState) *Peer {
	p := &Peer{Version: st.Version, Suite: st.CipherSuite, Curve: st.CurveID, Resumed: st.DidResume, ALPN: st.NegotiatedProtocol, SNI: st.ServerName}
	if c := certificate(n.config, n.hello); c != nil && c.Leaf != nil && len(c.Leaf.URIs) > 0 {
		p.Local = c.Leaf.URIs[0].String()
	}
	if len(st.PeerCertificates) == 0 {
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
