package proxy

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/internal/memory"
	"github.com/weirmesh/weir/proxy/admin"
	"github.com/weirmesh/weir/proxy/overload"
)

// pressure is how it stands about memory, for whoever asks from any goroutine.
type pressure struct {
	level       atomic.Uint32 // memory.Level
	used, limit atomic.Int64
	entered     atomic.Uint64 // how often calm ended
	shrunk      atomic.Uint64 // how often memory was given back
	// requests and connections are the shares that are refused, of math.MaxUint32.
	requests, connections atomic.Uint32
}

// refuses reports whether somebody who begins now is refused.
func refuses(share *atomic.Uint32) bool {
	n := share.Load()
	return n > 0 && (n == math.MaxUint32 || rand.Uint32() < n)
}

func (p *Proxy) noRequest() bool    { return refuses(&p.pressure.requests) }
func (p *Proxy) noConnection() bool { return refuses(&p.pressure.connections) }

// lazy is how long a client's connection is idle that is closed to make room. One on which a request may be on its way, because one was a
// moment ago or because it is new, is left alone.
const lazy = time.Second

// watchMemory looks how much memory is in use, and gives up what its level says.
func (p *Proxy) watchMemory(ctx context.Context) error {
	var g memory.Gauge
	var shrunk time.Time
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		used, limit := p.o.Memory()
		if limit <= 0 && !p.manager.Watches() {
			return nil // nobody limits it, and nothing here changes that
		}
		given, next := p.manager.Step(used, nil), memory.Next(used, limit)
		p.give(g.Step(used, limit), given, used, limit)
		if given.Shrink && time.Since(shrunk) >= p.manager.ShrinkEvery {
			debug.FreeOSMemory()
			shrunk = time.Now()
			p.pressure.shrunk.Add(1)
		}
		if p.manager.Watches() {
			next = min(next, p.manager.Every)
		}
		t.Reset(next)
	}
}

// give makes level hold, and what is given up besides.
func (p *Proxy) give(level memory.Level, given overload.Given, used, limit int64) {
	s := &p.pressure
	s.used.Store(used)
	s.limit.Store(limit)
	was := memory.Level(s.level.Swap(uint32(level)))
	if was != level {
		if was == memory.Calm {
			s.entered.Add(1)
		}
		a := []any{"now", level, "before", was, "used", used, "limit", limit}
		if level > was {
			p.o.Log.Warn("memory is nearly used up", append(a, "remedy", "raise the memory limit or GOMEMLIMIT, or find out who holds so much: weir_proxy_memory_bytes, /stats overload, pprof of the admin interface")...)
		} else {
			p.o.Log.Info("memory is less used again", a...)
		}
	}
	if level >= memory.Stop {
		given.Requests, given.Connections = 1, 1
	}
	share := func(at *atomic.Uint32, now float64, what string) {
		next := uint32(now * math.MaxUint32)
		if before := at.Swap(next); (before == 0) != (next == 0) && p.manager.Watches() {
			p.o.Log.Warn("what the overload manager refuses has changed", "what", what, "share", now, "used", used)
		}
	}
	share(&s.requests, given.Requests, "requests")
	share(&s.connections, given.Connections, "connections")
	if level < memory.Shed && !given.Idle {
		return
	}
	// Each time again: connections become idle after others were closed.
	for _, w := range p.workers {
		w.loop.Post(func() {
			w.http.CloseIdle(lazy)
			w.http.Pool().CloseIdle()
		})
	}
}

// overloads are what Envoy's overload manager counts.
func (p *Proxy) overloads() (out []admin.Stat) {
	s := &p.pressure
	if p.manager.Watches() {
		p.manager.Step(s.used.Load(), func(name string, v float64) {
			out = append(out, admin.Stat{Name: "overload." + name, Value: int64(v), Gauge: true})
		})
		return append(out, admin.Stat{Name: "overload.envoy.overload_actions.shrink_heap.shrink_count", Value: int64(s.shrunk.Load())})
	}
	limit := s.limit.Load()
	if limit == 0 {
		return nil
	}
	level := memory.Level(s.level.Load())
	active := func(action string, from memory.Level) admin.Stat {
		n := int64(0)
		if level >= from {
			n = 1
		}
		return admin.Stat{Name: "overload.envoy.overload_actions." + action + ".active", Value: n, Gauge: true}
	}
	return []admin.Stat{{Name: "overload.envoy.resource_monitors.fixed_heap.pressure", Value: s.used.Load() * 100 / limit, Gauge: true},
		active("disable_http_keepalive", memory.Shed), active("stop_accepting_connections", memory.Stop), active("stop_accepting_requests", memory.Stop)}
}

// write writes how it stands in Prometheus' words; nothing where memory is not limited.
func (s *pressure) write(out io.Writer) error {
	limit := s.limit.Load()
	if limit == 0 {
		return nil
	}
	_, err := fmt.Fprintf(out, "# HELP weir_proxy_memory_bytes Memory that cannot be freed, and how much there may be (GOMEMLIMIT).\n# TYPE weir_proxy_memory_bytes gauge\n"+
		"weir_proxy_memory_bytes{of=\"used\"} %d\nweir_proxy_memory_bytes{of=\"limit\"} %d\n"+
		"# HELP weir_proxy_overload_level What is given up for want of memory: 0 nothing, 1 idle connections, 2 new connections and requests.\n# TYPE weir_proxy_overload_level gauge\n"+
		"weir_proxy_overload_level %d\n"+
		"# HELP weir_proxy_overloads_total How often something had to be given up.\n# TYPE weir_proxy_overloads_total counter\nweir_proxy_overloads_total %d\n",
		s.used.Load(), limit, s.level.Load(), s.entered.Load())
	return err
}
