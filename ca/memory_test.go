package ca

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirmesh/weir/identity"
)

// The control plane is restarted every few hours while its root is replaced, in the order that lets both sign in turn: whoever holds
// a certificate that is good accepts every other one that is, and in the end the old root is gone.
func TestHandoverAcrossRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := selfSigned(t, Options{}), selfSigned(t, Options{})
		asked := a
		r := NewRolling(a, nil, slog.New(slog.DiscardHandler))
		var held []*identity.Material
		for q := range 40 {
			switch q {
			case 4:
				asked = with(t, a, a, b)
				r.Ask(asked)
			case 9: // a day and more later, as docs/identity.md says
				asked = b
				r.Ask(asked)
			}
			r.Look()
			r = NewRolling(asked, r.Memory(), slog.New(slog.DiscardHandler))
			signs, _ := r.Watch()
			m, err := signs.Issue(Grant{ID: cart})
			if err != nil {
				t.Fatal(err)
			}
			held = append(slices.DeleteFunc(held, func(m *identity.Material) bool { return !time.Now().Before(m.NotAfter()) }), m)
			for _, x := range held {
				for _, y := range held {
					if _, err := identity.VerifyPeer(x.Certificate().Certificate, y.Bundle(), time.Now(), identity.Server, identity.OneOf{cart}); err != nil {
						t.Fatalf("quarter %d: %v", q, err)
					}
				}
			}
			time.Sleep(6 * time.Hour)
		}
		if last, _ := r.Watch(); len(last.Bundle().Roots()) != 1 || len(r.Notes()) != 0 {
			t.Errorf("in the end %d roots, %v", len(last.Bundle().Roots()), r.Notes())
		}
	})
}

// A root is left out while no control plane runs, or just before one starts: certificates that lead to it are good to their end, and
// that is said. They may live longer than what is granted now.
func TestARootThatIsNeededOutlivesItsControlPlane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := selfSigned(t, Options{MaxTTL: 3 * day}), selfSigned(t, Options{})
		first := NewRolling(a, nil, slog.New(slog.DiscardHandler))
		old, err := a.Issue(Grant{ID: cart, TTL: 3 * day})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		next := NewRolling(b, first.Memory(), slog.New(slog.DiscardHandler))
		judge := func() error {
			held, _ := next.Watch()
			_, err := identity.VerifyPeer(old.Certificate().Certificate, held.Bundle(), time.Now(), identity.Client, identity.OneOf{cart})
			return err
		}
		if notes := strings.Join(next.Notes(), "\n"); !strings.Contains(notes, "is left out and stays trusted until") || !strings.Contains(notes, name(a.root)) {
			t.Errorf("notes: %q", notes)
		}
		for time.Now().Before(old.NotAfter()) {
			if err := judge(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			next.Look()
			next = NewRolling(b, next.Memory(), slog.New(slog.DiscardHandler)) // it is not needed longer because somebody starts again
		}
		time.Sleep(2 * time.Hour)
		next.Look()
		if held, _ := next.Watch(); len(held.Bundle().Roots()) != 1 || len(next.Notes()) != 0 {
			t.Errorf("%d roots, %v", len(held.Bundle().Roots()), next.Notes())
		}
	})
}

// The operator allows less than before: what was granted until then is waited for, across restarts and by replicas that granted none of it
// themselves, and not for ever.
func TestLessIsGrantedThanBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		long, short, next := selfSigned(t, Options{MaxTTL: 30 * day}), Options{}, selfSigned(t, Options{})
		memory := NewRolling(long, nil, log).Memory()
		less, err := newAuthority(short, long.trustDomain, long.key, long.cert, nil, long.bundle)
		if err != nil {
			t.Fatal(err)
		}
		overlap := func(what string, want time.Duration) {
			t.Helper()
			r := NewRolling(less, memory, log)
			memory = r.Memory()
			r.Ask(next)
			if want := "signs from " + time.Now().Add(want).UTC().Format(time.RFC3339); !strings.Contains(strings.Join(r.Notes(), "\n"), want) {
				t.Errorf("%s: %q, want %q", what, r.Notes(), want)
			}
		}
		overlap("at once", 30*day+settle)
		time.Sleep(20 * day)
		overlap("later", 30*day+settle)
		time.Sleep(11 * day)
		overlap("when all have ended", day+settle)
	})
}

// A stolen root is cut off at once, before and after a restart, whoever needs it; nothing else is.
func TestADistrustedRootIsCutOff(t *testing.T) {
	a, b, c := selfSigned(t, Options{}), selfSigned(t, Options{}), selfSigned(t, Options{})
	r := NewRolling(a, nil, slog.New(slog.DiscardHandler))
	r.Ask(c)
	without := with(t, b, b)
	without.distrusted = a.bundle.Roots()
	alone := func(r *Rolling) {
		t.Helper()
		held, _ := r.Watch()
		if slices.ContainsFunc(held.Bundle().Roots(), a.root.Equal) || !held.root.Equal(b.root) || !slices.ContainsFunc(held.Bundle().Roots(), c.root.Equal) {
			t.Errorf("%q signs, %d roots are trusted", held.root.Subject, len(held.Bundle().Roots()))
		}
	}
	memory := r.Memory()
	r.Ask(without)
	held, _ := r.Watch()
	if slices.ContainsFunc(held.Bundle().Roots(), a.root.Equal) || !held.root.Equal(b.root) {
		t.Errorf("%q signs, %d roots are trusted", held.root.Subject, len(held.Bundle().Roots()))
	}
	// c, which signed nothing yet, may be needed for all the next process knows.
	d := NewRolling(c, memory, slog.New(slog.DiscardHandler))
	alone(NewRolling(without, d.Memory(), slog.New(slog.DiscardHandler)))
}

// What cannot be read is said, and the control plane starts nevertheless.
func TestDamagedMemory(t *testing.T) {
	a := selfSigned(t, Options{})
	good := NewRolling(a, nil, slog.New(slog.DiscardHandler)).Memory()
	for _, text := range []string{
		"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
		strings.Replace(string(good), headerLives+": 24h0m0s", headerLives+": long", 1),
		strings.Replace(string(good), headerLives+": 24h0m0s", headerNeeded+": soon", 1),
		strings.Replace(string(good), headerLives+": 24h0m0s", headerLapses+": soon", 1),
		strings.Repeat(string(good), maxRemembered+1),
	} {
		var log strings.Builder
		if held, _ := NewRolling(a, []byte(text), slog.New(slog.NewTextHandler(&log, nil))).Watch(); held != a || !strings.Contains(log.String(), "level=ERROR") {
			t.Errorf("%.80q: %s", text, log.String())
		}
	}
}
