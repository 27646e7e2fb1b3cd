package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/istio"
	"github.com/weirmesh/weir/local/demo"
	"github.com/weirmesh/weir/local/up"
	"github.com/weirmesh/weir/mesh"
)

// initCommand is how `weir up` starts the first process of a namespace tree.
const initCommand = "up-init"

func (a *app) up() *cobra.Command {
	o := up.Options{}
	var files []string
	var http, ingress string
	var noColor bool
	cmd := &cobra.Command{
		Use:   "up [flags] [-f PATH]...",
		Short: "run a mesh and your Deployments on this machine",
		Long: `Run a mesh on this machine: control plane, ingress gateway, and the containers
of your Deployments as local processes, each with its own proxy, address and
identity. It runs until Ctrl-C, and leaves nothing behind.

A container runs by its command, or as a built-in sample by its image. Files and
folders are watched; "weir apply" works, too. With --capture=netns (the default
where the kernel permits it, as root or not) programs need no change; with
--capture=env they must listen on $BIND_ADDRESS:$PORT, and call services by
their names if they heed $http_proxy (curl, Go, Python and most others do), else
at $RATINGS_SERVICE_HOST:$RATINGS_SERVICE_PORT and the like.`,
		Example: `  weir up --demo bookinfo
  weir up -f bookinfo.yaml -f networking/
  weir up -f deploy/ --ingress 127.0.0.1:9000 --log-proxies
  kustomize build . | weir up -f -
  weir up --demo bookinfo -o json | jq -r '.urls[].url'`,
		// The paths may be given without -f, too.
		Args: cobra.ArbitraryArgs,
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "file or folder with configuration, - for standard input (repeatable)")
	cmd.Flags().StringVar(&o.Demo, "demo", "", "run a demo: "+joined(demo.Names()))
	capture := choose(cmd, "capture", "", "how traffic gets into the proxies", string(up.CaptureAuto), string(up.CaptureNetns), string(up.CaptureEnv))
	cmd.Flags().StringVar(&http, "http", "127.0.0.1:15014", "`host:port` of the control plane's API")
	cmd.Flags().StringVar(&ingress, "ingress", "127.0.0.1:8080", "`host:port` of the ingress gateway")
	cmd.Flags().StringVarP(&o.Namespace, "namespace", "n", "default", "of objects that name none")
	cmd.Flags().StringVar(&o.Compatible, "compatibility-version", "", "whose defaults hold where objects say nothing: Istio's 1.0, 1.1 or 1.31")
	cmd.Flags().BoolVar(&o.LogProxy, "log-proxies", false, "show what proxies print, access logs included")
	cmd.Flags().BoolVar(&noColor, "no-color", false, "no colours")
	cmd.Flags().BoolVar(&o.OneAddress, "one-address", false, "with --capture=env, use 127.0.0.1 only, as on a Mac")
	_ = cmd.Flags().MarkHidden("one-address") // to try it where it is not needed
	// The flag of the other commands says where a control plane is; this one starts it.
	cmd.Flags().String("api", "", "not for this command: see --http")
	_ = cmd.Flags().MarkHidden("api")
	output := outputFlag(cmd)
	_ = cmd.RegisterFlagCompletionFunc("demo", cobra.FixedCompletions(demo.Names(), cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("api") {
			return usage("--http says where the API of the new mesh is", "weir up starts a control plane and has no flag --api")
		}
		if len(validation.IsDNS1123Label(o.Namespace)) > 0 {
			return usage("use lower-case letters, digits and '-', beginning and ending with a letter or digit, at most 63", "--namespace %q is not the name of a namespace", o.Namespace)
		}
		if err := istio.Compatible(o.Compatible, &mesh.Settings{}); err != nil {
			return usage("docs/traffic.md lists what each of them means", "--compatibility-version: %v", err)
		}
		var err error
		if o.HTTP, err = listenAddress("--http", http); err != nil {
			return err
		}
		if o.Ingress, err = listenAddress("--ingress", ingress); err != nil {
			return err
		}
		if noColor {
			a.out.color, a.errs.color = false, false
		}
		o.State, o.Paths, o.Capture = a.state, slices.Concat(files, args), up.Capture(capture.value)
		o.Binaries, o.InitArgs, o.Environ, o.Stdin = a.Binaries, []string{initCommand}, a.Environ, a.Stdin
		o.Logs, o.Color = a.Stdout, a.out.color
		if output.value != asTable {
			o.Logs, o.Color = a.Stderr, a.errs.color // standard output is for the report alone
		}
		o.Progress = func(s string) { a.errs.printf("%s\n", a.errs.paint(dim, s)) }
		o.Started = func(r *up.Report) {
			if output.value == asTable {
				a.out.mesh(r)
				return
			}
			full := struct {
				*up.Report
				Findings []apiv1.Finding `json:"findings"`
			}{r, apiFindings(r.Findings)}
			if err := a.out.emit(output.value, full); err != nil {
				a.errs.printf("the report cannot be written: %v\n", err)
			}
		}

		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		// A second Ctrl-C ends everything at once.
		defer context.AfterFunc(ctx, stop)()
		err = up.Run(ctx, o)
		var failed *up.Error
		if errors.As(err, &failed) && failed.Hint != "" {
			return hinted(failed.Hint, "%s", failed.Message)
		}
		return err
	}
	return cmd
}

// upInit is for `weir up` only.
func (a *app) upInit() *cobra.Command {
	return &cobra.Command{
		Use: initCommand, Hidden: true, Args: noArguments,
		RunE: func(*cobra.Command, []string) error { return up.RunInit() },
	}
}

// listenAddress reads an address of this machine. A host name that is not localhost would
// be a surprise: who knows where it leads.
func listenAddress(flag, s string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(s)
	if err == nil && (host == "localhost" || host == "") {
		s = net.JoinHostPort("127.0.0.1", port)
	}
	addr, err := netip.ParseAddrPort(s)
	if err != nil || addr.Port() == 0 {
		return netip.AddrPort{}, usage("for example "+flag+" 127.0.0.1:9000", "%s %q is not an address and port", flag, s)
	}
	return addr, nil
}

// mesh shows what `weir up` started.
func (p *printer) mesh(r *up.Report) {
	ready := 0
	for _, w := range r.Workloads {
		if w.Ready {
			ready++
		}
	}
	p.printf("\n%s  %s of %s ready, %s capture (%s)\n\n", p.paint(bold, "The mesh is up."), fmt.Sprint(ready), count(len(r.Workloads), "workload"), r.Capture, clean(r.Why))
	if len(r.Services) > 0 {
		t := newTable("SERVICE", "PORTS", "VERSIONS", "WORKLOADS")
		for _, s := range r.Services {
			state := text(strings.Join(s.Workloads, " "))
			switch {
			case len(s.Workloads) == 0:
				state = cell{"none", yellow}
			case s.Ready < len(s.Workloads):
				state = cell{fmt.Sprintf("%s (%d ready)", state.text, s.Ready), yellow}
			}
			name := s.Name
			if s.Namespace != "default" {
				name = s.Namespace + "/" + name
			}
			ports := make([]string, len(s.Ports))
			for i, n := range s.Ports {
				ports[i] = fmt.Sprint(n)
			}
			t.add(text(name), text(strings.Join(ports, ",")), text(strings.Join(s.Versions, ",")), state)
		}
		p.print(t)
		p.printf("\n")
	}
	for _, w := range r.Workloads {
		if !w.Ready {
			p.printf("%s %s: %s\n", p.paint(yellow, "not ready:"), qualified(w.Namespace, w.Name), clean(w.Message))
		}
	}
	if ready < len(r.Workloads) {
		p.printf("\n")
	}
	line := func(name, value string) { p.printf("%s  %s\n", p.paint(dim, fmt.Sprintf("%-13s", name)), value) }
	for i, u := range r.URLs {
		if i == maxURLs {
			line("", fmt.Sprintf("and %d more", len(r.URLs)-i))
			break
		}
		value := p.paint(bold, clean(u.URL))
		if u.Host != "" {
			value += p.paint(dim, clean("  (curl -H 'Host: "+u.Host+"')"))
		}
		name := ""
		if i == 0 {
			name = "open"
		}
		line(name, value)
	}
	line("ingress", r.Ingress)
	line("control plane", r.API)
	name := "configuration"
	for _, source := range p.sources(r) {
		line(name, source)
		name = ""
	}
	line("see also", "weir status, weir why (what failed), weir logs, weir exec WORKLOAD -- COMMAND; Ctrl-C ends the mesh")
	p.printf("\n")
	if all := apiFindings(r.Findings); len(all) > 0 {
		p.printf("%s in the configuration:\n", p.paint(severityColor(all[0].Severity), summary(all)))
		// Promises that are not kept must be seen, whatever else is wrong.
		slices.SortStableFunc(all, func(a, b apiv1.Finding) int { return cmp.Compare(urgency(a), urgency(b)) })
		shown := all[:min(len(all), maxFindings)]
		p.findings(shown)
		if n := len(all) - len(shown); n > 0 {
			p.printf("and %d more: `weir status` shows all\n", n)
		}
		p.printf("\n")
	}
}

// sources says where the configuration comes from.
func (p *printer) sources(r *up.Report) []string {
	var out []string
	add := func(what, note string) { out = append(out, clean(what)+p.paint(dim, note)) }
	if names := r.Watching; len(names) > 0 {
		if len(names) > maxWatching {
			names = append(slices.Clone(names[:maxWatching-1]), fmt.Sprintf("%d more", len(names)-maxWatching+1))
		}
		add(joined(names), "  (watched; `weir apply -f FILE` works, too)")
	}
	if r.Stdin {
		add("standard input", "")
	}
	if r.Demo != "" {
		add("demo "+r.Demo, "  (`weir apply -f FILE` changes it)")
	}
	if r.Applied > 0 {
		add(count(r.Applied, "object")+" applied earlier", "  (`weir get all` shows them, `weir delete` removes them)")
	}
	if len(out) == 0 {
		add("none yet: `weir apply -f FILE`, or start again with -f or --demo", "")
	}
	return out
}

// urgency orders findings for those who read only the first.
func urgency(f apiv1.Finding) int {
	switch config.Code(f.Code) {
	case config.KindNotEnforced, config.FieldNotEnforcedUnsafe:
		return 0
	case config.ImageNotRunnable, config.ValueNotAvailable:
		return 1
	}
	if f.Severity == config.Error.String() {
		return 2
	}
	return 3
}

// These keep the start-up table short.
const (
	maxURLs     = 5
	maxWatching = 4
	maxFindings = 10
)
