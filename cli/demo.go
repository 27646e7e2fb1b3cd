package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirmesh/weir/install/cluster"
	"github.com/weirmesh/weir/local/demo"
)

func (a *app) demo() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "demo",
		Short:   "put a demo application into a meshed cluster, or remove it",
		Long:    "Put a demo application into a cluster in which Weir is installed, or remove it.\nOn this machine alone: `weir up --demo bookinfo`.",
		Example: "  weir demo install\n  weir demo uninstall",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.demoInstall(), a.demoUninstall())
	return cmd
}

// demoArgs takes the name of a demo, bookinfo if there is none.
func demoArgs(args []string) (string, []byte, error) {
	name := "bookinfo"
	if len(args) > 0 {
		name = args[0]
	}
	yaml, ok := demo.YAML(name)
	if !ok {
		return "", nil, usage("there are: "+strings.Join(demo.Names(), ", "), "there is no demo %q", name)
	}
	return name, yaml, nil
}

func (a *app) demoInstall() *cobra.Command {
	var f installation
	var into string
	cmd := &cobra.Command{
		Use:       "install [NAME] [flags]",
		Short:     "put a demo application into a meshed cluster",
		Long:      "Put a demo application, bookinfo, into a cluster in which Weir is installed. Its\nimages come from where the installation's came from.",
		Example:   "  weir demo install\n  weir demo install bookinfo --into shop",
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: demo.Names(),
	}
	f.flags(a, cmd)
	cmd.Flags().StringVar(&into, "into", "default", "`namespace` of the application, meshed if it is not")
	_ = cmd.RegisterFlagCompletionFunc("into", cobra.NoFileCompletions)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, yaml, err := demoArgs(args)
		if err != nil {
			return err
		}
		return f.visit(a, cmd, func(ctx context.Context, c *cluster.Cluster) error {
			images, err := c.Images(ctx, a.meant.Namespace)
			if err != nil {
				return err
			}
			if err := c.InstallDemo(ctx, name, yaml, into, images); err != nil {
				return err
			}
			at, err := c.Ingress(ctx, a.meant.Namespace, "istio-ingressgateway")
			if err != nil {
				a.errs.printf("%s runs; there is no ingress gateway that leads to it\n", name)
				return nil
			}
			if at.URL != "" {
				at.URL += "/productpage"
			}
			a.reach(at)
			return nil
		})
	}
	return cmd
}

func (a *app) demoUninstall() *cobra.Command {
	var f installation
	cmd := &cobra.Command{
		Use:       "uninstall [NAME] [flags]",
		Short:     "remove a demo application from a cluster",
		Long:      "Remove a demo application from a cluster.",
		Example:   "  weir demo uninstall",
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: demo.Names(),
	}
	f.flags(a, cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, yaml, err := demoArgs(args)
		if err != nil {
			return err
		}
		return f.visit(a, cmd, func(ctx context.Context, c *cluster.Cluster) error {
			n, err := c.RemoveDemo(ctx, name, yaml)
			if err == nil {
				a.errs.printf("%s of %s removed\n", count(n, "object"), name)
			}
			return err
		})
	}
	return cmd
}
