package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/internal/locked"
	"github.com/weirmesh/weir/internal/memnet"
	"github.com/weirmesh/weir/proxy/demand"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/state"
	"github.com/weirmesh/weir/proxy/tls/tlstest"
	"github.com/weirmesh/weir/xds/client"
	"github.com/weirmesh/weir/xds/dump"
	"github.com/weirmesh/weir/xds/ondemand"
	"github.com/weirmesh/weir/xds/resource"
	"github.com/weirmesh/weir/xds/server"
)

// redirected stands in for a rule of capture: where a connection was going follows from the
// loopback address it comes from.
type redirected struct {
	loop.Poller
	to *destinations
}

type destinations struct {
	mu sync.Mutex
	of map[netip.Addr]netip.AddrPort
}

func (r redirected) OriginalDst(fd int) (netip.AddrPort, syscall.Errno) {
	sa, err := syscall.Getpeername(fd)
	if err != nil {
		return netip.AddrPort{}, syscall.ENOENT
	}
	r.to.mu.Lock()
	defer r.to.mu.Unlock()
	return r.to.of[netip.AddrFrom4(sa.(*syscall.SockaddrInet4).Addr)], 0
}

// from is an address from which connections go to dst.
func (d *destinations) from(dst netip.AddrPort) netip.Addr {
	d.mu.Lock()
	defer d.mu.Unlock()
	for a, to := range d.of {
		if to == dst {
			return a
		}
	}
	a := netip.AddrFrom4([4]byte{127, 77, 0, byte(len(d.of) + 1)})
	d.of[a] = dst
	return a
}

// sidecar is a proxy with a control plane of the test's.
type sidecar struct {
	t      *testing.T
	ca     *tlstest.Authority
	net    memnet.Network
	to     destinations
	dir    string
	held   map[string]string // by type and name: the text of a resource, as it is now
	wild   map[string]bool   // of them, what a wildcard means
	more   []string          // further names in the index
	feed   *server.Feed
	log    *locked.Buffer
	n      uint64
	end    func() // the control plane
	proxy  *Proxy
	finish func()
}

const (
	hcm = `name: "http" typed_config { [type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager] {
		stat_prefix: "x" rds { route_config_name: "80" config_source { ads {} } } access_log { name: "f" typed_config { [type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog] { path: "/dev/stdout" } } }
		upgrade_configs { upgrade_type: "websocket" }
		http_filters { name: "router" typed_config { [type.googleapis.com/envoy.extensions.filters.http.router.v3.Router] {} } } } }`
	catcher = `name: "virtualOutbound" traffic_direction: OUTBOUND use_original_dst { value: true }
		address { socket_address { address: "127.0.0.1" port_value: 0 } }
		filter_chains { filters { name: "tcp" typed_config { [type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy] { stat_prefix: "p" cluster: "PassthroughCluster" } } } }`
	pass  = `name: "PassthroughCluster" type: ORIGINAL_DST lb_policy: CLUSTER_PROVIDED`
	shell = `name: "80" vhds { config_source { ads {} } }
		virtual_hosts { name: "allow_any" domains: "*" routes { match { prefix: "/" } route { cluster: "PassthroughCluster" } } }`
	port80 = `name: "0.0.0.0_80" traffic_direction: OUTBOUND bind_to_port { value: false }
		address { socket_address { address: "0.0.0.0" port_value: 80 } } filter_chains { filters { ` + hcm + ` } }`
)

// service is an HTTP service of the mesh: its virtual host, cluster and endpoints.
func (s *sidecar) service(host, cluster string, at net.Addr) {
	domains := []string{host}
	if short, ok := strings.CutSuffix(host, ".default.svc.cluster.local"); ok {
		domains = append(domains, short, short+".default")
	}
	for _, d := range slices.Clone(domains) {
		domains = append(domains, d+":80")
	}
	s.held[resource.VirtualHostType+" 80/"+host] = fmt.Sprintf(`name: "80/%s" domains: ["%s"] routes { match { prefix: "/" } route { cluster: "%s" timeout {} } }`, host, strings.Join(domains, `", "`), cluster)
	s.cluster(cluster, at)
}

func (s *sidecar) cluster(name string, at net.Addr) {
	s.held[resource.ClusterType+" "+name] = fmt.Sprintf(`name: "%s" type: EDS eds_cluster_config { eds_config { ads {} } }`, name)
	a := netip.MustParseAddrPort(at.String())
	s.held[resource.EndpointType+" "+name] = fmt.Sprintf(`cluster_name: "%s" endpoints { lb_endpoints { endpoint { address { socket_address { address: "%s" port_value: %d } } } } }`, name, a.Addr(), a.Port())
}

// tcp is a TCP service of the mesh.
func (s *sidecar) tcp(dst netip.AddrPort, cluster string, at net.Addr) {
	name := fmt.Sprintf("%s_%d", dst.Addr(), dst.Port())
	s.held[resource.ListenerType+" "+name] = fmt.Sprintf(`name: "%s" traffic_direction: OUTBOUND bind_to_port { value: false } address { socket_address { address: "%s" port_value: %d } }
		filter_chains { filters { name: "tcp" typed_config { [type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy] { stat_prefix: "t" cluster: "%s" } } } }`, name, dst.Addr(), dst.Port(), cluster)
	s.cluster(cluster, at)
}

// publish makes what is held now the configuration there is.
func (s *sidecar) publish() {
	s.t.Helper()
	var all []*resource.Resource
	wild := map[string]resource.Set{resource.ClusterType: {}, resource.ListenerType: {}, resource.VirtualHostType: {}}
	shards := make([][]uint64, ondemand.Shards)
	index := func(name string) {
		h := ondemand.Hash(name)
		shards[ondemand.ShardOf(h)] = ondemand.Insert(shards[ondemand.ShardOf(h)], h)
	}
	for _, key := range slices.Sorted(maps.Keys(s.held)) {
		typeURL, name, _ := strings.Cut(key, " ")
		m := map[string]proto.Message{resource.ClusterType: &clusterv3.Cluster{}, resource.EndpointType: &endpointv3.ClusterLoadAssignment{}, resource.ListenerType: &listenerv3.Listener{},
			resource.RouteType: &routev3.RouteConfiguration{}, resource.VirtualHostType: &routev3.VirtualHost{}}[typeURL]
		if err := prototext.Unmarshal([]byte(s.held[key]), m); err != nil {
			s.t.Fatalf("%s: %v", key, err)
		}
		r, err := resource.New(name, m)
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, r)
		if set, ok := wild[typeURL]; ok && s.wild[key] {
			wild[typeURL] = set.Set(name, r)
		}
		if typeURL == resource.VirtualHostType || typeURL == resource.ListenerType && name != "virtualOutbound" {
			index(name)
		}
	}
	for _, n := range s.more {
		index(n)
	}
	for i, hashes := range shards {
		if len(hashes) == 0 {
			continue
		}
		r, err := resource.New(ondemand.ShardName(i), ondemand.Shard(hashes))
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, r)
	}
	s.n++
	v := resource.NewView(s.n, all...)
	v.Wild = wild
	s.feed.Publish(v)
}

// Connect is server.Source.
func (s *sidecar) Connect(context.Context, *corev3.Node, server.Peer) (*server.Feed, error) {
	return s.feed, nil
}

// control starts a control plane that calls itself so.
func (s *sidecar) control(identifier string) {
	l, err := s.net.Listen("control")
	if err != nil {
		s.t.Fatal(err)
	}
	s.feed = &server.Feed{}
	s.publish()
	x := server.New(server.Options{Source: s, Identifier: identifier, Log: slog.New(slog.DiscardHandler), Authorize: func(server.Peer, *corev3.Node) error { return nil }})
	g := grpc.NewServer(x.GRPCOptions()...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, x)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = g.Serve(l) })
	running.Go(func() { _ = x.Run(ctx) })
	s.end = func() { cancel(); g.Stop(); running.Wait(); s.end = func() {} }
}

const announcing = "weir-test " + ondemand.Token

func newSidecar(t *testing.T) *sidecar {
	t.Helper()
	s := &sidecar{t: t, ca: tlstest.New(t), dir: t.TempDir(), held: map[string]string{}, wild: map[string]bool{}, log: &locked.Buffer{}, to: destinations{of: map[netip.Addr]netip.AddrPort{}}}
	s.held[resource.ListenerType+" virtualOutbound"], s.wild[resource.ListenerType+" virtualOutbound"] = catcher, true
	s.held[resource.ClusterType+" PassthroughCluster"], s.wild[resource.ClusterType+" PassthroughCluster"] = pass, true
	s.held[resource.ListenerType+" 0.0.0.0_80"] = port80
	s.held[resource.RouteType+" 80"] = shell
	t.Cleanup(func() {
		if s.finish != nil {
			s.finish()
		}
		s.end()
		if t.Failed() {
			t.Log(s.log)
		}
	})
	return s
}

// start runs the proxy. Its state is kept from one to the next.
func (s *sidecar) start() {
	s.t.Helper()
	id, err := identity.New("cluster.local", "default", "me")
	if err != nil {
		s.t.Fatal(err)
	}
	p, err := New(Options{
		Node: observe.Node{ID: "sidecar~127.0.0.1~me.default~default.svc.cluster.local", Name: "me", Namespace: "default"}, OnDemand: true, StateDir: s.dir, DrainTime: time.Second,
		Log: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Level: &slog.LevelVar{}, AccessLog: s.log,
		Control: &Control{TrustDomain: "cluster.local", ID: id, Signer: s.ca, Bootstrap: s.ca.Bundle(), Dial: func(context.Context, *identity.Manager) (client.Conn, error) {
			return grpc.NewClient("passthrough:///control", append(client.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return s.net.DialContext(ctx, "", a) }))...)
		}},
		Poller: func() (loop.Poller, error) { p, err := loop.NewPoller(); return redirected{p, &s.to}, err },
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	s.proxy = p
	s.finish = func() {
		s.finish = nil
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	}
	waitFor(s.t, func() bool { _, ok := p.group.Local(loop.TCP(netip.MustParseAddrPort("127.0.0.1:0"))); return ok })
}

// ready waits until the proxy is.
func (s *sidecar) ready() {
	s.t.Helper()
	waitFor(s.t, func() bool { return s.proxy.Ready() == nil })
}

// dial connects to dst as a captured program does.
func (s *sidecar) dial(dst string) net.Conn {
	s.t.Helper()
	at, ok := s.proxy.group.Local(loop.TCP(netip.MustParseAddrPort("127.0.0.1:0")))
	if !ok {
		s.t.Fatal("no listener")
	}
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(s.to.from(netip.MustParseAddrPort(dst)), 0))}
	c, err := d.Dial("tcp", at.String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// get asks dst for http://host/ and returns status and body.
func (s *sidecar) get(dst, host string) (int, string) {
	s.t.Helper()
	return s.on(s.dial(dst), host)
}

func (s *sidecar) on(c net.Conn, host string) (int, string) {
	s.t.Helper()
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host)
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func (s *sidecar) expect(dst, host string, status int, body string) {
	s.t.Helper()
	if got, b := s.get(dst, host); got != status || b != body {
		s.t.Errorf("%s at %s: %d %q, want %d %q", host, dst, got, b, status, body)
	}
}

// answers is a program that says who it is.
func answers(t *testing.T, name string) *httptest.Server {
	x := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) }))
	t.Cleanup(x.Close)
	return x
}

// speaks is a program that speaks first.
func speaks(t *testing.T, words string) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(c, words)
			go func() { _, _ = io.Copy(io.Discard, c); c.Close() }()
		}
	}()
	return l
}

func line(t *testing.T, c net.Conn) string {
	t.Helper()
	got, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(got)
}

func (s *sidecar) names(typeURL string) []string { return byType(s.proxy.demands.Names())[typeURL] }

// The first use of a service brings its configuration, and nothing else comes.
func TestFirstUse(t *testing.T) {
	s := newSidecar(t)
	a, b := answers(t, "a"), answers(t, "b")
	s.service("a.default.svc.cluster.local", "outbound|80||a", a.Listener.Addr())
	s.service("b.default.svc.cluster.local", "outbound|80||b", b.Listener.Addr())
	s.service("*.wild.com", "outbound|80||b", b.Listener.Addr())
	first := speaks(t, "welcome")
	s.tcp(netip.MustParseAddrPort("10.96.0.9:3306"), "outbound|3306||db", first.Addr())
	s.control(announcing)
	s.start()
	s.ready()
	if got := s.proxy.demands.Names(); len(got) > 0 {
		t.Errorf("asked for %v before anything was used", got)
	}

	s.expect("10.96.0.1:80", "a", 200, "a")
	s.expect("10.96.0.1:80", "a.default:80", 200, "a")
	if got := s.names(resource.VirtualHostType); !slices.Equal(got, []string{"80/a.default.svc.cluster.local"}) {
		t.Errorf("virtual hosts asked for: %v", got)
	}
	if got := s.names(resource.ListenerType); !slices.Equal(got, []string{"0.0.0.0_80"}) {
		t.Errorf("listeners asked for: %v", got)
	}
	if s.proxy.state.current().ClusterNamed("outbound|80||b") != nil {
		t.Error("a cluster came that nobody asked for")
	}
	s.expect("10.96.0.2:80", "x.wild.com", 200, "b")
	if got := line(t, s.dial("10.96.0.9:3306")); got != "welcome" {
		t.Errorf("the server that speaks first said %q", got)
	}

	// What is not in the mesh passes at once, on a route table and without a listener.
	out := answers(t, "outside")
	total := s.proxy.demands.Total()
	at := netip.MustParseAddrPort(out.Listener.Addr().String())
	s.expect(at.String(), "a", 200, "outside") // no HTTP to us: nothing listens for the port
	outside := speaks(t, "far")
	if got := line(t, s.dial(outside.Addr().String())); got != "far" {
		t.Errorf("outside: %q", got)
	}
	if n := s.proxy.demands.Total(); n != total {
		t.Errorf("%d demands for what is not in the mesh", n-total)
	}
	if held, _ := s.proxy.demands.Held(); held != 0 {
		t.Errorf("%d held in the end", held)
	}

	// A change of what is there needs no demand; one that goes takes its route along.
	s.service("a.default.svc.cluster.local", "outbound|80||b", b.Listener.Addr())
	s.publish()
	waitFor(t, func() bool { _, body := s.get("10.96.0.1:80", "a"); return body == "b" })
	text := strings.Join([]string{s.log.String()}, "")
	if n := strings.Count(text, "configuration comes on demand"); n != 1 || strings.Contains(text, "demand=") {
		t.Errorf("said %d times that configuration comes on demand", n)
	}
}

// A name of the index that does not exist is answered so, once, and then as if it were not in the index.
func TestToldMissing(t *testing.T) {
	s := newSidecar(t)
	s.more = []string{"80/ghost.default.svc.cluster.local"}
	s.control(announcing)
	s.start()
	s.ready()
	out := answers(t, "outside")
	// ALLOW_ANY sends it where the connection was going: here that is nobody, and the request is refused, not held.
	c := s.dial("127.0.0.1:80")
	if status, _ := s.on(c, "ghost"); status != 503 {
		t.Errorf("a name that does not exist: %d", status)
	}
	if v := s.proxy.state.current().View(); !v.Absent["80/ghost.default.svc.cluster.local"] {
		t.Errorf("absent: %v", v.Absent)
	}
	s.service("ghost.default.svc.cluster.local", "outbound|80||ghost", out.Listener.Addr())
	s.more = nil
	s.publish()
	waitFor(t, func() bool { status, _ := s.get("127.0.0.1:80", "ghost"); return status == 200 })
}

// An update that names a new cluster fails no request: what was before serves until it is there.
func TestUpdateWithNewClusters(t *testing.T) {
	s := newSidecar(t)
	var servers []*httptest.Server
	for i := range 8 {
		servers = append(servers, answers(t, fmt.Sprint(i)))
	}
	s.service("a.default.svc.cluster.local", "outbound|80|v0|a", servers[0].Listener.Addr())
	s.control(announcing)
	s.start()
	s.ready()
	c := s.dial("10.96.0.1:80")
	for i, x := range servers {
		s.service("a.default.svc.cluster.local", fmt.Sprintf("outbound|80|v%d|a", i), x.Listener.Addr())
		s.publish()
		waitFor(t, func() bool {
			status, body := s.on(c, "a")
			if status != 200 {
				t.Errorf("status %d", status)
			}
			return body == fmt.Sprint(i)
		})
		delete(s.held, resource.ClusterType+fmt.Sprintf(" outbound|80|v%d|a", i-1))
	}
}

// While the control plane is away what is held is used, and what is not waits: it may be back.
func TestAway(t *testing.T) {
	s := newSidecar(t)
	a, b := answers(t, "a"), answers(t, "b")
	s.service("a.default.svc.cluster.local", "outbound|80||a", a.Listener.Addr())
	s.service("b.default.svc.cluster.local", "outbound|80||b", b.Listener.Addr())
	s.control(announcing)
	s.start()
	s.ready()
	s.expect("10.96.0.1:80", "a", 200, "a")
	s.end()
	s.expect("10.96.0.1:80", "a", 200, "a")
	back := make(chan bool)
	go func() {
		waitFor(t, func() bool { n, _ := s.proxy.demands.Held(); return n == 1 })
		s.control(announcing)
		close(back)
	}()
	s.expect("10.96.0.2:80", "b", 200, "b")
	<-back

	// And so it is after a restart.
	s.finish()
	s.end()
	s.start()
	s.expect("10.96.0.1:80", "a", 200, "a")
	s.expect("10.96.0.1:80", "b", 200, "b")
	if got := s.names(resource.VirtualHostType); len(got) != 2 {
		t.Errorf("asked for after the restart: %v", got)
	}
	if v := s.proxy.state.current().View(); v == nil || v.Index == nil || v.Index.Len() != 3 {
		t.Errorf("no index was kept: %v", v)
	}
	s.control(announcing)
	s.ready()
	s.expect("10.96.0.1:80", "b", 200, "b")
	out := speaks(t, "far")
	if got := line(t, s.dial(out.Addr().String())); got != "far" {
		t.Errorf("outside: %q", got)
	}
}

// What is shown of it: what was used and is held, what waits and for what, what came unasked, what does not exist, and
// who is away.
func TestShown(t *testing.T) {
	s := newSidecar(t)
	a, b := answers(t, "a"), answers(t, "b")
	s.service("a.default.svc.cluster.local", "outbound|80||a", a.Listener.Addr())
	s.service("b.default.svc.cluster.local", "outbound|80||b", b.Listener.Addr())
	late := s.held[resource.ClusterType+" outbound|80||b"]
	delete(s.held, resource.EndpointType+" outbound|80||b") // never told
	s.service("l.default.svc.cluster.local", "outbound|80||a", a.Listener.Addr())
	s.wild[resource.VirtualHostType+" 80/l.default.svc.cluster.local"] = true
	s.more = []string{"80/ghost.default.svc.cluster.local"}
	show := func() (lines []string) {
		x := s.proxy.OnDemand()
		for _, r := range x.Resources {
			if (r.Since == nil) != (r.State == dump.Learned) || r.Since != nil && (time.Since(*r.Since) > time.Minute || *r.Idle != 0) {
				t.Errorf("%s: since %v, idle %v", r.Name, r.Since, r.Idle)
			}
			lines = append(lines, strings.TrimSpace(fmt.Sprintln(r.Type, r.Name, r.State, strings.Join(r.Missing, ", "))))
		}
		if !x.Active || x.Index == nil || *x.Index != 5 {
			t.Errorf("%+v", x)
		}
		return lines
	}
	s.control(announcing)
	s.start()
	s.ready()
	waitFor(t, func() bool { return len(show()) == 1 })
	s.expect("10.96.0.1:80", "a", 200, "a")
	s.get("127.0.0.1:80", "ghost")
	delete(s.held, resource.ClusterType+" outbound|80||b")
	s.end()
	waitFor(t, func() bool { return s.proxy.OnDemand().Away != "" })
	c := s.dial("10.96.0.2:80")
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: b\r\n\r\n")
	waitFor(t, func() bool { return s.proxy.OnDemand().Held == 1 })
	want := []string{"LDS 0.0.0.0_80 SERVED", "VHDS 80/a.default.svc.cluster.local SERVED", "VHDS 80/b.default.svc.cluster.local WAITING",
		"VHDS 80/ghost.default.svc.cluster.local ABSENT", "VHDS 80/l.default.svc.cluster.local LEARNED"}
	if got := show(); !slices.Equal(got, want) {
		t.Errorf("shown: %q", got)
	}
	s.held[resource.ClusterType+" outbound|80||b"] = late
	s.control(announcing)
	waitFor(t, func() bool {
		x := s.proxy.OnDemand()
		return x.Away == "" && x.Held == 0 // that there are no endpoints is an answer, too
	})
	want[2] = "VHDS 80/b.default.svc.cluster.local SERVED"
	if got := show(); !slices.Equal(got, want) {
		t.Errorf("shown in the end: %q", got)
	}
}

// A control plane that does not know of it: what is held is all there is, and it is asked for no index.
func TestAnotherControlPlane(t *testing.T) {
	s := newSidecar(t)
	a := answers(t, "a")
	s.service("a.default.svc.cluster.local", "outbound|80||a", a.Listener.Addr())
	s.control(announcing)
	s.start()
	s.ready()
	s.expect("10.96.0.1:80", "a", 200, "a")
	s.end()
	s.control("other")
	waitFor(t, func() bool { return s.proxy.state.current().View() == nil })
	if got := s.proxy.demands.Names(); len(got) != 0 {
		t.Errorf("still asked for: %v", got)
	}
	out := speaks(t, "far")
	if got := line(t, s.dial(out.Addr().String())); got != "far" {
		t.Errorf("outside: %q", got)
	}
	st, _ := s.proxy.xds.State()
	for _, x := range st.Types {
		if x.TypeURL == resource.IndexType && x.Held > 0 {
			t.Error("the index is still held")
		}
	}
	s.end()
	s.control(announcing)
	waitFor(t, func() bool {
		v := s.proxy.state.current().View()
		return v != nil && v.Index != nil && v.Index.Len() == 2
	})
	s.expect("10.96.0.1:80", "a", 200, "a")
}

// What is not used goes, unless a connection is open; what is used again comes again.
func TestAgeing(t *testing.T) {
	s := newSidecar(t)
	a := answers(t, "a")
	s.service("a.default.svc.cluster.local", "outbound|80||a", a.Listener.Addr())
	first := speaks(t, "welcome")
	s.tcp(netip.MustParseAddrPort("10.96.0.9:3306"), "outbound|3306||db", first.Addr())
	s.control(announcing)
	s.start()
	s.ready()
	db := s.dial("10.96.0.9:3306")
	if got := line(t, db); got != "welcome" {
		t.Fatal(got)
	}
	kept := s.dial("10.96.0.1:80")
	if status, body := s.on(kept, "a"); status != 200 || body != "a" {
		t.Errorf("%d %q", status, body)
	}
	for range 11 {
		s.proxy.state.age()
	}
	if got := s.names(resource.VirtualHostType); len(got) != 0 {
		t.Errorf("still asked for: %v", got)
	}
	if got := s.names(resource.ListenerType); !slices.Contains(got, "10.96.0.9_3306") {
		t.Errorf("a listener with a connection is not asked for any more: %v", got)
	}
	waitFor(t, func() bool { return s.proxy.state.current().ClusterNamed("outbound|80||a") == nil })
	if status, body := s.on(kept, "a"); status != 200 || body != "a" { // the connection is there, and its next request asks anew
		t.Errorf("on the connection that was open all the time: %d %q", status, body)
	}
	db.Close()
	waitFor(t, func() bool { return s.proxy.group.Connections("10.96.0.9_3306") == 0 })
	for range 11 {
		s.proxy.state.age()
	}
	waitFor(t, func() bool {
		return !slices.ContainsFunc(slices.Collect(s.proxy.state.current().Listeners()), func(l *state.Listener) bool { return l.Name == "10.96.0.9_3306" })
	})
}

// What a wildcard has brought is asked for by name when it is used, and served without waiting.
func TestLearned(t *testing.T) {
	s := newSidecar(t)
	a := answers(t, "a")
	s.service("a.default.svc.cluster.local", "outbound|80||a", a.Listener.Addr())
	s.wild[resource.ListenerType+" 0.0.0.0_80"] = true
	s.wild[resource.VirtualHostType+" 80/a.default.svc.cluster.local"] = true
	s.control(announcing)
	s.start()
	s.ready()
	waitFor(t, func() bool {
		t := s.proxy.state.current().Table("80")
		return t != nil && t.Host([]byte("a")).Name == "80/a.default.svc.cluster.local"
	})
	s.expect("10.96.0.1:80", "a", 200, "a")
	waitFor(t, func() bool { return len(s.proxy.demands.Names()) == 2 })
	if n := s.proxy.demands.Total(); n != 0 {
		t.Errorf("%d demands", n)
	}
	want := []demand.Key{{TypeURL: resource.ListenerType, Name: "0.0.0.0_80"}, {TypeURL: resource.VirtualHostType, Name: "80/a.default.svc.cluster.local"}}
	if got := s.proxy.demands.Names(); !slices.Equal(got, want) {
		t.Errorf("asked for %v", got)
	}
}
