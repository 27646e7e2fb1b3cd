package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/control/field"
	"github.com/weirmesh/weir/control/why"
	"github.com/weirmesh/weir/xds/resource"
	"github.com/weirmesh/weir/xds/server"
)

// observer is what the streams tell: metrics, receipts, events.
type observer struct {
	*instruments
	p *Plane
}

// Rejected is server.Observer.
func (o observer) Rejected(node, typeURL string, n *server.NACK, resources []*resource.Resource) {
	o.rejects.WithLabelValues(metricType(typeURL)).Inc()
	now := time.Now()
	var list []apiv1.Event
	for _, r := range resources {
		if !slices.Contains(n.Names, r.Name()) || len(list) == maxBlamed {
			continue
		}
		if x := o.p.receipts.newest(r); x != nil {
			e := x.event("rejected")
			e.Proxy, e.Message = workloadOf(node), resource.Short(typeURL)+" "+r.Name()+": "+clip(n.Message)
			list = append(list, e)
		}
	}
	o.p.events.add(now, list...)
	if typeURL == resource.ClusterType {
		o.p.past.rejected(node, n.Names, o.p.blamed(resources, n), clip(n.Message), now)
	}
	o.p.watch.poke()
}

// blamed are the fields of DestinationRules that resources which were not taken are made by: those whose text the proxy has in its
// message, if there are such.
func (p *Plane) blamed(resources []*resource.Resource, n *server.NACK) map[string][]why.Pointer {
	out := map[string][]why.Pointer{}
	objects := p.lookUp(context.Background())
	for _, r := range resources {
		if !slices.Contains(n.Names, r.Name()) || len(out) == mostOfResponse {
			continue
		}
		for _, o := range r.Origins() {
			p := strings.Split(o.Value(), "/")
			if len(p) != 3 || p[0] != "DestinationRule" {
				continue
			}
			x := why.Pointer{Ref: why.Ref{Kind: p[0], Namespace: p[1], Name: p[2]}, Field: "trafficPolicy"}
			if text, ok := objects.Object(p[0], p[1], p[2]); ok {
				x.Field = field.Mentioned(text.Root, x.Field, clip(n.Message))
			}
			out[r.Name()] = append(out[r.Name()], x)
		}
	}
	return out
}

// Mended is server.Observer.
func (o observer) Mended(node, typeURL, name string) {
	if typeURL == resource.ClusterType {
		o.p.past.mended(node, name, time.Now())
	}
}

// maxBlamed bounds the events of one NACK.
const maxBlamed = 8

// Applied is server.Observer.
func (o observer) Applied(after, to uint64, resources []*resource.Resource) {
	o.p.receipts.applied(after, to, resources, time.Now())
	o.p.watch.poke()
}

// Left is server.Observer.
func (o observer) Left(node string) {
	o.p.watch.left(workloadOf(node), time.Now())
	o.p.watch.poke()
}

// clip bounds what a proxy wrote.
func clip(s string) string {
	const longest = 1000
	if len(s) > longest {
		s = s[:longest] + "…"
	}
	return strings.ToValidUTF8(s, "�")
}

func (x *receipt) event(what string) apiv1.Event {
	return apiv1.Event{Type: what, Kind: x.id.Kind, Namespace: x.id.Namespace, Name: x.id.Name, Mesh: x.mesh}
}

// watch follows changes until they are active everywhere. Whoever waits for something
// that streams do wakes with it.
type watch struct {
	wake chan struct{}

	mu      sync.Mutex
	pending []*receipt
	gone    map[string]time.Time // workloads whose last stream ended, and when
	moved   chan struct{}        // closed, and made anew, when something may have changed
}

const (
	// A change is active within some ten milliseconds, and whoever applied it waits for the look
	// after that. In a small mesh a look costs 0.1 ms.
	lookInterval = 10 * time.Millisecond
	// Views may be published without a word of any stream, so pending changes are looked
	// at without one, too, less and less often.
	maxLookInterval = 2 * time.Second
	maxGone         = 10_000
)

func newWatch() *watch {
	return &watch{wake: make(chan struct{}, 1), gone: map[string]time.Time{}, moved: make(chan struct{})}
}

func (w *watch) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watch) left(workload string, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.gone) >= maxGone {
		clear(w.gone)
	}
	w.gone[workload] = now
}

// last is when the last stream of a workload's proxy ended; zero: none has, that is known.
func (w *watch) last(workload string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gone[workload]
}

// follow adds changes.
func (w *watch) follow(fresh []*receipt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range fresh {
		if x.state == store.Compiled && !isPod(x.id) { // Pods come and go; nobody waits for one
			w.pending = append(w.pending, x)
		}
	}
	if len(w.pending) > 0 {
		w.poke()
	}
}

func isPod(id config.ID) bool { return id.Group == "" && id.Kind == "Pod" }

// next is closed when something may have changed.
func (w *watch) next() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.moved
}

// settle runs until ctx ends.
func (p *Plane) settle(ctx context.Context) error {
	w := p.watch
	pause := lookInterval
	var looks pace
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
			pause = lookInterval
		case <-again.C:
			pause = min(2*pause, maxLookInterval)
		}
		w.mu.Lock()
		close(w.moved)
		w.moved = make(chan struct{})
		pending := w.pending
		w.pending = nil
		w.mu.Unlock()
		pending = slices.DeleteFunc(pending, func(x *receipt) bool { return p.receipts.of(x.id.String()) != x })
		now := time.Now()
		counts, _ := p.census.take(pending, 0)
		rest := lookInterval
		if len(pending) > 0 {
			rest = looks.after(time.Since(now))
		}
		var left []*receipt
		var done []apiv1.Event
		for i, x := range pending {
			if n := &counts[i]; n.unknown > 0 || n.active < n.needed {
				left = append(left, x)
				continue
			}
			active := counts[i].active
			x.done.Store(&active)
			if counts[i].needed > 0 {
				x.settled.Store(now.UnixNano())
				e := x.event("active")
				e.Message = fmt.Sprintf("on %d of %d proxies that need it", counts[i].active, counts[i].needed)
				if s := x.took.Load(); s != nil {
					e.Message += fmt.Sprintf(", p50 %s, p99 %s", brief(s.quantile(.5)), brief(s.quantile(.99)))
				}
				done = append(done, e)
			}
		}
		p.events.add(now, done...)
		w.mu.Lock()
		w.pending = append(left, w.pending...)
		waiting := len(w.pending) > 0
		w.mu.Unlock()
		select { // not more often than that, whatever happens
		case <-ctx.Done():
			return nil
		case <-time.After(rest):
		}
		if waiting {
			again.Reset(pause)
		}
	}
}

// pace keeps looks to a twentieth of the time. What counts is the quickest of the last few: on
// a busy machine a look of 0.1 ms takes 10 ms now and then, because others ran meanwhile, and
// whoever waits for a change would wait 200 ms for that.
type pace struct {
	took [4]time.Duration
	n    int
}

// after is how long to wait after a look that took so long.
func (p *pace) after(took time.Duration) time.Duration {
	p.took[p.n%len(p.took)] = took
	p.n++
	return max(lookInterval, 20*slices.Min(p.took[:min(p.n, len(p.took))]))
}

func brief(d time.Duration) string {
	if d < 10*time.Millisecond {
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}

// note dates what changed and tells it.
func (p *Plane) note(old, cur *store.Update) {
	now := time.Now()
	fresh, removed := p.receipts.note(old, cur, now)
	var list []apiv1.Event
	if old != nil { // what is there at the beginning is no event
		for _, x := range fresh {
			if isPod(x.id) {
				continue
			}
			e := x.event(string(x.state))
			if o := cur.Objects.At(x.id.String()); o != nil && x.state != store.Compiled {
				for _, f := range o.Findings {
					if f.Severity == config.Error {
						e.Message = strings.TrimPrefix(f.FieldPath+": "+f.Message, ": ")
						break
					}
				}
				if o.LastGood() {
					e.Message += "; its last good version stays in force"
				}
			}
			list = append(list, e)
		}
		for _, x := range removed {
			if !isPod(x.id) {
				e := x.event("removed")
				e.Mesh = cur.Snapshot.Version
				list = append(list, e)
			}
		}
	}
	p.events.add(now, list...)
	p.watch.follow(fresh)
	p.pushers.note(old, cur, fresh, removed, now)
}
