package control

import (
	"context"
	"slices"
	"sync"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
)

// maxEvents is how far back events go: some hours of a busy day, 1 MB.
const maxEvents = 2048

// events are what happened to objects, the last of it. Any goroutine may add and read.
type events struct {
	mu      sync.Mutex
	ring    []apiv1.Event // oldest first, in order of Seq
	last    uint64
	changed chan struct{} // closed with the next one
}

func newEvents() *events { return &events{changed: make(chan struct{})} }

func (e *events) add(now time.Time, list ...apiv1.Event) {
	if len(list) == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range list {
		e.last++
		x.Seq, x.Time = e.last, now
		// The same again counts: a proxy that refuses something is asked again and again.
		if n := len(e.ring); n > 0 && sameEvent(&e.ring[n-1], &x) {
			e.ring[n-1].Seq, e.ring[n-1].Time, e.ring[n-1].Count = x.Seq, x.Time, e.ring[n-1].Count+1
			continue
		}
		x.Count = 1
		e.ring = append(e.ring, x)
	}
	if over := len(e.ring) - maxEvents; over > 0 { // readers copy: to move all that stays is left to append, once in hundreds
		clear(e.ring[:over])
		e.ring = e.ring[over:]
	}
	close(e.changed)
	e.changed = make(chan struct{})
}

func sameEvent(a, b *apiv1.Event) bool {
	x, y := *a, *b
	for _, e := range []*apiv1.Event{&x, &y} {
		e.Seq, e.Time, e.Count = 0, time.Time{}, 0
	}
	return x == y
}

// after returns the events behind seq that match, and the Seq to go on behind. Without
// any it waits until ctx ends.
func (e *events) after(ctx context.Context, seq uint64, match func(*apiv1.Event) bool) ([]apiv1.Event, uint64) {
	for {
		e.mu.Lock()
		if seq > e.last { // of an earlier process
			seq = 0
		}
		i, _ := slices.BinarySearchFunc(e.ring, seq+1, func(x apiv1.Event, s uint64) int { return int(int64(x.Seq) - int64(s)) })
		out := []apiv1.Event{}
		for _, x := range e.ring[i:] {
			if match(&x) {
				out = append(out, x)
			}
		}
		last, changed := e.last, e.changed
		e.mu.Unlock()
		if len(out) > 0 {
			return out, last
		}
		seq = last
		select {
		case <-changed:
		case <-ctx.Done():
			return out, last
		}
	}
}
