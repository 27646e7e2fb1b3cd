package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
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
// where PORT and BIND_ADDRESS say. Ports that the user may not listen on are published
// under others. Where the machine has no loopback address but 127.0.0.1 (a Mac), that is
// the address of all, and every port of every workload and of every service it calls is
// another one.
type Loopback struct {
	proxies  *Proxies
	programs *process.Starter
	shape    Shape

	mu       sync.Mutex
	nets     map[int]net.Listener // taken: what keeps other meshes away
	lastNet  int
	ports    map[uint16]bool
	lastPort int
}

// Shape is what an ordinary machine may lack for env capture.
type Shape struct {
	OneAddress bool // 127.0.0.1 is the only loopback address
	HighPorts  bool // nobody may listen on ports below 1024
}

// ShapeHere finds out by trying.
func ShapeHere() Shape {
	try := func(address string) error {
		l, err := net.Listen("tcp", address)
		if err == nil {
			l.Close()
		}
		return err
	}
	return Shape{OneAddress: try("127.1.0.255:0") != nil, HighPorts: errors.Is(try("127.0.0.1:1"), fs.ErrPermission)}
}

// NewLoopback makes one.
func NewLoopback(p *Proxies, programs *process.Starter, shape Shape) *Loopback {
	return &Loopback{
		proxies: p, programs: programs, shape: shape, nets: map[int]net.Listener{}, ports: map[uint16]bool{},
		// Two meshes that start at the same moment shall not try the same ports.
		lastPort: firstPort + rand.IntN(lastPort-firstPort),
	}
}

// Add makes a place.
func (l *Loopback) Add(_ context.Context, s pod.Spec) (pod.Place, error) {
	p := &loopbackPlace{admin: newAdmin(l.proxies.Layout.Admin(s.Template.Namespace, s.Name)), in: l, spec: s, app: map[uint16]uint16{}, bind: map[uint16]netip.AddrPort{}, calls: map[string]netip.AddrPort{}}
	var err error
	if !l.shape.OneAddress {
		if p.net, err = l.takeNet(); err != nil {
			return nil, err
		}
	}
	declares := func(n uint16) bool {
		return slices.ContainsFunc(s.Template.Ports(), func(o plan.Port) bool { return o.Number == n })
	}
	for _, port := range s.Template.Ports() {
		if p.app[port.Number], err = p.takePort(); err == nil {
			p.bind[port.Number], err = p.publish(netip.AddrPortFrom(p.IP(), port.Number), declares)
		}
		if err != nil {
			p.Close()
			return nil, err
		}
	}
	// What an earlier pod of the name kept has listeners at addresses that are another's now.
	err = os.RemoveAll(l.proxies.Layout.ProxyState(s.Template.Namespace, s.Name))
	if err == nil {
		err = l.proxies.folders(s)
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	if err := p.serveNames(); err != nil {
		p.Close()
		return nil, err
	}
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
// with 256. Whoever listens there has the network, among all meshes of the machine, and
// serves names.
func claimed(w int) string { return fmt.Sprintf("127.%d.0.255:15000", w) }

// claim is the listener that holds a network, nil if it is nobody's.
func (l *Loopback) claim(w int) net.Listener {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nets[w]
}

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

func (l *Loopback) release(w int, ports []uint16) {
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
	in    *Loopback
	spec  pod.Spec
	net   int                       // 0: 127.0.0.1 is everybody's
	app   map[uint16]uint16         // where a port of the workload really is
	bind  map[uint16]netip.AddrPort // where its proxy listens for it
	names net.Listener              // of the proxy that serves names; nil for gateways

	mu      sync.Mutex
	ports   []uint16                  // taken
	calls   map[string]netip.AddrPort // where it calls a service's host:port, if not at the address that follows from its network
	running []*process.Process
}

func (p *loopbackPlace) virtualNet() string { return "127." + strconv.Itoa(p.net) }

func (p *loopbackPlace) IP() netip.Addr { return netip.AddrFrom4([4]byte{127, byte(p.net), 0, 1}) }

func (p *loopbackPlace) takePort() (uint16, error) {
	n, err := p.in.takePort()
	if err == nil {
		p.mu.Lock()
		p.ports = append(p.ports, n)
		p.mu.Unlock()
	}
	return n, err
}

// highStep leads from a port that nobody may listen on to one that can be recognized.
const highStep = 10_000

// publish says where the proxy listens for what should be at an address; used says which
// of its ports have an owner.
func (p *loopbackPlace) publish(at netip.AddrPort, used func(uint16) bool) (netip.AddrPort, error) {
	switch {
	case p.in.shape.OneAddress:
		n, err := p.takePort()
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), n), err
	case p.in.shape.HighPorts && at.Port() < 1024:
		for n := at.Port() + highStep; n > highStep; n += highStep {
			if !used(n) {
				return netip.AddrPortFrom(at.Addr(), n), nil
			}
		}
		return at, fmt.Errorf("port %d needs root, and there is no port that could stand for it", at.Port())
	}
	return at, nil
}

// inbound says which address of the workload leads to which port of its program.
func (p *loopbackPlace) inbound() string {
	var out []string
	for _, port := range p.spec.Template.Ports() {
		out = append(out, fmt.Sprintf("%d=%s->127.0.0.1:%d", port.Number, p.bind[port.Number], p.app[port.Number]))
	}
	return strings.Join(out, ",")
}

func (p *loopbackPlace) Annotations() map[string]string {
	a := map[string]string{"weir.dev/admin": "unix://" + p.in.proxies.Layout.Admin(p.spec.Template.Namespace, p.spec.Name)}
	if p.spec.Template.Gateway {
		return a
	}
	a["weir.dev/inbound"] = p.inbound()
	if p.net != 0 {
		a["weir.dev/virtual-net"] = p.virtualNet()
	}
	return a
}

func (p *loopbackPlace) ServiceAt(s *mesh.Service) []netip.AddrPort {
	if p.serviceIP(s) == (netip.Addr{}) || p.spec.Template.Gateway {
		return nil
	}
	var out []netip.AddrPort
	for _, port := range s.Ports {
		at, known := p.called(s, port.Number)
		if !known {
			var err error
			if at, err = p.publish(netip.AddrPortFrom(p.serviceIP(s), port.Number), func(n uint16) bool { return s.Port(n) != nil }); err != nil {
				return nil
			}
			p.mu.Lock()
			p.calls[callKey(s, port.Number)] = at
			p.mu.Unlock()
		}
		out = append(out, at)
	}
	return out
}

func callKey(s *mesh.Service, port uint16) string {
	return net.JoinHostPort(s.Hostname, strconv.Itoa(int(port)))
}

// serviceIP is a service's address in the workload's network, if it can have one.
func (p *loopbackPlace) serviceIP(s *mesh.Service) netip.Addr {
	if s.Index == 0 || s.Index > 0xffff {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte{127, byte(p.net), byte(s.Index >> 8), byte(s.Index)})
}

// called is where the workload's proxy listens for a service's port, as far as that is
// settled: where something is published instead of an address that follows from the
// network, the proxy learns it when it is started.
func (p *loopbackPlace) called(s *mesh.Service, port uint16) (netip.AddrPort, bool) {
	p.mu.Lock()
	at, ok := p.calls[callKey(s, port)]
	p.mu.Unlock()
	ip := p.serviceIP(s)
	if ok || p.in.shape.OneAddress || p.in.shape.HighPorts && port < 1024 || !ip.IsValid() {
		return at, ok
	}
	return netip.AddrPortFrom(ip, port), true
}

// outbound are the flags for what is not where the proxy expects it.
func (p *loopbackPlace) outbound() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, service := range slices.Sorted(maps.Keys(p.calls)) {
		out = append(out, "--outbound", service+"="+p.calls[service].String())
	}
	return out
}

// Variables are BIND_ADDRESS, PORT, PORT_<number> and PORT_<NAME>, and http_proxy and the
// like. Our samples read all of their ports from PORT.
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
	return append(out, p.proxyVariables(c)...)
}

func (p *loopbackPlace) StartProxy() (supervise.Process, error) {
	token, err := p.in.proxies.token(p.spec)
	if err != nil {
		return nil, err
	}
	defer token.Close()
	args := append(p.in.proxies.args(p.spec, p.IP()), "--capture", "none")
	if !p.spec.Template.Gateway {
		if p.net != 0 {
			args = append(args, "--virtual-net", p.virtualNet())
		}
		args = append(args, p.outbound()...)
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
	if p.names != nil {
		p.names.Close()
	}
	p.in.release(p.net, p.ports)
}
