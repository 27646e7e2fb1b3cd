package objects

import (
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/xds/resource"
)

// objects are an installation in one namespace, NS.
const objects = `
apiVersion: v1
kind: Service
metadata: {name: cart}
spec:
  clusterIP: None
  ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.255.1.1], conditions: {ready: true}}
- {addresses: [10.255.1.2], conditions: {ready: false, serving: true, terminating: true}}
`

// What is edited in the API server is at a proxy: services, endpoints, routes, subsets,
// gateways, hosts outside, the mesh's settings; what is deleted is gone.
func TestEdits(t *testing.T) {
	c := connect(t)
	c.Apply(objects)
	p := start(c)
	host := "web." + c.Namespace + ".svc.cluster.local"
	cluster := "outbound|80||" + host
	x := p.proxy("sidecar", "client", nil)
	x.x.Subscribe(resource.EndpointType, cluster)
	x.x.Subscribe(resource.RouteType, "80")
	x.has("the service", resource.ClusterType, cluster, "", true)
	x.has("the endpoints", resource.EndpointType, cluster, "10.255.1.1:8080 HEALTHY, 10.255.1.2:8080 DRAINING", true)

	c.Apply(strings.ReplaceAll(objects, "10.255.1.2", "10.255.1.3"))
	x.has("an edit of the endpoints", resource.EndpointType, cluster, "10.255.1.1:8080 HEALTHY, 10.255.1.3:8080 DRAINING", true)

	virtual := `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec: {hosts: [web], http: [{timeout: 7s, route: [{destination: {host: web, subset: v1}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec: {host: web, subsets: [{name: v1, labels: {version: v1}}]}
`
	c.Apply(virtual)
	x.has("a subset", resource.ClusterType, "outbound|80|v1|"+host, "", true)
	x.has("a route", resource.RouteType, "80", "seconds: 7", true)
	c.Apply(strings.ReplaceAll(virtual, "7s", "9s"))
	x.has("an edit of the route", resource.RouteType, "80", "seconds: 9", true)
	c.Apply(strings.ReplaceAll(virtual, "timeout: 7s", "timeout: 8s, retries: {attempts: 1, retryOn: nonsense}"))
	c.Apply(strings.ReplaceAll(objects, "10.255.1.2", "10.255.1.4"))
	x.has("what comes after a mistake", resource.EndpointType, cluster, "10.255.1.4", true)
	x.has("the route as it was before the mistake", resource.RouteType, "80", "seconds: 9", true)

	entry := `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: out}
spec: {hosts: [out.example.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS, location: MESH_EXTERNAL}
`
	c.Apply(entry)
	x.has("a host outside", resource.ClusterType, "outbound|443||out.example.com", "", true)

	gateway := `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front}
spec: {selector: {istio: front}, servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ["*"]}]}
`
	c.Apply(gateway)
	g := p.proxy("router", "front", map[string]any{"istio": "front"})
	g.has("a gateway", resource.ListenerType, "0.0.0.0_8080", "", true)

	mesh := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio}\ndata: {mesh: \"{outboundTrafficPolicy: {mode: MODE}}\"}"
	blocked := "block_all"
	c.Apply(strings.ReplaceAll(mesh, "MODE", "REGISTRY_ONLY"))
	x.has("REGISTRY_ONLY", resource.RouteType, "80", blocked, true)
	c.Apply(strings.ReplaceAll(mesh, "MODE", "WHATEVER")) // the API server does not look into it
	c.Apply(strings.ReplaceAll(objects, "10.255.1.2", "10.255.1.5"))
	x.has("what comes after a mistake", resource.EndpointType, cluster, "10.255.1.5", true)
	x.has("REGISTRY_ONLY, as before the mistake", resource.RouteType, "80", blocked, true)
	c.Apply(strings.ReplaceAll(mesh, "MODE", "ALLOW_ANY"))
	x.has("ALLOW_ANY", resource.RouteType, "80", blocked, false)

	c.Delete(virtual + "---" + entry + "---" + gateway)
	x.has("no subset", resource.ClusterType, "outbound|80|v1|"+host, "", false)
	x.has("no route", resource.RouteType, "80", "seconds: 9", false)
	x.has("no host outside", resource.ClusterType, "outbound|443||out.example.com", "", false)
	g.has("no gateway", resource.ListenerType, "0.0.0.0_8080", "", false)
	c.Delete(objects)
	x.has("no service", resource.ClusterType, cluster, "", false)
}

// An API server that is away takes nothing away; what was edited meanwhile comes when it is
// back, and the log has one line for each.
func TestOutage(t *testing.T) {
	c := connect(t)
	c.Apply(objects)
	p := start(c)
	cluster := "outbound|80||web." + c.Namespace + ".svc.cluster.local"
	x := p.proxy("sidecar", "client", nil)
	x.x.Subscribe(resource.EndpointType, cluster)
	x.has("the endpoints", resource.EndpointType, cluster, "10.255.1.1:8080 HEALTHY", true)

	p.wire.set(true)
	c.Eventually("the outage is noticed", func() bool { return !p.api.Away().IsZero() })
	c.Apply(strings.ReplaceAll(objects, "10.255.1.1", "10.255.1.6"))
	late := p.proxy("sidecar", "late", nil)
	late.x.Subscribe(resource.EndpointType, cluster)
	late.has("the endpoints that are known", resource.EndpointType, cluster, "10.255.1.1:8080 HEALTHY", true)
	p.wire.set(false)
	back := time.Now()
	x.has("what was edited", resource.EndpointType, cluster, "10.255.1.6:8080 HEALTHY", true)
	t.Logf("edits of the outage were there %v after it", time.Since(back).Round(time.Millisecond))
	if n := p.log.count("does not answer"); n != 1 {
		t.Errorf("%d lines say that the API server is away", n)
	}
	c.Eventually("the end is noticed", func() bool { return p.log.count("answers again") == 1 })
}

// An API server that says everything five seconds late is not one that is away: nothing that is known is given up, newcomers are served at
// once, and edits come late.
func TestSlowServer(t *testing.T) {
	c := connect(t)
	c.Apply(objects)
	p := start(c)
	cluster := "outbound|80||web." + c.Namespace + ".svc.cluster.local"
	x := p.proxy("sidecar", "client", nil)
	x.x.Subscribe(resource.EndpointType, cluster)
	x.has("the endpoints", resource.EndpointType, cluster, "10.255.1.1:8080 HEALTHY", true)

	p.wire.late.Store(int64(5 * time.Second))
	late := p.proxy("sidecar", "late", nil)
	late.x.Subscribe(resource.EndpointType, cluster)
	late.has("the endpoints that are known", resource.EndpointType, cluster, "10.255.1.1:8080 HEALTHY", true)
	began := time.Now()
	c.Apply(strings.ReplaceAll(objects, "10.255.1.1", "10.255.1.6"))
	x.has("what was edited", resource.EndpointType, cluster, "10.255.1.6:8080 HEALTHY", true)
	t.Logf("an edit was there after %v", time.Since(began).Round(time.Millisecond))
	if n := p.log.count("does not answer"); n != 0 || !p.api.Away().IsZero() {
		t.Errorf("%d lines say that the API server is away, which is slow", n)
	}
}
