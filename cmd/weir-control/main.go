// Command weir-control is the control plane: it watches configuration, serves xDS and
// certificates to proxies, and answers the HTTP API.
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
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/config/istio"
	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/internal/giveback"
	"github.com/weirmesh/weir/internal/kubeconfig"
	"github.com/weirmesh/weir/internal/kubelog"
	"github.com/weirmesh/weir/internal/memory"
	"github.com/weirmesh/weir/internal/redact"
	"github.com/weirmesh/weir/internal/runner"
	"github.com/weirmesh/weir/mesh"
)

var version = "dev" // set by the linker

const usage = `weir-control watches configuration and serves it to proxies.

  weir-control --state DIR [-f PATH]... [flags]
  weir-control --kube | --kubeconfig FILE [--context NAME] [flags]

Examples:
  weir-control --state /var/lib/weir -f /etc/weir/mesh
  weir-control --state ./state -f bookinfo.yaml -f networking/ --http 127.0.0.1:15014
  weir-control --kube                                          (in a pod)
  weir-control --kubeconfig ~/.kube/config --context staging   (beside the cluster)

In Kubernetes everything comes from the API server, and replicas need nothing from
each other. Without it, several replicas may watch one folder. Each
has a state folder of its own, made from a copy of the first one's: the authority
(ca/) and the virtual addresses given to services that name none must be the same. At
SIGTERM a replica stops being ready (GET /ready) and hands its proxies over, one by
one, within --shutdown-duration.

Flags:
`

type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "weir-control:", err)
		if e, ok := errors.AsType[*kubeconfig.Error](err); ok {
			fmt.Fprintln(os.Stderr, "weir-control:", e.Hint)
		}
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
	grpcOptional := f.Bool("grpc-optional", false, "go on with --grpc-unix alone where another program has the address of --grpc; the log says so")
	grpcUnix := f.String("grpc-unix", "", "Unix socket on which they are served too")
	plainAddr := f.String("grpc-plaintext", "", "loopback address where xDS is served without TLS and without secrets, to whoever asks on this machine (for tools and benchmarks)")
	namespace := f.String("namespace", "default", "namespace of objects that name none; in Kubernetes that of the installation (POD_NAMESPACE, istio-system)")
	trustDomain := f.String("trust-domain", "cluster.local", "trust domain of the mesh's identities")
	laptop := f.Bool("laptop", false, "the mesh is run by weir up, with an ingress gateway")
	caDir := f.String("ca", "", "folder of a plugged-in certificate authority, watched: ca-key.pem, ca-cert.pem, root-cert.pem, cert-chain.pem, or tls.key, tls.crt, ca.crt; without it the mesh has a root of its own in the state folder, in Kubernetes in a Secret")
	certTTL := f.Duration("cert-ttl", 24*time.Hour, "how long workloads' certificates are good; they are renewed at half of it")
	maxCertTTL := f.Duration("max-cert-ttl", 0, "the most that a workload gets which asks for a certificate of another life, for example 48h, at most 2160h; longer wishes are shortened to it; 0: --cert-ttl")
	registryOnly := f.Bool("registry-only", false, "refuse calls to addresses that are not in the mesh (outboundTrafficPolicy REGISTRY_ONLY)")
	compatible := f.String("compatibility-version", istio.Weir, "whose defaults hold for retries, balancing, limits and outlier detection where objects say nothing: Istio's 1.0, 1.1 or 1.31; Weir's own if empty")
	accessLog := f.Bool("access-log", false, "have proxies log every request")
	level := f.String("log-level", "info", "debug, info, warn or error")
	onDemand := f.Bool("on-demand", true, "give sidecars that can ask for it only the configuration they use; otherwise all hold everything they may see")
	handOver := f.Duration("shutdown-duration", 10*time.Second, "how long to hand proxies over to other replicas at the end; a second signal ends at once; 0 with --laptop, --pods and --die-with-parent")
	dieWithParent := f.Bool("die-with-parent", false, "end when standard input ends (for a supervisor)")
	var k cluster
	k.flags(f)
	showVersion := f.Bool("version", false, "print the version and end")
	if err := f.Parse(args); err != nil {
		return err
	}
	unusable := k.check(f)
	switch {
	case *showVersion:
		fmt.Println("weir-control", version)
		return nil
	case f.NArg() > 0:
		return fmt.Errorf("unexpected argument %q; configuration is given by -f", f.Arg(0))
	case unusable != nil:
		return unusable
	case k.on() && (len(paths) > 0 || len(fallbacks) > 0 || *pods != "" || *laptop):
		return errors.New("-f, --fallback, --pods and --laptop take objects from files, and --kube and --kubeconfig from Kubernetes: choose one")
	case k.on() && *caDir != "":
		return errors.New("--ca names files; in Kubernetes the certificate authority is plugged in as Secret cacerts")
	case k.on():
		k.defaults(f, map[string]string{"namespace": cmp.Or(os.Getenv("POD_NAMESPACE"), "istio-system"), "http": ":15014", "grpc": ":15012",
			"state": k.state()})
	case *grpcOptional && *grpcUnix == "":
		return errors.New("--grpc-optional needs --grpc-unix: without both nobody could be served")
	case *state == "":
		return errors.New("--state is missing: name a folder that survives restarts, for example --state ~/.local/state/weir")
	}
	if err := checkValues(*trustDomain, *namespace, *certTTL, *maxCertTTL, *handOver); err != nil {
		return err
	}
	var lv slog.Level
	if err := lv.UnmarshalText([]byte(*level)); err != nil {
		return fmt.Errorf("--log-level %q: use debug, info, warn or error", *level)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: lv}))
	kubelog.Route(log)

	// A control plane works in bursts; between them it should hold little.
	debug.SetGCPercent(50)
	said := os.Getenv("GOMEMLIMIT") != ""
	if limit := memory.Obey(os.DirFS("/"), said); limit > 0 && !said {
		log.Info("memory is limited", "limit", limit, "aim", debug.SetMemoryLimit(-1))
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

	held, err := openState(*state)
	if err != nil {
		return err
	}
	defer func() { _ = held.Close() }()
	var token redact.String
	if !k.on() { // there is nothing to change there
		if token, err = apiToken(*state); err != nil {
			return err
		}
	}
	name := os.Getenv("POD_NAME")
	if name == "" {
		if name, err = os.Hostname(); err != nil {
			return fmt.Errorf("the name of this machine: %w", err)
		}
	}
	o := control.Options{Version: version, Name: name, State: *state, Paths: paths, Fallbacks: fallbacks, Pods: *pods, Laptop: *laptop, Namespace: *namespace, TrustDomain: *trustDomain,
		CA: *caDir, CertTTL: *certTTL, MaxCertTTL: *maxCertTTL, EagerOnly: !*onDemand, HandOver: *handOver,
		Token: token, Log: log,
		Settings: mesh.Settings{ClusterID: "Kubernetes", DomainSuffix: "cluster.local", RootNamespace: "istio-system", RegistryOnly: *registryOnly, AccessLog: *accessLog}}
	if err := istio.Compatible(*compatible, &o.Settings); err != nil {
		return fmt.Errorf("--compatibility-version: %w", err)
	}
	if o.HTTP, err = listen("tcp", *httpAddr); err != nil {
		return fmt.Errorf("--http: %w", err)
	}
	if o.GRPC, err = listenGRPC(*grpcAddr, *grpcUnix, *grpcOptional, log); err != nil {
		return err
	}
	if o.PlainGRPC, err = listen("tcp", *plainAddr); err != nil {
		return fmt.Errorf("--grpc-plaintext: %w", err)
	}
	g := runner.New(ctx)
	if k.on() {
		if err := k.assemble(ctx, &o); err != nil {
			return err
		}
	}
	p, err := control.New(o)
	if err != nil {
		return err
	}
	if err := k.serve(g, p); err != nil {
		return err
	}
	g.Go("memory", func(ctx context.Context) error { return giveback.Run(ctx, 16<<20) })
	g.Go("control", p.Run)
	return g.Wait()
}

// checkValues names the flag that is wrong, before something that goes by it seems to be.
func checkValues(trustDomain, namespace string, certTTL, maxCertTTL, handOver time.Duration) error {
	if _, err := identity.New(trustDomain, "default", "default"); err != nil {
		return fmt.Errorf("--trust-domain %q: %w", trustDomain, err)
	}
	if wrong := validation.IsDNS1123Label(namespace); len(wrong) > 0 {
		return fmt.Errorf("--namespace %q: %s", namespace, wrong[0])
	}
	if certTTL <= 0 || certTTL > ca.MaxTTL {
		return fmt.Errorf("--cert-ttl %s: certificates live longer than nothing and at most %s", certTTL, ca.MaxTTL)
	}
	if maxCertTTL != 0 && (maxCertTTL < certTTL || maxCertTTL > ca.MaxTTL) {
		return fmt.Errorf("--max-cert-ttl %s: it is from --cert-ttl (%s) to %s; 0 is the former", maxCertTTL, certTTL, ca.MaxTTL)
	}
	if handOver < 0 {
		return fmt.Errorf("--shutdown-duration %s: it cannot be negative; 0 ends at once", handOver)
	}
	return nil
}

// listenGRPC opens where xDS and certificates are served: an address, which may be optional, and a Unix socket.
func listenGRPC(addr, unix string, optional bool, log *slog.Logger) ([]net.Listener, error) {
	l, err := listen("tcp", addr)
	if _, taken := errors.AsType[takenError](err); taken && optional {
		log.Warn("another program has the address of --grpc: proxies on this machine are served by the socket, others not at all", "address", addr, "socket", unix)
	} else if err != nil {
		return nil, fmt.Errorf("--grpc: %w", err)
	}
	u, err := listen("unix", unix)
	return append(l, u...), err
}

// takenError is an address that another program has.
type takenError string

func (e takenError) Error() string {
	return string(e) + " is taken by another program; end it, or choose another address"
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
		return nil, takenError(addr)
	}
	if err != nil {
		return nil, err
	}
	return []net.Listener{l}, nil
}
