package why

import (
	"testing"

	"github.com/weirmesh/weir/api/causes"
	observev1 "github.com/weirmesh/weir/api/observe/v1"
	"github.com/weirmesh/weir/config/document"
)

// What is to be changed is the part of a field that a failure is about; of what no part of it could change, none.
func TestAim(t *testing.T) {
	const whole = "mode: MUTUAL\nsni: a\nsubjectAltNames: [a]\ncaCertificates: a\nclientCertificate: a\n"
	const path = "trafficPolicy.tls"
	for _, c := range []struct {
		cause     causes.Cause
		failure   string // as identity and proxy/tls word it
		tls, want string
	}{
		{causes.UpstreamNotTLS, "the peer does not speak TLS here", whole, path + ".mode"},
		{causes.UpstreamNotTLS, "the peer does not speak TLS here", "{}", path},
		{causes.UpstreamTLSFailed, "the peer closed the connection during the TLS handshake, without a reason", whole, path + ".mode"},
		{causes.UpstreamTLSFailed, "the two sides have no TLS parameters in common: x", whole, ""},
		{causes.UpstreamCertificateRefused, `the server's certificate (a), issued by "b", is out of time: "a" is good from x to y`, whole, ""},
		{causes.UpstreamCertificateRefused, "the server presented spiffe://x, expected y: its certificate expired 1h0m0s ago (x)", whole, ""},
		{causes.UpstreamCertificateRefused, `the server's certificate (a), issued by "b", is not vouched for by any of the CA certificates`, whole, path + ".caCertificates"},
		{causes.UpstreamCertificateRefused, `the server's certificate (a), issued by "b", is not vouched for by any of the CA certificates`, "mode: SIMPLE\ncredentialName: x\n", path + ".credentialName"},
		{causes.UpstreamCertificateRefused, `the server's certificate (a), issued by "b", is not vouched for by any of the CA certificates`, "mode: SIMPLE\n", path},
		{causes.UpstreamCertificateRefused, "none of the names in the server's certificate (b) is DNS:a", whole, path + ".subjectAltNames"},
		{causes.UpstreamCertificateRefused, "the server presented spiffe://x, expected y: the certificate is good, but it is somebody else's", "mode: ISTIO_MUTUAL\n", ""},
		{causes.UpstreamTLSRefused, `the peer refused the connection with the TLS alert "handshake failure": it wants a client certificate and got none`, whole, path + ".mode"},
		{causes.UpstreamTLSEnded, `the TLS alert "certificate required": it wants a client certificate and got none`, whole, path + ".mode"},
		{causes.UpstreamTLSRefused, `the TLS alert "unknown certificate authority": it does not trust`, whole, path + ".clientCertificate"},
		{causes.UpstreamTLSRefused, `the TLS alert "expired certificate": our certificate`, "mode: ISTIO_MUTUAL\n", ""},
		{causes.UpstreamTLSRefused, `the TLS alert "unrecognized name": it does not know`, whole, path + ".sni"},
		{causes.UpstreamTLSRefused, `the TLS alert "internal error": its log says why`, whole, ""},
	} {
		v, err := document.ParseYAML(c.tls, 1)
		if err != nil {
			t.Fatal(err)
		}
		r := &observev1.Record{Tries: []*observev1.Attempt{{Failure: c.failure}}}
		if got := aim(found{cause: c.cause}, path, r, v); got != c.want {
			t.Errorf("%s, %s: %q, want %q", c.cause.Name(), c.failure, got, c.want)
		}
	}
}
