package sockbroker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The methods below are for goroutines, which want package net's types.

// DialContext connects a socket of the server's namespace, as net.Dialer would one of
// this: network is tcp or udp, address an IP address and port. Names are not resolved.
func (c *Client) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := c.dial(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("dialing %s %s by socket broker: %w", network, address, err)
	}
	return conn, nil
}

func (c *Client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	kind, ok := map[string]Kind{"tcp": Stream, "udp": Datagram}[network]
	if !ok {
		return nil, net.UnknownNetworkError(network)
	}
	fds, err := c.Sockets(kind, FamilyOf(addr.Addr()), 1)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fds[0]), network) // non-blocking, so it waits in the runtime's poller
	defer f.Close()
	if err := connect(ctx, f, addr); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

func connect(ctx context.Context, f *os.File, addr netip.AddrPort) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	// The end of ctx wakes the wait below, by a deadline in the past.
	defer context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })()

	var result error
	asked := false
	err = raw.Write(func(fd uintptr) (done bool) {
		if !asked {
			asked = true
			result = unix.Connect(int(fd), sockaddr(addr))
			return !errors.Is(result, unix.EINPROGRESS)
		}
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			result = err
		case errno != 0:
			result = syscall.Errno(errno)
		default:
			// Writable and without an error, but perhaps by a spurious wake-up.
			_, result = unix.Getpeername(int(fd))
		}
		return !errors.Is(result, unix.ENOTCONN)
	})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	}
	return result
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if ip := a.Addr().Unmap(); ip.Is4() {
		return &unix.SockaddrInet4{Addr: ip.As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// Listener listens on addr in the server's namespace, alone on the port.
func (c *Client) Listener(addr netip.AddrPort) (net.Listener, error) {
	fds, err := c.Listen(addr, 1, false)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fds[0]), "listener")
	defer f.Close()
	return net.FileListener(f)
}

// PacketConn is a UDP socket bound to addr in the server's namespace, alone on the port.
func (c *Client) PacketConn(addr netip.AddrPort) (net.PacketConn, error) {
	fds, err := c.Bind(addr, 1, false)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fds[0]), "packet conn")
	defer f.Close()
	return net.FilePacketConn(f)
}
