// Package ledger remembers who called workloads in plaintext, and since when that is known without a gap, also across restarts of
// the control plane.
//
// What proxies report enters a Table, one in each control plane; a Book leaves: what one control plane saw, what all of them have
// written down (Continue), or what several say together (Join). The text of a Book is kept where all replicas find it, by a Keeper;
// this package does not know where. A Table is safe for concurrent use, a Book is plain data.
//
// What there is no room for is never forgotten in silence: a sighting is kept with less detail, or the time from which on all is
// known moves on. Each identity whose proxies report has room of its own, so that none of them fills that of others.
package ledger

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/weirmesh/weir/internal/share"
)

const (
	// Age is how long a sighting is remembered after the last call: who calls once a day is a caller still.
	Age = 25 * time.Hour
	// Gap is how long nobody may have written for the observation to go on with what was written: a control plane that is replaced,
	// or started again. While more time passes than this, workloads came and went of which nobody heard.
	Gap = 10 * time.Minute
	// A sighting takes some 300 bytes with its names. One identity has room for some 400 of them, and for 100 of less detail.
	eachSeen, allSeen     = 128 << 10, 8 << 20
	eachCoarse, allCoarse = 16 << 10, 2 << 20
	eachPorts, allPorts   = 128 << 10, 4 << 20
	weight                = 200 // without its names
	// sweepEvery is how often a Table that is full looks for what is old.
	sweepEvery = time.Minute
	// maxText bounds the text of a Book: a Secret takes 1 MiB.
	maxText = 768 << 10
)

// Keeper keeps a text for all replicas. change makes of what is kept what is to be kept, nil is nothing yet; it is called again if
// somebody else wrote meanwhile, and its error changes nothing and is returned.
type Keeper func(change func(old []byte) ([]byte, error)) error

// Key is who called what in plaintext, as the proxy of one side says.
type Key struct {
	// ByCaller says that the caller's proxy saw it: then Service is what was called, and Port the service's. Otherwise the server's
	// did: Namespace and Workload are its own, and Port the workload's; with port 0 it may be any of them, without a workload any of the
	// namespace.
	ByCaller  bool   `json:"byCaller,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Workload  string `json:"workload,omitempty"`
	Service   string `json:"service,omitempty"` // namespace/name
	Port      uint32 `json:"port,omitempty"`
	// CallerNamespace and Caller are empty of somebody without a proxy.
	CallerNamespace string `json:"callerNamespace,omitempty"`
	Caller          string `json:"caller,omitempty"`
}

func (k *Key) weight() int {
	return weight + len(k.Namespace) + len(k.Workload) + len(k.Service) + len(k.CallerNamespace) + len(k.Caller)
}

// Sighting is that somebody called in plaintext, Requests times at least.
type Sighting struct {
	Key
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	Requests uint64    `json:"requests,omitempty"`
}

// Port is one of a workload, of all its replicas.
type Port struct {
	Namespace string `json:"namespace"`
	Workload  string `json:"workload"`
	Port      uint32 `json:"port"`
}

// Secured is when a port was called by mutual TLS last.
type Secured struct {
	Port
	Last time.Time `json:"last"`
}

// Book is what is known.
type Book struct {
	// Since is from when on all that was reported is known.
	Since time.Time `json:"since"`
	// Saved is when it was written; zero: it was not.
	Saved     time.Time  `json:"saved,omitzero"`
	Sightings []Sighting `json:"sightings,omitempty"` // the last ones first
	Secured   []Secured  `json:"secured,omitempty"`   // of one control plane's own
}

// Table is what one control plane has seen since it started.
type Table struct {
	mu      sync.Mutex
	since   time.Time
	seen    map[Key]*entry
	secured map[Port]*entry
	swept   time.Time
	news    bool
	closed  bool
	// rooms are for sightings, for those of less detail, and for ports that were called by mutual TLS; by the identity of who reports.
	rooms [3]share.Shares[string]
}

// entry is a sighting with who pays for it, in which room how much.
type entry struct {
	Sighting
	by           string
	room, weight int
}

const (
	inDetail = iota
	coarsely
	ofPorts
)

// New begins to observe.
func New(now time.Time) *Table {
	return &Table{since: now, seen: map[Key]*entry{}, secured: map[Port]*entry{},
		rooms: [3]share.Shares[string]{{Each: eachSeen, All: allSeen}, {Each: eachCoarse, All: allCoarse}, {Each: eachPorts, All: allPorts}}}
}

// Plain notes that k called n times, as proxies of an identity report. It reports whether it did: a Table that was closed takes nothing.
func (t *Table) Plain(by string, k Key, n uint64, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	s := t.seen[k]
	if s == nil {
		s = t.enter(by, k, now)
	}
	if s != nil {
		s.Last = now
		s.Requests += n
	}
	return true
}

// enter makes an entry of k, or finds one of less detail; nil if that is not needed, because the server's proxy sees the call, too. t.mu
// is held.
func (t *Table) enter(by string, k Key, now time.Time) *entry {
	s := &entry{Sighting: Sighting{Key: k, First: now}, by: by, room: inDetail, weight: k.weight()}
	ok := t.take(s, now)
	if !ok && k.ByCaller {
		return nil
	}
	// In the end there is one of each namespace in which somebody has an identity, whatever room there is.
	for _, coarse := range []Key{{Namespace: k.Namespace, Workload: k.Workload}, {Namespace: k.Namespace}} {
		if ok {
			break
		}
		if known := t.seen[coarse]; known != nil {
			return known
		}
		s.Key, s.room, s.weight = coarse, coarsely, coarse.weight()
		if ok = t.take(s, now); !ok && coarse.Workload == "" {
			ok, s.weight = true, 0
		}
	}
	t.seen[s.Key] = s
	t.news = true
	return s
}

// take reports whether there is room. t.mu is held.
func (t *Table) take(s *entry, now time.Time) bool {
	room := &t.rooms[s.room]
	if room.Take(s.by, s.weight) {
		return true
	}
	if now.Sub(t.swept) < sweepEvery {
		return false
	}
	t.forget(now)
	return room.Take(s.by, s.weight)
}

// TLS notes that a port was called by mutual TLS, as proxies of an identity report. That is told to people and decides nothing.
func (t *Table) TLS(by string, p Port, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.secured[p]
	if s == nil {
		s = &entry{by: by, room: ofPorts, weight: weight + len(p.Namespace) + len(p.Workload)}
		if !t.take(s, now) {
			return
		}
		t.secured[p] = s
	}
	s.Last = now
}

// Close has Plain take nothing any more: who is refused tells another control plane.
func (t *Table) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

// News reports whether somebody was seen for the first time since it was asked last.
func (t *Table) News() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	news := t.news
	t.news = false
	return news
}

// Book is what was seen since the Table was made.
func (t *Table) Book(now time.Time) Book {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(now)
	b := Book{Since: t.since}
	for _, s := range t.seen {
		b.Sightings = append(b.Sightings, s.Sighting)
	}
	for p, s := range t.secured {
		b.Secured = append(b.Secured, Secured{p, s.Last})
	}
	b.sort()
	return b
}

// forget drops what is old. t.mu is held.
func (t *Table) forget(now time.Time) {
	t.swept = now
	drop := func(s *entry) bool {
		old := now.Sub(s.Last) > Age
		if old {
			t.rooms[s.room].Give(s.by, s.weight)
		}
		return old
	}
	maps.DeleteFunc(t.seen, func(_ Key, s *entry) bool { return drop(s) })
	maps.DeleteFunc(t.secured, func(_ Port, s *entry) bool { return drop(s) })
}

func (b *Book) sort() {
	slices.SortFunc(b.Sightings, func(x, y Sighting) int { return cmp.Or(y.Last.Compare(x.Last), compare(&x.Key, &y.Key)) })
	slices.SortFunc(b.Secured, func(x, y Secured) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Workload, y.Workload), cmp.Compare(x.Port.Port, y.Port.Port))
	})
}

func compare(x, y *Key) int {
	return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Workload, y.Workload), cmp.Compare(x.Service, y.Service), cmp.Compare(x.Port, y.Port),
		cmp.Compare(x.CallerNamespace, y.CallerNamespace), cmp.Compare(x.Caller, y.Caller))
}

// Parse reads what Marshal wrote. Nothing is an empty Book.
func Parse(text []byte) (b Book, err error) {
	if len(text) == 0 {
		return b, nil
	}
	if err := json.Unmarshal(text, &b); err != nil {
		return Book{}, fmt.Errorf("what was written of callers is damaged: %w", err)
	}
	return b, nil
}

// Marshal writes a Book. Of one that is too large the oldest sightings are left out, and it says so: it begins after them.
func (b *Book) Marshal() ([]byte, error) {
	c := Book{Since: b.Since.UTC().Truncate(time.Second), Saved: b.Saved.UTC().Truncate(time.Second)}
	size := 0
	for _, s := range b.Sightings {
		s.First, s.Last = s.First.UTC().Truncate(time.Second), s.Last.UTC().Truncate(time.Second)
		one, err := json.Marshal(s)
		if err != nil {
			return nil, err
		}
		if size += len(one) + 1; size > maxText {
			c.Since = later(c.Since, s.Last.Add(time.Second))
			break
		}
		c.Sightings = append(c.Sightings, s)
	}
	return json.Marshal(&c)
}

// Continue is what is known to a control plane that has seen own, where kept is what all have written down: from as far back as the
// observation has no gap.
func Continue(kept, own Book, now time.Time) Book {
	out := Book{Since: own.Since, Saved: kept.Saved, Secured: own.Secured}
	if !kept.Saved.IsZero() && own.Since.Sub(kept.Saved) <= Gap {
		out.Since = kept.Since
	}
	out.Since = earlier(out.Since, now)
	for _, s := range kept.Sightings {
		s.Last = earlier(s.Last, now) // a clock may have been ahead
		if now.Sub(s.Last) <= Age {
			out.Sightings = append(out.Sightings, s)
		}
	}
	out.Sightings = join(out.Sightings, own.Sightings, func(x, y uint64) uint64 { return max(x, y) })
	out.sort()
	return out
}

// Told is what one control plane says: what it has seen itself, and that with what all have written down.
type Told struct {
	Own   Book `json:"own"`
	Whole Book `json:"whole"`
}

// Join is what several control planes know together: from when on the last of them does.
func Join(all []Told) (out Book) {
	var own []Sighting
	at := map[Port]time.Time{}
	for _, t := range all {
		out.Since = later(out.Since, t.Whole.Since)
		own = join(own, t.Own.Sightings, func(x, y uint64) uint64 { return x + y })
		for _, s := range t.Whole.Secured {
			at[s.Port] = later(at[s.Port], s.Last)
		}
	}
	for _, t := range all { // of what was written down, a part may be of those that tell
		own = join(own, t.Whole.Sightings, func(x, y uint64) uint64 { return max(x, y) })
	}
	out.Sightings = own
	for p, last := range at {
		out.Secured = append(out.Secured, Secured{p, last})
	}
	out.sort()
	return out
}

// join is each of both once.
func join(a, b []Sighting, requests func(x, y uint64) uint64) []Sighting {
	out := slices.Clone(a)
	at := make(map[Key]int, len(out))
	for i := range out {
		at[out[i].Key] = i
	}
	for _, s := range b {
		i, ok := at[s.Key]
		if !ok {
			at[s.Key] = len(out)
			out = append(out, s)
			continue
		}
		o := &out[i]
		o.First, o.Last, o.Requests = earlier(o.First, s.First), later(o.Last, s.Last), requests(o.Requests, s.Requests)
	}
	return out
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
