package control

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/resource"
)

// receipts remembers, for every object, since when its version in force is in force, and
// how long that took to get to the proxies that need it: counters an object, not rows an
// object and proxy. Who needs it and who has it now is asked of the streams, see census.
//
// Objects change in the store's goroutine (note); streams report from theirs (applied).
type receipts struct {
	mu sync.RWMutex
	m  map[string]*receipt // by config.ID.String()
	// byOrigin finds them by the name resources have for them.
	byOrigin map[resource.Origin]*receipt
	// changes are those that came into force with the last versions, by version modulo
	// the length: a proxy that is further behind is no measure of anything.
	changes [256]changed
}

type changed struct {
	version uint64
	list    []*receipt
}

// receipt is that of one version in force of one object.
type receipt struct {
	id     config.ID
	origin resource.Origin
	state  store.State
	mesh   uint64
	since  time.Time
	// hash names the content, which is in force since began; zero: it was when this process read the configuration first.
	hash  string
	began time.Time
	// took is how long the change took to each proxy; nil before the first.
	took atomic.Pointer[spread]
	// settled is when it was active everywhere; zero if it is not, in Unix nanoseconds.
	settled atomic.Int64
	// done is on how many proxies it was active when it first was on all that need it, even if
	// nobody does; nil before.
	done atomic.Pointer[int]
}

func newReceipts() *receipts {
	return &receipts{m: map[string]*receipt{}, byOrigin: map[resource.Origin]*receipt{}}
}

// note compares two states of the configuration, dates what changed and returns it;
// removed are objects that are gone.
func (r *receipts) note(old, cur *store.Update, now time.Time) (fresh, removed []*receipt) {
	var before store.Update
	if old != nil {
		before = *old
	}
	same := func(a, b *store.Object) bool { return a.Serving == b.Serving && a.State == b.State }
	r.mu.Lock()
	defer r.mu.Unlock()
	for key := range cur.Objects.Diff(before.Objects, same) {
		was := r.m[key]
		o := cur.Objects.At(key)
		if o == nil {
			delete(r.m, key)
			delete(r.byOrigin, was.origin)
			removed = append(removed, was)
			continue
		}
		x := &receipt{id: o.ID, origin: translate.Origin(o.ID.Kind, o.ID.Namespace, o.ID.Name), state: o.State, mesh: cur.Snapshot.Version, since: now}
		if x.hash = o.InForce().Ref.Hash; was != nil && was.hash == x.hash {
			x.began = was.began
		} else if old != nil {
			x.began = now
		}
		r.m[key], r.byOrigin[x.origin] = x, x
		fresh = append(fresh, x)
	}
	if len(fresh) > 0 {
		c := &r.changes[cur.Snapshot.Version%uint64(len(r.changes))]
		if c.version != cur.Snapshot.Version {
			*c = changed{version: cur.Snapshot.Version}
		}
		c.list = append(c.list, fresh...)
	}
	return fresh, removed
}

func (r *receipts) of(id string) *receipt {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.m[id]
}

// few is below what it is cheaper to look for each changed object in what was accepted
// than to look at everything that was accepted.
const few = 16

// applied counts a proxy that has come from one version of the configuration to another
// by accepting resources.
func (r *receipts) applied(after, to uint64, resources []*resource.Resource, now time.Time) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	n := 0
	first := max(after+1, to-min(to, uint64(len(r.changes))-1))
	for v := first; v <= to; v++ {
		if c := &r.changes[v%uint64(len(r.changes))]; c.version == v {
			n += len(c.list)
		}
	}
	if n > few {
		seen := map[*receipt]bool{}
		for _, res := range resources {
			for _, o := range res.Origins() {
				if x := r.byOrigin[o]; x != nil && x.mesh > after && x.mesh <= to && !seen[x] {
					seen[x] = true
					x.observe(now)
				}
			}
		}
		return
	}
	for v := first; v <= to; v++ {
		c := &r.changes[v%uint64(len(r.changes))]
		if c.version != v {
			continue
		}
		for _, x := range c.list {
			if slices.ContainsFunc(resources, func(res *resource.Resource) bool { return slices.Contains(res.Origins(), x.origin) }) {
				x.observe(now)
			}
		}
	}
}

func (x *receipt) observe(now time.Time) {
	s := x.took.Load()
	if s == nil {
		x.took.CompareAndSwap(nil, &spread{})
		s = x.took.Load()
	}
	s.add(now.Sub(x.since))
}

// newest is the object of which a refused resource probably is the fault: of those it is
// made of the one that changed last.
func (r *receipts) newest(res *resource.Resource) *receipt {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out *receipt
	for _, o := range res.Origins() {
		if x := r.byOrigin[o]; x != nil && (out == nil || x.mesh > out.mesh) {
			out = x
		}
	}
	return out
}

// spread is a histogram of durations: a quarter of an octave a bucket, from 0.1 ms to
// 2 minutes, so that a quantile is right to within 10 %.
type spread struct{ counts [spreadBuckets]atomic.Uint32 }

const (
	spreadBuckets = 82
	spreadFirst   = 100 * time.Microsecond
	spreadStep    = 4 // buckets an octave
)

func (s *spread) add(d time.Duration) {
	i := 0
	if d > spreadFirst {
		i = min(int(math.Ceil(math.Log2(float64(d)/float64(spreadFirst))*spreadStep)), spreadBuckets-1)
	}
	s.counts[i].Add(1)
}

func (s *spread) count() int {
	n := 0
	for i := range s.counts {
		n += int(s.counts[i].Load())
	}
	return n
}

// quantile is the duration that q of all did not exceed, in the middle of its bucket.
func (s *spread) quantile(q float64) time.Duration {
	rank := max(int(math.Ceil(q*float64(s.count()))), 1)
	for i := range s.counts {
		if rank -= int(s.counts[i].Load()); rank <= 0 {
			return time.Duration(float64(spreadFirst) * math.Exp2((float64(i)-0.5)/spreadStep))
		}
	}
	return 0
}
