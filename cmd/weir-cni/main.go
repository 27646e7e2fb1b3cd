// Command weir-cni makes the capture rules of pods on their node, so that no pod needs the
// right to: as a chained CNI plugin, called by the container runtime, and as the node agent
// that installs it.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/containernetworking/cni/pkg/skel"
	cniversion "github.com/containernetworking/cni/pkg/version"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/weirmesh/weir/capture/cni"
	"github.com/weirmesh/weir/capture/cni/agent"
	"github.com/weirmesh/weir/internal/kubelog"
)

var version = "dev" // set by the linker

const usage = `weir-cni makes the capture rules of pods on their node.

  weir-cni agent [flags]     the node agent, in the pods of a DaemonSet
  CNI_COMMAND=… weir-cni     the plugin, as container runtimes call it

Example, where nothing is named as usual:
  weir-cni agent --cni-conf-name 10-calico.conflist --repair delete --exclude-namespaces kube-system,istio-system

Flags of the agent:
`

func main() {
	if os.Getenv("CNI_COMMAND") != "" {
		p := &cni.Plugin{Pod: cni.FromKubeconfig, Kernel: cni.Linux(), Tell: cni.Send, Out: os.Stdout}
		skel.PluginMainFuncs(p.Funcs(), cniversion.All, "weir-cni "+version)
		return
	}
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "weir-cni:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	f := flag.NewFlagSet("weir-cni", flag.ContinueOnError)
	f.Usage = func() {
		fmt.Fprint(f.Output(), usage)
		f.PrintDefaults()
	}
	o := agent.Options{Kernel: cni.Linux(), Files: agent.Files{Program: "/proc/self/exe"}}
	f.StringVar(&o.Node, "node", os.Getenv("NODE_NAME"), "name of this node (NODE_NAME)")
	f.StringVar(&o.Namespace, "namespace", cmp.Or(os.Getenv("POD_NAMESPACE"), "istio-system"), "namespace of the agent (POD_NAMESPACE)")
	f.StringVar(&o.ServiceAccount, "service-account", "istio-cni", "service account of the agent, for which the plugin's token is made")
	f.StringVar(&o.DaemonSet, "daemonset", "istio-cni-node", "DaemonSet of the agent: when it is gone the plugin is removed")
	f.StringVar(&o.Files.Net, "cni-net-dir", "/host/etc/cni/net.d", "folder of the host's network configurations")
	f.StringVar(&o.Files.Bin, "cni-bin-dir", "/host/opt/cni/bin", "folder of the host's CNI plugins")
	f.StringVar(&o.Files.Run, "run-dir", "/host/run/weir-cni", "folder of the host for the plugin's kubeconfig and socket")
	f.StringVar(&o.Files.HostRun, "host-run-dir", "/var/run/weir-cni", "the same folder as the host names it")
	f.StringVar(&o.Files.Conf, "cni-conf-name", "", "file in --cni-net-dir to extend; that in use if empty")
	exclude := f.String("exclude-namespaces", "kube-system", "namespaces, comma-separated, whose pods start without the plugin's doing; the agent's own is always among them")
	mode := f.String("repair", string(agent.Repair), "what is done about pods that began without rules: repair (make them), delete or label ("+agent.Unprotected+"=true, as every mode does while they have none)")
	f.StringVar(&o.Taint, "taint", "", "taint to remove from the node when the agent is ready, for example cni.istio.io/not-ready")
	f.StringVar(&o.Proc, "proc", "/host/proc", "/proc of the host")
	http := f.String("http", ":15014", "where /metrics and /readyz are served; empty for nowhere")
	level := f.String("log-level", "info", "debug, info, warn or error")
	showVersion := f.Bool("version", false, "print the version and end")
	if len(args) > 0 && args[0] == "agent" {
		args = args[1:]
	} else if len(args) == 0 {
		f.Usage()
		return nil
	}
	if err := f.Parse(args); err != nil {
		return err
	}
	var lv slog.Level
	switch o.Repair = agent.Mode(*mode); {
	case *showVersion:
		fmt.Println("weir-cni", version)
		return nil
	case f.NArg() > 0:
		return fmt.Errorf("unexpected argument %q; weir-cni -h lists what there is", f.Arg(0))
	case o.Node == "":
		return errors.New("--node is missing: the chart sets NODE_NAME from spec.nodeName")
	case o.Repair != agent.Repair && o.Repair != agent.Delete && o.Repair != agent.Label:
		return fmt.Errorf("--repair %s: use repair, delete, label or off", *mode)
	case lv.UnmarshalText([]byte(*level)) != nil:
		return fmt.Errorf("--log-level %q: use debug, info, warn or error", *level)
	}
	o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: lv}))
	kubelog.Route(o.Log)
	o.Exclude = append(strings.FieldsFunc(*exclude, func(r rune) bool { return r == ',' || r == ' ' }), o.Namespace)

	server, err := rest.InClusterConfig()
	if err != nil {
		return fmt.Errorf("finding the API server: %w", err)
	}
	server.UserAgent = "weir-cni/" + version
	o.Server = server.Host
	o.CA = func() ([]byte, error) {
		if len(server.CAData) > 0 {
			return server.CAData, nil
		}
		return os.ReadFile(server.CAFile)
	}
	if o.Client, err = kubernetes.NewForConfig(server); err != nil {
		return err
	}
	if *http != "" {
		if o.HTTP, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", *http); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return agent.New(o).Run(ctx)
}
