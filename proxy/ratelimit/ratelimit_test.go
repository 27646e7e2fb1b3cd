package ratelimit

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// However many ask at once, as many pass as there are tokens.
func TestExactAcrossWorkers(t *testing.T) {
	b := NewBucket(1000, 1, time.Hour)
	var passed atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 500 {
				if b.Take(int64(time.Minute)) {
					passed.Add(1)
				}
			}
		})
	}
	all.Wait()
	if passed.Load() != 1000 {
		t.Errorf("%d passed, want 1000", passed.Load())
	}
}

// In any stretch of time never more pass than fit plus what was filled in, and after a stretch without anybody exactly as
// many do as there are tokens.
func TestNeverMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most, fill := rapid.Uint32Range(1, 50).Draw(t, "most"), rapid.Uint32Range(1, 7).Draw(t, "fill")
		every := time.Duration(rapid.Int64Range(int64(50*time.Millisecond), int64(time.Minute)).Draw(t, "every"))
		b := NewBucket(most, fill, every)
		now, passed := int64(0), int64(0)
		for range rapid.IntRange(1, 200).Draw(t, "asked") {
			now += rapid.Int64Range(0, int64(every)/2).Draw(t, "wait")
			left, _ := b.Left(now)
			ok := b.Take(now)
			if ok {
				passed++
			}
			if ok != (left > 0) {
				t.Fatalf("%d left, passed %v", left, ok)
			}
		}
		if limit := int64(most) + now*int64(fill)/int64(every); passed > limit {
			t.Fatalf("%d passed in %v, at most %d may", passed, time.Duration(now), limit)
		}
		now += int64(every) * int64(most+1) // full again
		for range most {
			if !b.Take(now) {
				t.Fatal("a full bucket has too few")
			}
		}
		if b.Take(now) {
			t.Fatal("a full bucket has too many")
		}
	})
}

// What cannot be told from never, and from always, overflows nothing.
func TestExtremes(t *testing.T) {
	for _, c := range []struct {
		most, fill uint32
		every      time.Duration
	}{{1, 1, 1<<63 - 1}, {1<<32 - 1, 1, 1<<63 - 1}, {1<<32 - 1, 1<<32 - 1, 50 * time.Millisecond}, {1, 1<<32 - 1, 50 * time.Millisecond}} {
		b := NewBucket(c.most, c.fill, c.every)
		if !b.Take(int64(time.Hour)) {
			t.Errorf("%+v: a full bucket lets nobody pass", c)
		}
	}
}

func TestAllocatesNothing(t *testing.T) {
	b := NewBucket(10, 10, time.Second)
	now := int64(0)
	if n := testing.AllocsPerRun(1000, func() { now += 1000; b.Take(now); b.Left(now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
