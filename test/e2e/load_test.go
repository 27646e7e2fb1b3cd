package e2e_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirmesh/weir/test/mesh"
)

var discard = slog.New(slog.DiscardHandler)

// load is requests that go on until it is stopped.
type load struct {
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	begun   atomic.Int64
	sent    atomic.Int64 // and answered
	mu      sync.Mutex
	failed  []string
	begin   time.Time
	check   func(*mesh.Response) error
	slowest time.Duration
}

// newLoad is a load that ends with its test, however that ends: the addresses it asks belong to another one's mesh afterwards.
func newLoad(t testing.TB, check func(*mesh.Response) error) (*load, context.Context) {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel, begin: time.Now(), check: check}
	t.Cleanup(func() {
		cancel()
		l.wg.Wait()
	})
	return l, ctx
}

// startLoad has callers ask for a URL, each with its next request as soon as it has an
// answer; anything but 200 is a failure.
func startLoad(t *testing.T, w *mesh.Workload, callers int, url string) *load {
	return startLoadOf(t, callers, 0, func() *mesh.Response { return w.Get(url) }, func(r *mesh.Response) error {
		if r.Err != nil || r.Status != http.StatusOK {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
}

// startLoadOf has callers make calls, with a pause of each between two.
func startLoadOf(t testing.TB, callers int, pause time.Duration, call func() *mesh.Response, check func(*mesh.Response) error) *load {
	l, ctx := newLoad(t, check)
	for range callers {
		l.wg.Go(func() {
			tick := time.NewTicker(max(pause, 1))
			defer tick.Stop()
			for ctx.Err() == nil {
				l.one(call)
				if pause > 0 {
					<-tick.C
				}
			}
		})
	}
	return l
}

// startPaced has calls begin at a rate, so many a second, whether those before have been answered or not; unless so many are
// under way that what answers has fallen behind by a good part of a second.
func startPaced(t *testing.T, rate int, call func() *mesh.Response, check func(*mesh.Response) error) *load {
	l, ctx := newLoad(t, check)
	l.wg.Go(func() {
		room := make(chan struct{}, max(rate/4, 1))
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for begun := 0; ctx.Err() == nil; <-tick.C {
			for due := int(time.Since(l.begin).Seconds() * float64(rate)); begun < due && ctx.Err() == nil; begun++ {
				room <- struct{}{}
				l.wg.Go(func() {
					defer func() { <-room }()
					l.one(call)
				})
			}
		}
	})
	return l
}

// one makes a call and keeps what came of it.
func (l *load) one(call func() *mesh.Response) {
	l.begun.Add(1)
	r := call()
	err := l.check(r)
	l.sent.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slowest = max(l.slowest, r.Took)
	if err != nil {
		l.failed = append(l.failed, fmt.Sprintf("after %v: %v", time.Since(l.begin).Round(time.Millisecond), err))
	}
}

// await waits for n more answers.
func (l *load) await(n int64) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for until := l.sent.Load() + n; l.sent.Load() < until; <-tick.C {
	}
}

// awaitNew waits until n that have not begun yet are answered.
func (l *load) awaitNew(n int64) { l.await(l.begun.Load() - l.sent.Load() + n) }

// noneFailed fails the test if any request failed so far.
func (l *load) noneFailed(t *testing.T, doing string) {
	t.Helper()
	l.await(10)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.failed) > 0 {
		t.Errorf("%s: %d of %d requests failed, the first %s", doing, len(l.failed), l.sent.Load(), l.failed[0])
		l.failed = nil
	}
}

// forget takes failures so far for what had to be.
func (l *load) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = nil
}

// stop ends the load and fails the test if any request failed.
func (l *load) stop(t *testing.T) {
	t.Helper()
	l.await(10) // of what began last, too
	l.cancel()
	l.wg.Wait()
	took := time.Since(l.begin)
	t.Logf("%d requests in %v (%.0f/s), the slowest took %v", l.sent.Load(), took.Round(time.Millisecond), float64(l.sent.Load())/took.Seconds(), l.slowest.Round(time.Millisecond))
	for i, f := range l.failed {
		if i == 10 {
			t.Errorf("and %d more", len(l.failed)-10)
			break
		}
		t.Errorf("failed %s", f)
	}
}
