package tls

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/proxy/tls/tlstest"
)

// What was verified once is taken again, and never what must be refused: another
// role, another expectation, another bundle, another time, another chain.
func TestVerified(t *testing.T) {
	ca, stranger := tlstest.New(t), tlstest.New(t)
	w := ca.Workload("default", "ratings")
	bundle := ca.Bundle()
	anybody := Names{}
	now := time.Now()
	var v verified
	ask := func(chain []*x509.Certificate, b *identity.Bundle, at time.Time, role identity.Role, accept identity.Accept) bool {
		t.Helper()
		id, err := v.verify(chain, b, at, role, accept)
		if (err == nil) != (id == w.ID()) {
			t.Errorf("%v, %v", id, err)
		}
		return err == nil
	}
	for range 2 {
		if !ask(w.Chain(), bundle, now, identity.Client, anybody) {
			t.Fatal("a good chain was refused")
		}
		if len(v.good) != 1 {
			t.Errorf("%d chains remembered", len(v.good))
		}
		if ask(w.Chain(), bundle, now, identity.Client, Names{{Exact: "spiffe://cluster.local/ns/default/sa/details"}}) {
			t.Error("somebody else was accepted")
		}
		if ask(w.Chain(), bundle, now.Add(2*time.Hour), identity.Client, anybody) {
			t.Error("an expired certificate was accepted")
		}
		if ask(w.Chain(), bundle, now.Add(-time.Hour), identity.Client, anybody) {
			t.Error("a certificate of the future was accepted")
		}
		if ask(w.Chain(), stranger.Bundle(), now, identity.Client, anybody) {
			t.Error("a bundle that does not vouch for it accepted it")
		}
		if ask(stranger.Workload("default", "ratings").Chain(), bundle, now, identity.Client, anybody) {
			t.Error("a certificate of a stranger was accepted")
		}
		if ask(nil, bundle, now, identity.Client, anybody) {
			t.Error("no certificate was accepted")
		}
	}
	if !ask(w.Chain(), bundle, now, identity.Server, anybody) || len(v.good) != 2 {
		t.Errorf("the other role shares the memory: %d chains", len(v.good))
	}
	// A bundle with the same roots is another bundle: what it vouches for is asked anew.
	if !ask(w.Chain(), ca.Bundle(), now, identity.Client, anybody) || len(v.good) != 1 {
		t.Errorf("%d chains remembered after a change of the bundle", len(v.good))
	}
	for i := range maxVerified {
		v.good[[32]byte{byte(i), byte(i >> 8), 1}] = goodChain{}
	}
	ask(w.Chain(), bundle, now, identity.Client, anybody)
	if len(v.good) != 1 {
		t.Errorf("%d chains remembered", len(v.good))
	}
}
