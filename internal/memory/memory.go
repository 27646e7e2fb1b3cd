// Package memory says how near a process is to the memory it may have.
//
// How much memory is in use and how much there may be enters (a Meter, of the Go runtime by Runtime, of a test
// by the test); a Level leaves, for the program to act on. Gauge is a machine without clock and lock: one goroutine steps it.
// Proxy and control plane have it; what each gives up at a level is theirs. Obey changes the process: it is for a program's main.
package memory

import (
	"io/fs"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/weirmesh/weir/internal/cgroup"
)

// Level is how much is given up: each level includes those before.
type Level uint8

// Levels.
const (
	Calm  Level = iota
	Shed        // what is idle, or can be somewhere else, goes: its memory is somebody's who works
	Stop        // besides, newcomers are refused: who is being served is served to the end
	count       // how many there are
)

// String is how logs and metrics call a level.
func (l Level) String() string { return [count]string{"calm", "shedding", "stopped"}[l] }

// enter is the share of the limit from which on a level holds, leave below which it does so no longer. In between it
// depends on where one comes from, so that the connections that one level closes do not end it at once and come back.
// Between Stop and the limit there must be room for what is under way, and for a collector that works harder and harder:
// at 98 % of GOMEMLIMIT Go's spends half of all processors.
var (
	enter = [count]float64{0, 0.85, 0.95}
	leave = [count]float64{0, 0.80, 0.90}
)

// Gauge follows a Meter.
type Gauge struct{ level Level }

// Step is told how much is in use, and says what holds from now on. A limit of 0 is none.
func (g *Gauge) Step(used, limit int64) Level {
	if limit <= 0 {
		g.level = Calm
		return g.level
	}
	share := float64(used) / float64(limit)
	for g.level < count-1 && share >= enter[g.level+1] {
		g.level++
	}
	for g.level > Calm && share < leave[g.level] {
		g.level--
	}
	return g.level
}

// Next is when to look again: often where something may happen soon, and rarely else, because a proxy with nothing to do
// should not wake up. Filling the last third of 100 MB takes a second even of many thousand connections.
func Next(used, limit int64) time.Duration {
	if limit > 0 && float64(used) >= 0.7*float64(limit) {
		return 100 * time.Millisecond
	}
	return time.Second
}

// Meter says how many bytes are in use, and how many there may be; limit 0: nobody said.
type Meter func() (used, limit int64)

// Runtime is the Meter of this process: its limit is GOMEMLIMIT, which is set by the control group where it is not said.
// In use is what the collector could not free the last time, and what is not its business (stacks, its own tables, space
// between objects). What came since then is not counted: most of it is garbage, and near the limit a collection follows
// the next. Memory as the kernel counts it would be near the limit all the time, because there is no reason to collect earlier.
func Runtime() Meter {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"}}
	return func() (used, limit int64) {
		if limit = debug.SetMemoryLimit(-1); limit == math.MaxInt64 {
			limit = 0
		}
		metrics.Read(samples)
		v := func(i int) int64 {
			if samples[i].Value.Kind() != metrics.KindUint64 {
				return 0
			}
			return int64(samples[i].Value.Uint64())
		}
		return v(0) - v(1) - v(2) - max(0, v(3)-v(4)), limit
	}
}

// Obey makes what the control group permits the collector's limit, unless said: then the environment has (GOMEMLIMIT). root is the file
// system of /proc and /sys; group is what the group permits, 0 without a limit. Without a limit of the collector a burst ends in the kernel's
// hands before it runs.
func Obey(root fs.FS, said bool) (group int64) {
	group, ok := cgroup.Memory(root)
	if ok && !said {
		debug.SetMemoryLimit(group / 10 * 9) // the rest is what it does not count: stacks of the kernel, buffers of sockets, pages of files
	}
	return group
}
