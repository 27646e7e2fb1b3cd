package ca

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/weirmesh/weir/identity"
)

// Rehearsal runs the machines that keep a mesh's identities, Succession and identity.Rotation,
// ahead of time: with the roots there are, workloads that ask for certificates, an
// authority that is away now and then, and machines that sleep. Nothing is signed.
type Rehearsal struct {
	From  time.Time
	Until time.Time
	Roots []Root
	// Succeeds says that the mesh makes successors of its roots; an organisation's are its own affair.
	Succeeds bool
	// Signing is the end of the signing certificate and those above it, zero for that of the root.
	Signing time.Time
	TTL     time.Duration // of certificates; zero: 24 h
	Longest time.Duration // that is granted; zero: MaxTTL
	// Away is the part of the time in which nobody signs, in spells of up to Spell (zero: 6 h).
	Away  float64
	Spell time.Duration
	// Sleeps has machines sleep for up to three days every week or so.
	Sleeps    bool
	Workloads int // zero: 10
	Seed      uint64

	life time.Duration // of the roots that are made; zero: rootLife
}

// Rehearsed is what happened.
type Rehearsed struct {
	Issued, Refused int
	Events          []Event // of roots, by time
	// Lapses are workloads that were awake and without a certificate, the longest one of each
	// kind. One is avoidable if the authority was there and could sign.
	Lapses []Lapse
	// Refusals are pairs with good certificates of which one refused the other.
	Refusals []Event
}

// Event is something that happened.
type Event struct {
	At   time.Time
	What string
}

// Lapse is a time without a certificate.
type Lapse struct {
	From      time.Time
	For       time.Duration
	Why       string
	Avoidable bool
}

const (
	// tolerated is how long a workload may be without a certificate once the authority
	// is there: the longest retry, with its jitter.
	tolerated = 13 * time.Second
	// leastThere is enough that whoever is due asks once.
	leastThere = 10 * time.Minute
	// maxRefusals and the like are enough to see what is wrong.
	maxRefusals = 20
)

type rehearsed struct {
	rotation    *identity.Rotation
	root        int   // that its certificate leads to
	trusts      []int // roots that came with it
	until       time.Time
	wakes       time.Time // asleep until then
	sleeps      time.Time // falls asleep then
	bare, there time.Duration
	bareSince   time.Time
	why         string
}

// Run rehearses.
func (r Rehearsal) Run() Rehearsed {
	if r.TTL == 0 {
		r.TTL = defaultTTL
	}
	if r.Longest == 0 {
		r.Longest = MaxTTL
	}
	if r.Workloads == 0 {
		r.Workloads = 10
	}
	if r.Spell == 0 {
		r.Spell = 6 * time.Hour
	}
	if r.life == 0 {
		r.life = rootLife
	}
	s := &stage{Rehearsal: r, rnd: rand.New(rand.NewPCG(r.Seed, 7)), now: r.From, roots: slices.Clone(r.Roots)}
	for range r.Workloads {
		w := &rehearsed{rotation: &identity.Rotation{Rand: s.rnd.Float64}, root: -1}
		if r.Sleeps {
			w.sleeps = s.now.Add(s.between(time.Hour, 200*time.Hour))
		}
		s.workloads = append(s.workloads, w)
	}
	s.turns = s.now.Add(s.there())
	for s.now.Before(r.Until) {
		s.step()
	}
	slices.SortStableFunc(s.out.Events, func(a, b Event) int { return a.At.Compare(b.At) })
	return s.out
}

// stage is a rehearsal under way.
type stage struct {
	Rehearsal
	rnd       *rand.Rand
	now       time.Time
	roots     []Root
	plan      Plan
	planned   time.Time // when plan has to be made anew; zero: now
	away      bool
	turns     time.Time // when away changes
	workloads []*rehearsed
	out       Rehearsed
}

func (s *stage) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(s.rnd.Int64N(int64(max(hi-lo, 1))))
}

// there is how long the authority stays, so that it is away for the part that is asked for.
func (s *stage) there() time.Duration {
	if s.Away <= 0 {
		return s.Until.Sub(s.From) + time.Hour
	}
	mean := float64(s.Spell) / 2 * (1 - s.Away) / s.Away
	return s.between(leastThere, max(leastThere, time.Duration(2*mean)))
}

// signs is the root that signs now, or why none does.
func (s *stage) signs() (int, string) {
	if s.away {
		return -1, "nobody was there to sign"
	}
	if s.planned.IsZero() || !s.now.Before(s.planned) {
		s.replan()
	}
	i := s.plan.Signer
	if i < 0 {
		// An organisation's root: the one that ends last.
		for j, root := range s.roots {
			if i < 0 || root.Until.After(s.roots[i].Until) {
				i = j
			}
		}
	}
	if i < 0 || !s.now.Before(s.ends(i)) {
		return -1, "the signing certificate had ended, and nobody put another in its place"
	}
	return i, ""
}

// ends is when certificates of a root end at the latest.
func (s *stage) ends(i int) time.Time {
	if !s.Signing.IsZero() && !s.Succeeds {
		return earlier(s.Signing, s.roots[i].Until)
	}
	return s.roots[i].Until
}

func (s *stage) replan() {
	before := s.plan
	machine := Succession{s.Longest}
	if s.plan = machine.Step(s.now, s.roots); s.plan.Make && s.Succeeds {
		s.roots = append(s.roots, Root{s.now.Add(-backdate), s.now.Add(s.life), true})
		s.plan = machine.Step(s.now, s.roots)
		s.note("root %d is made, and trusted beside the others from now on", len(s.roots))
	}
	if s.planned = s.plan.Next; s.planned.IsZero() {
		s.planned = s.Until.Add(time.Hour)
	}
	if before.Trust != nil && s.plan.Signer != before.Signer {
		s.note("root %d signs instead of root %d", s.plan.Signer+1, before.Signer+1)
	}
	for _, i := range before.Trust {
		if !slices.Contains(s.plan.Trust, i) {
			s.note("root %d is no longer trusted: no certificate leads to it", i+1)
		}
	}
}

func (s *stage) note(format string, args ...any) {
	s.out.Events = append(s.out.Events, Event{s.now, fmt.Sprintf(format, args...)})
}

// step lets everybody do what is due, and time pass until the next thing is.
func (s *stage) step() {
	signer, why := s.signs()
	next := earlier(s.turns, s.Until)
	if !s.planned.IsZero() && s.planned.After(s.now) {
		next = earlier(next, s.planned)
	}
	for _, w := range s.workloads {
		if s.now.Before(w.wakes) {
			next = earlier(next, w.wakes)
			continue
		}
		if w.rotation.Wait(s.now) == 0 {
			s.ask(w, signer)
		}
		due := s.now.Add(max(time.Millisecond, w.rotation.Wait(s.now)))
		if !w.rotation.Holding(s.now) && signer < 0 { // those until then are refused, too
			last := s.Until
			if s.away {
				last = s.turns.Add(-2 * tolerated)
			}
			if due.Before(last) {
				due = last
			}
		}
		next = earlier(next, due)
		if w.rotation.Holding(s.now) {
			next = earlier(next, w.until)
		}
		if s.Sleeps {
			next = earlier(next, w.sleeps)
		}
	}
	passed := next.Sub(s.now)
	for _, w := range s.workloads {
		if !s.now.Before(w.wakes) {
			s.account(w, passed, signer >= 0, why)
		}
		if s.Sleeps && !next.Before(w.sleeps) {
			w.wakes = next.Add(s.between(time.Minute, 72*time.Hour))
			w.sleeps = w.wakes.Add(s.between(time.Hour, 200*time.Hour))
		}
	}
	if s.now = next; !s.now.Before(s.turns) {
		if s.away = !s.away; s.away {
			s.turns = s.now.Add(s.between(0, s.Spell))
		} else {
			s.turns = s.now.Add(s.there())
		}
	}
}

// ask is a request for a certificate.
func (s *stage) ask(w *rehearsed, signer int) {
	if signer < 0 {
		s.out.Refused++
		w.rotation.Failed(s.now)
		return
	}
	s.out.Issued++
	w.until = earlier(s.now.Add(min(s.TTL, s.Longest)), s.ends(signer))
	w.root, w.trusts = signer, s.plan.Trust
	w.rotation.Signed(s.now, s.now.Add(-backdate), w.until)
	for _, o := range s.workloads {
		if o == w || o.root < 0 || !s.now.Before(o.until) {
			continue
		}
		if !slices.Contains(o.trusts, w.root) || !slices.Contains(w.trusts, o.root) {
			if len(s.out.Refusals) < maxRefusals {
				s.out.Refusals = append(s.out.Refusals, Event{s.now, fmt.Sprintf("certificates of root %d and root %d are in use, and one does not know the other", w.root+1, o.root+1)})
			}
		}
	}
}

// account notes time that passed without a certificate.
func (s *stage) account(w *rehearsed, passed time.Duration, there bool, why string) {
	if w.rotation.Holding(s.now) {
		w.bare, w.there = 0, 0
		return
	}
	if w.bare == 0 {
		w.bareSince, w.why = s.now, why
		if there {
			w.why = "it had not asked again yet"
		}
	}
	w.bare += passed
	if there {
		w.there += passed
	} else {
		w.there = 0
	}
	if w.bare <= tolerated {
		return
	}
	l := Lapse{w.bareSince, w.bare, w.why, w.there > tolerated}
	if i := slices.IndexFunc(s.out.Lapses, func(o Lapse) bool { return o.Why == w.why && o.Avoidable == l.Avoidable }); i < 0 {
		s.out.Lapses = append(s.out.Lapses, l)
	} else if l.For > s.out.Lapses[i].For {
		s.out.Lapses[i] = l
	}
}
