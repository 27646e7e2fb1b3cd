package control

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/control/why"
	"github.com/weirmesh/weir/mesh"
)

const (
	// mostLeft are the endpoints that are remembered when they have left, the last ones: 1 MB.
	mostLeft = 10_000
	// mostRefusals are the rejections of clusters that are remembered, and of one response how many.
	mostRefusals, mostOfResponse = 1000, 64
)

// past is what was true before, as far as stories are told about it: which endpoints have left, and what proxies rejected. Any
// goroutine may ask; it is told by the store's and by streams.
type past struct {
	mu    sync.Mutex
	begin time.Time // from when on every endpoint that left is remembered; zero: there is no configuration yet
	left  map[departed]time.Time
	order []departure // the first first, also of those that came back
	// refusals are in the order in which they began.
	refusals []refusal
}

type departed struct {
	service mesh.Key
	addr    netip.AddrPort
}

type departure struct {
	departed
	at time.Time
}

// refusal is that a proxy did not take a cluster.
type refusal struct {
	node, cluster, message string
	by                     []why.Pointer // DestinationRules
	from, until            time.Time     // until is zero as long as it lasts
}

// note compares two states of the configuration; old is nil of the first.
func (x *past) note(old, cur *store.Update, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if old == nil {
		x.begin, x.left = now, map[departed]time.Time{}
		return
	}
	was, is := old.Snapshot.Endpoints, cur.Snapshot.Endpoints
	for key := range is.Diff(was, func(a, b *mesh.EndpointSet) bool { return a == b }) {
		here := map[netip.AddrPort]bool{}
		for a := range addresses(is.At(key)) {
			here[a] = true
			delete(x.left, departed{key, a})
		}
		for a := range addresses(was.At(key)) {
			if d := (departed{key, a}); !here[a] && x.left[d].IsZero() {
				x.left[d] = now
				x.order = append(x.order, departure{d, now})
			}
		}
	}
	for len(x.order) > mostLeft {
		first := x.order[0]
		if x.order, x.begin = x.order[1:], first.at; x.left[first.departed].Equal(first.at) {
			delete(x.left, first.departed)
		}
	}
}

// addresses yields those of a service's endpoints; set may be nil.
func addresses(set *mesh.EndpointSet) func(func(netip.AddrPort) bool) {
	return func(yield func(netip.AddrPort) bool) {
		if set == nil {
			return
		}
		for _, endpoints := range set.Ports {
			for i := range endpoints {
				if !yield(endpoints[i].Addr) {
					return
				}
			}
		}
	}
}

// departure is when an endpoint that is none now left; zero: it has not been one since begin.
func (x *past) departure(service mesh.Key, addr netip.AddrPort) (left, begin time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.left[departed{service, addr}], x.begin
}

// rejected notes what a proxy did not take.
func (x *past) rejected(node string, clusters []string, by map[string][]why.Pointer, message string, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, name := range clusters[:min(len(clusters), mostOfResponse)] {
		if r := x.open(node, name); r != nil {
			r.message, r.by = message, by[name]
			continue
		}
		x.refusals = append(x.refusals, refusal{node: node, cluster: name, message: message, by: by[name], from: now})
	}
	x.refusals = slices.Delete(x.refusals, 0, max(0, len(x.refusals)-mostRefusals))
}

// mended notes that a proxy took what it had rejected.
func (x *past) mended(node, cluster string, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if r := x.open(node, cluster); r != nil {
		r.until = now
	}
}

func (x *past) open(node, cluster string) *refusal {
	for i := range x.refusals {
		if r := &x.refusals[i]; r.node == node && r.cluster == cluster && r.until.IsZero() {
			return r
		}
	}
	return nil
}

// refusal is why a proxy did not have a cluster at a moment. If nobody has told of its end, who asks knows whether the proxy still rejects
// it.
func (x *past) refusal(node, cluster string, then time.Time) (_ refusal, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range x.refusals {
		if r := &x.refusals[i]; r.node == node && r.cluster == cluster && !then.Before(r.from) && (r.until.IsZero() || then.Before(r.until)) {
			return *r, true
		}
	}
	return refusal{}, false
}
