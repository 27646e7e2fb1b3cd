package loop

import (
	"errors"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// sockets are the socket calls of Darwin.
type sockets struct{}

func errnoOf(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return e
	}
	return syscall.EINVAL
}

// Kernel is the kernel's sockets without a poller, for who makes sockets off the loops.
func Kernel() Sockets { return sockets{} }

func (sockets) Socket(f Family) (int, syscall.Errno) {
	domain := [...]int{IPv4: unix.AF_INET, IPv6: unix.AF_INET6, Unix: unix.AF_UNIX}[f]
	// Darwin has no SOCK_CLOEXEC; the lock keeps a fork from slipping between.
	syscall.ForkLock.RLock()
	fd, err := unix.Socket(domain, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return -1, errnoOf(err)
	}
	return fd, errnoOf(unix.SetNonblock(fd, true))
}

func (sockets) Set(fd int, o Option, value int) syscall.Errno {
	number := func(level, name int) syscall.Errno {
		return errnoOf(unix.SetsockoptInt(fd, level, name, value))
	}
	switch o {
	case NoDelay:
		return number(unix.IPPROTO_TCP, unix.TCP_NODELAY)
	case Keepalive:
		return number(unix.SOL_SOCKET, unix.SO_KEEPALIVE)
	case KeepIdle:
		return number(unix.IPPROTO_TCP, unix.TCP_KEEPALIVE)
	case KeepInterval:
		return number(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)
	case KeepCount:
		return number(unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
	case ResetOnClose:
		return errnoOf(unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: int32(value)}))
	case ReuseAddr:
		return number(unix.SOL_SOCKET, unix.SO_REUSEADDR)
	case ReusePort:
		return number(unix.SOL_SOCKET, unix.SO_REUSEPORT)
	case V6Only:
		return number(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
	}
	return syscall.ENOPROTOOPT
}

func encode(a Addr) unix.Sockaddr {
	switch a.Family() {
	case Unix:
		return &unix.SockaddrUnix{Name: a.Path}
	case IPv4:
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().Unmap().As4()}
	}
	if !a.AddrPort.IsValid() {
		return nil
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: zoneIndex(a.Addr().Zone())}
}

func decode(sa unix.Sockaddr) Addr {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return TCP(netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)))
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(sa.Addr).Unmap()
		if sa.ZoneId != 0 && ip.Is6() {
			ip = ip.WithZone(strconv.FormatUint(uint64(sa.ZoneId), 10))
		}
		return TCP(netip.AddrPortFrom(ip, uint16(sa.Port)))
	case *unix.SockaddrUnix:
		if sa.Name == "" {
			return Addr{Path: "@"} // an unnamed peer
		}
		return Addr{Path: sa.Name}
	}
	return Addr{}
}

func (sockets) Bind(fd int, a Addr) syscall.Errno {
	sa := encode(a)
	if sa == nil {
		return syscall.EINVAL
	}
	return errnoOf(unix.Bind(fd, sa))
}

func (sockets) Unlink(path string) { unlink(path) }

func (sockets) Listen(fd, backlog int) syscall.Errno { return errnoOf(unix.Listen(fd, backlog)) }

func (sockets) Accept(fd int) (int, Addr, syscall.Errno) {
	syscall.ForkLock.RLock()
	nfd, sa, err := unix.Accept(fd)
	if err == nil {
		unix.CloseOnExec(nfd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return -1, Addr{}, errnoOf(err)
	}
	return nfd, decode(sa), errnoOf(unix.SetNonblock(nfd, true))
}

func (sockets) Connect(fd int, a Addr) syscall.Errno {
	sa := encode(a)
	if sa == nil {
		return syscall.EINVAL
	}
	return errnoOf(unix.Connect(fd, sa))
}

func (sockets) Read(fd int, b []byte) (int, syscall.Errno) {
	n, err := unix.Read(fd, b)
	return max(n, 0), errnoOf(err)
}

func (sockets) Write(fd int, b []byte) (int, syscall.Errno) {
	n, err := unix.Write(fd, b) // EPIPE raises a SIGPIPE that Go's runtime ignores on sockets
	return max(n, 0), errnoOf(err)
}

func (sockets) Write2(fd int, a, b []byte) (int, syscall.Errno) {
	n, err := unix.SendmsgBuffers(fd, [][]byte{a, b}, nil, nil, 0)
	return max(n, 0), errnoOf(err)
}

func (sockets) Shutdown(fd int, how int) syscall.Errno { return errnoOf(unix.Shutdown(fd, how)) }
func (sockets) Close(fd int)                           { unix.Close(fd) }

func (sockets) SocketError(fd int) syscall.Errno {
	v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return errnoOf(err)
	}
	return syscall.Errno(v)
}

func (sockets) Local(fd int) Addr {
	sa, _ := unix.Getsockname(fd)
	return decode(sa)
}

func (sockets) Remote(fd int) Addr {
	sa, _ := unix.Getpeername(fd)
	return decode(sa)
}

// soNWrite is SO_NWRITE of sys/socket.h.
const soNWrite = 0x1024

func (sockets) Unsent(fd int) int {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, soNWrite)
	if err != nil {
		return 0
	}
	return n
}

func (sockets) OriginalDst(int) (netip.AddrPort, syscall.Errno) {
	return netip.AddrPort{}, syscall.ENOPROTOOPT // no redirect capture on Darwin
}

func (sockets) Pipe() (int, int, syscall.Errno)           { return -1, -1, syscall.ENOSYS }
func (sockets) Splice(int, int, int) (int, syscall.Errno) { return 0, syscall.ENOSYS }
