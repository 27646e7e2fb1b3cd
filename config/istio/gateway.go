package istio

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// protocols are the names of Istio's port.protocol, in any case.
var protocols = map[string]mesh.Protocol{
	"http": mesh.HTTP, "http2": mesh.HTTP2, "grpc": mesh.GRPC, "grpc-web": mesh.GRPCWeb, "https": mesh.HTTPS, "tls": mesh.TLS, "tcp": mesh.TCP,
	"mongo": mesh.Mongo, "mysql": mesh.MySQL, "redis": mesh.Redis, "udp": mesh.UDP,
}

func (l *lowerer) protocol(path, name string) mesh.Protocol {
	p, ok := protocols[strings.ToLower(name)]
	if !ok {
		names := []string{"HTTP", "HTTPS", "HTTP2", "GRPC", "GRPC-WEB", "TLS", "TCP", "MONGO", "MYSQL", "REDIS"}
		hint := "use " + strings.Join(names, ", ")
		if s := document.Suggest(strings.ToUpper(name), names); s != "" && name != "" {
			hint = "did you mean " + s + "?"
		}
		message := fmt.Sprintf("%q is not a protocol", name)
		if name == "" {
			message = "is missing"
		}
		l.Invalid(path, message, hint)
	}
	return p
}

func (l *lowerer) gateway(spec *networkingv1alpha3.Gateway) *mesh.Gateway {
	gw := &mesh.Gateway{Ref: l.o.Ref, Selector: l.selector("spec.selector", spec.Selector)}
	if len(spec.Servers) == 0 {
		l.Invalid("spec.servers", "is missing", "a Gateway needs at least one server: port and hosts")
	}
	names, portNames := map[string]int{}, map[string]int{}
	for i, s := range spec.Servers {
		at := document.Index("spec.servers", i)
		gw.Servers = append(gw.Servers, l.server(at, s))
		if first, ok := names[s.Name]; ok && s.Name != "" {
			l.Invalid(at+".name", fmt.Sprintf("%q is also the name of %s", s.Name, document.Index("servers", first)), "rename one of the two")
		}
		names[s.Name] = i
		name := s.GetPort().GetName()
		if first, ok := portNames[name]; ok && name != "" {
			l.Invalid(at+".port.name", fmt.Sprintf("%q is also the port name of %s", name, document.Index("servers", first)), "rename one of the two")
		}
		portNames[name] = i
	}
	return gw
}

func (l *lowerer) server(path string, s *networkingv1alpha3.Server) mesh.Server {
	out := mesh.Server{Line: l.LineOf(path), Name: s.Name, Bind: s.Bind}
	if strings.HasPrefix(s.Bind, "unix://") {
		l.socket(path+".bind", s.Bind)
	} else if _, err := netip.ParseAddr(s.Bind); s.Bind != "" && err != nil {
		l.Invalid(path+".bind", fmt.Sprintf("%q is not an IP address", s.Bind), "give one, or unix:///path; leave it out to listen on all addresses")
	}
	if s.Port == nil {
		l.Invalid(path+".port", "is missing", "give number, name and protocol")
	} else {
		out.Port = l.port(path+".port.number", s.Port.Number, false)
		out.PortName = s.Port.Name
		out.Protocol = l.protocol(path+".port.protocol", s.Port.Protocol)
		if s.Port.Name == "" {
			l.Invalid(path+".port.name", "is missing", "name the port, for example http")
		}
		if out.Protocol == mesh.UDP {
			l.Invalid(path+".port.protocol", "a gateway does not serve UDP", "use HTTP, HTTP2, GRPC, HTTPS, TLS or TCP")
		}
	}
	if len(s.Hosts) == 0 {
		l.Invalid(path+".hosts", "is missing", `name the hosts, or "*" for all`)
	}
	for i, h := range s.Hosts {
		at := document.Index(path+".hosts", i)
		if gh, ok := l.gatewayHost(at, h); ok {
			if slices.Contains(out.Hosts, gh) {
				l.Add(config.SchemaWarning, at, fmt.Sprintf("%q is named twice", h), "remove one of the two")
				continue
			}
			out.Hosts = append(out.Hosts, gh)
		}
	}
	switch {
	case out.Protocol.IsTLS() && s.Tls == nil:
		l.Invalid(path+".tls", "is missing: the protocol is "+s.Port.GetProtocol(), "add tls.mode and a certificate, or use protocol HTTP or TCP")
	case s.Tls != nil && !out.Protocol.IsTLS() && out.Protocol != "" && !out.Protocol.IsHTTP():
		l.Invalid(path+".tls", "is given, but the protocol is "+s.Port.GetProtocol(), "use protocol TLS")
	case s.Tls != nil && out.Protocol.IsHTTP() && (s.Tls.Mode != networkingv1alpha3.ServerTLSSettings_PASSTHROUGH || s.Tls.ServerCertificate+s.Tls.PrivateKey+s.Tls.CaCertificates+s.Tls.CredentialName+s.Tls.CaCertCredentialName != "" || len(s.Tls.CredentialNames)+len(s.Tls.TlsCertificates) > 0):
		l.Invalid(path+".tls", "is given, but the protocol is "+s.Port.GetProtocol()+", where only httpsRedirect has a meaning", "use protocol HTTPS")
	}
	out.TLS = l.serverTLS(path+".tls", s.Tls, out.Protocol)
	return out
}

// gatewayHost reads "host", "namespace/host", "./host" and "*/host".
func (l *lowerer) gatewayHost(path, h string) (mesh.GatewayHost, bool) {
	ns, host, ok := strings.Cut(h, "/")
	if !ok {
		ns, host = "*", h
	}
	switch {
	case ns == ".":
		ns = l.ns
	case ns != "*":
		l.name(path, "namespace", ns)
	}
	if _, err := netip.ParseAddr(host); err != nil {
		if host != "*" && !strings.Contains(host, ".") {
			l.Invalid(path, fmt.Sprintf("%q is a short name", host), `a gateway needs complete host names: "bookinfo.example.com", "*.example.com" or "*"`)
			return mesh.GatewayHost{}, false
		}
		if !l.host(path, host, true, true) {
			return mesh.GatewayHost{}, false
		}
	}
	return mesh.GatewayHost{Namespace: ns, Host: strings.ToLower(strings.TrimSuffix(host, "."))}, true
}

func (l *lowerer) serverTLS(path string, t *networkingv1alpha3.ServerTLSSettings, p mesh.Protocol) *mesh.ServerTLS {
	if t == nil {
		return nil
	}
	out := &mesh.ServerTLS{
		Mode: t.Mode.String(), HTTPSRedirect: t.HttpsRedirect, Certificate: t.ServerCertificate, PrivateKey: t.PrivateKey, CACertificates: t.CaCertificates,
		CRL: t.CaCrl, Credentials: t.CredentialNames, CACredential: t.CaCertCredentialName, CipherSuites: t.CipherSuites, SANs: t.SubjectAltNames,
		PinnedKeys: t.VerifyCertificateSpki, PinnedCertificates: t.VerifyCertificateHash, SkipVerify: t.InsecureSkipVerify.GetValue(),
		MinVersion: tlsVersion(t.MinProtocolVersion), MaxVersion: tlsVersion(t.MaxProtocolVersion),
	}
	if t.CredentialName != "" {
		out.Credentials = []string{t.CredentialName}
	}
	files := []field{{"serverCertificate", t.ServerCertificate}, {"privateKey", t.PrivateKey}, {"caCertificates", t.CaCertificates}, {"caCrl", t.CaCrl}}
	credentials := []field{{"credentialName", t.CredentialName}, {"credentialNames", strings.Join(t.CredentialNames, ",")}, {"caCertCredentialName", t.CaCertCredentialName}}
	pairs := field{"tlsCertificates", ""}
	for i, c := range t.TlsCertificates {
		at := document.Index(path+".tlsCertificates", i)
		l.allOf(at, t.Mode.String(), field{"serverCertificate", c.ServerCertificate}, field{"privateKey", c.PrivateKey})
		l.noneOf(at, "clients are judged by those of the server", field{"caCertificates", c.CaCertificates})
		out.More = append(out.More, mesh.KeyPair{Certificate: c.ServerCertificate, PrivateKey: c.PrivateKey})
		pairs.value = "given"
	}
	if t.CredentialName != "" {
		l.noneOf(path, "credentialName stands for them", credentials[1])
	}
	switch t.Mode {
	case networkingv1alpha3.ServerTLSSettings_ISTIO_MUTUAL:
		l.noneOf(path, "ISTIO_MUTUAL uses the mesh's own certificates", slices.Concat(files, credentials, []field{pairs})...)
	case networkingv1alpha3.ServerTLSSettings_PASSTHROUGH, networkingv1alpha3.ServerTLSSettings_AUTO_PASSTHROUGH:
		if !p.IsHTTP() {
			l.noneOf(path, t.Mode.String()+" does not open the connection", slices.Concat(files, credentials, []field{pairs})...)
		}
	default: // SIMPLE, MUTUAL, OPTIONAL_MUTUAL
		mutual := t.Mode != networkingv1alpha3.ServerTLSSettings_SIMPLE
		switch {
		case len(out.Credentials) > 0:
			l.noneOf(path, "credentialName stands for them", append(files[:2:2], pairs)...)
			l.noneOf(path, "lists of revoked certificates are in the Secret (ca.crl)", files[3])
		case len(out.More) > 0:
			l.noneOf(path, "tlsCertificates stands for them", files[:2]...)
		default:
			l.allOf(path, t.Mode.String(), files[:2]...)
		}
		if mutual && len(out.Credentials) == 0 && out.CACredential == "" {
			l.allOf(path, t.Mode.String(), files[2])
		}
		l.pins(path+".verifyCertificateSpki", t.VerifyCertificateSpki, base64.StdEncoding.DecodeString, "give the SHA-256 of the public key in base64")
		l.pins(path+".verifyCertificateHash", t.VerifyCertificateHash, func(s string) ([]byte, error) { return hex.DecodeString(strings.ReplaceAll(s, ":", "")) },
			"give the SHA-256 of the certificate in hexadecimal")
	}
	if t.HttpsRedirect && p.IsTLS() {
		l.Add(config.SchemaWarning, path+".httpsRedirect", "has no effect on a TLS port", "set it on the HTTP port")
	}
	if t.MaxProtocolVersion != networkingv1alpha3.ServerTLSSettings_TLS_AUTO && t.MinProtocolVersion > t.MaxProtocolVersion {
		l.Invalid(path+".minProtocolVersion", "is above maxProtocolVersion", "lower it, or raise maxProtocolVersion")
	}
	return out
}

// pins checks SHA-256 sums.
func (l *lowerer) pins(path string, all []string, decode func(string) ([]byte, error), hint string) {
	for i, s := range all {
		if b, err := decode(s); err != nil || len(b) != sha256.Size {
			l.Invalid(document.Index(path, i), fmt.Sprintf("%q is no such sum", s), hint)
		}
	}
}

func tlsVersion(v networkingv1alpha3.ServerTLSSettings_TLSProtocol) string {
	if v == networkingv1alpha3.ServerTLSSettings_TLS_AUTO {
		return ""
	}
	return v.String()
}
