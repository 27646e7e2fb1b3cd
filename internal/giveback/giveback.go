// Package giveback returns memory to the kernel after bursts.
//
// Nothing enters, nothing leaves: Run looks at what the runtime says of this process, and
// collects garbage once what a burst left is most of what there is to gain and nobody is
// busy any more. It is for the process as a whole, so only a program's main may run it.
//
// The collector by itself waits for the next burst (or two minutes), and keeps what it
// freed for some minutes more.
package giveback

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// interval is between two looks. A burst, such as thousands of clients that connect, has
// pauses shorter than that.
const interval = 10 * time.Second

// usage is the memory of the process, in bytes.
type usage struct {
	live      uint64 // found alive by the last collection
	objects   uint64 // alive or not collected yet
	free      uint64 // kept from the kernel
	allocated uint64 // ever
}

// Run works until ctx ends. worth is how many bytes a collection must promise: it costs
// about 1 ms a megabyte that lives.
func Run(ctx context.Context, worth uint64) error {
	t := time.NewTicker(interval)
	defer t.Stop()
	was := read()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		is := read()
		if is.due(was, worth) {
			// One collection, though what pools hold would go at a second: that costs as much again, and
			// twenty proxies of an idle mesh do it at the same time.
			debug.FreeOSMemory()
			is = read()
		}
		was = is
	}
}

// due reports whether it is quiet, and an eighth of what lives can be had. As little as may
// be allocated in an interval, that is at most every fourth.
func (is usage) due(was usage, worth uint64) bool {
	gain := is.free + is.objects - min(is.objects, is.live)
	return gain >= max(worth, is.live/8) && is.allocated-was.allocated <= is.live/32
}

func read() usage {
	s := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/heap/allocs:bytes"},
	}
	metrics.Read(s)
	return usage{live: s[0].Value.Uint64(), objects: s[1].Value.Uint64(), free: s[2].Value.Uint64(), allocated: s[3].Value.Uint64()}
}
