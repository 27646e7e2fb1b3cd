package translate

import (
	stdtls "crypto/tls"
	"crypto/x509"
	"encoding/pem"

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

// authorityOf is the Secret that says whose client certificates count; "" if none does.
func authorityOf(t *mesh.ServerTLS) string {
	switch {
	case t.CACredential != "":
		return t.CACredential
	case t.CACertificates == "" && len(t.Credentials) > 0:
		return t.Credentials[0]
	}
	return ""
}

// credentials adds the secrets a server names. A Secret that does not exist is not
// sent: the listener waits for it.
func (c *Cache) credentials(e, old *edgeSet, s *openServer, namespace string) {
	if s.TLS == nil || s.TLS.Mode == "PASSTHROUGH" || s.TLS.Mode == "AUTO_PASSTHROUGH" || s.TLS.Mode == "ISTIO_MUTUAL" {
		return
	}
	add := func(name, sds string, secret *mesh.Secret, why string, m *tlsv3.Secret) {
		if m == nil {
			e.problems = append(e.problems, problem(&s.gateway.Ref, 0, "credentialName %q: Secret %s/%s %s: the server on port %d waits for it", name, namespace, name, why, s.Port))
			return
		}
		m.Name = sds
		k := mint{origins: []resource.Origin{originOf(&secret.Ref), originOf(&s.gateway.Ref)}}
		if r := k.resource(sds, m); r != nil {
			e.secrets = append(e.secrets, kept(r, old.secrets))
			e.withheld = append(e.withheld, problem(&s.gateway.Ref, 0, "credentialName %q: Secret %s/%s is not given to a connected proxy that says it is this gateway: "+
				"no Pod %s/<its name> is known that runs as the service account it proved to have", name, namespace, secret.Ref.Name, namespace))
		}
	}
	for _, name := range s.TLS.Credentials {
		secret := c.snap.Secrets.At(mesh.NewKey(namespace, name))
		m, why := certificate(secret)
		add(name, credential(name), secret, why, m)
	}
	if name := authorityOf(s.TLS); name != "" && (s.TLS.Mode == "MUTUAL" || s.TLS.Mode == "OPTIONAL_MUTUAL") {
		secret := c.snap.Secrets.At(mesh.NewKey(namespace, name))
		if own := c.snap.Secrets.At(mesh.NewKey(namespace, name+caSuffix)); own != nil {
			secret = own
		}
		m, why := authorities(secret)
		add(name, credential(name)+caSuffix, secret, why, m)
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
	v := &tlsv3.CertificateValidationContext{TrustedCa: inlineBytes(s.CA)}
	if len(s.CRL) > 0 {
		if !revocations(s.CRL) {
			return nil, "has something in ca.crl that is no list of revoked certificates"
		}
		v.Crl = inlineBytes(s.CRL)
	}
	return &tlsv3.Secret{Type: &tlsv3.Secret_ValidationContext{ValidationContext: v}}, ""
}

// revocations reports whether text is one or more revocation lists in PEM.
func revocations(text []byte) bool {
	found := false
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if _, err := x509.ParseRevocationList(block.Bytes); err != nil {
			return false
		}
		found = true
	}
	return found
}

func inlineBytes(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}
