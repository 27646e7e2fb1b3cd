package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/weirmesh/weir/local/upsock"
)

func (a *app) exec() *cobra.Command {
	const example = "`weir exec productpage-v1 -- curl http://reviews:9080/`"
	var namespace, container string
	var p program
	cmd := &cobra.Command{
		Use:   "exec WORKLOAD [flags] -- COMMAND [ARGUMENT]...",
		Short: "run a command beside a workload, with its network and names",
		Long: `Run a command beside a workload: with its address, its environment and its names
of services, through its proxy. The exit status is the command's.

WORKLOAD is a pod, or a Deployment: then one of its pods that are ready.`,
		Example: `  weir exec productpage-v1 -- curl -s http://reviews:9080/reviews/0
  weir exec -it reviews-v1-0 -- sh
  echo hello | weir exec -i reviews-v1 -n default -- cat`,
		ValidArgsFunction: a.completeWorkloads(&namespace),
	}
	p.flags(cmd)
	cmd.Flags().BoolVarP(&p.stdin, "stdin", "i", false, "pass standard input on")
	cmd.Flags().StringVarP(&container, "container", "c", "", "`name` of the container whose environment it gets (default: the first)")
	_ = cmd.RegisterFlagCompletionFunc("container", cobra.NoFileCompletions)
	a.namespaceFlag(cmd, &namespace)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		front, argv, err := command(cmd, args, example, "a workload")
		if err != nil {
			return err
		}
		if err := p.check(); err != nil {
			return err
		}
		socket, err := a.upSocket()
		if err != nil {
			return err
		}
		o := upsock.ExecOptions{Namespace: namespace, Workload: front[0], Container: container}
		split(&o.Namespace, &o.Workload)
		return a.start(cmd.Context(), p, argv, func(ctx context.Context, prog upsock.Program) (int, error) {
			o.Program = prog
			return upsock.Exec(ctx, socket, o)
		})
	}
	return cmd
}
