package field

import (
	"fmt"
	"testing"

	"github.com/weirmesh/weir/config/document"
)

var objects = map[string]string{
	"VirtualService": `kind: VirtualService
spec:
  http:
  - match: [{uri: {prefix: /x}}]
    route: [{destination: {host: b}}]
  - route: # line 6
    - destination: {host: c}
    timeout: 1s # line 8
  - route: # line 9
    - destination: {host: c}
    - destination: {host: d}
`,
	"Relay": `kind: VirtualService
spec:
  http:
  - route: [{destination: {host: a}}]
  tls:
  - match: [{port: 443, sniHosts: [a]}]
    route: [{destination: {host: b}}] # line 7
  tcp:
  - match: [{port: 1}]
    route: [{destination: {host: c}}] # line 10
  - route: # line 11
    - {destination: {host: c}, weight: 1}
    - {destination: {host: d}, weight: 1} # line 13
`,
	"DestinationRule": `kind: DestinationRule
spec:
  host: a
  trafficPolicy:
    tls: {mode: DISABLE} # line 5
    portLevelSettings:
    - port: {number: 80}
      tls: {mode: SIMPLE} # line 8
    retryBudget: {minRetryConcurrency: 3} # line 9
  subsets:
  - name: v1
    trafficPolicy:
      outlierDetection: {consecutive5xxErrors: 3} # line 13
`,
	"Sidecar": `kind: Sidecar
spec:
  inboundConnectionPool: {http: {http2MaxRequests: 4}}
  ingress:
  - port: {number: 81}
    connectionPool:
      tcp: {maxConnections: 2} # line 7
`,
	"PeerAuthentication": `kind: PeerAuthentication
spec:
  mtls:
    mode: STRICT # line 4
  portLevelMtls:
    8080: {mode: STRICT} # line 6
`,
	"Gateway": `kind: Gateway
spec:
  servers: # line 3
  - port: {number: 80}
  - port: {number: 443}
    tls: {mode: MUTUAL} # line 6
  - port: {number: 444} # line 7
    tls: {mode: SIMPLE} # line 8
`,
	"Service": `kind: Service
spec:
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: web, port: 81, targetPort: named, appProtocol: http2} # line 5
`,
	"ServiceEntry": `kind: ServiceEntry
spec:
  ports:
  - {number: 443, name: x, protocol: HTTP}
`,
	"AuthorizationPolicy": `kind: AuthorizationPolicy
spec:
  rules: # line 3
  - to: [{operation: {paths: [/a]}}]
  - to: [{operation: {paths: [/b]}}] # line 5
`,
}

// The field is that of the rule, subset or port that decided; one that the object does not have is not found.
func TestFind(t *testing.T) {
	for _, c := range []struct {
		kind, path string
		f          For
		want       string
	}{
		{"VirtualService", "http[].timeout", For{Line: 6}, "http[1].timeout:8"},
		{"VirtualService", "http[].timeout", For{Line: 4}, ":0"},
		{"VirtualService", "http[].timeout", For{}, "http[1].timeout:8"},         // whose text has no lines: one rule has it
		{"VirtualService", "http[].timeout", For{Line: 99}, "http[1].timeout:8"}, // it was moved
		{"VirtualService", "http[].fault.abort", For{}, ":0"},
		{"VirtualService", "http[].route[].destination", For{Line: 6}, "http[1].route[0].destination:7"},
		{"VirtualService", "http[].route[].destination", For{Line: 9}, "http[2].route:9"}, // of several, any
		{"VirtualService", "http[].route[].destination", For{Line: 9, Host: "d.default.svc.cluster.local"}, "http[2].route[1].destination:11"},
		{"VirtualService", "http[].route[].destination", For{Line: 9, Host: "d.default.svc.cluster.local", Subset: "v1"}, "http[2].route:9"},
		{"VirtualService", "http[].route[].destination", For{Line: 9, Host: "dd.default.svc.cluster.local"}, "http[2].route:9"},
		{"VirtualService", "http[].route[].destination", For{}, "http[].route[].destination:0"},
		{"Relay", "tcp[].route[].destination", For{Line: 6}, "tls[0].route[0].destination:7"},
		{"Relay", "tcp[].route[].destination", For{Line: 9}, "tcp[0].route[0].destination:10"},
		{"Relay", "tcp[].route[].destination", For{Line: 11, Host: "d.default.svc.cluster.local"}, "tcp[1].route[1].destination:13"},
		{"Relay", "tcp[].route[].destination", For{Line: 4}, ":0"}, // of tls or of tcp nobody says
		{"VirtualService", "tcp[].route[].destination", For{Line: 4}, ":0"},
		// Whose text has no lines, as on Kubernetes: the only rule that leads there.
		{"VirtualService", "http[].route[].destination", For{Host: "b.default.svc.cluster.local"}, "http[0].route[0].destination:5"},
		{"VirtualService", "http[].route[].destination", For{Host: "d.default.svc.cluster.local"}, "http[2].route[1].destination:11"},
		{"VirtualService", "http[].route[].destination", For{Host: "c.default.svc.cluster.local"}, "http[].route[].destination:0"}, // two do
		{"VirtualService", "http[].route[].destination", For{Host: "e.default.svc.cluster.local"}, ":0"},
		{"ServiceEntry", "endpoints", For{}, ":0"},
		{"VirtualService", "http", For{}, "http:3"},
		{"Gateway", "servers", For{}, "servers:3"},
		{"Gateway", "servers[].tls", For{Line: 7}, "servers[2].tls:8"},
		{"Gateway", "servers[].tls", For{Line: 99}, "servers[].tls:0"}, // it was moved
		{"Service", "ports", For{Port: 80}, "ports[0].name:4"},
		{"Service", "ports", For{Port: 8080}, "ports[0].name:4"}, // as the workload knows it
		{"Service", "ports", For{Port: 81}, "ports[1].appProtocol:5"},
		{"Service", "ports", For{Port: 82}, ":0"},
		{"ServiceEntry", "ports", For{}, "ports[0].protocol:4"},
		{"DestinationRule", "trafficPolicy", For{}, "trafficPolicy:4"},
		{"DestinationRule", "trafficPolicy.tls", Cluster("outbound|80|v1|a"), "trafficPolicy.portLevelSettings[0].tls:8"},
		{"DestinationRule", "trafficPolicy.tls", Cluster("outbound|81||a"), "trafficPolicy.tls:5"},
		{"DestinationRule", "trafficPolicy.outlierDetection", Cluster("outbound|81|v1|a"), "subsets[0].trafficPolicy.outlierDetection:13"},
		{"DestinationRule", "trafficPolicy.outlierDetection", Cluster("outbound|81||a"), ":0"},
		{"DestinationRule", "trafficPolicy.connectionPool.tcp.connectTimeout", Cluster("outbound|81|v1|a"), ":0"},
		{"DestinationRule", "trafficPolicy.retryBudget.percent", Cluster("outbound|80||a"), "trafficPolicy.retryBudget:9"},
		{"DestinationRule", "subsets", Cluster("outbound|81|v1|a"), "subsets[0]:11"},
		{"DestinationRule", "subsets", Cluster("outbound|81|v9|a"), "subsets:10"},
		{"Sidecar", "trafficPolicy.connectionPool.http.http2MaxRequests", Cluster("inbound|80||"), "inboundConnectionPool.http.http2MaxRequests:3"},
		{"Sidecar", "trafficPolicy.connectionPool.http.http2MaxRequests", Cluster("inbound|81||"), ":0"},
		{"Sidecar", "trafficPolicy.connectionPool.tcp.maxConnections", Cluster("inbound|81||"), "ingress[0].connectionPool.tcp.maxConnections:7"},
		{"PeerAuthentication", "mtls", For{Port: 80}, "mtls.mode:4"},
		{"PeerAuthentication", "mtls", For{Port: 8080}, "portLevelMtls.8080.mode:6"},
		{"AuthorizationPolicy", "rules[1]", For{}, "rules[1]:5"},
		{"AuthorizationPolicy", "rules[2]", For{}, ":0"},
		{"AuthorizationPolicy", "rules", For{}, "rules:3"},
	} {
		root, err := document.Parse(document.Part{Text: objects[c.kind], Line: 1})
		if err != nil {
			t.Fatal(err)
		}
		path, line := Find(root, c.path, c.f)
		if got := fmt.Sprintf("%s:%d", path, line); got != c.want {
			t.Errorf("%s of %s for %+v: %s, want %s", c.path, c.kind, c.f, got, c.want)
		}
	}
}
