package main

import (
	"math"
	"runtime/debug"
	"testing"
	"testing/fstest"
)

// The collector keeps nine tenths of what the control group permits, unless the environment says what it is to keep. What the group
// permits is told either way.
func TestLimitMemory(t *testing.T) {
	const group = 512 << 20
	limited := fstest.MapFS{"proc/self/cgroup": {Data: []byte("0::/\n")}, "sys/fs/cgroup/memory.max": {Data: []byte("536870912\n")}}
	old := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(old) })
	for _, c := range []struct {
		name        string
		root        fstest.MapFS
		environment string
		told, kept  int64
	}{
		{"a limit", limited, "", group, group / 10 * 9},
		{"a limit, and GOMEMLIMIT", limited, "100MiB", group, math.MaxInt64},
		{"no limit", fstest.MapFS{}, "", 0, math.MaxInt64},
	} {
		t.Setenv("GOMEMLIMIT", c.environment)
		debug.SetMemoryLimit(math.MaxInt64) // the runtime has read GOMEMLIMIT long ago: left alone means this
		if told := limitMemory(c.root); told != c.told {
			t.Errorf("%s: the group permits %d, want %d", c.name, told, c.told)
		}
		if kept := debug.SetMemoryLimit(-1); kept != c.kept {
			t.Errorf("%s: the collector's limit is %d, want %d", c.name, kept, c.kept)
		}
	}
}
