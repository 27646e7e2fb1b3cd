package server

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"pgregory.net/rapid"

	"github.com/weirmesh/weir/xds/resource"
)

// Whatever is added, removed and published, names are a set of strings.
func TestNamesAreASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x names
		var base resource.Set
		want := map[string]struct{}{}
		name := func() string { return fmt.Sprint(rapid.IntRange(0, 3*fewNames).Draw(t, "name")) }
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0: // most of what there is at once
				for n := range base.All() {
					if rapid.IntRange(0, 15).Draw(t, "left out") > 0 {
						x.add(n)
						want[n] = struct{}{}
					}
				}
				x.fit(base)
			case 1: // a lot comes
				next := base
				for n := range rapid.IntRange(fewNames, 2*fewNames).Draw(t, "resources") {
					n := fmt.Sprint(n)
					next = next.Set(n, resource.FromBytes(resource.EndpointType, n, []byte{byte(i)}))
				}
				base = next
				x.follow(base)
			case 2: // some of it goes
				for range rapid.IntRange(1, 40).Draw(t, "gone") {
					base = base.Delete(name())
				}
				x.follow(base)
			case 3:
				n := name()
				if _, had := want[n]; x.add(n) == had {
					t.Fatalf("adding %s says that it is new: %v", n, !had)
				}
				want[n] = struct{}{}
			case 4:
				n := name()
				if _, had := want[n]; x.remove(n) != had {
					t.Fatalf("removing %s says that it was there: %v", n, !had)
				}
				delete(want, n)
			case 5:
				for n := range x.all() {
					if rapid.IntRange(0, 3).Draw(t, "stays") > 0 {
						x.remove(n)
						delete(want, n)
					}
				}
				x.fit(base)
			}
			if got := slices.Sorted(x.all()); !slices.Equal(got, slices.Sorted(maps.Keys(want))) || len(got) != x.len() {
				t.Fatalf("the names are %d %v, want %v", x.len(), got, slices.Sorted(maps.Keys(want)))
			}
			if x.set.Len() > 0 && !x.set.Same(base) {
				t.Fatal("an old set is held")
			}
			if n := name(); x.has(n) != func() bool { _, ok := want[n]; return ok }() {
				t.Fatalf("has(%s) is %v", n, x.has(n))
			}
		}
	})
}

// Who asked for every name by itself gets what changes of them and hears what goes, and
// nothing of what it did not ask for.
func TestManyNames(t *testing.T) {
	v := benchView()
	c := newBenchClient(t, nil, v) // as if it had left one out
	if eds := c.m.find(resource.EndpointType); len(eds.names.some) > 0 {
		t.Fatalf("%d names are kept", len(eds.names.some))
	}
	const known, fresh = "outbound|80||service-5.namespace.svc.cluster.local", "outbound|80||new.namespace.svc.cluster.local"
	publish := func(edit func(resource.Set) resource.Set) (sent, removed []string) {
		v = &resource.View{Version: v.Version + 1, Sets: map[string]resource.Set{
			resource.ClusterType: v.Set(resource.ClusterType), resource.EndpointType: edit(v.Set(resource.EndpointType)),
		}}
		for _, r := range c.m.publish(v) {
			for _, res := range r.resources {
				sent = append(sent, res.Name())
			}
			removed = append(removed, r.removed...)
			c.request(t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.typeURL, ResponseNonce: r.nonce})
		}
		return sent, removed
	}
	put := func(name, content string) func(resource.Set) resource.Set {
		return func(s resource.Set) resource.Set {
			return s.Set(name, resource.FromBytes(resource.EndpointType, name, []byte(content)))
		}
	}
	for _, x := range []struct {
		why           string
		edit          func(resource.Set) resource.Set
		sent, removed []string
	}{
		{"a change", put(known, "1"), []string{known}, nil},
		{"one it did not ask for", put(fresh, "1"), nil, nil},
		{"that changes", put(fresh, "2"), nil, nil},
		{"one that goes", func(s resource.Set) resource.Set { return s.Delete(known) }, nil, []string{known}},
		{"and comes back", put(known, "2"), []string{known}, nil},
	} {
		if sent, removed := publish(x.edit); !slices.Equal(sent, x.sent) || !slices.Equal(removed, x.removed) {
			t.Errorf("%s: sent %v, removed %v, want %v and %v", x.why, sent, removed, x.sent, x.removed)
		}
	}
	c.request(t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{fresh}, ResourceNamesUnsubscribe: []string{known}})
	for _, x := range []struct {
		name string
		sent []string
	}{{fresh, []string{fresh}}, {known, nil}} {
		if sent, _ := publish(put(x.name, "3")); !slices.Equal(sent, x.sent) {
			t.Errorf("after changing its mind: a change of %s sends %v", x.name, sent)
		}
	}
	checkInvariants(t, c.m)
}
