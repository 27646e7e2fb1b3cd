package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/identity/istioca"
	"github.com/weirmesh/weir/internal/redact"
	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/xds/client"
)

// meshFlags are the flags of sidecar and gateway.
type meshFlags struct {
	name, namespace, account, ip, labels, owner, trustDomain, cluster string
	xds, xdsName, caRoot, state, admin, level, capture, virtualNet    string
	meshCIDRs, resolvers, search, listenMap                           string
	inbound, outbound                                                 list
	tokenFD, appFD, hostFD, workers                                   int
	dns, accessLog, proxyProtocol, onDemand                           bool
	drain                                                             time.Duration
	maxConnections                                                    int64
}

type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, strings.Split(s, ",")...); return nil }

func parseMesh(kind string, args []string) (*meshFlags, error) {
	m := &meshFlags{}
	f := flag.NewFlagSet("weir-proxy "+kind, flag.ContinueOnError)
	f.StringVar(&m.name, "name", "", "name of the workload instance (pod); required")
	f.StringVar(&m.namespace, "namespace", "default", "its namespace")
	f.StringVar(&m.account, "service-account", "default", "its service account")
	f.StringVar(&m.ip, "ip", "", "its addresses, comma-separated; the first is the main one; required")
	f.StringVar(&m.labels, "labels", "", "its labels: k=v,k=v")
	f.StringVar(&m.owner, "owner", "", "name of the Deployment it belongs to")
	f.StringVar(&m.trustDomain, "trust-domain", "cluster.local", "trust domain of the mesh")
	f.StringVar(&m.cluster, "cluster", "Kubernetes", "name of the cluster, for metrics")
	f.StringVar(&m.xds, "xds", "", "control plane: host:port or unix:///path; required")
	f.StringVar(&m.xdsName, "xds-server-name", "", "DNS name that the control plane's certificate must hold, for Istio's: istiod.istio-system.svc; empty: its SPIFFE identity counts")
	f.StringVar(&m.caRoot, "ca-root", "", "file with the roots that vouch for the control plane (PEM); required")
	f.IntVar(&m.tokenFD, "token-fd", -1, "descriptor of a pipe that holds the token for the first certificate")
	f.StringVar(&m.state, "state", "", "folder for the last good state; empty keeps none")
	f.StringVar(&m.admin, "admin", "", "admin interface: unix:///path, or host:port on loopback")
	f.StringVar(&m.capture, "capture", "redirect", "how traffic comes in: redirect, tproxy (the application sees clients' addresses; needs NET_ADMIN) or none")
	f.IntVar(&m.appFD, "app-sockets", -1, "descriptor of a socket broker in the workload's network namespace")
	f.IntVar(&m.hostFD, "host-sockets", -1, "descriptor of a socket broker in the host's network namespace")
	f.StringVar(&m.meshCIDRs, "mesh-cidrs", "", "addresses reached from where the proxy runs; others go through --host-sockets")
	f.BoolVar(&m.dns, "dns", false, "answer the workload's DNS on port 15053")
	f.StringVar(&m.resolvers, "dns-resolvers", "", "resolvers for names outside the mesh: host:port,… (default: /etc/resolv.conf)")
	f.StringVar(&m.search, "dns-search", "", "search domains of the workload (default: its namespace's)")
	f.StringVar(&m.virtualNet, "virtual-net", "", "127.W: network of this workload's virtual addresses (env capture)")
	f.Var(&m.inbound, "inbound", "PORT=BIND->APP: an inbound listener of env capture (repeatable)")
	f.Var(&m.outbound, "outbound", "HOST:PORT=BIND: where the workload calls a service's port, instead of its virtual address (env capture; repeatable)")
	f.StringVar(&m.listenMap, "listen-map", "", "ADDR[:PORT]=ADDR[:PORT],…: listen elsewhere than configured")
	f.BoolVar(&m.proxyProtocol, "proxy-protocol", false, "a gateway's connections begin with a PROXY protocol header (gatewayTopology.proxyProtocol)")
	f.Int64Var(&m.maxConnections, "max-connections", 0, "how many connections of clients to serve at once; 0: no limit")
	f.BoolVar(&m.onDemand, "on-demand", true, "hold the configuration of services that are used, and fetch that of others when they are (sidecars with --capture redirect or tproxy, where the control plane offers it); false: hold everything")
	f.IntVar(&m.workers, "workers", 1, "event loops, one thread each")
	f.BoolVar(&m.accessLog, "access-log", true, "write access log lines where configuration asks for them")
	f.DurationVar(&m.drain, "drain", 5*time.Second, "how long to go on at the end for requests under way")
	f.StringVar(&m.level, "log-level", "info", "debug, info, warn or error")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	for flagName, v := range map[string]string{"--name": m.name, "--ip": m.ip, "--xds": m.xds, "--ca-root": m.caRoot} {
		if v == "" {
			return nil, fmt.Errorf("%s is missing; weir-proxy %s -h explains it", flagName, kind)
		}
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if !slices.Contains([]string{"redirect", "tproxy", "none"}, m.capture) {
		return nil, fmt.Errorf("--capture %q: use redirect, tproxy or none", m.capture)
	}
	// Elsewhere nobody is held: a gateway's hosts are all its own, and env capture listens
	// before anybody asks.
	m.onDemand = m.onDemand && kind == "sidecar" && m.capture != "none" && m.virtualNet == ""
	return m, nil
}

// runMesh runs a sidecar or a gateway.
func runMesh(ctx context.Context, kind string, args []string) error {
	m, err := parseMesh(kind, args)
	if err != nil {
		return err
	}
	log, lv, err := newLog(m.level)
	if err != nil {
		return err
	}
	log = log.With("node", m.namespace+"/"+m.name)
	proxy.SetThreads(m.workers)
	o := proxy.Options{Version: version, Workers: m.workers, StateDir: m.state, MaxConnections: m.maxConnections, Log: log, Level: lv, DrainTime: m.drain}
	if o.StdRecords, err = stdRecords(); err != nil {
		return err
	}
	if o.OnDemand = m.onDemand; o.OnDemand {
		if o.OnDemandIdle, err = onDemandIdle(); err != nil {
			return err
		}
	}
	if m.accessLog {
		o.AccessLog = os.Stdout
	}
	if o.Node, o.Metadata, err = m.node(kind); err != nil {
		return err
	}
	if m.virtualNet != "" { // m.node has parsed it
		first, _, _ := strings.Cut(m.ip, ",")
		o.Source = netip.MustParseAddr(first)
	}
	if o.Control, err = m.control(); err != nil {
		return err
	}
	if err := m.captured(ctx, kind); err != nil {
		return err
	}
	if err := m.network(ctx, &o); err != nil {
		return err
	}
	p, err := proxy.New(o)
	if err != nil {
		return err
	}
	return serve(ctx, p)
}

// node is who we are, in Istio's words.
func (m *meshFlags) node(kind string) (observe.Node, map[string]any, error) {
	ips := strings.Split(m.ip, ",")
	for _, ip := range ips {
		if _, err := netip.ParseAddr(ip); err != nil {
			return observe.Node{}, nil, fmt.Errorf("--ip: %w", err)
		}
	}
	labels := map[string]string{}
	if m.labels != "" {
		for pair := range strings.SplitSeq(m.labels, ",") {
			k, v, ok := strings.Cut(pair, "=")
			if !ok || k == "" {
				return observe.Node{}, nil, fmt.Errorf("--labels: %q is not of the form key=value", pair)
			}
			labels[k] = v
		}
	}
	nodeType := "sidecar"
	if kind == "gateway" {
		nodeType = "router"
	}
	n := observe.Node{ID: nodeType + "~" + ips[0] + "~" + m.name + "." + m.namespace + "~" + m.namespace + ".svc.cluster.local",
		Name: m.name, Namespace: m.namespace, Workload: m.owner, Cluster: m.cluster, MeshID: m.trustDomain, ServiceAccount: m.account, Labels: labels}
	if n.Workload == "" {
		n.Workload = m.name
	} else {
		n.Owner = "kubernetes://apis/apps/v1/namespaces/" + m.namespace + "/deployments/" + m.owner
	}
	meta := map[string]any{"INSTANCE_IPS": m.ip, "INTERCEPTION_MODE": strings.ToUpper(m.capture)}
	if m.dns {
		meta["DNS_CAPTURE"] = "true"
	}
	if m.proxyProtocol {
		meta["PROXY_CONFIG"] = map[string]any{"gatewayTopology": map[string]any{"proxyProtocol": map[string]any{}}}
	}
	weir := map[string]any{"VHDS": true, "NETWORK_EXT_AUTHZ": true}
	if m.onDemand {
		weir["ONDEMAND"] = true
	}
	if m.virtualNet != "" {
		weir["VIRTUAL_NET"] = m.virtualNet
		if !mayListenLow(m.virtualNet) {
			meta["UNPRIVILEGED_POD"] = "true" // Istio's name for it
		}
	}
	var inbound []any
	for _, s := range m.inbound {
		port, rest, ok1 := strings.Cut(s, "=")
		bind, app, ok2 := strings.Cut(rest, "->")
		p, err := strconv.ParseUint(port, 10, 16)
		if !ok1 || !ok2 || err != nil {
			return observe.Node{}, nil, fmt.Errorf("--inbound: %q is not of the form 9080=127.1.0.1:9080->127.0.0.1:41234", s)
		}
		inbound = append(inbound, map[string]any{"port": float64(p), "bind": bind, "app": app})
	}
	if len(inbound) > 0 {
		weir["INBOUND"] = inbound
	}
	var outbound []any
	for _, s := range m.outbound {
		service, bind, ok := strings.Cut(s, "=")
		if !ok {
			return observe.Node{}, nil, fmt.Errorf("--outbound: %q is not of the form shop.default.svc.cluster.local:80=127.1.1.0:10080", s)
		}
		outbound = append(outbound, map[string]any{"service": service, "bind": bind})
	}
	if len(outbound) > 0 {
		weir["OUTBOUND"] = outbound
	}
	meta["WEIR"] = weir
	return n, meta, nil
}

// maxToken bounds what is read from the token pipe.
const maxToken = 64 << 10

// control is how the control plane is reached and trusted.
func (m *meshFlags) control() (*proxy.Control, error) {
	id, err := identity.New(m.trustDomain, m.namespace, m.account)
	if err != nil {
		return nil, err
	}
	istiod, err := identity.New(m.trustDomain, "istio-system", "istiod")
	if err != nil {
		return nil, err
	}
	var servers identity.Accept = identity.OneOf{istiod}
	server := istiod.String()
	if m.xdsName != "" {
		servers, server = identity.DNSName(m.xdsName), m.xdsName
	}
	pem, err := os.ReadFile(m.caRoot)
	if err != nil {
		return nil, fmt.Errorf("--ca-root: %w", err)
	}
	roots, err := identity.ParseBundle(pem)
	if err != nil {
		return nil, fmt.Errorf("--ca-root %s: %w", m.caRoot, err)
	}
	token := func() (redact.String, error) { return redact.New(""), errors.New("no token was given (--token-fd)") }
	if m.tokenFD >= 0 {
		f := os.NewFile(uintptr(m.tokenFD), "token")
		if f == nil {
			return nil, fmt.Errorf("--token-fd %d is not a descriptor", m.tokenFD)
		}
		b, err := io.ReadAll(io.LimitReader(f, maxToken))
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("--token-fd: %w", err)
		}
		held := redact.New(strings.TrimSpace(string(b)))
		token = func() (redact.String, error) { return held, nil }
	}
	first, _, _ := strings.Cut(m.ip, ",")
	signer, err := istioca.New(istioca.Options{Address: m.xds, Servers: servers, Token: token, WorkloadName: m.name, WorkloadIP: first, ClusterID: m.cluster})
	if err != nil {
		return nil, err
	}
	return &proxy.Control{TrustDomain: m.trustDomain, ID: id, Signer: signer, Bootstrap: roots, Address: m.xds, Server: server,
		Dial: func(_ context.Context, mgr *identity.Manager) (client.Conn, error) {
			return grpc.NewClient(m.xds, append(client.DialOptions(), grpc.WithNoProxy(),
				grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(mgr, servers))))...)
		}}, nil
}

// mayListenLow reports, by trying, whether this user may listen on ports below 1024 of a
// virtual network. No service has an address that ends in 0.1.
func mayListenLow(network string) bool {
	l, err := net.Listen("tcp", network+".0.1:1")
	if err == nil {
		l.Close()
	}
	return !errors.Is(err, fs.ErrPermission)
}
