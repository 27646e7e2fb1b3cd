package cli

import (
	"context"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirmesh/weir/local/upsock"
)

func (a *app) run() *cobra.Command {
	const example = "`weir run --as default/reviews-v4 --port http=9080 -- ./reviews`"
	var as, account string
	var ports []string
	var labels map[string]string
	p := program{stdin: true}
	cmd := &cobra.Command{
		Use:   "run --as [NAMESPACE/]NAME [flags] -- COMMAND [ARGUMENT]...",
		Short: "run a local program as a workload of the mesh",
		Long: `Run a local program as a workload of the mesh, with an address, an identity and a
proxy of its own, for as long as the program runs. The exit status is its own.

If there is a Deployment of that name, the workload has its labels, service
account, environment and ports; otherwise the label app=NAME and the service
account NAME. A Service that selects the labels sends requests to it.`,
		Example: `  weir run --as reviews-v4 -l app=reviews -l version=v4 -p http=9080 -- ./reviews
  weir run --as shop/cart -- npm start
  weir run --as client -t -- sh`,
	}
	p.flags(cmd)
	cmd.Flags().StringVar(&as, "as", "", "`[NAMESPACE/]NAME` of the workload")
	_ = cmd.RegisterFlagCompletionFunc("as", cobra.NoFileCompletions)
	cmd.Flags().StringArrayVarP(&ports, "port", "p", nil, "`NAME=PORT` the program listens on (repeatable)")
	_ = cmd.RegisterFlagCompletionFunc("port", cobra.NoFileCompletions)
	cmd.Flags().StringToStringVarP(&labels, "label", "l", nil, "`KEY=VALUE` that Services and policies select (repeatable)")
	_ = cmd.RegisterFlagCompletionFunc("label", cobra.NoFileCompletions)
	cmd.Flags().StringVar(&account, "service-account", "", "`name` of the service account, the identity others see")
	_ = cmd.RegisterFlagCompletionFunc("service-account", cobra.NoFileCompletions)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		_, argv, err := command(cmd, args, example)
		if err != nil {
			return err
		}
		if as == "" {
			return usage(example, "weir run needs --as, the name of the workload")
		}
		numbers, err := portNumbers(ports)
		if err != nil {
			return err
		}
		if err := p.check(); err != nil {
			return err
		}
		dir, err := os.Getwd()
		if err != nil {
			return err
		}
		socket, err := a.upSocket()
		if err != nil {
			return err
		}
		return a.start(cmd.Context(), p, argv, func(ctx context.Context, prog upsock.Program) (int, error) {
			prog.Dir = dir
			return upsock.Run(ctx, socket, upsock.RunOptions{As: as, Ports: numbers, Labels: labels, ServiceAccount: account, Environ: a.Environ, Program: prog,
				Ready:   func(workload string) { a.errs.printf("%s is in the mesh\n", clean(workload)) },
				Message: func(m string) { a.errs.printf("%s\n", clean(m)) },
			})
		})
	}
	return cmd
}

// portNumbers reads NAME=PORT.
func portNumbers(ports []string) (map[string]uint16, error) {
	out := map[string]uint16{}
	for _, p := range ports {
		name, number, ok := strings.Cut(p, "=")
		n, err := strconv.ParseUint(number, 10, 16)
		if !ok || name == "" || err != nil || n == 0 {
			return nil, usage("for example --port http=8080: the name says the protocol", "--port %q is not NAME=PORT", p)
		}
		if _, twice := out[name]; twice {
			return nil, usage("give each port a name of its own", "--port %s is given twice", name)
		}
		out[name] = uint16(n)
	}
	return out, nil
}
