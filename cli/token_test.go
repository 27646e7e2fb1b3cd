package cli

import (
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/ca/token"
)

// In a cluster the API server makes a machine's token, for the audience of machines, if whoever asks may have it made; what it
// cannot make is refused with what to do instead.
func TestClusterToken(t *testing.T) {
	until := time.Date(2026, 11, 22, 13, 0, 0, 0, time.UTC)
	accounts := schema.GroupResource{Resource: "serviceaccounts"}
	for _, c := range []struct {
		name string
		q    apiv1.TokenRequest
		err  error
		want string
	}{
		{name: "made", q: apiv1.TokenRequest{Audience: token.Audience}},
		{name: "no account", q: apiv1.TokenRequest{Audience: token.Audience}, err: apierrors.NewNotFound(accounts, "db"), want: "there is no service account shop/db"},
		{name: "no right", q: apiv1.TokenRequest{Audience: token.Audience}, err: apierrors.NewForbidden(accounts, "db", nil), want: "you may not create tokens of service account shop/db"},
		{name: "one workload", q: apiv1.TokenRequest{Audience: token.Audience, Workload: "db-0"}, want: "not for one workload"},
		{name: "another audience", q: apiv1.TokenRequest{Audience: "vault"}, want: "the audience is istio-ca/machine"},
	} {
		kube := fake.NewClientset()
		var asked *authenticationv1.TokenRequest
		kube.PrependReactor("create", "serviceaccounts", func(a k8stesting.Action) (bool, runtime.Object, error) {
			if a.GetSubresource() != "token" || a.GetNamespace() != "shop" {
				t.Errorf("%s: %v", c.name, a)
			}
			asked = a.(k8stesting.CreateAction).GetObject().(*authenticationv1.TokenRequest)
			if c.err != nil {
				return true, nil, c.err
			}
			out := asked.DeepCopy()
			out.Status = authenticationv1.TokenRequestStatus{Token: "a.b.c", ExpirationTimestamp: metav1.NewTime(until)}
			return true, out, nil
		})
		c.q.Namespace, c.q.ServiceAccount = "shop", "db"
		got, err := clusterToken(t.Context(), kube, "cluster.local", c.q, 30*time.Minute)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
			continue
		}
		if err != nil || *got != (apiv1.Token{Identity: "spiffe://cluster.local/ns/shop/sa/db", Audience: token.MachineAudience, Expires: until, ID: token.OnceOf("a.b.x"), Token: "a.b.c"}) {
			t.Errorf("%s: %+v %v", c.name, got, err)
		}
		if s := asked.Spec; len(s.Audiences) != 1 || s.Audiences[0] != token.MachineAudience || *s.ExpirationSeconds != 1800 || s.BoundObjectRef != nil {
			t.Errorf("%s: asked for %+v", c.name, s)
		}
	}
}
