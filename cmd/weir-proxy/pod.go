package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/miekg/dns"

	"github.com/weirmesh/weir/capture"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/identity/istioca"
	"github.com/weirmesh/weir/internal/memory"
	"github.com/weirmesh/weir/internal/redact"
	"github.com/weirmesh/weir/internal/runner"
	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/proxy/admin"
	"github.com/weirmesh/weir/proxy/agent"
	"github.com/weirmesh/weir/proxy/life"
	"github.com/weirmesh/weir/proxy/status"
	"github.com/weirmesh/weir/xds/client"
)

// inPod reports whether the environment tells what to do, as in a pod: only --xds says
// everything by flags.
func inPod(args []string) bool {
	for _, a := range args {
		if name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "="); name == "xds" && a != name {
			return false
		}
	}
	return true
}

// given collects flags for agent.Resolve, in order.
type given struct {
	to   *[][2]string
	name string
	bool bool
}

func (g given) String() string     { return "" }
func (g given) IsBoolFlag() bool   { return g.bool }
func (g given) Set(v string) error { *g.to = append(*g.to, [2]string{g.name, v}); return nil }

// parsePod reads the flags that pilot-agent knows, and ours.
func parsePod(role string, args []string) ([][2]string, error) {
	var flags [][2]string
	f := flag.NewFlagSet("weir-proxy "+role, flag.ContinueOnError)
	for _, r := range agent.Rows() {
		if r.From == agent.Flag {
			name := strings.TrimLeft(r.Name, "-")
			f.Var(given{&flags, name, r.Bool}, name, r.Outcome.String()+": "+r.Says)
		}
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	return flags, nil
}

// runPod runs the proxy of a pod, which its environment and volumes describe
// (docs/design/kubernetes.md). Its context is that of signals, which it takes itself:
// SIGTERM is the beginning of the end.
func runPod(ctx context.Context, role string, args []string) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()

	flags, err := parsePod(role, args)
	if err != nil {
		return err
	}
	root := os.DirFS("/")
	s, err := agent.Resolve(agent.Told{Role: role, Flags: flags, Environ: os.Environ(), Files: root, Addrs: ownAddrs(), CPUs: runtime.NumCPU()})
	if err != nil {
		return err
	}
	log, lv, err := newLog(s.LogLevel)
	if err != nil {
		return err
	}
	if s.LogJSON {
		log = slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: lv}))
	}
	log = log.With("node", s.Namespace+"/"+s.Pod)
	for _, n := range s.Notes {
		level := slog.LevelInfo
		if n.Warn {
			level = slog.LevelWarn
		}
		log.Log(ctx, level, "setting", "name", n.Name, "value", n.Value, "note", n.Says)
	}
	memory.Obey(root, os.Getenv("GOMEMLIMIT") != "")
	proxy.SetThreads(s.Workers)

	o := proxy.Options{Version: version, Workers: s.Workers, MaxConnections: s.MaxConnections, OnDemand: s.OnDemand, Node: s.Node(), Metadata: s.Metadata,
		Log: log, Level: lv, ListenerDrain: s.ListenerDrain, DrainTime: farewell}
	if state := filepath.Join(s.Folder, "state"); os.MkdirAll(state, 0o700) != nil {
		log.Warn("the last good state is not kept: a restart waits for the control plane", "folder", state, "remedy", "mount a memory-backed emptyDir at "+s.Folder)
	} else {
		o.StateDir = state
	}
	if o.StdRecords, err = stdRecords(); err != nil {
		return err
	}
	if o.OnDemandIdle, err = onDemandIdle(); err != nil {
		return err
	}
	if s.AccessLog {
		o.AccessLog = os.Stdout
	}
	if o.Control, err = podControl(s); err != nil {
		return err
	}
	if !s.Gateway && s.Capture != "none" {
		o.Required = []string{"virtualInbound"} // without it a captured pod is deaf
		o.Early = &proxy.Early{Port: 15001, Transparent: s.Capture == "tproxy"}
	}
	if !s.Gateway {
		if err := (&meshFlags{capture: s.Capture, appFD: -1}).captured(ctx, "sidecar"); err != nil {
			return err
		}
	}
	shared, err := podListeners(s, &o)
	if err != nil {
		return err
	}
	p, err := proxy.New(o)
	if err != nil {
		return err
	}

	events := make(chan life.Event, 4)
	tell := func(e life.Event) {
		select {
		case events <- e:
		default: // it has been told often enough
		}
	}
	g := runner.New(ctx)
	capturing := &rules{ready: p.Ready, log: log, inForce: func(ctx context.Context) (bool, error) { return capture.InForce(ctx, inboundPort, capture.ProbePort) }}
	if !s.Gateway && s.Capture != "none" {
		g.Go("capture rules", func(ctx context.Context) error { return capturing.watch(ctx, func() { tell(life.Quit) }) })
	}
	g.Go("signals", func(ctx context.Context) error {
		for {
			select {
			case sig := <-signals:
				if sig == os.Interrupt {
					tell(life.Interrupt)
				} else {
					tell(life.Terminate)
				}
			case <-ctx.Done():
				return nil
			}
		}
	})
	if shared != nil {
		g.Go("status", func(ctx context.Context) error {
			return admin.ServeHandler(ctx, shared, status.Handler(status.Options{Ready: capturing.Ready, Stats: p.Stats, Drain: func() { tell(life.Drain) }, Quit: func() { tell(life.Quit) },
				Probes: s.Probes, Scrape: s.Scrape, PodIP: s.IPs[0], Log: log}), log)
		})
	}
	end := life.Options{Last: s.NativeSidecar || s.Gateway, Termination: s.TerminationDrain, Minimum: s.MinimumDrain, UntilZero: s.ExitOnZero}
	// Whoever leads clients to a gateway has not heard yet that it goes, whether any came before or not.
	end.Always = s.Gateway || s.MinimumDrainSet || s.ExitOnZero && !end.Last
	g.Go("life", func(ctx context.Context) error {
		defer cancel()
		uid := os.Getuid()
		return life.Run(ctx, end, p, func() life.Application { return life.Sockets(root, uid) }, events, log)
	})
	g.Go("proxy", func(ctx context.Context) error {
		defer cancel() // the admin interface may end it, too
		return serve(ctx, p)
	})
	if err := g.Wait(); err != nil {
		return err
	}
	return capturing.verdict()
}

// farewell is how long connections are closed in good order once nothing is waited for.
const farewell = 500 * time.Millisecond

// ownAddrs are the addresses of this network namespace that others reach.
func ownAddrs() []netip.Addr {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			out = append(out, p.Addr())
		}
	}
	return out
}

// podControl is the way to the control plane. Files are read anew each time: the kubelet
// replaces them while we run.
func podControl(s *agent.Settings) (*proxy.Control, error) {
	if s.Plaintext {
		return &proxy.Control{TrustDomain: s.TrustDomain, Address: s.Discovery, Dial: func(context.Context, *identity.Manager) (client.Conn, error) {
			return grpc.NewClient(s.Discovery, append(client.DialOptions(), grpc.WithNoProxy(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
		}}, nil
	}
	id, err := identity.New(s.TrustDomain, s.Namespace, s.Account)
	if err != nil {
		return nil, err
	}
	servers := identity.DNSName(s.ServerName)
	roots := &rootFiles{paths: []string{s.RootFile}}
	if s.CARoot != s.RootFile {
		roots.paths = append(roots.paths, s.CARoot)
	}
	token := func() (redact.String, error) { return readToken(s.TokenFile) }
	signer, err := istioca.New(istioca.Options{Address: s.CA, Servers: servers, Token: token, WorkloadName: s.Pod, WorkloadIP: s.IPs[0].String(), ClusterID: s.Cluster})
	if err != nil {
		return nil, err
	}
	return &proxy.Control{TrustDomain: s.TrustDomain, ID: id, Signer: signer, TTL: s.CertificateTTL, Roots: roots.read, Address: s.Discovery, Server: s.ServerName,
		Dial: func(_ context.Context, mgr *identity.Manager) (client.Conn, error) {
			return grpc.NewClient(s.Discovery, append(client.DialOptions(), grpc.WithNoProxy(),
				grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(mgr, servers))))...)
		}}, nil
}

func readToken(file string) (redact.String, error) {
	f, err := os.Open(file)
	if err != nil {
		return redact.New(""), err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxToken))
	return redact.New(strings.TrimSpace(string(b))), err
}

// rootFiles are files with roots, which are read whenever roots are needed: at a
// connection to the control plane, some in a day.
type rootFiles struct{ paths []string }

func (r *rootFiles) read() (*identity.Bundle, error) {
	var all [][]byte
	for _, p := range r.paths {
		pem, err := os.ReadFile(p)
		if err != nil {
			return nil, fmt.Errorf("the roots for the control plane: %w (the ConfigMap istio-ca-root-cert is to be mounted there)", err)
		}
		all = append(all, pem)
	}
	b, err := identity.ParseBundle(bytes.Join(all, []byte("\n")))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(r.paths, ", "), err)
	}
	return b, nil
}

// podListeners opens what is neither configured by the control plane nor captured. The
// status port's is returned.
func podListeners(s *agent.Settings, o *proxy.Options) (shared net.Listener, err error) {
	listen := func(host string, port int, to *[]net.Listener, what string) {
		if port == 0 || err != nil {
			return
		}
		l, e := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err = e; e != nil {
			err = fmt.Errorf("%s: %w", what, e)
			return
		}
		*to = append(*to, l)
	}
	var status []net.Listener
	listen("127.0.0.1", s.AdminPort, &o.Admin, "admin interface (proxyAdminPort)")
	listen("", s.HealthPort, &o.Health, "health port (ENVOY_STATUS_PORT)")
	listen("", s.MetricsPort, &o.Health, "metrics port (ENVOY_PROMETHEUS_PORT)")
	listen("", s.StatusPort, &status, "status port (statusPort)")
	if err != nil {
		return nil, err
	}
	if len(status) > 0 {
		shared = status[0]
	}
	if s.DNS.IsValid() {
		o.DNS, err = podDNS(s.DNS, o.Log)
	}
	return shared, err
}

// podDNS answers the workload's queries at a, and at the same port of ::1.
func podDNS(a netip.AddrPort, log *slog.Logger) (*proxy.DNS, error) {
	d := &proxy.DNS{}
	addrs := []netip.AddrPort{a}
	if a.Addr() == netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
		addrs = append(addrs, netip.AddrPortFrom(netip.IPv6Loopback(), a.Port()))
	}
	for i, a := range addrs {
		l, err := net.Listen("tcp", a.String())
		if err == nil {
			var p net.PacketConn
			if p, err = net.ListenPacket("udp", a.String()); err == nil {
				d.Listeners, d.Packets = append(d.Listeners, l), append(d.Packets, p)
				continue
			}
			err = errors.Join(err, l.Close())
		}
		if i == 0 {
			return nil, fmt.Errorf("dns port (DNS_PROXY_ADDR): %w", err)
		}
		log.Info("no dns over IPv6 here", "err", err)
	}
	c, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil {
		log.Warn("names outside the mesh cannot be resolved", "err", err)
		return d, nil
	}
	d.Search = c.Search
	for _, server := range c.Servers {
		d.Resolvers = append(d.Resolvers, net.JoinHostPort(server, c.Port))
	}
	return d, nil
}
