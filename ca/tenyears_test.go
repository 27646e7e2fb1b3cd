package ca

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirmesh/weir/identity"
)

// handshake is one of mutual TLS, over a connection of memory.
func handshake(ctx context.Context, client, server *identity.Material, accept identity.Accept) error {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	served := make(chan error, 1)
	go func() {
		s := tls.Server(b, identity.ServerTLS(server, accept, true))
		err := s.HandshakeContext(ctx)
		if err == nil {
			_, err = s.Write([]byte{1}) // the client has no ticket to wait for: it knows by this
		}
		served <- err
	}()
	c := tls.Client(a, identity.ClientTLS(client, accept))
	err := c.HandshakeContext(ctx)
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	a.Close()
	if s := <-served; err == nil {
		err = s
	}
	return err
}

// Ten years on a virtual clock, with real roots of one year each, real certificates of four days and real machines that renew them, and nobody to sign
// for 40 % of the time, up to a day and a half on end (which is less than is left of a certificate when its renewal is due): at every
// renewal everybody who holds a certificate accepts everybody else's, as client or as server, and handshakes succeed.
func TestTenYearsOfHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const (
			rootOf = 365 * day
			life   = 4 * day
			spell  = 36 * time.Hour
		)
		rnd := rand.New(rand.NewPCG(1, 10))
		accept := identity.TrustDomains{"cluster.local"}
		succeed := func(o *Own) *Own {
			key, err := identity.NewKey()
			if err != nil {
				t.Fatal(err)
			}
			cert, err := newRoot("cluster.local", key, time.Now(), rootOf)
			if err != nil {
				t.Fatal(err)
			}
			return &Own{append(slices.Clip(o.roots), ownRoot{cert, key}), o.leaf}
		}
		own := succeed(&Own{leaf: life})
		var plan Plan
		var authority *Authority
		look := func() {
			now := time.Now()
			if own.Plan(now).Make {
				own = succeed(own)
			}
			if p := own.Plan(now); authority == nil || !p.Same(plan) {
				var err error
				if authority, err = own.Authority(Options{MaxTTL: life, DefaultTTL: life}, "cluster.local", now); err != nil {
					t.Fatal(now, err)
				}
				plan = p
			}
		}
		type workload struct {
			rotation *identity.Rotation
			held     *identity.Material
		}
		var workloads []*workload
		for range 3 {
			workloads = append(workloads, &workload{rotation: &identity.Rotation{Rand: rnd.Float64}})
		}
		const mean = float64(spell) / 2 * 0.6 / 0.4 // of the time between two outages
		away, turns := false, time.Now().Add(time.Hour)
		var gone time.Duration
		begin := time.Now()
		issued, refused, verified, shaken := 0, 0, 0, 0
		years := 10
		if testing.Short() {
			years = 2
		}
		for end := begin.AddDate(years, 0, 0); time.Now().Before(end); {
			now := time.Now()
			if !now.Before(turns) {
				if away = !away; away {
					d := time.Duration(rnd.Int64N(int64(spell)))
					gone += d
					turns = now.Add(d)
				} else {
					turns = now.Add(time.Duration(rnd.Float64() * 2 * mean))
				}
			}
			next := turns
			for i, w := range workloads {
				if w.rotation.Wait(now) == 0 {
					if away {
						refused++
						w.rotation.Failed(now)
					} else {
						look() // whoever signs has looked after its roots
						held, err := authority.Issue(Grant{ID: []identity.ID{cart, istiod}[i%2]})
						if err != nil {
							t.Fatal(now, err)
						}
						issued++
						w.held = held
						w.rotation.Signed(now, held.Leaf().NotBefore, held.NotAfter())
						for _, o := range workloads {
							if o.held == nil {
								continue
							}
							for _, x := range [][2]*identity.Material{{w.held, o.held}, {o.held, w.held}} {
								verified++
								role := []identity.Role{identity.Client, identity.Server}[verified/2%2]
								if _, err := identity.VerifyPeer(x[0].Certificate().Certificate, x[1].Bundle(), now, role, accept); err != nil {
									t.Fatalf("%s, after %s: %v", now, now.Sub(begin), err)
								}
							}
							if issued%20 == 0 {
								shaken++
								if err := handshake(t.Context(), w.held, o.held, accept); err != nil {
									t.Fatalf("%s, after %s: a handshake: %v", now, now.Sub(begin), err)
								}
							}
						}
					}
				}
				if w.held != nil && !now.Before(w.held.NotAfter()) {
					t.Fatalf("%s: a certificate ended, although the authority was never away for longer than %s", now, spell)
				}
				if at := now.Add(max(time.Millisecond, w.rotation.Wait(now))); at.Before(next) {
					next = at
				}
			}
			time.Sleep(next.Sub(now))
		}
		if part := gone.Seconds() / time.Since(begin).Seconds(); part < 0.35 || part > 0.45 {
			t.Errorf("nobody was there to sign for %.0f %% of the time, want 40", 100*part)
		}
		if len(own.roots) < years || issued < 400*years || refused < 500*years || shaken < 40*years {
			t.Errorf("%d roots, %d certificates, %d refusals, %d handshakes: this does not do what it says", len(own.roots), issued, refused, shaken)
		}
		t.Logf("%d roots, %d certificates issued, %d times nobody signed, %d verifications, %d handshakes", len(own.roots), issued, refused, verified, shaken)
	})
}
