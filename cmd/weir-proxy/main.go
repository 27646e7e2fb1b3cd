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
	"syscall"
	"time"
)

var version = "dev" // set by the linker

const usage = `weir-proxy carries the traffic of the mesh.

  weir-proxy run -c FILE [flags]      alone, from an Envoy-style bootstrap (YAML or JSON)
  weir-proxy sidecar [flags]          beside a workload, driven by a control plane
  weir-proxy gateway [flags]          at the edge of the mesh, driven by a control plane
  weir-proxy version

Examples:
  weir-proxy run -c bootstrap.yaml
  weir-proxy run -c bootstrap.yaml --workers 2 --admin 127.0.0.1:15000
  weir-proxy sidecar --name reviews-v1-0 --namespace default --service-account reviews \
      --ip 10.0.0.7 --xds istiod.istio-system.svc:15012 --ca-root root-cert.pem --token-fd 3

weir-proxy COMMAND -h lists the flags of a command. WEIR_TLS_RECORDS=crypto/tls in the
environment leaves TLS records to Go's library; WEIR_ON_DEMAND_IDLE (10m) is how long the
configuration of a service is held that nobody uses (--on-demand).
`

func main() {
	// On a proxy what is alive is small and garbage is made by configuration changes
	// only: collecting a little more often keeps private memory low and costs the data
	// path nothing.
	debug.SetGCPercent(50)
	err := run(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "weir-proxy:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return errors.New("no command given")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch args[0] {
	case "run":
		return runStatic(ctx, args[1:])
	case "sidecar", "gateway":
		return runMesh(ctx, args[0], args[1:])
	case "version", "--version":
		fmt.Println("weir-proxy", version, runtime.Version())
		return nil
	case "help", "-h", "--help":
		fmt.Print(usage)
		return nil
	}
	return fmt.Errorf("unknown command %q; weir-proxy help lists those there are", args[0])
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
