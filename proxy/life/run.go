package life

import (
	"context"
	"log/slog"
	"time"
)

// Proxy is what is ended.
type Proxy interface {
	DrainInbound()
	// Busy is the number of exchanges and relayed connections under way, and whether anybody
	// from outside has ever connected.
	Busy() (active int, called bool)
}

// often is how soon the end of what is waited for is noticed. Nothing is looked at before
// the end has begun.
const often = 100 * time.Millisecond

// seldom is how soon it is noticed that the application is gone. To find out walks the hash
// table of all TCP sockets of the system: 9 ms of processor for one of 262,144 entries
// (2026-11), and a rollout ends many proxies at once.
const seldom = 500 * time.Millisecond

// Run waits for events and returns when the proxy is to exit, or ctx ends.
func Run(ctx context.Context, o Options, p Proxy, application func() Application, events <-chan Event, log *slog.Logger) error {
	m := &Machine{Options: o}
	var tick <-chan time.Time
	var v View
	var looked time.Time
	for {
		e := Look
		select {
		case e = <-events:
			log.Info("the end", "event", e)
		case <-tick:
		case <-ctx.Done():
			return nil
		}
		if now := time.Now(); m.Watches(e) && now.Sub(looked) >= seldom {
			v.Application, looked = application(), now
		}
		v.Active, v.Called = p.Busy()
		was := m.Ending()
		do := m.Step(time.Now(), e, v)
		if do.Drain {
			p.DrainInbound()
		}
		if do.Exit {
			log.Info("ending", "why", do.Why)
			return nil
		}
		if m.Ending() && !was {
			t := time.NewTicker(often)
			defer t.Stop()
			tick = t.C
		}
	}
}
