// Package limit holds callers of the certificate authority to a rate.
//
// In: who asks, and when. Out: whether that is too often. A Limiter is a token bucket for
// each caller, bounded in memory and safe for concurrent use.
package limit

import (
	"sync"
	"time"
)

// One caller is a service account on one address, or an address alone: behind it can stand
// all replicas on a node. A hundred may start at once and ten more each second; a signature
// costs 0.25 ms, so a proxy in a loop costs the control plane 0.25 % of a core.
const (
	Burst = 100
	Rate  = 10 // a second
)

// maxCallers bounds the memory, to a few MB. A mesh of that many accounts and nodes does not
// start within the ten seconds a bucket takes to fill.
const maxCallers = 20_000

// tellAgain is Burst / Rate, when the bucket of who stopped is full and is forgotten.
const tellAgain = 10 * time.Second

// Limiter is a token bucket for each K. Its zero value is ready.
type Limiter[K comparable] struct {
	mu      sync.Mutex
	buckets map[K]bucket
}

type bucket struct {
	left float64
	at   time.Time
	told time.Time // when a refusal was told last
}

func (b bucket) filled(now time.Time) float64 {
	return min(Burst, b.left+Rate*max(0, now.Sub(b.at).Seconds()))
}

// Allow takes one from the bucket of k, if there is one.
func (l *Limiter[K]) Allow(now time.Time, k K) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, known := l.buckets[k]
	if !known {
		if len(l.buckets) >= maxCallers {
			l.forget(now)
		}
		if l.buckets == nil {
			l.buckets = map[K]bucket{}
		}
		b = bucket{left: Burst, at: now}
	}
	left := b.filled(now)
	allowed := left >= 1
	if allowed {
		left--
	}
	l.buckets[k] = bucket{left, now, b.told}
	return allowed
}

// Tell reports whether k's being refused is to be told: every ten seconds, so that who is in a loop is seen and fills no log.
func (l *Limiter[K]) Tell(now time.Time, k K) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, known := l.buckets[k]
	if d := now.Sub(b.told); !known || !b.told.IsZero() && d >= 0 && d < tellAgain {
		return false
	}
	b.told = now
	l.buckets[k] = b
	return true
}

// forget makes room: full buckets say nothing, and if there are too few, any go, a tenth of all, so that this is not done for each newcomer.
func (l *Limiter[K]) forget(now time.Time) {
	for k, b := range l.buckets {
		if b.filled(now) == Burst {
			delete(l.buckets, k)
		}
	}
	for k := range l.buckets {
		if len(l.buckets) < maxCallers/10*9 {
			return
		}
		delete(l.buckets, k)
	}
}
