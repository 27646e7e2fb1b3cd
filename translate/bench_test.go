package translate_test

import (
	"fmt"
	"testing"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
)

// large is the mesh of the benchmarks in performance figures: n services in namespaces
// of 20, each with a VirtualService of two routes and a DestinationRule of two subsets,
// six endpoints.
func large(n int) *world {
	w := newWorld()
	for i := range n {
		ns, name := fmt.Sprintf("ns%d", i/20), fmt.Sprintf("svc%d", i)
		w.service(ns, name, httpPort(8080), 3, "v1", "v2")
		w.virtualService(ns, name, route(fqdn(name, ns), 20))
		w.destinationRule(ns, name, mesh.DestinationRule{Host: fqdn(name, ns), Policy: mesh.TrafficPolicy{Pool: &mesh.ConnectionPool{MaxConnections: 100}},
			Subsets: []mesh.Subset{{Name: "v1", Labels: mesh.Labels{"version": "v1"}}, {Name: "v2", Labels: mesh.Labels{"version": "v2"}}}})
	}
	return w
}

func route(host string, weight uint32) mesh.VirtualService {
	return mesh.VirtualService{Hosts: []string{host}, HTTP: []mesh.HTTPRoute{
		{Matches: []mesh.HTTPMatch{{URI: mesh.StringMatch{Kind: mesh.Prefix, Value: "/v2"}}}, Action: mesh.HTTPAction{Destinations: []mesh.Destination{{Host: host, Subset: "v2", Weight: 100}}}},
		{Action: mesh.HTTPAction{Destinations: []mesh.Destination{{Host: host, Subset: "v1", Weight: 100 - weight}, {Host: host, Subset: "v2", Weight: weight}}}},
	}}
}

func nodeIn(i int) *translate.Node {
	return sidecar(fmt.Sprintf("ns%d", i/20), fmt.Sprintf("svc%d-v1-0", i), nil)
}

const services = 1000

// The first node of a fresh control plane.
func BenchmarkColdView(b *testing.B) {
	snap := large(services).publish()
	b.ReportAllocs()
	for b.Loop() {
		translate.New().View(snap, nodeIn(0))
	}
}

// A node in a namespace nobody asked for yet; the rest is built.
func BenchmarkSecondNamespace(b *testing.B) {
	snap := large(services).publish()
	c := translate.New()
	c.View(snap, nodeIn(0))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		n := *nodeIn(0)
		n.Namespace = fmt.Sprintf("new%d", i)
		c.View(snap, &n)
	}
}

// Another replica of a known namespace.
func BenchmarkSecondReplica(b *testing.B) {
	snap := large(services).publish()
	c := translate.New()
	c.View(snap, nodeIn(0))
	b.ReportAllocs()
	for b.Loop() {
		c.View(snap, nodeIn(1))
	}
}

// edit measures a change and the new Views of clients nodes, one in every service.
func edit(b *testing.B, clients int, vhds bool, change func(w *world, i int)) {
	w := large(services)
	c := translate.New()
	snap := w.publish()
	nodes := make([]*translate.Node, clients)
	for i := range nodes {
		nodes[i] = nodeIn(i * services / clients)
		nodes[i].VHDS = vhds
		c.View(snap, nodes[i])
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		change(w, i)
		snap := w.publish()
		for _, n := range nodes {
			c.View(snap, n)
		}
	}
}

// imports makes namespace ns0 see its own 20 services alone.
func imports(w *world) {
	w.sidecar("ns0", "default", mesh.Sidecar{Egress: []mesh.Egress{{Hosts: []mesh.Import{{Namespace: ".", Host: "*"}}}}})
}

// A node whose Sidecar imports 20 services of 1,000, on a control plane that has all of
// them built for others.
func BenchmarkScopedView(b *testing.B) {
	w := large(services)
	imports(w)
	snap := w.publish()
	c := translate.New()
	c.View(snap, nodeIn(500))
	c.View(snap, nodeIn(0))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		w.sidecar("ns0", fmt.Sprintf("own%d", i), mesh.Sidecar{Selector: mesh.Labels{"n": fmt.Sprint(i)}, Egress: []mesh.Egress{{Hosts: []mesh.Import{{Namespace: ".", Host: "*"}}}}})
		n := *nodeIn(0)
		n.Name, n.Labels = "own", mesh.Labels{"n": fmt.Sprint(i)}
		c.View(w.publish(), &n)
	}
}

// An edit of a VirtualService that the client's Sidecar does not import.
func BenchmarkUnseenEdit(b *testing.B) {
	w := large(services)
	imports(w)
	c := translate.New()
	c.View(w.publish(), nodeIn(0))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		w.virtualService("ns9", "svc180", route(fqdn("svc180", "ns9"), uint32(i%99)))
		c.View(w.publish(), nodeIn(0))
	}
}

func BenchmarkVirtualServiceEdit(b *testing.B) {
	for _, clients := range []int{1, 1000} {
		for _, vhds := range []bool{false, true} {
			b.Run(fmt.Sprintf("clients=%d/vhds=%t", clients, vhds), func(b *testing.B) {
				edit(b, clients, vhds, func(w *world, i int) { w.virtualService("ns0", "svc5", route(fqdn("svc5", "ns0"), uint32(i%99))) })
			})
		}
	}
}

func BenchmarkDestinationRuleEdit(b *testing.B) {
	edit(b, 1000, true, func(w *world, i int) {
		w.destinationRule("ns0", "svc5", mesh.DestinationRule{Host: fqdn("svc5", "ns0"), Policy: mesh.TrafficPolicy{Pool: &mesh.ConnectionPool{MaxConnections: uint32(i)}}})
	})
}

// The first rule that tells localities apart comes and goes: from then on it matters where clients are.
func BenchmarkFirstLocalityRule(b *testing.B) {
	edit(b, 1000, true, func(w *world, i int) {
		r := mesh.DestinationRule{Host: fqdn("svc5", "ns0")}
		if i%2 == 1 {
			r.Policy.LoadBalancer = &mesh.LoadBalancer{Locality: &mesh.LocalityPolicy{}}
		}
		w.destinationRule("ns0", "svc5", r)
	})
}

func BenchmarkEndpointEdit(b *testing.B) {
	for _, clients := range []int{1, 1000} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			edit(b, clients, true, func(w *world, i int) {
				s := w.snap.Services.At(mesh.NewKey("ns0", fqdn("svc5", "ns0")))
				list := w.snap.Endpoints.At(s.Key()).Ports[8080]
				next := append([]mesh.Endpoint(nil), list...)
				next[0].Weight = uint32(i%9 + 1)
				w.endpoints(s, 8080, next...)
			})
		})
	}
}
