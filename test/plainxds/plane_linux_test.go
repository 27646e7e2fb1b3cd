package plainxds

import (
	"context"
	"crypto/rand"
	stdtls "crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/on_demand/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/internal/locked"
	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/tls/tlstest"
	"github.com/weirmesh/weir/xds/client"
)

const node = "test-node"

// plane is a proxy under go-control-plane.
type plane struct {
	t      *testing.T
	sotw   bool
	vars   map[string]string
	ip     string // IP, for goroutines of a test that changes vars
	ca     *tlstest.Authority
	cache  cachev3.SnapshotCache
	n      int
	addr   string
	stop   func() // the control plane
	log    locked.Buffer
	mu     sync.Mutex
	nacks  []string
	proxy  *proxy.Proxy
	secret *secrets
}

func newPlane(t *testing.T, sotw bool) *plane {
	t.Helper()
	p := &plane{t: t, sotw: sotw, ca: tlstest.New(t), cache: cachev3.NewSnapshotCache(true, cachev3.IDHash{}, nil)}
	ip := ownAddress(t)
	p.ip = ip
	p.secret = newSecrets(t, p.ca)
	p.vars = map[string]string{
		"IP": ip, "A": backend(t, "127.0.0.1", "a"), "B": backend(t, "127.0.0.1", "b"), "C": backend(t, "127.0.0.1", "c"),
		"CLOSED": "closed", "ANSWER": "42", "SOCKET": p.secret.path, "SDS": "DELTA_GRPC", "SECOND": "200",
	}
	if sotw {
		p.vars["SDS"] = "GRPC"
	}
	p.vars["EDS"], p.vars["ORIGINAL"] = p.vars["C"], ip+":"+backend(t, ip, "original")
	p.rotate("first.a.example")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = l.Addr().String()
	p.serve(l)
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Log(p.log.String())
		}
	})
	return p
}

// ownAddress is a loopback address that is likely nobody's.
func ownAddress(t *testing.T) string {
	t.Helper()
	var b [2]byte
	_, _ = rand.Read(b[:])
	return netip.AddrFrom4([4]byte{127, 91, b[0], max(b[1], 1)}).String()
}

// backend answers HTTP with its name and what it was asked; it returns its port.
func backend(t *testing.T, ip, name string) string {
	t.Helper()
	l, err := net.Listen("tcp", ip+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s", name, r.URL.Path, r.Header.Get("x-added"))
	})}}
	s.Start()
	t.Cleanup(s.Close)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// rotate makes another certificate for the secret that comes by ADS.
func (p *plane) rotate(names ...string) {
	chain, key := tlstest.PEM(p.t, p.ca.Server(names...))
	p.vars["CHAIN"], p.vars["KEY"] = escaped(chain), escaped(key)
}

func escaped(b []byte) string { return strings.ReplaceAll(string(b), "\n", `\n`) }

// serve runs the control plane on l.
func (p *plane) serve(l net.Listener) {
	note := func(m string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.nacks = append(p.nacks, m)
	}
	ctx, cancel := context.WithCancel(context.Background())
	x := serverv3.NewServer(ctx, p.cache, serverv3.CallbackFuncs{
		StreamRequestFunc: func(_ int64, r *discoveryv3.DiscoveryRequest) error {
			if r.GetErrorDetail() != nil {
				note(r.GetErrorDetail().GetMessage())
			}
			return nil
		},
		StreamDeltaRequestFunc: func(_ int64, r *discoveryv3.DeltaDiscoveryRequest) error {
			if r.GetErrorDetail() != nil {
				note(r.GetErrorDetail().GetMessage())
			}
			return nil
		},
	})
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, x)
	var running sync.WaitGroup
	running.Go(func() { _ = g.Serve(l) })
	p.stop = func() { cancel(); g.Stop(); running.Wait() }
}

// again starts the control plane anew where it was.
func (p *plane) again() {
	p.t.Helper()
	var l net.Listener
	p.until("the port is free", func() (err error) { l, err = net.Listen("tcp", p.addr); return err })
	p.serve(l)
}

// nacked is what the proxy refused, since the last call.
func (p *plane) nacked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.nacks
	p.nacks = nil
	return n
}

// publish makes the resources of the files the newest configuration; change edits the text before.
func (p *plane) publish(change func(string) string, files ...string) {
	p.t.Helper()
	all := map[resourcev3.Type][]types.Resource{}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join("testdata", f))
		if err != nil {
			p.t.Fatal(err)
		}
		s := string(text)
		if change != nil {
			s = change(s)
		}
		for doc := range strings.SplitSeq(s, "\n---\n") {
			a := p.resource(doc)
			m, err := a.UnmarshalNew()
			if err != nil {
				p.t.Fatal(err)
			}
			all[a.GetTypeUrl()] = append(all[a.GetTypeUrl()], m)
		}
	}
	p.n++
	snapshot, err := cachev3.NewSnapshot(fmt.Sprint(p.n), all)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.cache.SetSnapshot(p.t.Context(), node, snapshot); err != nil {
		p.t.Fatal(err)
	}
}

// without is a change of publish: the resources of these names are not there.
func without(names ...string) func(string) string {
	return func(s string) string {
		var keep []string
		for doc := range strings.SplitSeq(s, "\n---\n") {
			if !slices.ContainsFunc(names, func(n string) bool { return strings.Contains(doc, "\nname: "+n+"\n") }) {
				keep = append(keep, doc)
			}
		}
		return strings.Join(keep, "\n---\n")
	}
}

func (p *plane) resource(doc string) *anypb.Any {
	p.t.Helper()
	for _, name := range slices.Sorted(maps.Keys(p.vars)) {
		doc = strings.ReplaceAll(doc, "${"+name+"}", p.vars[name])
	}
	j, err := yaml.YAMLToJSONStrict([]byte(doc))
	if err != nil {
		p.t.Fatalf("%v in\n%s", err, doc)
	}
	a := &anypb.Any{}
	if err := protojson.Unmarshal(j, a); err != nil {
		p.t.Fatalf("%v in\n%s", err, doc)
	}
	return a
}

// run runs the proxy.
func (p *plane) run() {
	p.t.Helper()
	x, err := proxy.New(proxy.Options{
		Node: observe.Node{ID: node, Name: node}, DrainTime: time.Second, Workers: 2, AccessLog: io.Discard,
		Log: slog.New(slog.NewTextHandler(&p.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Level: &slog.LevelVar{},
		LookupHost: func(_ context.Context, host string) ([]netip.Addr, error) {
			if strings.HasSuffix(host, ".example") {
				return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
			}
			return nil, fmt.Errorf("no host %s", host)
		},
		Poller: func() (loop.Poller, error) { x, err := loop.NewPoller(); return redirected{x, p.vars["ORIGINAL"]}, err },
		Static: &bootstrapv3.Bootstrap{Node: &corev3.Node{Id: node, Cluster: "edge"}, StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{{Name: "xds_cluster"}}}},
		Control: &proxy.Control{Strange: true, SotW: p.sotw, Dial: func(context.Context, *identity.Manager) (client.Conn, error) {
			return grpc.NewClient("passthrough:///"+p.addr, append(client.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
		}},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.proxy = x
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- x.Run(ctx) }()
	p.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			p.t.Error(err)
		}
	})
}

// redirected stands in for a rule that leads connections to another port.
type redirected struct {
	loop.Poller
	to string
}

func (r redirected) OriginalDst(fd int) (netip.AddrPort, syscall.Errno) {
	sa, err := syscall.Getsockname(fd)
	if err != nil || sa.(*syscall.SockaddrInet4).Port != 10002 {
		return netip.AddrPort{}, syscall.ENOENT
	}
	return netip.MustParseAddrPort(r.to), 0
}

// until waits for something that is going to be.
func (p *plane) until(what string, check func() error) {
	p.t.Helper()
	end := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-end:
			p.t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

// get asks the proxy once and returns status and body.
func (p *plane) get(url string, header ...string) (string, error) {
	return p.ask(&http.Transport{DisableKeepAlives: true}, url, header...)
}

func (p *plane) ask(tr *http.Transport, url string, header ...string) (string, error) {
	defer tr.CloseIdleConnections()
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
		if header[i] == "host" {
			r.Host = header[i+1]
		}
	}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	out := strings.TrimSpace(fmt.Sprintf("%d %s", resp.StatusCode, b))
	if l := resp.Header.Get("location"); l != "" {
		out += " " + l
	}
	return out, err
}

// shown is the name that the certificate for a server name is made for.
func (p *plane) shown(name string) (string, error) {
	c, err := stdtls.Dial("tcp", p.ip+":10443", &stdtls.Config{RootCAs: p.ca.Pool(), ServerName: name, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	return c.ConnectionState().PeerCertificates[0].DNSNames[0], nil
}

// secrets is an SDS server on a Unix socket, as an agent beside the proxy is one.
type secrets struct {
	t     *testing.T
	ca    *tlstest.Authority
	path  string
	cache *cachev3.LinearCache
}

func newSecrets(t *testing.T, ca *tlstest.Authority) *secrets {
	t.Helper()
	dir, err := os.MkdirTemp("", "sds") // t.TempDir's names may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &secrets{t: t, ca: ca, path: filepath.Join(dir, "sds.sock"), cache: cachev3.NewLinearCache(resourcev3.SecretType)}
	l, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	secretv3.RegisterSecretDiscoveryServiceServer(g, serverv3.NewServer(t.Context(), s.cache, nil))
	var running sync.WaitGroup
	running.Go(func() { _ = g.Serve(l) })
	t.Cleanup(func() { g.Stop(); running.Wait() })
	s.rotate("first.b.example")
	return s
}

func (s *secrets) rotate(name string) {
	s.t.Helper()
	chain, key := tlstest.PEM(s.t, s.ca.Server(name))
	inline := func(b []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
	}
	if err := s.cache.UpdateResource("server_cert", &tlsv3.Secret{Name: "server_cert", Type: &tlsv3.Secret_TlsCertificate{
		TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: inline(chain), PrivateKey: inline(key)}}}); err != nil {
		s.t.Fatal(err)
	}
}
