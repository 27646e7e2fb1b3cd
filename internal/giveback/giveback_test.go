package giveback

import (
	"context"
	"runtime"
	"runtime/metrics"
	"testing"
	"testing/synctest"
	"time"
)

// Memory is given back when a burst is over, if there is enough of it, and not again and
// again.
func TestDue(t *testing.T) {
	const mb = 1 << 20
	for _, c := range []struct {
		why string
		was uint64 // allocated until then
		is  usage
		due bool
	}{
		{"a small process", 100 * mb, usage{live: 8 * mb, objects: 12 * mb, free: 8 * mb, allocated: 100 * mb}, false},
		{"garbage after a burst", 900 * mb, usage{live: 100 * mb, objects: 140 * mb, allocated: 900 * mb}, true},
		{"free memory after a burst", 900 * mb, usage{live: 100 * mb, objects: 100 * mb, free: 30 * mb, allocated: 901 * mb}, true},
		{"in the middle of it", 800 * mb, usage{live: 100 * mb, objects: 140 * mb, free: 30 * mb, allocated: 900 * mb}, false},
		{"right after a collection", 900 * mb, usage{live: 100 * mb, objects: 101 * mb, free: 1 * mb, allocated: 901 * mb}, false},
		{"less than an eighth", 900 * mb, usage{live: 400 * mb, objects: 430 * mb, free: 10 * mb, allocated: 901 * mb}, false},
		{"some of what lived was freed by hand", 900 * mb, usage{live: 100 * mb, objects: 90 * mb, free: 10 * mb, allocated: 901 * mb}, false},
	} {
		if got := c.is.due(usage{allocated: c.was}, worth); got != c.due {
			t.Errorf("%s: due is %v", c.why, got)
		}
	}
}

const worth = 16 << 20

var held [][]byte

// forced is how many collections somebody asked for.
func forced() uint64 {
	s := []metrics.Sample{{Name: "/gc/cycles/forced:gc-cycles"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// What a burst leaves behind is gone an interval or two later, and for one collection: those
// are most of what an idle mesh costs in its first seconds.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		for range 8 * worth >> 20 {
			held = append(held, make([]byte, 1<<20))
		}
		runtime.GC() // live is the burst's peak
		held = nil
		go func() { ended <- Run(ctx, worth) }()
		runtime.GC()
		before := forced()
		time.Sleep(20 * interval) // of the bubble's clock
		synctest.Wait()
		if is := read(); is.free >= worth {
			t.Errorf("%d bytes are kept", is.free)
		}
		if n := forced() - before; n != 1 {
			t.Errorf("%d collections were forced", n)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
