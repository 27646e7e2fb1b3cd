package control

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weirmesh/weir/internal/memory"
)

// errFull sends a proxy to another replica at once: Unavailable is what it does not wait long for.
var errFull = status.Error(codes.Unavailable, "the control plane's memory is nearly used up, it takes no more proxies: another replica may, or raise its memory limit")

// watchMemory follows how near the process is to the memory it may have. Proxies that are served keep being served: what takes memory is
// those that come. From Shed on no other replica gives its proxies here, and some of those here are asked to go to others that have
// room (giveAway); at Stop new streams are refused.
func (p *Plane) watchMemory(ctx context.Context) error {
	var g memory.Gauge
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		used, limit := p.o.Memory()
		if limit <= 0 {
			return nil // nobody limits it, and nothing here changes that
		}
		p.press(g.Step(used, limit), used, limit)
		t.Reset(memory.Next(used, limit))
	}
}

func (p *Plane) press(level memory.Level, used, limit int64) {
	was := memory.Level(p.pressure.Swap(uint32(level)))
	a := []any{"now", level, "before", was, "used", used, "limit", limit, "streams", len(p.xds.Clients())}
	switch {
	case level > was:
		p.o.Log.Warn("memory is nearly used up", append(a, "remedy", "raise the memory limit (pilot.resources.limits.memory), or the number of replicas; docs/capacity.md says what a mesh needs")...)
	case level < was:
		p.o.Log.Info("memory is less used again", a...)
	}
}

// pressed is how near the process is to its limit.
func (p *Plane) pressed() memory.Level { return memory.Level(p.pressure.Load()) }

// full is server.Options.Full.
func (p *Plane) full() error {
	if p.pressed() >= memory.Stop {
		return errFull
	}
	return nil
}
