package faults

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// What two proxies do to each other, told from both sides.
func sidesRows(t testing.TB) []fault {
	dir := t.TempDir()
	others := newAuthority(t, dir, "strangers")
	const identity = "spiffe://cluster.local/ns/default/sa/client"
	// secured is how the client's proxy is told to shake hands with that of the STRICT workload, when there is an authority.
	secured := func(mode, trusting string, trusts func(*world) *authority, shows func(*world) tls.Certificate) func(*world, *fault) string {
		return func(w *world, f *fault) string {
			more := ""
			if shows != nil {
				cert, key := files(t, dir, f.slug(), shows(w))
				more = ", !wrong clientCertificate: " + cert + ", privateKey: " + key
			}
			roots := filepath.Join(dir, f.slug()+"-roots.pem")
			must(t, os.WriteFile(roots, encoded("CERTIFICATE", trusts(w).cert.Raw), 0o600))
			w.add(f, documents(virtualService("retries: {attempts: 0}, ROUTE"),
				destinationRule("trafficPolicy: {tls: {"+mode+", subjectAltNames: ['spiffe://cluster.local/ns/default/sa/strict'], "+trusting+roots+more+"}}")))
			return get(w, f)
		}
	}
	mesh := (*world).authority
	return []fault{
		{name: "handshake without a client certificate", how: "tls.mode SIMPLE towards a workload with PeerAuthentication STRICT", on: "strict", app: answers(ok), ask: secured("!wrong mode: SIMPLE", "caCertificates: ", mesh, nil),
			cause: "downstream_tls_failed", at: "default/strict", object: "DestinationRule trafficPolicy.tls.mode", against: "PeerAuthentication strict mtls.mode", client: "upstream_tls_ended", server: "downstream_tls_failed"},
		{name: "handshake with an expired certificate", how: "tls.mode MUTUAL with a certificate of the mesh that expired an hour ago", on: "strict", app: answers(ok),
			ask: secured("mode: MUTUAL", "caCertificates: ", mesh, func(w *world) tls.Certificate {
				return w.authority().issue(t, identity, time.Now().Add(-time.Hour))
			}),
			cause: "downstream_tls_failed", at: "default/strict", object: "DestinationRule trafficPolicy.tls.clientCertificate", client: "upstream_tls_ended", server: "downstream_tls_failed", detail: "expired"},
		{name: "handshake with a certificate of an unknown root", how: "tls.mode MUTUAL with a certificate of another authority", on: "strict", app: answers(ok),
			ask: secured("mode: MUTUAL", "caCertificates: ", mesh, func(*world) tls.Certificate {
				return others.issue(t, identity, time.Now().Add(time.Hour))
			}),
			cause: "downstream_tls_failed", at: "default/strict", object: "DestinationRule trafficPolicy.tls.clientCertificate", client: "upstream_tls_ended", server: "downstream_tls_failed", detail: "vouches"},
		{name: "handshake with a server of an unknown root", how: "tls.mode SIMPLE with caCertificates that are not the mesh's", on: "strict", app: answers(ok),
			ask:   secured("mode: SIMPLE", "!wrong caCertificates: ", func(*world) *authority { return others }, nil),
			cause: "upstream_certificate_refused", at: "default/client", object: "DestinationRule trafficPolicy.tls.caCertificates", client: "upstream_certificate_refused", server: "downstream_tls_failed", detail: "vouched"},
		{name: "goaway of the application", how: "an application that answers with GOAWAY before any stream", protocol: "http2", app: framed(func(f *http2.Framer, _ uint32) { _ = f.WriteGoAway(0, http2.ErrCodeNo, nil) }),
			cause: "upstream_going_away", at: "default/server", client: "-", server: "upstream_going_away"},
	}
}
