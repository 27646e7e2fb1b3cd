package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/weirmesh/weir/test/mesh"
)

// Programs of the mesh learn why a proxy answered them, and of policies only that they deny; who is outside learns nothing, and no
// application can say it.
func TestCallersAreTold(t *testing.T) {
	t.Parallel()
	m, client, pods := echoMesh(t, nil, echoPod("echo-0", "v1"))
	m.Config("told.yaml", documents(mesh.IngressGateway, `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [echo.example]}]}
`, virtualService("echo", `
  hosts: [echo, echo.example]
  gateways: [mesh, edge]
  http:
  - {match: [{uri: {prefix: /nowhere}}], route: [{destination: {host: echo, subset: none, port: {number: 8080}}}]}
  - {route: [{destination: {host: echo, port: {number: 8080}}}]}
`), authorizationPolicy("no", "{"+echoOnly+", action: DENY, rules: [{to: [{operation: {paths: [/secret]}}]}]}")))
	m.Write("mesh.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    accessLogFile: /dev/stdout\n    accessLogEncoding: JSON\n")
	m.Settle()
	gateway := m.Workload(mesh.Gateway())
	outside := gateway.Outside()
	const id = "0c7cd0b4-3f21-4d2b-9a55-5f0b7cfe5e21"
	inside := func(path string) *mesh.Response { return client.Get("http://echo:8080"+path, "x-request-id: "+id) }
	through := func(path string) *mesh.Response {
		return mesh.Do(outside, http.MethodGet, "http://gateway:8080"+path, nil, "host: echo.example")
	}
	plaintext := func(path string) *mesh.Response {
		return mesh.Do(client.Outside(), http.MethodGet, pods[0].At(8080)+path, nil)
	}
	const forged = "/?status=503&header=x-weir-why:%20access_denied"
	check := func(calls map[string]string, get func(string) *mesh.Response) func(*testing.T) {
		return func(t *testing.T) {
			for path, want := range calls {
				if r := get(path); r.Header.Get("x-weir-why") != want {
					t.Errorf("%s: %v is told %q, want %q", path, r, r.Header.Get("x-weir-why"), want)
				}
			}
		}
	}
	m.Run("a program of the mesh", check(map[string]string{"/": "", "/nowhere": "cluster_not_found; id=" + id, "/secret": "denied; id=" + id, forged: ""}, inside))
	m.Run("a client of the gateway", check(map[string]string{"/nowhere": "", "/secret": "", forged: ""}, through))
	m.Run("a stranger in the network", check(map[string]string{"/secret": "", forged: ""}, plaintext))
	pods[0].StopApp()
	m.Run("what the server's proxy met", func(t *testing.T) {
		if why := inside("/").Header.Get("x-weir-why"); !strings.HasPrefix(why, "upstream_connect_") || !strings.HasSuffix(why, "; id="+id) {
			t.Errorf("told %q", why)
		}
	})
	m.Run("logs and metrics say it, too", func(t *testing.T) {
		m.Eventually("the log names the cause and the object", func() error {
			for _, line := range client.LoggedWith(`"weir_cause":"cluster_not_found"`) {
				var got map[string]any
				if err := json.Unmarshal([]byte(line), &got); err != nil {
					return err
				}
				route := fmt.Sprint(got["weir_route"])
				if got["path"] == "/nowhere" && got["response_code_details"] == "cluster_not_found" && strings.HasPrefix(route, "/apis/networking.istio.io/v1/namespaces/default/virtual-service/echo@") && strings.Contains(route, "told.yaml:") {
					return nil
				}
			}
			return errors.New(strings.Join(client.LoggedWith("/nowhere"), "\n"))
		})
		m.Eventually("the server's log names the policy and its rule", func() error {
			for _, line := range pods[0].LoggedWith(`"weir_cause":"access_denied"`) {
				var got map[string]any
				if err := json.Unmarshal([]byte(line), &got); err != nil {
					return err
				}
				if d := fmt.Sprint(got["weir_decided"]); strings.HasPrefix(d, "/apis/security.istio.io/v1/namespaces/default/authorization-policy/") && strings.Contains(d, "told.yaml:") && strings.HasSuffix(d, "#rules[0]") {
					return nil
				}
			}
			return errors.New(strings.Join(pods[0].LoggedWith("/secret"), "\n"))
		})
		for _, c := range []struct {
			w      *mesh.Workload
			labels []string
		}{{client, []string{"cause=cluster_not_found", "reporter=source"}}, {pods[0], []string{"cause=access_denied", "reporter=destination"}}} {
			if n := mesh.Count(c.w.Metrics()["weir_proxy_failures_total"], c.labels...); n == 0 {
				t.Errorf("%s counts no %v", c.w.Name, c.labels)
			}
		}
	})
}
