// Package demand is configuration on demand inside the proxy (docs/design/ondemand.md):
// which resources are asked for by name, how long they have not been used, and what waits
// for them.
//
// What enters: uses (Use.Touch) and wants (Worker.Host, Worker.Listener) from the loops, and
// the View of the newest state. What leaves: names to subscribe to and to give up, to the one
// who talks to the control plane (Take, Age), and the end of every wait, on the loop where it
// began. A Demands is shared by a process' workers and safe for concurrent use; a Worker and
// its Holds belong to their loop. On the way of a request whose configuration is there no lock
// is taken and nothing is written but a number a minute.
package demand

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/xds/ondemand"
)

const (
	// MaxNames is how many names a proxy asks for: twice the listeners and virtual hosts of
	// 2,000 services, more than any program calls. Over it, those unused longest go.
	MaxNames = 10_000
	// overMost is how many go at once, so that finding them is cheap for each.
	overMost = 100
	// MaxHeld and MaxBody bound what waits: with 8 KB of head each, and bodies, 16 MB.
	MaxHeld = 1024
	MaxBody = 8 << 20
)

// Key is a resource that is asked for by name.
type Key struct{ TypeURL, Name string }

// View is what a state knows of what it does not hold. It is immutable. Without one, what is
// held is all there is.
type View struct {
	// Index has what there is besides; nil: it has not come yet, and anything may be in it.
	Index *ondemand.Index
	// Absent are names that were asked for and do not exist.
	Absent map[string]bool
}

// Demands is what a process has asked for.
type Demands struct {
	epoch atomic.Uint32 // grows with every Age; never 0
	held  atomic.Int32
	body  atomic.Int64
	wake  chan struct{}

	mu    sync.Mutex
	names map[Key]*Use
	asked []Key // of names, not taken yet
	total uint64
}

// New makes a Demands that has asked for nothing.
func New() *Demands {
	d := &Demands{wake: make(chan struct{}, 1), names: map[Key]*Use{}}
	d.epoch.Store(1)
	return d
}

// Use is when a resource was used last. Nil is that of a resource nobody keeps account of.
type Use struct {
	d   *Demands
	key Key
	at  atomic.Uint32 // epoch; 0: not since it was asked for

	since time.Time // it was asked for; guarded by d.mu
}

// Use makes the Use of a resource that has come, or finds it if it was asked for.
func (d *Demands) Use(k Key) *Use {
	d.mu.Lock()
	defer d.mu.Unlock()
	if u := d.names[k]; u != nil {
		return u
	}
	return &Use{d: d, key: k}
}

// Touch notes that the resource is used now. The first use asks for it by name, so that the
// control plane learns of it.
func (u *Use) Touch() {
	if u == nil {
		return
	}
	if now := u.d.epoch.Load(); u.at.Load() != now && u.at.Swap(now) == 0 {
		u.d.first(u)
	}
}

func (d *Demands) first(u *Use) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.names[u.key]
	if d.names[u.key] = u; before == nil {
		u.since = time.Now()
		d.ask(u.key)
	} else { // it was wanted before it was live
		u.since = before.since
	}
}

func (d *Demands) ask(k Key) {
	d.asked = append(d.asked, k)
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// want asks for something that has not come.
func (d *Demands) want(typeURL, name string) {
	k := Key{typeURL, name}
	d.mu.Lock()
	defer d.mu.Unlock()
	u := d.names[k]
	if u == nil {
		u = &Use{d: d, key: k, since: time.Now()}
		d.names[k] = u
		d.total++
		d.ask(k)
	}
	u.at.Store(d.epoch.Load())
}

// Asked has a value when Take has something to give.
func (d *Demands) Asked() <-chan struct{} { return d.wake }

// Take is what was asked for since the last time, and what goes because it is too much.
func (d *Demands) Take() (add, drop []Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	add, d.asked = d.asked, nil
	if over := len(d.names) - MaxNames; over > 0 {
		fresh := map[Key]bool{}
		for _, k := range add {
			fresh[k] = true
		}
		var old []*Use
		for k, u := range d.names {
			if !fresh[k] {
				old = append(old, u)
			}
		}
		slices.SortFunc(old, func(a, b *Use) int { return cmp.Compare(a.at.Load(), b.at.Load()) })
		for _, u := range old[:min(len(old), over+overMost)] {
			u.at.Store(0)
			delete(d.names, u.key)
			drop = append(drop, u.key)
		}
	}
	return add, drop
}

// Age lets one unit of time pass, and gives up what was not used for more than idle of them,
// unless it is busy.
func (d *Demands) Age(idle int, busy func(Key) bool) (drop []Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.epoch.Load()
	for k, u := range d.names {
		switch at := u.at.Load(); {
		case busy(k):
			u.at.Store(now)
		case int(now-at) < idle:
		case u.at.CompareAndSwap(at, 0): // else it was used just now
			delete(d.names, k)
			drop = append(drop, k)
		}
	}
	d.epoch.Store(max(now+1, 1))
	return drop
}

// Restore asks for what a former process had asked for. It is used from now on.
func (d *Demands) Restore(keys []Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, k := range keys {
		u := &Use{d: d, key: k, since: time.Now()}
		u.at.Store(d.epoch.Load())
		d.names[k] = u
	}
}

// Clear gives up everything.
func (d *Demands) Clear() (drop []Key) {
	drop = d.Names()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, u := range d.names {
		u.at.Store(0)
	}
	clear(d.names)
	d.asked = nil
	return drop
}

// Names are what is asked for, in order.
func (d *Demands) Names() []Key {
	d.mu.Lock()
	out := make([]Key, 0, len(d.names))
	for k := range d.names {
		out = append(out, k)
	}
	d.mu.Unlock()
	slices.SortFunc(out, func(a, b Key) int { return cmp.Or(cmp.Compare(a.TypeURL, b.TypeURL), cmp.Compare(a.Name, b.Name)) })
	return out
}

// Asked is something that is asked for: since when, and for how many epochs it was not used.
type Asked struct {
	Key
	Since time.Time
	Idle  int
}

// All is what is asked for, in order.
func (d *Demands) All() []Asked {
	d.mu.Lock()
	now := d.epoch.Load()
	out := make([]Asked, 0, len(d.names))
	for k, u := range d.names {
		out = append(out, Asked{k, u.since, max(0, int(now-u.at.Load()))})
	}
	d.mu.Unlock()
	slices.SortFunc(out, func(a, b Asked) int { return cmp.Or(cmp.Compare(a.TypeURL, b.TypeURL), cmp.Compare(a.Name, b.Name)) })
	return out
}

// Held is how much waits now, in numbers and in bytes of bodies; Total how often something
// was asked for that was not there.
func (d *Demands) Held() (n int, body int64) { return int(d.held.Load()), d.body.Load() }

// Total is described at Held.
func (d *Demands) Total() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.total
}
