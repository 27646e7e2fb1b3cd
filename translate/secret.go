package translate

import (
	stdtls "crypto/tls"
	"crypto/x509"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

// caSuffix is Istio's: a credential's authorities are in the Secret of that name, or in
// the credential's own.
const caSuffix = "-cacert"

// credential is the SDS name of a Secret in the proxy's namespace.
func credential(name string) string { return "kubernetes://" + name }

// credentials adds the secrets a server names. A Secret that does not exist is not
// sent: the listener waits for it.
func (c *Cache) credentials(e, old *edgeSet, s *openServer, namespace string) {
	if s.TLS == nil || s.TLS.CredentialName == "" {
		return
	}
	name := s.TLS.CredentialName
	secret := c.snap.Secrets.At(mesh.NewKey(namespace, name))
	add := func(sds, why string, m *tlsv3.Secret) {
		if m == nil {
			e.problems = append(e.problems, problem(&s.gateway.Ref, 0, "credentialName %q: Secret %s/%s %s: the server on port %d waits for it", name, namespace, name, why, s.Port))
			return
		}
		m.Name = sds
		k := mint{origins: []resource.Origin{originOf(&secret.Ref), originOf(&s.gateway.Ref)}}
		if r := k.resource(sds, m); r != nil {
			e.secrets = append(e.secrets, kept(r, old.secrets))
		}
	}
	if s.TLS.Mode != "PASSTHROUGH" && s.TLS.Mode != "ISTIO_MUTUAL" {
		m, why := certificate(secret)
		add(credential(name), why, m)
	}
	if s.TLS.Mode == "MUTUAL" || s.TLS.Mode == "OPTIONAL_MUTUAL" {
		if own := c.snap.Secrets.At(mesh.NewKey(namespace, name+caSuffix)); own != nil {
			secret = own
		}
		m, why := authorities(secret)
		add(credential(name)+caSuffix, why, m)
	}
}

// certificate is nil, with the reason, if the proxy could not use it.
func certificate(s *mesh.Secret) (m *tlsv3.Secret, why string) {
	switch {
	case s == nil:
		return nil, "does not exist"
	case len(s.Certificate) == 0 || s.Key == nil:
		return nil, "has no certificate and key (tls.crt, tls.key)"
	}
	if _, err := stdtls.X509KeyPair(s.Certificate, s.Key()); err != nil {
		return nil, "is not a certificate and its key"
	}
	return &tlsv3.Secret{Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inlineBytes(s.Certificate), PrivateKey: inlineBytes(s.Key()),
	}}}, ""
}

// authorities is nil, with the reason, if the proxy could not use them.
func authorities(s *mesh.Secret) (m *tlsv3.Secret, why string) {
	switch {
	case s == nil:
		return nil, "does not exist"
	case !x509.NewCertPool().AppendCertsFromPEM(s.CA):
		return nil, "has no authority for client certificates (ca.crt)"
	}
	return &tlsv3.Secret{Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inlineBytes(s.CA)}}}, ""
}

func inlineBytes(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}
