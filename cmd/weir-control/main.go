// Command weir-control is the control plane: it watches configuration, serves xDS and
// certificates to proxies, and answers the HTTP API.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/internal/giveback"
	"github.com/weirmesh/weir/internal/memlimit"
	"github.com/weirmesh/weir/internal/redact"
	"github.com/weirmesh/weir/internal/runner"
	"github.com/weirmesh/weir/mesh"
)

var version = "dev" // set by the linker

const usage = `weir-control watches configuration and serves it to proxies.

  weir-control --state DIR [-f PATH]... [flags]

Examples:
  weir-control --state /var/lib/weir -f /etc/weir/mesh
  weir-control --state ./state -f bookinfo.yaml -f networking/ --http 127.0.0.1:15014

Several replicas may watch one folder. Each has a state folder of its own, made from
a copy of the first one's: the authority (ca/) and the virtual addresses given to
services that name none must be the same. At SIGTERM a replica stops being ready
(GET /ready) and hands its proxies over, one by one, within --shutdown-duration.

Flags:
`

type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "weir-control:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var paths, fallbacks list
	f := flag.NewFlagSet("weir-control", flag.ContinueOnError)
	f.Usage = func() {
		fmt.Fprint(f.Output(), usage)
		f.PrintDefaults()
	}
	f.Var(&paths, "f", "file or folder with configuration, watched (repeatable)")
	f.Var(&fallbacks, "fallback", "file or folder whose objects give way to those of the same name elsewhere, watched (repeatable)")
	state := f.String("state", "", "folder for what must survive: CA, applied objects, allocations (required)")
	pods := f.String("pods", "", "folder in which the local runtime writes what is running")
	httpAddr := f.String("http", "127.0.0.1:15014", "where the HTTP API is served")
	grpcAddr := f.String("grpc", "127.0.0.1:15012", "where xDS and certificates are served; empty for nowhere")
	grpcUnix := f.String("grpc-unix", "", "Unix socket on which they are served too")
	plainAddr := f.String("grpc-plaintext", "", "loopback address where xDS is served without TLS and without secrets, to whoever asks on this machine (for tools and benchmarks)")
	namespace := f.String("namespace", "default", "namespace of objects that name none")
	trustDomain := f.String("trust-domain", "cluster.local", "trust domain of the mesh's identities")
	laptop := f.Bool("laptop", false, "the mesh is run by weir up, with an ingress gateway")
	certTTL := f.Duration("cert-ttl", 24*time.Hour, "how long workloads' certificates are good; they are renewed at half of it")
	registryOnly := f.Bool("registry-only", false, "refuse calls to addresses that are not in the mesh (outboundTrafficPolicy REGISTRY_ONLY)")
	accessLog := f.Bool("access-log", false, "have proxies log every request")
	level := f.String("log-level", "info", "debug, info, warn or error")
	onDemand := f.Bool("on-demand", true, "give sidecars that can ask for it only the configuration they use; otherwise all hold everything they may see")
	handOver := f.Duration("shutdown-duration", 10*time.Second, "how long to hand proxies over to other replicas at the end; a second signal ends at once; 0 with --laptop, --pods and --die-with-parent")
	dieWithParent := f.Bool("die-with-parent", false, "end when standard input ends (for a supervisor)")
	showVersion := f.Bool("version", false, "print the version and end")
	if err := f.Parse(args); err != nil {
		return err
	}
	switch {
	case *showVersion:
		fmt.Println("weir-control", version)
		return nil
	case f.NArg() > 0:
		return fmt.Errorf("unexpected argument %q; configuration is given by -f", f.Arg(0))
	case *state == "":
		return errors.New("--state is missing: name a folder that survives restarts, for example --state ~/.local/state/weir")
	}
	var lv slog.Level
	if err := lv.UnmarshalText([]byte(*level)); err != nil {
		return fmt.Errorf("--log-level %q: use debug, info, warn or error", *level)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: lv}))

	// A control plane works in bursts; between them it should hold little.
	debug.SetGCPercent(50)
	if limit, ok := memlimit.Cgroup(os.DirFS("/")); ok && os.Getenv("GOMEMLIMIT") == "" {
		// The rest is for what the collector does not count: stacks of the kernel, pages of
		// files. Without this a burst ends in the kernel's hands before the collector runs.
		soft := limit / 10 * 9
		debug.SetMemoryLimit(soft)
		log.Info("memory is limited", "limit", limit, "aim", soft)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the next signal is not waited for
	if *laptop || *dieWithParent || *pods != "" {
		*handOver = 0 // a mesh on one machine: there is no other replica
	}
	if *dieWithParent {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		go func() {
			var b [64]byte
			for {
				if _, err := os.Stdin.Read(b[:]); err != nil {
					cancel()
					return
				}
			}
		}()
	}

	if err := os.MkdirAll(*state, 0o700); err != nil {
		return fmt.Errorf("--state: %w", err)
	}
	token, err := os.ReadFile(filepath.Join(*state, "token"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("reading the API token: %w", err)
	}
	name, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("the name of this machine: %w", err)
	}
	o := control.Options{Version: version, Name: name, State: *state, Paths: paths, Fallbacks: fallbacks, Pods: *pods, Laptop: *laptop, Namespace: *namespace, TrustDomain: *trustDomain,
		CertTTL: *certTTL, EagerOnly: !*onDemand, HandOver: *handOver,
		Token: redact.New(strings.TrimSpace(string(token))), Log: log,
		Settings: mesh.Settings{ClusterID: "Kubernetes", DomainSuffix: "cluster.local", RootNamespace: "istio-system", RegistryOnly: *registryOnly, AccessLog: *accessLog,
			DefaultRetries: mesh.RetryPolicy{Attempts: 2, RetryOn: "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes", IgnorePreviousHosts: true}}}
	if o.HTTP, err = listen("tcp", *httpAddr); err != nil {
		return err
	}
	if o.GRPC, err = listen("tcp", *grpcAddr); err != nil {
		return err
	}
	if o.PlainGRPC, err = listen("tcp", *plainAddr); err != nil {
		return err
	}
	unix, err := listen("unix", *grpcUnix)
	if err != nil {
		return err
	}
	o.GRPC = append(o.GRPC, unix...)
	p, err := control.New(o)
	if err != nil {
		return err
	}
	g := runner.New(ctx)
	g.Go("memory", giveback.Run)
	g.Go("control", p.Run)
	return g.Wait()
}

// listen opens one socket, none for an empty address.
func listen(network, addr string) ([]net.Listener, error) {
	if addr == "" {
		return nil, nil
	}
	if network == "unix" {
		// A socket file that a killed process left behind; the state folder's lock says
		// that nobody else is using it.
		if err := os.Remove(addr); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("listening on %s: %w", addr, err)
		}
	}
	l, err := net.Listen(network, addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s is taken by another program; end it, or choose another address", addr)
	}
	if err != nil {
		return nil, err
	}
	return []net.Listener{l}, nil
}
