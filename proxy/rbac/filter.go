package rbac

import (
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// Filter is one filter of a chain: rules that are enforced, and rules that are only watched.
type Filter struct {
	Rules  *Rules // nil: nothing is denied
	Shadow *Rules // nil: nothing is watched
	// Counts outlive the configuration.
	Counts *Counts
}

// Counts are the filter's statistics, by Envoy's names. They may be read at any time.
type Counts struct {
	// Prefix is that of what is enforced, ShadowPrefix of what is only watched.
	Prefix, ShadowPrefix        string
	Allowed, Denied             atomic.Uint64
	Logged, NotLogged           atomic.Uint64 // of rules that only mark
	ShadowAllowed, ShadowDenied atomic.Uint64
}

// Enforce decides and counts. Of several readings of one request each has to be allowed.
func (f *Filter) Enforce(readings ...*Facts) Decision {
	if f.Shadow != nil {
		if f.Shadow.decide(readings).Allowed {
			f.Counts.ShadowAllowed.Add(1)
		} else {
			f.Counts.ShadowDenied.Add(1)
		}
	}
	if f.Rules == nil {
		return Decision{Allowed: true}
	}
	d := f.Rules.decide(readings)
	switch {
	case f.Rules.Action == Log && d.Policy != nil:
		f.Counts.Logged.Add(1)
	case f.Rules.Action == Log:
		f.Counts.NotLogged.Add(1)
	case d.Allowed:
		f.Counts.Allowed.Add(1)
	default:
		f.Counts.Denied.Add(1)
	}
	return d
}

func (r *Rules) decide(readings []*Facts) (d Decision) {
	for _, f := range readings {
		for f.reread(); ; {
			if d = r.Decide(f); !d.Allowed || r.Action == Log && d.Policy != nil {
				return d
			}
			if f.readings.over && r.Action != Log {
				return Decision{} // there are more ways to read it than are looked at: one of them may be denied
			}
			if !f.next() {
				break
			}
		}
	}
	return d
}

// Enforce decides by several filters, of which each has to let the facts pass; the decision is the last one's, with the
// first policy that marks. again: of facts that were counted before.
func Enforce(filters []*Filter, again bool, readings ...*Facts) Decision {
	d := Decision{Allowed: true}
	var marked *Policy
	for _, f := range filters {
		switch {
		case !again:
			d = f.Enforce(readings...)
		case f.Rules != nil:
			d = f.Rules.decide(readings)
		}
		if marked == nil && f.Rules != nil && f.Rules.Action == Log {
			marked = d.Policy
		}
		if !d.Allowed {
			break
		}
	}
	d.Marked = marked
	return d
}

// Ledger has the Counts of all filters there ever were. Its methods may be called from any goroutine.
type Ledger struct {
	mu sync.Mutex
	m  map[string]*Counts
}

// NewLedger makes an empty Ledger.
func NewLedger() *Ledger { return &Ledger{m: map[string]*Counts{}} }

// Of are the Counts of the filters with these prefixes.
func (l *Ledger) Of(prefix, shadowPrefix string) *Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := prefix + "|" + shadowPrefix
	c := l.m[key]
	if c == nil {
		c = &Counts{Prefix: prefix, ShadowPrefix: shadowPrefix}
		l.m[key] = c
	}
	return c
}

// All yields names and values, in order of the prefixes: those that are watched only if something was.
func (l *Ledger) All() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		l.mu.Lock()
		m := maps.Clone(l.m)
		l.mu.Unlock()
		for _, key := range slices.Sorted(maps.Keys(m)) {
			c := m[key]
			watched := c.ShadowAllowed.Load()+c.ShadowDenied.Load() > 0
			marks := c.Logged.Load()+c.NotLogged.Load() > 0
			for _, one := range []struct {
				name  string
				value uint64
				shown bool
			}{
				{c.Prefix + "allowed", c.Allowed.Load(), true}, {c.Prefix + "denied", c.Denied.Load(), true},
				{c.Prefix + "logged", c.Logged.Load(), marks}, {c.Prefix + "not_logged", c.NotLogged.Load(), marks},
				{c.ShadowPrefix + "shadow_allowed", c.ShadowAllowed.Load(), watched}, {c.ShadowPrefix + "shadow_denied", c.ShadowDenied.Load(), watched},
			} {
				if one.shown && !yield(one.name, one.value) {
					return
				}
			}
		}
	}
}
