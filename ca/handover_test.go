package ca

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirmesh/weir/identity"
)

// with is an authority as its operator would plug it in: its key, and the roots named.
func with(t *testing.T, signer *Authority, roots ...*Authority) *Authority {
	t.Helper()
	var b *identity.Bundle
	for _, r := range roots {
		b = b.Union(r.bundle)
	}
	a, err := signer.withBundle(b)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// An operator replaces the root at once, in steps, too early, and back again: at every moment
// whoever holds a certificate that is good accepts every other one that is.
func TestHandover(t *testing.T) {
	for _, c := range []struct {
		name  string
		steps func(t *testing.T, a, b *Authority) []*Authority // one a step, a quarter of a day apart; nil: as before
		final int                                              // quarters until the second signs and is alone
	}{
		{"at once", func(t *testing.T, a, b *Authority) []*Authority { return []*Authority{b} }, 10},
		{"in three steps, a day apart", func(t *testing.T, a, b *Authority) []*Authority {
			return []*Authority{with(t, a, a, b), nil, nil, nil, nil, with(t, b, a, b), nil, nil, nil, nil, b}
		}, 11},
		{"in three steps, too early", func(t *testing.T, a, b *Authority) []*Authority {
			return []*Authority{with(t, a, a, b), with(t, b, a, b), b}
		}, 10},
		{"there and back and there", func(t *testing.T, a, b *Authority) []*Authority {
			return []*Authority{b, a, b, a, nil, nil, nil, nil, nil, b}
		}, 30},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := selfSigned(t, Options{}), selfSigned(t, Options{})
				r := NewRolling(a, nil, slog.New(slog.DiscardHandler))
				type holder struct {
					m     *identity.Material
					until time.Time
				}
				var holders []holder
				steps := c.steps(t, a, b)
				for q := range 40 {
					if q >= 4 && q-4 < len(steps) && steps[q-4] != nil {
						r.Ask(steps[q-4])
					}
					r.Look()
					held, _ := r.Watch()
					m, err := held.Issue(Grant{ID: cart})
					if err != nil {
						t.Fatal(err)
					}
					holders = append(holders, holder{m, m.NotAfter()})
					for _, x := range holders {
						for _, y := range holders {
							if now := time.Now(); now.Before(x.until) && now.Before(y.until) {
								if _, err := identity.VerifyPeer(x.m.Certificate().Certificate, y.m.Bundle(), now, identity.Server, identity.OneOf{cart}); err != nil {
									t.Fatalf("quarter %d: %v", q, err)
								}
							}
						}
					}
					if q-4 == c.final+1 && c.final < 30 && (!held.cert.Equal(b.cert) || len(held.Bundle().Roots()) != 1 || len(r.Notes()) != 0) {
						t.Errorf("quarter %d: %q signs, %d roots, %v", q, held.cert.Subject, len(held.Bundle().Roots()), r.Notes())
					}
					time.Sleep(6 * time.Hour)
				}
				if held, _ := r.Watch(); !held.cert.Equal(b.cert) || len(held.Bundle().Roots()) != 1 {
					t.Errorf("in the end %q signs, %d roots", held.cert.Subject, len(held.Bundle().Roots()))
				}
			})
		})
	}
}

// What is not as was asked for is said; an authority that ended is replaced at once, and another
// signing certificate of the same root, too.
func TestHandoverSaysWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := selfSigned(t, Options{}), selfSigned(t, Options{})
		r := NewRolling(a, nil, slog.New(slog.DiscardHandler))
		_, replaced := r.Watch()
		r.Ask(b)
		select {
		case <-replaced:
		default:
			t.Error("nobody is told of the root that is to be trusted")
		}
		notes := strings.Join(r.Notes(), "\n")
		for _, want := range []string{"is left out and stays trusted", "signs from " + time.Now().Add(25*time.Hour).UTC().Format(time.RFC3339), name(a.root), name(b.root)} {
			if !strings.Contains(notes, want) {
				t.Errorf("%q is not in\n%s", want, notes)
			}
		}
		if v := r.Views(); len(v) != 2 || !v[1].Signs || !v[1].Retires.Equal(time.Now().Add(25*time.Hour)) || !v[0].Retires.IsZero() {
			t.Errorf("the old root retires when nobody needs it, and the new one does not: %+v", v)
		}
		time.Sleep(time.Until(a.until))
		r.Look()
		r.Ask(selfSigned(t, Options{}))
		time.Sleep(time.Second)
		r = NewRolling(a, nil, slog.New(slog.DiscardHandler))
		fresh := selfSigned(t, Options{})
		r.Ask(fresh)
		if held, _ := r.Watch(); held != fresh || len(r.Notes()) != 0 {
			t.Errorf("after the end: %q, %v", held.cert.Subject, r.Notes())
		}
	})
}

// The longest life that any replica may have granted is waited for, also if the operator allows less by now.
func TestHandoverWaitsForTheLongest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := selfSigned(t, Options{MaxTTL: 30 * day}), selfSigned(t, Options{})
		r := NewRolling(a, nil, slog.New(slog.DiscardHandler)) // another has granted all of it
		r.Ask(b)
		for range 60 {
			time.Sleep(12 * time.Hour)
			r.Look()
		}
		if held, _ := r.Watch(); !held.root.Equal(a.root) {
			t.Error("changed over while somebody does not know the new root")
		}
		time.Sleep(2 * time.Hour)
		r.Look()
		if held, _ := r.Watch(); !held.root.Equal(b.root) {
			t.Error(fmt.Sprint("not changed over: ", r.Notes()))
		}
	})
}

// Certificates of the first authority that are in use when a third is asked for are not forgotten.
func TestHandoverRemembersTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := Options{MaxTTL: 10 * day}
		a, b, c := selfSigned(t, o), selfSigned(t, o), selfSigned(t, o)
		r := NewRolling(a, nil, slog.New(slog.DiscardHandler))
		pass := func(d time.Duration) {
			for range d / (6 * time.Hour) {
				time.Sleep(6 * time.Hour)
				r.Look()
			}
		}
		r.Ask(b)
		var long *identity.Material // the second one comes on day 9
		for range 2 {
			held, _ := r.Watch()
			var err error
			if long, err = held.Issue(Grant{ID: cart, TTL: 10 * day}); err != nil {
				t.Fatal(err)
			}
			pass(9 * day)
		}
		if held, _ := r.Watch(); !held.root.Equal(b.root) {
			t.Fatal(r.Notes())
		}
		r.Ask(c)
		pass(9 * day)
		if held, _ := r.Watch(); !held.root.Equal(b.root) {
			t.Errorf("%q signs, and those who hold such as %v may not know it", held.cert.Subject, long)
		}
		pass(2 * day)
		if held, _ := r.Watch(); !held.root.Equal(c.root) {
			t.Error(r.Notes())
		}
	})
}

// An authority that ends sooner than the overlap lasts hands over while those awake can still renew.
func TestHandoverBeforeTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := selfSigned(t, Options{}), selfSigned(t, Options{})
		r := NewRolling(a, nil, slog.New(slog.DiscardHandler))
		time.Sleep(time.Until(a.until) - 8*time.Hour)
		r.Look()
		r.Ask(b)
		time.Sleep(5 * time.Hour)
		r.Look()
		if held, _ := r.Watch(); !held.root.Equal(a.root) {
			t.Error("too early")
		}
		time.Sleep(90 * time.Minute)
		r.Look()
		if held, _ := r.Watch(); !held.root.Equal(b.root) || len(held.Bundle().Roots()) != 2 {
			t.Error(r.Notes())
		}
		time.Sleep(2 * time.Hour)
		r.Look()
		if held, _ := r.Watch(); len(held.Bundle().Roots()) != 1 || len(r.Notes()) != 0 {
			t.Error(r.Notes())
		}
	})
}
