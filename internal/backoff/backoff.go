// Package backoff says how long to wait before trying again.
//
// A Backoff belongs to one goroutine.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff gives the waits of one thing that is tried again and again: the first retry is
// at once, then the wait doubles from Min to Max. Half of each wait is random, so that
// many which failed together do not come back together.
type Backoff struct {
	Min, Max time.Duration
	ceiling  time.Duration
	retried  bool
}

// Next is the wait before the next try.
func (b *Backoff) Next() time.Duration {
	if !b.retried {
		b.retried = true
		return 0
	}
	b.ceiling = min(max(2*b.ceiling, b.Min), b.Max)
	half := b.ceiling / 2
	return half + rand.N(b.ceiling-half+1)
}

// Reset starts over, after a success that counts as one.
func (b *Backoff) Reset() { b.ceiling, b.retried = 0, false }

// Wait waits for Next, or until ctx ends, and then returns its error.
func (b *Backoff) Wait(ctx context.Context) error {
	t := time.NewTimer(b.Next())
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}
