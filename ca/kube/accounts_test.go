package kube

import (
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

// A certificate is renewed while its account is there, and while nobody can say whether it is; an account that was removed, or
// made anew, takes back what the old one had.
func TestAccounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		accounts := client.CoreV1().ServiceAccounts("shop")
		var away error
		asked := 0
		client.PrependReactor("get", "serviceaccounts", func(k8stesting.Action) (bool, runtime.Object, error) {
			asked++
			return away != nil, (*corev1.ServiceAccount)(nil), away
		})
		a, err := NewAccounts(AccountsOptions{Accounts: client.CoreV1(), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		made := func() {
			t.Helper()
			if _, err := accounts.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: "shop", CreationTimestamp: metav1.Now()}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		held := func() *x509.Certificate { return &x509.Certificate{NotBefore: time.Now().Add(-2 * time.Minute)} }
		want := func(when string, c *x509.Certificate, text string) {
			t.Helper()
			if err := a.Renew(t.Context(), cart, c); (err == nil) != (text == "") || err != nil && !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v, want %q", when, err, text)
			}
			time.Sleep(accountAgain)
		}
		made()
		first := held()
		want("the first certificate of a new account", first, "")
		asked = 0
		for range 1000 {
			if err := a.Renew(t.Context(), cart, first); err != nil {
				t.Fatal(err)
			}
		}
		if asked != 1 {
			t.Errorf("%d questions for 1000 requests at one time", asked)
		}
		time.Sleep(time.Hour)
		if err := accounts.Delete(t.Context(), "cart", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		want("the account is gone", first, "service account shop/cart does not exist")
		for name, e := range map[string]error{
			"the API server is away":             errors.New("connection refused"),
			"it does not let us ask":             apierrors.NewForbidden(schema.GroupResource{Resource: "serviceaccounts"}, "cart", errors.New("no")),
			"a proxy before it finds no page":    apierrors.NewGenericServerResponse(http.StatusNotFound, "get", schema.GroupResource{Resource: "serviceaccounts"}, "cart", "404 page not found", 0, true),
			"something there is not its own 404": apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "shop"),
		} {
			away = e
			want(name, first, "")
		}
		away = nil
		want("it answers again", first, "does not exist")
		made()
		want("another account of the name", first, "was made anew at 2000-01-01T")
		want("a certificate of that", held(), "")
	})
}
