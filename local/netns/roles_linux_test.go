package netns

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/capture"
	"github.com/weirmesh/weir/internal/sockbroker"
)

// roles are what copies of the test binary do: role-top and role-init are the tree, the
// others run in it.
var roles = map[string]func(args []string) error{
	"role-top":   roleTop,
	"role-init":  roleInit,
	"role-probe": roleProbe,
	"role-proxy": roleProxy,
	"role-serve": roleServe,
	"role-get":   roleGet,
	"role-dns":   roleDNS,
	"role-look":  roleLook,
}

var network = Network{
	Gateway4: netip.MustParsePrefix("10.244.0.1/16"),
	Gateway6: netip.MustParsePrefix("fd77:6569::1/64"),
}

func roleProbe([]string) error {
	if ok, reason := Probe(context.Background(), "role-init"); !ok {
		return errors.New(reason)
	}
	return nil
}

// roleTop runs a tree that runs a scene; SIGTERM ends it, and SIGUSR1
// closes the guard. Over Control the scene asks for
// the address of a listener of the host, or for a connection to one of the tree's.
func roleTop(args []string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go greet(l, "host")
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	signals := notify(unix.SIGTERM)
	go func() { <-signals; stop() }()
	tree, err := Start(ctx, Options{
		Args:        append([]string{"role-init"}, args...),
		Stdout:      os.Stdout,
		Stderr:      os.Stderr,
		Files:       []*os.File{os.Stdin},
		AllowListen: func(a netip.AddrPort) bool { return a.Addr().IsLoopback() },
	})
	if err != nil {
		return err
	}
	guard := notify(unix.SIGUSR1)
	go func() { <-guard; tree.guard.Close() }()
	go func() {
		for in := bufio.NewScanner(tree.Control); in.Scan(); {
			answer := l.Addr().String()
			if verb, addr, ok := strings.Cut(in.Text(), " "); ok && verb == "get" {
				if answer, err = get("tcp", addr); err != nil {
					answer = err.Error()
				}
			}
			fmt.Fprintln(tree.Control, answer)
		}
	}()
	return tree.Wait()
}

func roleInit(args []string) error {
	o := InitOptions{Network: network, Log: slog.Default()}
	if slices.Equal(args, []string{"user"}) {
		o.User = &User{UID: 65534, GID: 65533}
	}
	return RunInit(o, func(ctx context.Context, f *Fabric) error {
		return scenes[args[0]](ctx, f)
	})
}

// report is a line of a scene's output: the result of one check.
type report struct {
	Name, Error, Log string
}

func emit(r report) { _ = json.NewEncoder(os.Stdout).Encode(r) }

// greet says its name, where the client wanted to go, and who the client is.
func greet(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprintf(c, "%s at %v from %v\n", name, c.LocalAddr(), c.RemoteAddr())
		c.Close()
	}
}

func get(network, addr string) (string, error) {
	c, err := net.DialTimeout(network, addr, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return strings.TrimSpace(string(b)), err
}

// roleServe is an application: it listens where it is told and says when it does.
func roleServe(args []string) error {
	l, err := net.Listen("tcp", args[1])
	if err != nil {
		return err
	}
	fmt.Println("listening")
	greet(l, args[0])
	return nil
}

// roleGet is an application that calls another.
func roleGet(args []string) error {
	s, err := get("tcp", args[0])
	fmt.Println(s)
	return err
}

func roleDNS(args []string) error {
	m := new(dns.Msg).SetQuestion(args[2], dns.TypeA)
	r, _, err := (&dns.Client{Net: args[0], Timeout: 5 * time.Second}).Exchange(m, args[1])
	if err != nil {
		return err
	}
	for _, rr := range r.Answer {
		fmt.Println(rr.(*dns.A).A)
	}
	return nil
}

// roleLook prints what an application sees and may do.
func roleLook([]string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	fmt.Printf("host name %s, user %d, group %d\n", name, os.Getuid(), os.Getgid())
	for _, f := range []string{"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"} {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		fmt.Printf("%s: %q\n", f, b)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	fmt.Println("mark a socket:", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 0x539))
	ns, err := unix.Open("/proc/1/ns/net", unix.O_RDONLY, 0)
	if err == nil {
		err = unix.Setns(ns, unix.CLONE_NEWNET)
	}
	fmt.Println("enter the fabric:", err)
	_, err = os.ReadFile("/proc/1/environ")
	fmt.Println("read init's environment:", err)
	_, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	fmt.Println("packet socket:", err)
	fmt.Println("unmount resolv.conf:", unix.Unmount("/etc/resolv.conf", 0))
	_, err = net.Listen("tcp", ":80")
	fmt.Println("listen on port 80:", err)
	return nil
}

// roleProxy stands in for a sidecar outside its pod's namespace. Descriptors: 3 the pod's
// broker, 4 the host's. Arguments: from=to pairs; to is "host ADDR" or an address of the
// fabric, reached from here or, as "pod ADDR", from the pod.
func roleProxy(args []string) error {
	app, err := sockbroker.NewClient(os.NewFile(3, "app"))
	if err != nil {
		return err
	}
	host, err := sockbroker.NewClient(os.NewFile(4, "host"))
	if err != nil {
		return err
	}
	dest := map[string]string{}
	for _, a := range args {
		from, to, _ := strings.Cut(a, "=")
		dest[from] = to
	}
	outbound := func(original netip.AddrPort) (net.Conn, error) {
		to, ok := dest[original.String()]
		if !ok {
			return nil, fmt.Errorf("nothing is known of %v", original)
		}
		ctx := context.Background()
		if addr, ok := strings.CutPrefix(to, "host "); ok {
			return host.DialContext(ctx, "tcp", addr)
		}
		if addr, ok := strings.CutPrefix(to, "pod "); ok {
			return app.DialContext(ctx, "tcp", addr)
		}
		return net.Dial("tcp", to)
	}
	inbound := func(original netip.AddrPort) (net.Conn, error) {
		// As sidecars do: to the address that was called, else to the application's own loopback.
		from, local := capture.Passthrough4, netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if original.Addr().Is6() {
			from, local = capture.Passthrough6, netip.IPv6Loopback()
		}
		c, err := dialFrom(app, from, original)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return dialFrom(app, from, netip.AddrPortFrom(local, original.Port()))
		}
		return c, err
	}
	for addr, upstream := range map[string]func(netip.AddrPort) (net.Conn, error){
		"0.0.0.0:15001": outbound, "[::]:15001": outbound, "0.0.0.0:15006": inbound, "[::]:15006": inbound,
	} {
		fds, err := app.Listen(netip.MustParseAddrPort(addr), 2, true)
		if err != nil {
			return err
		}
		for _, fd := range fds {
			f := os.NewFile(uintptr(fd), "listener")
			l, err := net.FileListener(f)
			f.Close()
			if err != nil {
				return err
			}
			go relay(l, upstream)
		}
	}
	dns.HandleFunc(".", func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg).SetReply(q)
		if n := q.Question[0]; n.Name == "ratings.default.svc.cluster.local." && n.Qtype == dns.TypeA {
			r.Answer = append(r.Answer, &dns.A{Hdr: dns.RR_Header{Name: n.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5}, A: net.IPv4(10, 96, 0, 10)})
		} else if n.Name != "ratings.default.svc.cluster.local." {
			r.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(r)
	})
	for _, addr := range []string{"127.0.0.1:15053", "[::1]:15053"} {
		pc, err := app.PacketConn(netip.MustParseAddrPort(addr))
		if err != nil {
			return err
		}
		go func() { _ = (&dns.Server{PacketConn: pc}).ActivateAndServe() }()
		l, err := app.Listener(netip.MustParseAddrPort(addr))
		if err != nil {
			return err
		}
		go func() { _ = (&dns.Server{Listener: l}).ActivateAndServe() }()
	}
	fmt.Println("listening")
	select {}
}

// dialFrom connects one of the pod's sockets bound to an address.
func dialFrom(app *sockbroker.Client, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	fds, err := app.Sockets(sockbroker.Stream, sockbroker.FamilyOf(from), 1)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fds[0]), "upstream")
	defer f.Close()
	fd := int(f.Fd())
	if err = unix.SetNonblock(fd, false); err != nil {
		return nil, err
	}
	if from.Is4() {
		err = errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4()}), unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}))
	} else {
		err = errors.Join(unix.Bind(fd, &unix.SockaddrInet6{Addr: from.As16()}), unix.Connect(fd, &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}))
	}
	if err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

// relay passes on what the upstream of a connection's original destination says, with
// that destination before it.
func relay(l net.Listener, upstream func(netip.AddrPort) (net.Conn, error)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			raw, err := c.(*net.TCPConn).SyscallConn()
			if err != nil {
				return
			}
			var original netip.AddrPort
			_ = raw.Control(func(fd uintptr) { original, err = capture.OriginalDst(int(fd)) })
			if err != nil {
				fmt.Fprintln(c, err)
				return
			}
			fmt.Fprintf(c, "[%v from %v] ", original, c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr())
			u, err := upstream(original)
			if err != nil {
				fmt.Fprintln(c, err)
				return
			}
			defer u.Close()
			_, _ = io.Copy(c, u)
		}()
	}
}

// self is a command that runs this binary in a role.
func self(role string, args ...string) Command {
	return Command{Argv: append([]string{"/proc/self/exe", role}, args...), Env: os.Environ(), Stderr: os.Stderr}
}

// output runs a command to its end.
func output(start func(Command) (*Process, error), c Command) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	c.Stdout = w
	if c.Stderr == nil {
		c.Stderr = w
	}
	p, err := start(c)
	w.Close()
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(r)
	if s := p.Wait(); err == nil && s != 0 {
		err = fmt.Errorf("%v ended with %v: %s", c.Argv, describe(s), b)
	}
	return strings.TrimSpace(string(b)), err
}

func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return s.Signal().String()
	}
	return "status " + strconv.Itoa(s.ExitStatus())
}

// background starts a command and waits for its first line.
func background(start func(Command) (*Process, error), c Command) (*Process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	c.Stdout = w
	p, err := start(c)
	w.Close()
	if err != nil {
		return nil, err
	}
	if _, err := bufio.NewReader(r).ReadString('\n'); err != nil {
		return nil, fmt.Errorf("%v: %w", c.Argv, err)
	}
	return p, nil
}

func has(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}
