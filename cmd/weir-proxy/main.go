// Command weir-proxy is the data plane: a sidecar or gateway driven by a control plane,
// or a proxy alone from an Envoy-style bootstrap file.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/weirmesh/weir/internal/giveback"
	"github.com/weirmesh/weir/proxy"
)

var version = "dev" // set by the linker

const usage = `weir-proxy carries the traffic of the mesh.

  weir-proxy run -c FILE [flags]      alone, from an Envoy-style bootstrap (YAML or JSON)
  weir-proxy sidecar [flags]          beside a workload, driven by a control plane
  weir-proxy gateway [flags]          at the edge of the mesh, driven by a control plane (also: router)
  weir-proxy init [flags]             makes a pod's connections lead to its proxy (also: istio-iptables)
  weir-proxy wait [flags]             until the proxy in this pod is ready
  weir-proxy request METHOD PATH      ask the admin interface of the proxy in this pod
  weir-proxy version

Called pilot-agent it takes the same commands, also in the form "proxy sidecar" and "proxy router".
Called sh or bash it runs -c "exec PROGRAM ARGUMENTS" and no other command.

Examples:
  weir-proxy run -c bootstrap.yaml
  weir-proxy run -c bootstrap.yaml --workers 2 --admin 127.0.0.1:15000
  weir-proxy sidecar                                          in a pod: told by its environment and volumes
  weir-proxy sidecar --name reviews-v1-0 --namespace default --service-account reviews \
      --ip 10.0.0.7 --xds istiod.istio-system.svc:15012 --ca-root root-cert.pem --token-fd 3

weir-proxy COMMAND -h lists the flags of a command: of sidecar and gateway those for a pod, which
are pilot-agent's (docs/weir-proxy.md), and with --xds X -h those that say everything. WEIR_TLS_RECORDS=crypto/tls in the
environment leaves TLS records to Go's library; WEIR_ON_DEMAND_IDLE (10m) is how long the
configuration of a service is held that nobody uses (--on-demand).
`

func main() {
	// On a proxy what is alive is small and garbage is made by configuration changes
	// only: collecting a little more often keeps private memory low and costs the data
	// path nothing.
	debug.SetGCPercent(50)
	args, err := called(os.Args)
	if err == nil {
		err = run(args)
	}
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "weir-proxy:", err)
		status := 1
		if s := (interface{ exitStatus() int })(nil); errors.As(err, &s) {
			status = s.exitStatus()
		}
		os.Exit(status)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return errors.New("no command given")
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		signal.Stop(signals) // the next one does what signals do: it ends the program at once
		cancel()
	}()
	switch args[0] {
	case "run":
		return runStatic(ctx, args[1:])
	case "proxy": // pilot-agent's word before the role
		if len(args) > 1 && !strings.HasPrefix(args[1], "-") {
			return role(ctx, args[1], args[2:])
		}
		return role(ctx, "sidecar", args[1:])
	case "sidecar", "gateway", "router":
		return role(ctx, args[0], args[1:])
	case "init", "istio-iptables":
		return runInit(ctx, args[1:], os.Stdout, os.Stderr)
	case "istio-clean-iptables":
		return runInit(ctx, append([]string{"--cleanup-only"}, args[1:]...), os.Stdout, os.Stderr)
	case "request":
		return runRequest(ctx, args[1:], os.Stdout)
	case "wait":
		return runWait(ctx, args[1:])
	case "version", "--version":
		fmt.Println("weir-proxy", version, runtime.Version())
		return nil
	case "help", "-h", "--help":
		fmt.Print(usage)
		return nil
	}
	return fmt.Errorf("unknown command %q; weir-proxy help lists those there are", args[0])
}

// role runs a sidecar or a gateway, which Istio calls router and once called ingress.
func role(ctx context.Context, name string, args []string) error {
	switch pod := inPod(args); {
	case !slices.Contains([]string{"sidecar", "gateway", "router", "ingress"}, name):
	case pod:
		return runPod(ctx, name, args)
	case name == "sidecar":
		return runMesh(ctx, "sidecar", args)
	default:
		return runMesh(ctx, "gateway", args)
	}
	return fmt.Errorf("proxy %q: use sidecar or router", name)
}

// serve runs a proxy. Reading configuration leaves garbage worth a third of what is kept of
// it, and a proxy makes so little afterwards that the runtime would hold its pages for hours.
func serve(ctx context.Context, p *proxy.Proxy) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { _ = giveback.Run(ctx, 512<<10) }()
	return p.Run(ctx)
}

// stdRecords is a switch for the case that Weir's own TLS records are at fault.
func stdRecords() (bool, error) {
	switch v := os.Getenv("WEIR_TLS_RECORDS"); v {
	case "", "weir":
		return false, nil
	case "crypto/tls":
		return true, nil
	default:
		return false, fmt.Errorf("WEIR_TLS_RECORDS=%q: use weir (the default) or crypto/tls", v)
	}
}

// onDemandIdle is how long configuration on demand stays unused, 0: as long as is usual.
func onDemandIdle() (time.Duration, error) {
	v := os.Getenv("WEIR_ON_DEMAND_IDLE")
	if v == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < time.Minute {
		return 0, fmt.Errorf("WEIR_ON_DEMAND_IDLE=%q: use a duration of a minute or more, as 10m", v)
	}
	return d, nil
}

func newLog(level string) (*slog.Logger, *slog.LevelVar, error) {
	lv := new(slog.LevelVar)
	if err := lv.UnmarshalText([]byte(level)); err != nil {
		return nil, nil, fmt.Errorf("--log-level %q: use debug, info, warn or error", level)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: lv})), lv, nil
}
