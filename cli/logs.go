package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirmesh/weir/local/upsock"
)

// controlPlaneLog is the name under which `weir up` keeps what weir-control prints.
const controlPlaneLog = "weir-control"

func (a *app) logs() *cobra.Command {
	var o upsock.LogsOptions
	cmd := &cobra.Command{
		Use:   "logs [WORKLOAD] [flags]",
		Short: "show what workloads, proxies or the control plane print",
		Long: `Show what a workload prints, what its proxy does (--proxy: access log, problems),
or what the control plane does (weir-control). Without a workload it is everything
that "weir up" shows.`,
		Example: `  weir logs reviews-v1 -f
  weir logs reviews-v1-0 --proxy --tail 20
  weir logs weir-control`,
		Args: atMostOne,
	}
	workloads := a.completeWorkloads(&o.Namespace)
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		out, directive := workloads(cmd, args, word)
		return append(out, controlPlaneLog), directive
	}
	cmd.Flags().BoolVar(&o.Proxy, "proxy", false, "the proxy's log instead of the workload's")
	cmd.Flags().BoolVarP(&o.Follow, "follow", "f", false, "go on with what is printed from now on")
	cmd.Flags().IntVar(&o.Tail, "tail", -1, "only this many of the last lines; -1 for all that are kept")
	_ = cmd.RegisterFlagCompletionFunc("tail", cobra.NoFileCompletions)
	cmd.Flags().StringVarP(&o.Container, "container", "c", "", "`name` of the container (default: the first)")
	_ = cmd.RegisterFlagCompletionFunc("container", cobra.NoFileCompletions)
	a.namespaceFlag(cmd, &o.Namespace)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 && (o.Proxy || o.Container != "") {
			return usage("`weir logs reviews-v1 --proxy`", "weir logs needs a workload for that")
		}
		socket, err := a.upSocket()
		if err != nil {
			return err
		}
		if len(args) > 0 {
			o.Workload = args[0]
			split(&o.Namespace, &o.Workload)
		}
		return upsock.Logs(cmd.Context(), socket, o, a.Stdout)
	}
	return cmd
}

// split takes NAMESPACE/NAME apart.
func split(namespace, name *string) {
	if ns, rest, ok := strings.Cut(*name, "/"); ok {
		*namespace, *name = ns, rest
	}
}
