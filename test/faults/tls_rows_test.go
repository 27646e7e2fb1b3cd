package faults

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// TLS and certificates, on both sides.
func tlsRows(t testing.TB) []fault {
	dir := t.TempDir()
	ours, others := newAuthority(t, dir, "ours"), newAuthority(t, dir, "others")
	later, before := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	good := func(name string) tls.Certificate { return ours.issue(t, name, later) }
	cert, key := files(t, dir, "stranger", others.issue(t, "stranger.example", later))
	speaks := func(c *tls.Config) func(net.Conn) {
		return func(raw net.Conn) {
			s := tls.Server(raw, c)
			if s.Handshake() != nil {
				return
			}
			answers(ok)(s)
		}
	}
	with := func(c tls.Certificate) func(net.Conn) {
		return speaks(&tls.Config{Certificates: []tls.Certificate{c}, MinVersion: tls.VersionTLS12})
	}
	// simple is how TLS is begun, and what of it is wrong.
	simple := func(wrong string) string {
		text := "trafficPolicy: {tls: {mode: SIMPLE, sni: far.example, subjectAltNames: [far.example], caCertificates: " + ours.file + "}}"
		return destinationRule(strings.Replace(text, wrong+":", mark+" "+wrong+":", min(1, len(wrong))))
	}
	plain := wholly("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
	const hosts = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: NAME}\nspec: {hosts: [one.NAME.example, two.NAME.example], ports: [{number: 8080, name: http, protocol: HTTP, targetPort: PORT}], resolution: STATIC, workloadSelector: {labels: {app: APP}}}\n"
	const tlsField = "DestinationRule trafficPolicy.tls."
	alerted := func(name string, code byte, what, unknown string) fault {
		return fault{name: "alert " + name, how: "an endpoint that answers the handshake with this alert", far: alert(code), config: simple(""),
			cause: "upstream_tls_refused", at: "default/client", client: "upstream_tls_refused", detail: what, unknown: unknown}
	}
	return []fault{
		alerted("handshake failure", 40, "handshake failure", "default/far"),
		alerted("protocol version", 70, "protocol version", ""),
		{name: "alert unrecognized name", how: "the same of an endpoint that does not know the server name", far: alert(112), config: simple("sni"),
			cause: "upstream_tls_refused", at: "default/client", object: tlsField + "sni", client: "upstream_tls_refused", detail: "unrecognized name"},
		alerted("no application protocol", 120, "no application protocol", ""),
		alerted("internal error", 80, "internal error", "default/far"),
		{name: "TLS by the rule of a port", how: "a DestinationRule whose tls is DISABLE, and SIMPLE for the port (portLevelSettings), towards an endpoint that speaks plaintext", far: plain,
			config: destinationRule("trafficPolicy: {tls: {mode: DISABLE}, portLevelSettings: [{port: {number: 9}, tls: {mode: DISABLE}}, {port: {number: 8080}, tls: {!wrong mode: SIMPLE, sni: x}}]}"),
			cause:  "upstream_not_tls", at: "default/client", object: "DestinationRule trafficPolicy.portLevelSettings[1].tls.mode", client: "upstream_not_tls"},
		{name: "TLS by the rule of a host", how: "a DestinationRule for all hosts of a domain whose tls is DISABLE, and one for the host itself, SIMPLE, towards an endpoint that speaks plaintext", far: plain,
			config: documents(object("networking.istio.io/v1", "DestinationRule", "all-of-NAME", "{host: '*.NAME.example', trafficPolicy: {tls: {mode: DISABLE}}}"),
				object("networking.istio.io/v1", "DestinationRule", "NAME", "{host: one.NAME.example, trafficPolicy: {tls: {!wrong mode: SIMPLE, sni: x}}}"), hosts),
			ask:   func(w *world, f *fault) string { return w.getHost(f, "one."+f.slug()+".example") },
			cause: "upstream_not_tls", at: "default/client", object: "DestinationRule trafficPolicy.tls.mode", client: "upstream_not_tls"},
		{name: "TLS by the rule of a domain", how: "a DestinationRule for all hosts of a domain whose tls is SIMPLE, and one for another host of it, DISABLE, towards an endpoint that speaks plaintext", far: plain,
			config: documents(object("networking.istio.io/v1", "DestinationRule", "one-of-NAME", "{host: one.NAME.example, trafficPolicy: {tls: {mode: DISABLE}}}"),
				object("networking.istio.io/v1", "DestinationRule", "NAME", "{host: '*.NAME.example', trafficPolicy: {tls: {!wrong mode: SIMPLE, sni: x}}}"), hosts),
			ask:   func(w *world, f *fault) string { return w.getHost(f, "two."+f.slug()+".example") },
			cause: "upstream_not_tls", at: "default/client", object: "DestinationRule trafficPolicy.tls.mode", client: "upstream_not_tls"},
		{name: "certificate wanted", how: "an endpoint that wants a certificate of the client, of which there is none", config: simple("mode"),
			far:   speaks(&tls.Config{Certificates: []tls.Certificate{good("far.example")}, ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}),
			cause: "upstream_tls_refused", at: "default/client", object: tlsField + "mode", client: "upstream_tls_refused"},
		{name: "certificate wanted later", how: "the same with TLS 1.3, where the alert comes after the handshake", config: simple("mode"),
			far:   speaks(&tls.Config{Certificates: []tls.Certificate{good("far.example")}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13}),
			cause: "upstream_tls_ended", at: "default/client", object: tlsField + "mode", client: "upstream_tls_ended", detail: "certificate required"},
		{name: "client certificate not vouched for", how: "an endpoint that does not trust the authority of the client's certificate", far: speaks(&tls.Config{Certificates: []tls.Certificate{good("far.example")}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool(ours), MaxVersion: tls.VersionTLS12}),
			config: destinationRule("trafficPolicy: {tls: {mode: MUTUAL, sni: far.example, subjectAltNames: [far.example], caCertificates: " + ours.file + ", !wrong clientCertificate: " + cert + ", privateKey: " + key + "}}"),
			cause:  "upstream_tls_refused", at: "default/client", object: tlsField + "clientCertificate", client: "upstream_tls_refused"},
		{name: "certificate for another name", how: "an endpoint whose certificate has other names than subjectAltNames", far: with(good("other.example")), config: simple("subjectAltNames"),
			cause: "upstream_certificate_refused", at: "default/client", object: tlsField + "subjectAltNames", client: "upstream_certificate_refused", detail: "other.example"},
		{name: "certificate expired", how: "an endpoint whose certificate expired an hour ago", far: with(ours.issue(t, "far.example", before)), config: simple(""),
			cause: "upstream_certificate_refused", at: "default/client", client: "upstream_certificate_refused", detail: "out of time"},
		{name: "certificate of an unknown authority", how: "an endpoint whose certificate is of an authority that caCertificates does not have", far: with(others.issue(t, "far.example", later)), config: simple("caCertificates"),
			cause: "upstream_certificate_refused", at: "default/client", object: tlsField + "caCertificates", client: "upstream_certificate_refused", detail: "vouched"},
		{name: "TLS to plaintext", how: "mode SIMPLE towards an endpoint that speaks plaintext", far: plain, config: simple("mode"),
			cause: "upstream_not_tls", at: "default/client", object: tlsField + "mode", client: "upstream_not_tls"},
		{name: "mesh TLS without a proxy", how: "mode ISTIO_MUTUAL towards an endpoint without a proxy", far: plain, config: destinationRule("trafficPolicy: {tls: {!wrong mode: ISTIO_MUTUAL}}"),
			cause: "upstream_not_tls", at: "default/client", object: tlsField + "mode", client: "upstream_not_tls"},
		{name: "TLS to what hangs up", how: "mode SIMPLE towards an endpoint that closes such connections", far: answers(ok), config: simple("mode"),
			cause: "upstream_tls_failed", at: "default/client", object: tlsField + "mode", client: "upstream_tls_failed"},
		{name: "plaintext to TLS", how: "an endpoint that speaks TLS and says so by an alert, and no DestinationRule that knows it", far: wholly("\x15\x03\x01\x00\x02\x02\x46"),
			cause: "upstream_protocol_error", at: "default/client", client: "upstream_protocol_error", detail: "TLS"},
		{name: "plaintext to TLS without a word", how: "an endpoint that speaks TLS and resets what is none, and no DestinationRule that knows it", far: with(good("far.example")),
			cause: "upstream_connection_reset", at: "default/client", client: "upstream_connection_reset", unknown: "default/far"},
		{name: "handshake never answered", how: "an endpoint that accepts and is silent; connectTimeout", far: silence,
			config: destinationRule("trafficPolicy: {connectionPool: {tcp: {!wrong connectTimeout: 0.05s}}, tls: {mode: SIMPLE, caCertificates: " + ours.file + "}}"),
			cause:  "upstream_connect_timeout", at: "default/client", object: "DestinationRule trafficPolicy.connectionPool.tcp.connectTimeout", client: "upstream_connect_timeout", detail: "TLS"},
		{name: "wrong mesh identity", how: "ISTIO_MUTUAL with subjectAltNames that the server's identity is not", app: answers(ok),
			config: destinationRule("trafficPolicy: {tls: {mode: ISTIO_MUTUAL, !wrong subjectAltNames: ['spiffe://cluster.local/ns/default/sa/else']}}"),
			cause:  "upstream_certificate_refused", at: "default/client", object: tlsField + "subjectAltNames", client: "upstream_certificate_refused", server: "downstream_tls_failed", detail: "sa/server"},
		{name: "stranger to STRICT", how: "plaintext from outside the mesh to a workload with PeerAuthentication STRICT", on: "strict", app: answers(ok), ask: outside("GET / HTTP/1.1\r\nhost: x\r\n\r\n"),
			cause: "filter_chain_not_found", at: "default/strict", object: "PeerAuthentication strict mtls.mode", server: "filter_chain_not_found"},
		{name: "client without a certificate", how: "mesh TLS from outside the mesh without a certificate", on: "strict", app: answers(ok), ask: outsideTLS(nil),
			cause: "downstream_tls_failed", at: "default/strict", object: "PeerAuthentication strict mtls.mode", server: "downstream_tls_failed"},
		{name: "client of another mesh", how: "mesh TLS with a certificate of another authority", on: "strict", app: answers(ok),
			ask: outsideTLS(func(*world) tls.Certificate {
				return others.issue(t, "spiffe://cluster.local/ns/default/sa/client", later)
			}),
			cause: "downstream_tls_failed", at: "default/strict", server: "downstream_tls_failed", detail: "vouches"},
		{name: "client certificate expired", how: "mesh TLS with a certificate of the mesh that expired an hour ago", on: "strict", app: answers(ok),
			ask: outsideTLS(func(w *world) tls.Certificate {
				return w.authority().issue(t, "spiffe://cluster.local/ns/default/sa/client", before)
			}),
			cause: "downstream_tls_failed", at: "default/strict", server: "downstream_tls_failed", detail: "expired"},
	}
}

// alert answers a ClientHello with a fatal alert (RFC 8446, 6).
func alert(code byte) func(net.Conn) {
	return func(c net.Conn) {
		head := make([]byte, 5)
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, c, int64(head[3])<<8|int64(head[4])); err != nil {
			return
		}
		_, _ = c.Write([]byte{21, 3, 3, 0, 2, 2, code})
	}
}

// outside sends bytes to the workload of a row from outside the mesh.
func outside(text string) func(*world, *fault) string {
	return func(w *world, f *fault) string {
		c, from, err := w.dialAt(w.at(f))
		if err != nil {
			w.T.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, text)
		_, _ = c.Read(make([]byte, 1))
		return from
	}
}

// outsideTLS shakes hands as a workload of the mesh does, with a certificate.
func outsideTLS(shows func(*world) tls.Certificate) func(*world, *fault) string {
	return func(w *world, f *fault) string {
		raw, from, err := w.dialAt(w.at(f))
		if err != nil {
			w.T.Fatal(err)
		}
		defer raw.Close()
		config := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"istio-http/1.1"}, InsecureSkipVerify: true}
		if shows != nil {
			config.Certificates = []tls.Certificate{shows(w)}
		}
		c := tls.Client(raw, config)
		if c.Handshake() == nil {
			_, _ = c.Read(make([]byte, 1))
		}
		return from
	}
}
