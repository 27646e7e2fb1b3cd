package memory

import (
	"math"
	"runtime/debug"
	"testing"
	"testing/fstest"
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

// The collector keeps nine tenths of what the control group permits, unless the environment says what it is to keep. What the group
// permits is told either way.
func TestObey(t *testing.T) {
	const group = 512 << 20
	limited := fstest.MapFS{"proc/self/cgroup": {Data: []byte("0::/\n")}, "sys/fs/cgroup/memory.max": {Data: []byte("536870912\n")}}
	old := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(old) })
	for _, c := range []struct {
		name       string
		root       fstest.MapFS
		said       bool
		told, kept int64
	}{
		{"a limit", limited, false, group, group / 10 * 9},
		{"a limit, and GOMEMLIMIT", limited, true, group, math.MaxInt64},
		{"no limit", fstest.MapFS{}, false, 0, math.MaxInt64},
	} {
		debug.SetMemoryLimit(math.MaxInt64)
		if told := Obey(c.root, c.said); told != c.told {
			t.Errorf("%s: the group permits %d, want %d", c.name, told, c.told)
		}
		if kept := debug.SetMemoryLimit(-1); kept != c.kept {
			t.Errorf("%s: the collector's limit is %d, want %d", c.name, kept, c.kept)
		}
	}
}
