package cli

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"
)

// completionTimeout is what a person who pressed Tab waits without wondering.
const completionTimeout = time.Second

func (a *app) completion() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "print a script that lets a shell complete commands, flags and names",
		Long: `Print a script that lets a shell complete commands, flags, kinds, and the names of
what runs in the mesh. bash needs its package bash-completion.`,
		Example: `  source <(weir completion bash)                                # in ~/.bashrc
  weir completion zsh > "${fpath[1]}/_weir"                     # once
  weir completion fish > ~/.config/fish/completions/weir.fish   # once`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("for example `source <(weir completion bash)`", "weir completion needs the name of one shell: bash, zsh or fish")
			}
			return nil
		},
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.out.w, true)
			case "zsh":
				return root.GenZshCompletion(a.out.w)
			case "fish":
				return root.GenFishCompletion(a.out.w, true)
			}
			return usage("use bash, zsh or fish", "there is no script for %q", args[0])
		},
	}
}

// completeObjects completes KIND NAME...; more are further words for a kind.
func (a *app) completeObjects(namespace *string, more ...string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		var out []string
		if len(args) == 0 {
			for _, k := range kinds {
				out = append(out, k.plural)
			}
			return append(out, more...), cobra.ShellCompDirectiveNoFileComp
		}
		k, _ := kindOf(args[0])
		ns := *namespace
		if ns == "" {
			ns = a.namespace()
		}
		c, err := a.mesh()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		if k.name == servicesKind || k.name == endpointsKind {
			return a.completeServices(ctx, c, ns, args[1:]), cobra.ShellCompDirectiveNoFileComp
		}
		objects, err := c.Objects(ctx, k.name, "", "")
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		for _, o := range objects {
			if (o.Namespace == ns || o.Namespace == "") && !slices.Contains(args[1:], o.Name) {
				out = append(out, o.Name)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeNamespaces offers the namespaces in which something runs.
func (a *app) completeNamespaces(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	var out []string
	for _, w := range a.workloads(cmd.Context()) {
		if !slices.Contains(out, w[0]) {
			out = append(out, w[0])
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeWorkloads offers pods and Deployments; those outside the namespace with theirs.
func (a *app) completeWorkloads(namespace *string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return a.workloadsFrom(cmd.Context(), *namespace), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeEnds offers workloads for the flags --from and --to.
func (a *app) completeEnds(cmd *cobra.Command) {
	for _, flag := range []string{"from", "to"} {
		_ = cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return a.workloadsFrom(cmd.Context(), ""), cobra.ShellCompDirectiveNoFileComp
		})
	}
}

// workloadsFrom are pods and Deployments as they are named from a namespace.
func (a *app) workloadsFrom(ctx context.Context, namespace string) []string {
	if namespace == "" {
		namespace = a.namespace()
	}
	var out []string
	for _, w := range a.workloads(ctx) {
		name := w[1]
		if w[0] != namespace {
			name = w[0] + "/" + name
		}
		if name != "" && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// workloads are namespace and name of every Deployment and pod that runs.
func (a *app) workloads(ctx context.Context) [][2]string {
	c, err := a.mesh()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	ws, err := c.Workloads(ctx)
	if err != nil {
		return nil
	}
	var out [][2]string
	for _, w := range ws {
		if w.Owner != "" {
			out = append(out, [2]string{w.Namespace, w.Owner})
		}
		out = append(out, [2]string{w.Namespace, w.Name})
	}
	return out
}

// completeService offers the services of a namespace as the one argument.
func (a *app) completeService(namespace *string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		c, err := a.mesh()
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ns := *namespace
		if ns == "" {
			ns = a.namespace()
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		return a.completeServices(ctx, c, ns, nil), cobra.ShellCompDirectiveNoFileComp
	}
}
