package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/weirmesh/weir/capture"
	"github.com/weirmesh/weir/internal/sockbroker"
	"github.com/weirmesh/weir/local/netns"
	"github.com/weirmesh/weir/local/plan"
	"github.com/weirmesh/weir/local/pod"
	"github.com/weirmesh/weir/local/process"
	"github.com/weirmesh/weir/local/supervise"
	"github.com/weirmesh/weir/mesh"
)

// PodNetwork is where pods have their addresses; the first one is the fabric's own.
var podNetwork = netip.MustParsePrefix("10.244.0.0/16")

// Network is the address plan for netns.RunInit.
func Network() netns.Network {
	return netns.Network{Gateway4: netip.PrefixFrom(podNetwork.Addr().Next(), podNetwork.Bits())}
}

// Namespaces makes places with network namespaces. It works in the first process of a
// tree of netns only.
type Namespaces struct {
	proxies   *Proxies
	fabric    *netns.Fabric
	resolvers []string // of the host, for names outside the mesh
	meshCIDRs []string

	mu    sync.Mutex
	taken map[netip.Addr]bool
	last  netip.Addr
}

// NewNamespaces makes one. virtual are the ranges of service addresses.
func NewNamespaces(p *Proxies, f *netns.Fabric, resolvers []string, virtual ...netip.Prefix) *Namespaces {
	n := &Namespaces{proxies: p, fabric: f, resolvers: resolvers, taken: map[netip.Addr]bool{}, last: f.Network.Gateway4.Addr()}
	for _, c := range append([]netip.Prefix{podNetwork}, virtual...) {
		n.meshCIDRs = append(n.meshCIDRs, c.String())
	}
	return n
}

// Add makes a place.
func (n *Namespaces) Add(_ context.Context, s pod.Spec) (pod.Place, error) {
	p := &namespacePlace{in: n, spec: s}
	var err error
	if p.ip, err = n.take(); err != nil {
		return nil, err
	}
	if err := n.proxies.folders(s); err != nil {
		n.release(p.ip)
		return nil, err
	}
	p.admin = newAdmin(n.proxies.Layout.Admin(s.Template.Namespace, s.Name))
	if s.Template.Gateway {
		return p, nil // it serves the outside, from the host's sockets
	}
	suffix := "svc.cluster.local"
	p.pod, err = n.fabric.AddPod(netns.PodConfig{
		Name:  hostName(s.Name),
		IPv4:  p.ip,
		Hosts: fmt.Sprintf("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n%s %s\n", p.ip, hostName(s.Name)),
		// Queries are captured, wherever they go.
		ResolvConf: fmt.Sprintf("nameserver %s\nsearch %s.%s %[3]s cluster.local\noptions ndots:5\n", n.fabric.Network.Gateway4.Addr(), s.Template.Namespace, suffix),
		Rules:      capture.Default(),
	})
	if err != nil {
		n.release(p.ip)
		return nil, err
	}
	return p, nil
}

// hostName is a pod's, at most the 64 bytes that Linux allows.
func hostName(name string) string { return strings.TrimRight(name[:min(len(name), 63)], "-.") }

// take gives each address as late as possible a second time.
func (n *Namespaces) take() (netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	first := n.fabric.Network.Gateway4.Addr()
	for a := n.last.Next(); ; a = a.Next() {
		if !podNetwork.Contains(a.Next()) { // the last one is for broadcasts
			a = first.Next()
		}
		if !n.taken[a] {
			n.taken[a], n.last = true, a
			return a, nil
		}
		if a == n.last {
			return netip.Addr{}, fmt.Errorf("every address of %s is in use", podNetwork)
		}
	}
}

func (n *Namespaces) release(a netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.taken, a)
}

// namespacePlace is a pod's.
type namespacePlace struct {
	admin
	in   *Namespaces
	spec pod.Spec
	ip   netip.Addr
	pod  *netns.Pod // nil for a gateway

	mu      sync.Mutex
	running []*namespaced
}

func (p *namespacePlace) IP() netip.Addr { return p.ip }

func (p *namespacePlace) Annotations() map[string]string {
	return map[string]string{"weir.dev/admin": "unix://" + p.in.proxies.Layout.Admin(p.spec.Template.Namespace, p.spec.Name)}
}

func (p *namespacePlace) ServiceAt(s *mesh.Service) []netip.AddrPort {
	i := slices.IndexFunc(s.Addresses, netip.Addr.Is4)
	if i < 0 {
		return nil
	}
	var out []netip.AddrPort
	for _, port := range s.Ports {
		out = append(out, netip.AddrPortFrom(s.Addresses[i], port.Number))
	}
	return out
}

// Variables is empty: a program may listen wherever it wants.
func (p *namespacePlace) Variables(plan.Container) []string { return nil }

func (p *namespacePlace) StartProxy() (supervise.Process, error) {
	token, err := p.in.proxies.token(p.spec)
	if err != nil {
		return nil, err
	}
	defer token.Close()
	files := []*os.File{token}
	args := append(p.in.proxies.args(p.spec, p.ip), "--mesh-cidrs", strings.Join(p.in.meshCIDRs, ","))
	rights := sockbroker.Rights(0)
	if p.pod == nil {
		rights = sockbroker.MayListen
		args = append(args, "--capture", "none", "--host-sockets", fmt.Sprint(appFD))
	} else {
		app, err := p.pod.Broker()
		if err != nil {
			return nil, err
		}
		defer app.Close()
		files = append(files, app)
		args = append(args, "--capture", "redirect", "--app-sockets", fmt.Sprint(appFD), "--host-sockets", fmt.Sprint(hostFD), "--dns")
	}
	if len(p.in.resolvers) > 0 {
		args = append(args, "--dns-resolvers", strings.Join(p.in.resolvers, ","))
	}
	host, err := p.in.fabric.Host.Fork(rights)
	if err != nil {
		return nil, err
	}
	defer host.Close()
	return p.start(p.in.fabric.Start, netns.Command{Argv: args, Env: p.in.proxies.Environ, Files: append(files, host)}, pod.Command{Output: p.spec.Output})
}

func (p *namespacePlace) Start(c pod.Command) (supervise.Process, error) {
	start := p.in.fabric.Start
	if p.pod != nil {
		start = p.pod.Start
	}
	return p.start(start, netns.Command{Argv: c.Argv, Env: c.Env, Dir: c.Dir, TTY: c.TTY}, c)
}

func (p *namespacePlace) start(start func(netns.Command) (*netns.Process, error), c netns.Command, how pod.Command) (supervise.Process, error) {
	out := &namespaced{copied: make(chan struct{})}
	c.Env = lastOfEach(c.Env)
	if how.Stdio[0] != nil {
		c.Stdin, c.Stdout, c.Stderr = how.Stdio[0], how.Stdio[1], how.Stdio[2]
		close(out.copied)
	} else {
		write, err := process.Pipe(how.Output, out.copied)
		if err != nil {
			return nil, err
		}
		defer write.Close()
		c.Stdout, c.Stderr = write, write
	}
	proc, err := start(c)
	if err != nil {
		return nil, err
	}
	out.Process = proc
	p.mu.Lock()
	defer p.mu.Unlock()
	var alive []*namespaced
	for _, r := range p.running {
		if !r.ended() {
			alive = append(alive, r)
		}
	}
	p.running = append(alive, out)
	return out, nil
}

// lastOfEach keeps the last value of each variable, as os/exec does: what a program makes
// of two is its own affair.
func lastOfEach(env []string) []string {
	at := map[string]int{}
	var out []string
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if i, ok := at[name]; ok {
			out[i] = e
			continue
		}
		at[name] = len(out)
		out = append(out, e)
	}
	return out
}

// Dial connects from inside the pod, first as the proxy does.
func (p *namespacePlace) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	if p.pod == nil {
		return nil, errors.New("a gateway has no program")
	}
	c, err := dialIn(ctx, p.pod, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port))
	if err != nil {
		c, err = dialIn(ctx, p.pod, netip.AddrPortFrom(p.ip, port))
	}
	return c, err
}

func (p *namespacePlace) Listening(pid int) []netip.AddrPort { return listening(pid) }

func (p *namespacePlace) Close() {
	p.mu.Lock()
	for _, r := range p.running {
		_ = r.Process.Signal(syscall.SIGKILL) // most have ended
	}
	p.mu.Unlock()
	if p.pod != nil {
		p.pod.Close()
	}
	p.close()
	p.in.release(p.ip)
}

// namespaced is a process of the tree.
type namespaced struct {
	*netns.Process
	copied chan struct{}
}

func (n *namespaced) Pid() int { return n.PID() }

func (n *namespaced) Wait() error {
	status := n.Process.Wait()
	process.WaitOutput(n.copied)
	if status.Exited() && status.ExitStatus() == 0 {
		return nil
	}
	return exitError(status)
}

func (n *namespaced) Signal(s os.Signal) error {
	number, ok := s.(syscall.Signal)
	if !ok {
		return fmt.Errorf("signal %v cannot be sent", s)
	}
	return n.Process.Signal(number)
}

func (n *namespaced) ended() bool {
	select {
	case <-n.Done():
		return true
	default:
		return false
	}
}

// exitError is how a process ended that did not succeed.
type exitError syscall.WaitStatus

func (e exitError) Error() string {
	if s := syscall.WaitStatus(e); s.Signaled() {
		return "signal: " + s.Signal().String()
	}
	return fmt.Sprintf("exit status %d", e.ExitCode())
}

// ExitCode is -1 for a process that a signal ended.
func (e exitError) ExitCode() int { return syscall.WaitStatus(e).ExitStatus() }

// Sys is a syscall.WaitStatus, as of an exec.ExitError.
func (e exitError) Sys() any { return syscall.WaitStatus(e) }
