package tproxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_src/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/capture"
	"github.com/weirmesh/weir/capture/nft"
	"github.com/weirmesh/weir/proxy"
)

// inNamespace is set in the copy of the test binary that owns fresh namespaces.
const inNamespace = "WEIR_TPROXY_TEST_IN_NAMESPACE"

// The proxy's inbound listener, as the control plane makes it for interceptionMode TPROXY:
// TCP on port 7070, HTTP on all others.
const config = `
static_resources:
  listeners:
  - name: virtualInbound
    address: {socket_address: {address: 0.0.0.0, port_value: 15006}}
    additional_addresses: [{address: {socket_address: {address: "::", port_value: 15006}}}]
    traffic_direction: INBOUND
    transparent: true
    use_original_dst: true
    listener_filters:
    - name: envoy.filters.listener.original_src
      typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.original_src.v3.OriginalSrc, mark: %d}
    filter_chains:
    - filter_chain_match: {destination_port: 7070}
      filters: [{name: tcp, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: x, cluster: app}}]
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: app}}]}]}
  clusters:
  - {name: app, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED}
`

const (
	pod4, pod6         = "10.99.0.2", "fd99::2"
	outside4, outside6 = "10.99.0.1", "fd99::1"
	second4, second6   = "10.99.0.3", "fd99::3"
)

func TestClientAddressIsKept(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestInNamespace$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Start()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		skip(t, fmt.Sprintf("no namespaces for this user here: %v", err))
	}
	if err == nil {
		err = cmd.Wait()
	}
	switch {
	case err != nil:
		t.Errorf("%v\n%s", err, out.String())
	case strings.Contains(out.String(), "--- SKIP: TestInNamespace "):
		skip(t, out.String())
	}
}

func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("WEIR_KERNEL_TESTS") == "require" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func TestInNamespace(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		t.Skip("runs inside TestClientAddressIsKept")
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		t.Skip("this kernel has no IPv6")
	}
	outside := wire(t)
	c := capture.Default()
	c.Mode, c.IPv6 = capture.TProxy, true
	rules, err := capture.Rules(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := nft.Apply(rules); errors.Is(err, os.ErrPermission) {
		t.Skipf("no rules for this user here: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	serve(t)
	run(t)

	for _, tc := range []struct{ from, pod string }{{outside4, pod4}, {second4, pod4}, {outside6, pod6}, {second6, pod6}} {
		dial := func(port string) (net.Conn, error) {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(tc.from)}, Timeout: 5 * time.Second}
			c, err := d.Dial("tcp", net.JoinHostPort(tc.pod, port))
			if err == nil {
				err = c.SetDeadline(time.Now().Add(5 * time.Second))
			}
			return c, err
		}
		for range 2 { // one after the other, from one address, to one port
			got := ""
			err := outside.do(func() error {
				c, err := dial("7070")
				if err != nil {
					return err
				}
				defer c.Close()
				if _, err = io.WriteString(c, "ping\n"); err == nil {
					got, err = bufio.NewReader(c).ReadString('\n')
				}
				return err
			})
			if want := "ping from " + tc.from + " to " + tc.pod + "\n"; err != nil || got != want {
				t.Errorf("TCP: %q, %v; want %q", got, err, want)
			}
		}
		// Requests of one connection after another use what was dialled for that client.
		err := outside.do(func() error {
			c, err := dial("9080")
			if err != nil {
				return err
			}
			defer c.Close()
			r := bufio.NewReader(c)
			for range 3 {
				fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: app\r\n\r\n")
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					return err
				}
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					return err
				}
				if want := tc.from + " to " + tc.pod; string(body) != want {
					return fmt.Errorf("%q, want %q", body, want)
				}
			}
			return nil
		})
		if err != nil {
			t.Errorf("HTTP from %s: %v", tc.from, err)
		}
	}
}

// run is the proxy.
func run(t *testing.T) {
	json, err := yaml.YAMLToJSON([]byte(fmt.Sprintf(config, capture.DialMark)))
	if err != nil {
		t.Fatal(err)
	}
	b := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(json, b); err != nil {
		t.Fatal(err)
	}
	p, err := proxy.New(proxy.Options{Static: b, Workers: 2, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for p.Ready() != nil && ctx.Err() == nil {
		runtime.Gosched()
	}
}

// serve is the application: it tells clients who they are.
func serve(t *testing.T) {
	l, err := net.Listen("tcp", ":7070")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	host := func(a string) string {
		ap, _ := netip.ParseAddrPort(a)
		return ap.Addr().Unmap().String()
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, _ := bufio.NewReader(c).ReadString('\n')
			fmt.Fprintf(c, "%s from %s to %s\n", strings.TrimSpace(s), host(c.RemoteAddr().String()), host(c.LocalAddr().String()))
			c.Close()
		}
	}()
	h, err := net.Listen("tcp", ":9080")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s to %s", host(r.RemoteAddr), host(r.Context().Value(http.LocalAddrContextKey).(net.Addr).String()))
	})}
	go s.Serve(h)
	t.Cleanup(func() { s.Close() })
}

// namespace is a thread in another network namespace.
type namespace chan func()

func (ns namespace) do(f func() error) error {
	done := make(chan error)
	ns <- func() { done <- f() }
	return <-done
}

// wire connects this network namespace, the pod's, with one outside it.
func wire(t *testing.T) namespace {
	ns, tid := make(namespace), make(chan int)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			panic(err)
		}
		tid <- unix.Gettid()
		for f := range ns {
			f()
		}
	}()
	id := <-tid
	t.Cleanup(func() { close(ns) })
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsPid(id)}))
	must(up("lo"))
	must(ns.do(func() error {
		return errors.Join(up("lo"), up("eth0", outside4+"/24", second4+"/24", outside6+"/64", second6+"/64"))
	}))
	must(up("eth0", pod4+"/24", pod6+"/64"))
	return ns
}

func up(name string, addrs ...string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return err
	}
	for _, s := range addrs {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		if a.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return fmt.Errorf("%s on %s: %w", s, name, err)
		}
	}
	return nil
}
