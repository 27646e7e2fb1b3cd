package loop

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sockets are the socket calls of Linux, none of which blocks and none of which
// allocates but the ones that return an address.
type sockets struct {
	sa  unix.RawSockaddrAny // scratch; a loop is one thread
	iov [2]unix.Iovec
	msg unix.Msghdr
}

// Kernel is the kernel's sockets without a poller, for who makes sockets off the loops.
func Kernel() Sockets { return &sockets{} }

func (*sockets) Socket(f Family) (int, syscall.Errno) {
	fd, _, e := syscall.RawSyscall(syscall.SYS_SOCKET, domain(f), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return int(fd), e
}

func domain(f Family) uintptr {
	return [...]uintptr{IPv4: unix.AF_INET, IPv6: unix.AF_INET6, Unix: unix.AF_UNIX}[f]
}

func (s *sockets) Set(fd int, o Option, value int) syscall.Errno {
	set := func(level, name int, p unsafe.Pointer, n uintptr) syscall.Errno {
		_, _, e := syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(p), n, 0)
		return e
	}
	v := int32(value)
	number := func(level, name int) syscall.Errno { return set(level, name, unsafe.Pointer(&v), 4) }
	switch o {
	case NoDelay:
		return number(unix.IPPROTO_TCP, unix.TCP_NODELAY)
	case Keepalive:
		return number(unix.SOL_SOCKET, unix.SO_KEEPALIVE)
	case KeepIdle:
		return number(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
	case KeepInterval:
		return number(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)
	case KeepCount:
		return number(unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
	case ResetOnClose:
		l := unix.Linger{Onoff: v}
		return set(unix.SOL_SOCKET, unix.SO_LINGER, unsafe.Pointer(&l), unsafe.Sizeof(l))
	case ReuseAddr:
		return number(unix.SOL_SOCKET, unix.SO_REUSEADDR)
	case ReusePort:
		return number(unix.SOL_SOCKET, unix.SO_REUSEPORT)
	case V6Only:
		return number(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
	case Mark:
		return number(unix.SOL_SOCKET, unix.SO_MARK)
	case FreeBind:
		return number(unix.SOL_IP, unix.IP_FREEBIND) // IPv6 sockets heed it too
	case BindAddress:
		return number(unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT) // IPv6 sockets heed it too
	case Transparent:
		// The first fails on an IPv6 socket in an IPv6-only kernel, the second on an IPv4 one.
		e4, e6 := number(unix.SOL_IP, unix.IP_TRANSPARENT), number(unix.SOL_IPV6, unix.IPV6_TRANSPARENT)
		if e4 == 0 || e6 == 0 {
			return 0
		}
		return e4
	case Deaf:
		// The filter sees TCP segments from their header on; what has SYN set goes nowhere. The ACK that ends a handshake has not.
		program := [...]unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},
			{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jf: 1, K: 0x02},
			{Code: unix.BPF_RET | unix.BPF_K},
			{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
		}
		f := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
		return set(unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, unsafe.Pointer(&f), unsafe.Sizeof(f))
	}
	return syscall.ENOPROTOOPT
}

// encode writes a into s.sa and returns its length, 0 if it cannot be expressed.
func (s *sockets) encode(a Addr) uintptr {
	switch a.Family() {
	case Unix:
		u := (*unix.RawSockaddrUnix)(unsafe.Pointer(&s.sa))
		*u = unix.RawSockaddrUnix{Family: unix.AF_UNIX}
		if len(a.Path) >= len(u.Path) {
			return 0
		}
		for i := range len(a.Path) {
			u.Path[i] = int8(a.Path[i])
		}
		n := 2 + uintptr(len(a.Path))
		if a.Path[0] == '@' {
			u.Path[0] = 0 // abstract: the length ends the name
			return n
		}
		return n + 1
	case IPv4:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(&s.sa))
		*in = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: a.Addr().Unmap().As4()}
		putPort(&in.Port, a.Port())
		return unix.SizeofSockaddrInet4
	}
	if !a.AddrPort.IsValid() {
		return 0
	}
	in := (*unix.RawSockaddrInet6)(unsafe.Pointer(&s.sa))
	*in = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: a.Addr().As16(), Scope_id: zoneIndex(a.Addr().Zone())}
	putPort(&in.Port, a.Port())
	return unix.SizeofSockaddrInet6
}

func putPort(p *uint16, port uint16) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(p))[:], port)
}

func getPort(p *uint16) uint16 { return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:]) }

// decode reads s.sa. IPv4-mapped addresses of dual-stack sockets become IPv4.
func (s *sockets) decode(n uint32) Addr {
	switch s.sa.Addr.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(&s.sa))
		return TCP(netip.AddrPortFrom(netip.AddrFrom4(in.Addr), getPort(&in.Port)))
	case unix.AF_INET6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(&s.sa))
		ip := netip.AddrFrom16(in.Addr).Unmap()
		if in.Scope_id != 0 && ip.Is6() {
			ip = ip.WithZone(strconv.FormatUint(uint64(in.Scope_id), 10))
		}
		return TCP(netip.AddrPortFrom(ip, getPort(&in.Port)))
	case unix.AF_UNIX:
		u := (*unix.RawSockaddrUnix)(unsafe.Pointer(&s.sa))
		path := make([]byte, 0, len(u.Path))
		for i := 0; i+2 < int(n) && i < len(u.Path); i++ {
			if u.Path[i] == 0 && i > 0 {
				break
			}
			path = append(path, byte(u.Path[i]))
		}
		if len(path) > 0 && path[0] == 0 {
			path[0] = '@'
		}
		if len(path) == 0 {
			return Addr{Path: "@"} // an unnamed peer
		}
		return Addr{Path: string(path)}
	}
	return Addr{}
}

func (s *sockets) Bind(fd int, a Addr) syscall.Errno {
	n := s.encode(a)
	if n == 0 {
		return syscall.EINVAL
	}
	_, _, e := syscall.RawSyscall(syscall.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&s.sa)), n)
	return e
}

func (*sockets) Unlink(path string) { unlink(path) }

func (*sockets) Listen(fd, backlog int) syscall.Errno {
	_, _, e := syscall.RawSyscall(syscall.SYS_LISTEN, uintptr(fd), uintptr(backlog), 0)
	return e
}

func (s *sockets) Accept(fd int) (int, Addr, syscall.Errno) {
	n := uint32(unsafe.Sizeof(s.sa))
	nfd, _, e := syscall.RawSyscall6(syscall.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&s.sa)), uintptr(unsafe.Pointer(&n)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if e != 0 {
		return -1, Addr{}, e
	}
	return int(nfd), s.decode(n), 0
}

func (s *sockets) Connect(fd int, a Addr) syscall.Errno {
	n := s.encode(a)
	if n == 0 {
		return syscall.EINVAL
	}
	_, _, e := syscall.RawSyscall(syscall.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&s.sa)), n)
	return e
}

func (*sockets) Read(fd int, b []byte) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

func (*sockets) Write(fd int, b []byte) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

func (s *sockets) Write2(fd int, a, b []byte) (int, syscall.Errno) {
	s.iov[0].Base, s.iov[1].Base = unsafe.SliceData(a), unsafe.SliceData(b)
	s.iov[0].SetLen(len(a))
	s.iov[1].SetLen(len(b))
	s.msg.Iov = &s.iov[0]
	s.msg.SetIovlen(2)
	n, _, e := syscall.RawSyscall(syscall.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&s.msg)), unix.MSG_NOSIGNAL)
	s.iov[0].Base, s.iov[1].Base = nil, nil
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

func (*sockets) Shutdown(fd int, how int) syscall.Errno {
	_, _, e := syscall.RawSyscall(syscall.SYS_SHUTDOWN, uintptr(fd), uintptr(how), 0)
	return e
}

func (*sockets) Close(fd int) { syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(fd), 0, 0) }

func (*sockets) SocketError(fd int) syscall.Errno {
	v, n := int32(0), uint32(4)
	_, _, e := syscall.RawSyscall6(syscall.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ERROR, uintptr(unsafe.Pointer(&v)), uintptr(unsafe.Pointer(&n)), 0)
	if e != 0 {
		return e
	}
	return syscall.Errno(v)
}

func (*sockets) Unsent(fd int) int {
	v := int32(0)
	_, _, e := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(fd), unix.SIOCOUTQ, uintptr(unsafe.Pointer(&v)))
	if e != 0 {
		return 0
	}
	return int(v)
}

func (s *sockets) Local(fd int) Addr  { return s.name(syscall.SYS_GETSOCKNAME, fd) }
func (s *sockets) Remote(fd int) Addr { return s.name(syscall.SYS_GETPEERNAME, fd) }

func (s *sockets) name(call uintptr, fd int) Addr {
	n := uint32(unsafe.Sizeof(s.sa))
	_, _, e := syscall.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&s.sa)), uintptr(unsafe.Pointer(&n)))
	if e != 0 {
		return Addr{}
	}
	return s.decode(n)
}

// soOriginalDst is SO_ORIGINAL_DST of linux/netfilter_ipv4.h, and
// IP6T_SO_ORIGINAL_DST of linux/netfilter_ipv6/ip6_tables.h.
const soOriginalDst = 80

func (s *sockets) OriginalDst(fd int) (netip.AddrPort, syscall.Errno) {
	// A dual-stack socket with an IPv4-mapped peer answers at the IPv4 level only.
	var first syscall.Errno
	for i, level := range [...]uintptr{unix.SOL_IP, unix.SOL_IPV6} {
		n := uint32(unsafe.Sizeof(s.sa))
		_, _, e := syscall.RawSyscall6(syscall.SYS_GETSOCKOPT, uintptr(fd), level, soOriginalDst, uintptr(unsafe.Pointer(&s.sa)), uintptr(unsafe.Pointer(&n)), 0)
		if e == 0 {
			return s.decode(n).AddrPort, 0
		}
		if i == 0 {
			first = e
		}
	}
	return netip.AddrPort{}, first
}

// PipeSize is what Pipe asks the kernel for: one splice then moves what a fast link
// brings in about a millisecond. An unprivileged user has 64 MB of such pipes
// (pipe-user-pages-soft); beyond, pipes are smaller and splices shorter.
const PipeSize = 1 << 20

func (*sockets) Pipe() (int, int, syscall.Errno) {
	var fds [2]int32
	_, _, e := syscall.RawSyscall(syscall.SYS_PIPE2, uintptr(unsafe.Pointer(&fds)), unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if e != 0 {
		return -1, -1, e
	}
	syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(fds[1]), unix.F_SETPIPE_SZ, PipeSize)
	return int(fds[0]), int(fds[1]), 0
}

func (*sockets) Splice(in, out, n int) (int, syscall.Errno) {
	k, _, e := syscall.RawSyscall6(syscall.SYS_SPLICE, uintptr(in), 0, uintptr(out), 0, uintptr(n), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	if e != 0 {
		return 0, e
	}
	return int(k), 0
}
