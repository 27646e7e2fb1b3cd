package sandbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/weirmesh/weir/local/plan"
	"github.com/weirmesh/weir/local/pod"
	"github.com/weirmesh/weir/local/process"
	"github.com/weirmesh/weir/local/supervise"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/sample"
)

const (
	// firstNet to lastNet are W of a workload's own network 127.W.0.0/16. 127.0 is
	// everybody's.
	firstNet, lastNet = 1, 254
	// Applications listen on ports below those that the kernel gives to outgoing
	// connections (from 32768 on Linux, 49152 on darwin).
	firstPort, lastPort = 20000, 32767
)

// Loopback makes places without namespaces: env capture. A workload W has 127.W.0.1,
// calls services at 127.W.<index>, where its own proxy listens, and its programs listen
// where PORT and BIND_ADDRESS say.
type Loopback struct {
	proxies  *Proxies
	programs *process.Starter

	mu       sync.Mutex
	nets     map[int]net.Listener // taken: what keeps other meshes away
	lastNet  int
	ports    map[uint16]bool
	lastPort int
}

// NewLoopback makes one.
func NewLoopback(p *Proxies, programs *process.Starter) *Loopback {
	return &Loopback{
		proxies: p, programs: programs, nets: map[int]net.Listener{}, ports: map[uint16]bool{},
		// Two meshes that start at the same moment shall not try the same ports.
		lastPort: firstPort + rand.IntN(lastPort-firstPort),
	}
}

// Add makes a place.
func (l *Loopback) Add(_ context.Context, s pod.Spec) (pod.Place, error) {
	p := &loopbackPlace{in: l, spec: s, app: map[uint16]uint16{}}
	var err error
	if p.net, err = l.takeNet(); err != nil {
		return nil, err
	}
	for _, port := range s.Template.Ports() {
		if p.app[port.Number], err = l.takePort(); err != nil {
			p.Close()
			return nil, err
		}
	}
	if err := l.proxies.folders(s); err != nil {
		p.Close()
		return nil, err
	}
	p.admin = newAdmin(l.proxies.Layout.Admin(s.Template.Namespace, s.Name))
	return p, nil
}

// takeNet gives each number as late as possible a second time: clients may still hold
// connections to the one who had it.
func (l *Loopback) takeNet() (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range lastNet - firstNet + 1 {
		l.lastNet = l.lastNet%lastNet + 1
		if l.nets[l.lastNet] != nil {
			continue
		}
		if claim, err := net.Listen("tcp", claimed(l.lastNet)); err == nil {
			l.nets[l.lastNet] = claim
			return l.lastNet, nil
		}
	}
	return 0, fmt.Errorf("without network namespaces there is room for %d workloads; run fewer, or use --capture=netns", lastNet-firstNet+1)
}

// claimed is an address of a workload's network that no service has: their indexes begin
// with 256. Whoever listens there has the network, among all meshes of the machine.
func claimed(w int) string { return fmt.Sprintf("127.%d.0.255:15000", w) }

func (l *Loopback) takePort() (uint16, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range lastPort - firstPort + 1 {
		l.lastPort = max(l.lastPort%lastPort+1, firstPort)
		n := uint16(l.lastPort)
		if l.ports[n] {
			continue
		}
		// A program that ignores BIND_ADDRESS must find it free everywhere.
		ln, err := net.Listen("tcp", ":"+strconv.Itoa(l.lastPort)) // closed at once
		if err != nil {
			continue
		}
		ln.Close()
		l.ports[n] = true
		return n, nil
	}
	return 0, fmt.Errorf("every port from %d to %d is in use", firstPort, lastPort)
}

func (l *Loopback) release(w int, ports map[uint16]uint16) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if claim := l.nets[w]; claim != nil {
		claim.Close()
		delete(l.nets, w)
	}
	for _, p := range ports {
		delete(l.ports, p)
	}
}

// loopbackPlace is a pod's.
type loopbackPlace struct {
	admin
	in   *Loopback
	spec pod.Spec
	net  int
	app  map[uint16]uint16 // where a port of the workload really is

	mu      sync.Mutex
	running []*process.Process
}

func (p *loopbackPlace) virtualNet() string { return "127." + strconv.Itoa(p.net) }

func (p *loopbackPlace) IP() netip.Addr { return netip.AddrFrom4([4]byte{127, byte(p.net), 0, 1}) }

// inbound says which address of the workload leads to which port of its program.
func (p *loopbackPlace) inbound() string {
	var out []string
	for _, port := range p.spec.Template.Ports() {
		out = append(out, fmt.Sprintf("%d=%s->127.0.0.1:%d", port.Number, netip.AddrPortFrom(p.IP(), port.Number), p.app[port.Number]))
	}
	return strings.Join(out, ",")
}

func (p *loopbackPlace) Annotations() map[string]string {
	a := map[string]string{"weir.dev/admin": "unix://" + p.in.proxies.Layout.Admin(p.spec.Template.Namespace, p.spec.Name)}
	if !p.spec.Template.Gateway {
		a["weir.dev/virtual-net"], a["weir.dev/inbound"] = p.virtualNet(), p.inbound()
	}
	return a
}

func (p *loopbackPlace) ServiceIP(s *mesh.Service) netip.Addr {
	if s.Index == 0 || s.Index > 0xffff {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte{127, byte(p.net), byte(s.Index >> 8), byte(s.Index)})
}

// Variables are BIND_ADDRESS, PORT, and PORT_<number> or PORT_<NAME> for a program with
// several ports. Our samples read all of theirs from PORT.
func (p *loopbackPlace) Variables(c plan.Container) []string {
	out := []string{"BIND_ADDRESS=127.0.0.1"}
	var all []string
	for _, port := range c.Ports {
		app := strconv.Itoa(int(p.app[port.Number]))
		all = append(all, app)
		out = append(out, fmt.Sprintf("PORT_%d=%s", port.Number, app))
		if port.Name != "" {
			out = append(out, "PORT_"+strings.ToUpper(strings.ReplaceAll(port.Name, "-", "_"))+"="+app)
		}
	}
	switch {
	case len(all) == 0:
	case len(c.Argv) > 0 && c.Argv[0] == sample.Binary:
		out = append(out, "PORT="+strings.Join(all, ","))
	default:
		out = append(out, "PORT="+all[0])
	}
	return out
}

func (p *loopbackPlace) StartProxy() (supervise.Process, error) {
	token, err := p.in.proxies.token(p.spec)
	if err != nil {
		return nil, err
	}
	defer token.Close()
	args := append(p.in.proxies.args(p.spec, p.IP()), "--capture", "none")
	if !p.spec.Template.Gateway {
		args = append(args, "--virtual-net", p.virtualNet())
		if in := p.inbound(); in != "" {
			args = append(args, "--inbound", in)
		}
	}
	return p.start(process.Command{Argv: args, Env: p.in.proxies.Environ, Output: p.spec.Output, Files: []*os.File{token}})
}

func (p *loopbackPlace) Start(c pod.Command) (supervise.Process, error) {
	return p.start(process.Command{Argv: c.Argv, Env: c.Env, Dir: c.Dir, Output: c.Output, Stdio: c.Stdio, TTY: c.TTY})
}

func (p *loopbackPlace) start(c process.Command) (supervise.Process, error) {
	proc, err := p.in.programs.Start(c)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = slices.DeleteFunc(p.running, (*process.Process).Ended)
	p.running = append(p.running, proc)
	return proc, nil
}

func (p *loopbackPlace) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	app, ok := p.app[port]
	if !ok {
		return nil, errors.New("not a port of the workload")
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), app).String())
}

func (p *loopbackPlace) Listening(pid int) []netip.AddrPort { return listening(pid) }

func (p *loopbackPlace) Close() {
	p.mu.Lock()
	for _, proc := range p.running {
		proc.Kill()
	}
	p.mu.Unlock()
	p.close()
	p.in.release(p.net, p.app)
}
