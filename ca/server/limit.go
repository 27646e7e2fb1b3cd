package server

import (
	"sync"
	"time"

	"github.com/weirmesh/weir/identity"
)

const (
	// One caller is a service account on one address: behind it can stand all
	// replicas on a node. A hundred may start at once and ten more each second; a
	// signature costs 0.25 ms, so a proxy in a loop costs the control plane 0.25 %
	// of a core.
	limitBurst = 100
	limitRate  = 10
	// maxCallers bounds the memory, to a few MB. A mesh of that many accounts and
	// nodes does not start within the ten seconds a bucket takes to fill.
	maxCallers = 20_000
)

type callerKey struct {
	id   identity.ID // zero: somebody unknown
	host string
}

// limiter is a token bucket for each caller. Its zero value is ready.
type limiter struct {
	mu      sync.Mutex
	buckets map[callerKey]bucket
}

type bucket struct {
	left float64
	at   time.Time
}

func (b bucket) filled(now time.Time) float64 {
	return min(limitBurst, b.left+limitRate*max(0, now.Sub(b.at).Seconds()))
}

func (l *limiter) allow(now time.Time, k callerKey) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, known := l.buckets[k]
	if !known {
		if len(l.buckets) >= maxCallers {
			l.forget(now)
		}
		if l.buckets == nil {
			l.buckets = map[callerKey]bucket{}
		}
		b = bucket{limitBurst, now}
	}
	left := b.filled(now)
	allowed := left >= 1
	if allowed {
		left--
	}
	l.buckets[k] = bucket{left, now}
	return allowed
}

// forget makes room: full buckets say nothing, and if there are none, any goes.
func (l *limiter) forget(now time.Time) {
	for k, b := range l.buckets {
		if b.filled(now) == limitBurst {
			delete(l.buckets, k)
		}
	}
	for k := range l.buckets {
		if len(l.buckets) < maxCallers {
			return
		}
		delete(l.buckets, k)
	}
}
