// Package cli is the command line `weir`: one file a command.
//
// A command line and its surroundings enter as Options; what was asked for leaves on
// standard output, everything else on standard error (terminal.go has the rules), and
// an exit status is returned: 0, 1 if the answer is no, 2 for a command line that makes
// no sense, and the program's own for `weir exec` and `weir run`. Only cmd/weir and
// tests call it. Nothing is kept between calls of Main.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/cli/forward"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/internal/redact"
)

// Options are a command line and its surroundings. The zero value of a field other than
// the three files is usable.
type Options struct {
	Args    []string // without the program's name
	Version string
	// State is the state folder unless --state names another.
	State                 string
	Stdin, Stdout, Stderr *os.File
	Environ               []string // for programs of `weir run` and `weir up`
	// Binaries is the folder in which weir's other programs are, before PATH.
	Binaries string
	// NoColor turns colours off on terminals, too.
	NoColor bool
}

// Main runs one command line and returns its exit status.
func Main(ctx context.Context, o Options) int {
	a := newApp(o)
	root := a.root()
	root.SetArgs(o.Args)
	err := root.ExecuteContext(ctx)
	if a.cluster != nil {
		defer a.cluster.Close()
	}
	if err != nil {
		return a.fail(err)
	}
	return 0
}

// app is what the commands of one command line share.
type app struct {
	Options
	state string // --state
	api   string // --api
	// which cluster is meant, if one is, and what was found.
	meant   forward.Options
	cluster *forward.Cluster
	out     *printer
	errs    *printer
}

func newApp(o Options) *app {
	return &app{Options: o, out: newPrinter(o.Stdout, o.NoColor), errs: newPrinter(o.Stderr, o.NoColor)}
}

// The groups of commands in `weir help`.
const (
	groupRun       = "run"
	groupCluster   = "cluster"
	groupConfigure = "configure"
	groupLook      = "look"
	groupOther     = "other"
)

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "weir",
		Short: "a service mesh",
		Long: `Weir is a service mesh. "weir up" runs one on this machine: control plane,
ingress gateway and your Deployments as local processes, each with a proxy;
"weir install" puts it into a Kubernetes cluster. The other commands steer the
mesh that runs, and look into it.

Which mesh? That of --api; with --kubeconfig or --context the one installed in
that cluster; else the one that runs on this machine; and if none does, the one
in the cluster that kubectl would take. A cluster's mesh is reached through the
API server: it takes the right to forward ports of pods in the namespace of the
installation.`,
		Example: `  weir up --demo bookinfo         # run the demo
  weir up -f deploy/              # run what the files in a folder describe
  weir status                     # is everything as it should be?
  weir apply -f reviews-v3.yaml   # change the routing
  weir exec productpage-v1 -- curl http://reviews:9080/reviews/0
  weir why --last-errors          # which requests failed, and why`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return noCommand(cmd, args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if errors.Is(err, pflag.ErrHelp) {
			return err
		}
		return flagFailure(cmd, err)
	})
	root.CompletionOptions.DisableDefaultCmd = true
	root.Version = a.Version
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.PersistentFlags().SortFlags = false
	root.PersistentFlags().StringVar(&a.state, "state", a.State, "`folder` of the mesh: its lock, token, sockets")
	root.PersistentFlags().StringVar(&a.api, "api", "", "`host:port` of the control plane (default: what the state folder says)")
	root.PersistentFlags().StringVar(&a.meant.Kubeconfig, "kubeconfig", "", "`file` that names a Kubernetes cluster: its mesh is meant (default: as kubectl)")
	root.PersistentFlags().StringVar(&a.meant.Context, "context", "", "`name` of a context of the kubeconfig: its cluster's mesh is meant (default: its current one)")
	root.PersistentFlags().StringVar(&a.meant.Namespace, "istioNamespace", installed, "`namespace` in which weir is installed in the cluster")
	// The default depends on the machine; help and documentation do not.
	root.PersistentFlags().Lookup("state").DefValue = ""
	_ = root.MarkPersistentFlagDirname("state")
	_ = root.MarkPersistentFlagFilename("kubeconfig")
	for _, n := range []string{"api", "context", "istioNamespace"} {
		_ = root.RegisterFlagCompletionFunc(n, cobra.NoFileCompletions)
	}
	root.AddGroup(
		&cobra.Group{ID: groupRun, Title: "Run a mesh and programs in it:"},
		&cobra.Group{ID: groupCluster, Title: "Install it into a Kubernetes cluster:"},
		&cobra.Group{ID: groupConfigure, Title: "Change it, check configuration:"},
		&cobra.Group{ID: groupLook, Title: "Look into it:"},
		&cobra.Group{ID: groupOther, Title: "Other:"},
	)
	for _, c := range []struct {
		group    string
		commands []*cobra.Command
	}{
		{groupRun, []*cobra.Command{a.up(), a.run(), a.exec(), a.logs(), a.down()}},
		{groupCluster, []*cobra.Command{a.install(), a.verify(), a.uninstall(), a.tag(), a.upgrade(), a.inject(), a.demo()}},
		{groupConfigure, []*cobra.Command{a.apply(), a.get(), a.delete(), a.mtls(), a.authz(), a.analyze(), a.explain()}},
		{groupLook, []*cobra.Command{a.status(), a.why(), a.tap(), a.limits(), a.ejections(), a.top(), a.graph(), a.describe(), a.proxyStatus(), a.proxyConfig(), a.proxy(), a.identity(), a.can(), a.bugReport(), a.debug(), a.version()}},
		{groupOther, []*cobra.Command{a.completion()}},
	} {
		for _, cmd := range c.commands {
			cmd.GroupID = c.group
			cmd.DisableFlagsInUseLine = true
			root.AddCommand(cmd)
		}
	}
	root.AddCommand(a.upInit())
	root.SetHelpCommandGroupID(groupOther)
	root.InitDefaultHelpCmd()
	if help, _, err := root.Find([]string{"help"}); err == nil {
		help.Short, help.Long = "show the help of a command", "Show the help of a command."
		help.Example = "  weir help apply"
		help.RunE = func(_ *cobra.Command, args []string) error {
			cmd, _, err := root.Find(args)
			if err != nil || cmd == root && len(args) > 0 {
				return noCommand(root, args[0])
			}
			return cmd.Help()
		}
	}
	return root
}

func noCommand(root *cobra.Command, word string) error {
	f := &failure{err: fmt.Errorf("there is no command %q", word), hint: "`weir help` lists them", exit: exitUsage}
	if near := document.Suggest(word, names(root.Commands())); near != "" {
		f.hint = "did you mean `weir " + near + "`?"
	}
	return f
}

func names(cmds []*cobra.Command) []string {
	var out []string
	for _, c := range cmds {
		if c.IsAvailableCommand() {
			out = append(out, c.Name())
		}
	}
	return out
}

// installed is the namespace of an installation unless it is told otherwise.
const installed = "istio-system"

// mesh is the control plane of the mesh that is meant: of --api; of the cluster, with
// --kubeconfig or --context; of the mesh that runs on this machine; and if none does, of the
// cluster that kubectl would take.
func (a *app) mesh() (*client.Client, error) {
	if a.api != "" {
		token, err := client.Token(a.state)
		if err != nil {
			return nil, err
		}
		return client.New(a.api, token), nil
	}
	if a.meant.Kubeconfig == "" && a.meant.Context == "" {
		local, err := client.Open(a.state)
		if !errors.Is(err, client.ErrNoMesh) || !a.kubectl() {
			return local, err
		}
	}
	if err := a.open(); err != nil {
		return nil, err
	}
	// The name is one of those that weir-control answers to.
	return client.NewVia(a.cluster.Dial, "localhost:15014", redact.String{}), nil
}

// open reads the kubeconfig, once.
func (a *app) open() error {
	if a.cluster != nil {
		return nil
	}
	var err error
	a.cluster, err = forward.Open(a.meant)
	return err
}

// kubectl reports whether kubectl would find a cluster.
func (a *app) kubectl() bool {
	env := func(name string) string {
		for _, e := range slices.Backward(a.Environ) {
			if v, ok := strings.CutPrefix(e, name+"="); ok {
				return v
			}
		}
		return ""
	}
	if env("KUBECONFIG") != "" {
		return true
	}
	home := env("HOME")
	if home == "" {
		return false
	}
	_, err := os.Stat(filepath.Join(home, ".kube", "config"))
	return err == nil
}

// namespace is the one of objects and workloads that name none.
func (a *app) namespace() string {
	if a.cluster != nil {
		return a.cluster.Namespace()
	}
	if l, err := client.ReadLock(a.state); err == nil && l.Namespace != "" {
		return l.Namespace
	}
	return "default"
}

// flagFailure says what is wrong with a flag, and which one may have been meant.
func flagFailure(cmd *cobra.Command, err error) error {
	f := &failure{err: err, hint: "`" + cmd.CommandPath() + " --help` lists the flags", exit: exitUsage}
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		// The cause names a function of Go's.
		switch fl := invalid.GetFlag(); fl.Value.Type() {
		case "int":
			f.err = fmt.Errorf("--%s %q is not a number", fl.Name, invalid.GetValue())
		case "bool":
			f.err = fmt.Errorf("--%s is given, or not: it takes no %q", fl.Name, invalid.GetValue())
		case "duration":
			f.err = fmt.Errorf("--%s %q is not a duration: for example 500ms, 10s, 2m", fl.Name, invalid.GetValue())
		}
	}
	if missing, ok := errors.AsType[*pflag.NotExistError](err); ok {
		var known []string
		cmd.Flags().VisitAll(func(fl *pflag.Flag) {
			if !fl.Hidden {
				known = append(known, fl.Name)
			}
		})
		slices.Sort(known)
		word := strings.TrimLeft(missing.GetSpecifiedName(), "-")
		f.err = fmt.Errorf("%s has no flag --%s", cmd.CommandPath(), word)
		if missing.GetSpecifiedShortnames() != "" {
			f.err = fmt.Errorf("%s has no flag -%s", cmd.CommandPath(), word)
		} else if near := document.Suggest(word, known); near != "" {
			f.hint = "did you mean --" + near + "?"
		}
	}
	return f
}
