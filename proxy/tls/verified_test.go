package tls

import (
	stdtls "crypto/tls"
	"crypto/x509"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/proxy/tls/tlstest"
)

// roots is a Source whose bundle changes.
type roots struct{ bundle *identity.Bundle }

func (r *roots) Certificate() *stdtls.Certificate { return nil }
func (r *roots) Bundle() *identity.Bundle         { return r.bundle }

// What was verified once is taken again, and never what must be refused: another
// role, another expectation, another bundle, another time, another chain.
func TestVerified(t *testing.T) {
	ca, stranger := tlstest.New(t), tlstest.New(t)
	w := ca.Workload("default", "ratings")
	source := &roots{ca.Bundle()}
	now := time.Now()
	trust := Trust{Mesh: source}
	if err := trust.resolve(); err != nil {
		t.Fatal(err)
	}
	ask := func(chain []*x509.Certificate, at time.Time, role identity.Role) bool {
		t.Helper()
		id, err := trust.verifyAt(chain, role, at)
		if (err == nil) != (id == w.ID()) {
			t.Errorf("%v, %v", id, err)
		}
		return err == nil
	}
	good := func() int { return len(trust.seen.good) }
	for range 2 {
		if !ask(w.Chain(), now, identity.Client) || good() != 1 {
			t.Fatalf("a good chain was refused, or %d are remembered", good())
		}
		trust.Names = Names{{Exact: "spiffe://cluster.local/ns/default/sa/details"}}
		if ask(w.Chain(), now, identity.Client) {
			t.Error("somebody else was accepted")
		}
		trust.Names = nil
		if ask(w.Chain(), now.Add(2*time.Hour), identity.Client) {
			t.Error("an expired certificate was accepted")
		}
		if ask(w.Chain(), now.Add(-time.Hour), identity.Client) {
			t.Error("a certificate of the future was accepted")
		}
		if ask(stranger.Workload("default", "ratings").Chain(), now, identity.Client) {
			t.Error("a certificate of a stranger was accepted")
		}
		if ask(nil, now, identity.Client) {
			t.Error("no certificate was accepted")
		}
		source.bundle = stranger.Bundle()
		if ask(w.Chain(), now, identity.Client) {
			t.Error("a bundle that does not vouch for it accepted it")
		}
		source.bundle = nil
		if ask(w.Chain(), now, identity.Client) {
			t.Error("no bundle accepted it")
		}
		source.bundle = ca.Bundle() // the same roots, but what it vouches for is asked anew
	}
	if !ask(w.Chain(), now, identity.Client) || !ask(w.Chain(), now, identity.Server) || good() != 2 {
		t.Errorf("%d chains remembered, want one for each role", good())
	}
	for i := range maxVerified {
		trust.seen.good[chainKey{byte(i), byte(i >> 8), 1}] = goodChain{}
	}
	trust.seen.remember(chainKey{}, source.bundle, w.ID(), now, forever, w.Leaf())
	if good() != 1 {
		t.Errorf("%d chains remembered: the memory grows without end", good())
	}
}

// Roots that are out of time are listed beside others while they are exchanged. They vouch for nobody, and are no reason to
// verify everybody's chain in each handshake.
func TestVerifiedBesideOtherRoots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := tlstest.New(t)
		time.Sleep(23*time.Hour + 30*time.Minute)
		ca, vouched := tlstest.New(t), gone.Workload("default", "ratings").Chain() // for an hour, and its root for half of one
		time.Sleep(45 * time.Minute)
		source := &roots{ca.Bundle().Union(gone.Bundle())}
		trust := Trust{Mesh: source}
		if err := trust.resolve(); err != nil {
			t.Fatal(err)
		}
		chain, now := ca.Workload("default", "ratings").Chain(), time.Now()
		if _, err := trust.verifyAt(chain, identity.Client, now); err != nil {
			t.Fatal(err)
		}
		if _, ok := trust.seen.recall(keyOf(chain, identity.Client), source.bundle, now); !ok {
			t.Error("a good chain is not remembered")
		}
		if _, err := trust.verifyAt(vouched, identity.Client, now); err == nil {
			t.Error("a root that has ended vouched for somebody")
		}
		if _, err := trust.verifyAt(chain, identity.Client, now.Add(2*time.Hour)); err == nil {
			t.Error("an expired certificate was accepted")
		}
		source.bundle = gone.Bundle()
		if _, err := trust.verifyAt(chain, identity.Client, now); err == nil {
			t.Error("a root that is no longer listed vouched for somebody")
		}
	})
}

// The same for peers outside the mesh.
func TestVerifiedByRoots(t *testing.T) {
	ca, stranger := tlstest.New(t), tlstest.New(t)
	trust := Trust{Roots: ca.Pool(), Names: Names{{Exact: "shop.example"}}}
	if err := trust.resolve(); err != nil {
		t.Fatal(err)
	}
	chain := []*x509.Certificate{ca.Server("shop.example").Leaf}
	for range 2 {
		for _, tc := range []struct {
			name  string
			chain []*x509.Certificate
			at    time.Time
			want  bool
		}{
			{"good", chain, time.Now(), true},
			{"expired", chain, time.Now().Add(2 * time.Hour), false},
			{"too early", chain, time.Now().Add(-time.Hour), false},
			{"another name", []*x509.Certificate{ca.Server("blog.example").Leaf}, time.Now(), false},
			{"a stranger's", []*x509.Certificate{stranger.Server("shop.example").Leaf}, time.Now(), false},
			{"none", nil, time.Now(), false},
		} {
			if _, err := trust.verifyAt(tc.chain, identity.Server, tc.at); (err == nil) != tc.want {
				t.Errorf("%s: %v", tc.name, err)
			}
		}
	}
}
