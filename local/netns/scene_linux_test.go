package netns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/capture"
	"github.com/weirmesh/weir/internal/sockbroker"
)

func notify(s ...os.Signal) <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, s...)
	return c
}

// scenes run in init.
var scenes = map[string]func(context.Context, *Fabric) error{
	"checks":   checks,
	"stand":    stand,
	"stubborn": stubborn,
	"user":     user,
	"fail":     func(context.Context, *Fabric) error { return errors.New("the body failed") },
}

const resolvConf = "nameserver 10.96.0.99\nsearch default.svc.cluster.local svc.cluster.local\noptions ndots:5\n"

// scene is a mesh of two pods with a stand-in proxy each.
type scene struct {
	f          *Fabric
	front      *Pod // 10.244.0.2
	back       *Pod // 10.244.0.3
	hostListen string
	control    *bufio.Reader
}

func podConfig(name string, n int) PodConfig {
	return PodConfig{
		Name:       name,
		IPv4:       netip.AddrFrom4([4]byte{10, 244, byte(n >> 8), byte(n)}),
		Hosts:      "127.0.0.1 localhost\n::1 localhost\n",
		ResolvConf: resolvConf,
		Rules:      capture.Default(),
	}
}

func (s *scene) ask(q string) (string, error) {
	fmt.Fprintln(s.f.Control, q)
	line, err := s.control.ReadString('\n')
	return strings.TrimSpace(line), err
}

func build(f *Fabric) (_ *scene, err error) {
	s := &scene{f: f, control: bufio.NewReader(f.Control)}
	if s.hostListen, err = s.ask("listener"); err != nil {
		return nil, err
	}
	for i, p := range []**Pod{&s.front, &s.back} {
		c := podConfig([]string{"front", "back"}[i], i+2)
		c.Rules.Exempt.Mark = 0x539
		if f.Network.Gateway6.IsValid() {
			c.IPv6 = netip.MustParseAddr(fmt.Sprintf("fd77:6569::%d", i+2))
		}
		if *p, err = f.AddPod(c); err != nil {
			return nil, err
		}
		app, err := (*p).Broker()
		if err != nil {
			return nil, err
		}
		host, err := f.Host.Fork(0)
		if err != nil {
			return nil, err
		}
		proxy := self("role-proxy",
			"10.96.0.10:9080=10.244.0.3:9080",
			"10.96.0.10:9081=10.244.0.3:9081",
			"10.96.0.10:9082=pod 10.244.0.3:9080",
			"10.244.0.3:9080=10.244.0.3:9080",
			"[fd77:6569::3]:9080=[fd77:6569::3]:9080",
			"203.0.113.9:80=host "+s.hostListen)
		proxy.Files = []*os.File{app, host}
		_, err = background(f.Start, proxy)
		app.Close()
		host.Close()
		if err != nil {
			return nil, err
		}
	}
	for _, args := range [][]string{{"any", ":9080"}, {"loopback", "127.0.0.1:9081"}} {
		if _, err := background(s.back.Start, self("role-serve", args...)); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// checks runs every check and reports each.
func checks(ctx context.Context, f *Fabric) error {
	start := time.Now()
	if err := tenPods(f); err != nil {
		emit(report{Name: "ten pods", Error: err.Error()})
	} else {
		emit(report{Name: "ten pods", Log: fmt.Sprintf("added in %v", time.Since(start))})
	}
	s, err := build(f)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		name string
		run  func() (log string, err error)
	}{
		{"a service address", s.calls("10.96.0.10:9080", "[10.96.0.10:9080 from 10.244.0.2] [10.244.0.3:9080 from 10.244.0.1] any at 10.244.0.3:9080 from 127.0.0.6")},
		{"an application on 127.0.0.1 only", s.calls("10.96.0.10:9081", "[10.96.0.10:9081 from 10.244.0.2] [10.244.0.3:9081 from 10.244.0.1] loopback at 127.0.0.1:9081 from 127.0.0.6")},
		{"a pod address", s.calls("10.244.0.3:9080", "[10.244.0.3:9080 from 10.244.0.2] [10.244.0.3:9080 from 10.244.0.1] any at 10.244.0.3:9080 from 127.0.0.6")},
		{"an IPv6 pod address", s.calls("[fd77:6569::3]:9080", "[[fd77:6569::3]:9080 from fd77:6569::2] [[fd77:6569::3]:9080 from fd77:6569::1] any at [fd77:6569::3]:9080 from [::6]")},
		{"from the pod's own address, by mark", s.calls("10.96.0.10:9082", "[10.244.0.3:9080 from 10.244.0.2] any at 10.244.0.3:9080")},
		{"outside the mesh, by a host socket", s.calls("203.0.113.9:80", "[203.0.113.9:80 from 10.244.0.2] host at "+s.hostListen)},
		{"DNS over UDP to any server", s.prints(self("role-dns", "udp", "8.8.8.8:53", "ratings.default.svc.cluster.local."), "10.96.0.10")},
		{"DNS over TCP to any server", s.prints(self("role-dns", "tcp", "192.0.2.53:53", "ratings.default.svc.cluster.local."), "10.96.0.10")},
		{"DNS over UDP on IPv6", s.prints(self("role-dns", "udp", "[2001:db8::53]:53", "ratings.default.svc.cluster.local."), "10.96.0.10")},
		{"a short name, by Go", s.calls("ratings:9080", "[10.96.0.10:9080 from 10.244.0.2]")},
		{"a short name, by the C library", s.getent},
		{"ingress by a listener of the host", s.ingress},
		{"what an application sees and may do", s.look},
		{"exit status", s.exitStatus},
		{"a signal reaches the group", s.groupSignal},
		{"nothing of a group outlives its leader", s.leftovers},
		{"orphans are reaped", s.orphans},
		{"a terminal", s.terminal},
		{"a closed pod leaves nothing", s.closedPod},
		{"bad pods are refused", s.badPods},
	} {
		log, err := c.run()
		r := report{Name: c.name, Log: log}
		if err != nil {
			r.Error = err.Error()
		}
		emit(r)
	}
	return nil
}

func tenPods(f *Fabric) error {
	var wg sync.WaitGroup
	errs := make(chan error, 10)
	for i := range 10 {
		wg.Go(func() {
			_, err := f.AddPod(podConfig(fmt.Sprintf("pod-%d", i), 0x0100+i))
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *scene) calls(addr, want string) func() (string, error) {
	return func() (string, error) {
		if strings.HasPrefix(addr, "[fd") && !s.f.Network.Gateway6.IsValid() {
			return "no IPv6 in this kernel: not tried", nil
		}
		return s.prints(self("role-get", addr), want)()
	}
}

func (s *scene) prints(c Command, want string) func() (string, error) {
	return func() (string, error) {
		got, err := output(s.front.Start, c)
		if err == nil && !strings.Contains(got, want) {
			err = fmt.Errorf("got %q, want %q", got, want)
		}
		return "", err
	}
}

func (s *scene) getent() (string, error) {
	if !has("getent") {
		return "no getent here: not tried", nil
	}
	return s.prints(Command{Argv: []string{"getent", "ahostsv4", "ratings"}}, "10.96.0.10")()
}

func (s *scene) ingress() (string, error) {
	l, err := s.f.Host.Listener(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		return "", err
	}
	defer l.Close()
	go greet(l, "ingress")
	got, err := s.ask("get " + l.Addr().String())
	if err == nil && !strings.HasPrefix(got, "ingress at "+l.Addr().String()) {
		err = fmt.Errorf("the host got %q", got)
	}
	if _, e := s.f.Host.Listen(netip.MustParseAddrPort("0.0.0.0:0"), 1, false); !errors.Is(e, syscall.EACCES) {
		err = errors.Join(err, fmt.Errorf("listening on an address that is not allowed: %w", e))
	}
	return "", err
}

func (s *scene) look() (string, error) {
	got, err := output(s.front.Start, self("role-look"))
	if err != nil {
		return "", err
	}
	uid := s.f.ids.uid[0].ContainerID
	for _, want := range []string{
		fmt.Sprintf("host name front, user %d,", uid),
		fmt.Sprintf("/etc/resolv.conf: %q", resolvConf),
		`/etc/hosts: "127.0.0.1 localhost\n::1 localhost\n"`,
		`hosts: files dns\n"`,
		"mark a socket: operation not permitted",
		"packet socket: operation not permitted",
		"listen on port 80: <nil>",
	} {
		if !strings.Contains(got, want) {
			err = errors.Join(err, fmt.Errorf("missing %q", want))
		}
	}
	for _, refused := range []string{"enter the fabric: ", "read init's environment: ", "unmount resolv.conf: "} {
		if _, after, ok := strings.Cut(got, refused); !ok || !strings.Contains(strings.SplitN(after, "\n", 2)[0], "not permitted") && !strings.Contains(strings.SplitN(after, "\n", 2)[0], "denied") {
			err = errors.Join(err, fmt.Errorf("not refused: %q", refused))
		}
	}
	return got, err
}

func shell(script string) Command {
	return Command{Argv: []string{"sh", "-c", script}, Stderr: os.Stderr}
}

func (s *scene) exitStatus() (string, error) {
	p, err := s.front.Start(shell("exit 3"))
	if err != nil {
		return "", err
	}
	if w := p.Wait(); !w.Exited() || w.ExitStatus() != 3 {
		return "", fmt.Errorf("ended with %s", describe(w))
	}
	if err := p.Signal(unix.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		return "", fmt.Errorf("signalling what has ended: %w", err)
	}
	if _, err := s.front.Start(Command{Argv: []string{"no-such-program"}}); !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("starting nothing: %w", err)
	}
	return "", nil
}

func (s *scene) groupSignal() (string, error) {
	// The shell waits for its child and would hide the signal from it.
	p, err := background(s.front.Start, shell("echo up; sleep 1000; exit 0"))
	if err != nil {
		return "", err
	}
	if err := p.Signal(unix.SIGTERM); err != nil {
		return "", err
	}
	if w := p.Wait(); w.Signal() != unix.SIGTERM {
		return "", fmt.Errorf("ended with %s", describe(w))
	}
	return "", nil
}

// running lists the tree's processes whose command line contains s.
func running(s string) (out []string) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		b, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err == nil && strings.Contains(strings.ReplaceAll(string(b), "\x00", " "), s) {
			out = append(out, e.Name())
		}
	}
	return out
}

// eventually waits for a condition that no event announces.
func eventually(what string, ok func() bool) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(5 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			return fmt.Errorf("not so after 5 s: %s", what)
		}
	}
	return nil
}

func (s *scene) leftovers() (string, error) {
	if _, err := output(s.front.Start, shell("sleep 7001 >/dev/null 2>&1 & exit 0")); err != nil {
		return "", err
	}
	return "", eventually("sleep is gone", func() bool { return len(running("sleep 7001")) == 0 })
}

func (s *scene) orphans() (string, error) {
	if !has("setsid") {
		return "no setsid here: not tried", nil
	}
	if _, err := output(s.front.Start, shell("setsid sleep 0.05 >/dev/null 2>&1 & exit 0")); err != nil {
		return "", err
	}
	return "", eventually("no zombie is left", func() bool {
		entries, _ := os.ReadDir("/proc")
		return !slices.ContainsFunc(entries, func(e os.DirEntry) bool {
			b, err := os.ReadFile("/proc/" + e.Name() + "/stat")
			return err == nil && strings.Contains(string(b), ") Z ")
		})
	})
}

func (s *scene) terminal() (string, error) {
	controller, terminal, err := OpenPTY()
	if err != nil {
		return "", err
	}
	defer controller.Close()
	// tty -s knows a terminal; only a session's controlling terminal opens as /dev/tty.
	p, err := s.front.Start(Command{Argv: []string{"sh", "-c", "tty -s && echo on a terminal >/dev/tty; read x; echo got $x; sleep 1000"},
		Stdin: terminal, Stdout: terminal, Stderr: terminal, TTY: true})
	terminal.Close()
	if err != nil {
		return "", err
	}
	defer func() { _ = p.Signal(unix.SIGKILL) }()
	in := bufio.NewReader(controller)
	expect := func(want string) error {
		line, err := in.ReadString('\n')
		if err == nil && strings.TrimSpace(line) != want {
			err = fmt.Errorf("terminal shows %q, want %q", line, want)
		}
		return err
	}
	if err := expect("on a terminal"); err != nil {
		return "", err
	}
	fmt.Fprintln(controller, "typed")
	if err := errors.Join(expect("typed"), expect("got typed")); err != nil { // first the echo
		return "", err
	}
	// Ctrl-C, again and again: a shell that is just forking keeps it for later.
	err = eventually("Ctrl-C ends the shell", func() bool {
		_, _ = controller.Write([]byte{3})
		select {
		case <-p.Done():
			return true
		default:
			return false
		}
	})
	if err != nil {
		return "", err
	}
	if w := p.Wait(); w.Signal() != unix.SIGINT {
		return "", fmt.Errorf("after Ctrl-C ended with %s", describe(w))
	}
	return "", nil
}

func (s *scene) closedPod() (string, error) {
	c := podConfig("closing", 77)
	p, err := s.f.AddPod(c)
	if err != nil {
		return "", err
	}
	// A process that left its group, so that only the namespace tells where it belongs.
	script := "sleep 7002"
	if has("setsid") {
		script = "setsid sleep 7002 >/dev/null & sleep 7002"
	}
	if _, err := background(p.Start, shell("echo up; "+script)); err != nil {
		return "", err
	}
	broker, err := p.Broker()
	if err != nil {
		return "", err
	}
	client, err := sockbroker.NewClient(broker)
	if err != nil {
		return "", err
	}
	defer client.Close()
	begun := time.Now()
	p.Close()
	p.Close()
	log := fmt.Sprintf("closed in %v", time.Since(begun))
	if left := running("sleep 7002"); len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("processes left: %v", left))
	}
	if _, e := netlink.LinkByName(p.link); e == nil {
		err = errors.Join(err, fmt.Errorf("link %s is left", p.link))
	}
	if e := p.Do(func() error { return nil }); e == nil {
		err = errors.Join(err, errors.New("a closed pod still runs functions"))
	}
	if _, e := client.Sockets(sockbroker.Stream, sockbroker.IPv4, 1); e == nil {
		err = errors.Join(err, errors.New("a closed pod still hands out sockets"))
	}
	again, e := s.f.AddPod(c)
	if e != nil {
		return log, errors.Join(err, e)
	}
	again.Close()
	return log, err
}

func (s *scene) badPods() (string, error) {
	var err error
	for _, c := range []struct {
		change func(*PodConfig)
		want   string
	}{
		{func(c *PodConfig) { c.IPv4 = netip.MustParseAddr("10.244.0.2") }, "address 10.244.0.2 is pod front's"},
		{func(c *PodConfig) { c.IPv4 = netip.MustParseAddr("10.244.0.1") }, "not one for a pod"},
		{func(c *PodConfig) { c.IPv4 = netip.MustParseAddr("192.168.0.1") }, "not one for a pod"},
		{func(c *PodConfig) { c.IPv4 = netip.Addr{} }, "not one for a pod"},
		{func(c *PodConfig) { c.Rules.OutboundPort = 0 }, "outbound port: set"},
		{func(c *PodConfig) { c.Name = strings.Repeat("x", 65) }, "setting the host name"},
	} {
		cfg := podConfig("bad", 99)
		c.change(&cfg)
		if _, e := s.f.AddPod(cfg); e == nil || !strings.Contains(e.Error(), c.want) {
			err = errors.Join(err, fmt.Errorf("got %w, want %q", e, c.want))
		}
	}
	return "", err
}

// stand keeps a mesh running until it is told to end.
func stand(ctx context.Context, f *Fabric) error {
	if _, err := build(f); err != nil {
		return err
	}
	emit(report{Name: "standing"})
	<-ctx.Done()
	return nil
}

// stubborn has an application that does not listen to SIGTERM.
func stubborn(ctx context.Context, f *Fabric) error {
	p, err := f.AddPod(podConfig("stubborn", 2))
	if err != nil {
		return err
	}
	if _, err := background(p.Start, shell("trap '' TERM; echo up; while true; do sleep 1000; done")); err != nil {
		return err
	}
	emit(report{Name: "standing"})
	<-ctx.Done()
	return nil
}

// user reports who the processes are.
func user(_ context.Context, f *Fabric) error {
	p, err := f.AddPod(podConfig("user", 2))
	if err != nil {
		return err
	}
	got, err := output(p.Start, shell("echo $(id -u) $(id -g) $(id -G); grep CapEff /proc/self/status"))
	emit(report{Name: "user", Log: got})
	return err
}
