package kube

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/weirmesh/weir/identity"
)

const (
	// accountTimeout is less than the 10 s a proxy waits for its certificate.
	accountTimeout = 2 * time.Second
	// accountAgain is how long the API server's answer is believed. 10,000 proxies renew less often than once in four seconds.
	accountAgain = 10 * time.Second
	// maxAccounts bounds the memory, to a few MB. What was forgotten is asked again.
	maxAccounts = 20_000
	// remade is by how much clocks may differ, and certificates are older than they are (ca).
	remade = 3 * time.Minute
)

// AccountsOptions are those of Accounts.
type AccountsOptions struct {
	Accounts corev1client.ServiceAccountsGetter
	Log      *slog.Logger
}

// Accounts know whether a certificate's service account is still there. While the API server does not answer, all are taken
// to be: what is in use must not lapse because of it.
type Accounts struct {
	o AccountsOptions

	mu    sync.Mutex
	known map[types.NamespacedName]account
	told  time.Time // when that nobody answers was logged last
}

// account is what the API server said.
type account struct {
	at    time.Time // when
	gone  bool
	since time.Time // when it was made; zero if that is not known
}

// NewAccounts makes Accounts.
func NewAccounts(o AccountsOptions) (*Accounts, error) {
	if o.Accounts == nil || o.Log == nil {
		return nil, errors.New("service accounts: a client and a logger are required")
	}
	return &Accounts{o: o, known: map[types.NamespacedName]account{}}, nil
}

// Renew is why a certificate may not be renewed by itself, for ca/server.Certificates: its error may be told to the caller.
func (a *Accounts) Renew(ctx context.Context, id identity.ID, held *x509.Certificate) error {
	n := types.NamespacedName{Namespace: id.Namespace, Name: id.ServiceAccount}
	was := a.at(ctx, n)
	switch {
	case was.gone:
		return fmt.Errorf("service account %s does not exist: make it again, and show a token of it", n)
	case !was.since.IsZero() && held.NotBefore.Add(remade).Before(was.since):
		return fmt.Errorf("service account %s was made anew at %s, after the certificate: show a token of the new one", n, was.since.UTC().Format(time.RFC3339))
	}
	return nil
}

func (a *Accounts) at(ctx context.Context, n types.NamespacedName) account {
	now := time.Now()
	a.mu.Lock()
	got, ok := a.known[n]
	a.mu.Unlock()
	if ok && now.Sub(got.at) < accountAgain {
		return got
	}
	ctx, cancel := context.WithTimeout(ctx, accountTimeout)
	defer cancel()
	o, err := a.o.Accounts.ServiceAccounts(n.Namespace).Get(ctx, n.Name, metav1.GetOptions{})
	a.mu.Lock()
	defer a.mu.Unlock()
	if got = (account{at: now}); err == nil {
		got.since = o.CreationTimestamp.Time
	} else if got.gone = missing(err, n.Name); !got.gone && now.Sub(a.told) > time.Minute {
		a.told = now
		a.o.Log.Warn("whether the service account of a certificate is there cannot be found out; it is renewed", "account", n, "err", err)
	}
	if len(a.known) >= maxAccounts {
		clear(a.known)
	}
	a.known[n] = got
	return got
}

// missing reports whether the API server itself says that there is no such object: a 404 of something in between counts for nothing.
func missing(err error, name string) bool {
	s, ok := errors.AsType[*apierrors.StatusError](err)
	return ok && apierrors.IsNotFound(err) && !apierrors.IsUnexpectedServerError(err) && s.Status().Details != nil && s.Status().Details.Name == name
}
