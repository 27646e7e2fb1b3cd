package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/ca/token"
)

func (a *app) token() *cobra.Command {
	var q apiv1.TokenRequest
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "token --service-account NAME [flags]",
		Short: "mint a token by which a machine gets its first certificate",
		Long: `Mint a token by which a proxy on a machine of your own (a VM) gets its first
certificate, as the service account that is named. The token is a secret: who has
it is that service account. It is for one machine alone: good for the first
address that shows it, and there for ten minutes more. Then the proxy renews by
its certificate; without one that is good it needs another token.

On one machine, who may read the state folder may mint one; the control plane
logs each, by its id. Of a mesh in a Kubernetes cluster, it is a token of the
service account, which has to be there: who may create tokens of it (the right to
create serviceaccounts/token in its namespace) may mint one, and who deletes the
service account takes it back. There it is for any workload of the account.`,
		Example: `  weir identity token --service-account db -n shop
  weir identity token --service-account db --workload db-0 --ttl 24h > token
  weir identity token --service-account db -o json | jq -r .id`,
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	output := outputFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&q.ServiceAccount, "service-account", "", "`name` of the service account whose identity the machine gets")
	f.StringVar(&q.Workload, "workload", "", "`name` of the one workload it is for (default: any of the service account)")
	f.StringVar(&q.Audience, "audience", "istio-ca", "who is to accept it")
	f.DurationVar(&ttl, "ttl", time.Hour, "how long it may be used for the first time, up to 168h")
	a.namespaceFlag(cmd, &q.Namespace)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if q.ServiceAccount == "" {
			return usage("for example `weir identity token --service-account db`", "--service-account is needed: whose identity does the machine get?")
		}
		q.TTL = ttl.String()
		c, err := a.mesh()
		if err != nil {
			return err
		}
		var t *apiv1.Token
		if a.cluster != nil {
			var v *apiv1.Identity // the trust domain, and whether there is anybody to take the token
			if v, err = c.Identity(cmd.Context()); err == nil {
				q.Namespace = cmp.Or(q.Namespace, a.cluster.Namespace())
				t, err = clusterToken(cmd.Context(), a.cluster.Client(), v.TrustDomain, q, ttl)
			}
		} else {
			t, err = c.Token(cmd.Context(), q)
		}
		if err != nil {
			return err
		}
		if output.value == asJSON || output.value == asYAML {
			return a.out.emit(output.value, t)
		}
		a.out.printf("%s\n", clean(t.Token))
		return nil
	}
	return cmd
}

// clusterToken has the API server make a token of a service account, for an audience that the control plane knows as
// that of machines. Kubernetes decides who may.
func clusterToken(ctx context.Context, kube kubernetes.Interface, trustDomain string, q apiv1.TokenRequest, ttl time.Duration) (*apiv1.Token, error) {
	switch {
	case q.Workload != "":
		return nil, usage("leave out --workload", "tokens of Kubernetes are for a service account, not for one workload of it")
	case q.Audience != token.Audience:
		return nil, usage("leave out --audience", "in a cluster the audience is %s", token.MachineAudience)
	}
	seconds := int64(ttl / time.Second)
	made, err := kube.CoreV1().ServiceAccounts(q.Namespace).CreateToken(ctx, q.ServiceAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{token.MachineAudience}, ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	what := "service account " + q.Namespace + "/" + q.ServiceAccount
	switch {
	case apierrors.IsNotFound(err):
		return nil, hinted("kubectl create serviceaccount -n "+q.Namespace+" "+q.ServiceAccount, "there is no %s", what)
	case apierrors.IsForbidden(err):
		return nil, hinted("it takes the right to create serviceaccounts/token in namespace "+q.Namespace, "you may not create tokens of %s: %w", what, err)
	case err != nil:
		return nil, fmt.Errorf("creating a token of %s: %w", what, err)
	case made.Status.Token == "":
		return nil, errors.New("the API server made an empty token")
	}
	return &apiv1.Token{Identity: "spiffe://" + trustDomain + "/ns/" + q.Namespace + "/sa/" + q.ServiceAccount, Audience: token.MachineAudience,
		Expires: made.Status.ExpirationTimestamp.UTC(), ID: token.OnceOf(made.Status.Token), Token: made.Status.Token}, nil
}
