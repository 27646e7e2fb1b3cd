package jwtauthn

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirmesh/weir/control/keys"
	"github.com/weirmesh/weir/internal/jwt"
	"github.com/weirmesh/weir/internal/persist"
	"github.com/weirmesh/weir/mesh"
)

// issuer answers who fetches its keys, after a while.
type issuer struct {
	text    atomic.Pointer[string]
	fetched atomic.Int64
}

func (i *issuer) publish(list ...signer) { s := set(list...); i.text.Store(&s) }

func (i *issuer) RoundTrip(q *http.Request) (*http.Response, error) {
	i.fetched.Add(1)
	text := *i.text.Load() // as it is when it is asked
	select {
	case <-time.After(80 * time.Millisecond):
	case <-q.Context().Done():
		return nil, q.Context().Err()
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(text)), Request: q}, nil
}

// A thousand strangers a second try keys that are nowhere, and the name of the next one before it is made, while keys are rotated without
// overlap: no good token is refused, whenever it comes, and the issuer is asked less than five times a second. Old tokens afterwards make
// nobody ask more often than once in two seconds.
func TestStrangersBeforeRotations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const uri = "https://issuer.example/keys"
		from := &issuer{}
		cur := newSigner("k0")
		from.publish(cur)
		f := keys.New(from, "", slog.New(slog.DiscardHandler))
		var wanted persist.Map[mesh.Key, *mesh.RequestAuthentication]
		f.Want(wanted.Set("default/issuer", &mesh.RequestAuthentication{Rules: []mesh.JWTRule{{URI: uri}}}))
		ctx, cancel := context.WithCancel(t.Context())
		var ended sync.WaitGroup
		ended.Go(func() { _ = f.Run(ctx, func(persist.Map[string, *mesh.KeySet]) {}) })
		defer ended.Wait()
		defer cancel()
		time.Sleep(time.Second)
		first, ok := f.Known().Get(uri)
		if !ok {
			t.Fatal("the control plane has no keys")
		}
		src := must(NewSets(f.Newest, nil).Given(first.Text))

		issued := func() string { return fmt.Sprintf(`{"iat":%d}`, time.Now().Unix()) }
		var next atomic.Pointer[string] // the name of the next key
		guess := "k1"
		next.Store(&guess)
		attack, over := context.WithCancel(ctx)
		var tried, taken atomic.Int64
		var strangers sync.WaitGroup
		forged := parsed(newSigner("k").sign(issued()))
		ended.Go(func() {
			for n := 0; attack.Err() == nil; n++ {
				tok := *forged
				if tok.KeyID = fmt.Sprint("x", n); n%2 == 0 {
					tok.KeyID = *next.Load()
				}
				tried.Add(1)
				strangers.Go(func() {
					if s, _ := src.verify(&tok); s == jwt.OK {
						taken.Add(1)
					}
				})
				time.Sleep(time.Millisecond)
			}
		})
		begun, before := time.Now(), from.fetched.Load()
		var calls sync.WaitGroup
		var good, wrong atomic.Int64
		for i := range 20 {
			time.Sleep(time.Second + time.Duration(i)*37*time.Millisecond) // at another moment of the fetches each time
			cur = newSigner(fmt.Sprint("k", i+1))
			from.publish(cur)
			for n := range 40 {
				tok := parsed(cur.sign(issued()))
				calls.Go(func() {
					time.Sleep(time.Duration(n) * 17 * time.Millisecond)
					good.Add(1)
					if s, _ := src.verify(tok); s != jwt.OK {
						wrong.Add(1)
					}
				})
			}
			name := fmt.Sprint("k", i+2)
			next.Store(&name)
		}
		calls.Wait()
		over()
		strangers.Wait()
		seconds := time.Since(begun).Seconds()
		fetches := from.fetched.Load() - before
		t.Logf("%d strangers and %d good tokens in %.0f s, %d refused wrongly, %d fetches", tried.Load(), good.Load(), seconds, wrong.Load(), fetches)
		if wrong.Load() > 0 || taken.Load() > 0 || good.Load() != 800 {
			t.Errorf("%d of %d good tokens are refused, %d of strangers are taken", wrong.Load(), good.Load(), taken.Load())
		}
		if perSecond := float64(fetches) / seconds; perSecond >= 5 {
			t.Errorf("the issuer is asked %.1f times a second", perSecond)
		}

		time.Sleep(time.Minute)
		before = from.fetched.Load()
		old := parsed(newSigner("old").sign(fmt.Sprintf(`{"iat":%d}`, time.Now().Add(-time.Hour).Unix())))
		for range 600 {
			if s, _ := src.verify(old); s == jwt.OK {
				t.Error("an old token is taken")
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := from.fetched.Load() - before; n > 35 {
			t.Errorf("old tokens have the issuer asked %d times in a minute", n)
		}
	})
}
