package state

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/resource"
)

// both has something of everything the first data plane does.
const both = `
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}, {name: tcp-db, port: 3306}, {name: any, port: 7000}, {name: https, port: 8443}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: reviews}, ports: [{name: tcp, port: 5000}]}
---
apiVersion: v1
kind: Pod
metadata: {name: reviews-v1-0, labels: {app: reviews, version: v1}, annotations: {sidecar.istio.io/status: "{}"}}
spec: {serviceAccountName: reviews, containers: [{name: c, image: x, ports: [{containerPort: 9080}]}]}
status: {podIP: 10.244.0.3, podIPs: [{ip: 10.244.0.3}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: plain-0, labels: {app: reviews, version: v2}}
spec: {containers: [{name: c, image: x}]}
status: {podIP: 10.244.0.4, podIPs: [{ip: 10.244.0.4}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  trafficPolicy: {loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {maxConnections: 10, tcpKeepalive: {time: 60s}}, http: {maxRequestsPerConnection: 100}}}
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}, trafficPolicy: {tls: {mode: DISABLE}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match: [{uri: {regex: "/a.*"}, headers: {end-user: {exact: jason}}, queryParams: {q: {exact: "1"}}, method: {exact: GET}}]
    fault: {delay: {percentage: {value: 10}, fixedDelay: 7s}, abort: {percentage: {value: 1.5}, httpStatus: 500}}
    route: [{destination: {host: reviews, subset: v1, port: {number: 9080}}}]
  - match: [{uri: {prefix: /old}}]
    redirect: {uri: /new, authority: other, redirectCode: 302}
  - match: [{uri: {exact: /gone}}]
    directResponse: {status: 410, body: {string: gone}}
  - match: [{withoutHeaders: {x-skip: {}}}]
    rewrite: {uri: /x, authority: reviews.internal}
    timeout: 3s
    retries: {attempts: 3, perTryTimeout: 1s, retryOn: "5xx,connect-failure,503"}
    headers: {request: {set: {x-a: "%DOWNSTREAM_REMOTE_ADDRESS%"}, add: {x-b: b}, remove: [x-c]}, response: {set: {x-d: d}}}
    route:
    - {destination: {host: reviews, subset: v1, port: {number: 9080}}, weight: 50, headers: {response: {add: {x-version: v1}}}}
    - {destination: {host: reviews, subset: v2, port: {number: 9080}}, weight: 50}
  - rewrite: {uriRegexRewrite: {match: "^/v([0-9]+)/(.*)$", rewrite: "/\\2/v\\1"}}
    route: [{destination: {host: reviews, port: {number: 9080}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db}
spec:
  hosts: [reviews]
  tcp: [{match: [{port: 3306}], route: [{destination: {host: reviews, port: {number: 3306}, subset: v1}, weight: 80}, {destination: {host: reviews, port: {number: 3306}, subset: v2}, weight: 20}]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: external}
spec: {hosts: [api.example.com], ports: [{number: 443, name: tls, protocol: TLS}, {number: 80, name: http, protocol: HTTP}], resolution: DNS}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: static}
spec: {hosts: [static.example.com], addresses: [192.0.2.0/24], ports: [{number: 9000, name: tcp, protocol: TCP}], resolution: STATIC, endpoints: [{address: 192.0.2.1}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 8080, name: http, protocol: HTTP}, hosts: ["*"]}
  - {port: {number: 31400, name: tcp, protocol: TCP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec: {hosts: ["*"], gateways: [gw], http: [{match: [{headers: {"@request.auth.claims.groups": {exact: a}}, uri: {prefix: /}}], route: [{destination: {host: reviews, port: {number: 9080}}}]}, {match: [{uri: {prefix: /}}], route: [{destination: {host: reviews, port: {number: 9080}}}]}], tcp: [{match: [{port: 31400}], route: [{destination: {host: reviews, port: {number: 3306}}}]}]}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: istio-system}
spec: {jwtRules: [{issuer: "https://a.example", outputPayloadToHeader: x-payload, fromHeaders: [{name: x-token, prefix: "JWT "}]}, {issuer: "https://b.example", jwksUri: "https://b.example/keys", audiences: [b]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: tokens}
spec: {rules: [{from: [{source: {requestPrincipals: ["https://a.example/*"]}}], when: [{key: "request.auth.claims[groups][x]", values: [y]}]}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: reviews}
spec: {selector: {matchLabels: {app: reviews}}, mtls: {mode: STRICT}, portLevelMtls: {3306: {mode: PERMISSIVE}, 7000: {mode: DISABLE}}}
`

// nodes are the kinds of proxies there are.
func nodes(t *testing.T) map[string]*translate.Node {
	t.Helper()
	out := map[string]*translate.Node{}
	for name, n := range map[string]struct {
		id   string
		meta map[string]any
	}{
		"sidecar":     {"sidecar~10.244.0.3~reviews-v1-0.default~default.svc.cluster.local", map[string]any{"INTERCEPTION_MODE": "REDIRECT", "DNS_CAPTURE": "true", "LABELS": map[string]any{"app": "reviews", "version": "v1"}}},
		"env capture": {"sidecar~127.3.0.1~reviews-v1-0.default~default.svc.cluster.local", map[string]any{"INTERCEPTION_MODE": "NONE", "LABELS": map[string]any{"app": "reviews", "version": "v1"}, "WEIR": map[string]any{"VIRTUAL_NET": "127.3", "INBOUND": []any{map[string]any{"bind": "127.3.0.1:9080", "port": 9080.0, "app": "127.0.0.1:41234"}}}}},
		"gateway":     {"router~10.244.0.2~istio-ingressgateway-0.istio-system~istio-system.svc.cluster.local", map[string]any{"LABELS": map[string]any{"istio": "ingressgateway"}}},
	} {
		m, err := structpb.NewStruct(n.meta)
		if err != nil {
			t.Fatal(err)
		}
		node, err := translate.ParseNode(&corev3.Node{Id: n.id, Metadata: m}, translate.Peer{})
		if err != nil {
			t.Fatal(err)
		}
		out[name] = node
	}
	return out
}

// Whatever our control plane makes of valid configuration, our proxy takes: nothing is
// refused, nothing that is asked for is missing, listeners do not clash.
func TestAcceptsWhatTranslateSends(t *testing.T) {
	texts := map[string]string{"own": both}
	fixtures := filepath.Join("..", "..", "..", "shared", "fixtures", "istio-samples")
	if bookinfo, err := os.ReadFile(filepath.Join(fixtures, "bookinfo", "platform", "kube", "bookinfo.yaml")); err != nil {
		t.Logf("without Istio's samples: %v", err)
	} else {
		rules, err := filepath.Glob(filepath.Join(fixtures, "bookinfo", "networking", "*.yaml"))
		if err != nil || len(rules) == 0 {
			t.Fatalf("no rules: %v", err)
		}
		for _, f := range rules {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			texts[filepath.Base(f)] = string(bookinfo) + "\n---\n" + string(b)
		}
	}
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			st, err := store.New(store.Options{Settings: mesh.Settings{TrustDomain: "cluster.local", DomainSuffix: "cluster.local", RootNamespace: "istio-system", AccessLog: true}, Publish: func(*store.Update) {}})
			if err != nil {
				t.Fatal(err)
			}
			unit := file.Parse(name, []byte(text), "default")
			update := st.Step(unit)
			if n := config.Errors(update.Findings); n > 0 && name == "own" {
				t.Fatalf("the test's own configuration has errors: %v", update.Findings)
			}
			cache := translate.New()
			for kind, node := range nodes(t) {
				takes(t, kind, cache.View(update.Snapshot, node))
			}
		})
	}
}

func takes(t *testing.T, kind string, view *resource.View) {
	t.Helper()
	b := newBuilder()
	for _, typeURL := range []string{resource.ClusterType, resource.EndpointType, resource.ListenerType, resource.RouteType, resource.NameTableType} {
		u := Update{TypeURL: typeURL}
		for r := range view.Set(typeURL).Values() {
			u.Set = append(u.Set, Resource{Name: r.Name(), Version: r.Version(), Body: r.Any()})
		}
		if len(u.Set) == 0 {
			continue
		}
		if _, _, err := b.Apply(u); err != nil {
			t.Errorf("%s refuses %s: %s", kind, resource.Short(typeURL), strings.ReplaceAll(err.Error(), "; ", "\n  "))
		}
	}
	if m := b.Missing(); len(m) > 0 {
		t.Errorf("%s misses %v", kind, m)
	}
	for u := range b.State().Unheeded() {
		t.Errorf("%s: %s.%s has no effect", kind, u.Path, u.Setting)
	}
	var configs []*listener.Config
	for l := range b.State().Listeners() {
		configs = append(configs, l.Config)
	}
	if _, err := listener.NewTable(configs); err != nil {
		t.Errorf("%s: %v", kind, err)
	}
	if len(configs) == 0 && kind != "gateway" { // a gateway listens only where a Gateway object says so
		t.Errorf("%s has no listeners", kind)
	}
}
