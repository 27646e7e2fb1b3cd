package mesh

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"

	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/loop"
)

// capture stands in for the kernel's rules around a captured workload: where a connection
// to the proxy was going follows from the loopback address it comes from.
type capture struct {
	w  *Workload
	mu sync.Mutex
	to map[netip.Addr]netip.AddrPort
	at map[netip.AddrPort]netip.Addr
}

// captureFirst and captureMost bound the addresses that connections come from:
// 127.W.200.1 on, beyond those of services.
const (
	captureFirst = 200
	captureMost  = 50 * 250
)

// from is the address from which connections go to dst.
func (c *capture) from(dst netip.AddrPort) (netip.Addr, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a, ok := c.at[dst]; ok {
		return a, nil
	}
	n := len(c.at)
	if n == captureMost {
		return netip.Addr{}, fmt.Errorf("%d destinations are called already", n)
	}
	a := c.w.addr(byte(captureFirst+n/250), byte(n%250+1))
	c.to[a], c.at[dst] = dst, a
	return a, nil
}

// captured is a poller of a captured workload's proxy.
type captured struct {
	loop.Poller
	c *capture
}

// OriginalDst is described at loop.Sockets.
func (p captured) OriginalDst(fd int) (netip.AddrPort, syscall.Errno) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	dst, ok := p.c.to[p.Remote(fd).Addr()]
	if !ok {
		return netip.AddrPort{}, syscall.ENOENT
	}
	return dst, 0
}

// outboundPort is where capture sends what programs call.
const outboundPort = 15001

// DialAt connects a captured workload's program to an address, whether anything is there
// or not.
func (w *Workload) DialAt(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
	from, err := w.capture.from(dst)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}}
	return d.DialContext(ctx, "tcp", netip.AddrPortFrom(w.IP(), outboundPort).String())
}

// address is where a captured program goes for host:port: a service's virtual address, or
// the address itself.
func (w *Workload) address(target string) (netip.AddrPort, error) {
	host, text, err := net.SplitHostPort(target)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return netip.AddrPortFrom(a, uint16(port)), nil
	}
	s, err := w.service(host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if len(s.Addresses) == 0 {
		return netip.AddrPort{}, fmt.Errorf("%s has no virtual address", s.Hostname)
	}
	a, err := netip.ParseAddr(s.Addresses[0])
	return netip.AddrPortFrom(a, uint16(port)), err
}

// loopback is where nothing is redirected.
var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// here is the loopback address of a captured workload, who all share those of this machine.
func (w *Workload) here(at netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(w.addr(0, 4), at.Port())
}

// own listens on a workload's own address wherever every address of IPv4, or loopback, was asked for.
type own struct {
	moved
	w *Workload
}

// Listen is described at listener.ListenSource.
func (s own) Listen(a loop.Addr, n int, o listener.SocketOptions) ([]int, error) {
	switch {
	case a.Path != "":
	case a.Addr().Is6():
		return nil, syscall.EADDRNOTAVAIL
	case a.Addr() == loopback:
		a.AddrPort = s.w.here(a.AddrPort)
	}
	return s.moved.Listen(a, n, o)
}
