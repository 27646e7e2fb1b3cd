package control

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/weirmesh/weir/internal/share"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/resource"
)

// learner remembers what workloads use, so that a new replica begins with what its
// siblings ask for (docs/design/ondemand.md, "Learned, and forgotten").
type learner struct {
	now func() time.Time

	mu        sync.Mutex
	workloads map[workload]*habits
	room      share.Shares[string] // of namespaces
}

// workload is what replicas have in common.
type workload struct{ namespace, name string }

// habits is what the replicas of a workload ask for by name.
type habits struct {
	room    *share.Shares[string] // of its namespace
	of      string
	uses    map[use]*askers
	learned *translate.Learned // of uses; nil when they changed
	checked time.Time          // when what is too old was dropped last
}

type use struct{ typeURL, name string }

// askers are the streams that ask for something, and when the last one ended to.
type askers struct {
	now  int
	last time.Time
}

const (
	// keepUses is how long what nobody asks for any more is remembered: a rollout, a night job
	// that is rescheduled.
	keepUses = time.Hour
	// maxUses and maxWorkloads bound what is remembered: 100 bytes a use.
	maxUses      = 1000
	maxWorkloads = 10_000
	// allUses bounds the bytes of all uses, eachUses of those of a namespace, whose workloads may be made up; useWeight is what one takes without its name.
	allUses, eachUses = 64 << 20, 16 << 20
	useWeight         = 120
)

func (u *use) weight() int { return useWeight + len(u.name) }

func newLearner(now func() time.Time) *learner {
	return &learner{now: now, workloads: map[workload]*habits{}, room: share.Shares[string]{Each: eachUses, All: allUses}}
}

// connect is called for a stream that begins. It returns what its siblings use, what is to be
// told of the names it asks for (server.Feed.Named), and what is to be called at its end.
func (l *learner) connect(node *corev3.Node, namespace string) (known *translate.Learned, named func(typeURL, name string, asks bool), left func()) {
	w := workload{namespace, cmp.Or(node.GetMetadata().GetFields()["WORKLOAD_NAME"].GetStringValue(), node.GetId())}
	asked := map[use]bool{}
	named = func(typeURL, name string, asks bool) {
		if typeURL != resource.ListenerType && typeURL != resource.VirtualHostType {
			return // all else follows from these
		}
		u := use{typeURL, name}
		l.mu.Lock()
		defer l.mu.Unlock()
		switch {
		case asked == nil || asked[u] == asks:
		case asks:
			if l.ask(w, u) {
				asked[u] = true
			}
		default:
			l.forget(w, u)
			delete(asked, u)
		}
	}
	left = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for u := range asked {
			l.forget(w, u)
		}
		asked = nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.learned(w), named, left
}

// ask reports whether there is room.
func (l *learner) ask(w workload, u use) bool {
	h := l.workloads[w]
	if h == nil {
		if len(l.workloads) >= maxWorkloads && !l.sweep() {
			return false
		}
		h = &habits{room: &l.room, of: w.namespace, uses: map[use]*askers{}, checked: l.now()}
		l.workloads[w] = h
	}
	a := h.uses[u]
	if a == nil {
		if len(h.uses) >= maxUses && !h.sweep(l.now()) {
			return false
		}
		if !l.room.Take(w.namespace, u.weight()) {
			return false
		}
		a = &askers{}
		h.uses[u] = a
		h.learned = nil
	}
	a.now++
	return true
}

func (l *learner) forget(w workload, u use) {
	a := l.workloads[w].uses[u]
	a.now--
	a.last = l.now()
}

// sweep drops workloads of which nothing is known any more, and reports whether there was one.
func (l *learner) sweep() bool {
	before := len(l.workloads)
	for w, h := range l.workloads {
		if h.sweep(l.now()); len(h.uses) == 0 {
			delete(l.workloads, w)
		}
	}
	return len(l.workloads) < before
}

// sweep drops what is too old, and reports whether something was.
func (h *habits) sweep(now time.Time) bool {
	before := len(h.uses)
	maps.DeleteFunc(h.uses, func(u use, a *askers) bool {
		old := a.now == 0 && now.Sub(a.last) >= keepUses
		if old {
			h.room.Give(h.of, u.weight())
		}
		return old
	})
	h.checked = now
	if len(h.uses) == before {
		return false
	}
	h.learned = nil
	return true
}

// learned is what w's replicas use; the same pointer as long as that does not change.
func (l *learner) learned(w workload) *translate.Learned {
	h := l.workloads[w]
	if h == nil {
		return nil
	}
	if now := l.now(); now.Sub(h.checked) >= keepUses/60 {
		if h.sweep(now); len(h.uses) == 0 {
			delete(l.workloads, w)
			return nil
		}
	}
	if h.learned == nil {
		h.learned = &translate.Learned{}
		for _, u := range slices.SortedFunc(maps.Keys(h.uses), func(a, b use) int {
			return cmp.Or(strings.Compare(a.typeURL, b.typeURL), strings.Compare(a.name, b.name))
		}) {
			if u.typeURL == resource.ListenerType {
				h.learned.Listeners = append(h.learned.Listeners, u.name)
			} else {
				h.learned.VirtualHosts = append(h.learned.VirtualHosts, u.name)
			}
		}
	}
	return h.learned
}
