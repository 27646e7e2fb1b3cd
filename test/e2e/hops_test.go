package e2e_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/weirmesh/weir/test/mesh"
)

// gatewayTopology of MeshConfig at a gateway. Policies about addresses are about the client that the trusted proxies in front name, counted from
// the right; what stands before that the client may have made up, and without trusted proxies all of the header. Certificates that the header
// names are passed on if it says so.
func TestProxiesInFrontOfTheGateway(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	m.Write("echo.yaml", echoService)
	policy := func(name, rule string) string {
		return fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: %s, namespace: istio-system}\nspec: {selector: {matchLabels: {istio: ingressgateway}}, action: DENY, rules: [%s]}\n", name, rule)
	}
	m.Config("gateway.yaml", documents(mesh.IngressGateway, `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [echo.example]}]}
`, virtualService("edge", "{hosts: [echo.example], gateways: [edge], http: [{route: [{destination: {host: echo, port: {number: 8080}}}]}]}"),
		policy("unwanted", "{from: [{source: {remoteIpBlocks: [192.0.2.66/32]}}], to: [{operation: {paths: [/open]}}]}"),
		policy("office", "{from: [{source: {notRemoteIpBlocks: [192.0.2.7/32]}}], to: [{operation: {paths: [/office]}}]}")))
	gateway := m.Workloads(mesh.Gateway(), echoPod("echo-0", "v1"))[0]
	get := func(path string, headers ...string) *mesh.Response {
		return mesh.Do(gateway.Outside(), http.MethodGet, "http://gateway:8080"+path, nil, append(headers, "host: echo.example")...)
	}
	const unwanted, office = "192.0.2.66", "192.0.2.7"
	const cert = "x-forwarded-client-cert: By=balancer;URI=spiffe://partner.example/ns/x/sa/y"
	for _, c := range []struct {
		topology      string
		forwarded     string
		open, inside  int // statuses of /open and /office
		clients       int // how many certificates the server is told of: the gateway's is one
		whatItIsAbout string
	}{
		{"", unwanted, 200, 403, 1, "nobody in front is trusted"},
		{"", office, 200, 403, 1, "nobody in front is trusted, and a forged header does not let in"},
		{"numTrustedProxies: 1", office + ", " + unwanted, 403, 403, 1, "the balancer names the client that is not wanted, which has made up another"},
		{"numTrustedProxies: 1", unwanted + ", " + office, 200, 200, 1, "the balancer names the client of the office"},
		{"numTrustedProxies: 2", unwanted + ", " + office, 403, 403, 1, "two balancers"},
		{"numTrustedProxies: 2", office, 200, 403, 1, "fewer names than balancers: the connection's own address counts"},
		{"forwardClientCertDetails: ALWAYS_FORWARD_ONLY", office, 200, 403, 2, "certificates are passed on, addresses are not believed"},
		{"forwardClientCertDetails: SANITIZE", office, 200, 403, 1, "no certificates are passed on"},
	} {
		if c.topology != "" {
			m.Config("mesh.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    defaultConfig: {gatewayTopology: {"+c.topology+"}}\n")
		}
		open, inside := get("/open", "x-forwarded-for: "+c.forwarded, cert), get("/office", "x-forwarded-for: "+c.forwarded)
		if open.Status != c.open || inside.Status != c.inside {
			t.Errorf("%s: /open %d, want %d; /office %d, want %d", c.whatItIsAbout, open.Status, c.open, inside.Status, c.inside)
		}
		if open.Status == http.StatusOK {
			if got := open.Report(t).Clients; len(got) != c.clients {
				t.Errorf("%s: the server is told of %+v, want %d", c.whatItIsAbout, got, c.clients)
			}
		}
	}
}
