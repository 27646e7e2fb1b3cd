package translate_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/weirmesh/weir/mesh"
	proxyroute "github.com/weirmesh/weir/proxy/route"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/ondemand"
	"github.com/weirmesh/weir/xds/resource"
)

// asker is what a proxy on demand has, and how it finds what to ask for.
type asker struct {
	t     rapid.TB
	node  *translate.Node
	view  *resource.View
	index *ondemand.Index
}

func newAsker(t rapid.TB, n *translate.Node, v *resource.View) *asker {
	a := &asker{t, n, v, &ondemand.Index{}}
	for name, r := range v.Set(resource.IndexType).All() {
		var err error
		if a.index, err = a.index.With(name, r.Body()); err != nil {
			t.Fatalf("%s: %v", n.Name, err)
		}
	}
	return a
}

// virtualHost is what a table has for an authority once everything that is asked for has
// come; nil for what the table itself says.
func (a *asker) virtualHost(table, authority string) *routev3.VirtualHost {
	var names ondemand.Names
	if !names.Begin(&ondemand.Place{Namespace: a.node.Namespace, Suffix: "cluster.local"}, table, []byte(authority)) {
		return nil
	}
	for {
		name, _, ok := names.Next()
		if !ok {
			return nil
		}
		if !a.index.Has(ondemand.HashBytes(name)) {
			continue
		}
		r := a.view.Set(resource.VirtualHostType).At(string(name))
		if r == nil {
			a.t.Fatalf("%s: the index has %q, and there is no such virtual host", a.node.Name, name)
		}
		h := &routev3.VirtualHost{}
		if err := r.Unmarshal(h); err != nil || h.GetName() != string(name) {
			a.t.Fatalf("%s: %s: called %q: %v", a.node.Name, name, h.GetName(), err)
		}
		if hosts(a.t, h).Host([]byte(authority)) != nil {
			return h
		}
	}
}

// hosts is a table of virtual hosts without their routes.
func hosts(t rapid.TB, all ...*routev3.VirtualHost) *proxyroute.Table {
	var out []*proxyroute.VirtualHost
	for _, h := range all {
		out = append(out, &proxyroute.VirtualHost{Name: h.GetName(), Domains: h.GetDomains()})
	}
	table, err := proxyroute.New("x", "", false, out)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// authorities are hosts that a client may ask a table for: those it has, those that its
// wildcards cover, and some it has not, with and without ports.
func authorities(rt *rapid.T, table *routev3.RouteConfiguration) []string {
	all := map[string]bool{"": true, "nobody.example.com": true, "10.99.99.99": true, "[::1]:80": true}
	for _, h := range table.GetVirtualHosts() {
		for _, d := range h.GetDomains() {
			all[d] = true
			if rest, wild := strings.CutPrefix(d, "*"); wild {
				all["x"+rest], all["x.y"+rest], all[rest] = true, true, true
			}
		}
	}
	for d := range maps.Clone(all) {
		all[strings.ToUpper(d)], all[d+":81"], all[d+":"+table.GetName()], all["x."+d] = true, true, true, true
		if i := strings.IndexByte(d, '.'); i >= 0 {
			all[d[i+1:]], all["x"+d[i:]], all[d[:i]] = true, true, true
		}
	}
	out := slices.Sorted(maps.Keys(all))
	for range 5 {
		out = append(out, rapid.StringMatching(`[A-Ca-c.*:8]{0,9}`).Draw(rt, "authority"))
	}
	return out
}

// Nothing that a proxy with everything reaches is out of reach for one that asks for what it
// uses, and it reaches nothing else: in any mesh, for any host, on any port, and for any
// address.
func TestOnDemandReachesTheSame(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := &chaos{T: rt}
		snap := &mesh.Snapshot{}
		cache := translate.New()
		for range rapid.IntRange(1, 4).Draw(rt, "steps") {
			for range 10 {
				snap = c.step(snap)
			}
			for _, n := range chaosNodes() {
				if n.OnDemand {
					reachesTheSame(rt, cache, snap, n)
				}
			}
		}
	})
}

func reachesTheSame(rt *rapid.T, cache *translate.Cache, snap *mesh.Snapshot, n *translate.Node) {
	eager := *n
	eager.VHDS, eager.OnDemand = false, false
	all, asked := cache.View(snap, &eager), cache.View(snap, n)
	a := newAsker(rt, n, asked)
	for _, typ := range []string{resource.ClusterType, resource.EndpointType, resource.ListenerType, resource.NameTableType} {
		for name := range all.Set(typ).Diff(asked.Set(typ), resource.Same) {
			rt.Fatalf("%s: %s %q is not what one with everything has", n.Name, resource.Short(typ), name)
		}
	}
	names := asked.Set(resource.VirtualHostType).Len()
	for name := range all.Set(resource.ListenerType).All() {
		_, unasked := asked.Wild[resource.ListenerType].Get(name)
		if strings.HasPrefix(name, "virtual") && !unasked {
			rt.Fatalf("%s: listener %s does not come unasked", n.Name, name)
		}
		if unasked && !a.index.Has(ondemand.Hash(name)) { // nobody is sent there who would ask for it
			continue
		}
		names++
		if !a.index.Has(ondemand.Hash(name)) {
			rt.Fatalf("%s: listener %s is not in the index", n.Name, name)
		}
	}
	if got := a.index.Len(); got != names {
		rt.Fatalf("%s: %d names in the index, and %d to ask for", n.Name, got, names)
	}
	for name, r := range all.Set(resource.RouteType).All() {
		var want, shell routev3.RouteConfiguration
		s := asked.Set(resource.RouteType).At(name)
		if s == nil || r.Unmarshal(&want) != nil || s.Unmarshal(&shell) != nil {
			rt.Fatalf("%s: table %q: %v", n.Name, name, s)
		}
		if shell.GetVhds() == nil { // one that is whole
			if d := cmp.Diff(&want, &shell, protocmp.Transform()); d != "" {
				rt.Fatalf("%s: table %s: %s", n.Name, name, d)
			}
			continue
		}
		full, rest := hosts(rt, want.GetVirtualHosts()...), hosts(rt, shell.GetVirtualHosts()...)
		for _, authority := range authorities(rt, &want) {
			var got, wanted *routev3.VirtualHost
			find := func(in *routev3.RouteConfiguration, h *proxyroute.VirtualHost) *routev3.VirtualHost {
				for _, x := range in.GetVirtualHosts() {
					if h != nil && x.GetName() == h.Name {
						return x
					}
				}
				return nil
			}
			wanted = find(&want, full.Host([]byte(authority)))
			if got = a.virtualHost(name, authority); got == nil {
				got = find(&shell, rest.Host([]byte(authority)))
			}
			if (got == nil) != (wanted == nil) || got != nil && cmp.Diff(wanted.GetRoutes(), got.GetRoutes(), protocmp.Transform()) != "" {
				rt.Fatalf("%s: table %s: %q is served by\n%v\non demand, otherwise by\n%v", n.Name, name, authority, got, wanted)
			}
		}
	}
}

// What a proxy on demand gets unasked is what it needs to begin, and what its siblings use.
func TestUnasked(t *testing.T) {
	snap := snapshot(t, meshSettings(), included(t, "bookinfo.yaml bookinfo-pods.yaml"))
	node := parseNode(t, "sidecar ratings-v1-0.default")
	node.VHDS, node.OnDemand = true, true
	cache := translate.New()
	want := map[string]string{
		resource.ClusterType:     "BlackHoleCluster InboundPassthroughCluster PassthroughCluster inbound|9080||",
		resource.ListenerType:    "virtualInbound virtualOutbound",
		resource.VirtualHostType: "",
	}
	check := func(want map[string]string) {
		t.Helper()
		v := cache.View(snap, node)
		got := map[string]string{}
		for typ, set := range v.Wild {
			var names []string
			for name, r := range set.All() {
				if v.Set(typ).At(name) != r {
					t.Errorf("%s %s is another than who asks gets", resource.Short(typ), name)
				}
				names = append(names, name)
			}
			got[typ] = strings.Join(names, " ")
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
	check(want)
	node.Learned = &translate.Learned{Listeners: []string{"0.0.0.0_9080", "gone_1"}, VirtualHosts: []string{"9080/details.default.svc.cluster.local", "9080/gone"}}
	want[resource.ListenerType] = "0.0.0.0_9080 virtualInbound virtualOutbound"
	want[resource.VirtualHostType] = "9080/details.default.svc.cluster.local"
	check(want)
}

// The index grows by two or three names a service, and a change of one service changes the
// shards of those.
func TestIndexCostsLittle(t *testing.T) {
	w := newWorld()
	node := sidecar("ns0", "client-0", nil)
	node.VHDS, node.OnDemand = true, true
	cache := translate.New()
	for i := range 500 {
		w.service("ns0", fmt.Sprint("svc", i), mesh.Port{Number: 80, Protocol: mesh.HTTP}, 1, "v1")
	}
	before := cache.View(w.publish(), node)
	size := 0
	for r := range before.Set(resource.IndexType).Values() {
		size += len(r.Body())
	}
	if most := 500 * 3 * 8; size > most {
		t.Errorf("the index of 500 services takes %d bytes, more than %d", size, most)
	}
	w.service("ns0", "another", mesh.Port{Number: 80, Protocol: mesh.HTTP}, 1, "v1")
	changed := 0
	for range cache.View(w.publish(), node).Set(resource.IndexType).Diff(before.Set(resource.IndexType), resource.Same) {
		changed++
	}
	if changed == 0 || changed > 4 {
		t.Errorf("another service changes %d shards", changed)
	}
}
