package ca

import (
	"crypto/elliptic"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirmesh/weir/identity"
)

const day = 24 * time.Hour

// What roots are for, by days since the first was made. The longest life of a certificate is
// ten days, so that two roots are trusted side by side for ten days and a little, before and after.
func TestStep(t *testing.T) {
	begin := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	made := func(from, until float64) Root {
		at := func(d float64) time.Time { return begin.Add(time.Duration(d * float64(day))) }
		return Root{at(from).Add(-backdate), at(until), true}
	}
	foreign := made(0, 1000)
	foreign.Ours = false
	for _, c := range []struct {
		name  string
		roots []Root
		at    map[float64]string
	}{
		{"one root", []Root{made(0, 365)}, map[float64]string{
			0: "0 signs, trusted [0]", 300: "0 signs, trusted [0]", 335: "0 signs, trusted [0], make", 364: "0 signs, trusted [0], make", 366: "0 signs, trusted [], make"}},
		{"succeeded in time", []Root{made(0, 365), made(335, 700)}, map[float64]string{
			335: "0 signs, trusted [0 1]", 345: "0 signs, trusted [0 1]", 345.1: "1 signs, trusted [0 1]", 355: "1 signs, trusted [0 1]", 355.2: "1 signs, trusted [1]", 669: "1 signs, trusted [1]", 670: "1 signs, trusted [1], make"}},
		{"succeeded four days before the end", []Root{made(0, 365), made(361, 700)}, map[float64]string{
			361: "0 signs, trusted [0 1]", 363.9: "0 signs, trusted [0 1]", 364.1: "1 signs, trusted [0 1]", 365.1: "1 signs, trusted [1]"}},
		{"succeeded after the end", []Root{made(0, 365), made(400, 800)}, map[float64]string{400: "1 signs, trusted [1]"}},
		{"a clock was ahead by twenty years", []Root{made(0, 365), made(7300, 7665)}, map[float64]string{
			10: "0 signs, trusted [0 1]", 340: "0 signs, trusted [0 1], make"}},
		{"and again", []Root{made(0, 365), made(7300, 7665), made(340, 705)}, map[float64]string{
			340: "0 signs, trusted [0 1 2]", 360: "2 signs, trusted [0 1 2]", 370: "2 signs, trusted [1 2]"}},
		{"a clock that was set back", []Root{made(0, 365)}, map[float64]string{-100: "0 signs, trusted [0]"}},
		{"a root of another mesh", []Root{made(0, 365), foreign}, map[float64]string{10: "0 signs, trusted [0 1]", 2000: "0 signs, trusted [1], make"}},
		{"none of ours", []Root{foreign}, map[float64]string{10: "-1 signs, trusted [0]"}},
		{"a brief one", []Root{made(0, 4)}, map[float64]string{1: "0 signs, trusted [0]", 2.1: "0 signs, trusted [0], make"}},
	} {
		for at, want := range c.at {
			p := Succession{10 * day}.Step(begin.Add(time.Duration(at*float64(day))), c.roots)
			got := fmt.Sprintf("%d signs, trusted %v", p.Signer, p.Trust)
			if p.Make {
				got += ", make"
			}
			if got != want {
				t.Errorf("%s, day %v: %s, want %s", c.name, at, got, want)
			}
		}
	}
}

// Roots of ten years succeed each other by themselves, on a virtual clock: whoever holds a
// certificate that is good accepts every other one that is, at every moment of forty years.
// The control plane is started anew now and then, and once it was off for
// years, over the end of a root.
func TestRootsForDecades(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "ca")
		log := slog.New(slog.DiscardHandler)
		s, err := FollowSelfSigned(dir, "cluster.local", Options{MaxTTL: MaxTTL}, log)
		if err != nil {
			t.Fatal(err)
		}
		csr := request(t, ecKey(t, elliptic.P256()), x509.CertificateRequest{})
		type holder struct {
			leaf   *x509.Certificate
			bundle *identity.Bundle
		}
		var holders []holder
		signers := map[string]bool{}
		end, off := time.Now().AddDate(40, 0, 0), time.Now().AddDate(25, 0, 0)
		for n := 0; time.Now().Before(end); n++ {
			s.look()
			switch {
			case n%7 == 3: // another process, which may allow less
				if s, err = FollowSelfSigned(dir, "cluster.local", Options{MaxTTL: []time.Duration{0, MaxTTL}[n/7%2]}, log); err != nil {
					t.Fatal(time.Now(), err)
				}
			case !off.IsZero() && time.Now().After(off):
				off = time.Time{}
				time.Sleep(12 * 365 * day)
				continue
			}
			a, _ := s.Watch()
			// Some have certificates of the longest life, and never renew early.
			issued, err := a.Sign(csr, Grant{ID: cart, TTL: []time.Duration{0, MaxTTL}[n%2]})
			if err != nil {
				t.Fatal(time.Now(), err)
			}
			signers[a.cert.Subject.CommonName] = true
			bundle, err := identity.ParseBundle([]byte(strings.Join(issued.Chain[1:], "")))
			if err != nil {
				t.Fatal(err)
			}
			holders = append(holders, holder{issued.Leaf, bundle})
			good := holders[:0]
			for _, h := range holders {
				if time.Now().Before(h.leaf.NotAfter) {
					good = append(good, h)
				}
			}
			holders = good
			for _, h := range holders {
				for _, peer := range []holder{holders[0], holders[len(holders)-1]} {
					for _, x := range [][2]holder{{h, peer}, {peer, h}} {
						if _, err := identity.VerifyPeer([][]byte{x[0].leaf.Raw}, x[1].bundle, time.Now(), identity.Client, identity.OneOf{cart}); err != nil {
							t.Fatal(time.Now(), err)
						}
					}
				}
			}
			time.Sleep(13 * day)
		}
		if len(signers) != 4 {
			t.Errorf("%d roots signed in forty years; want four: two successions in time, one after the end", len(signers))
		}
		a, _ := s.Watch()
		if n := len(a.Bundle().Roots()); n > 2 {
			t.Errorf("%d roots are trusted in the end", n)
		}
	})
}

// A succession that cannot be written down does not happen: the root in force goes on, and
// what is wrong is said.
func TestSuccessionNeedsItsFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "ca")
		s, err := FollowSelfSigned(dir, "cluster.local", Options{}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		first, replaced := s.Watch()
		good := read(t, filepath.Join(dir, authorityFile))
		write(t, filepath.Join(dir, authorityFile), []byte("scratched"))
		time.Sleep(time.Until(first.RootNotAfter()) - 200*day)
		s.look()
		if held, _ := s.Watch(); held != first || !strings.Contains(s.Problem(), authorityFile) {
			t.Errorf("problem %q", s.Problem())
		}
		write(t, filepath.Join(dir, authorityFile), good)
		s.look()
		select {
		case <-replaced:
		default:
			t.Error("nobody is told")
		}
		held, _ := s.Watch()
		if !held.cert.Equal(first.cert) || len(held.Bundle().Roots()) != 2 || s.Problem() != "" {
			t.Errorf("%d roots, problem %q", len(held.Bundle().Roots()), s.Problem())
		}
		if v := s.Views(time.Now()); len(v) != 2 || !v[0].Signs || v[1].Signs || !v[1].Ours || v[1].Begins.Before(time.Now().Add(MaxTTL)) {
			t.Errorf("%+v", v)
		}
	})
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func write(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A list of revoked certificates beside the files of an authority is not read, and whoever put it there is told so: when it is
// there at the start, and when it comes; once, whatever else is replaced.
func TestRevocationListsAreNotReadAndThatIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		org := newOrganisation(t, ecKey(t, elliptic.P256()), nil)
		folder := dir(t, "tls.key", keyPEM(t, "PRIVATE KEY", org.ca.key), "tls.crt", org.ca.pem()+org.issuer.pem(), "ca.crt", org.root.pem())
		memory := filepath.Join(t.TempDir(), "ca", "handover.pem")
		var log strings.Builder
		follow := func() *Plugged {
			log.Reset()
			p, err := FollowPlugged(folder, memory, "cluster.local", Options{}, slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		said := func(when string, want int) {
			t.Helper()
			if n := strings.Count(log.String(), "revoked certificates are not read"); n != want || strings.Count(log.String(), "level=WARN") != want || want > 0 && !strings.Contains(log.String(), "file=ca-crl.pem") {
				t.Errorf("%s it is said %d times, want %d:\n%s", when, n, want, log.String())
			}
		}
		p := follow()
		said("without a list", 0)
		for _, text := range []string{"a list", "the next list"} {
			write(t, filepath.Join(folder, RevokedFile), []byte(text))
			p.look()
			p.look()
		}
		said("when it comes", 1)
		if p.Problem() != "" || len(p.Notes()) != 0 {
			t.Errorf("%s %v", p.Problem(), p.Notes())
		}
		follow()
		said("at the start", 1)
	})
}

// The files of a plugged-in authority are replaced while it is in force: in pieces, wrongly, and
// by another root.
func TestFollowPlugged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newOrganisation(t, ecKey(t, elliptic.P256()), nil), newOrganisation(t, ecKey(t, elliptic.P384()), nil)
		files := func(o *organisation) map[string]string {
			return map[string]string{"ca-key.pem": keyPEM(t, "PRIVATE KEY", o.ca.key), "ca-cert.pem": o.ca.pem(), "root-cert.pem": o.root.pem(), "cert-chain.pem": o.ca.pem() + o.issuer.pem()}
		}
		folder := t.TempDir()
		put := func(name, text string) { write(t, filepath.Join(folder, name), []byte(text)) }
		for name, text := range files(first) {
			put(name, text)
		}
		var log strings.Builder
		memory := filepath.Join(t.TempDir(), "ca", "handover.pem")
		p, err := FollowPlugged(folder, memory, "cluster.local", Options{}, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		signs := func(o *organisation, roots int) bool {
			held, _ := p.Watch()
			return held.cert.Equal(o.ca.cert) && len(held.Bundle().Roots()) == roots
		}
		for _, name := range []string{"ca-key.pem", "ca-cert.pem", "root-cert.pem", "cert-chain.pem"} {
			put(name, files(second)[name])
			p.look() // between two files
		}
		if !signs(first, 1) || strings.Contains(log.String(), "ERROR") {
			t.Errorf("half of the files are in force, or complained about\n%s", log.String())
		}
		p.look()
		if !signs(first, 2) || len(p.Notes()) != 2 {
			t.Errorf("%v", p.Notes())
		}
		time.Sleep(26 * time.Hour)
		p.look()
		if !signs(second, 2) {
			t.Errorf("a day later: %v", p.Notes())
		}
		if p, err = FollowPlugged(folder, memory, "cluster.local", Options{}, slog.New(slog.NewTextHandler(&log, nil))); err != nil || !signs(second, 2) {
			t.Errorf("after a restart: %v, %v", err, p.Notes())
		}
		put("ca-cert.pem", first.ca.pem())
		p.look()
		p.look()
		p.look()
		if !signs(second, 2) || !strings.Contains(p.Problem(), "does not belong to the signing key") || strings.Count(log.String(), "ERROR") != 1 {
			t.Errorf("%s\n%s", p.Problem(), log.String())
		}
		put("ca-cert.pem", second.ca.pem())
		time.Sleep(26 * time.Hour)
		p.look()
		p.look()
		if !signs(second, 1) || p.Problem() != "" || len(p.Notes()) != 0 {
			t.Errorf("%v %s", p.Notes(), p.Problem())
		}
	})
}
