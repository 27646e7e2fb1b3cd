package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// connectFD connects a socket made elsewhere and makes a net.Conn of it. It takes fd over.
func connectFD(ctx context.Context, fd int, to netip.AddrPort) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), to.String())
	defer func() { _ = f.Close() }()
	var sa unix.Sockaddr
	if to.Addr().Unmap().Is4() {
		sa = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().Unmap().As4()}
	} else {
		sa = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := f.SetDeadline(deadline); err != nil && !errors.Is(err, os.ErrNoDeadline) {
			return nil, err
		}
	}
	var first error
	if err := raw.Control(func(fd uintptr) { first = unix.Connect(int(fd), sa) }); err != nil {
		return nil, err
	}
	if errors.Is(first, unix.EINPROGRESS) {
		// Writable means connected, or failed: SO_ERROR tells.
		if err := raw.Write(func(fd uintptr) bool {
			n, e := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 0)
			return e != nil || n > 0
		}); err != nil {
			return nil, err
		}
		if err := raw.Control(func(fd uintptr) {
			if e, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err != nil {
				first = err
			} else if e != 0 {
				first = unix.Errno(e)
			} else {
				first = nil
			}
		}); err != nil {
			return nil, err
		}
	}
	if first != nil {
		return nil, first
	}
	return net.FileConn(f)
}
