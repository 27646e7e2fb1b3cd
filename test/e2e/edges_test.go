package e2e_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/weirmesh/weir/test/mesh"
)

// What proxies of the mesh say to each other does not leave it: not to servers outside, by name or unknown, and not to clients
// of a gateway.
func TestInternalHeadersStayInside(t *testing.T) {
	t.Parallel()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name := range r.Header {
			w.Header().Add("x-seen", name)
		}
		w.Header().Set("x-envoy-peer-metadata", "liar")
		w.Header().Set("x-weir-undelivered", "1")
	}))
	defer backend.Close()
	_, port, _ := net.SplitHostPort(backend.Listener.Addr().String())
	m, client, _ := echoMesh(t, nil, echoPod("echo-0", "v1"))
	m.Config("outside.yaml", documents(
		serviceEntry("static", "{hosts: [static.example], ports: [{number: 8080, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 127.0.0.1, ports: {http: "+port+"}}]}"),
		mesh.IngressGateway, `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [echo.example]}]}
`, virtualService("echo", "{hosts: [echo.example], gateways: [edge], http: [{timeout: 20s, route: [{destination: {host: echo, port: {number: 8080}}}]}]}"),
		virtualService("static", "{hosts: [static.example], http: [{timeout: 20s, retries: {attempts: 2}, route: [{destination: {host: static.example, port: {number: 8080}}}]}]}")))
	internal := func(name string) bool {
		name = strings.ToLower(name)
		return strings.HasPrefix(name, "x-envoy-peer") || strings.HasPrefix(name, "x-weir-") || name == "x-forwarded-client-cert" || name == "x-envoy-decorator-operation" || name == "x-envoy-internal"
	}
	r := client.Get("http://static.example:8080/", "x-forwarded-client-cert: By=x", "x-envoy-peer-metadata: mine", "x-envoy-peer-metadata-id: mine", "x-envoy-decorator-operation: x")
	if r.Status != http.StatusOK {
		t.Fatal(r)
	}
	for _, name := range r.Header.Values("x-seen") {
		if internal(name) {
			t.Errorf("a server outside is sent %s", name)
		}
	}
	for name := range r.Header {
		if internal(name) {
			t.Errorf("a server outside answers the program with %s", name)
		}
	}
	gateway := m.Workload(mesh.Gateway())
	r = mesh.Do(gateway.Outside(), http.MethodGet, "http://gateway:8080/", nil, "host: echo.example")
	if r.Status != http.StatusOK {
		t.Fatal(r)
	}
	for name := range r.Header {
		if internal(name) {
			t.Errorf("a client outside is answered with %s", name)
		}
	}
}
