package control

import (
	"sync"
	"time"

	"github.com/weirmesh/weir/config/store"
)

// receipts remembers, for every object, since which version of the mesh its version in
// force is in force. Counters per object, not rows per object and proxy. Every connected
// proxy counts as interested in every object: until proxies ask on demand, each gets all.
type receipts struct {
	mu sync.Mutex
	m  map[string]receipt // by config.ID.String()
}

type receipt struct {
	mesh  uint64
	since time.Time
}

func newReceipts() *receipts { return &receipts{m: map[string]receipt{}} }

// note compares two states of the configuration and dates what changed.
func (r *receipts) note(old, cur *store.Update) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	var before store.Update
	if old != nil {
		before = *old
	}
	same := func(a, b *store.Object) bool { return a.Serving == b.Serving && a.State == b.State }
	for id := range cur.Objects.Diff(before.Objects, same) {
		if cur.Objects.Has(id) {
			r.m[id] = receipt{cur.Snapshot.Version, now}
		} else {
			delete(r.m, id)
		}
	}
}

func (r *receipts) of(id string) receipt {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.m[id]
}
