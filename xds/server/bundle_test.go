package server

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/weirmesh/weir/xds/resource"
)

// Who is sent everything by what all share is told nothing else, then and later, than who
// is sent everything by itself.
func TestBundlesMakeNoDifference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := limits{types: 5, names: 4 * fewNames}
		shared := newBundles()
		var view *resource.View
		machines := [2]*machine{newMachine(false, "", l, nil), newMachine(false, "", l, shared)}
		last := map[string]*response{} // not answered
		step := func(f func(*machine) ([]*response, error)) {
			var said [2][]string
			for i, m := range machines {
				out, err := f(m)
				for _, r := range out {
					said[i] = append(said[i], r.String())
					last[r.typeURL] = r
				}
				said[i] = append(said[i], fmt.Sprint(err, m.names, m.round, m.settled, m.active, len(m.accepted)))
				checkInvariants(t, m)
			}
			if !slices.Equal(said[0], said[1]) {
				t.Fatalf("by itself: %v\nshared: %v", said[0], said[1])
			}
		}
		types := []string{resource.ClusterType, resource.EndpointType, resource.VirtualHostType, resource.NameTableType}
		newView := func() {
			next := &resource.View{Version: 1, Sets: map[string]resource.Set{}}
			if view != nil {
				next.Version = view.Version + 1
				maps.Copy(next.Sets, view.Sets)
			}
			for _, typeURL := range types {
				set := next.Sets[typeURL]
				if view == nil {
					for i := range fewNames + rapid.IntRange(-1, 1).Draw(t, "resources") {
						set = set.Set(nameOf(typeURL, i), resource.FromBytes(typeURL, nameOf(typeURL, i), []byte("0")))
					}
				}
				for range rapid.IntRange(0, 2).Draw(t, "changed") {
					n := nameOf(typeURL, rapid.IntRange(0, fewNames+2).Draw(t, "which"))
					set = set.Set(n, resource.FromBytes(typeURL, n, fmt.Append(nil, next.Version)))
				}
				for range rapid.IntRange(0, 1).Draw(t, "removed") {
					set = set.Delete(nameOf(typeURL, rapid.IntRange(0, fewNames+2).Draw(t, "which")))
				}
				next.Sets[typeURL] = set
			}
			view = next
			step(func(m *machine) ([]*response, error) { return m.publish(view), nil })
		}
		request := func(r *discoveryv3.DeltaDiscoveryRequest) {
			step(func(m *machine) ([]*response, error) {
				return m.deltaRequest(proto.CloneOf(r), time.Time{})
			})
		}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			typeURL := rapid.SampledFrom(types).Draw(t, "type")
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				newView()
			case 1, 2:
				r := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL}
				all := func() {
					for n := range view.Set(typeURL).All() {
						r.ResourceNamesSubscribe = append(r.ResourceNamesSubscribe, n)
					}
				}
				switch rapid.IntRange(0, 6).Draw(t, "names") {
				case 0:
				case 1:
					r.ResourceNamesSubscribe = []string{"*"}
				case 2:
					all()
				case 3: // the same in another order
					all()
					slices.Reverse(r.ResourceNamesSubscribe)
				case 4: // as many, one of them twice
					all()
					if len(r.ResourceNamesSubscribe) > 1 {
						r.ResourceNamesSubscribe[0] = r.ResourceNamesSubscribe[1]
					}
				case 5:
					all()
					r.ResourceNamesUnsubscribe = []string{nameOf(typeURL, 3)}
				case 6:
					r.InitialResourceVersions = map[string]string{nameOf(typeURL, 5): resource.Version([]byte("0"))}
				}
				request(r)
			case 3:
				if r := last[typeURL]; r != nil {
					delete(last, typeURL)
					answer := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, ResponseNonce: r.nonce}
					if rapid.IntRange(0, 3).Draw(t, "rejected") == 0 {
						answer.ErrorDetail = &rpcstatus.Status{Message: nameOf(typeURL, rapid.IntRange(0, fewNames).Draw(t, "bad")) + " is bad"}
					}
					request(answer)
				}
			}
		}
	})
}

func nameOf(typeURL string, i int) string {
	switch typeURL {
	case resource.VirtualHostType:
		return fmt.Sprintf("80/host-%d", i)
	}
	return fmt.Sprintf("service-%d", i)
}

// A bundle is one for all while it is used, and forgotten when it is not, with the Set.
func TestBundlesGo(t *testing.T) {
	x := newBundles()
	set := benchView().Set(resource.ClusterType)
	b := x.get(set)
	if again := x.get(set); again != b {
		t.Error("there are two of one Set")
	}
	runtime.KeepAlive(b)
	for {
		runtime.GC() // cleanups follow it in a goroutine of the runtime
		x.mu.Lock()
		n := len(x.of)
		x.mu.Unlock()
		if n == 0 {
			return
		}
		runtime.Gosched()
	}
}
