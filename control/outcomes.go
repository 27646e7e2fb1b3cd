package control

import (
	"time"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/store"
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

// Outcomes are those of all objects that want accepts, and changed is closed when some may
// be another; what is not settled may settle without that.
func (p *Plane) Outcomes(want func(config.ID) bool) (all []Outcome, changed <-chan struct{}) {
	changed = *p.changed.Load()
	u := p.latest.Load()
	if u == nil {
		return nil, changed
	}
	type about struct{ kind, namespace, name string }
	findings := map[about][]config.Finding{}
	for _, f := range p.findings(u) {
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
	return all, changed
}
