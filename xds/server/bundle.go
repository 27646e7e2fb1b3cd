package server

import (
	"hash/maphash"
	"runtime"
	"sync"
	"weak"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/mem"

	"github.com/weirmesh/weir/xds/resource"
)

// bundle is a Set in the forms in which a client is sent all of it: what thousands of
// clients that begin have in common. It never changes.
type bundle struct {
	names     []string // in order
	resources []*resource.Resource
	fields    mem.BufferSlice // of DeltaDiscoveryResponse
	sum       uint64          // of the names, see bundles.sum
}

// bundles holds every bundle that somebody uses, and no other: most of the time nobody
// begins. It may be used by any goroutine.
type bundles struct {
	seed maphash.Seed
	mu   sync.Mutex
	of   map[resource.Set]weak.Pointer[bundle]
}

func newBundles() *bundles {
	return &bundles{seed: maphash.MakeSeed(), of: map[resource.Set]weak.Pointer[bundle]{}}
}

func (x *bundles) get(set resource.Set) *bundle {
	x.mu.Lock()
	defer x.mu.Unlock()
	if b := x.of[set].Value(); b != nil {
		return b
	}
	b := &bundle{
		names: make([]string, 0, set.Len()), resources: make([]*resource.Resource, 0, set.Len()), fields: make(mem.BufferSlice, 0, set.Len()),
	}
	for n, r := range set.All() {
		b.names = append(b.names, n)
		b.resources = append(b.resources, r)
		b.fields = append(b.fields, mem.SliceBuffer(r.DeltaField()))
	}
	b.sum = x.sum(b.names)
	x.of[set] = weak.Make(b)
	runtime.AddCleanup(b, x.drop, set)
	return b
}

func (x *bundles) drop(set resource.Set) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.of[set].Value() == nil { // it may have been made again
		delete(x.of, set)
	}
}

// sum is equal for equal sets, in any order. Of as many other names it is equal once in
// 2^64 times, and nobody knows the seed; then a client would be sent what it may see,
// but did not ask for.
func (x *bundles) sum(names []string) (sum uint64) {
	for _, n := range names {
		sum += maphash.String(x.seed, n)
	}
	return sum
}

// sendAll answers the first request for a type if it is for all there is, by a wildcard or
// name by name, and from a client that holds nothing of it. It does what deltaRequest
// would do, and is here because that is what every client begins with, and most of what
// a client costs.
func (m *machine) sendAll(s *subscription, r *discoveryv3.DeltaDiscoveryRequest) bool {
	view, names := m.view(s), r.GetResourceNamesSubscribe()
	set := view.Set(s.typeURL)
	if m.bundles == nil || set.Len() < fewNames || m.phase < s.update ||
		len(r.GetInitialResourceVersions())+len(r.GetResourceNamesUnsubscribe()) > 0 {
		return false
	}
	b := (*bundle)(nil)
	if _, limited := view.Wildcard(s.typeURL); len(names) == 0 && resource.EmptyMeansAll(s.typeURL) || len(names) == 1 && names[0] == "*" {
		if limited {
			return false
		}
		b = m.bundles.get(set)
		s.wildcard = true
	} else {
		if len(names) != set.Len() || len(names) > m.limits.names-m.names || s.typeURL == resource.VirtualHostType { // of which some names mean more
			return false
		}
		if b = m.bundles.get(set); m.bundles.sum(names) != b.sum {
			return false
		}
		s.named, s.names.set = true, set
		m.names += len(names)
		for n := range m.replaced {
			if s.typeURL == resource.EndpointType && set.Has(n) {
				delete(m.replaced, n)
			}
		}
	}
	m.owe(s)
	m.emit(s, due{names: b.names, resources: b.resources}, b)
	return true
}
