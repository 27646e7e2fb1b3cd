package registry_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/registry"
)

func service(name string, selector mesh.Labels) *registry.Service {
	return &registry.Service{Allocate: registry.FromCluster, Mesh: mesh.Service{
		Ref: mesh.Ref{Kind: "Service", Namespace: "ns", Name: name}, Hostname: name, Name: name, Namespace: "ns", Selector: selector,
		Ports: []mesh.Port{{Number: 80, Name: "http", TargetName: "web"}, {Number: 81, Name: "tcp"}},
	}}
}

func workload(name string, ip string, labels mesh.Labels) *mesh.Workload {
	return &mesh.Workload{Name: name, Namespace: "ns", Labels: labels, ServiceAccount: "sa", Addresses: []netip.Addr{netip.MustParseAddr(ip)}, Ports: map[string]uint16{"web": 8080}}
}

func key(name string) mesh.Key { return mesh.NewKey("ns", name) }

// A workload touches only the services that select it, before and after.
func TestOnlySelectingServicesChange(t *testing.T) {
	r := registry.New("td", registry.Ranges{}, nil)
	for i := range 50 {
		r.SetService(fmt.Sprint("s", i), []*registry.Service{service(fmt.Sprint("s", i), mesh.Labels{"app": fmt.Sprint(i), "tier": "web"})})
	}
	r.SetWorkload("a", workload("a", "10.1.0.1", mesh.Labels{"app": "7", "tier": "web"}))
	r.SetWorkload("b", workload("b", "10.1.0.2", mesh.Labels{"app": "8", "tier": "db"}))
	before := r.Flush()
	want := []mesh.Endpoint{{Addr: netip.MustParseAddrPort("10.1.0.1:8080"), Port: 8080, Workload: before.Workloads.At(key("a")), Labels: mesh.Labels{"app": "7", "tier": "web"}, Identity: "spiffe://td/ns/ns/sa/sa"}}
	if diff := cmp.Diff(want, before.Endpoints.At(key("s7")).Ports[80], cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); diff != "" {
		t.Errorf("endpoints of s7:\n%s", diff)
	}
	if n := len(before.Endpoints.At(key("s8")).Ports); n != 0 {
		t.Errorf("s8 selects tier web and has %d ports with endpoints", n)
	}
	r.SetWorkload("a", workload("a", "10.1.0.1", mesh.Labels{"app": "9", "tier": "web"}))
	after := r.Flush()
	changed := slices.Collect(after.Endpoints.Diff(before.Endpoints, func(a, b *mesh.EndpointSet) bool { return a == b }))
	if !slices.Equal(changed, []mesh.Key{key("s7"), key("s9")}) || !after.Services.Same(before.Services) {
		t.Errorf("a relabelled workload changed %v", changed)
	}
	r.SetWorkload("b", workload("b", "10.1.0.3", mesh.Labels{"app": "8", "tier": "db"}))
	if quiet := r.Flush(); !quiet.Endpoints.Same(after.Endpoints) {
		t.Error("a workload that nothing selects changed endpoints")
	}
}

// Two objects may define one host or one workload: the oldest is used, then the first by
// name, whatever the order of arrival, and the other follows when it goes.
func TestOldestWins(t *testing.T) {
	old, young := service("s", nil), service("s", nil)
	old.Mesh.Ref.Created, old.Mesh.Ref.Name = 1, "old"
	young.Mesh.Ref.Created, young.Mesh.Ref.Name = 2, "young"
	for _, order := range [][]string{{"old", "young"}, {"young", "old"}} {
		r := registry.New("td", registry.Ranges{}, nil)
		for _, id := range order {
			r.SetService(id, []*registry.Service{map[string]*registry.Service{"old": old, "young": young}[id]})
		}
		if got := r.Flush().Services.At(key("s")).Ref.Name; got != "old" {
			t.Errorf("%v: %s is used", order, got)
		}
		if p := r.Problems(); len(p) != 1 || len(p[0].Unused) != 1 || p[0].Unused[0].Ref.Name != "young" {
			t.Errorf("%v: problems %+v", order, p)
		}
		r.SetService("old", nil)
		if got := r.Flush().Services.At(key("s")).Ref.Name; got != "young" || len(r.Problems()) != 0 {
			t.Errorf("%v: after the old one went: %s, %v", order, got, r.Problems())
		}
	}
}

// A small range runs out; services that are gone give theirs up then, not before.
func TestAddressesRunOut(t *testing.T) {
	ranges := registry.Ranges{Cluster: netip.MustParsePrefix("10.0.0.0/29")} // six addresses
	r := registry.New("td", ranges, nil)
	for i := range 7 {
		r.SetService(fmt.Sprint(i), []*registry.Service{service(fmt.Sprint(i), nil)})
	}
	res := r.Flush()
	if p := r.Problems(); len(p) != 1 || !p[0].Exhausted || len(res.Services.At(key("6")).Addresses) != 0 {
		t.Fatalf("problems %+v", p)
	}
	kept := res.Services.At(key("3")).Addresses
	r.SetService("3", nil)
	r.Flush()
	r.SetService("3", []*registry.Service{service("3", nil)})
	if got := r.Flush().Services.At(key("3")).Addresses; !slices.Equal(got, kept) {
		t.Errorf("a service that came back has %v instead of %v", got, kept)
	}
	r.SetService("3", nil)
	r.SetService("6", []*registry.Service{service("6", nil)})
	if got := r.Flush().Services.At(key("6")).Addresses; !slices.Equal(got, kept) || len(r.Problems()) != 0 {
		t.Errorf("the last service has %v, want the one given up", got)
	}
}

// A service that asks for an address gets it, also from one that was given it.
func TestAskedAddresses(t *testing.T) {
	r := registry.New("td", registry.Ranges{}, nil)
	r.SetService("a", []*registry.Service{service("a", nil)})
	first := r.Flush().Services.At(key("a")).Addresses
	asking := func(name string) []*registry.Service {
		s := service(name, nil)
		s.Allocate, s.Mesh.Addresses = registry.Nowhere, first
		return []*registry.Service{s}
	}
	r.SetService("b", asking("b"))
	res := r.Flush()
	if got := res.Services.At(key("b")).Addresses; !slices.Equal(got, first) {
		t.Errorf("b has %v", got)
	}
	if got := res.Services.At(key("a")).Addresses; len(got) != 1 || slices.Equal(got, first) {
		t.Errorf("a has %v", got)
	}
	r.SetService("c", asking("c"))
	res = r.Flush()
	if p := r.Problems(); len(p) != 1 || p[0].TakenBy != key("b") || len(res.Services.At(key("c")).Addresses) != 1 {
		t.Errorf("problems %+v", p)
	}
}

// ServiceEntries for one host are one service, if they agree: of what they give and of
// endpoints nothing is lost, whatever the order of arrival, and nothing is there twice.
func TestServiceEntriesAreJoined(t *testing.T) {
	entry := func(name string, created int64, edit func(s *registry.Service), ports ...mesh.Port) *registry.Service {
		s := &registry.Service{Allocate: registry.FromExternal, Mesh: mesh.Service{
			Ref: mesh.Ref{Kind: "ServiceEntry", Namespace: "ns", Name: name, Created: created}, Hostname: "api", Name: "api", Namespace: "ns", External: true, Ports: ports,
		}, Listed: []registry.Listed{{Addr: netip.MustParseAddr("192.0.2.1")}}}
		if edit != nil {
			edit(s)
		}
		return s
	}
	http, https := mesh.Port{Number: 80, Name: "http", Protocol: mesh.HTTP}, mesh.Port{Number: 443, Name: "tls", Protocol: mesh.TLS}
	at := func(ips ...string) []netip.Addr {
		var out []netip.Addr
		for _, ip := range ips {
			out = append(out, netip.MustParseAddr(ip))
		}
		return out
	}
	all := map[string]*registry.Service{
		"a": entry("a", 1, nil, http),
		"b": entry("b", 2, func(s *registry.Service) {
			s.Mesh.Addresses, s.Mesh.ServiceAccounts = at("198.51.100.1"), []string{"x"}
		}, https),
		"c": entry("c", 3, func(s *registry.Service) {
			s.Listed = append(s.Listed, registry.Listed{Addr: netip.MustParseAddr("192.0.2.2")})
		}, http),
		"port":    entry("port", 4, func(s *registry.Service) { s.Listed[0].Addr = netip.MustParseAddr("192.0.2.9") }, mesh.Port{Number: 80, Name: "tcp"}),
		"dns":     entry("dns", 5, func(s *registry.Service) { s.Mesh.Resolution = mesh.DNS }, mesh.Port{Number: 81, Name: "other"}),
		"hidden":  entry("hidden", 6, func(s *registry.Service) { s.Mesh.Visible = mesh.Visibility{Limited: true} }, mesh.Port{Number: 82, Name: "other"}),
		"inside":  entry("inside", 7, func(s *registry.Service) { s.Mesh.External = false }, mesh.Port{Number: 83, Name: "other"}),
		"selects": entry("selects", 8, func(s *registry.Service) { s.Mesh.Selector = mesh.Labels{"a": "b"} }, mesh.Port{Number: 84, Name: "other"}),
	}
	for _, order := range [][]string{slices.Sorted(maps.Keys(all)), {"selects", "c", "b", "inside", "port", "dns", "a", "hidden"}} {
		r := registry.New("td", registry.Ranges{}, nil)
		for _, id := range order {
			r.SetService(id, []*registry.Service{all[id]})
			r.Flush() // one after the other
		}
		got := r.Flush()
		s := got.Services.At(key("api"))
		slices.SortFunc(s.Ports, func(a, b mesh.Port) int { return int(a.Number) - int(b.Number) })
		if s.Ref.Name != "a" || !slices.Equal(s.Ports, []mesh.Port{http, https}) || !slices.Equal(s.Addresses, at("198.51.100.1")) || !slices.Equal(s.ServiceAccounts, []string{"x"}) {
			t.Errorf("%v: %+v", order, s)
		}
		if n := len(all["a"].Mesh.Ports); n != 1 {
			t.Fatalf("what was given has %d ports now", n)
		}
		eps := map[uint16][]string{}
		for port, list := range got.Endpoints.At(key("api")).Ports {
			for _, e := range list {
				eps[port] = append(eps[port], e.Addr.String())
			}
		}
		if d := cmp.Diff(map[uint16][]string{80: {"192.0.2.1:80", "192.0.2.2:80"}, 443: {"192.0.2.1:443"}}, eps); d != "" {
			t.Errorf("%v: endpoints (-want +got)\n%s", order, d)
		}
		var unused []string
		for _, u := range r.Problems()[0].Unused {
			unused = append(unused, fmt.Sprint(u.Ref.Name, " ", u.Port, " ", u.Why))
		}
		want := []string{"port 80 name, protocol or targetPort", "dns 0 resolution", "hidden 0 exportTo", "inside 0 location", "selects 0 workloadSelector"}
		if d := cmp.Diff(want, unused); d != "" {
			t.Errorf("%v: unused (-want +got)\n%s", order, d)
		}
	}
	// A Kubernetes Service comes first, however old the entry is.
	r := registry.New("td", registry.Ranges{}, nil)
	kube := service("api", nil)
	kube.Mesh.Ref.Created = 99
	r.SetService("entry", []*registry.Service{all["a"]})
	r.SetService("kube", []*registry.Service{kube})
	if s := r.Flush().Services.At(key("api")); s.Ref.Kind != "Service" || len(r.Problems()[0].Unused) != 1 {
		t.Errorf("%+v, %+v", s.Ref, r.Problems())
	}
}

// Whatever came and went, the result is that of a fresh registry with the same
// allocations: every event order, every relabelling.
func TestIncrementalIsFull(t *testing.T) {
	values := func(t *rapid.T, what string) mesh.Labels {
		return mesh.Labels{"app": rapid.SampledFrom([]string{"x", "y"}).Draw(t, what), "v": rapid.SampledFrom([]string{"1", "2"}).Draw(t, what+" v")}
	}
	rapid.Check(t, func(t *rapid.T) {
		running := registry.New("td", registry.Ranges{}, nil)
		services, workloads := map[string][]*registry.Service{}, map[string]*mesh.Workload{}
		for range rapid.IntRange(1, 20).Draw(t, "events") {
			id := rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "id")
			gone := rapid.IntRange(0, 3).Draw(t, "gone") == 0
			if rapid.Bool().Draw(t, "service") {
				var ss []*registry.Service
				if !gone {
					// Two hosts, which may be those of another object, too.
					for range rapid.IntRange(1, 2).Draw(t, "hosts") {
						s := service(rapid.SampledFrom([]string{"h1", "h2", "h3"}).Draw(t, "host"), nil)
						if rapid.Bool().Draw(t, "selects") {
							s.Mesh.Selector = values(t, "selector")
						}
						if rapid.Bool().Draw(t, "entry") {
							s.Mesh.Ref.Kind, s.Mesh.Ref.Name = "ServiceEntry", id
							s.Mesh.Ports = []mesh.Port{{Number: rapid.SampledFrom([]uint16{80, 81}).Draw(t, "port"), Name: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "port name")}}
							s.Mesh.External = rapid.Bool().Draw(t, "external")
							s.Listed = []registry.Listed{{Host: "host-of-" + id}}
						}
						if !slices.ContainsFunc(ss, func(o *registry.Service) bool { return o.Mesh.Hostname == s.Mesh.Hostname }) {
							ss = append(ss, s)
						}
					}
				}
				services[id] = ss
				running.SetService(id, ss)
			} else {
				var w *mesh.Workload
				if !gone {
					w = workload(rapid.SampledFrom([]string{"w1", "w2"}).Draw(t, "workload"), "10.1.0."+id, values(t, "label"))
				}
				workloads[id] = w
				running.SetWorkload(id, w)
			}
			if rapid.Bool().Draw(t, "flush") {
				running.Flush()
			}
		}
		got := running.Flush()
		fresh := registry.New("td", registry.Ranges{}, running.Allocations())
		for _, id := range slices.Sorted(maps.Keys(services)) {
			fresh.SetService(id, services[id])
		}
		for _, id := range slices.Sorted(maps.Keys(workloads)) {
			fresh.SetWorkload(id, workloads[id])
		}
		want := fresh.Flush()
		if diff := cmp.Diff(content(want), content(got), cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); diff != "" {
			t.Fatalf("(-fresh +running):\n%s", diff)
		}
	})
}

func content(r registry.Result) any {
	return []any{maps.Collect(r.Services.All()), maps.Collect(r.Endpoints.All()), maps.Collect(r.Workloads.All())}
}

// Replicas that know nothing of each other give hosts the same addresses, whatever they
// learned first and whatever was there before.
func TestAddressesByName(t *testing.T) {
	service := func(i int) *registry.Service {
		host := fmt.Sprintf("host-%d.example.com", i)
		return &registry.Service{Allocate: registry.FromExternal, Mesh: mesh.Service{Hostname: host, Name: host, Namespace: "out", Ports: []mesh.Port{{Number: 443}}}}
	}
	const n = 40
	given := func(order []int) map[mesh.Key][]netip.Addr {
		r := registry.New("cluster.local", registry.Ranges{ByName: true}, nil)
		for _, i := range order {
			s := service(i)
			r.SetService(string(s.Mesh.Key()), []*registry.Service{s})
			r.Flush()
		}
		out := map[mesh.Key][]netip.Addr{}
		for k, s := range r.Flush().Services.All() {
			out[k] = s.Addresses
		}
		return out
	}
	var there, back []int
	for i := range n {
		there, back = append(there, i), append(back, n-1-i)
	}
	one := given(there)
	if d := cmp.Diff(one, given(back), cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Error(d)
	}
	seen := map[netip.Addr]bool{}
	for k, as := range one {
		if len(as) != 1 || seen[as[0]] || !netip.MustParsePrefix("240.240.0.0/16").Contains(as[0]) {
			t.Errorf("%s has %v", k, as)
		}
		seen[as[0]] = true
	}
	// A small block is used up to the last address.
	r := registry.New("cluster.local", registry.Ranges{External: netip.MustParsePrefix("240.0.0.0/29"), ByName: true}, nil)
	for i := range 6 {
		s := service(i)
		r.SetService(string(s.Mesh.Key()), []*registry.Service{s})
	}
	r.Flush()
	if p := r.Problems(); len(p) > 0 {
		t.Errorf("%+v", p)
	}
}
