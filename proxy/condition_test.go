package proxy

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirmesh/weir/identity"
)

// refusing is an authority that refuses everybody.
type refusing struct{}

func (refusing) Sign(context.Context, identity.Request) ([]byte, error) {
	return nil, errors.New("the account shop/cart does not exist")
}

// The control plane is told what the authority answered, and by how much the clock jumped, and when.
func TestConditionOfAnIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if c, again := (&Proxy{}).condition(); c == nil || again != nil {
			t.Errorf("without an identity: %v", c)
		}
		var slept atomic.Int64
		clock := func() time.Time { return time.Now().Round(0).Add(time.Duration(slept.Load())) }
		m, err := identity.NewManager(identity.Options{ID: identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "cart"}, Signer: refusing{}, Log: slog.New(slog.DiscardHandler), Now: clock})
		if err != nil {
			t.Fatal(err)
		}
		p := &Proxy{id: m}
		c, again := p.condition()
		if c.GetRenewalError() != "" || c.GetClockJumpNano() != 0 || c.GetRenewalErrorUnixNano() != 0 {
			t.Errorf("before anything happened: %v", c)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		<-again
		if c, again = p.condition(); !strings.Contains(c.GetRenewalError(), "shop/cart does not exist") || c.GetRenewalErrorUnixNano() != uint64(clock().UnixNano()) {
			t.Errorf("refused: %v", c)
		}
		slept.Store(int64(72 * time.Hour))
		for c.GetClockJumpNano() == 0 {
			<-again
			c, again = p.condition()
		}
		if by := time.Duration(c.GetClockJumpNano()); by != 72*time.Hour || c.GetClockJumpUnixNano() != uint64(clock().UnixNano()) {
			t.Errorf("slept: %v, %v", by, c)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
