package kube

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	k8stesting "k8s.io/client-go/testing"

	"github.com/weirmesh/weir/ca/server"
)

// places say of pod shop/cart-0 with uid u-1 what a test has them say, whoever asks from an address of 10.0.0.0/8 but its own.
type places struct {
	t            *testing.T
	known, ended bool
}

func (p *places) Shown(pod types.NamespacedName, uid types.UID, from netip.Addr) (known, ended bool, at types.NamespacedName) {
	if pod.String() != "shop/cart-0" || uid != "u-1" {
		p.t.Errorf("asked about %s %s", pod, uid)
	}
	if netip.MustParsePrefix("10.0.0.0/8").Contains(from) && from != netip.MustParseAddr("10.0.0.9") {
		at = types.NamespacedName{Namespace: "zoo", Name: "thief-0"}
	}
	return p.known, p.ended, at
}

// The token of a pod is for that pod: shown from another one it is refused, and so is that of one that has ended. Who is not known yet is to
// come again if somebody else was at his address, and has his token reviewed at each time; which is how one that is gone is found out at once.
func TestTokensOfOtherPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newAPIServer()
		pods := &places{t: t, known: true}
		r, err := NewReviewer(ReviewerOptions{Reviews: s.AuthenticationV1(), TrustDomain: "cluster.local", Mounted: true, Pods: pods, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		projectedToken, mounted := projected(time.Hour, cartUser), jwt(`{"aud":["https://kubernetes.default.svc"],"exp":99999999999}`, cartUser)
		const (
			granted   = ""
			replayed  = "it is bound to pod shop/cart-0, and was shown from the address of another"
			unchecked = "is not known yet"
			over      = "has ended"
		)
		for _, c := range []struct {
			name, token, host string
			known, ended      bool
			want              string
			reviews           int
		}{
			{"itself", projectedToken, "10.0.0.9", true, false, granted, 1},
			{"itself, again", projectedToken, "10.0.0.9", true, false, granted, 0},
			{"itself, by an IPv4 address in IPv6", projectedToken, "::ffff:10.0.0.9", true, false, granted, 0},
			{"another pod", projectedToken, "10.0.0.66", true, false, replayed, 0},
			{"another pod, by an IPv4 address in IPv6", projectedToken, "::ffff:10.0.0.66", true, false, replayed, 0},
			{"another pod, the token for the API server", mounted, "10.0.0.66", true, false, replayed, 1},
			{"a node", projectedToken, "192.0.2.1", true, false, granted, 0},
			{"a socket", projectedToken, "@", true, false, granted, 0},
			{"who knows", projectedToken, "unknown", true, false, granted, 0},
			{"itself, before it is known", projectedToken, "192.0.2.1", false, false, granted, 1},
			{"at an address that was another's", projectedToken, "10.0.0.66", false, false, unchecked, 1},
			{"a pod that has ended", projectedToken, "10.0.0.9", true, true, over, 0},
			{"a pod that has ended, from elsewhere", projectedToken, "10.0.0.66", true, true, over, 0},
		} {
			pods.known, pods.ended, s.asked = c.known, c.ended, 0
			_, err := r.Review(t.Context(), c.token, c.host)
			if c.want == granted && err != nil || c.want != granted && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "thief") {
				t.Errorf("%s: who shows it is told whose address that is: %v", c.name, err)
			}
			if replay, ok := errors.AsType[*server.ReplayError](err); ok != (c.want == replayed) || ok && (replay.Pod != "shop/cart-0" || replay.At != "zoo/thief-0" || replay.ID != cart) {
				t.Errorf("%s: %+v", c.name, replay)
			}
			if errors.Is(err, server.ErrUnchecked) != (c.want == unchecked) {
				t.Errorf("%s: is it to be tried again? %v", c.name, err)
			}
			if s.asked != c.reviews {
				t.Errorf("%s: %d reviews, want %d", c.name, s.asked, c.reviews)
			}
		}

		// The pod is deleted: what the API server said a moment ago is not believed any more, nor while it is away.
		pods.known, pods.ended = false, false
		s.err = errors.New("connection refused")
		if _, err := r.Review(t.Context(), projectedToken, "192.0.2.1"); !errors.Is(err, server.ErrUnchecked) {
			t.Errorf("a pod that is not known any more, while nobody can be asked: %v", err)
		}
		s.PrependReactor("create", "tokenreviews", func(k8stesting.Action) (bool, runtime.Object, error) {
			return true, &authenticationv1.TokenReview{Status: authenticationv1.TokenReviewStatus{Error: "pod not found"}}, nil
		})
		if _, err := r.Review(t.Context(), projectedToken, "192.0.2.1"); err == nil || !strings.Contains(err.Error(), "pod not found") {
			t.Errorf("a pod that is gone: %v", err)
		}
	})
}
