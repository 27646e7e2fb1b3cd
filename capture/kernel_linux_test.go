package capture_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/capture"
	"github.com/weirmesh/weir/capture/iptables"
	"github.com/weirmesh/weir/capture/nft"
)

// inNamespace is set in the copy of the test binary that owns fresh namespaces.
const inNamespace = "WEIR_CAPTURE_TEST_IN_NAMESPACE"

// TestKernel applies every ruleset in fresh namespaces and redirects real connections:
// as the user who runs the test, and, if that is root, as an unprivileged one too.
func TestKernel(t *testing.T) {
	root := os.Geteuid() == 0
	t.Run(map[bool]string{true: "root", false: "unprivileged"}[root], func(t *testing.T) {
		attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
		if !root {
			attr.Cloneflags |= syscall.CLONE_NEWUSER
			attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
			attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
		}
		rerun(t, "^TestInNamespace$", attr, inNamespace+"=1")
	})
	if root {
		rerun(t, "^TestKernel$", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}})
	}
}

// rerun runs tests of this binary in another process.
func rerun(t *testing.T, tests string, attr *syscall.SysProcAttr, env ...string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run="+tests, "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = attr
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Start()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		t.Skipf("no namespaces for this user here: %v", err)
	}
	if err == nil {
		err = cmd.Wait()
	}
	switch {
	case err != nil:
		t.Errorf("%v\n%s", err, out.String())
	case strings.Contains(out.String(), "--- SKIP: TestInNamespace "):
		t.Skip(out.String())
	default:
		t.Log(out.String())
	}
}

func TestInNamespace(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		t.Skip("runs inside TestKernel")
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		t.Skip("this kernel has no IPv6")
	}
	if err := nft.Apply(capture.Ruleset{}); errors.Is(err, os.ErrPermission) {
		t.Skipf("no rules for this user here: %v", err)
	}
	w := newWorld(t)
	for _, c := range ruleCases {
		t.Run(c.name, func(t *testing.T) {
			r := c.rules(t)
			// Twice: applying is safe to repeat.
			for range 2 {
				if err := nft.Apply(r); err != nil {
					t.Fatal(err)
				}
			}
			listing(t, r)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if strings.Contains(r.String(), "dport 15002") {
				if err := capture.Verify(ctx, 15006, capture.ProbePort); err != nil {
					t.Error(err)
				}
			}
			cancel()
			for _, p := range c.probes {
				w.run(t, p)
			}
			for range 2 {
				if err := nft.Remove(r); err != nil {
					t.Fatal(err)
				}
			}
			w.run(t, probe{"app", "tcp " + web4 + ":80", "web " + web4 + ":80"})
			w.run(t, probe{"outside", "tcp " + pod4 + ":9080", "app " + pod4 + ":9080"})
			if rules, err := netlink.RuleList(netlink.FAMILY_ALL); err != nil || strings.Contains(fmt.Sprint(rules), "133") {
				t.Errorf("policy rules after Remove: %v, %v", rules, err)
			}
		})
	}
	t.Run("iptables", func(t *testing.T) {
		if !w.uid {
			t.Skip("iptables-restore wants a lock file that belongs to the machine's root")
		}
		for _, c := range ruleCases {
			t.Run(c.name, func(t *testing.T) { w.iptables(t, c) })
		}
	})
	t.Run("verified with nobody else listening", func(t *testing.T) {
		soon := func() context.Context {
			ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
			t.Cleanup(cancel)
			return ctx
		}
		if err := capture.Verify(soon(), 15007, capture.ProbePort); err == nil || !strings.Contains(err.Error(), "not in force") || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("no rules: %v", err)
		}
		if there, err := capture.InForce(t.Context(), 15007, capture.ProbePort); there || err == nil {
			t.Errorf("no rules, and no proxy either: %v %v", there, err)
		}
		proxy, err := net.Listen("tcp4", "127.0.0.1:15007")
		if err != nil {
			t.Fatal(err)
		}
		if there, err := capture.InForce(t.Context(), 15007, capture.ProbePort); there || err != nil {
			t.Errorf("no rules beside a proxy: %v %v", there, err)
		}
		_ = proxy.Close()
		listen(t, nil, "squatter", "tcp", "127.0.0.6:15002")
		if err := capture.Verify(soon(), 15007, capture.ProbePort); err == nil || !strings.Contains(err.Error(), "not in force") {
			t.Errorf("no rules, and somebody listens on the probe port: %v", err)
		}
		c := capture.Default()
		c.InboundPort, c.ProbePort = 15007, capture.ProbePort
		r, err := capture.Rules(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := nft.Apply(r); err != nil {
			t.Fatal(err)
		}
		if err := capture.Verify(t.Context(), 15007, capture.ProbePort); err != nil {
			t.Error(err)
		}
		if there, err := capture.InForce(t.Context(), 15007, capture.ProbePort); there || err == nil {
			t.Errorf("rules that lead to nobody: %v %v", there, err)
		}
		if proxy, err = net.Listen("tcp4", "127.0.0.1:15007"); err != nil {
			t.Fatal(err)
		}
		if there, err := capture.InForce(t.Context(), 15007, capture.ProbePort); !there || err != nil {
			t.Errorf("rules that lead to the proxy: %v %v", there, err)
		}
		_ = proxy.Close()
		if err := nft.Remove(r); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("invalid packets", func(t *testing.T) { invalidPackets(t, w) })
	t.Run("no listener is refused, not passed", func(t *testing.T) {
		c := capture.Default()
		c.Mode, c.InboundPort = capture.TProxy, 15999
		r, err := capture.Rules(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := nft.Apply(r); err != nil {
			t.Fatal(err)
		}
		w.run(t, probe{"outside", "tcp " + pod4 + ":9080", "connection refused"})
		if err := nft.Remove(r); err != nil {
			t.Fatal(err)
		}
	})
}

// iptables is a case for a kernel without nf_tables.
func (w *world) iptables(t *testing.T, c ruleCase) {
	r := c.rules(t)
	for range 2 {
		if err := iptables.Apply(t.Context(), r); errors.Is(err, exec.ErrNotFound) {
			t.Skip(err)
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := nft.Routes(r); err != nil {
		t.Fatal(err)
	}
	for _, p := range c.probes {
		w.run(t, p)
	}
	if err := errors.Join(iptables.Remove(t.Context(), r), nft.RemoveRoutes(r)); err != nil {
		t.Fatal(err)
	}
	w.run(t, probe{"app", "tcp " + web4 + ":80", "web " + web4 + ":80"})
	w.run(t, probe{"outside", "tcp " + pod4 + ":9080", "app " + pod4 + ":9080"})
}

// listing compares the kernel's view, as nft(8) prints it, with the ruleset's text.
func listing(t *testing.T, r capture.Ruleset) {
	t.Helper()
	bin, err := exec.LookPath("nft")
	if err != nil {
		t.Log("no nft program here: the kernel's listing is not compared")
		return
	}
	out, err := exec.Command(bin, "--numeric-priority", "--guid", "list", "table", "inet", capture.Table).CombinedOutput()
	if err != nil {
		t.Fatalf("nft list: %v: %s", err, out)
	}
	want, _, _ := strings.Cut(r.String(), "#")
	if string(out) != want {
		t.Errorf("the kernel lists\n%swant\n%s", out, want)
	}
}

// world is the pod's network namespace, this process's own, and one outside it.
type world struct {
	outside namespace
	uid     bool // sockets can be made as another user
}

type namespace chan func()

// newNamespace keeps a thread in a fresh network namespace.
func newNamespace(t *testing.T) namespace {
	ns, started := make(namespace), make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		started <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range ns {
			f()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(ns) })
	return ns
}

func (ns namespace) do(f func() error) error {
	if ns == nil {
		return f()
	}
	done := make(chan error)
	ns <- func() { done <- f() }
	return <-done
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{outside: newNamespace(t)}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var tid int
	must(w.outside.do(func() error { tid = unix.Gettid(); return nil }))
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsPid(tid)}))
	must(up("lo"))
	must(w.outside.do(func() error {
		return errors.Join(up("lo", web4+"/32", web6+"/128", other4+"/32"), up("eth0", outside4+"/24", outside6+"/64"))
	}))
	must(up("eth0", pod4+"/24", pod6+"/64"))
	for _, via := range []string{outside4, outside6} {
		must(netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(via)}))
	}
	runtime.LockOSThread()
	old, err := unix.SetfsuidRetUid(proxyUID)
	must(err)
	now, err := unix.SetfsuidRetUid(old)
	must(err)
	w.uid = now == proxyUID
	runtime.UnlockOSThread()

	// The proxy.
	listen(t, nil, "out", "tcp", ":15001")
	listen(t, nil, "in", "tcp", ":15006")
	listen(t, nil, "health", "tcp", ":15021")
	listen(t, nil, "own", "tcp", ":15020")
	for _, addr := range []string{"127.0.0.1:15053", "[::1]:15053"} {
		listen(t, nil, "dns", "tcp", addr)
		answer(t, nil, "dns", addr)
	}
	// The application, and the world.
	for _, port := range []string{"9080", "9090", "7070", "53"} {
		listen(t, nil, "app", "tcp", ":"+port)
	}
	for _, port := range []string{"80", "443", "8443", "53"} {
		listen(t, w.outside, "web", "tcp", ":"+port)
	}
	for _, addr := range []string{web4 + ":53", "[" + web6 + "]:53", other4 + ":53"} {
		answer(t, w.outside, "web", addr)
	}
	return w
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

func sockopt(level, name, value int) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, name, value) }); e != nil {
			return e
		}
		return err
	}
}

// transparent makes a socket that may have any address; both options, for a dual-stack one.
func transparent(network, address string, c syscall.RawConn) error {
	err := sockopt(unix.SOL_IP, unix.IP_TRANSPARENT, 1)(network, address, c)
	if err == nil && !strings.HasSuffix(network, "4") {
		err = sockopt(unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)(network, address, c)
	}
	return err
}

// listen tells whoever connects its name, where the client wanted to go and who the client is.
func listen(t *testing.T, ns namespace, name, network, addr string) {
	t.Helper()
	var l net.Listener
	err := ns.do(func() (err error) {
		l, err = (&net.ListenConfig{Control: transparent}).Listen(context.Background(), network, addr)
		return err
	})
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
			var dst netip.AddrPort
			raw, err := c.(*net.TCPConn).SyscallConn()
			if err == nil {
				if e := raw.Control(func(fd uintptr) { dst, err = capture.OriginalDst(int(fd)) }); e != nil {
					err = e
				}
			}
			if err != nil {
				fmt.Fprintln(c, err)
			} else {
				fmt.Fprintf(c, "%s %v from %v\n", name, dst, c.RemoteAddr())
			}
			c.Close()
		}
	}()
}

func answer(t *testing.T, ns namespace, name, addr string) {
	t.Helper()
	var c net.PacketConn
	if err := ns.do(func() (err error) { c, err = net.ListenPacket("udp", addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 16)
		for {
			_, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo([]byte(name+"\n"), from)
		}
	}()
}

func (w *world) run(t *testing.T, p probe) {
	t.Helper()
	network, to, _ := strings.Cut(p.to, " ")
	d := net.Dialer{Timeout: 5 * time.Second}
	var ns namespace
	asProxy := false
	switch p.from {
	case "group":
		if !w.uid {
			t.Logf("%s to %s: not tried, there is no group %d in this namespace", p.from, p.to, group)
			return
		}
	case "outside":
		ns = w.outside
	case "passthrough":
		d.LocalAddr = &net.TCPAddr{IP: capture.Passthrough4.AsSlice()}
		if strings.HasPrefix(to, "[") {
			d.LocalAddr = &net.TCPAddr{IP: capture.Passthrough6.AsSlice()}
		}
	case "spoofing":
		from := outside4
		if strings.HasPrefix(to, "[") {
			from = outside6
		}
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
		d.Control = func(network, address string, c syscall.RawConn) error {
			return errors.Join(transparent(network, address, c), sockopt(unix.SOL_SOCKET, unix.SO_MARK, capture.DialMark)(network, address, c))
		}
	case "proxy":
		asProxy = true
		d.Control = sockopt(unix.SOL_SOCKET, unix.SO_MARK, proxyMark)
		if !w.uid && (strings.Contains(t.Name(), "/sidecar") || strings.HasSuffix(t.Name(), "pod")) && !strings.HasSuffix(t.Name(), "mark") {
			t.Logf("%s to %s: not tried, user %d does not exist in this namespace", p.from, p.to, proxyUID)
			return
		}
	}
	var got string
	err := ns.do(func() (err error) {
		if asProxy && w.uid {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			old, err := unix.SetfsuidRetUid(proxyUID)
			if err != nil {
				return err
			}
			defer func() { _ = unix.Setfsuid(old) }()
		}
		if p.from == "group" {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			old, err := unix.SetfsgidRetGid(group)
			if err != nil {
				return err
			}
			defer func() { _ = unix.Setfsgid(old) }()
		}
		c, err := d.Dial(network, to)
		if err != nil {
			return err
		}
		defer c.Close()
		if network == "udp" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
		}
		got, err = line(c)
		return err
	})
	if err != nil {
		got = err.Error()
	}
	if !strings.Contains(got, p.want) {
		t.Errorf("%s to %s arrived at %q, want %q", p.from, p.to, got, p.want)
	}
}

func line(c net.Conn) (string, error) {
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	s, err := bufio.NewReader(c).ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return strings.TrimSpace(s), err
}
