package cluster

import (
	"sync"
	"testing"
	"time"
)

// A budget is a share of what is under way, and at least a minimum; without one there is a fixed maximum.
func TestRetryBudget(t *testing.T) {
	l := &Limits{}
	l.MaxRetries.Store(2)
	if n := l.RetriesAllowed(0); n != 2 {
		t.Errorf("without a budget %d retries are allowed, want 2", n)
	}
	l.SetBudget(&RetryBudget{Percent: 20, Min: 3})
	for requests, want := range map[int32]uint32{0: 3, 2: 3, 19: 3, 25: 5, 1000: 200} {
		l.Requests.Store(requests)
		if n := l.RetriesAllowed(0); n != want {
			t.Errorf("of %d requests %d may be retries, want %d", requests, n, want)
		}
	}
	l.SetBudget(&RetryBudget{Percent: 0, Min: 0})
	if l.AcquireRetry(0) {
		t.Error("a budget of nothing permits a retry")
	}
	l.SetBudget(nil)
	if !l.AcquireRetry(0) || !l.AcquireRetry(0) || l.AcquireRetry(0) {
		t.Error("without a budget again, not exactly 2 retries are permitted")
	}
}

// With an interval, requests count as long as it lasts although they are over, and no longer.
func TestRetryBudgetRemembers(t *testing.T) {
	l := &Limits{}
	l.SetBudget(&RetryBudget{Percent: 100, Interval: 80 * time.Millisecond})
	ms := func(n int64) int64 { return int64(time.Hour) + n*int64(time.Millisecond) }
	for range 10 {
		l.Requests.Add(1)
		l.Over(ms(5))
	}
	l.Requests.Add(1) // under way
	l.Requests.Add(1)
	l.Over(ms(42))
	for _, c := range []struct {
		at   int64
		want uint32
	}{{5, 11}, {79, 12}, {80, 2}, {119, 2}, {120, 1}, {500, 1}} {
		if n := l.RetriesAllowed(ms(c.at)); n != c.want {
			t.Errorf("after %d ms %d retries are allowed, want %d", c.at, n, c.want)
		}
	}
	l.Requests.Add(1)
	l.Over(ms(5 + 160)) // the same place of the ring
	if n := l.RetriesAllowed(ms(170)); n != 2 {
		t.Errorf("%d retries are allowed, want 2", n)
	}
	l.Requests.Add(1)
	l.Over(ms(5)) // that began long ago
	if n := l.RetriesAllowed(ms(170)); n != 2 {
		t.Errorf("%d retries are allowed after the end of an old request, want 2", n)
	}
}

// However many workers ask at once, exactly as many retries are permitted as the budget has.
func TestRetryBudgetIsExact(t *testing.T) {
	l := &Limits{}
	l.Requests.Store(500)
	l.SetBudget(&RetryBudget{Percent: 20, Min: 3})
	var wg sync.WaitGroup
	got := make([]int, 8)
	for w := range got {
		wg.Go(func() {
			for range 1000 {
				if l.AcquireRetry(0) {
					got[w]++
				}
			}
		})
	}
	wg.Wait()
	sum := 0
	for _, n := range got {
		sum += n
	}
	if sum != 100 {
		t.Errorf("%d retries were permitted, want 100", sum)
	}
}
