package memory

import (
	"runtime/debug"
	"testing"
)

// A level begins at its share of the limit and ends somewhat below it, whichever way one comes.
func TestLevels(t *testing.T) {
	var g Gauge
	for i, s := range []struct {
		used, limit int64
		want        Level
	}{
		{500, 1000, Calm},
		{849, 1000, Calm},
		{850, 1000, Shed},
		{820, 1000, Shed}, // not yet enough
		{799, 1000, Calm},
		{820, 1000, Calm}, // on the way up it is not enough either
		{960, 1000, Stop}, // two at once
		{930, 1000, Stop},
		{899, 1000, Shed},
		{2000, 1000, Stop},
		{100, 1000, Calm}, // and two back
		{990, 1000, Stop},
		{990, 0, Calm}, // nobody limits it any more
	} {
		if got := g.Step(s.used, s.limit); got != s.want {
			t.Fatalf("step %d: %d of %d is %v, want %v", i, s.used, s.limit, got, s.want)
		}
	}
}

// Garbage does not count, what is kept does, and without a limit there is nothing to measure.
func TestRuntime(t *testing.T) {
	old := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(old)
	meter := Runtime()
	if old > 1<<60 {
		if used, limit := meter(); used == 0 || limit != 0 {
			t.Errorf("%d of %d in use without a limit", used, limit)
		}
	}
	const much = 64 << 20
	debug.SetMemoryLimit(100 * much)
	debug.FreeOSMemory()
	before, limit := meter()
	if limit != 100*much || before <= 0 || before >= much {
		t.Errorf("%d of %d are in use by nearly nothing", before, limit)
	}
	kept := make([]byte, much)
	debug.FreeOSMemory()
	if n, _ := meter(); n < before+much*9/10 || n > before+2*much {
		t.Errorf("%d bytes in use before and %d with %d more", before, n, much)
	}
	clear(kept)
	kept = nil
	debug.FreeOSMemory()
	if n, _ := meter(); n > before+much/2 {
		t.Errorf("%d bytes in use before and %d after %d were let go", before, n, len(kept))
	}
}
