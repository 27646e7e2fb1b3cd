package translate

import (
	"errors"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	rawbufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/mesh"
)

// ALPN names of Istio's mesh TLS (features.md B.17).
var (
	alpnMeshHTTP      = []string{"istio-http/1.0", "istio-http/1.1", "istio-h2"}
	alpnMeshTCP       = []string{"istio-peer-exchange", "istio"}
	alpnMeshAll       = append(slices.Clone(alpnMeshHTTP), alpnMeshTCP...)
	alpnPlainHTTP     = []string{"http/1.0", "http/1.1", "h2c"}
	alpnServerHTTP    = []string{"h2", "http/1.1"}
	alpnServerTCP     = []string{"istio-peer-exchange", "h2", "http/1.1"}
	alpnServerGateway = []string{"h2", "http/1.1"}
)

// The names under which a proxy's own identity serves its certificate and trust bundle.
const (
	sdsCertificate = "default"
	sdsRoots       = "ROOTCA"
)

func sds(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: ads()}
}

// ownIdentity is a TLS context that shows the workload certificate and accepts peers
// the mesh's roots vouch for, if their names match.
func ownIdentity(k *mint, s *mesh.Settings, alpn []string, names []*tlsv3.SubjectAltNameMatcher) *tlsv3.CommonTlsContext {
	return &tlsv3.CommonTlsContext{
		TlsParams: &tlsv3.TlsParameters{
			TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2,
			TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3, // Envoy's clients stop at 1.2 unless told
		},
		AlpnProtocols:                  alpn,
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{sds(sdsCertificate)},
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:         &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: names, CustomValidatorConfig: foreigners(k, s)},
				ValidationContextSdsSecretConfig: sds(sdsRoots),
			},
		},
	}
}

func exactNames(kind tlsv3.SubjectAltNameMatcher_SanType, names []string) []*tlsv3.SubjectAltNameMatcher {
	var out []*tlsv3.SubjectAltNameMatcher
	for _, n := range names {
		out = append(out, &tlsv3.SubjectAltNameMatcher{SanType: kind,
			Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: n}}})
	}
	return out
}

// foreigners are the trust domains with roots of their own, nil if there is none.
func foreigners(k *mint, s *mesh.Settings) *corev3.TypedExtensionConfig {
	if len(s.TrustBundles) == 0 {
		return nil
	}
	c := &tlsv3.SPIFFECertValidatorConfig{}
	for _, b := range s.TrustBundles {
		c.TrustDomains = append(c.TrustDomains, &tlsv3.SPIFFECertValidatorConfig_TrustDomain{Name: b.Domain,
			TrustBundle: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: b.PEM}}})
	}
	return &corev3.TypedExtensionConfig{Name: "envoy.tls.cert_validator.spiffe", TypedConfig: k.any(c)}
}

// anyMember accepts every workload of the mesh's trust domains, and of those it has roots of.
func anyMember(s *mesh.Settings) []*tlsv3.SubjectAltNameMatcher {
	var out []*tlsv3.SubjectAltNameMatcher
	domains := append([]string{s.TrustDomain}, s.TrustDomainAliases...)
	for _, b := range s.TrustBundles {
		if !slices.Contains(domains, b.Domain) {
			domains = append(domains, b.Domain)
		}
	}
	for _, td := range domains {
		if td != "" {
			out = append(out, &tlsv3.SubjectAltNameMatcher{SanType: tlsv3.SubjectAltNameMatcher_URI,
				Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "spiffe://" + td + "/"}}})
		}
	}
	return out
}

// withAliases adds to SPIFFE IDs of the mesh's own trust domain the same IDs in the
// domains that are its aliases.
func withAliases(ids []string, s *mesh.Settings) []string {
	out := slices.Clone(ids)
	for _, id := range ids {
		rest, ok := strings.CutPrefix(id, "spiffe://"+s.TrustDomain+"/")
		if !ok {
			continue
		}
		for _, alias := range s.TrustDomainAliases {
			out = append(out, "spiffe://"+alias+"/"+rest)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// meshClient is mesh mTLS towards workloads with the given SPIFFE IDs, or any of the
// mesh if they are not known.
func meshClient(k *mint, s *mesh.Settings, sni string, ids []string) *corev3.TransportSocket {
	names := exactNames(tlsv3.SubjectAltNameMatcher_URI, withAliases(ids, s))
	if len(names) == 0 {
		names = anyMember(s)
	}
	return tlsSocket(k, &tlsv3.UpstreamTlsContext{CommonTlsContext: ownIdentity(k, s, alpnMeshTCP, names), Sni: sni})
}

// meshServer is mesh mTLS on the side that accepts.
func meshServer(k *mint, s *mesh.Settings, http bool) *corev3.TransportSocket {
	alpn := alpnServerTCP
	if http {
		alpn = alpnServerHTTP
	}
	return tlsSocket(k, &tlsv3.DownstreamTlsContext{
		CommonTlsContext:         ownIdentity(k, s, alpn, anyMember(s)),
		RequireClientCertificate: wrapperspb.Bool(true),
	})
}

func rawSocket(k *mint) *corev3.TransportSocket {
	return &corev3.TransportSocket{Name: "envoy.transport_sockets.raw_buffer",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: k.any(&rawbufferv3.RawBuffer{})}}
}

// proxyHeader has connections begin with a header of the PROXY protocol; inner nil is plaintext.
func proxyHeader(k *mint, version uint8, inner *corev3.TransportSocket) *corev3.TransportSocket {
	if inner == nil {
		inner = rawSocket(k)
	}
	return &corev3.TransportSocket{Name: "envoy.transport_sockets.upstream_proxy_protocol", ConfigType: &corev3.TransportSocket_TypedConfig{
		TypedConfig: k.any(&proxyprotocolv3.ProxyProtocolUpstreamTransport{
			Config:          &corev3.ProxyProtocolConfig{Version: corev3.ProxyProtocolConfig_Version(version - 1)},
			TransportSocket: inner,
		})}}
}

// automatic lets every endpoint be reached the way its own proxy says it can be.
func automatic(k *mint, meshTLS *corev3.TransportSocket) []*clusterv3.Cluster_TransportSocketMatch {
	return []*clusterv3.Cluster_TransportSocketMatch{
		{
			Name:            "tlsMode-istio",
			Match:           fields(map[string]*structpb.Value{"tlsMode": text("istio")}),
			TransportSocket: meshTLS,
		},
		{Name: "tlsMode-disabled", Match: &structpb.Struct{}, TransportSocket: rawSocket(k)},
	}
}

// originClient is TLS a DestinationRule asks for towards something that is not, or not
// only, the mesh: modes SIMPLE and MUTUAL.
func originClient(k *mint, t *mesh.ClientTLS, s *mesh.Service) *corev3.TransportSocket {
	c := &tlsv3.CommonTlsContext{}
	switch {
	case t.Mode != "MUTUAL":
	case t.CredentialName != "":
		c.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{sds(credential(t.CredentialName))}
	default:
		c.TlsCertificates = certificateFiles(k, t.Certificate, t.PrivateKey)
	}
	sni := t.SNI
	if sni == "" && !isWildcard(s.Hostname) {
		sni = s.Hostname
	}
	names := t.SANs
	if len(names) == 0 {
		names = s.ServiceAccounts
	}
	if len(names) == 0 && sni != "" {
		// A chain to a root says nothing about whose certificate it is. (Istio checks the
		// name only where sni is not given.)
		names = []string{sni}
	}
	v := &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: anyKind(names)}
	if t.CRL != "" {
		v.Crl = file(t.CRL)
	}
	switch {
	case t.SkipVerify:
		c.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustChainVerification: tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED}}
	case t.CredentialName != "":
		c.ValidationContextType = &tlsv3.CommonTlsContext_CombinedValidationContext{CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext: v, ValidationContextSdsSecretConfig: sds(credential(t.CredentialName) + caSuffix)}}
	case t.CACertificates != "":
		v.TrustedCa = file(t.CACertificates)
		c.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: v}
	default:
		v.SystemRootCerts = &tlsv3.CertificateValidationContext_SystemRootCerts{}
		c.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: v}
	}
	return tlsSocket(k, &tlsv3.UpstreamTlsContext{CommonTlsContext: c, Sni: sni})
}

// anyKind matches names of certificates: SPIFFE IDs as URIs, everything else as DNS
// names.
func anyKind(names []string) []*tlsv3.SubjectAltNameMatcher {
	var uris, dns []string
	for _, n := range names {
		if strings.Contains(n, "://") {
			uris = append(uris, n)
		} else {
			dns = append(dns, n)
		}
	}
	return append(exactNames(tlsv3.SubjectAltNameMatcher_URI, uris), exactNames(tlsv3.SubjectAltNameMatcher_DNS, dns)...)
}

func certificateFiles(k *mint, chain, key string) []*tlsv3.TlsCertificate {
	if chain == "" || key == "" {
		k.fail(errors.New("certificate and private key are needed: give both files, or credentialName"))
	}
	return []*tlsv3.TlsCertificate{{CertificateChain: file(chain), PrivateKey: file(key)}}
}

func file(path string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: path}}
}

// edgeServer is the TLS of a Gateway's server, or a Sidecar's ingress, that is terminated here.
func edgeServer(k *mint, t *mesh.ServerTLS, s *mesh.Settings, alpn []string) *corev3.TransportSocket {
	if t.Mode == "ISTIO_MUTUAL" {
		return meshServer(k, s, true)
	}
	c := &tlsv3.CommonTlsContext{AlpnProtocols: alpn, TlsParams: &tlsv3.TlsParameters{
		TlsMinimumProtocolVersion: tlsVersion(t.MinVersion, tlsv3.TlsParameters_TLSv1_2),
		TlsMaximumProtocolVersion: tlsVersion(t.MaxVersion, tlsv3.TlsParameters_TLS_AUTO),
		CipherSuites:              t.CipherSuites,
	}}
	for _, name := range t.Credentials {
		c.TlsCertificateSdsSecretConfigs = append(c.TlsCertificateSdsSecretConfigs, sds(credential(name)))
	}
	if t.Certificate+t.PrivateKey != "" || len(t.Credentials)+len(t.More) == 0 {
		c.TlsCertificates = certificateFiles(k, t.Certificate, t.PrivateKey)
	}
	for _, p := range t.More {
		c.TlsCertificates = append(c.TlsCertificates, certificateFiles(k, p.Certificate, p.PrivateKey)...)
	}
	d := &tlsv3.DownstreamTlsContext{CommonTlsContext: c}
	if t.Mode == "MUTUAL" || t.Mode == "OPTIONAL_MUTUAL" {
		d.RequireClientCertificate = wrapperspb.Bool(t.Mode == "MUTUAL")
		v := &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: anyKind(t.SANs), VerifyCertificateSpki: t.PinnedKeys, VerifyCertificateHash: t.PinnedCertificates}
		if t.SkipVerify {
			v.TrustChainVerification = tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED
		}
		if t.CRL != "" {
			v.Crl = file(t.CRL)
		}
		switch authority := authorityOf(t); {
		case authority != "":
			c.ValidationContextType = &tlsv3.CommonTlsContext_CombinedValidationContext{
				CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
					DefaultValidationContext: v, ValidationContextSdsSecretConfig: sds(credential(authority) + caSuffix)}}
		case t.CACertificates == "":
			// Without a CA every client certificate would be as good as another.
			k.fail(errors.New("mode " + t.Mode + " needs caCertificates or credentialName"))
		default:
			v.TrustedCa = file(t.CACertificates)
			c.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: v}
		}
	}
	return tlsSocket(k, d)
}

func tlsVersion(name string, otherwise tlsv3.TlsParameters_TlsProtocol) tlsv3.TlsParameters_TlsProtocol {
	switch name {
	case "TLSV1_2":
		return tlsv3.TlsParameters_TLSv1_2
	case "TLSV1_3":
		return tlsv3.TlsParameters_TLSv1_3
	}
	return otherwise
}

func tlsSocket(k *mint, context proto.Message) *corev3.TransportSocket {
	return &corev3.TransportSocket{Name: "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: k.any(context)}}
}
