package faults

import (
	"cmp"
	"crypto/tls"
	"net/netip"
	"testing"
	"time"
)

// edge is the ingress gateway's.
const edge = `---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["*.example"]}
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [shown.example], tls: {!wrong mode: MUTUAL, credentialName: shown}}
  - {port: {number: 443, name: tls, protocol: TLS}, hosts: [tls-through-the-gateway-to-nobody.example, "*.rule-for-another-server-name.example"], tls: {mode: PASSTHROUGH}}
`

const gateway = "istio-system/istio-ingressgateway"

// What comes from outside, at the gateway.
func gatewayRows(t testing.TB) []fault {
	ours := newAuthority(t, t.TempDir(), "edge")
	later := time.Now().Add(time.Hour)
	toGateway := func(path string) func(*world, *fault) string {
		return func(w *world, f *fault) string {
			id := "fault-" + f.slug()
			// Strangers have no say in ids: it is known by its address.
			c, from, err := w.dialAt(netip.AddrPortFrom(w.gw.IP(), 8080))
			must(w.T, err)
			defer c.Close()
			_, err = c.Write([]byte("GET " + path + " HTTP/1.1\r\nhost: " + f.slug() + ".example\r\nx-request-id: " + id + "\r\n\r\n"))
			must(w.T, err)
			_, _ = c.Read(make([]byte, 1))
			return from
		}
	}
	rule := func(spec string) string {
		return object("networking.istio.io/v1", "VirtualService", "NAME", "{hosts: [NAME.example], gateways: [edge], http: [{"+spec+"}]}")
	}
	return []fault{
		{name: "unknown host at the gateway", how: "a host that no VirtualService of the gateway has", ask: toGateway("/"),
			cause: "host_not_found", at: gateway, client: "host_not_found", detail: "the nearest to unknown-host-at-the-gateway.example that there are: unknown-path-at-the-gateway.example"},
		{name: "unknown path at the gateway", how: "a path that no rule of the host's VirtualService matches", app: answers(ok), config: rule("match: [{uri: {prefix: /known}}], ROUTE"), ask: toGateway("/"),
			cause: "route_not_found", at: gateway, object: "VirtualService http", client: "route_not_found"},
		{name: "unknown SNI at the gateway", how: "a name in the TLS handshake that no server of the Gateway has", ask: handshake("else.example"),
			cause: "filter_chain_not_found", at: gateway, object: "Gateway edge servers", client: "filter_chain_not_found", detail: "the nearest to else.example that there are: *.example, shown.example"},
		{name: "no certificate at the gateway", how: "TLS without a certificate to a server with tls.mode MUTUAL", ask: handshake("shown.example"), config: secret(t, "shown", ours.issue(t, "shown.example", later), ours) + edge,
			cause: "downstream_tls_failed", at: gateway, object: "Gateway edge servers[1].tls.mode", client: "downstream_tls_failed"},
		{name: "refused behind the gateway", how: "a pod behind the gateway whose application is not there", app: nobody, config: rule("retries: {attempts: 0}, ROUTE"), ask: toGateway("/"),
			cause: "upstream_connect_refused", at: "default/server", client: "-", server: "upstream_connect_refused"},
		{name: "denied behind the gateway", how: "an AuthorizationPolicy of a workload behind the gateway", app: answers(ok), ask: toGateway("/"),
			config: documents(rule("ROUTE"), object("security.istio.io/v1", "AuthorizationPolicy", "NAME", "{"+serverOnly+", action: DENY, rules: [!wrong {to: [{operation: {ports: ['PORT']}}]}]}")),
			cause:  "access_denied", at: "default/server", object: "AuthorizationPolicy rules[0]", client: "-", server: "access_denied"},
	}
}

// handshake is TLS with the gateway by a name, NAME.example unless it is given.
func handshake(name string, shows ...tls.Certificate) func(*world, *fault) string {
	return func(w *world, f *fault) string {
		raw, from, err := w.dialAt(netip.AddrPortFrom(w.gw.IP(), 8443))
		must(w.T, err)
		defer raw.Close()
		c := tls.Client(raw, &tls.Config{MinVersion: tls.VersionTLS13, ServerName: cmp.Or(name, f.slug()+".example"), InsecureSkipVerify: true, Certificates: shows})
		if c.Handshake() == nil {
			_, _ = c.Read(make([]byte, 1))
		}
		return from
	}
}
