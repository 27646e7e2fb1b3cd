package jwtauthn

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/weirmesh/weir/internal/jwt"
	"github.com/weirmesh/weir/proxy/cluster"
)

const (
	// spacingMax is to what spacing doubles with each fetch for a token's sake that brings nothing new, until there was
	// none for calm: tokens that name keys which do not exist must not make a provider fend us off.
	spacingMax = 2 * time.Second
	calm       = 10 * time.Second
	// A fetch that failed is repeated after againMin, doubling to againMax, and to patientMax where there are keys.
	againMin   = time.Second
	againMax   = 4 * time.Second
	patientMax = time.Minute
	// maxFirst bounds how long a request waits for the first keys there are.
	maxFirst = 5 * time.Second
	// maxUnused is how many sets are remembered that nothing uses: a listener that was taken away may come back.
	maxUnused = 64
)

// Remote is where a proxy fetches a set itself, and how often.
type Remote struct {
	Cluster                 cluster.ID
	Scheme, Authority, Path string
	Timeout                 time.Duration // of a fetch
	Fresh                   time.Duration // when a set is fetched again
	// Retries is how often a fetch that failed is repeated soon: after Base, doubling to Max.
	Retries   int
	Base, Max time.Duration
	// Again is when it is after those; 0: after a time that grows.
	Again time.Duration
}

// Fetch fetches a set.
type Fetch func(ctx context.Context, from *Remote) (text string, err error)

// place is r without its settings.
func (r Remote) place() Remote {
	return Remote{Cluster: r.Cluster, Scheme: r.Scheme, Authority: r.Authority, Path: r.Path}
}

// remote is a Remote with how it stands about it, which is under the lock of its Source.
type remote struct {
	Remote
	kept     bool        // it is fetched although no token asks
	next     *time.Timer // when
	failures int         // in a row
	space    time.Duration
	asked    bool // the fetch under way is for a token's sake
}

// Remote is the set at a place. Whoever names the same has the same Source, and of another with the same place the keys
// that it has. It is fetched once Keep says that it is in use.
func (s *Sets) Remote(r Remote) *Source {
	s.mu.Lock()
	defer s.mu.Unlock()
	if src := s.remote[r]; src != nil {
		return src
	}
	src := &Source{sets: s, absent: map[string]lack{}, remote: &remote{Remote: r, space: spacing}}
	src.keys.Store(&jwt.Keys{Placeholder: true})
	if s.fetch != nil {
		src.ask = func(ctx context.Context) (string, error) { return s.fetch(ctx, &r) }
	}
	for at, other := range s.remote {
		if at.place() == r.place() {
			other.mu.Lock()
			if other.last.After(src.last) {
				src.keys.Store(other.keys.Load())
				src.given, src.last, src.problem = other.given, other.last, other.problem
			}
			other.mu.Unlock()
		}
	}
	s.remote[r] = src
	return src
}

// Keep fetches those sets that are in use, now and again, and no others any more.
func (s *Sets) Keep(used map[*Source]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	unused := 0
	for at, src := range s.remote {
		src.keep(used[src] && !s.closed)
		if used[src] {
			continue
		}
		if unused++; unused > maxUnused {
			delete(s.remote, at)
		}
	}
}

// Close ends all fetching.
func (s *Sets) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.Keep(nil)
}

func (s *Source) keep(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.remote
	was := r.kept
	r.kept = on && s.ask != nil
	switch since := time.Since(s.last); {
	case r.kept == was:
	case !r.kept:
		if r.next != nil {
			r.next.Stop()
		}
	case s.flight != nil: // its end says when the next is
	case s.problem == nil && since < r.Fresh:
		r.next = time.AfterFunc(r.Fresh-since, s.refresh)
	default:
		s.fetchNow()
	}
}

// fetchNow begins a fetch; s.mu is held.
func (s *Source) fetchNow() {
	s.flight = &flight{done: make(chan struct{})}
	s.begin(s.flight, 0, s.remote.Timeout)
}

func (s *Source) refresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.remote.kept && s.flight == nil {
		s.fetchNow()
	}
}

// patience is how long a request waits whose token is of no key there is.
func (s *Source) patience(k *jwt.Keys) time.Duration {
	if s.remote == nil || !k.Placeholder {
		return Patience
	}
	return max(Patience, min(s.remote.Timeout, maxFirst))
}

// hurry is the least time between the last fetch and one for a token's sake; ago is when the last was.
func (r *remote) hurry(ago time.Duration) time.Duration {
	if ago > calm {
		r.space = spacing
	}
	r.asked = true
	return r.space
}

// ended notes how a fetch ended, and arranges for the next.
func (r *remote) ended(s *Source, fresh bool) {
	switch {
	case fresh:
		r.space = spacing
	case r.asked:
		r.space = min(2*r.space, spacingMax)
	}
	r.asked = false
	if r.failures++; s.problem == nil {
		r.failures = 0
	}
	if r.next != nil {
		r.next.Stop()
	}
	if r.kept {
		r.next = time.AfterFunc(r.wait(!s.keys.Load().Placeholder), s.refresh)
	}
}

// wait is how long to wait with the next fetch. Not all proxies fetch at one moment.
func (r *remote) wait(held bool) time.Duration {
	late := r.failures - r.Retries
	switch {
	case r.failures == 0:
		return r.Fresh - rand.N(r.Fresh/10+1)
	case late <= 0:
		return jittered(doubled(r.Base, r.failures-1, r.Max))
	case r.Again > 0:
		return r.Again
	case held:
		return jittered(doubled(againMin, late-1, patientMax))
	}
	return jittered(doubled(againMin, late-1, againMax))
}

func doubled(d time.Duration, times int, most time.Duration) time.Duration {
	for ; times > 0 && d < most; times-- {
		d *= 2
	}
	return min(d, most)
}

func jittered(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }
