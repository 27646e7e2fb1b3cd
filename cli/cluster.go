package cli

import (
	"context"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirmesh/weir/install"
	"github.com/weirmesh/weir/install/cluster"
)

// installation is what commands about an installation are told beside the cluster, which is
// that of --kubeconfig and --context.
type installation struct {
	release  string
	revision string
	timeout  time.Duration
}

// revisions adds --revision: which of several installations is meant.
func (f *installation) revisions(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.revision, "revision", "r", "", "`revision`: the name of a control plane beside others")
	_ = cmd.RegisterFlagCompletionFunc("revision", cobra.NoFileCompletions)
}

// name is that of the installation.
func (f *installation) name() string {
	if f.release != "" {
		return f.release
	}
	if f.revision == "default" {
		return install.ReleaseOf("")
	}
	return install.ReleaseOf(f.revision)
}

func (f *installation) flags(a *app, cmd *cobra.Command) {
	cmd.Flags().StringVarP(&a.meant.Namespace, "namespace", "n", installed, "`namespace` of the control plane, as --istioNamespace")
	cmd.Flags().StringVar(&f.release, "release", "", "`name` of the installation (default weir, or weir-REVISION)")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 5*time.Minute, "how long to wait for it to be ready")
	for _, n := range []string{"namespace", "release", "timeout"} {
		_ = cmd.RegisterFlagCompletionFunc(n, cobra.NoFileCompletions)
	}
}

// connect connects to the cluster that is meant; lines of progress go to standard error.
func (a *app) connect() (*cluster.Cluster, error) {
	return cluster.Connect(a.meant.Kubeconfig, a.meant.Context, func(line string) { a.errs.printf("%s\n", clean(line)) })
}

// visit connects and does something for --timeout at most.
func (f *installation) visit(a *app, cmd *cobra.Command, do func(context.Context, *cluster.Cluster) error) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
	defer cancel()
	return c.Plain(ctx, do(ctx, c))
}

// chosen are flags for what to install.
type chosen struct {
	profile    choice
	set, files []string
	hub, tag   string
	pull       string
}

func (s *chosen) flags(cmd *cobra.Command) {
	s.profile = choice{value: "default", allowed: install.Profiles()}
	cmd.Flags().Var(&s.profile, "profile", "what to install")
	_ = cmd.RegisterFlagCompletionFunc("profile", cobra.FixedCompletions(s.profile.allowed, cobra.ShellCompDirectiveNoFileComp))
	cmd.Flags().StringArrayVar(&s.set, "set", nil, "`KEY=VALUE` of the chart, as with Helm; may be repeated")
	cmd.Flags().StringArrayVarP(&s.files, "values", "f", nil, "`file` with values of the chart; may be repeated")
	cmd.Flags().StringVar(&s.hub, "hub", "", "where the images are: `HUB`/weir-control:TAG (default weir)")
	cmd.Flags().StringVar(&s.tag, "tag", "", "`tag` of the images (default: the version of this program)")
	cmd.Flags().StringVar(&s.pull, "image-pull-policy", "", "`policy` of the images: Always, IfNotPresent, Never")
	for _, n := range []string{"set", "hub", "tag"} {
		_ = cmd.RegisterFlagCompletionFunc(n, cobra.NoFileCompletions)
	}
	_ = cmd.RegisterFlagCompletionFunc("image-pull-policy", cobra.FixedCompletions([]string{"Always", "IfNotPresent", "Never"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.MarkFlagFilename("values", "yaml", "yml")
}

// render renders what was chosen for a cluster of the given version.
func (s *chosen) render(a *app, f *installation, kube string) (*install.Release, error) {
	o := install.Settings{Release: f.release, Namespace: a.meant.Namespace, Profile: s.profile.value, Version: a.Version, Kube: kube}
	for _, name := range s.files {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, usage("--values takes files with values of the chart", "%w", err)
		}
		o.Files = append(o.Files, b)
	}
	o.Set = append(o.Set, "managedBy=weir")
	for _, v := range [][2]string{{"global.hub", s.hub}, {"global.tag", s.tag}, {"global.imagePullPolicy", s.pull}} {
		if v[1] != "" {
			o.Set = append(o.Set, v[0]+"="+v[1])
		}
	}
	o.Set = append(o.Set, s.set...)
	if f.revision != "" {
		o.Set = append(o.Set, "revision="+f.revision)
	}
	r, err := install.Render(o)
	if err != nil {
		return nil, usage("the values are those of install/chart/values.yaml; `weir install --dry-run` shows what they lead to", "%w", err)
	}
	return r, nil
}

// visit is that of an installation, with what was chosen for the cluster.
func (s *chosen) visit(a *app, f *installation, cmd *cobra.Command, do func(context.Context, *cluster.Cluster, *install.Release) error) error {
	return f.visit(a, cmd, func(ctx context.Context, c *cluster.Cluster) error {
		r, err := s.render(a, f, c.Version)
		if err != nil {
			return err
		}
		return do(ctx, c, r)
	})
}

// problems prints what stands in the way, and reports whether anything does.
func (a *app) problems(ps []cluster.Problem) bool {
	bad := false
	for _, p := range ps {
		word, c := "error:", red
		if p.Warning {
			word, c = "warning:", yellow
		}
		bad = bad || !p.Warning
		a.errs.printf("%s %s\n", a.errs.paint(c, word), clean(p.Message))
		if p.Hint != "" {
			a.errs.printf(" %s %s\n", a.errs.paint(cyan, "hint:"), clean(p.Hint))
		}
	}
	return bad
}
