package control

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/mesh"
)

// The line is that of the field, in the object that is in force: of the rule, subset or port that decided.
func TestPlace(t *testing.T) {
	p := start(t, t.TempDir())
	if err := os.WriteFile(filepath.Join(p.state, "config", "all.yaml"), []byte(`apiVersion: v1
kind: Pod
metadata: {name: a-0, namespace: default, labels: {app: a}}
spec: {containers: [{name: a, ports: [{containerPort: 8080}]}]}
status: {podIP: 10.0.0.8}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a, namespace: default}
spec:
  hosts: [a]
  http:
  - match: [{uri: {prefix: /x}}]
    route: [{destination: {host: b}}]
  - route: # line 15
    - destination: {host: c}
    timeout: 1s # line 17
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a, namespace: default}
spec:
  host: a
  trafficPolicy:
    tls: {mode: DISABLE} # line 25
    portLevelSettings:
    - port: {number: 80}
      tls: {mode: SIMPLE} # line 28
  subsets:
  - name: v1
    trafficPolicy:
      outlierDetection: {consecutive5xxErrors: 3} # line 32
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: default}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: [/a]}}]
  - to: [{operation: {paths: [/b]}}] # line 41
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: default}
spec:
  rules: # line 47
  - to: [{operation: {paths: [/c]}}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: default}
spec:
  mtls:
    mode: STRICT # line 55
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: default}
spec:
  selector: {matchLabels: {app: a}}
  jwtRules: # line 62
  - {issuer: me, jwksUri: "http://127.0.0.1:1/keys"}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	p.until(t, "all is known", func() bool {
		u := p.latest.Load()
		return u != nil && u.Object(mesh.Ref{Kind: "RequestAuthentication", Namespace: "default", Name: "tokens"}) != nil
	})
	for _, c := range []struct {
		cause, cluster string
		decided        apiv1.Decider
		want           string // KIND NAME FIELD LINE
	}{
		{"upstream_timeout", "", apiv1.Decider{Kind: "VirtualService", Name: "a", Field: "http[].timeout", Line: 15}, "VirtualService a http[].timeout 17"},
		{"cluster_not_found", "", apiv1.Decider{Kind: "VirtualService", Name: "a", Field: "http[].route[].destination", Line: 15}, "VirtualService a http[].route[].destination 16"},
		{"fault_abort", "", apiv1.Decider{Kind: "VirtualService", Name: "a", Field: "http[].fault.abort", Line: 15}, "VirtualService a http[].fault.abort 15"},
		{"cluster_not_found", "", apiv1.Decider{Kind: "VirtualService", Name: "a", Field: "http[].route[].destination", Line: 99}, "VirtualService a http[].route[].destination 99"},
		{"upstream_not_tls", "outbound|80|v1|a", apiv1.Decider{Kind: "DestinationRule", Name: "a", Field: "trafficPolicy.tls", Line: 17}, "DestinationRule a trafficPolicy.tls 28"},
		{"upstream_not_tls", "outbound|81||a", apiv1.Decider{Kind: "DestinationRule", Name: "a", Field: "trafficPolicy.tls", Line: 17}, "DestinationRule a trafficPolicy.tls 25"},
		{"endpoints_ejected", "outbound|81|v1|a", apiv1.Decider{Kind: "DestinationRule", Name: "a", Field: "trafficPolicy.outlierDetection", Line: 17}, "DestinationRule a trafficPolicy.outlierDetection 32"},
		{"no_endpoints", "outbound|81|v1|a", apiv1.Decider{Kind: "DestinationRule", Name: "a", Field: "subsets", Line: 17}, "DestinationRule a subsets 30"},
		{"no_endpoints", "outbound|81|v9|a", apiv1.Decider{Kind: "DestinationRule", Name: "a", Field: "subsets", Line: 17}, "DestinationRule a subsets 29"},
		{"access_denied", "", apiv1.Decider{Kind: "AuthorizationPolicy", Name: "deny", Field: "rules[1]", Line: 32}, "AuthorizationPolicy deny rules[1] 41"},
		{"access_denied", "", apiv1.Decider{Kind: "AuthorizationPolicy", Name: "deny", Field: "rules[1]", Line: 32, Changed: true}, "AuthorizationPolicy deny rules[1] 32"},
		{"not_allowed", "", apiv1.Decider{Kind: "AuthorizationPolicy", Name: "allow", Field: "rules"}, "AuthorizationPolicy allow rules 47"},
		{"filter_chain_not_found", "", apiv1.Decider{Kind: "PeerAuthentication", Name: "strict", Field: "mtls.mode"}, "PeerAuthentication strict mtls.mode 55"},
		{"token_expired", "", apiv1.Decider{Kind: "RequestAuthentication", Name: "tokens", Field: "jwtRules"}, "RequestAuthentication tokens jwtRules 62"},
		{"host_not_found", "", apiv1.Decider{}, ""},
	} {
		s := apiv1.Story{Cause: c.cause, Time: time.Now().Add(time.Hour), Hops: []apiv1.Hop{{Proxy: "sidecar~10.0.0.8~a-0.default~default.svc.cluster.local", Side: "destination", Asked: "10.0.0.8:8080",
			Decisions: []apiv1.Decision{{Stage: "cluster", Name: c.cluster}}}}}
		if c.decided.Kind != "" {
			c.decided.Namespace = "default"
			s.Decided = []apiv1.Decider{c.decided}
		}
		all := []apiv1.Story{s}
		p.place(all)
		var got []string
		for _, d := range all[0].Decided {
			got = append(got, fmt.Sprintf("%s %s %s %d", d.Kind, d.Name, d.Field, d.Line))
		}
		if strings.Join(got, "; ") != c.want {
			t.Errorf("%s of %+v: %s, want %s", c.cause, c.decided, got, c.want)
		}
	}
}
