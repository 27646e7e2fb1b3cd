package server

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/weirmesh/weir/xds/resource"
)

// A client that Views are passed to is told nothing else, then and later, and counts as having
// the same, as one that each View is driven to.
func TestPassingMakesNoDifference(t *testing.T) {
	passed := 0
	rapid.Check(t, func(t *rapid.T) {
		l := limits{types: 5, names: 100}
		sotw := rapid.Bool().Draw(t, "sotw")
		limited := rapid.Bool().Draw(t, "limited")
		machines := [2]*machine{newMachine(sotw, "", l, nil), newMachine(sotw, "", l, nil)}
		last := map[string]*response{} // not answered
		step := func(f func(int, *machine) ([]*response, error)) {
			var said [2][]string
			for i, m := range machines {
				out, err := f(i, m)
				for _, r := range out {
					said[i] = append(said[i], r.String())
					last[r.typeURL] = r
				}
				said[i] = append(said[i], fmt.Sprint(err, m.names, m.round, m.settled, m.active, m.phase, len(m.accepted), m.latest == m.target))
				for _, s := range m.subs {
					said[i] = append(said[i], fmt.Sprint(s.typeURL, s.settled, s.owing, s.sent, s.acked, slices.Sorted(maps.Keys(s.nacked)), m.waits(s)))
				}
				checkInvariants(t, m)
			}
			if !slices.Equal(said[0], said[1]) {
				t.Fatalf("driven: %v\npassed: %v", said[0], said[1])
			}
		}
		types := []string{resource.ClusterType, resource.EndpointType, resource.ListenerType, resource.SecretType}
		var view *resource.View
		some := func(set resource.Set, wild resource.Set) resource.Set {
			for n := range wild.All() {
				if !set.Has(n) {
					wild = wild.Delete(n)
				}
			}
			for n, r := range set.All() {
				if wild.Has(n) || rapid.IntRange(0, 7).Draw(t, "wild") == 0 {
					wild = wild.Set(n, r)
				}
			}
			return wild
		}
		publish := func() {
			step(func(i int, m *machine) ([]*response, error) {
				if i == 0 {
					return m.drive(view), nil
				}
				if m.pass(view) {
					passed++
					return nil, nil
				}
				return m.drive(view), nil
			})
		}
		newView := func() {
			if view != nil && rapid.IntRange(0, 3).Draw(t, "alike") == 0 {
				view = &resource.View{Version: view.Version + 1, Sets: view.Sets, Wild: view.Wild}
				publish()
				return
			}
			next := &resource.View{Version: 1, Sets: map[string]resource.Set{}}
			if limited {
				next.Wild = map[string]resource.Set{}
			}
			if view != nil {
				next.Version = view.Version + 1
				maps.Copy(next.Sets, view.Sets)
				maps.Copy(next.Wild, view.Wild)
			}
			for _, typeURL := range types {
				set := next.Sets[typeURL]
				for range rapid.IntRange(0, 2).Draw(t, "changes") / 2 {
					n := fmt.Sprintf("n%d", rapid.IntRange(0, 9).Draw(t, "which"))
					if rapid.IntRange(0, 3).Draw(t, "removed") == 0 {
						set = set.Delete(n)
					} else {
						set = set.Set(n, resource.FromBytes(typeURL, n, fmt.Append(nil, rapid.IntRange(0, 2).Draw(t, "content"))))
					}
				}
				next.Sets[typeURL] = set
				if limited && typeURL != resource.EndpointType {
					next.Wild[typeURL] = some(set, next.Wild[typeURL])
				}
			}
			view = next
			publish()
		}
		newView()
		asked := map[string][]string{}
		request := func(typeURL string, add, drop []string, nonce string, detail *rpcstatus.Status) {
			names := slices.DeleteFunc(append(slices.Clone(asked[typeURL]), add...), func(n string) bool { return slices.Contains(drop, n) })
			slices.Sort(names)
			asked[typeURL] = slices.Compact(names)
			step(func(_ int, m *machine) ([]*response, error) {
				if sotw {
					return m.sotwRequest(&discoveryv3.DiscoveryRequest{TypeUrl: typeURL, ResourceNames: asked[typeURL], ResponseNonce: nonce, ErrorDetail: detail}, time.Time{})
				}
				r := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: add, ResourceNamesUnsubscribe: drop, ResponseNonce: nonce, ErrorDetail: detail}
				return m.deltaRequest(proto.CloneOf(r), time.Time{})
			})
		}
		names := func(what string) (out []string) {
			for range rapid.IntRange(0, 2).Draw(t, what) {
				out = append(out, rapid.SampledFrom([]string{"n0", "n1", "n2", "n3", "n4", "*", "missing"}).Draw(t, "name"))
			}
			return out
		}
		answer := func(typeURL string, bad bool) {
			r := last[typeURL]
			if r == nil {
				return
			}
			delete(last, typeURL)
			var detail *rpcstatus.Status
			if bad {
				detail = &rpcstatus.Status{Message: fmt.Sprintf("n%d is bad", rapid.IntRange(0, 9).Draw(t, "bad"))}
			}
			request(typeURL, nil, nil, r.nonce, detail)
		}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			typeURL := rapid.SampledFrom(types).Draw(t, "type")
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0, 1:
				newView()
			case 2:
				request(typeURL, names("added"), names("dropped"), "", nil)
			case 3:
				answer(typeURL, rapid.IntRange(0, 2).Draw(t, "rejected") == 0)
			default: // the client comes to rest, which is when Views are passed
				for range 40 {
					for _, typeURL := range types {
						answer(typeURL, false)
					}
				}
			}
		}
	})
	if passed == 0 {
		t.Error("no View was passed")
	}
}
