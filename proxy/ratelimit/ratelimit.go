// Package ratelimit lets so many pass in a time: token buckets, for requests and for connections.
//
// What enters: the moment, and what proxy/state made: Buckets, and Descriptors, which have one for each kind of request. What leaves: a
// yes or no. A bucket is shared by all workers and exact: of n that come at once while there are k tokens, k pass. Nothing here allocates
// or locks, but for descriptors that name no value: they are looked up under a lock, and a value not seen lately costs its bucket.
package ratelimit

import (
	"sync/atomic"
	"time"
)

// Bucket holds tokens, and gets new ones evenly over time, as Envoy's does (envoy.type.v3.TokenBucket; evenly since 1.33).
type Bucket struct {
	most  int64 // tokens
	each  int64 // nanoseconds for one token, rounded up: never more pass than may
	empty atomic.Int64
}

// NewBucket makes a full bucket of most tokens that gets fill new ones each interval, all positive.
func NewBucket(most, fill uint32, interval time.Duration) *Bucket {
	// Beyond 30 years a full bucket cannot be told from one that is never full; it keeps most × each within an int64.
	each := min((int64(interval)+int64(fill)-1)/int64(fill), int64(30*365*24*time.Hour)/int64(most))
	b := &Bucket{most: int64(most), each: max(each, 1)}
	b.empty.Store(-b.most * b.each) // clocks begin at 0 or later
	return b
}

// Take takes a token at a moment of a monotonic clock, in nanoseconds; false: there is none. The state is the moment
// at which the bucket, as full as it is, would have been empty.
func (b *Bucket) Take(now int64) bool {
	for {
		was := b.empty.Load()
		next := max(was, now-b.most*b.each) + b.each
		if next > now {
			return false
		}
		if b.empty.CompareAndSwap(was, next) {
			return true
		}
	}
}

// Slower reports whether a bucket fills more slowly than another.
func (b *Bucket) Slower(than *Bucket) bool { return b.each > than.each }

// Most is how many tokens fit.
func (b *Bucket) Most() int64 { return b.most }

// Left is how many tokens there are, and in what time there is one more.
func (b *Bucket) Left(now int64) (tokens int64, next time.Duration) {
	since := now - max(b.empty.Load(), now-b.most*b.each)
	if since < 0 {
		return 0, time.Duration(b.each - since)
	}
	return since / b.each, time.Duration(b.each - since%b.each)
}

// Counts are a limit's statistics, by Envoy's names. They outlive the configuration and may be read at any time.
type Counts struct {
	Enabled, Enforced, OK, RateLimited atomic.Uint64
}
