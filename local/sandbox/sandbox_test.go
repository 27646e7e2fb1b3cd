package sandbox

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirmesh/weir/ca/token"
	"github.com/weirmesh/weir/local/netns"
	"github.com/weirmesh/weir/local/plan"
	"github.com/weirmesh/weir/local/pod"
	"github.com/weirmesh/weir/local/process"
	"github.com/weirmesh/weir/mesh"
)

func template() *plan.Template {
	return &plan.Template{
		Namespace: "shop", Owner: "cart", ServiceAccount: "sa", Labels: map[string]string{"version": "v1", "app": "cart"},
		Containers: []plan.Container{{Name: "cart", Argv: []string{"./cart"}, Ports: []plan.Port{{Name: "http-web", Number: 80}, {Number: 9090}}}},
	}
}

func gateway() *plan.Template {
	return &plan.Template{Namespace: "istio-system", Owner: "gw", ServiceAccount: "gw", Gateway: true}
}

// newProxies has the shell command script as its weir-proxy; $@ are the flags.
func newProxies(t *testing.T, script string) *Proxies {
	t.Helper()
	dir, err := os.MkdirTemp("", "sb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program := filepath.Join(dir, "weir-proxy")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	key, err := token.OpenKey(filepath.Join(dir, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	return &Proxies{
		Program: program, Layout: Layout(dir), TrustDomain: "cluster.local", Tokens: key,
		Listen: []Listen{{netip.MustParseAddrPort("0.0.0.0:8080"), netip.MustParseAddrPort("127.0.0.1:18080")}, {netip.MustParseAddrPort("0.0.0.0:0"), netip.MustParseAddrPort("127.0.0.1:0")}},
	}
}

func add(t *testing.T, s pod.Sandbox, spec pod.Spec) pod.Place {
	t.Helper()
	p, err := s.Add(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// What a proxy is started with, by the letter: it is a contract.
func TestProxyFlags(t *testing.T) {
	m := newProxies(t, `for a in "$@"; do case $a in --*) printf '\n%s' "$a";; *) printf ' %s' "$a";; esac; done; printf '\n'; cat <&3 | cut -c1-6`)
	l := NewLoopback(m, process.NewStarter(""), Shape{})
	for _, c := range []struct {
		t    *plan.Template
		name string
		want string
	}{
		{template(), "cart-0", ` sidecar
--name cart-0
--namespace shop
--service-account sa
--ip 127.W.0.1
--xds unix://DIR/run/xds.sock
--ca-root DIR/ca/root-cert.pem
--token-fd 3
--state DIR/proxies/shop_cart-0
--admin unix://DIR/run/proxies/shop_cart-0/admin.sock
--trust-domain cluster.local
--labels app=cart,version=v1
--owner cart
--capture none
--virtual-net 127.W
--inbound 80=127.W.0.1:80->127.0.0.1:PORT,9090=127.W.0.1:9090->127.0.0.1:PORT
weir1.
`},
		{gateway(), "gw-0", ` gateway
--name gw-0
--namespace istio-system
--service-account gw
--ip 127.W.0.1
--xds unix://DIR/run/xds.sock
--ca-root DIR/ca/root-cert.pem
--token-fd 3
--state DIR/proxies/istio-system_gw-0
--admin unix://DIR/run/proxies/istio-system_gw-0/admin.sock
--trust-domain cluster.local
--owner gw
--listen-map 0.0.0.0:8080=127.0.0.1:18080,0.0.0.0=127.0.0.1
--capture none
weir1.
`},
	} {
		var out bytes.Buffer
		p := add(t, l, pod.Spec{Name: c.name, Template: c.t, Output: &out})
		proc, err := p.StartProxy()
		if err != nil {
			t.Fatal(err)
		}
		if err := proc.Wait(); err != nil {
			t.Fatal(err)
		}
		got := strings.ReplaceAll(out.String(), string(m.Layout), "DIR")
		got = strings.ReplaceAll(got, p.(*loopbackPlace).virtualNet(), "127.W")
		for _, port := range p.(*loopbackPlace).app {
			got = strings.ReplaceAll(got, fmt.Sprintf("127.0.0.1:%d", port), "127.0.0.1:PORT")
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}

// What a program learns in env capture, and how it is reached. A state that was kept for
// a pod of the name, which had other addresses, is not.
func TestLoopbackPlace(t *testing.T) {
	m := newProxies(t, "")
	l := NewLoopback(m, process.NewStarter(""), Shape{})
	tmpl := template()
	kept := filepath.Join(m.Layout.ProxyState("shop", "cart-0"), "last-good")
	if err := errors.Join(os.MkdirAll(filepath.Dir(kept), 0o700), os.WriteFile(kept, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	p := add(t, l, pod.Spec{Name: "cart-0", Template: tmpl})
	if _, err := os.Stat(kept); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an earlier pod's state: %v", err)
	}
	if _, err := os.Stat(filepath.Dir(kept)); err != nil {
		t.Error(err)
	}
	app := p.(*loopbackPlace).app
	if app[80] == app[9090] || app[80] < firstPort || app[80] > lastPort {
		t.Errorf("ports %v", app)
	}
	want := []string{"BIND_ADDRESS=127.0.0.1", fmt.Sprintf("PORT_80=%d", app[80]), fmt.Sprintf("PORT_HTTP_WEB=%d", app[80]), fmt.Sprintf("PORT_9090=%d", app[9090]), fmt.Sprintf("PORT=%d", app[80])}
	if d := cmp.Diff(want, p.Variables(tmpl.Containers[0])); d != "" {
		t.Errorf("variables (-want +got):\n%s", d)
	}
	sample := tmpl.Containers[0]
	sample.Argv = []string{"weir-sample", "tcp-echo"}
	if got := p.Variables(sample); got[len(got)-1] != fmt.Sprintf("PORT=%d,%d", app[80], app[9090]) {
		t.Errorf("variables of a sample: %v", got)
	}
	if got := p.Variables(plan.Container{}); !slices.Equal(got, []string{"BIND_ADDRESS=127.0.0.1"}) {
		t.Errorf("without ports: %v", got)
	}

	for index, want := range map[uint32]string{0: "[]", 256: "[127.W.1.0:80 127.W.1.0:9090]", 0xffff: "[127.W.255.255:80 127.W.255.255:9090]", 0x10000: "[]"} {
		got := fmt.Sprint(p.ServiceAt(&mesh.Service{Index: index, Ports: []mesh.Port{{Number: 80}, {Number: 9090}}}))
		if want = strings.ReplaceAll(want, "127.W", p.(*loopbackPlace).virtualNet()); got != want {
			t.Errorf("service %d at %s, want %s", index, got, want)
		}
	}
	a := p.Annotations()
	if a["weir.dev/virtual-net"] != p.(*loopbackPlace).virtualNet() || a["weir.dev/inbound"] != p.(*loopbackPlace).inbound() || !strings.HasPrefix(a["weir.dev/admin"], "unix:///") {
		t.Errorf("annotations %v", a)
	}

	if _, err := p.Dial(t.Context(), 80); err == nil {
		t.Error("connected to nobody")
	}
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", app[80]))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := p.Dial(t.Context(), 80)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := p.Dial(t.Context(), 81); err == nil {
		t.Error("connected to a port the workload does not have")
	}
	if err := p.ProxyReady(t.Context()); err == nil {
		t.Error("a proxy that was never started is ready")
	}
}

// Ports that need root, and addresses that a machine does not have, are replaced by
// others, of which callers, the proxy and the mesh learn.
func TestLoopbackShapes(t *testing.T) {
	service := &mesh.Service{Hostname: "shop.d.svc", Index: 256, Ports: []mesh.Port{{Number: 80}, {Number: 9090}, {Number: 443}, {Number: 10443}}}
	later := *service // has two ports more
	later.Ports = append(slices.Clone(service.Ports), mesh.Port{Number: 8080}, mesh.Port{Number: 90})
	host := func(name string) *mesh.Service {
		if name == "shop" {
			return &later
		}
		return nil
	}
	for _, c := range []struct {
		name                         string
		shape                        Shape
		ip, calls, inbound, outbound string
		names                        map[uint16]string // where the name leads to, after the proxy was started
	}{
		{"an ordinary user", Shape{HighPorts: true}, "127.W.0.1", "[127.W.1.0:10080 127.W.1.0:9090 127.W.1.0:20443 127.W.1.0:10443]",
			"80=127.W.0.1:10080->127.0.0.1:PORT,9090=127.W.0.1:9090->127.0.0.1:PORT", "--outbound shop.d.svc:443=127.W.1.0:20443 --outbound shop.d.svc:80=127.W.1.0:10080",
			map[uint16]string{80: "127.W.1.0:10080", 9090: "127.W.1.0:9090", 81: "shop.d.svc has no port 81, only 80, 9090, 443, 10443, 8080, 90", 8080: "127.W.1.0:8080",
				90: "port 90 of shop.d.svc came after cart-0 was started, which must be started again to call it"}},
		{"one address", Shape{OneAddress: true, HighPorts: true}, "127.0.0.1", "[127.0.0.1:PORT 127.0.0.1:PORT 127.0.0.1:PORT 127.0.0.1:PORT]",
			"80=127.0.0.1:PORT->127.0.0.1:PORT,9090=127.0.0.1:PORT->127.0.0.1:PORT",
			"--outbound shop.d.svc:10443=127.0.0.1:PORT --outbound shop.d.svc:443=127.0.0.1:PORT --outbound shop.d.svc:80=127.0.0.1:PORT --outbound shop.d.svc:9090=127.0.0.1:PORT",
			map[uint16]string{80: "127.0.0.1:PORT", 8080: "port 8080 of shop.d.svc came after cart-0 was started, which must be started again to call it"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := NewLoopback(newProxies(t, `printf '%s\n' "$*"`), process.NewStarter(""), c.shape)
			var out bytes.Buffer
			p := add(t, l, pod.Spec{Name: "cart-0", Template: template(), Host: host, Output: &out}).(*loopbackPlace)
			anyNet := func(s string) string {
				if p.net != 0 {
					return strings.ReplaceAll(s, p.virtualNet()+".", "127.W.")
				}
				return regexp.MustCompile(`127\.0\.0\.1:\d+`).ReplaceAllString(s, "127.0.0.1:PORT")
			}
			if got := anyNet(p.IP().String()); got != c.ip {
				t.Errorf("its address is %s, want %s", got, c.ip)
			}
			calls := p.ServiceAt(service)
			if got := anyNet(fmt.Sprint(calls)); got != c.calls {
				t.Errorf("calls at %s, want %s", got, c.calls)
			}
			if again := p.ServiceAt(service); !slices.Equal(again, calls) {
				t.Errorf("asked again: %v, before %v", again, calls)
			}
			inbound := regexp.MustCompile(`>127\.0\.0\.1:\d+`).ReplaceAllString(p.Annotations()["weir.dev/inbound"], ">127.0.0.1:PORT")
			if got := anyNet(inbound); got != c.inbound {
				t.Errorf("is called at %s, want %s", got, c.inbound)
			}
			proc, err := p.StartProxy()
			if err != nil {
				t.Fatal(err)
			}
			if err := proc.Wait(); err != nil {
				t.Fatal(err)
			}
			if flags := anyNet(out.String()); !strings.Contains(flags, c.outbound+" --inbound ") || strings.Contains(flags, "--virtual-net") == c.shape.OneAddress {
				t.Errorf("its proxy is started with %s", flags)
			}
			for port, want := range c.names {
				at, ok, err := p.lookup("shop", port)
				got := anyNet(at.String())
				if err != nil {
					got = err.Error()
				}
				if got != want || ok != (err == nil) {
					t.Errorf("shop:%d is called at %s (%v), want %s", port, got, ok, want)
				}
			}
			if at, ok, err := p.lookup("example.com", 80); ok || err != nil {
				t.Errorf("a host outside the mesh: %v %v", at, err)
			}
			seen := map[uint16]bool{}
			for _, n := range p.ports {
				if seen[n] || !l.ports[n] {
					t.Errorf("ports %v", p.ports)
				}
				seen[n] = true
			}
			p.Close()
			if len(l.ports) > 0 {
				t.Errorf("ports that are not given back: %v", l.ports)
			}
		})
	}
}

// Networks are given a second time as late as possible, there is an end to them, and no
// two meshes of a machine have the same. (Others may run while the test does.)
func TestLoopbackNetworks(t *testing.T) {
	m := newProxies(t, "")
	l, other := NewLoopback(m, process.NewStarter(""), Shape{}), NewLoopback(m, process.NewStarter(""), Shape{})
	spec := pod.Spec{Name: "a", Template: &plan.Template{Namespace: "d"}}
	var places []pod.Place
	for {
		p, err := l.Add(t.Context(), spec)
		if err != nil {
			if !strings.Contains(err.Error(), "room for 254 workloads") {
				t.Errorf("one too many: %v", err)
			}
			break
		}
		t.Cleanup(p.Close)
		if n := len(places); n > 0 && p.IP().Compare(places[n-1].IP()) <= 0 {
			t.Errorf("%s after %s", p.IP(), places[n-1].IP())
		}
		places = append(places, p)
	}
	if len(places) < 10 {
		t.Skipf("other meshes use nearly all networks: %d are left", len(places))
	}
	if p, err := other.Add(t.Context(), spec); err == nil {
		t.Errorf("another mesh was given %s", p.IP())
	}
	places[4].Close()
	places[2].Close()
	for _, i := range []int{2, 4} {
		if got, want := add(t, l, spec).IP(), places[i].IP(); got != want {
			t.Errorf("after closing: %s, want %s", got, want)
		}
	}
}

// The test binary is also a program that listens where nobody told it to.
func TestMain(m *testing.M) {
	if os.Getenv("LISTEN") == "" {
		os.Exit(m.Run())
	}
	for _, a := range []string{"127.0.0.1:0", "127.9.8.7:0"} {
		ln, err := net.Listen("tcp", a)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(ln.Addr())
	}
	_, _ = os.Stdin.Read(make([]byte, 1)) // until the test lets go
}

// A workload's programs are led to the proxy that knows names, unless they have one of
// their own.
func TestProxyOfNames(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	_, outside, _ := strings.Cut(server.Addr().String(), ":")
	l := NewLoopback(newProxies(t, ""), process.NewStarter(""), Shape{})
	p := add(t, l, pod.Spec{Name: "cart-0", Template: template(), Host: func(string) *mesh.Service { return nil }})
	at := fmt.Sprintf("http://%s.0.255:15000", p.(*loopbackPlace).virtualNet())
	all := []string{"http_proxy=" + at, "HTTP_PROXY=" + at, "https_proxy=" + at, "HTTPS_PROXY=" + at, "no_proxy=localhost,127.0.0.0/8,::1", "NO_PROXY=localhost,127.0.0.0/8,::1", "NODE_USE_ENV_PROXY=1"}
	for _, c := range []struct {
		set  []string
		want []string
	}{
		{nil, all},
		{[]string{"Http_Proxy", "NODE_USE_ENV_PROXY"}, all[2:6]},
		{[]string{"NO_PROXY", "https_proxy"}, slices.Concat(all[:2], all[6:])},
		{[]string{"ALL_PROXY"}, nil},
	} {
		var container plan.Container
		for _, name := range c.set {
			container.Env = append(container.Env, plan.Variable{Name: name, Value: "its own"})
		}
		if d := cmp.Diff(append([]string{"BIND_ADDRESS=127.0.0.1"}, c.want...), p.Variables(container)); d != "" {
			t.Errorf("with %v (-want +got):\n%s", c.set, d)
		}
	}

	c, err := net.Dial("tcp", strings.TrimPrefix(at, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "CONNECT localhost:%s HTTP/1.1\r\nHost: x\r\n\r\n", outside)
	r := bufio.NewReader(c)
	if line, err := r.ReadString('\n'); line != "HTTP/1.1 200 OK\r\n" {
		t.Errorf("%q %v", line, err)
	}
	p.Close() // ends what is under way
	if _, err := io.ReadAll(r); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", strings.TrimPrefix(at, "http://")); err == nil {
		c.Close()
		t.Error("its proxy outlives a workload")
	}
}

// A program that listens elsewhere is found out.
func TestListening(t *testing.T) {
	if _, err := os.Stat("/proc/self/net/tcp"); err != nil {
		t.Skip("needs /proc")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	stdin, hold, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	read, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	p := add(t, NewLoopback(newProxies(t, ""), process.NewStarter(""), Shape{}), pod.Spec{Name: "a", Template: template()})
	proc, err := p.Start(pod.Command{Argv: []string{exe}, Env: []string{"LISTEN=yes"}, Stdio: [3]*os.File{stdin, stdout, stdout}})
	if err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	stdout.Close()
	var want []netip.AddrPort
	for lines := bufio.NewScanner(read); len(want) < 2 && lines.Scan(); {
		a, err := netip.ParseAddrPort(lines.Text())
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, a)
	}
	got := p.Listening(proc.Pid())
	slices.SortFunc(got, netip.AddrPort.Compare)
	if !slices.Equal(got, want) {
		t.Errorf("listens on %v, want %v", got, want)
	}
	hold.Close()
	if err := proc.Wait(); err != nil {
		t.Error(err)
	}
}

func TestLayout(t *testing.T) {
	l := Layout("/s")
	if got := l.Admin("default", "a-0"); got != "/s/run/proxies/default_a-0/admin.sock" {
		t.Error(got)
	}
	long := strings.Repeat("n", 63)
	if a, b := l.Admin(long, long+"-0"), l.Admin(long, long+"-1"); len(a) > maxSocket || a == b || filepath.Base(a) != "admin.sock" {
		t.Errorf("%s and %s", a, b)
	}
	if err := l.Check(); err != nil {
		t.Error(err)
	}
	if err := Layout("/" + strings.Repeat("x", 80)).Check(); err == nil || !strings.Contains(err.Error(), "--state") {
		t.Errorf("a long one: %v", err)
	}
}

// Pods get the addresses of the network one after the other, each again as late as
// possible.
func TestPodAddresses(t *testing.T) {
	n := NewNamespaces(newProxies(t, ""), &netns.Fabric{Network: Network()}, nil)
	take := func() string {
		t.Helper()
		a, err := n.take()
		if err != nil {
			t.Fatal(err)
		}
		return a.String()
	}
	if a, b := take(), take(); a != "10.244.0.2" || b != "10.244.0.3" {
		t.Errorf("first %s and %s", a, b)
	}
	n.release(netip.MustParseAddr("10.244.0.2"))
	if a := take(); a != "10.244.0.4" {
		t.Errorf("an address that was just given back: %s", a)
	}
	n.last = netip.MustParseAddr("10.244.255.253")
	if a, b, c := take(), take(), take(); a != "10.244.255.254" || b != "10.244.0.2" || c != "10.244.0.5" {
		t.Errorf("at the end: %s, %s, %s", a, b, c)
	}
}

func TestLastOfEach(t *testing.T) {
	got := lastOfEach([]string{"A=1", "B=2", "A=3", "C", "B="})
	if d := cmp.Diff([]string{"A=3", "B=", "C"}, got); d != "" {
		t.Error(d)
	}
}
