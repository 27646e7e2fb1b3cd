package cli

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A mesh that runs and the files that it runs answer alike.
func TestCanIsAlike(t *testing.T) {
	const objects = `apiVersion: v1
kind: Service
metadata: {name: api}
spec: {clusterIP: 10.96.0.1, selector: {app: api}, ports: [{name: http, port: 8080, targetPort: 80}, {name: tcp-db, port: 5432}, {name: tcp-old, port: 5433}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "extensionProviders: [{name: guard, envoyExtAuthzGrpc: {service: guard.default.svc.cluster.local, port: 9191}}, {name: old, envoyExtAuthzHttp: {service: guard.default.svc.cluster.local, port: 80}}]"}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask}
spec: {selector: {matchLabels: {app: api}}, action: CUSTOM, provider: {name: guard}, rules: [{to: [{operation: {ports: ["5432"]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask-by-http}
spec: {selector: {matchLabels: {app: api}}, action: CUSTOM, provider: {name: old}, rules: [{to: [{operation: {ports: ["5433"]}}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: api-0, labels: {app: api}, annotations: {sidecar.istio.io/status: "{}"}}
spec: {containers: [{name: a, image: a}]}
status: {podIP: 10.1.0.1, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, labels: {app: web}, annotations: {sidecar.istio.io/status: "{}"}}
spec: {serviceAccountName: web, containers: [{name: a, image: a}]}
status: {podIP: 10.1.0.2, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: api}
spec:
  selector: {matchLabels: {app: api}}
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/web]}}], to: [{operation: {ports: ["80"], methods: [GET]}}, {operation: {ports: ["5432", "5433"]}}]}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: users}
spec: {selector: {matchLabels: {app: api}}, jwtRules: [{issuer: me, jwks: '{"keys":[]}'}]}
`
	path := filepath.Join(t.TempDir(), "all.yaml")
	write(t, path, objects)
	state, c := controlPlane(t, path)
	analyzedStatus(t, c)
	for _, x := range []struct{ call, want string }{
		{"web-0 GET http://api:8080/", "api-0 port 80, mutual TLS: allowed: an ALLOW policy matches"},
		{"web-0 POST http://api:8080/", "denied: no rule of the ALLOW policies default/api matches"},
		{"web-0 tcp://api:5432", "api-0 port 5432, mutual TLS: unknown: the provider at guard.default.svc.cluster.local:9191 is asked"},
		{"web-0 tcp://api:5432", "AuthorizationPolicy default/ask rules[0]"},
		{"outside tcp://api:5432", "(PeerAuthentication default/default)"},
		{"web-0 tcp://api:5433", "denied: a CUSTOM policy matches, and there is nobody to ask"},
		{"cluster.local/ns/other/sa/web GET http://api:8080/", "did you mean api.default?"},
		{"web-0 GET http://apo:8080/", "did you mean api?"},
		{"web-0 GET http://api:8080/ --token x", "error: default/api-0 port 80, where a RequestAuthentication asks for tokens: the token cannot be read: "},
		{"outside GET http://api.default:8080/", "(PeerAuthentication default/default)"},
	} {
		args := append([]string{"can"}, strings.Fields(x.call)...)
		got := weir(t, state, args...)
		if !strings.Contains(got, x.want) {
			t.Errorf("%s: %s", x.call, got)
		}
		if diff := cmp.Diff(got, weir(t, t.TempDir(), append(args, "-f", path)...)); diff != "" {
			t.Errorf("%s (-mesh +files):\n%s", x.call, diff)
		}
	}
}
