package translate_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/resource"
)

// differences lists the resources that differ between two Views, "CDS name".
func differences(old, now *resource.View) []string {
	var out []string
	for typ := range now.Sets {
		for name := range now.Set(typ).Diff(old.Set(typ), resource.Same) {
			out = append(out, resource.Short(typ)+" "+name)
		}
	}
	slices.Sort(out)
	return out
}

// What a client must be sent follows what was edited, and nothing else.
func TestAnEditTouchesWhatItSays(t *testing.T) {
	reviews, ratings := fqdn("reviews", "default"), fqdn("ratings", "default")
	endpoint := func(w *world, host string, change func(*mesh.Endpoint)) {
		s := w.snap.Services.At(mesh.NewKey("default", host))
		list := slices.Clone(w.snap.Endpoints.At(s.Key()).Ports[9080])
		change(&list[0])
		w.endpoints(s, 9080, list...)
	}
	for _, c := range []struct {
		name string
		edit func(w *world)
		want []string // of a sidecar of productpage
		edge []string // of the gateway
	}{
		{"nothing", func(*world) {}, nil, nil},
		{"an endpoint is not healthy any more", func(w *world) { endpoint(w, ratings, func(e *mesh.Endpoint) { e.Health = mesh.Unhealthy }) },
			[]string{"EDS outbound|9080||" + ratings}, []string{"EDS outbound|9080||" + ratings}},
		{"an endpoint of a subset moves",
			func(w *world) { endpoint(w, reviews, func(e *mesh.Endpoint) { e.Addr = addrPort("10.9.9.9:9080") }) },
			[]string{"EDS outbound|9080|v1|" + reviews, "EDS outbound|9080||" + reviews},
			[]string{"EDS outbound|9080|v1|" + reviews, "EDS outbound|9080||" + reviews}},
		{"a workload with another identity", func(w *world) {
			endpoint(w, ratings, func(e *mesh.Endpoint) { e.Identity = "spiffe://cluster.local/ns/default/sa/new" })
		}, []string{"CDS outbound|9080||" + ratings}, []string{"CDS outbound|9080||" + ratings}},
		{"a VirtualService for the mesh", func(w *world) { w.virtualService("default", "reviews", route(reviews, 10)) }, []string{"RDS 9080"}, nil},
		{"a VirtualService written again as it was", func(w *world) {
			v := *w.snap.VirtualServices.At("default/bookinfo")
			w.snap.VirtualServices = w.snap.VirtualServices.Set("default/bookinfo", &v)
		}, nil, nil},
		{"a VirtualService for the gateway", func(w *world) {
			v := *w.snap.VirtualServices.At("default/bookinfo")
			v.HTTP = slices.Clone(v.HTTP)
			v.HTTP[0].Timeout = 1
			w.snap.VirtualServices = w.snap.VirtualServices.Set("default/bookinfo", &v)
		}, nil, []string{"RDS http.8080"}},
		{"a DestinationRule", func(w *world) {
			w.destinationRule("default", "ratings", mesh.DestinationRule{Host: ratings, Policy: mesh.TrafficPolicy{LoadBalancer: &mesh.LoadBalancer{Simple: mesh.Random}}})
		}, []string{"CDS outbound|9080||" + ratings}, []string{"CDS outbound|9080||" + ratings}},
		{"a new service on the same port", func(w *world) { w.service("other", "new", httpPort(9080), 1, "v1") },
			[]string{"CDS outbound|9080||new.other.svc.cluster.local", "EDS outbound|9080||new.other.svc.cluster.local", "NDS NameTable", "RDS 9080"},
			[]string{"CDS outbound|9080||new.other.svc.cluster.local", "EDS outbound|9080||new.other.svc.cluster.local"}},
		{"what productpage accepts", func(w *world) {
			w.peerAuth("default", "p", mesh.PeerAuthentication{Selector: mesh.Labels{"app": "productpage"}, Mode: mesh.MTLSStrict})
		}, []string{"LDS virtualInbound"}, nil},
		{"what ratings refuses", func(w *world) {
			w.peerAuth("default", "p", mesh.PeerAuthentication{Selector: mesh.Labels{"app": "ratings"}, Mode: mesh.MTLSDisable})
		}, []string{"EDS outbound|9080||" + ratings}, []string{"EDS outbound|9080||" + ratings}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := bookinfo()
			cache := translate.New()
			page, gw := sidecar("default", "productpage-v1-0", nil), ingress()
			snap := w.publish()
			oldPage, oldGW := cache.View(snap, page), cache.View(snap, gw)
			c.edit(w)
			snap = w.publish()
			if d := cmp.Diff(c.want, differences(oldPage, cache.View(snap, page))); d != "" {
				t.Errorf("sidecar (-want +got)\n%s", d)
			}
			if d := cmp.Diff(c.edge, differences(oldGW, cache.View(snap, gw))); d != "" {
				t.Errorf("gateway (-want +got)\n%s", d)
			}
			if v := cache.View(snap, page).Version; v != snap.Version {
				t.Errorf("the View has version %d, want that of the Snapshot, %d", v, snap.Version)
			}
		})
	}
}

// Replicas are given the very same View; other namespaces share what does not depend on
// the namespace.
func TestNodesShare(t *testing.T) {
	w := bookinfo()
	w.service("default", "details", httpPort(9080), 3, "v1")
	cache, snap := translate.New(), w.publish()
	a, b := cache.View(snap, sidecar("default", "details-v1-0", nil)), cache.View(snap, sidecar("default", "details-v1-2", nil))
	if a != b {
		t.Error("two replicas have Views of their own")
	}
	other := cache.View(snap, sidecar("other", "client", nil))
	for _, typ := range []string{resource.ClusterType, resource.EndpointType, resource.NameTableType} {
		for name, r := range other.Set(typ).All() {
			if mine := a.Set(typ).At(name); mine != r {
				t.Errorf("%s was built twice", r)
			}
		}
	}
	if again := cache.View(snap, sidecar("default", "details-v1-0", nil)); again != a {
		t.Error("asking again builds again")
	}
}

// A scope that was not looked at while hundreds of changes passed catches up with all.
func TestCatchUp(t *testing.T) {
	w := bookinfo()
	cache := translate.New()
	often, seldom := sidecar("default", "productpage-v1-0", nil), sidecar("other", "x", nil)
	cache.View(w.publish(), seldom)
	for i := range 300 {
		w.virtualService("default", "reviews", route(fqdn("reviews", "default"), uint32(i%100)))
		w.service("default", "extra", httpPort(uint16(9000+i)), 1, "v1")
		snap := w.publish()
		cache.View(snap, often)
		if i == 30 || i == 64 || i == 65 || i == 299 {
			if d := differences(translate.New().View(snap, seldom), cache.View(snap, seldom)); !sameContent(translate.New().View(snap, seldom), cache.View(snap, seldom)) {
				t.Fatalf("after %d changes: %v", i+1, d)
			}
		}
	}
}

func sameContent(a, b *resource.View) bool {
	for typ := range a.Sets {
		for range b.Set(typ).Diff(a.Set(typ), resource.Same) {
			return false
		}
	}
	return true
}

// Which Sidecar a workload goes by: the oldest that selects it, else its namespace's, else
// the mesh's, and what an edit of one costs those who go by another.
func TestSidecarSelection(t *testing.T) {
	w := newWorld()
	for _, ns := range []string{"a", "b"} {
		for _, name := range []string{"x", "y"} {
			w.service(ns, name, httpPort(80), 1, "v1")
		}
	}
	see := func(hosts ...string) []mesh.Egress {
		e := mesh.Egress{}
		for _, h := range hosts {
			e.Hosts = append(e.Hosts, mesh.Import{Namespace: "*", Host: h})
		}
		return []mesh.Egress{e}
	}
	c := translate.New()
	seen := func(n *translate.Node) string {
		var out []string
		for name := range c.View(w.publish(), n).Set(resource.ClusterType).All() {
			if host, ok := strings.CutPrefix(name, "outbound|80||"); ok {
				out = append(out, strings.TrimSuffix(host, ".svc.cluster.local"))
			}
		}
		return strings.Join(out, " ")
	}
	picked := mesh.Labels{"app": "x"}
	mine, other, elsewhere := sidecar("a", "m", picked), sidecar("a", "o", mesh.Labels{}), sidecar("b", "e", picked)
	check := func(step, wantMine, wantOther, wantElsewhere string) {
		t.Helper()
		if got := []string{seen(mine), seen(other), seen(elsewhere)}; !slices.Equal(got, []string{wantMine, wantOther, wantElsewhere}) {
			t.Errorf("%s: %q", step, got)
		}
	}
	const all = "x.a x.b y.a y.b"
	check("none", all, all, all)
	w.sidecar("istio-system", "default", mesh.Sidecar{Egress: see(fqdn("y", "b"))})
	check("the mesh's", "y.b", "y.b", "y.b")
	w.sidecar("istio-system", "picked", mesh.Sidecar{Selector: picked, Egress: see(fqdn("x", "a"))})
	check("one of the root namespace with a selector is for that alone", "y.b", "y.b", "y.b")
	w.sidecar("a", "whole", mesh.Sidecar{Egress: see(fqdn("x", "b"))})
	check("the namespace's", "x.b", "x.b", "y.b")
	w.sidecar("a", "picked", mesh.Sidecar{Selector: picked, Egress: see(fqdn("x", "a"), fqdn("y", "a"))})
	check("the workload's", "x.a y.a", "x.b", "y.b")
	w.sidecar("a", "again", mesh.Sidecar{Selector: picked})
	check("a younger one", "x.a y.a", "x.b", "y.b")

	before := c.View(w.publish(), other)
	w.sidecar("a", "picked", mesh.Sidecar{Selector: picked})
	after := c.View(w.publish(), other)
	for typ, set := range after.Sets {
		if !set.Same(before.Sets[typ]) {
			t.Errorf("%s of those who go by another Sidecar changed", resource.Short(typ))
		}
	}
	check("a replaced one is younger than the other, which lets all be seen", all, "x.b", "y.b")
}

// Where clients are makes a difference only for the services of which somebody says that it does: all else they share,
// down to the whole View where nobody says so.
func TestPlacesShare(t *testing.T) {
	w := bookinfo()
	ratings := fqdn("ratings", "default")
	near := &mesh.LoadBalancer{Locality: &mesh.LocalityPolicy{}}
	there := func(name, region, zone string) *translate.Node {
		n := sidecar("default", name, nil)
		n.Locality = mesh.Locality{Region: region, Zone: zone}
		return n
	}
	a, b, c := there("x-0", "us", "a"), there("x-1", "us", "b"), there("x-2", "us", "b")
	s := w.snap.Services.At(mesh.NewKey("default", ratings))
	list := slices.Clone(w.snap.Endpoints.At(s.Key()).Ports[9080])
	list = append(list, list[0])
	list[0].Locality, list[1].Locality, list[1].Addr = mesh.Locality{Region: "us", Zone: "a"}, mesh.Locality{Region: "us", Zone: "b"}, addrPort("10.9.9.9:9080")
	w.endpoints(s, 9080, list...)

	cache, snap := translate.New(), w.publish()
	if cache.View(snap, a) != cache.View(snap, b) {
		t.Error("clients in two zones have Views of their own, and nobody asked for that")
	}
	before := cache.View(snap, a)
	w.destinationRule("default", "ratings", mesh.DestinationRule{Host: ratings, Policy: mesh.TrafficPolicy{LoadBalancer: near}})
	snap = w.publish()
	va, vb := cache.View(snap, a), cache.View(snap, b)
	if vb != cache.View(snap, c) {
		t.Error("clients in one zone have Views of their own")
	}
	if d := cmp.Diff([]string{"EDS outbound|9080||" + ratings}, differences(va, vb)); d != "" {
		t.Errorf("between zones (-want +got)\n%s", d)
	}
	if d := cmp.Diff([]string{"CDS outbound|9080||" + ratings, "EDS outbound|9080||" + ratings}, differences(before, va)); d != "" {
		t.Errorf("by the rule (-want +got)\n%s", d)
	}
	w.snap.DestinationRules = w.snap.DestinationRules.Delete(mesh.NewKey("default", "ratings"))
	snap = w.publish()
	if cache.View(snap, a) != cache.View(snap, b) {
		t.Error("without the rule clients in two zones do not share their View again")
	}
}
