package sockbroker

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// backlog is the kernel's own limit (net.core.somaxconn) since Linux 5.4.
const backlog = 4096

// pair returns the two ends of a connection.
func pair() (mine, theirs *os.File, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(p[0]), "socket broker"), os.NewFile(uintptr(p[1]), "socket broker"), nil
}

// open makes one socket of the calling thread's network namespace.
func open(r request, mark uint32) (fd int, err error) {
	domain, typ := unix.AF_INET, unix.SOCK_STREAM
	if r.family == IPv6 {
		domain = unix.AF_INET6
	}
	if r.kind == Datagram || r.kind == Bind {
		typ = unix.SOCK_DGRAM
	}
	fd, err = unix.Socket(domain, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if !r.bound() {
		if mark != 0 {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
				return -1, fmt.Errorf("marking a socket: %w", err)
			}
		}
		return fd, nil
	}

	type option struct{ level, name int }
	var options []option
	if r.kind == Listen {
		options = append(options, option{unix.SOL_SOCKET, unix.SO_REUSEADDR}) // connections in TIME_WAIT do not hold the port
	}
	if r.reusePort {
		options = append(options, option{unix.SOL_SOCKET, unix.SO_REUSEPORT})
	}
	if r.family == IPv6 {
		options = append(options, option{unix.SOL_IPV6, unix.IPV6_V6ONLY}) // so that 0.0.0.0 and [::] can both be had
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, 1); err != nil {
			return -1, fmt.Errorf("socket option %d of level %d: %w", o.name, o.level, err)
		}
	}
	if err := unix.Bind(fd, sockaddr(r.addr)); err != nil {
		return -1, fmt.Errorf("bind: %w", err)
	}
	if r.kind == Listen {
		if err := unix.Listen(fd, backlog); err != nil {
			return -1, fmt.Errorf("listen: %w", err)
		}
	}
	return fd, nil
}
