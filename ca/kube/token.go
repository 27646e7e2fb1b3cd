package kube

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	authenticationv1client "k8s.io/client-go/kubernetes/typed/authentication/v1"

	"github.com/weirmesh/weir/ca/internal/limit"
	"github.com/weirmesh/weir/ca/server"
	"github.com/weirmesh/weir/ca/token"
	"github.com/weirmesh/weir/identity"
)

// What Kubernetes says about the pod that a token is bound to, in the extra fields of a user.
const (
	extraPodName = "authentication.kubernetes.io/pod-name"
	extraPodUID  = "authentication.kubernetes.io/pod-uid"

	userPrefix = "system:serviceaccount:"
)

const (
	// maxToken bounds what is read of a stranger; a token has 1 to 2 KB.
	maxToken = 16 << 10
	// reviewTimeout is less than the 10 s a proxy waits for its certificate.
	reviewTimeout = 5 * time.Second
	// reviewAgain is how long a token is believed without a question: for this long a pod
	// that was deleted may still get a certificate. 10,000 proxies that renew twice a day
	// and come back now and then ask a few times a second.
	reviewAgain = 5 * time.Minute
	// maxReviewed bounds the memory, to a few MB. A token that was forgotten is reviewed again.
	maxReviewed = 20_000
	maxReason   = 300 // of the API server's words, which may quote the token's
)

// ReviewerOptions are those of a Reviewer.
type ReviewerOptions struct {
	Reviews     authenticationv1client.TokenReviewsGetter
	TrustDomain string
	// Mounted accepts also tokens for the API server, as Kubernetes mounts them into every
	// pod and as sidecars of Istio 1.0 have them.
	Mounted bool
	// Pods says where pods are: a token is for its own pod alone; nil: nobody knows, and a token is good from anywhere.
	Pods Pods
	// Uses remembers who used tokens for machines (token.MachineAudience); nil: they are refused.
	Uses *token.Uses
	Log  *slog.Logger
}

// Pods knows pods, for any number of goroutines.
type Pods interface {
	// Shown is what is known of a pod whose token is shown from an address: whether it is known with its addresses, whether it has ended, and at which other
	// pod the address is; zero if it is its own, nobody's, or may be that of several.
	Shown(pod types.NamespacedName, uid types.UID, from netip.Addr) (known, ended bool, at types.NamespacedName)
}

// Reviewer knows callers by the tokens of their service accounts. While the API server does
// not answer, tokens that it reviewed are good until they expire, and new ones are refused.
type Reviewer struct {
	o     ReviewerOptions
	limit limit.Limiter[string] // reviews by the caller's address

	mu       sync.Mutex
	reviewed map[[sha256.Size]byte]review
}

// review is what the API server said of a token.
type review struct {
	Account
	at, expires time.Time
}

// Account is who a token speaks for.
type Account struct {
	ID  identity.ID
	Pod string // that it is bound to, "" if it is bound to none
	UID string // of the pod
	// Once names the token, if it is for one machine outside the cluster.
	Once string
}

// NewReviewer makes a reviewer, for ca/server and xDS.
func NewReviewer(o ReviewerOptions) (*Reviewer, error) {
	if o.Reviews == nil || o.TrustDomain == "" || o.Log == nil {
		return nil, errors.New("token review: a client, a trust domain and a logger are required")
	}
	return &Reviewer{o: o, reviewed: map[[sha256.Size]byte]review{}}, nil
}

// Authenticate makes a Reviewer a server.Authenticator.
func (r *Reviewer) Authenticate(ctx context.Context) (server.Caller, error) {
	text, ok := server.Bearer(ctx)
	if !ok || token.Is(text) { // tokens of our own are another authenticator's
		return server.Caller{}, server.ErrAbsent
	}
	a, err := r.Review(ctx, text, server.PeerHost(ctx))
	if err != nil {
		return server.Caller{}, fmt.Errorf("service account token: %w", err)
	}
	proof := "service account token"
	if a.Once != "" {
		proof += " " + a.Once
	}
	return server.Caller{ID: a.ID, Workload: a.Pod, Proof: proof}, nil
}

// Review finds out whom a token speaks for; host is who shows it. Its errors may be told to
// who showed the token.
func (r *Reviewer) Review(ctx context.Context, text, host string) (Account, error) {
	// What the token says of itself proves nothing, and is good enough to refuse it.
	c, err := readClaims(text)
	if err != nil {
		return Account{}, err
	}
	now := time.Now().Round(0)
	a, err := r.reviewOf(ctx, text, host, c, now)
	if err == nil {
		err = r.place(a, host)
	}
	if err != nil {
		return Account{}, err
	}
	if a.Once == "" {
		return a, nil
	}
	if err := r.o.Uses.Use(token.Claims{ID: a.ID, Expires: c.expires, Once: a.Once}, host, now); err != nil {
		if _, ok := errors.AsType[*token.UseError](err); !ok {
			err = fmt.Errorf("%w: %w", server.ErrUnchecked, err)
		}
		return Account{}, err
	}
	return a, nil
}

// place is why a token that is good is not shown by the pod that it is bound to, as far as that can be known.
func (r *Reviewer) place(a Account, host string) error {
	known, ended, at := r.shown(a, host)
	pod := a.ID.Namespace + "/" + a.Pod
	switch {
	case ended:
		return fmt.Errorf("pod %s, that it is bound to, has ended", pod)
	case at == types.NamespacedName{}:
		return nil
	case !known: // it may have got the address of a pod that is gone, which is not known yet either
		return fmt.Errorf("%w: pod %s, that it is bound to, is not known yet, and its address as that of another; try again", server.ErrUnchecked, pod)
	}
	return &server.ReplayError{ID: a.ID, Pod: pod, At: at.String()}
}

func (r *Reviewer) shown(a Account, host string) (known, ended bool, at types.NamespacedName) {
	if r.o.Pods == nil || a.Pod == "" {
		return true, false, at
	}
	from, _ := netip.ParseAddr(host) // of a socket there is none, and it is no pod's
	return r.o.Pods.Shown(types.NamespacedName{Namespace: a.ID.Namespace, Name: a.Pod}, types.UID(a.UID), from.Unmap().WithZone(""))
}

// reviewOf asks, unless it has lately.
func (r *Reviewer) reviewOf(ctx context.Context, text, host string, c claims, now time.Time) (Account, error) {
	if c.expired(now) {
		return Account{}, fmt.Errorf("it expired %s ago (%s): the kubelet renews projected tokens in their files; read the file anew, and compare clocks",
			now.Sub(c.expires).Round(time.Second), c.expires.UTC().Format(time.RFC3339))
	}
	var audiences []string
	if slices.Contains(c.audience, token.Audience) {
		audiences = []string{token.Audience}
	} else if slices.Contains(c.audience, token.MachineAudience) && r.o.Uses != nil {
		if c.expires.IsZero() {
			return Account{}, errors.New("it never expires: `weir identity token` makes one for a machine")
		}
		audiences = []string{token.MachineAudience}
	} else if !r.o.Mounted {
		return Account{}, fmt.Errorf("it is for audience %s, not %q: mount a projected token of audience %s and show that",
			clip(quoted(c.audience)), token.Audience, token.Audience)
	}
	key := sha256.Sum256([]byte(text))
	known, ok := r.known(key)
	if there, _, _ := r.shown(known.Account, host); ok && !there {
		ok = false // the pod is gone, or so new that nobody told of it: the API server says which
	}
	if ok && now.Before(known.at.Add(reviewAgain)) && !now.Before(known.at) {
		return known.Account, nil
	}
	if !r.limit.Allow(now, host) {
		return Account{}, fmt.Errorf("%w: %s has tokens reviewed more often than %d times a second", server.ErrUnchecked, host, limit.Rate)
	}
	a, err := r.ask(ctx, text, audiences)
	switch {
	case err == nil:
		r.remember(key, review{a, now, c.expires})
		return a, nil
	case !errors.Is(err, server.ErrUnchecked):
		r.forget(key)
		return Account{}, err
	case ok:
		r.o.Log.Warn("token believed from an earlier review", "id", known.ID, "reviewed", known.at, "err", err)
		return known.Account, nil
	}
	return Account{}, err
}

// ask has the API server review a token. What is no verdict is an ErrUnchecked.
func (r *Reviewer) ask(ctx context.Context, text string, audiences []string) (Account, error) {
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	answer, err := r.o.Reviews.TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: text, Audiences: audiences}}, metav1.CreateOptions{})
	if apierrors.IsForbidden(err) {
		r.o.Log.Error("tokens cannot be reviewed: the service account of the control plane needs the permission to create tokenreviews of authentication.k8s.io", "err", err)
		return Account{}, fmt.Errorf("%w: the control plane is not allowed to have tokens reviewed", server.ErrUnchecked)
	}
	if err != nil {
		r.o.Log.Warn("tokens cannot be reviewed", "err", err)
		return Account{}, fmt.Errorf("%w: the API server, which reviews tokens, does not answer; try again", server.ErrUnchecked)
	}
	s := answer.Status
	switch {
	case !s.Authenticated && len(audiences) == 0:
		return Account{}, fmt.Errorf("it is not for audience %q, and the API server refuses it: %s", token.Audience, clip(s.Error))
	case !s.Authenticated:
		return Account{}, fmt.Errorf("the API server refuses it: %s", clip(s.Error))
	case len(audiences) > 0 && !slices.Contains(s.Audiences, audiences[0]):
		// An API server that knows no audiences says nothing of them.
		return Account{}, fmt.Errorf("the API server does not say that it is for audience %q", audiences[0])
	}
	namespace, name, ok := strings.Cut(strings.TrimPrefix(s.User.Username, userPrefix), ":")
	if !ok || !strings.HasPrefix(s.User.Username, userPrefix) {
		return Account{}, fmt.Errorf("it is that of %q, not of a service account", clip(s.User.Username))
	}
	a := Account{Pod: first(s.User.Extra[extraPodName]), UID: first(s.User.Extra[extraPodUID])}
	if a.ID, err = identity.New(r.o.TrustDomain, namespace, name); err != nil {
		return Account{}, err
	}
	switch machine := len(audiences) > 0 && audiences[0] == token.MachineAudience; {
	case machine && a.Pod != "":
		return Account{}, fmt.Errorf("it is bound to a pod, and for a machine: `weir identity token` makes one that is bound to none, and a pod has a token of audience %s", token.Audience)
	case machine:
		a.Once = token.OnceOf(text)
	case a.Pod == "":
		return Account{}, errors.New("it is bound to no pod, so it may be anybody's who read it: show the projected token of the pod; a machine outside the cluster gets its own by `weir identity token`")
	}
	return a, nil
}

func (r *Reviewer) known(key [sha256.Size]byte) (review, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.reviewed[key]
	return known, ok
}

func (r *Reviewer) forget(key [sha256.Size]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.reviewed, key)
}

func (r *Reviewer) remember(key [sha256.Size]byte, v review) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.reviewed) >= maxReviewed {
		for k, old := range r.reviewed {
			if !v.at.Before(old.expires) && !old.expires.IsZero() {
				delete(r.reviewed, k)
			}
		}
		for k := range r.reviewed {
			if len(r.reviewed) < maxReviewed {
				break
			}
			delete(r.reviewed, k)
		}
	}
	r.reviewed[key] = v
}

// claims are what a token says of itself.
type claims struct {
	audience []string
	expires  time.Time // zero: never
}

func (c claims) expired(now time.Time) bool { return !c.expires.IsZero() && !now.Before(c.expires) }

// readClaims reads a JSON Web Token (RFC 7519) without checking its signature.
func readClaims(text string) (claims, error) {
	if len(text) > maxToken {
		return claims{}, fmt.Errorf("%d bytes, at most %d are read", len(text), maxToken)
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return claims{}, errors.New("it is no service account token: a JSON Web Token has three parts")
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return claims{}, errors.New("it is no service account token: its second part is not base64url")
	}
	var raw struct {
		Aud json.RawMessage `json:"aud"`
		Exp *float64        `json:"exp"` // seconds since 1970
	}
	if err := json.Unmarshal(body, &raw); err != nil {
		return claims{}, errors.New("it is no service account token: its second part is not a JSON object of claims")
	}
	var c claims
	var one string
	if json.Unmarshal(raw.Aud, &one) == nil {
		c.audience = []string{one}
	} else if len(raw.Aud) > 0 && json.Unmarshal(raw.Aud, &c.audience) != nil {
		return claims{}, errors.New("it is no service account token: its audience is neither a string nor a list of strings")
	}
	if raw.Exp != nil {
		const century = 100 * 365 * 24 * 3600
		if *raw.Exp < 1 || *raw.Exp > 100*century {
			return claims{}, errors.New("it is no service account token: its end is not a time")
		}
		c.expires = time.Unix(int64(*raw.Exp), 0)
	}
	return c, nil
}

func quoted(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = fmt.Sprintf("%q", s)
	}
	return strings.Join(out, ", ")
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// clip bounds what others wrote into our messages.
func clip(s string) string {
	if len(s) > maxReason {
		s = s[:maxReason] + "…"
	}
	return strings.ToValidUTF8(s, "�")
}
