package cluster

import (
	"sync/atomic"
	"time"
)

// RetryBudget bounds retries by what is asked of the cluster (CircuitBreakers.Thresholds.RetryBudget), instead of
// Limits.MaxRetries.
type RetryBudget struct {
	Percent float64 // of requests under way, waiting ones and retries among them
	Min     uint32  // so many may always be
	// Interval also counts requests that began so lately and are over; 0: none.
	Interval time.Duration
}

// slots is how finely time is counted: an interval is looked at in eighths. The others are spare, for eighths of which
// some worker's clock has heard and others' have not.
const slots = 16

// recent counts requests that are over by the eighth of the interval in which they began: its number, and how many.
type recent [slots]atomic.Uint64

// SetBudget puts another budget in force; nil is none.
func (l *Limits) SetBudget(b *RetryBudget) {
	was := l.budget.Load()
	if b != nil && was != nil && *was == *b {
		return
	}
	if b == nil || was == nil || was.Interval != b.Interval {
		for i := range l.recent {
			l.recent[i].Store(0)
		}
	}
	l.budget.Store(b)
}

// Budgeted reports whether a budget is in force.
func (l *Limits) Budgeted() bool { return l.budget.Load() != nil }

// RetriesAllowed is how many retries may be under way at a time of the loops' clock.
func (l *Limits) RetriesAllowed(now int64) uint32 {
	b := l.budget.Load()
	if b == nil {
		return l.MaxRetries.Load()
	}
	n := uint64(max(0, l.Requests.Load()))
	if eighth := int64(b.Interval) / (slots / 2); eighth > 0 {
		first := uint32(now/eighth) - slots/2 + 1
		for i := range l.recent {
			if v := l.recent[i].Load(); uint32(v>>32)-first < slots/2 {
				n += v & (1<<32 - 1)
			}
		}
	}
	return max(b.Min, uint32(min(float64(n)*b.Percent/100, float64(Unlimited))))
}

// AcquireRetry takes a place for a retry, if there is one.
func (l *Limits) AcquireRetry(now int64) bool {
	allowed := l.RetriesAllowed(now)
	for {
		n := l.Retries.Load()
		if uint32(n) >= allowed {
			return false
		}
		if l.Retries.CompareAndSwap(n, n+1) {
			l.Retries.reached(n + 1)
			return true
		}
	}
}

// Over gives the place of a request back that began at a time.
func (l *Limits) Over(began int64) {
	l.Requests.Add(-1)
	if b := l.budget.Load(); b != nil && b.Interval > 0 {
		l.remember(b, began)
	}
}

func (l *Limits) remember(b *RetryBudget, began int64) {
	eighth := int64(b.Interval) / (slots / 2)
	if eighth <= 0 {
		return
	}
	number := uint32(began / eighth)
	at := &l.recent[number%slots]
	for {
		v := at.Load()
		next := v + 1
		switch d := int32(number - uint32(v>>32)); {
		case d < 0 && v != 0:
			return // longer ago than anybody asks about
		case d != 0 || v == 0:
			next = uint64(number)<<32 | 1
		}
		if at.CompareAndSwap(v, next) {
			return
		}
	}
}
