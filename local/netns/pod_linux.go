package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/capture"
	"github.com/weirmesh/weir/capture/nft"
	"github.com/weirmesh/weir/internal/sockbroker"
)

// Pod is a network namespace of the fabric with capture rules, and what its processes see
// of the file system. Its methods are safe for concurrent use.
type Pod struct {
	fabric *Fabric
	name   string
	addrs  []netip.Addr
	link   string // the fabric's end of the pod's veth pair
	netns  string // as /proc shows it: net:[4026532281]
	broker sockbroker.Server

	calls  chan func()
	closed chan struct{}
	once   sync.Once // of Close
}

// AddPod makes a pod. Pods can be added at the same time.
func (f *Fabric) AddPod(c PodConfig) (*Pod, error) {
	p, err := f.addPod(c)
	if err != nil {
		return nil, fmt.Errorf("adding pod %s: %w", c.Name, err)
	}
	return p, nil
}

func (f *Fabric) addPod(c PodConfig) (*Pod, error) {
	prefix4, err := inNetwork(c.IPv4, f.Network.Gateway4)
	if err != nil {
		return nil, err
	}
	p := &Pod{fabric: f, name: c.Name, addrs: []netip.Addr{c.IPv4}, calls: make(chan func()), closed: make(chan struct{})}
	var prefix6 netip.Prefix
	if c.IPv6.IsValid() {
		if prefix6, err = inNetwork(c.IPv6, f.Network.Gateway6); err != nil {
			return nil, err
		}
		p.addrs = append(p.addrs, c.IPv6)
	}
	c.Rules.IPv6 = c.IPv6.IsValid()
	rules, err := capture.Rules(c.Rules)
	if err != nil {
		return nil, err
	}
	p.broker = sockbroker.Server{In: p.Do, Mark: c.Rules.Exempt.Mark, Allow: func(netip.AddrPort) bool { return true }}
	if p.link, err = f.pods.take(c.Name, p.addrs); err != nil {
		return nil, err
	}

	ready := make(chan error)
	go p.run(c.Name, view{resolvConf: c.ResolvConf, hosts: c.Hosts, nsswitch: f.nsswitch}, ready)
	err = <-ready
	if err == nil {
		err = p.connect()
	}
	if err == nil {
		err = p.Do(func() error { return f.configure(prefix4, prefix6, rules) })
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// inNetwork is a with the length of the network that gateway is in.
func inNetwork(a netip.Addr, gateway netip.Prefix) (netip.Prefix, error) {
	if !gateway.Contains(a) || a == gateway.Addr() || a == gateway.Masked().Addr() {
		return netip.Prefix{}, fmt.Errorf("address %v is not one for a pod in the network of gateway %v", a, gateway)
	}
	return netip.PrefixFrom(a, gateway.Bits()), nil
}

// run is the pod's thread: it makes the pod's namespaces, and they exist while it does.
func (p *Pod) run(hostname string, v view, ready chan<- error) {
	runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
	err := func() error {
		// CLONE_FS: a mount namespace of its own needs a thread that shares no working directory.
		if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_FS); err != nil {
			return fmt.Errorf("making namespaces: %w", err)
		}
		if err := unix.Sethostname([]byte(hostname)); err != nil {
			return fmt.Errorf("setting the host name: %w", err)
		}
		if err := v.mount(); err != nil {
			return err
		}
		var err error
		p.netns, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	}()
	ready <- err
	for {
		select {
		case f := <-p.calls:
			f()
		case <-p.closed:
			return
		}
	}
}

// connect makes the veth pair: one end at the fabric's bridge, the other in the pod.
func (p *Pod) connect() error {
	var ns int
	err := p.Do(func() (err error) {
		ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("opening the network namespace: %w", err)
	}
	defer unix.Close(ns)
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: p.link, MasterIndex: p.fabric.bridge},
		PeerName:      podLink,
		PeerNamespace: netlink.NsFd(ns),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("adding a veth pair: %w", err)
	}
	return linkUp(p.link)
}

const podLink = "eth0"

// configure runs in the pod. The rules come first: nothing can pass before them.
func (f *Fabric) configure(prefix4, prefix6 netip.Prefix, rules capture.Ruleset) error {
	if err := linkUp("lo"); err != nil {
		return err
	}
	if err := nft.Apply(rules); err != nil {
		return err
	}
	// Applications have no privilege to bind port 80 with.
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0); err != nil {
		return fmt.Errorf("allowing every port: %w", err)
	}
	if err := linkUp(podLink, prefix4, prefix6); err != nil {
		return err
	}
	// A route for every destination, or connect would fail before the rules are asked.
	gateways := []netip.Addr{f.Network.Gateway4.Addr()}
	if prefix6.IsValid() {
		gateways = append(gateways, f.Network.Gateway6.Addr())
	}
	for _, g := range gateways {
		if err := netlink.RouteAdd(&netlink.Route{Gw: g.AsSlice()}); err != nil {
			return fmt.Errorf("adding the default route by %s: %w", g, err)
		}
	}
	return nil
}

// Do runs f on the pod's thread: sockets that f makes are the pod's, files are as its
// processes see them. One function runs at a time; f must not block for long, nor call Do.
func (p *Pod) Do(f func() error) error {
	done := make(chan error, 1)
	select {
	case p.calls <- func() { done <- f() }:
		return <-done
	case <-p.closed:
		return fmt.Errorf("pod %s is closed", p.name)
	}
}

// Broker returns a connection to the pod's socket broker, to be inherited by a proxy: it
// gives sockets made in the pod, also listening ones on any address.
func (p *Pod) Broker() (*os.File, error) { return p.broker.Connect(sockbroker.MayListen) }

// Start starts a process in the pod. Restarting an application is starting it again.
func (p *Pod) Start(c Command) (*Process, error) {
	return p.fabric.processes.start(c, p.fabric.ids, p.Do)
}

// Start starts a process in the fabric: it reaches the pods through the bridge.
func (f *Fabric) Start(c Command) (*Process, error) {
	return f.processes.start(c, f.ids, func(start func() error) error { return start() })
}

// Close kills the pod's processes, whoever started them, and removes the pod. Sockets
// handed out keep the network namespace alive, unconnected, until they are closed.
func (p *Pod) Close() {
	p.once.Do(func() {
		// Killed processes may have forked meanwhile; a second is a thousand rounds.
		for range 1000 {
			if p.netns == "" || killIn(p.netns) == 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		close(p.closed)
		p.broker.Close()
		if l, err := netlink.LinkByName(p.link); err == nil {
			if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
				p.fabric.log.Error("pod link stays", "pod", p.name, "err", err)
			}
		}
		p.fabric.pods.release(p.addrs)
	})
}

// killIn kills the processes whose network namespace is ns and returns how many there were.
func killIn(ns string) (n int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 {
			continue
		}
		// A process that has ended, but is not yet reaped, has no namespace any more.
		if link, err := os.Readlink("/proc/" + e.Name() + "/ns/net"); err == nil && link == ns {
			n++
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	return n
}
