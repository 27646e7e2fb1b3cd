package simulate

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
)

// The names under which a proxy's own identity is asked for, as Istio's agent serves them.
const (
	ownCertificate = "default"
	ownRoots       = "ROOTCA"
)

// Peer is the other end of a TLS handshake.
type Peer struct {
	Mesh    bool                // it is a workload of the mesh, and shows its own identity
	Chain   []*x509.Certificate // what it shows, leaf first; none: nothing
	Version uint16              // the highest it speaks (crypto/tls); 0: any
	Taken   bool                // a handshake with it is taken to succeed: what either shows is not at hand
}

// Server is what a proxy's side of a handshake with a client looks like, when it accepts.
type Server struct {
	Mesh  bool                // its own identity
	Chain []*x509.Certificate // the first of those it shows
}

// Accept is a handshake with a client through the transport socket of a filter chain: what the
// proxy shows, or why it does not come about ("" if it does). A nil socket speaks plaintext.
func (p *Proxy) Accept(s *corev3.TransportSocket, client Peer) (server Server, why string, err error) {
	d := &tlsv3.DownstreamTlsContext{}
	if err := s.GetTypedConfig().UnmarshalTo(d); err != nil {
		return server, "", fmt.Errorf("transport socket %s: %w", s.GetName(), err)
	}
	if client.Taken {
		return server, "", nil
	}
	c := d.GetCommonTlsContext()
	if lowest := versions[c.GetTlsParams().GetTlsMinimumProtocolVersion()]; client.Version != 0 && client.Version < lowest {
		return server, "the client's version of TLS is too old", nil
	}
	if server.Chain, server.Mesh, err = p.shows(c); err != nil {
		return server, "", err
	}
	if len(server.Chain) == 0 && !server.Mesh {
		return server, "there is no certificate", nil
	}
	asked, err := p.validation(c)
	switch {
	case errors.Is(err, errOwnRoots) && client.Mesh:
		return server, "", nil
	case client.Mesh && d.GetRequireClientCertificate().GetValue():
		return server, "the mesh is not among the authorities", nil
	case client.Mesh:
		return server, "", nil
	case err != nil:
		return server, err.Error(), nil
	case len(client.Chain) == 0 && d.GetRequireClientCertificate().GetValue():
		return server, "there is no client certificate", nil
	case len(client.Chain) == 0, asked == nil && !d.GetRequireClientCertificate().GetValue():
		return server, "", nil
	}
	why, err = p.judge(asked, client.Chain)
	return server, why, err
}

// Origination is how a proxy begins TLS.
type Origination struct {
	SNI   string
	Mesh  bool                // it shows its own identity
	Chain []*x509.Certificate // what it shows, if not
}

// Originate is a handshake through the transport socket of an endpoint with a server.
func (p *Proxy) Originate(s *corev3.TransportSocket, server Peer) (out Origination, why string, err error) {
	u := &tlsv3.UpstreamTlsContext{}
	if err := s.GetTypedConfig().UnmarshalTo(u); err != nil {
		return out, "", fmt.Errorf("transport socket %s: %w", s.GetName(), err)
	}
	c := u.GetCommonTlsContext()
	out.SNI = u.GetSni()
	if out.Chain, out.Mesh, err = p.shows(c); err != nil {
		return out, "", err
	}
	asked, err := p.validation(c)
	if errors.Is(err, errOwnRoots) && server.Mesh {
		return out, "", nil
	}
	if err != nil {
		return out, err.Error(), nil
	}
	if asked == nil { // nobody said whose certificates count
		return out, "", nil
	}
	why, err = p.judge(asked, server.Chain)
	return out, why, err
}

var versions = map[tlsv3.TlsParameters_TlsProtocol]uint16{tlsv3.TlsParameters_TLSv1_2: 0x0303, tlsv3.TlsParameters_TLSv1_3: 0x0304}

// shows are the certificates of a context: the proxy's own, or those it names.
func (p *Proxy) shows(c *tlsv3.CommonTlsContext) (chain []*x509.Certificate, mesh bool, err error) {
	for _, s := range c.GetTlsCertificateSdsSecretConfigs() {
		if s.GetName() == ownCertificate {
			return nil, true, nil
		}
		if held := p.Secrets[s.GetName()].GetTlsCertificate(); held != nil && chain == nil {
			chain, err = p.certificates(held.GetCertificateChain())
		}
	}
	for _, t := range c.GetTlsCertificates() {
		if chain == nil {
			chain, err = p.certificates(t.GetCertificateChain())
		}
	}
	return chain, false, err
}

// validation is by what peers are judged; nil: by nothing.
func (p *Proxy) validation(c *tlsv3.CommonTlsContext) (*tlsv3.CertificateValidationContext, error) {
	v, name := c.GetValidationContext(), c.GetValidationContextSdsSecretConfig().GetName()
	if both := c.GetCombinedValidationContext(); both != nil {
		v, name = both.GetDefaultValidationContext(), both.GetValidationContextSdsSecretConfig().GetName()
	}
	switch {
	case name == "":
		return v, nil
	case name == ownRoots:
		return proto.CloneOf(v), errOwnRoots
	case p.Secrets[name] == nil:
		return nil, fmt.Errorf("there is no secret %s", name)
	}
	whole := &tlsv3.CertificateValidationContext{}
	if v != nil {
		whole = proto.CloneOf(v)
	}
	proto.Merge(whole, p.Secrets[name].GetValidationContext())
	return whole, nil
}

// errOwnRoots says that only workloads of the mesh are accepted, whose certificates nobody here has.
var errOwnRoots = errors.New("not of the mesh")

// judge says what is wrong with a chain.
func (p *Proxy) judge(v *tlsv3.CertificateValidationContext, chain []*x509.Certificate) (string, error) {
	if len(chain) == 0 {
		return "there is no certificate", nil
	}
	leaf := chain[0]
	if ca := v.GetTrustedCa(); ca != nil && v.GetTrustChainVerification() != tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED {
		list, err := p.certificates(ca)
		if err != nil {
			return "", err
		}
		roots, between := x509.NewCertPool(), x509.NewCertPool()
		for _, r := range list {
			roots.AddCert(r)
		}
		for _, c := range chain[1:] {
			between.AddCert(c)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, CurrentTime: leaf.NotBefore}); err != nil {
			return err.Error(), nil
		}
	} else if v.GetSystemRootCerts() != nil {
		return "no authority of the system", nil
	}
	if crl := v.GetCrl(); crl != nil {
		text, err := p.data(crl)
		if err != nil {
			return "", err
		}
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			list, err := x509.ParseRevocationList(block.Bytes)
			if err != nil {
				return "", fmt.Errorf("revocation list: %w", err)
			}
			if slices.ContainsFunc(list.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(leaf.SerialNumber) == 0 }) {
				return "revoked", nil
			}
		}
	}
	if !pinned(v, leaf) {
		return "not one of the certificates that are pinned", nil
	}
	names := v.GetMatchTypedSubjectAltNames()
	if len(names) == 0 {
		return "", nil
	}
	for _, m := range names {
		has := leaf.DNSNames
		if m.GetSanType() == tlsv3.SubjectAltNameMatcher_URI {
			has = nil
			for _, u := range leaf.URIs {
				has = append(has, u.String())
			}
		}
		for _, n := range has {
			held, err := Holds(m.GetMatcher(), n)
			if err != nil {
				return "", err
			}
			// An exact DNS name is matched by a certificate's wildcard, too.
			if e, ok := m.GetMatcher().GetMatchPattern().(*matcherv3.StringMatcher_Exact); ok && strings.HasPrefix(n, "*.") {
				_, parent, _ := strings.Cut(e.Exact, ".")
				held = held || parent == n[2:]
			}
			if held {
				return "", nil
			}
		}
	}
	return "none of the names is expected", nil
}

var separators = regexp.MustCompile("[:]")

// pinned reports whether v names leaf by hash or key, or none at all.
func pinned(v *tlsv3.CertificateValidationContext, leaf *x509.Certificate) bool {
	whole, key := sha256.Sum256(leaf.Raw), sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	by := len(v.GetVerifyCertificateHash())+len(v.GetVerifyCertificateSpki()) > 0
	return !by || slices.Contains(v.GetVerifyCertificateSpki(), base64.StdEncoding.EncodeToString(key[:])) ||
		slices.ContainsFunc(v.GetVerifyCertificateHash(), func(h string) bool {
			return strings.EqualFold(separators.ReplaceAllString(h, ""), hex.EncodeToString(whole[:]))
		})
}

func (p *Proxy) certificates(d *corev3.DataSource) (out []*x509.Certificate, err error) {
	text, err := p.data(d)
	for block, rest := pem.Decode(text); block != nil && err == nil; block, rest = pem.Decode(rest) {
		var c *x509.Certificate
		if c, err = x509.ParseCertificate(block.Bytes); err == nil {
			out = append(out, c)
		}
	}
	return out, err
}

func (p *Proxy) data(d *corev3.DataSource) ([]byte, error) {
	switch s := d.GetSpecifier().(type) {
	case *corev3.DataSource_Filename:
		b, ok := p.Files[s.Filename]
		if !ok {
			return nil, fmt.Errorf("there is no file %s", s.Filename)
		}
		return b, nil
	case *corev3.DataSource_InlineString:
		return []byte(s.InlineString), nil
	}
	return d.GetInlineBytes(), nil
}

// waits reports whether connections by a socket have to wait for a secret.
func (p *Proxy) waits(s *corev3.TransportSocket) bool {
	u := &tlsv3.UpstreamTlsContext{}
	if s.GetTypedConfig() == nil || !s.GetTypedConfig().MessageIs(u) || s.GetTypedConfig().UnmarshalTo(u) != nil {
		return false
	}
	c := u.GetCommonTlsContext()
	named := append([]*tlsv3.SdsSecretConfig{c.GetCombinedValidationContext().GetValidationContextSdsSecretConfig()}, c.GetTlsCertificateSdsSecretConfigs()...)
	return slices.ContainsFunc(named, func(n *tlsv3.SdsSecretConfig) bool {
		return n != nil && n.GetName() != ownCertificate && n.GetName() != ownRoots && p.Secrets[n.GetName()] == nil
	})
}
