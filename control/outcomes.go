package control

import (
	"slices"
	"time"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/internal/persist"
)

// Outcome is what became of one object: what a status written back to it says.
type Outcome struct {
	Object   *store.Object
	Findings []config.Finding // about it, also across objects
	// Settled says that its version in force has come to an end of its way: Proxies have it,
	// all that need it. Objects without a version in force are settled, too.
	Settled bool
	Proxies int
	// Since is when that version came into force.
	Since time.Time
	// Why is what keeps a version from being settled: the words of a proxy that rejected it,
	// or who has not taken it.
	Why string
}

// maxExplained bounds what is asked of the streams at a time.
const maxExplained = 32

// Told is what a caller of Outcomes was told last; the zero value is nothing.
type Told struct {
	something bool
	objects   persist.Map[string, *store.Object]
	findings  []config.Finding
}

// Outcomes are those of all objects that want accepts, and changed is closed when some may
// be another; what is not settled may settle without that. Of what was told already nothing is worked out again: then same is true, and
// there are none. Mostly it is endpoints that change.
func (p *Plane) Outcomes(want func(config.ID) bool, last *Told) (all []Outcome, same bool, changed <-chan struct{}) {
	changed = *p.changed.Load()
	u := p.latest.Load()
	if u == nil {
		return nil, false, changed
	}
	now := Told{true, u.Objects, p.findings(u)}
	if last.something && now.objects.Same(last.objects) && slices.Equal(now.findings, last.findings) {
		return nil, true, changed
	}
	*last = now
	type about struct{ kind, namespace, name string }
	findings := map[about][]config.Finding{}
	for _, f := range now.findings {
		k := about{f.Object.Kind, f.Object.Namespace, f.Object.Name}
		findings[k] = append(findings[k], f)
	}
	var waiting []*receipt
	var at []int
	for key, o := range u.Objects.All() {
		if !want(o.ID) {
			continue
		}
		out := Outcome{Object: o, Findings: findings[about{o.ID.Kind, o.ID.Namespace, o.ID.Name}], Settled: true}
		if x := p.receipts.of(key); x != nil {
			out.Since = x.since
			n := x.done.Load()
			if x.state == store.Compiled && n == nil {
				out.Settled = false
				if len(waiting) < maxExplained {
					waiting, at = append(waiting, x), append(at, len(all))
				}
			} else if n != nil {
				out.Proxies = *n
			}
		}
		all = append(all, out)
	}
	if len(waiting) > 0 {
		counts, _ := p.census.take(waiting, 1)
		for i, c := range counts {
			for _, m := range c.missing {
				all[at[i]].Why = workloadOf(m.node) + " has not taken it yet"
				if m.nack != nil {
					all[at[i]].Why = workloadOf(m.node) + " rejects it: " + clip(m.nack.Message)
				}
			}
		}
	}
	return all, false, changed
}
