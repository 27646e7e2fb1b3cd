package state

import (
	stdtls "crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	rawbufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/proxyproto"
	"github.com/weirmesh/weir/proxy/tls"
)

const (
	typePrefix       = "type.googleapis.com/"
	upstreamTLSURL   = typePrefix + "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
	downstreamTLSURL = typePrefix + "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
	upstreamProxyURL = typePrefix + "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport"
	rawBufferURL     = typePrefix + "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
)

// istioALPN is what a client offers towards a mesh sidecar.
const istioALPN = "istio"

// decodeUpstreamTransport returns nil for plaintext.
func (b *Builder) decodeUpstreamTransport(s *corev3.TransportSocket, path string) (*cluster.Transport, error) {
	if err := check(s, path); err != nil {
		return nil, err
	}
	switch s.GetTypedConfig().GetTypeUrl() {
	case rawBufferURL:
		return nil, unpack(s.GetTypedConfig(), &rawbufferv3.RawBuffer{}, path)
	case "":
		if s.GetName() == "raw_buffer" || s.GetName() == "envoy.transport_sockets.raw_buffer" {
			return nil, nil
		}
	case upstreamTLSURL:
		u := &tlsv3.UpstreamTlsContext{}
		if err := unpack(s.GetTypedConfig(), u, path); err != nil {
			return nil, err
		}
		t := &cluster.Transport{SNI: u.GetSni()}
		c := u.GetCommonTlsContext()
		t.ALPN = c.GetAlpnProtocols()
		t.Istio = slices.Contains(t.ALPN, istioALPN)
		var err error
		if t.MinVersion, t.MaxVersion, err = tlsVersions(c.GetTlsParams(), path+".tls_params"); err != nil {
			return nil, err
		}
		if t.CertName, t.CertPEM, t.KeyPEM, err = decodeCertificate(c, path); err != nil {
			return nil, err
		}
		v, name := validation(c)
		t.CAName = name
		if v != nil {
			if t.CAPEM, err = dataSource(v.GetTrustedCa(), path+".trusted_ca"); err != nil {
				return nil, err
			}
			if t.SANs, err = decodeSANs(v, path); err != nil {
				return nil, err
			}
			t.SystemCA = v.GetSystemRootCerts() != nil
		}
		t.SkipVerify = t.CAName == "" && len(t.CAPEM) == 0 && !t.SystemCA
		if t.SkipVerify && len(t.SANs) > 0 {
			return nil, fmt.Errorf("%s.validation_context: names are to be checked but no CA says whose certificates count", path)
		}
		return t, b.clients(t, path)
	case upstreamProxyURL:
		p := &proxyprotocolv3.ProxyProtocolUpstreamTransport{}
		if err := unpack(s.GetTypedConfig(), p, path); err != nil {
			return nil, err
		}
		t, err := b.decodeUpstreamTransport(p.GetTransportSocket(), path+".transport_socket")
		if err != nil {
			return nil, err
		}
		if t == nil {
			t = &cluster.Transport{}
		}
		if t.Proxy != proxyproto.None {
			return nil, fmt.Errorf("%s.transport_socket: a PROXY protocol header inside another", path)
		}
		t.Proxy = proxyproto.V1
		if p.GetConfig().GetVersion() == corev3.ProxyProtocolConfig_V2 {
			t.Proxy = proxyproto.V2
		}
		return t, nil
	}
	return nil, fmt.Errorf("%s: transport socket %q is not supported", path, s.GetName())
}

// The names under which a proxy's own identity is asked for, as Istio's agent serves
// them.
const (
	ownCertificate = "default"
	ownRoots       = "ROOTCA"
)

// meshHTTP is what Istio's clients offer a sidecar for HTTP/1.1 (filter istio.alpn).
var meshHTTP = []string{"istio-http/1.1", istioALPN, "http/1.1"}

// clients makes the contexts of a transport.
func (b *Builder) clients(t *cluster.Transport, path string) error {
	for _, name := range []string{t.CertName, t.CAName} {
		if name != "" && name != ownCertificate && name != ownRoots {
			return fmt.Errorf("%s: secret %q: towards endpoints only the workload's own certificate (%q) and the mesh's roots (%q) come by SDS", path, name, ownCertificate, ownRoots)
		}
	}
	o := tls.ClientOptions{SNI: t.SNI, ALPN: t.ALPN, MinVersion: t.MinVersion, MaxVersion: t.MaxVersion, Gate: b.opts.Gate, StdRecords: b.opts.StdRecords}
	var err error
	if o.Identity, o.Certificate, err = b.certificate(t.CertName, t.CertPEM, t.KeyPEM, path); err != nil {
		return err
	}
	if o.Trust, err = b.trust(t.CAName, t.CAPEM, t.SANs, path); err != nil {
		return err
	}
	o.Trust.SkipVerify, o.Trust.System = t.SkipVerify, t.SystemCA
	if t.TCP, err = tls.NewClient(o); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	t.HTTP = t.TCP
	if t.Istio {
		t.HTTP = t.TCP.With(t.SNI, meshHTTP)
	}
	return nil
}

// certificate is what to show: the proxy's own, or one from configuration.
func (b *Builder) certificate(sds string, cert, key []byte, path string) (identity.Source, *stdtls.Certificate, error) {
	switch {
	case sds == ownCertificate:
		if b.opts.Identity == nil {
			return nil, nil, fmt.Errorf("%s: asks for the workload's certificate, and this proxy runs without an identity", path)
		}
		return b.opts.Identity, nil, nil
	case sds != "":
		s, err := b.secretFor(sds, path)
		if err != nil {
			return nil, nil, err
		}
		if s.certificate == nil {
			return nil, nil, fmt.Errorf("%s: secret %q holds no certificate", path, sds)
		}
		return nil, s.certificate, nil
	case len(cert) == 0:
		return nil, nil, nil
	}
	c, err := stdtls.X509KeyPair(cert, key)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: certificate and key: %w", path, err)
	}
	return nil, &c, nil
}

func (b *Builder) trust(sds string, ca []byte, sans []cluster.SAN, path string) (tls.Trust, error) {
	t := tls.Trust{}
	for _, s := range sans {
		t.Names = append(t.Names, tls.Name{Exact: s.Exact, Prefix: s.Prefix, Suffix: s.Suffix})
	}
	switch {
	case sds == ownRoots:
		if b.opts.Identity == nil {
			return t, fmt.Errorf("%s: asks for the mesh's roots, and this proxy runs without an identity", path)
		}
		t.Mesh = b.opts.Identity
	case sds != "":
		s, err := b.secretFor(sds, path)
		if err != nil {
			return t, err
		}
		t.Roots = x509.NewCertPool()
		if !t.Roots.AppendCertsFromPEM(s.roots) {
			return t, fmt.Errorf("%s: secret %q holds no root certificate in PEM", path, sds)
		}
	case len(ca) > 0:
		t.Roots = x509.NewCertPool()
		if !t.Roots.AppendCertsFromPEM(ca) {
			return t, fmt.Errorf("%s.trusted_ca: holds no certificate in PEM", path)
		}
	}
	return t, nil
}

// validation returns the inline validation context and the SDS name, of whichever form
// is used.
func validation(c *tlsv3.CommonTlsContext) (*tlsv3.CertificateValidationContext, string) {
	if v := c.GetCombinedValidationContext(); v != nil {
		return v.GetDefaultValidationContext(), v.GetValidationContextSdsSecretConfig().GetName()
	}
	return c.GetValidationContext(), c.GetValidationContextSdsSecretConfig().GetName()
}

func decodeCertificate(c *tlsv3.CommonTlsContext, path string) (sds string, cert, key []byte, err error) {
	switch n := len(c.GetTlsCertificateSdsSecretConfigs()) + len(c.GetTlsCertificates()); {
	case n == 0:
		return "", nil, nil, nil
	case n > 1:
		return "", nil, nil, fmt.Errorf("%s: %d certificates, only one is supported", path, n)
	}
	for _, s := range c.GetTlsCertificateSdsSecretConfigs() {
		return s.GetName(), nil, nil, nil
	}
	crt := c.GetTlsCertificates()[0]
	if cert, err = dataSource(crt.GetCertificateChain(), path+".certificate_chain"); err != nil {
		return "", nil, nil, err
	}
	key, err = dataSource(crt.GetPrivateKey(), path+".private_key")
	return "", cert, key, err
}

func decodeSANs(v *tlsv3.CertificateValidationContext, path string) ([]cluster.SAN, error) {
	var out []cluster.SAN
	add := func(m *matcherv3.StringMatcher) error {
		switch p := m.GetMatchPattern().(type) {
		case *matcherv3.StringMatcher_Exact:
			out = append(out, cluster.SAN{Exact: p.Exact})
		case *matcherv3.StringMatcher_Prefix:
			out = append(out, cluster.SAN{Prefix: p.Prefix})
		case *matcherv3.StringMatcher_Suffix:
			out = append(out, cluster.SAN{Suffix: p.Suffix})
		default:
			return fmt.Errorf("%s.match_typed_subject_alt_names: only exact, prefix and suffix are supported", path)
		}
		return nil
	}
	for _, m := range v.GetMatchTypedSubjectAltNames() {
		if err := add(m.GetMatcher()); err != nil {
			return nil, err
		}
	}
	for _, m := range v.GetMatchSubjectAltNames() {
		if err := add(m); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func tlsVersions(p *tlsv3.TlsParameters, path string) (lowest, highest uint16, err error) {
	one := func(v tlsv3.TlsParameters_TlsProtocol) (uint16, error) {
		switch v {
		case tlsv3.TlsParameters_TLS_AUTO:
			return 0, nil
		case tlsv3.TlsParameters_TLSv1_2:
			return tls.TLS12, nil
		case tlsv3.TlsParameters_TLSv1_3:
			return tls.TLS13, nil
		default:
			return 0, fmt.Errorf("%s: %v is too old to be safe; use TLSv1_2 or TLSv1_3", path, v)
		}
	}
	if lowest, err = one(p.GetTlsMinimumProtocolVersion()); err != nil {
		return 0, 0, err
	}
	highest, err = one(p.GetTlsMaximumProtocolVersion())
	return lowest, highest, err
}

// cipherSuites turns Envoy's (OpenSSL's) names into Go's numbers. TLS 1.3 suites are
// not configurable in Go.
func cipherSuites(names []string, path string) ([]uint16, error) {
	var out []uint16
	for _, n := range names {
		id, ok := openSSLSuites[strings.TrimSpace(n)]
		if !ok {
			return nil, fmt.Errorf("%s.cipher_suites: %q is not supported", path, n)
		}
		out = append(out, id)
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

// maxDataSource bounds a file named by configuration: certificates and bodies are small.
const maxDataSource = 1 << 20

func dataSource(d *corev3.DataSource, path string) ([]byte, error) {
	switch s := d.GetSpecifier().(type) {
	case nil:
		return nil, nil
	case *corev3.DataSource_InlineBytes:
		return s.InlineBytes, nil
	case *corev3.DataSource_InlineString:
		return []byte(s.InlineString), nil
	case *corev3.DataSource_Filename:
		b, err := os.ReadFile(s.Filename)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if len(b) > maxDataSource {
			return nil, fmt.Errorf("%s: %s has %d bytes, at most %d", path, s.Filename, len(b), maxDataSource)
		}
		return b, nil
	default:
		return nil, fmt.Errorf("%s: only filename, inline_bytes and inline_string are supported", path)
	}
}
