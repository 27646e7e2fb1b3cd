package jwtauthn

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/internal/jwt"
)

const (
	// Patience is how long a request waits for keys that are newer than its token.
	Patience = 500 * time.Millisecond
	// spacing is the least time between two questions for one set. It leaves room for the second
	// question within Patience: the answer to the first may be older than the request.
	spacing = 150 * time.Millisecond
	// absence is for how long what the newest set did not verify (wanted) is refused at once: old tokens go on coming for hours
	// after a rotation.
	absence = 2 * time.Second
	// clocks is by how much an issuer's clock may be behind: a token that says that it was made after the question for which its key was not
	// there may be of a key that somebody tried before it was made, and is asked about again.
	clocks = time.Minute
	// maxAbsent bounds how many of them are remembered.
	maxAbsent = 256
	// maxHeld bounds the requests of a process that wait for keys: who would be one more is refused.
	maxHeld = 1024
)

// Ask asks for the newest version of the set at uri.
type Ask func(ctx context.Context, uri string) (text string, err error)

// Sets are the key sets of a proxy. All methods may be called from any goroutine.
type Sets struct {
	ask   Ask
	fetch Fetch
	held  atomic.Int64

	mu     sync.Mutex
	m      map[string]*Source // that the control plane fetches, by address
	remote map[Remote]*Source // that the proxy fetches
	closed bool
}

// NewSets makes an empty Sets. ask and fetch may be nil: there is nobody to ask.
func NewSets(ask Ask, fetch Fetch) *Sets {
	return &Sets{ask: ask, fetch: fetch, m: map[string]*Source{}, remote: map[Remote]*Source{}}
}

// Given takes a set from the configuration. Those of one origin have one Source; the newest that was really
// fetched counts for all.
func (s *Sets) Given(text string) (*Source, error) {
	keys, err := jwt.ParseKeys(text)
	if err != nil {
		return nil, err
	}
	if keys.URI == "" {
		src := &Source{}
		src.keys.Store(keys)
		return src, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	src := s.m[keys.URI]
	if src == nil {
		src = &Source{sets: s, absent: map[string]lack{}}
		if uri := keys.URI; s.ask != nil {
			src.ask = func(ctx context.Context) (string, error) { return s.ask(ctx, uri) }
		}
		s.m[keys.URI] = src
	}
	src.mu.Lock()
	defer src.mu.Unlock()
	if src.keys.Load() == nil || src.given != text && !keys.Placeholder {
		src.given = text
		src.keys.Store(keys)
	}
	return src, nil
}

// hold counts a request that is going to wait, false if there are too many.
func (s *Sets) hold() bool {
	if s.held.Add(1) > maxHeld {
		s.held.Add(-1)
		return false
	}
	return true
}

func (s *Sets) release() { s.held.Add(-1) }

// Source is one set of keys, as new as is known.
type Source struct {
	ask  func(context.Context) (string, error) // for the newest; nil: nobody has a newer one
	sets *Sets
	keys atomic.Pointer[jwt.Keys]

	mu      sync.Mutex
	given   string // the text that came last by configuration
	last    time.Time
	flight  *flight // the question under way, or waiting for its time
	absent  map[string]lack
	problem error // of the last answer

	remote *remote // nil: the proxy does not fetch it itself
}

// lack is that a key was not in the newest set.
type lack struct{ asked, until time.Time }

type flight struct {
	began atomic.Int64 // Unix nanoseconds; 0: it waits
	done  chan struct{}
}

// verify verifies a token, if need be with keys that are newer than the token: a provider may give a new key the name of an old one,
// so a signature that is not right asks for them as well as a name that is not known. It may take Patience.
func (s *Source) verify(t *jwt.Token) (jwt.Status, *jwt.Keys) {
	keys := s.keys.Load()
	status := keys.Verify(t)
	if status == jwt.OK || s.ask == nil || s.isAbsent(wanted(t, status), t.IssuedAt) || !s.sets.hold() {
		return status, keys
	}
	defer s.sets.release()
	came := time.Now()
	late := time.NewTimer(s.patience(keys))
	defer late.Stop()
	for {
		f := s.asked()
		select {
		case <-f.done:
		case <-late.C:
			return status, keys
		}
		if now := s.keys.Load(); now != keys {
			keys = now
			if status = keys.Verify(t); status == jwt.OK {
				return status, keys
			}
		}
		if f.began.Load() >= came.UnixNano() {
			s.setAbsent(wanted(t, status), time.Unix(0, f.began.Load()))
			return status, keys
		}
	}
}

// wanted is what is remembered of a token that the newest keys did not verify: the name of its key, or where that is there its
// own signature. Tokens of before a rotation must not keep one of the next from being asked about.
func wanted(t *jwt.Token, status jwt.Status) string {
	if status != jwt.VerificationFails {
		return t.KeyID
	}
	const enough = 32 // characters of its end, of 6 bits
	return "." + strings.Clone(t.Text[max(0, len(t.Text)-enough):])
}

// isAbsent reports whether a token is refused at once; issued is when it says that it was made, 0 if it does not.
func (s *Source) isAbsent(kid string, issued int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.absent[kid]
	if ok && time.Now().After(l.until) {
		delete(s.absent, kid)
		ok = false
	}
	return ok && (issued == 0 || time.Unix(issued, 0).Add(clocks).Before(l.asked))
}

func (s *Source) setAbsent(kid string, asked time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.absent) >= maxAbsent {
		clear(s.absent)
	}
	s.absent[kid] = lack{asked, time.Now().Add(absence)}
}

// asked is the question under way, or a new one.
func (s *Source) asked() *flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flight != nil {
		return s.flight
	}
	f := &flight{done: make(chan struct{})}
	s.flight = f
	space, limit := spacing, Patience
	if s.remote != nil {
		space, limit = s.remote.hurry(time.Since(s.last)), s.remote.Timeout
	}
	s.begin(f, space-time.Since(s.last), limit)
	return f
}

// begin asks after wait; s.mu is held.
func (s *Source) begin(f *flight, wait, limit time.Duration) {
	go func() { // ends with its context
		if wait > 0 {
			time.Sleep(wait)
		}
		began := time.Now()
		f.began.Store(began.UnixNano())
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		text, err := s.ask(ctx)
		var keys *jwt.Keys
		if err == nil {
			keys, err = jwt.ParseKeys(text)
		}
		s.mu.Lock()
		fresh := err == nil && !keys.Placeholder && text != s.given
		if s.last, s.flight, s.problem = began, nil, err; fresh {
			s.given = text
			s.keys.Store(keys)
			clear(s.absent)
		}
		if s.remote != nil {
			s.remote.ended(s, fresh)
		}
		s.mu.Unlock()
		close(f.done)
	}()
}
