package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// authority is a Signer whose answers a test controls.
type authority struct {
	mu    sync.Mutex
	forge *forge
	away  error         // what it answers instead, if not nil
	spoil func(*answer) // changes what it is about to answer
	hang  bool          // answers nothing until the caller gives up
	asked int
	now   func() time.Time // nil: time.Now
	csrs  []*x509.CertificateRequest
}

// set changes the authority while a manager may be asking.
func (a *authority) set(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
}

func (a *authority) times() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked
}

type answer struct {
	id          string
	from, until time.Time
	chain       func(leaf []byte) []byte
}

func (a *authority) Sign(ctx context.Context, r Request) ([]byte, error) {
	a.mu.Lock()
	a.asked++
	hang := a.hang
	a.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.away != nil {
		return nil, a.away
	}
	block, _ := pem.Decode(r.CSR)
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	a.csrs = append(a.csrs, req)
	now := time.Now()
	if a.now != nil {
		now = a.now()
	}
	ans := answer{
		id: req.URIs[0].String(), from: now.Add(-2 * time.Minute), until: now.Add(24 * time.Hour),
		chain: func(leaf []byte) []byte { return append(leaf, EncodeCertificates(a.forge.cert)...) },
	}
	if a.spoil != nil {
		a.spoil(&ans)
	}
	var template x509.Certificate
	a.forge.leaf(ans.id, ans.from, ans.until, func(c *x509.Certificate) { template = *c })
	leaf := a.forge.sign(template, req.PublicKey, a.forge.cert, a.forge.key)
	return ans.chain(EncodeCertificates(leaf)), nil
}

// run starts a manager in a bubble and stops it at the end of the test.
func run(t *testing.T, o Options) *Manager {
	t.Helper()
	o.Log = slog.New(slog.DiscardHandler)
	if o.ID == (ID{}) {
		o.ID = mustParse(t, cart)
	}
	m, err := NewManager(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	})
	synctest.Wait()
	return m
}

func newAuthority(t *testing.T) *authority {
	now := time.Now()
	return &authority{forge: newForge(t, "root", now.Add(-time.Hour), now.Add(10*365*24*time.Hour))}
}

// A certificate is there at once, and a fresh one with a fresh key long before
// the old one ends; whoever watches hears of each.
func TestManagerObtainsAndRenews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		m := run(t, Options{Signer: a})
		first, changed := m.Watch()
		if first == nil || first.ID().String() != cart || !first.Usable(time.Now()) || !first.Bundle().Equal(a.forge.bundle()) {
			t.Fatalf("first material: %+v", first)
		}
		s := m.Status()
		if s.Failures != 0 || s.LastError != "" || !s.ValidUntil.Equal(first.NotAfter()) || s.ID != first.ID() || s.Serial == "" {
			t.Errorf("status %+v", s)
		}
		if d := time.Until(s.NextAttempt); d < 9*time.Hour || d > 15*time.Hour {
			t.Errorf("renewal in %s, want about half a day", d)
		}

		time.Sleep(time.Until(s.NextAttempt) - time.Second)
		if m.Current() != first {
			t.Error("renewed before it was due")
		}
		<-changed
		second := m.Current()
		if second == first || second.Leaf().Equal(first.Leaf()) || a.csrs[0].PublicKey.(*ecdsa.PublicKey).Equal(a.csrs[1].PublicKey) {
			t.Error("renewal without a new key and certificate")
		}
		if late := time.Since(s.NextAttempt); late > wakeEvery {
			t.Errorf("renewed %s late", late)
		}
	})
}

// The authority goes away at renewal: the certificate is held to its end and
// beyond, the error is shown, and soon after the authority is back all is well.
func TestManagerSurvivesAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		m := run(t, Options{Signer: a})
		first := m.Current()
		a.set(func() { a.away = errors.New("connection refused by 127.0.0.1:15012") })

		time.Sleep(23 * time.Hour)
		if s := m.Status(); m.Current() != first || s.Failures < 10 || !strings.Contains(s.LastError, "connection refused") || s.LastErrorAt.IsZero() {
			t.Errorf("an hour before its end: %+v", s)
		}
		last := a.times()
		time.Sleep(time.Hour)
		if n := a.times() - last; n < 20 || n > 400 {
			t.Errorf("asked %d times in the last hour", n)
		}
		time.Sleep(time.Hour)
		if m.Current() != first || first.Usable(time.Now()) {
			t.Error("an expired certificate is not kept")
		}
		_, changed := m.Watch()
		a.set(func() { a.away = nil })
		back := time.Now()
		<-changed
		if d := time.Since(back); d > retryBare*5/4 {
			t.Errorf("obtained %s after the authority came back", d)
		}
		if s := m.Status(); s.Failures != 0 || s.LastError != "" || !m.Current().Usable(time.Now()) {
			t.Errorf("after the outage: %+v", s)
		}
	})
}

// An answer that is no good never takes the place of a certificate that is.
func TestManagerRefusesBadAnswers(t *testing.T) {
	for _, c := range []struct {
		name, err string
		spoil     func(*authority)
	}{
		{"no answer at all", "deadline", func(a *authority) { a.hang = true }},
		{"empty", "no PEM certificate", func(a *authority) { a.spoil = func(s *answer) { s.chain = func([]byte) []byte { return nil } } }},
		{"not PEM", "no PEM certificate", func(a *authority) {
			a.spoil = func(s *answer) { s.chain = func([]byte) []byte { return []byte("ok") } }
		}},
		{"no root", "at least a leaf and a root", func(a *authority) { a.spoil = func(s *answer) { s.chain = func(l []byte) []byte { return l } } }},
		{"a root that did not sign it", "does not lead to a root", func(a *authority) {
			other := newAuthority(a.forge.t)
			a.spoil = func(s *answer) {
				s.chain = func(l []byte) []byte { return append(l, EncodeCertificates(other.forge.cert)...) }
			}
		}},
		{"somebody else's identity", "where " + cart + " was asked for", func(a *authority) { a.spoil = func(s *answer) { s.id = "spiffe://cluster.local/ns/shop/sa/admin" } }},
		{"somebody else's key", "does not belong to the private key", func(a *authority) {
			other := *newAuthority(a.forge.t).forge
			a.spoil = func(s *answer) {
				leaf, _ := other.leaf(cart, time.Now(), time.Now().Add(time.Hour), nil)
				s.chain = func([]byte) []byte { return EncodeCertificates(leaf, other.cert) }
			}
		}},
		{"expired on arrival", "clocks of the two machines differ", func(a *authority) {
			a.spoil = func(s *answer) { s.from, s.until = s.from.Add(-30*time.Hour), s.until.Add(-30*time.Hour) }
		}},
		{"valid next year", "clocks of the two machines differ", func(a *authority) {
			a.spoil = func(s *answer) { s.from, s.until = s.from.Add(8760*time.Hour), s.until.Add(8760*time.Hour) }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAuthority(t)
				m := run(t, Options{Signer: a})
				first := m.Current()
				a.set(func() { c.spoil(a) })
				time.Sleep(20 * time.Hour)
				if m.Current() != first {
					t.Errorf("the good certificate was replaced by %+v", m.Current())
				}
				if s := m.Status(); !strings.Contains(s.LastError, c.err) || s.Failures < 10 {
					t.Errorf("status %+v does not say %q", s, c.err)
				}
				a.set(func() { a.hang, a.spoil = false, nil })
				time.Sleep(10 * time.Minute)
				if s := m.Status(); m.Current() == first || s.Failures != 0 {
					t.Errorf("no recovery: %+v", s)
				}
			})
		})
	}
}

// A proxy that restarts during an outage goes on with the certificate of its
// earlier life; one that gets somebody else's file starts with nothing.
func TestManagerRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		a.away = errors.New("away")
		now := time.Now()
		stored := a.forge.material(cart, now.Add(-8*time.Hour), now.Add(16*time.Hour))
		m := run(t, Options{Signer: a, Restored: stored})
		if held, _ := m.Watch(); held != stored || a.times() != 0 {
			t.Errorf("restored %+v, asked %d times", held, a.times())
		}
		if s := m.Status(); !s.ValidUntil.Equal(stored.NotAfter()) || s.NextAttempt.Before(now) {
			t.Errorf("status %+v", s)
		}

		m = run(t, Options{Signer: a, Restored: stored, Bootstrap: a.forge.bundle()})
		if m.Current() != stored || a.times() != 0 {
			t.Error("asked though the authority is the same")
		}
		m = run(t, Options{Signer: a, Restored: stored, Bootstrap: newAuthority(t).forge.bundle()})
		if m.Current() != stored || a.times() == 0 {
			t.Error("did not hold on to the certificate, or not ask at once, when the mesh had a new authority")
		}

		other := run(t, Options{ID: mustParse(t, istiod), Signer: a, Restored: stored})
		if other.Current() != nil || other.Certificate() != nil {
			t.Errorf("started with the certificate of %s", other.Current().ID())
		}
	})
}

// Roots come with the answers, and each change reaches whoever watches; those for the
// bootstrap judge only the control plane.
func TestManagerRoots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		next := newAuthority(t)
		boot := newAuthority(t).forge.bundle()
		old := a.forge.bundle()
		m := run(t, Options{Signer: a, Bootstrap: boot})
		if !m.Bundle().Equal(old.Union(boot)) || !m.Current().Bundle().Equal(old) {
			t.Error("bootstrap roots are not where they belong")
		}

		_, changed := m.Watch()
		// The root rotates: the authority announces the next one, then signs by it.
		a.set(func() {
			a.spoil = func(s *answer) {
				s.chain = func(l []byte) []byte { return append(l, EncodeCertificates(a.forge.cert, next.forge.cert)...) }
			}
		})
		<-changed
		both := old.Union(next.forge.bundle())
		if held := m.Current(); !held.Bundle().Equal(both) || len(held.Chain()) != 1 {
			t.Errorf("two roots in the answer: %d certificates shown, %d roots", len(held.Chain()), len(held.Bundle().Roots()))
		}
		_, changed = m.Watch()
		a.set(func() { a.forge, a.spoil = next.forge, nil })
		<-changed
		if held := m.Current(); !held.Bundle().Equal(next.forge.bundle()) {
			t.Errorf("after the rotation: %d roots", len(held.Bundle().Roots()))
		}
	})
}

func TestNewManagerWants(t *testing.T) {
	a := &authority{}
	log := slog.New(slog.DiscardHandler)
	id := mustParse(t, cart)
	for _, o := range []Options{{Signer: a, Log: log}, {ID: id, Log: log}, {ID: id, Signer: a}} {
		if _, err := NewManager(o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

// An intermediate that is trusted as it is: nothing in the answer signs itself.
func TestSplitAnswer(t *testing.T) {
	root := newForge(t, "root", noon, evening)
	issuer := root.authority("issuer", noon, evening)
	lower := issuer.authority("lower", noon, evening)
	leaf, _ := lower.leaf(cart, noon, evening, nil)
	for _, c := range []struct {
		name         string
		certs        []*x509.Certificate
		chain, roots int
	}{
		{"root last", []*x509.Certificate{leaf, lower.cert, issuer.cert, root.cert}, 3, 1},
		{"two roots last", []*x509.Certificate{leaf, lower.cert, issuer.cert, root.cert, newForge(t, "next", noon, evening).cert}, 3, 2},
		{"no root: the last is trusted", []*x509.Certificate{leaf, lower.cert, issuer.cert}, 2, 1},
		{"the issuer alone", []*x509.Certificate{leaf, lower.cert}, 1, 1},
	} {
		chain, roots, err := splitAnswer(EncodeCertificates(c.certs...))
		if err != nil || len(chain) != c.chain || len(roots.Roots()) != c.roots {
			t.Errorf("%s: %d shown, %v trusted, %v", c.name, len(chain), roots, err)
		}
	}
	if _, _, err := splitAnswer(EncodeCertificates(leaf, leaf)); err == nil {
		t.Error("a leaf became a root")
	}
}

// A machine sleeps for three days: its timers stand still, and its certificate has ended. The first handshake after that gets a new one,
// and all others with it; they are not shown the old one until somebody looks at the clock. What happened is told.
func TestManagerRenewsBeforeItServesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slept atomic.Int64
		clock := func() time.Time { return time.Now().Round(0).Add(time.Duration(slept.Load())) }
		a := newAuthority(t)
		a.now = clock
		m := run(t, Options{Signer: a, Now: clock})
		first := m.Current()
		if Fresh(m) != first.Certificate() || a.times() != 1 {
			t.Fatal("a good certificate is not shown as it is")
		}
		time.Sleep(time.Minute)
		slept.Store(int64(72 * time.Hour))
		woke := time.Now()
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if got := Fresh(m.Peers()); got == first.Certificate() || got != m.Certificate() {
					t.Error("a handshake shows the certificate that ended")
				}
			})
		}
		all.Wait()
		if waited := time.Since(woke); waited != 0 || a.times() != 2 {
			t.Errorf("another one after %v and %d requests, want at once and by one", waited, a.times()-1)
		}
		if s := m.Status(); s.ClockJump != "72h0m0s" || !s.ClockJumpAt.Equal(clock()) {
			t.Errorf("what happened is not told: %+v", s)
		}
	})
}

// Where the authority is away, too, a handshake waits for a second, and no other one after it: the old certificate is all there is.
func TestManagerWaitsOnceForAnAuthorityThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slept atomic.Int64
		a := newAuthority(t)
		m := run(t, Options{Signer: a, Now: func() time.Time { return time.Now().Round(0).Add(time.Duration(slept.Load())) }})
		first := m.Current()
		a.set(func() { a.away = errors.New("connection refused by 127.0.0.1:15012") })
		slept.Store(int64(72 * time.Hour))
		for _, want := range []time.Duration{freshWait, 0, 0} {
			began := time.Now()
			if Fresh(m) != first.Certificate() {
				t.Error("the certificate held is not shown")
			}
			if waited := time.Since(began); waited != want {
				t.Errorf("waited %v, want %v", waited, want)
			}
		}
	})
}

// A clock that is set back is told of, too; one that is corrected by little is not.
func TestManagerTellsOfJumpsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var set atomic.Int64
		m := run(t, Options{Signer: newAuthority(t), Now: func() time.Time { return time.Now().Round(0).Add(time.Duration(set.Load())) }})
		_, noted := m.Noted()
		set.Store(int64(leastJump - 1))
		time.Sleep(2 * wakeEvery)
		if s := m.Status(); s.ClockJump != "" {
			t.Errorf("told of a correction: %+v", s)
		}
		select {
		case <-noted:
			t.Error("noted a correction")
		default:
		}
		set.Store(-int64(time.Hour))
		time.Sleep(2 * wakeEvery)
		if s := m.Status(); s.ClockJump != "-1h0m5s" {
			t.Errorf("told %q", s.ClockJump)
		}
		<-noted
	})
}
