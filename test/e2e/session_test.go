package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/weirmesh/weir/test/mesh"
)

// Clients of a Service with one of Istio's labels for persistent sessions stay with the endpoint that answered them first: by a header, or
// by a cookie, called by its name, by a VirtualService, and by a gateway. Without the label nobody does.
func TestPersistentSessions(t *testing.T) {
	t.Parallel()
	m, client, _ := echoMesh(t, nil, echoPod("echo-0", "v1"), echoPod("echo-1", "v2"))
	gateway := m.Workload(mesh.Gateway())
	outside := gateway.Outside()
	m.Config("edge.yaml", documents(mesh.IngressGateway, `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [echo.example]}]}
`, virtualService("outside", `
  hosts: [echo.example]
  gateways: [edge]
  http: [{route: [{destination: {host: echo, port: {number: 8080}}}]}]
`)))
	calls := map[string]func(headers ...string) *mesh.Response{
		"by its name": func(headers ...string) *mesh.Response { return client.Get("http://echo:8080/", headers...) },
		"through the gateway": func(headers ...string) *mesh.Response {
			return mesh.Do(outside, http.MethodGet, "http://gateway:8080/", nil, append(headers, "host: echo.example")...)
		},
	}
	// kept is what an answer tells its client to bring along, "" for nothing.
	kept := func(r *mesh.Response) string {
		if v := r.Header.Get("x-at"); v != "" {
			return "x-at: " + v
		}
		cookie, _, _ := strings.Cut(r.Header.Get("set-cookie"), ";")
		if cookie == "" {
			return ""
		}
		return "cookie: " + cookie
	}
	stays := func(t *testing.T, begins string) {
		for how, call := range calls {
			m.Eventually(how+" both answer, and say who they are", func() error {
				seen := map[string]bool{}
				for range 20 {
					r := call()
					if r.Err != nil || r.Status != 200 || !strings.HasPrefix(kept(r), begins) || (begins == "") != (kept(r) == "") {
						return fmt.Errorf("%v, to be kept: %q", r, kept(r))
					}
					seen[r.Report(t).Version] = true
				}
				if len(seen) != 2 {
					return fmt.Errorf("only %v", seen)
				}
				return nil
			})
			if begins == "" {
				continue
			}
			first := call()
			for range 20 {
				if r := call(kept(first)); r.Report(t).Version != first.Report(t).Version || kept(r) != "" {
					t.Fatalf("%s: %v answers, told %q, which is %s", how, r, kept(first), first.Report(t).Version)
				}
			}
		}
	}
	labelled := func(label string) string {
		return strings.Replace(echoService, "metadata: {name: echo}", "metadata: {name: echo, labels: {"+label+"}}", 1)
	}
	m.Run("without a label nobody stays", func(t *testing.T) { stays(t, "") })
	m.Config("echo.yaml", labelled("istio.io/persistent-session-header: X-At"))
	m.Run("by a header", func(t *testing.T) { stays(t, "x-at: ") })
	m.Config("echo.yaml", labelled(`istio.io/persistent-session: "where"`))
	m.Run("by a cookie", func(t *testing.T) { stays(t, "cookie: where=") })
	m.Config("routes.yaml", virtualService("echo", `
  hosts: [echo]
  http: [{match: [{uri: {prefix: /}}], timeout: 20s, route: [{destination: {host: echo, port: {number: 8080}}}]}]
`))
	m.Run("by a cookie, of a VirtualService", func(t *testing.T) { stays(t, "cookie: where=") })
	m.Config("echo.yaml", echoService)
	m.Run("the label is gone", func(t *testing.T) { stays(t, "") })
}
