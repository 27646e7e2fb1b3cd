// Package keys fetches the keys of token issuers for the whole mesh, so that no proxy has to reach them.
//
// What enters: the RequestAuthentications in force (Want), and addresses for which proxies ask because a token is newer than
// their keys (Newest). What leaves: key sets, to whoever runs the Fetcher, whenever one is another. A set that was fetched stays until
// a newer one is: an issuer that is away changes nothing, nor does it when the control plane begins anew meanwhile, as sets are kept in a folder
// (and, by control/lastgood, in the cluster). Every address has a goroutine of its own: one that is
// slow, or wrong, holds up no other. All methods may be called from any goroutine.
package keys

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weirmesh/weir/internal/persist"
	"github.com/weirmesh/weir/mesh"
)

const (
	// refresh is how often a set is fetched although nobody asks, for keys that are withdrawn. Istio's is 20 min.
	refresh = 5 * time.Minute
	// A fetch that failed is repeated after retryMin, doubling to retryMax: at once for who never had keys, whose every
	// token is refused meanwhile, and to patientMax for who has some.
	retryMin   = 500 * time.Millisecond
	retryMax   = 4 * time.Second
	patientMax = time.Minute
	// timeout bounds a fetch of which the object does not say how long it may take (jwtRules[].timeout).
	timeout = 5 * time.Second
	// spacing is the least time between fetches that proxies ask for. It doubles with each that brings nothing new, to
	// spacingMax, and is forgotten after calm without one: tokens that name keys which do not exist must not make an
	// issuer fend us off, and a rotation must be seen at once. A request waits half a second for keys: two fetches are nearer to
	// each other than that by what an issuer takes to answer, or whoever tries names of keys all the time would have the first
	// tokens of a new one refused.
	spacing    = 100 * time.Millisecond
	spacingMax = 300 * time.Millisecond
	calm       = 10 * time.Second
	// maxSources bounds the addresses: each has a goroutine.
	maxSources = 2000
)

// Fetcher fetches key sets.
type Fetcher struct {
	client *http.Client
	log    *slog.Logger
	wanted chan struct{}
	shelf  shelf
	kept   map[string]*Kept // of earlier runs, by address

	mu      sync.Mutex
	sources map[string]*source
	refs    map[string]*want
	sets    persist.Map[string, *mesh.KeySet]
	changed chan struct{} // has a value when sets changed
	keeping chan struct{} // closed when what is to be kept changed
}

// want is what objects say of an address.
type want struct {
	timeout time.Duration
	refs    []mesh.Ref
}

// source is one address.
type source struct {
	cancel context.CancelFunc
	wake   chan struct{}
	asked  []chan error // for the next fetch
	text   string       // "": never fetched
	last   time.Time    // of the last fetch that brought it, perhaps in an earlier run
	stored time.Time    // last, as it is kept
	early  bool         // text is of an earlier run
	since  time.Time    // of the first failure in a row
	err    error        // of the last fetch
}

// New makes a Fetcher. transport is how addresses are reached; nil: by TCP and TLS, with the system's roots. dir is where sets are
// kept for the next run; "": they are not.
func New(transport http.RoundTripper, dir string, log *slog.Logger) *Fetcher {
	if transport == nil {
		transport = &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 1}
	}
	f := &Fetcher{client: &http.Client{Transport: transport, CheckRedirect: redirect}, log: log, wanted: make(chan struct{}, 1), shelf: shelf{dir, log}, sources: map[string]*source{}, refs: map[string]*want{}, changed: make(chan struct{}, 1), keeping: make(chan struct{})}
	f.kept = f.shelf.read()
	for uri, k := range f.kept {
		f.sets = f.sets.Set(uri, &mesh.KeySet{Text: k.Keys})
	}
	return f
}

// Known are all sets there are now: before Run, those of an earlier run.
func (f *Fetcher) Known() persist.Map[string, *mesh.KeySet] {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sets
}

// Kept are the sets that are to be kept, in order of address, without Keys those that never were fetched; changed is closed when others are.
func (f *Fetcher) Kept() (all []*Kept, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for uri, s := range f.sources {
		all = append(all, &Kept{uri, s.stored, s.text})
	}
	slices.SortFunc(all, func(a, b *Kept) int { return strings.Compare(a.URI, b.URI) })
	return all, f.keeping
}

// Want says what is in force.
func (f *Fetcher) Want(all persist.Map[mesh.Key, *mesh.RequestAuthentication]) {
	refs := map[string]*want{}
	for ra := range all.Values() {
		for i := range ra.Rules {
			r := &ra.Rules[i]
			if r.URI == "" || len(refs) >= maxSources && refs[r.URI] == nil {
				continue
			}
			w := refs[r.URI]
			if w == nil {
				w = &want{}
				refs[r.URI] = w
			}
			w.timeout = max(w.timeout, cmp.Or(r.Timeout, timeout))
			w.refs = append(w.refs, ra.Ref)
		}
	}
	f.mu.Lock()
	f.refs = refs
	f.mu.Unlock()
	poke(f.wanted)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run fetches until ctx ends, and publishes all sets when one of them changes.
func (f *Fetcher) Run(ctx context.Context, publish func(persist.Map[string, *mesh.KeySet])) error {
	defer f.client.CloseIdleConnections()
	var running sync.WaitGroup
	defer running.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.wanted:
			f.mu.Lock()
			for uri, s := range f.sources {
				if f.refs[uri] == nil {
					s.cancel()
					delete(f.sources, uri)
					f.sets = f.sets.Delete(uri)
					f.shelf.drop((&Kept{URI: uri}).FileName())
					f.keep()
				}
			}
			for uri := range f.refs {
				if f.sources[uri] == nil {
					own, cancel := context.WithCancel(ctx)
					s := &source{cancel: cancel, wake: make(chan struct{}, 1)}
					if k := f.kept[uri]; k != nil {
						s.text, s.last, s.stored, s.early = k.Keys, k.Fetched, k.Fetched, true
						delete(f.kept, uri)
						f.keep()
					}
					f.sources[uri] = s
					running.Go(func() { f.tend(own, uri, s) })
				}
			}
			f.mu.Unlock()
		case <-f.changed:
			f.mu.Lock()
			sets := f.sets
			f.mu.Unlock()
			publish(sets)
		}
	}
}

// keep tells whoever keeps sets that others are to be kept; f.mu is held.
func (f *Fetcher) keep() {
	close(f.keeping)
	f.keeping = make(chan struct{})
}

// tend fetches one set again and again.
func (f *Fetcher) tend(ctx context.Context, uri string, s *source) {
	retry, space := time.Duration(0), spacing
	for {
		f.mu.Lock()
		asked := s.asked
		s.asked = nil
		select {
		case <-s.wake:
		default:
		}
		limit := timeout
		if w := f.refs[uri]; w != nil {
			limit = w.timeout
		}
		f.mu.Unlock()
		began := time.Now()
		within, cancel := context.WithTimeout(ctx, limit)
		text, err := f.fetch(within, uri)
		cancel()
		if ctx.Err() != nil {
			err = status.Error(codes.Unavailable, "the control plane looks for other keys now")
		}
		fresh := f.note(uri, s, text, err)
		for _, c := range asked {
			c <- err
		}
		if ctx.Err() != nil {
			f.mu.Lock()
			asked, s.asked = s.asked, nil
			f.mu.Unlock()
			for _, c := range asked {
				c <- err
			}
			return
		}
		wait := refresh + rand.N(refresh/10)
		if err != nil {
			most := retryMax
			if s.text != "" {
				most = patientMax
			}
			retry = min(max(2*retry, retryMin), most)
			wait = retry/2 + rand.N(retry/2)
		} else {
			retry = 0
		}
		switch {
		case fresh || len(asked) == 0:
			space = spacing
		default:
			space = min(2*space, spacingMax)
		}
		if !s.sleep(ctx, wait, began.Add(space)) {
			continue
		}
		if time.Since(began) > calm {
			space = spacing
		}
	}
}

// sleep waits, shorter if somebody asks, but not before soonest. It reports whether somebody did.
func (s *source) sleep(ctx context.Context, wait time.Duration, soonest time.Time) bool {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return false
	case <-s.wake:
	}
	early := time.NewTimer(time.Until(soonest))
	defer early.Stop()
	select {
	case <-ctx.Done():
	case <-early.C:
	}
	return true
}

// note takes the result of a fetch, and reports whether keys are others now.
func (f *Fetcher) note(uri string, s *source, text string, err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sources[uri] != s {
		return false
	}
	if err != nil {
		if s.err == nil {
			s.since = time.Now()
			f.log.Warn("keys of tokens cannot be fetched; those that were stay in force", "uri", uri, "err", err)
		}
		s.err = err
		return false
	}
	if s.err != nil {
		f.log.Info("keys of tokens can be fetched again", "uri", uri, "away", time.Since(s.since))
	}
	s.err, s.last, s.early = nil, time.Now(), false
	fresh := text != s.text
	if s.text = text; fresh {
		f.sets = f.sets.Set(uri, &mesh.KeySet{Text: text})
		poke(f.changed)
	}
	if fresh || s.last.Sub(s.stored) >= rewriteAfter {
		s.stored = s.last
		f.shelf.put(&Kept{uri, s.stored, text})
		f.keep()
	}
	return fresh
}

// Newest fetches the set at uri once more, and returns the newest there is. It is keys.Server.
func (f *Fetcher) Newest(ctx context.Context, uri string) (string, error) {
	f.mu.Lock()
	s := f.sources[uri]
	if s == nil {
		f.mu.Unlock()
		return "", status.Errorf(codes.NotFound, "no RequestAuthentication names the keys at %.200q", uri)
	}
	done := make(chan error, 1)
	s.asked = append(s.asked, done)
	f.mu.Unlock()
	poke(s.wake)
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.text == "" {
		return "", status.Error(codes.Unavailable, fmt.Sprint(err))
	}
	return s.text, nil
}

// Problem is an address whose keys cannot be fetched.
type Problem struct {
	URI   string
	Refs  []mesh.Ref // who names it
	Since time.Time
	Err   error
	Never bool // they never could: no token of it is accepted
	// Last is when they could; Early says that this was before the control plane began anew.
	Last  time.Time
	Early bool
}

// Oldest is how long ago the set was fetched, of those in force, that is so longest; 0: there is none.
func (f *Fetcher) Oldest() (age time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.sources {
		if s.text != "" {
			age = max(age, time.Since(s.last))
		}
	}
	return age
}

// Problems are all there are, in order of address.
func (f *Fetcher) Problems() []Problem {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Problem
	for uri, s := range f.sources {
		if w := f.refs[uri]; s.err != nil && w != nil {
			out = append(out, Problem{uri, w.refs, s.since, s.err, s.text == "", s.last, s.early})
		}
	}
	slices.SortFunc(out, func(a, b Problem) int { return strings.Compare(a.URI, b.URI) })
	return out
}
