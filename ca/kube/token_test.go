package kube

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"google.golang.org/grpc/metadata"

	"github.com/weirmesh/weir/ca/internal/limit"
	"github.com/weirmesh/weir/ca/server"
	"github.com/weirmesh/weir/identity"
)

// apiServer reviews tokens; their third part says what it says of them.
type apiServer struct {
	*fake.Clientset
	err   error
	asked int
}

func newAPIServer() *apiServer {
	s := &apiServer{Clientset: fake.NewClientset()}
	s.PrependReactor("create", "tokenreviews", func(a k8stesting.Action) (bool, runtime.Object, error) {
		s.asked++
		if s.err != nil {
			return true, nil, s.err
		}
		r := a.(k8stesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		user, verdict, _ := strings.Cut(r.Spec.Token[strings.LastIndexByte(r.Spec.Token, '.')+1:], "/")
		r.Status = authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: r.Spec.Audiences, User: authenticationv1.UserInfo{
			Username: user, Extra: map[string]authenticationv1.ExtraValue{extraPodName: {"cart-0"}, extraPodUID: {"u-1"}}}}
		switch verdict {
		case "forged":
			r.Status = authenticationv1.TokenReviewStatus{Error: "invalid bearer token"}
		case "unbound":
			r.Status.User.Extra = nil
		case "deaf":
			r.Status.Audiences = nil
		}
		return true, r, nil
	})
	return s
}

func jwt(payload, verdict string) string {
	return "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + "." + verdict
}

func projected(life time.Duration, verdict string) string {
	return jwt(fmt.Sprintf(`{"aud":["istio-ca"],"exp":%d}`, time.Now().Add(life).Unix()), verdict)
}

func newReviewer(t *testing.T, s *apiServer, mounted bool) *Reviewer {
	t.Helper()
	r, err := NewReviewer(ReviewerOptions{Reviews: s.AuthenticationV1(), TrustDomain: "cluster.local", Mounted: mounted, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const cartUser = "system:serviceaccount:shop:cart"

var cart = identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "cart"}

func TestReview(t *testing.T) { synctest.Test(t, testReview) }

func testReview(t *testing.T) {
	s := newAPIServer()
	asks := func(r *Reviewer, text string) (Account, error) { return r.Review(t.Context(), text, "10.0.0.9") }
	for _, c := range []struct {
		name, token string
		mounted     bool
		err         string // "" for cart
		asked       int
	}{
		{"a projected token", projected(time.Hour, cartUser), false, "", 1},
		{"one of several audiences", jwt(`{"aud":["x","istio-ca"],"exp":99999999999}`, cartUser), false, "", 1},
		{"one audience, as a string", jwt(`{"aud":"istio-ca"}`, cartUser), false, "", 1},
		{"the mounted token, in a mesh of today", jwt(`{"aud":["https://kubernetes.default.svc"],"exp":99999999999}`, cartUser), false, `it is for audience "https://kubernetes.default.svc", not "istio-ca": mount a projected token`, 0},
		{"the mounted token, in one of 1.0", jwt(`{"aud":["https://kubernetes.default.svc"],"exp":99999999999}`, cartUser), true, "", 1},
		{"the token of a Secret, which is for ever and anybody's", jwt(`{"iss":"kubernetes/serviceaccount"}`, cartUser+"/unbound"), true, "bound to no pod", 1},
		{"another audience, in one of 1.0", jwt(`{"aud":"vault"}`, cartUser+"/forged"), true, `it is not for audience "istio-ca", and the API server refuses it: invalid`, 1},
		{"no audience", jwt(`{}`, cartUser), false, "audience none", 0},
		{"expired", projected(-90*time.Second, cartUser), false, "it expired 1m30s ago", 0},
		{"forged", projected(time.Hour, cartUser+"/forged"), false, "the API server refuses it: invalid bearer token", 1},
		{"an API server without audiences", projected(time.Hour, cartUser+"/deaf"), false, "does not say that it is for audience", 1},
		{"bound to no pod", projected(time.Hour, cartUser+"/unbound"), false, "bound to no pod", 1},
		{"a user's", projected(time.Hour, "alice"), false, `that of "alice", not of a service account`, 1},
		{"a name like a service account's", projected(time.Hour, "x:system:serviceaccount:shop:cart"), false, "not of a service account", 1},
		{"no token", "secret", false, "three parts", 0},
		{"not base64", "a.%.c", false, "not base64url", 0},
		{"not JSON", "a.YQ.c", false, "not a JSON object", 0},
		{"an audience of numbers", jwt(`{"aud":[1]}`, cartUser), false, "its audience is neither", 0},
		{"an end that is no time", jwt(`{"aud":"istio-ca","exp":1e300}`, cartUser), false, "its end is not a time", 0},
		{"huge", projected(time.Hour, strings.Repeat("x", maxToken)), false, "at most 16384 are read", 0},
	} {
		s.asked = 0
		a, err := asks(newReviewer(t, s, c.mounted), c.token)
		if c.err == "" {
			if err != nil || a.ID != cart || a.Pod != "cart-0" {
				t.Errorf("%s: %+v %v", c.name, a, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), c.err) || errors.Is(err, server.ErrUnchecked) {
			t.Errorf("%s: %v, want %q", c.name, err, c.err)
		}
		if s.asked != c.asked {
			t.Errorf("%s: %d reviews, want %d", c.name, s.asked, c.asked)
		}
	}
}

// While the API server is away who was known stays so until the token ends, and who is new is
// told to come again. Nobody can have it asked without end.
func TestReviewWithoutAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newAPIServer()
		r := newReviewer(t, s, false)
		token := projected(time.Hour, cartUser)
		ask := func(token string) error { _, err := r.Review(t.Context(), token, "10.0.0.9"); return err }
		for range 3 {
			if err := ask(token); err != nil {
				t.Fatal(err)
			}
		}
		if s.asked != 1 {
			t.Errorf("%d reviews of one token", s.asked)
		}
		time.Sleep(reviewAgain)
		if err := ask(token); err != nil || s.asked != 2 {
			t.Errorf("%v, %d reviews after a while", err, s.asked)
		}
		for _, down := range []error{errors.New("connection refused"), apierrors.NewInternalError(errors.New("etcd")),
			apierrors.NewForbidden(schema.GroupResource{Resource: "tokenreviews"}, "", errors.New("no role"))} {
			s.err = down
			time.Sleep(reviewAgain)
			if err := ask(token); err != nil {
				t.Errorf("%v: the known token: %v", down, err)
			}
			if err := ask(projected(2*time.Hour, cartUser)); !errors.Is(err, server.ErrUnchecked) {
				t.Errorf("%v: a new token: %v", down, err)
			}
		}
		time.Sleep(time.Hour)
		if err := ask(token); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("beyond its end: %v", err)
		}

		s.err = nil
		// A pod that is gone: the API server says so at the next review.
		gone := projected(3*time.Hour, cartUser)
		if err := ask(gone); err != nil {
			t.Fatal(err)
		}
		s.PrependReactor("create", "tokenreviews", func(a k8stesting.Action) (bool, runtime.Object, error) {
			s.asked++
			return true, &authenticationv1.TokenReview{Status: authenticationv1.TokenReviewStatus{Error: "pod not found"}}, nil
		})
		time.Sleep(reviewAgain)
		for range 2 {
			if err := ask(gone); err == nil || !strings.Contains(err.Error(), "pod not found") {
				t.Errorf("the token of a pod that is gone: %v", err)
			}
		}

		time.Sleep(time.Minute)
		s.asked = 0
		for i := range 3 * limit.Burst {
			err := ask(projected(time.Hour, fmt.Sprint(i)))
			if i >= limit.Burst && !errors.Is(err, server.ErrUnchecked) {
				t.Fatalf("review %d: %v", i, err)
			}
		}
		if s.asked != limit.Burst {
			t.Errorf("%d reviews for one address", s.asked)
		}
	})
}

func TestReviewedIsBounded(t *testing.T) {
	r := newReviewer(t, newAPIServer(), false)
	now := time.Now()
	for i := range maxReviewed + 100 {
		r.remember([32]byte{byte(i), byte(i >> 8), byte(i >> 16)}, review{at: now, expires: now.Add(time.Hour)})
	}
	if n := len(r.reviewed); n > maxReviewed {
		t.Errorf("%d reviews are remembered", n)
	}
	r.remember([32]byte{31: 1}, review{at: now.Add(2 * time.Hour)})
	if n := len(r.reviewed); n != 1 {
		t.Errorf("%d reviews are remembered after all expired", n)
	}
}

// As an Authenticator it leaves other credentials to others.
func TestAuthenticate(t *testing.T) {
	r := newReviewer(t, newAPIServer(), false)
	with := func(header string) context.Context {
		return metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", header))
	}
	for _, absent := range []context.Context{t.Context(), with("Basic dTpw"), with("Bearer weir1.a.b")} {
		if _, err := r.Authenticate(absent); !errors.Is(err, server.ErrAbsent) {
			t.Errorf("%v", err)
		}
	}
	caller, err := r.Authenticate(with("Bearer " + projected(time.Hour, cartUser)))
	if err != nil || caller.ID != cart || caller.Workload != "cart-0" {
		t.Errorf("%+v %v", caller, err)
	}
}

func FuzzReadClaims(f *testing.F) {
	f.Add(projected(time.Hour, "x"))
	f.Add(jwt(`{"aud":"istio-ca","exp":1.5}`, ""))
	f.Add(jwt(`{"aud":[],"exp":-1}`, ""))
	f.Add("..")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := readClaims(text)
		if err == nil && (len(text) > maxToken || !c.expires.IsZero() && c.expires.Unix() < 1) {
			t.Errorf("%+v", c)
		}
		if err == nil && slices.Contains(c.audience, "istio-ca") && !strings.Contains(text, ".") {
			t.Error("an audience out of nothing")
		}
	})
}
