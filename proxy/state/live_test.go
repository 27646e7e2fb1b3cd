package state

import (
	"slices"
	"testing"

	"github.com/weirmesh/weir/proxy/demand"
	"github.com/weirmesh/weir/xds/ondemand"
	"github.com/weirmesh/weir/xds/resource"
)

// On demand, a virtual host is served when its clusters can be, and until then what was before it. Without, at once.
func TestVirtualHostsAreLiveWithTheirClusters(t *testing.T) {
	const shell = `name: "80" vhds { config_source { ads {} } } virtual_hosts { name: "rest" domains: "*" routes { match { prefix: "/" } route { cluster: "pass" } } }`
	host := func(name, domains, cluster string) string {
		return `name: "80/` + name + `" domains: ` + domains + ` routes { match { prefix: "/" } route { cluster: "` + cluster + `" } }`
	}
	eds := func(name string) string {
		return `name: "` + name + `" type: EDS eds_cluster_config { eds_config { ads {} } }`
	}
	load := func(name string) string { return `cluster_name: "` + name + `"` }
	absent := func(typeURL, name string) Update {
		return Update{TypeURL: typeURL, Removed: []string{name}, Absent: []string{name}}
	}
	b := NewBuilder(Options{Identity: nobody{}, Demand: demand.New()})
	serves := func(authority, host, cluster string) {
		t.Helper()
		h := b.State().Table("80").Host([]byte(authority))
		if h.Name != host || h.Entries[0].Forward.Clusters[0].Name != cluster {
			t.Errorf("%s is served by %s, %s; want %s, %s", authority, h.Name, h.Entries[0].Forward.Clusters[0].Name, host, cluster)
		}
	}
	awaits := func(name string, served bool, missing ...string) {
		t.Helper()
		if come, is, got := b.Awaits(resource.VirtualHostType, name); !come || is != served || !slices.Equal(got, missing) {
			t.Errorf("%s has come: %v, is served: %v, waits for %q; want served: %v, %q", name, come, is, got, served, missing)
		}
	}
	if s, changed := b.OnDemand(true); !changed || s.View() == nil || s.View().Index != nil {
		t.Fatal("it does not begin")
	}
	apply(t, b, Update{TypeURL: resource.VirtualHostType})
	apply(t, b, update(t, resource.RouteType, shell))
	if b.State().Table("80") != nil {
		t.Error("a table is served before the clusters it has itself")
	}
	if got := b.Wanted(nil).Clusters; !slices.Equal(got, []string{"pass"}) {
		t.Errorf("clusters wanted: %v", got)
	}
	apply(t, b, update(t, resource.ClusterType, `name: "pass" type: ORIGINAL_DST lb_policy: CLUSTER_PROVIDED`))
	serves("a", "rest", "pass")

	apply(t, b, update(t, resource.VirtualHostType, host("a", `"a"`, "one")))
	serves("a", "rest", "pass")
	awaits("80/a", false, "CDS one")
	apply(t, b, update(t, resource.ClusterType, eds("one")))
	serves("a", "rest", "pass")
	awaits("80/a", false, "EDS one")
	apply(t, b, update(t, resource.EndpointType, load("one")))
	serves("a", "80/a", "one")
	awaits("80/a", true)

	// An update, and one before it is live.
	apply(t, b, update(t, resource.VirtualHostType, host("a", `"a"`, "two")))
	serves("a", "80/a", "one")
	awaits("80/a", true, "CDS two")
	if got := b.Wanted(nil).Clusters; !slices.Equal(got, []string{"one", "pass", "two"}) {
		t.Errorf("clusters wanted while one serves and two is awaited: %v", got)
	}
	apply(t, b, update(t, resource.VirtualHostType, host("a", `"a"`, "three")))
	apply(t, b, absent(resource.ClusterType, "three"))
	serves("a", "80/a", "three")
	if got := b.Wanted(nil).Clusters; !slices.Equal(got, []string{"pass", "three"}) {
		t.Errorf("clusters wanted in the end: %v", got)
	}
	apply(t, b, update(t, resource.ClusterType, eds("three")))
	serves("a", "80/a", "three") // what serves goes on, whatever becomes of its cluster

	// A domain that moves: the old and the new do not fit together, so the old stays for both.
	apply(t, b, update(t, resource.VirtualHostType, host("b", `["b", "x"]`, "one")))
	serves("x", "80/b", "one")
	apply(t, b, update(t, resource.VirtualHostType, host("b", `"b"`, "four"), host("a", `["a", "x"]`, "one")))
	serves("x", "80/b", "one")
	serves("a", "80/a", "three")
	apply(t, b, absent(resource.ClusterType, "four"))
	serves("x", "80/a", "one")
	serves("b", "80/b", "four")

	// What goes goes at once; what there is none of is known until it comes or is not asked for.
	apply(t, b, absent(resource.VirtualHostType, "80/a"))
	serves("a", "rest", "pass")
	if v := b.State().View(); !v.Absent["80/a"] || len(v.Absent) != 1 {
		t.Errorf("absent: %v", v.Absent)
	}
	if s := b.Forget(resource.VirtualHostType, Server{}, []string{"80/a"}); s.View().Absent["80/a"] {
		t.Error("it is not forgotten")
	}

	// A table of its own waits likewise; the index changes nothing of what is served, and nothing waits without.
	apply(t, b, update(t, resource.VirtualHostType, host("c", `"c"`, "five")))
	shard, err := resource.New("00", ondemand.Shard([]uint64{1}))
	if err != nil {
		t.Fatal(err)
	}
	s, _ := apply(t, b, Update{TypeURL: resource.IndexType, Set: []Resource{{Name: "00", Body: shard.Any()}}})
	if s.View().Index.Len() != 1 {
		t.Error("the index did not come")
	}
	if _, _, err := b.Apply(Update{TypeURL: resource.IndexType, Set: []Resource{{Name: "01", Body: shard.Any()}}}); err == nil || b.State().View().Index.Len() != 1 {
		t.Errorf("a shard that is none: %v", err)
	}
	serves("c", "rest", "pass")
	if s, changed := b.OnDemand(false); !changed || s.View() != nil {
		t.Error("it does not end")
	}
	serves("c", "80/c", "five")
	if len(b.Wanted(nil).Clusters) != 0 {
		t.Error("clusters are wanted by name")
	}
}

// What was kept was live: what it lacks does not exist.
func TestRestoredOnDemand(t *testing.T) {
	b := NewBuilder(Options{Identity: nobody{}, Demand: demand.New()})
	shard, err := resource.New("00", ondemand.Shard([]uint64{1}))
	if err != nil {
		t.Fatal(err)
	}
	apply(t, b, Update{TypeURL: resource.IndexType, Set: []Resource{{Name: "00", Body: shard.Any()}}})
	apply(t, b, update(t, resource.VirtualHostType, `name: "80/a" domains: "a" routes { match { prefix: "/" } route { cluster: "none" } }`))
	apply(t, b, update(t, resource.RouteType, `name: "80" vhds { config_source { ads {} } }`))
	if h := b.State().Table("80").Host([]byte("a")); h != nil {
		t.Error("it is live before that is known")
	}
	b.Restored()
	if h := b.State().Table("80").Host([]byte("a")); h == nil || h.Use == nil {
		t.Errorf("restored: %v", h)
	}
}
