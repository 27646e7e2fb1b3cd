package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/miekg/dns"

	"github.com/weirmesh/weir/internal/sockbroker"
	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/loop"
)

// socketsAhead is how many sockets of another namespace are kept ready, each way and
// family: a burst of connections larger than that waits for the broker, some 50 µs a batch.
const socketsAhead = 16

// network says where listeners and connections are made: here, in the workload's
// network namespace, or in the host's.
func (m *meshFlags) network(ctx context.Context, o *proxy.Options) error {
	if m.admin != "" {
		l, err := listenAdmin(ctx, "--admin", m.admin)
		if err != nil {
			return err
		}
		o.Admin = []net.Listener{l}
	}
	for _, s := range strings.FieldsFunc(m.meshCIDRs, func(r rune) bool { return r == ',' }) {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return fmt.Errorf("--mesh-cidrs: %w", err)
		}
		o.Mesh = append(o.Mesh, p.Masked())
	}
	app, err := broker(m.appFD, "--app-sockets")
	if err != nil {
		return err
	}
	host, err := broker(m.hostFD, "--host-sockets")
	if err != nil {
		return err
	}
	o.Listen = listener.Sockets{Sockets: loop.Kernel()}
	switch {
	case app != nil:
		o.Listen = listener.Broker{Client: app}
	case host != nil:
		o.Listen = listener.Broker{Client: host}
	}
	if app != nil {
		o.App = pools(ctx, app)
		if err := m.health(app, o); err != nil {
			return err
		}
	}
	if host != nil {
		o.Host = pools(ctx, host)
	}
	if m.listenMap != "" {
		moved, err := parseListenMap(m.listenMap)
		if err != nil {
			return err
		}
		o.Listen = mapped{moved, o.Listen}
	}
	if m.dns {
		return m.resolver(app, host, o)
	}
	return nil
}

func broker(fd int, flagName string) (*sockbroker.Client, error) {
	if fd < 0 {
		return nil, nil
	}
	c, err := sockbroker.NewClient(os.NewFile(uintptr(fd), flagName))
	if err != nil {
		return nil, fmt.Errorf("%s %d: %w", flagName, fd, err)
	}
	return c, nil
}

// pools keep sockets of a broker ahead of demand until ctx ends.
func pools(ctx context.Context, c *sockbroker.Client) conn.Brokered {
	b := conn.Brokered{IPv4: sockbroker.NewPool(c, sockbroker.Stream, sockbroker.IPv4, socketsAhead),
		IPv6: sockbroker.NewPool(c, sockbroker.Stream, sockbroker.IPv6, socketsAhead), Done: context.WithoutCancel(ctx)}
	// They outlive ctx: exchanges under way at the end may still need a connection.
	go func() { _ = b.IPv4.Run(b.Done) }()
	go func() { _ = b.IPv6.Run(b.Done) }()
	return b
}

// health opens port 15021 in the workload's namespace.
func (m *meshFlags) health(app *sockbroker.Client, o *proxy.Options) error {
	l, err := streamListener(app, netip.AddrPortFrom(netip.IPv4Unspecified(), 15021))
	if err != nil {
		return fmt.Errorf("health port: %w", err)
	}
	o.Health = append(o.Health, l)
	return nil
}

func streamListener(b *sockbroker.Client, a netip.AddrPort) (net.Listener, error) {
	fds, err := b.Listen(a, 1, false)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fds[0]), a.String())
	defer func() { _ = f.Close() }()
	return net.FileListener(f)
}

// resolver opens port 15053 in the workload's namespace, in both families where there
// are both, and finds the resolvers for other names.
func (m *meshFlags) resolver(app, host *sockbroker.Client, o *proxy.Options) error {
	if app == nil {
		return errors.New("--dns needs --app-sockets: the port is in the workload's network namespace")
	}
	d := &proxy.DNS{Search: []string{m.namespace + ".svc.cluster.local", "svc.cluster.local", "cluster.local"}}
	if m.search != "" {
		d.Search = strings.Split(m.search, ",")
	}
	for i, ip := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		a := netip.AddrPortFrom(ip, 15053)
		err := func() error {
			l, err := streamListener(app, a)
			if err != nil {
				return err
			}
			d.Listeners = append(d.Listeners, l)
			fds, err := app.Bind(a, 1, false)
			if err != nil {
				return err
			}
			f := os.NewFile(uintptr(fds[0]), "dns")
			defer func() { _ = f.Close() }()
			p, err := net.FilePacketConn(f)
			if err != nil {
				return err
			}
			d.Packets = append(d.Packets, p)
			return nil
		}()
		if err != nil && i == 0 {
			return fmt.Errorf("dns port: %w", err)
		}
		if err != nil {
			o.Log.Info("no dns over IPv6 here", "err", err)
		}
	}
	if d.Resolvers = strings.FieldsFunc(m.resolvers, func(r rune) bool { return r == ',' }); len(d.Resolvers) == 0 {
		c, err := dns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil {
			o.Log.Warn("names outside the mesh cannot be resolved", "err", err)
		} else {
			for _, s := range c.Servers {
				d.Resolvers = append(d.Resolvers, net.JoinHostPort(s, c.Port))
			}
		}
	}
	if host != nil {
		d.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			return dialHost(ctx, host, network, addr)
		}
	}
	o.DNS = d
	return nil
}

// dialHost connects from the host's network namespace.
func dialHost(ctx context.Context, host *sockbroker.Client, network, addr string) (net.Conn, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("resolver %q: %w", addr, err)
	}
	kind := sockbroker.Datagram
	if strings.HasPrefix(network, "tcp") {
		kind = sockbroker.Stream
	}
	fds, err := host.Sockets(kind, sockbroker.FamilyOf(ap.Addr()), 1)
	if err != nil {
		return nil, err
	}
	return connectFD(ctx, fds[0], ap)
}

// mapped is a ListenSource that listens elsewhere than asked.
type mapped struct {
	to   listenMap
	next listener.ListenSource
}

// Listen is listener.ListenSource.
func (s mapped) Listen(a loop.Addr, n int, o listener.SocketOptions) ([]int, error) {
	if a.Path == "" {
		a.AddrPort = s.to.of(a.AddrPort)
	}
	return s.next.Listen(a, n, o)
}

// listenMap moves addresses with their port, or all ports of an address.
type listenMap struct {
	ports map[netip.AddrPort]netip.AddrPort
	addrs map[netip.Addr]netip.Addr
}

func (m listenMap) of(a netip.AddrPort) netip.AddrPort {
	if to, ok := m.ports[a]; ok {
		return to
	}
	if to, ok := m.addrs[a.Addr()]; ok {
		return netip.AddrPortFrom(to, a.Port())
	}
	return a
}

func parseListenMap(s string) (listenMap, error) {
	m := listenMap{map[netip.AddrPort]netip.AddrPort{}, map[netip.Addr]netip.Addr{}}
	for pair := range strings.SplitSeq(s, ",") {
		from, to, _ := strings.Cut(pair, "=")
		if f, err := netip.ParseAddrPort(from); err == nil {
			t, err := netip.ParseAddrPort(to)
			if err != nil {
				return m, fmt.Errorf("--listen-map: %q: %w", pair, err)
			}
			m.ports[f] = t
			continue
		}
		f, err := netip.ParseAddr(from)
		if err != nil {
			return m, fmt.Errorf("--listen-map: %q is not ADDR[:PORT]=ADDR[:PORT]", pair)
		}
		t, err := netip.ParseAddr(to)
		if err != nil {
			return m, fmt.Errorf("--listen-map: %q: %w", pair, err)
		}
		m.addrs[f] = t
	}
	return m, nil
}
