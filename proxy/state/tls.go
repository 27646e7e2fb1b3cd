package state

import (
	"bytes"
	"crypto/sha256"
	stdtls "crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/proxy/tls"
)

// The names under which a proxy's own identity is asked for, as Istio's agent serves
// them.
const (
	ownCertificate = "default"
	ownRoots       = "ROOTCA"
)

// serverOptions decodes a DownstreamTlsContext, but for the protocols.
func (b *Builder) serverOptions(d *tlsv3.DownstreamTlsContext, path string) (o tls.ServerOptions, err error) {
	c := d.GetCommonTlsContext()
	o = tls.ServerOptions{
		Gate: b.opts.Gate, StdRecords: b.opts.StdRecords, RequireSNI: d.GetRequireSni().GetValue(),
		Tickets: !d.GetDisableStatelessSessionResumption(), TicketLifetime: d.GetSessionTimeout().AsDuration(),
	}
	if o.TicketKeys, err = b.ticketKeys(d.GetSessionTicketKeys(), path+".session_ticket_keys"); err != nil {
		return o, err
	}
	p, err := decodeParameters(c.GetTlsParams(), path+".tls_params")
	if err != nil {
		return o, err
	}
	o.MinVersion, o.MaxVersion, o.CipherSuites, o.Curves = p.lowest, p.highest, p.suites, p.curves
	if o.Identity, o.Certificates, err = b.certificates(c, path); err != nil {
		return o, err
	}
	trust, asked, err := b.trust(c, path)
	if err != nil {
		return o, err
	}
	switch {
	case d.GetRequireClientCertificate().GetValue():
		o.Clients = tls.RequireClientCert
	case asked:
		o.Clients = tls.OptionalClientCert
	}
	if o.Clients != tls.NoClientCert {
		o.Trust = trust
	}
	return o, nil
}

// sessionsAnEndpoint are kept at most where max_session_keys does not say: Envoy keeps one in all, and of connections that
// begin together all but one shake hands in full, which costs half as much again.
const sessionsAnEndpoint = 32

// clientOptions decodes an UpstreamTlsContext.
func (b *Builder) clientOptions(u *tlsv3.UpstreamTlsContext, path string) (o tls.ClientOptions, err error) {
	c := u.GetCommonTlsContext()
	o = tls.ClientOptions{SNI: u.GetSni(), ALPN: c.GetAlpnProtocols(), Gate: b.opts.Gate, StdRecords: b.opts.StdRecords, Sessions: sessionsAnEndpoint}
	if n := u.GetMaxSessionKeys(); n != nil {
		o.Sessions = int(min(n.GetValue(), 1<<10))
	}
	p, err := decodeParameters(c.GetTlsParams(), path+".tls_params")
	if err != nil {
		return o, err
	}
	o.MinVersion, o.MaxVersion, o.CipherSuites, o.Curves = p.lowest, p.highest, p.suites, p.curves
	var certs []*stdtls.Certificate
	if o.Identity, certs, err = b.certificates(c, path); err != nil {
		return o, err
	}
	switch len(certs) {
	case 0:
	case 1:
		o.Certificate = certs[0]
	default:
		return o, fmt.Errorf("%s: %d certificates, a client shows one", path, len(certs))
	}
	var asked bool
	if o.Trust, asked, err = b.trust(c, path); err != nil {
		return o, err
	}
	if !asked {
		if len(o.Trust.Names) > 0 {
			return o, fmt.Errorf("%s.validation_context: names are to be checked but no CA says whose certificates count", path)
		}
		o.Trust.SkipVerify = true
	}
	return o, nil
}

// certificates are what to show: the proxy's own, or those of configuration; none of
// either for a client that shows nothing.
func (b *Builder) certificates(c *tlsv3.CommonTlsContext, path string) (identity.Source, []*stdtls.Certificate, error) {
	var all []*stdtls.Certificate
	for i, crt := range c.GetTlsCertificates() {
		x, err := b.decodeCertificate(crt, fmt.Sprintf("%s.tls_certificates[%d]", path, i))
		if err != nil {
			return nil, nil, err
		}
		all = append(all, x)
	}
	named := c.GetTlsCertificateSdsSecretConfigs()
	for i, s := range named {
		at := fmt.Sprintf("%s.tls_certificate_sds_secret_configs[%d]", path, i)
		if b.own(s.GetName(), ownCertificate) {
			if b.opts.Identity == nil {
				return nil, nil, fmt.Errorf("%s: asks for the workload's certificate, and %w", at, errNoIdentity)
			}
			if len(named)+len(all) > 1 {
				return nil, nil, fmt.Errorf("%s: the workload's own certificate is shown alone", at)
			}
			return b.opts.Identity, nil, nil
		}
		held, err := b.secretFor(s, at)
		if err != nil {
			return nil, nil, err
		}
		if held.certificate == nil {
			return nil, nil, fmt.Errorf("%s: secret %q holds no certificate", at, s.GetName())
		}
		all = append(all, held.certificate)
	}
	return nil, all, nil
}

func (b *Builder) decodeCertificate(m *tlsv3.TlsCertificate, path string) (*stdtls.Certificate, error) {
	chain, err := b.fileSource(m.GetCertificateChain(), path+".certificate_chain")
	if err != nil {
		return nil, err
	}
	key, err := b.fileSource(m.GetPrivateKey(), path+".private_key")
	if err != nil {
		return nil, err
	}
	c, err := stdtls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("%s: certificate and key: %w", path, err)
	}
	return &c, nil
}

// trust says by what peers are judged; asked is false if nothing says so.
func (b *Builder) trust(c *tlsv3.CommonTlsContext, path string) (t tls.Trust, asked bool, err error) {
	v, sds := validation(c)
	own := sds != nil && b.own(sds.GetName(), ownRoots)
	if sds != nil && !own {
		s, err := b.secretFor(sds, path)
		if err != nil {
			return t, false, err
		}
		if s.validation == nil {
			return t, false, fmt.Errorf("%s: secret %q holds no validation context", path, sds.GetName())
		}
		whole := &tlsv3.CertificateValidationContext{}
		if v != nil {
			whole = proto.CloneOf(v)
		}
		proto.Merge(whole, s.validation)
		v = whole
	}
	if t, err = b.decodeTrust(v, path+".validation_context"); err != nil {
		return t, false, err
	}
	if own {
		switch {
		case b.opts.Identity == nil:
			return t, false, fmt.Errorf("%s: asks for the mesh's roots, and %w", path, errNoIdentity)
		case t.Roots != nil || t.System || t.SkipVerify:
			return t, false, fmt.Errorf("%s.validation_context: peers of the mesh are judged by its roots (%s); a trusted_ca, system_root_certs or ACCEPT_UNTRUSTED beside them is not supported", path, ownRoots)
		}
		t.Mesh = b.opts.Identity
		if t.Foreign, err = b.decodeForeign(v.GetCustomValidatorConfig(), path+".validation_context.custom_validator_config"); err != nil {
			return t, false, err
		}
	} else if v.GetCustomValidatorConfig() != nil {
		return t, false, fmt.Errorf("%s.validation_context.custom_validator_config: is supported only beside the mesh's roots (%s), for trust domains other than its own", path, ownRoots)
	}
	asked = t.Mesh != nil || t.Roots != nil || t.System || t.SkipVerify || len(t.Hashes)+len(t.Keys) > 0
	return t, asked, nil
}

// decodeForeign decodes the roots of further trust domains, nil if there are none.
func (b *Builder) decodeForeign(c *corev3.TypedExtensionConfig, path string) (map[string]*identity.Bundle, error) {
	if c == nil {
		return nil, nil
	}
	m := &tlsv3.SPIFFECertValidatorConfig{}
	if err := unpack(c.GetTypedConfig(), m, path+".typed_config"); err != nil {
		return nil, err
	}
	out := map[string]*identity.Bundle{}
	for i, d := range m.GetTrustDomains() {
		at := fmt.Sprintf("%s.typed_config.trust_domains[%d]", path, i)
		text, err := b.fileSource(d.GetTrustBundle(), at+".trust_bundle")
		if err != nil {
			return nil, err
		}
		if out[d.GetName()] != nil || d.GetName() == "" {
			return nil, fmt.Errorf("%s.name: %q is no trust domain, or was named before", at, d.GetName())
		}
		if out[d.GetName()], err = identity.ParseBundle(text); err != nil {
			return nil, fmt.Errorf("%s.trust_bundle: %w", at, err)
		}
	}
	return out, nil
}

// decodeTrust decodes a validation context, which may be nil.
func (b *Builder) decodeTrust(v *tlsv3.CertificateValidationContext, path string) (t tls.Trust, err error) {
	t.System = v.GetSystemRootCerts() != nil
	t.SkipVerify = v.GetTrustChainVerification() == tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED
	ca, err := b.fileSource(v.GetTrustedCa(), path+".trusted_ca")
	if err != nil {
		return t, err
	}
	if len(ca) > 0 {
		t.Roots = x509.NewCertPool()
		if !t.Roots.AppendCertsFromPEM(ca) {
			return t, fmt.Errorf("%s.trusted_ca: holds no certificate in PEM", path)
		}
	}
	if t.Names, err = decodeSANs(v, path); err != nil {
		return t, err
	}
	if t.Hashes, err = decodePins(v.GetVerifyCertificateHash(), decodeHex, path+".verify_certificate_hash"); err != nil {
		return t, err
	}
	if t.Keys, err = decodePins(v.GetVerifyCertificateSpki(), base64.StdEncoding.DecodeString, path+".verify_certificate_spki"); err != nil {
		return t, err
	}
	t.RevokedLeafOnly = v.GetOnlyVerifyLeafCertCrl()
	crl, err := b.fileSource(v.GetCrl(), path+".crl")
	if err != nil {
		return t, err
	}
	if v.GetCrl() != nil {
		if t.Revoked, err = tls.ParseRevoked(crl); err != nil {
			return t, fmt.Errorf("%s.crl: %w", path, err)
		}
	}
	return t, nil
}

// decodeHex takes a fingerprint with or without colons.
func decodeHex(s string) ([]byte, error) { return hex.DecodeString(strings.ReplaceAll(s, ":", "")) }

func decodePins(all []string, decode func(string) ([]byte, error), path string) (pins [][sha256.Size]byte, err error) {
	for i, s := range all {
		b, err := decode(s)
		if err != nil || len(b) != sha256.Size {
			return nil, fmt.Errorf("%s[%d]: %q is no SHA-256 sum in the form wanted", path, i, s)
		}
		pins = append(pins, [sha256.Size]byte(b))
	}
	return pins, nil
}

// validation returns the inline validation context and the SDS name, of whichever form
// is used.
func validation(c *tlsv3.CommonTlsContext) (*tlsv3.CertificateValidationContext, *tlsv3.SdsSecretConfig) {
	if v := c.GetCombinedValidationContext(); v != nil {
		return v.GetDefaultValidationContext(), v.GetValidationContextSdsSecretConfig()
	}
	return c.GetValidationContext(), c.GetValidationContextSdsSecretConfig()
}

var nameKinds = map[tlsv3.SubjectAltNameMatcher_SanType]tls.NameKind{
	tlsv3.SubjectAltNameMatcher_DNS: tls.DNSName, tlsv3.SubjectAltNameMatcher_URI: tls.URIName,
	tlsv3.SubjectAltNameMatcher_IP_ADDRESS: tls.IPName, tlsv3.SubjectAltNameMatcher_EMAIL: tls.EmailName,
}

func decodeSANs(v *tlsv3.CertificateValidationContext, path string) (names tls.Names, err error) {
	for i, m := range v.GetMatchTypedSubjectAltNames() {
		at := fmt.Sprintf("%s.match_typed_subject_alt_names[%d]", path, i)
		kind, ok := nameKinds[m.GetSanType()]
		if !ok {
			return nil, fmt.Errorf("%s.san_type: %v is not supported", at, m.GetSanType())
		}
		n, err := decodeName(m.GetMatcher(), at+".matcher")
		if err != nil {
			return nil, err
		}
		n.Kind = kind
		names = append(names, n)
	}
	for i, m := range v.GetMatchSubjectAltNames() {
		n, err := decodeName(m, fmt.Sprintf("%s.match_subject_alt_names[%d]", path, i))
		if err != nil {
			return nil, err
		}
		names = append(names, n)
	}
	return names, nil
}

func decodeName(m *matcherv3.StringMatcher, path string) (tls.Name, error) {
	n := tls.Name{IgnoreCase: m.GetIgnoreCase()}
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		n.Exact = p.Exact
	case *matcherv3.StringMatcher_Prefix:
		n.Prefix = p.Prefix
	case *matcherv3.StringMatcher_Suffix:
		n.Suffix = p.Suffix
	case *matcherv3.StringMatcher_Contains:
		n.Contains = p.Contains
	case *matcherv3.StringMatcher_SafeRegex:
		re, err := regexp.Compile("^(?:" + p.SafeRegex.GetRegex() + ")$")
		if err != nil {
			return n, fmt.Errorf("%s.safe_regex: %w", path, err)
		}
		n.Regex = re
		return n, nil
	}
	if n.Exact+n.Prefix+n.Suffix+n.Contains == "" {
		return n, fmt.Errorf("%s: one of exact, prefix, suffix, contains and safe_regex is needed, and not empty", path)
	}
	return n, nil
}

// parameters are TlsParameters; zero values are the defaults of proxy/tls.
type parameters struct {
	lowest, highest uint16
	suites          []uint16
	curves          []stdtls.CurveID
}

func decodeParameters(p *tlsv3.TlsParameters, path string) (out parameters, err error) {
	if out.lowest, err = tlsVersion(p.GetTlsMinimumProtocolVersion(), path+".tls_minimum_protocol_version"); err != nil {
		return out, err
	}
	if out.highest, err = tlsVersion(p.GetTlsMaximumProtocolVersion(), path+".tls_maximum_protocol_version"); err != nil {
		return out, err
	}
	if out.suites, err = cipherSuites(p.GetCipherSuites(), path+".cipher_suites"); err != nil {
		return out, err
	}
	for i, name := range p.GetEcdhCurves() {
		id, ok := curves[name]
		if !ok {
			return out, fmt.Errorf("%s.ecdh_curves[%d]: %q is not supported", path, i, name)
		}
		out.curves = append(out.curves, id)
	}
	return out, nil
}

func tlsVersion(v tlsv3.TlsParameters_TlsProtocol, path string) (uint16, error) {
	switch v {
	case tlsv3.TlsParameters_TLS_AUTO:
		return 0, nil
	case tlsv3.TlsParameters_TLSv1_2:
		return tls.TLS12, nil
	case tlsv3.TlsParameters_TLSv1_3:
		return tls.TLS13, nil
	}
	return 0, fmt.Errorf("%s: %v is too old to be safe; use TLSv1_2 or TLSv1_3", path, v)
}

// curves by Envoy's (BoringSSL's) names.
var curves = map[string]stdtls.CurveID{
	"X25519": stdtls.X25519, "P-256": stdtls.CurveP256, "P-384": stdtls.CurveP384, "P-521": stdtls.CurveP521,
	"X25519MLKEM768": stdtls.X25519MLKEM768,
}

// cipherSuites turns Envoy's (BoringSSL's) names into Go's numbers; brackets hold suites of
// equal preference. The order is Go's. TLS 1.3 suites are not configurable, in Envoy neither.
func cipherSuites(names []string, path string) ([]uint16, error) {
	var out []uint16
	for i, group := range names {
		for name := range strings.FieldsFuncSeq(group, func(r rune) bool { return strings.ContainsRune("[]|: ", r) }) {
			id, ok := openSSLSuites[name]
			if !ok {
				return nil, fmt.Errorf("%s[%d]: %q is not supported", path, i, name)
			}
			out = append(out, id)
		}
	}
	return out, nil
}

var openSSLSuites = map[string]uint16{
	"ECDHE-ECDSA-AES128-GCM-SHA256": stdtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-RSA-AES128-GCM-SHA256":   stdtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-ECDSA-AES256-GCM-SHA384": stdtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-RSA-AES256-GCM-SHA384":   stdtls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-ECDSA-CHACHA20-POLY1305": stdtls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	"ECDHE-RSA-CHACHA20-POLY1305":   stdtls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	"ECDHE-ECDSA-AES128-SHA":        stdtls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA,
	"ECDHE-RSA-AES128-SHA":          stdtls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,
	"ECDHE-ECDSA-AES256-SHA":        stdtls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA,
	"ECDHE-RSA-AES256-SHA":          stdtls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,
	"AES128-GCM-SHA256":             stdtls.TLS_RSA_WITH_AES_128_GCM_SHA256,
	"AES256-GCM-SHA384":             stdtls.TLS_RSA_WITH_AES_256_GCM_SHA384,
	"AES128-SHA":                    stdtls.TLS_RSA_WITH_AES_128_CBC_SHA,
	"AES256-SHA":                    stdtls.TLS_RSA_WITH_AES_256_CBC_SHA,
}

// ticketKeys turns Envoy's keys (80 bytes: name, HMAC key, AES key) into Go's, which
// derives its own three from 32 bytes: tickets are shared with other Weir proxies,
// not with Envoy.
func (b *Builder) ticketKeys(m *tlsv3.TlsSessionTicketKeys, path string) (keys [][32]byte, err error) {
	const size = 80
	for i, d := range m.GetKeys() {
		at := fmt.Sprintf("%s.keys[%d]", path, i)
		key, err := b.fileSource(d, at)
		if err != nil {
			return nil, err
		}
		if len(key) != size || bytes.Count(key, key[:1]) == size {
			return nil, fmt.Errorf("%s: a key is %d random bytes, this one has %d", at, size, len(key))
		}
		keys = append(keys, sha256.Sum256(key))
	}
	return keys, nil
}
