package e2e_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/test/mesh"
)

// What a gateway makes of x-forwarded-client-cert, for each of forwardClientCertDetails and for each kind of server: who shows no certificate
// has nothing believed but where that is asked for (ALWAYS_FORWARD_ONLY), who shows one is named by what was verified. Policies, at the gateway and
// behind it, are about who is at the other end of the connection, whatever the header says.
func TestClientCertificatesAtGateways(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	m.Write("echo.yaml", echoService)
	dir := t.TempDir()
	const domain, forged = "clients.example", "spiffe://cluster.local/ns/default/sa/forged"
	authority, err := ca.OpenSelfSigned(t.TempDir(), domain, ca.Options{})
	must(t, err)
	of := func(account string) *tls.Certificate {
		got, err := authority.Issue(ca.Grant{ID: identity.ID{TrustDomain: domain, Namespace: "default", ServiceAccount: account}})
		must(t, err)
		return got.Certificate()
	}
	server := of("server")
	key, err := identity.EncodeKey(server.PrivateKey.(crypto.Signer))
	must(t, err)
	for name, text := range map[string][]byte{"ca.pem": authority.Bundle().PEM(), "cert.pem": identity.EncodeCertificates(server.Leaf), "key.pem": key.Reveal()} {
		must(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	files := fmt.Sprintf("serverCertificate: %[1]s/cert.pem, privateKey: %[1]s/key.pem, caCertificates: %[1]s/ca.pem", dir)
	policy := func(name, namespace, app, rule string) string {
		return fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: %s, namespace: %s}\nspec: {selector: {matchLabels: {app: %s}}, action: DENY, rules: [%s]}\n", name, namespace, app, rule)
	}
	const peer = domain + "/ns/default/sa/client"
	const edgePod = "istio-ingressgateway"
	m.Config("gateway.yaml", documents(mesh.IngressGateway, `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [plain.example]}
  - {port: {number: 443, name: https-a, protocol: HTTPS}, hosts: [simple.example], tls: {mode: SIMPLE, `+files+`}}
  - {port: {number: 443, name: https-b, protocol: HTTPS}, hosts: [optional.example], tls: {mode: OPTIONAL_MUTUAL, `+files+`}}
  - {port: {number: 443, name: https-c, protocol: HTTPS}, hosts: [mutual.example], tls: {mode: MUTUAL, `+files+`}}
  - {port: {number: 443, name: https-d, protocol: HTTPS}, hosts: [unverified.example], tls: {mode: OPTIONAL_MUTUAL, insecureSkipVerify: true, `+files+`}}
  - {port: {number: 443, name: https-e, protocol: HTTPS}, hosts: [mesh.example], tls: {mode: ISTIO_MUTUAL}}
`, virtualService("edge", `{hosts: ["*"], gateways: [edge], http: [{route: [{destination: {host: echo, port: {number: 8080}}}]}]}`),
		policy("forged", "istio-system", edgePod, "{from: [{source: {principals: [cluster.local/ns/default/sa/forged]}}]}"),
		policy("peer", "istio-system", edgePod, "{from: [{source: {principals: ["+peer+"]}}], to: [{operation: {paths: [/not-by-client]}}]}"),
		policy("others", "istio-system", edgePod, "{from: [{source: {notPrincipals: ["+peer+"]}}], to: [{operation: {paths: [/by-client]}}]}"),
		policy("forged", "default", "echo", "{from: [{source: {principals: [cluster.local/ns/default/sa/forged, "+peer+"]}}]}"),
		policy("edge", "default", "echo", "{from: [{source: {principals: [cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account]}}], to: [{operation: {paths: [/not-by-gateway]}}]}")))
	gateway := m.Workloads(mesh.Gateway(), echoPod("echo-0", "v1"))[0]

	member := m.Certificate("default", "member")
	client := of("client")
	stranger := foreign(t, domain) // of another authority of that name
	callers := []struct {
		name, host string
		shows      *tls.Certificate
		seen       string // "": nobody
	}{
		{"in plaintext", "plain.example", nil, ""},
		{"by TLS", "simple.example", nil, ""},
		{"by TLS where no certificate is asked for", "simple.example", client, ""},
		{"without a certificate where one may be shown", "optional.example", nil, ""},
		{"with a certificate where one may be shown", "optional.example", client, "spiffe://" + peer},
		{"with a certificate", "mutual.example", client, "spiffe://" + peer},
		{"with a certificate that nobody judges", "unverified.example", stranger, ""},
		{"as a workload of the mesh", "mesh.example", member, "spiffe://cluster.local/ns/default/sa/member"},
	}
	get := func(host, path string, shows *tls.Certificate) *mesh.Response {
		scheme, port := "https", uint16(8443)
		if host == "plain.example" {
			scheme, port = "http", 8080
		}
		c := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
		if shows != nil {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return shows, nil }
		}
		tr := &http.Transport{DisableKeepAlives: true, TLSClientConfig: c, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return outsider(gateway, port)(ctx) }}
		return mesh.Do(&http.Client{Transport: tr, Timeout: 20 * time.Second}, http.MethodGet, scheme+"://"+host+path, nil, "x-forwarded-client-cert: By=balancer;URI="+forged)
	}
	for _, how := range []string{"", "UNDEFINED", "SANITIZE", "SANITIZE_SET", "FORWARD_ONLY", "APPEND_FORWARD", "ALWAYS_FORWARD_ONLY"} {
		for _, hops := range []int{0, 1} {
			topology := fmt.Sprintf("numTrustedProxies: %d", hops)
			if how != "" {
				topology += ", forwardClientCertDetails: " + how
			}
			m.Config("mesh.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    defaultConfig: {gatewayTopology: {"+topology+"}}\n")
			for _, c := range callers {
				at := fmt.Sprintf("%s, %s", topology, c.name)
				var want []string
				switch {
				case how == "ALWAYS_FORWARD_ONLY", how == "FORWARD_ONLY" && c.seen != "":
					want = []string{forged}
				case how == "SANITIZE", c.seen == "":
				case how == "APPEND_FORWARD":
					want = []string{forged, c.seen}
				default:
					want = []string{c.seen}
				}
				var got []string
				for _, x := range get(c.host, "/", c.shows).Report(t).Clients {
					got = append(got, x.URI)
				}
				if want = append(want, gateway.ID()); !slices.Equal(got, want) {
					t.Errorf("%s: the server is told of %q, want %q", at, got, want)
				}
				by := c.seen == "spiffe://"+peer
				for path, allowed := range map[string]bool{"/by-client": by, "/not-by-client": !by, "/not-by-gateway": false} {
					status := http.StatusForbidden
					if allowed {
						status = http.StatusOK
					}
					if r := get(c.host, path, c.shows); r.Err != nil || r.Status != status {
						t.Errorf("%s: %s: %v, want %d", at, path, r, status)
					}
				}
			}
			for host, shows := range map[string]*tls.Certificate{"optional.example": stranger, "mutual.example": nil, "mesh.example": client} {
				if r := get(host, "/", shows); r.Err == nil {
					t.Errorf("%s: who may not is let in at %s: %v", topology, host, r)
				}
			}
		}
	}
}
