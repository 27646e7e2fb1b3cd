package ca

import (
	"slices"
	"time"
)

const (
	// settle is how much later than needed a root signs or is given up: replicas follow
	// their Secret within seconds, and clocks of machines differ by less than this.
	settle = time.Hour
	// A root is replaced this many longest lives of a certificate before its end: for one
	// the new root is trusted and does not sign, for one the old does not sign and is
	// trusted, and one is to spare.
	phases = 3
)

// Root is a root as its succession sees it.
type Root struct {
	From, Until time.Time // validity
	Ours        bool      // its key is here
}

// Succession decides which of a mesh's own roots signs, which are trusted, and when another
// is made. It is a pure machine without a memory: what it says follows from the
// roots and the clock, so that replicas and later runs come to the same, and a clock
// that was wrong for a while changes nothing for good.
//
// Roots come with certificates. So once a root was trusted for the longest life of a
// certificate, everybody who holds a usable one trusts it, and it may sign; and once it has
// not signed for as long, no usable certificate needs it.
type Succession struct {
	Leaf time.Duration // the longest life of a certificate
}

// Plan says what roots are for at one moment.
type Plan struct {
	Signer int   // index of the root that signs; -1: none is ours
	Trust  []int // those that peers are judged by
	// Make says that a successor is due. The caller adds it and asks again.
	Make bool
	// Next is when something of this changes by itself.
	Next time.Time
	// Begins and Retires are when each root begins to sign, and ceases to be
	// trusted; zero of those that are not ours.
	Begins, Retires []time.Time
}

// overlap is how long two roots are trusted side by side, before and after the change.
func (s Succession) overlap() time.Duration { return s.Leaf + backdate + settle }

// ahead is how long before its end a root gets a successor. One that lives too briefly for
// that gets it at half its life.
func (s Succession) ahead(r Root) time.Duration {
	return min(phases*s.overlap(), r.Until.Sub(r.From)/2)
}

// Step says what the roots are for now.
func (s Succession) Step(now time.Time, roots []Root) Plan {
	p := Plan{Signer: -1, Begins: make([]time.Time, len(roots)), Retires: make([]time.Time, len(roots))}
	soon := func(t time.Time) {
		if t.After(now) && (p.Next.IsZero() || t.Before(p.Next)) {
			p.Next = t
		}
	}
	var line []int // ours, the oldest first
	for i, r := range roots {
		if r.Ours {
			line = append(line, i)
		}
	}
	slices.SortStableFunc(line, func(a, b int) int { return roots[a].From.Compare(roots[b].From) })
	newest := -1 // of those that were made by now: a clock that was ahead may have made others
	for n, i := range line {
		r := roots[i]
		p.Begins[i], p.Retires[i] = r.From.Add(backdate), r.Until
		if n > 0 {
			before := line[n-1]
			p.Begins[i] = s.begins(r, roots[before])
			if t := p.Begins[i].Add(s.overlap()); t.Before(roots[before].Until) {
				p.Retires[before] = t
			}
			soon(p.Retires[before])
		}
		soon(r.From)
		soon(p.Begins[i])
		soon(r.Until)
		if !now.Before(r.From) {
			newest = i
		}
		if p.Signer < 0 || !now.Before(p.Begins[i]) {
			p.Signer = i
		}
	}
	if newest >= 0 {
		due := roots[newest].Until.Add(-s.ahead(roots[newest]))
		soon(due)
		p.Make = !now.Before(due)
	}
	for i, r := range roots {
		if !r.Ours || now.Before(p.Retires[i]) {
			p.Trust = append(p.Trust, i)
		}
	}
	return p
}

// begins is when a root that follows another begins to sign: when all trust it. If the other
// ends too early for that, there is time for whoever is awake to renew once: at the
// latest after 60 % of what is left.
func (s Succession) begins(r, before Root) time.Time {
	made := r.From.Add(backdate)
	left := max(0, before.Until.Sub(made))
	return made.Add(min(s.overlap(), left/4*3))
}
