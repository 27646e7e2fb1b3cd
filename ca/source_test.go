package ca

import (
	"bytes"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirmesh/weir/identity"
)

// follows is a Source that another authority may be put into.
type follows struct{ held *Authority }

func (f *follows) Watch() (*Authority, <-chan struct{}) { return f.held, nil }

// A server's certificate lasts for half its life, unless the authority is another, and
// stays when the authority can make no more.
func TestServing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &follows{selfSigned(t, Options{})}
		s := NewServing(f, Grant{ID: cart, DNSNames: []string{"istiod.istio-system.svc"}}, slog.New(slog.DiscardHandler))
		first := s.Certificate()
		if first.Leaf.DNSNames[0] != "istiod.istio-system.svc" {
			t.Errorf("names %v", first.Leaf.DNSNames)
		}
		time.Sleep(12*time.Hour - time.Second)
		if s.Certificate() != first {
			t.Error("replaced before half its life")
		}
		time.Sleep(2 * time.Second)
		second := s.Certificate()
		if second == first {
			t.Error("not replaced at half its life")
		}
		f.held = selfSigned(t, Options{})
		third := s.Certificate()
		if third == second || identityOf(t, third.Certificate, s.Bundle()) != cart {
			t.Error("still by the authority before")
		}
		time.Sleep(time.Until(f.held.ChainNotAfter()))
		if s.Certificate() == nil {
			t.Error("given up")
		}
	})
}

func identityOf(t *testing.T, raw [][]byte, b *identity.Bundle) identity.ID {
	t.Helper()
	id, err := identity.VerifyPeer(raw, b, time.Now(), identity.Server, identity.OneOf{cart})
	if err != nil {
		t.Error(err)
	}
	return id
}

// What NewSelfSigned makes is what ParsePlugged reads.
func TestSelfSignedFiles(t *testing.T) {
	files, err := NewSelfSigned("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	a, err := ParsePlugged(files, "cluster.local", Options{})
	if err != nil || !bytes.Equal(a.Bundle().PEM(), files["root-cert.pem"]) {
		t.Errorf("%v", err)
	}
	delete(files, "root-cert.pem")
	if _, err := ParsePlugged(files, "cluster.local", Options{}); err == nil || err.Error() != "root-cert.pem is missing or empty" {
		t.Errorf("%v", err)
	}
}
