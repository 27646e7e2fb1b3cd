package kube

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/weirmesh/weir/ca/server"
	"github.com/weirmesh/weir/ca/token"
)

// A machine outside the cluster shows a token of its service account, bound to no pod: it is good for the first address that shows it, at every
// replica, however its signature is written; a token of pods is none of a machine, nor the other way round.
func TestTokensOfMachines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newAPIServer()
		replica := func() *Reviewer {
			r, err := NewReviewer(ReviewerOptions{Reviews: s.AuthenticationV1(), TrustDomain: "cluster.local", Uses: Uses(s.CoreV1().Secrets("istio-system"), nil), Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		one, other := replica(), replica()
		machine := func(life time.Duration, verdict string) string {
			return jwt(fmt.Sprintf(`{"aud":["istio-ca/machine"],"exp":%d}`, time.Now().Add(life).Unix()), verdict)
		}
		good := machine(time.Hour, cartUser+"/unbound")
		for _, c := range []struct {
			name  string
			r     *Reviewer
			token string
			host  string
			want  string
		}{
			{"the first use", one, good, "192.0.2.7", ""},
			{"an answer was lost", one, good, "192.0.2.7", ""},
			{"the same at another replica", other, good, "192.0.2.7", ""},
			{"from elsewhere", one, good, "192.0.2.66", "is for one machine, which used it from 192.0.2.7"},
			{"from elsewhere, at another replica", other, good, "192.0.2.66", "is for one machine"},
			{"from elsewhere, at one that has just started", replica(), good, "192.0.2.66", "is for one machine"},
			{"expired", one, machine(-time.Minute, cartUser+"/unbound"), "192.0.2.7", "it expired 1m0s ago"},
			{"forged", one, machine(time.Hour, cartUser+"/forged"), "192.0.2.7", "the API server refuses it"},
			{"for ever", one, jwt(`{"aud":["istio-ca/machine"]}`, cartUser+"/unbound"), "192.0.2.7", "it never expires"},
			{"that of a pod", one, machine(time.Hour, cartUser), "192.0.2.7", "it is bound to a pod"},
			{"one for pods that is bound to none", one, projected(time.Hour, cartUser+"/unbound"), "192.0.2.7", "`weir identity token`"},
			{"where machines get none", newReviewer(t, s, false), good, "192.0.2.7", `it is for audience "istio-ca/machine", not "istio-ca"`},
		} {
			a, err := c.r.Review(t.Context(), c.token, c.host)
			if c.want == "" {
				if err != nil || a.ID != cart || a.Pod != "" || a.Once != token.OnceOf(good) {
					t.Errorf("%s: %+v %v", c.name, a, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, server.ErrUnchecked) {
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
		}
		time.Sleep(11 * time.Minute)
		if _, err := other.Review(t.Context(), good, "192.0.2.7"); err == nil || !strings.Contains(err.Error(), "was used up at") {
			t.Errorf("later: %v", err)
		}
	})
}

// Two replicas that note a use at once both have theirs noted; what cannot be noted is not granted, and may be tried again.
func TestUsesOfSeveralReplicas(t *testing.T) {
	client := fake.NewClientset()
	secrets := client.CoreV1().Secrets("istio-system")
	claims := func(once string) token.Claims {
		return token.Claims{ID: cart, Expires: time.Now().Add(time.Hour), Once: once}
	}
	first, second := Uses(secrets, map[string]string{"made": "here"}), Uses(secrets, nil)
	if err := first.Use(claims("a"), "192.0.2.1", time.Now()); err != nil {
		t.Fatal(err)
	}
	// Meanwhile another replica writes: the update meets a conflict once.
	conflicts := 0
	client.PrependReactor("update", "secrets", func(k8stesting.Action) (bool, runtime.Object, error) {
		if conflicts++; conflicts == 1 {
			return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "secrets"}, UsesSecret, errors.New("it was written"))
		}
		return false, nil, nil
	})
	if err := second.Use(claims("b"), "192.0.2.2", time.Now()); err != nil {
		t.Fatal(err)
	}
	third := Uses(secrets, nil)
	for once, host := range map[string]string{"a": "192.0.2.1", "b": "192.0.2.2"} {
		if err := third.Use(claims(once), "192.0.2.9", time.Now()); err == nil || !strings.Contains(err.Error(), "from "+host) {
			t.Errorf("%s: %v", once, err)
		}
	}
	client.PrependReactor("get", "secrets", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, (*corev1.Secret)(nil), errors.New("away")
	})
	if err := Uses(secrets, nil).Use(claims("c"), "192.0.2.3", time.Now()); err == nil || !strings.Contains(err.Error(), "noting that a token is used: Secret istio-ca-used-tokens: away") {
		t.Errorf("with the API server away: %v", err)
	}
}
