package kubewatch

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// Batch gathers what several Watches find, by key, until somebody takes it: everything
// that is there at first in one piece, then what changed, the last of each key. Its methods
// but Run may be called from any goroutine, also with locks held that publish takes.
type Batch[K comparable, V any] struct {
	mu      sync.Mutex
	pending map[K]V
	waits   map[string]bool // what has to be read before anything is published
	begun   bool            // something was: what is awaited later holds nothing back
	wake    chan struct{}
}

// NewBatch makes a Batch that waits for nothing.
func NewBatch[K comparable, V any]() *Batch[K, V] {
	return &Batch[K, V]{pending: map[K]V{}, waits: map[string]bool{}, wake: make(chan struct{}, 1)}
}

// Await holds back the first publication until what is Here.
func (b *Batch[K, V]) Await(what ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, w := range what {
		b.waits[w] = true
	}
}

// Here says that all of what is there was Put.
func (b *Batch[K, V]) Here(what string) {
	b.mu.Lock()
	delete(b.waits, what)
	b.mu.Unlock()
	b.poke()
}

// Put replaces what has the key and was not published yet. Where order matters, call it
// under the lock that makes the order.
func (b *Batch[K, V]) Put(key K, v V) {
	b.mu.Lock()
	b.pending[key] = v
	b.mu.Unlock()
	b.poke()
}

func (b *Batch[K, V]) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Run publishes, one call at a time, until ctx ends. The first call comes when all that
// was awaited is here, even if that is nothing.
func (b *Batch[K, V]) Run(ctx context.Context, publish func([]V)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.wake:
		}
		if values, news := b.take(); news {
			publish(values)
		}
	}
}

func (b *Batch[K, V]) take() (values []V, news bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.begun && len(b.waits) > 0 || b.begun && len(b.pending) == 0 {
		return nil, false
	}
	b.begun = true
	values = slices.AppendSeq(make([]V, 0, len(b.pending)), maps.Values(b.pending))
	clear(b.pending)
	return values, true
}
