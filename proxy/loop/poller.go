package loop

import (
	"math"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"
)

// Poller is the kernel as a loop sees it: readiness, the clocks, and sockets.
// Implementations: epoll (Linux), kqueue (Darwin), and loop/mem (in memory, with
// virtual time). Only Wake may be called from another goroutine.
type Poller interface {
	// Add registers fd, edge-triggered, for everything. A descriptor that is
	// already ready is reported too.
	Add(fd int, t Token) syscall.Errno
	// Wait fills out with events and returns their number: after at most timeout
	// nanoseconds (negative: no limit; 0: at once), when Wake is called, or
	// earlier with none. With raw it may block the thread out of the
	// scheduler's sight for a few milliseconds.
	Wait(out []Event, timeout int64, raw bool) int
	// Wake makes a Wait under way, or the next one, return.
	Wake()
	// Now is a monotonic clock in nanoseconds, never 0; Wall the wall clock.
	Now() int64
	Wall() time.Time
	// End releases what the poller itself holds.
	End()

	Sockets
}

// Sockets are the socket calls. All are on non-blocking stream sockets, closed on
// exec; results are counts and errnos (0: no error), because errors are part of the
// ordinary path here. One value serves one goroutine; a descriptor serves any.
type Sockets interface {
	Socket(f Family) (fd int, errno syscall.Errno)
	Set(fd int, o Option, value int) syscall.Errno
	Bind(fd int, a Addr) syscall.Errno
	// Unlink removes the Unix socket at path that an earlier process left there, if it is one.
	Unlink(path string)
	Listen(fd, backlog int) syscall.Errno
	// Accept takes a connection off the queue of a listening socket.
	Accept(fd int) (nfd int, remote Addr, errno syscall.Errno)
	// Connect begins to connect: EINPROGRESS promises a Writable event.
	Connect(fd int, a Addr) syscall.Errno
	// Read returns 0 without errno at the end of the stream.
	Read(fd int, b []byte) (n int, errno syscall.Errno)
	Write(fd int, b []byte) (n int, errno syscall.Errno)
	// Write2 writes a and then b in one call.
	Write2(fd int, a, b []byte) (n int, errno syscall.Errno)
	Shutdown(fd int, how int) syscall.Errno // syscall.SHUT_RD, SHUT_WR, SHUT_RDWR
	Close(fd int)
	// SocketError fetches and clears the pending error (SO_ERROR).
	SocketError(fd int) syscall.Errno
	Local(fd int) Addr
	Remote(fd int) Addr
	// Unsent is how many written bytes the peer has not acknowledged; 0 if that is unknown.
	Unsent(fd int) int
	// OriginalDst is where the client meant to connect before a redirect rule of
	// the kernel (nftables REDIRECT) sent it here. Without a rule it fails, or,
	// once connection tracking is active, returns the local address.
	OriginalDst(fd int) (netip.AddrPort, syscall.Errno)
	// Pipe makes a pipe for Splice, which moves up to n bytes from in to out, one of
	// them a pipe's end, without their passing through the process. Systems without
	// it say ENOSYS.
	Pipe() (read, write int, errno syscall.Errno)
	Splice(in, out, n int) (moved int, errno syscall.Errno)
}

// Family is an address family.
type Family uint8

const (
	IPv4 Family = iota
	IPv6
	Unix
)

// Option is a socket option; Set takes 0 or 1 unless another unit is named.
type Option uint8

const (
	NoDelay      Option = iota // TCP_NODELAY; accepted sockets inherit it
	Keepalive                  // SO_KEEPALIVE; inherited
	KeepIdle                   // seconds of silence before the first probe; inherited
	KeepInterval               // seconds between probes; inherited
	KeepCount                  // unanswered probes that end the connection; inherited
	ResetOnClose               // SO_LINGER 0: closing sends RST and drops what is queued
	ReuseAddr                  // SO_REUSEADDR
	ReusePort                  // SO_REUSEPORT: a listening socket per worker
	V6Only                     // IPV6_V6ONLY
	Mark                       // SO_MARK, a number; Linux, NET_ADMIN
	FreeBind                   // IP_FREEBIND: bind to an address the machine does not have yet; Linux
	BindAddress                // IP_BIND_ADDRESS_NO_PORT: bind to an address, and choose the port when the other end is known; Linux
	Transparent                // IP_TRANSPARENT or IPV6_TRANSPARENT; Linux, NET_ADMIN or NET_RAW
	Deaf                       // no connection begins on a listening socket any more; those that have begun arrive. Linux; it is not undone
)

// Addr is where a stream socket connects or listens: an IP address and port or,
// with Path set, a Unix socket ("@name" is an abstract one, Linux). It is comparable.
type Addr struct {
	netip.AddrPort
	Path string
}

// TCP is the Addr of an IP address and port.
func TCP(a netip.AddrPort) Addr { return Addr{AddrPort: a} }

// IsValid reports whether a names anything.
func (a Addr) IsValid() bool { return a.Path != "" || a.AddrPort.IsValid() }

// Family of the socket that reaches a.
func (a Addr) Family() Family {
	switch {
	case a.Path != "":
		return Unix
	case a.Addr().Unmap().Is4():
		return IPv4
	}
	return IPv6
}

// String is "192.0.2.1:80", "[2001:db8::1]:80" or "unix:/path".
func (a Addr) String() string {
	if a.Path != "" {
		return "unix:" + a.Path
	}
	return a.AddrPort.String()
}

// DescriptorLimit is how many descriptors the process may have (RLIMIT_NOFILE), 0 if that
// is unknown.
func DescriptorLimit() int64 {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return int64(min(l.Cur, math.MaxInt64))
}

func unlink(path string) {
	if f, err := os.Lstat(path); err == nil && f.Mode()&os.ModeSocket != 0 {
		os.Remove(path)
	}
}

// zoneIndex is the interface number of an IPv6 zone, 0 if there is none.
func zoneIndex(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return uint32(i.Index)
	}
	return 0
}

// epoch makes Now comparable between all loops of a process. The extra second
// keeps 0 free to mean "never".
var epoch = time.Now().Add(-time.Second)

func monotonic() int64 { return int64(time.Since(epoch)) }
