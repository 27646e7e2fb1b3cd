package cli

import (
	"time"

	"github.com/spf13/cobra"

	apiv1 "github.com/weirmesh/weir/api/v1"
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

Only who may read the state folder may mint one; the control plane logs each, by
its id. In a Kubernetes cluster workloads prove who they are by the tokens of
their pods, and none are minted.`,
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
		t, err := c.Token(cmd.Context(), q)
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
