package listener

import (
	"cmp"
	"fmt"
	"strings"
	"syscall"

	"github.com/weirmesh/weir/internal/sockbroker"
	"github.com/weirmesh/weir/proxy/loop"
)

// ListenSource opens listening sockets. It may wait: loops do not call it.
type ListenSource interface {
	// Listen returns n sockets that listen on a; several share it by SO_REUSEPORT, one
	// for each worker. They are the caller's to close. With port 0 all get the same port.
	// A Unix socket cannot be shared and is one.
	Listen(a loop.Addr, n int, o SocketOptions) (fds []int, err error)
}

// SocketOptions are what must be set before a socket is bound.
type SocketOptions struct {
	Transparent, FreeBind bool
	Backlog               int // 0: backlog
}

// backlog of listening sockets; the kernel lowers it to net.core.somaxconn, whose
// default is this since Linux 5.4.
const backlog = 4096

// Sockets is the ListenSource that makes sockets itself, of the kernel (loop.Kernel)
// or of a network in memory.
type Sockets struct{ loop.Sockets }

// Listen is described at ListenSource.
func (s Sockets) Listen(a loop.Addr, n int, o SocketOptions) (fds []int, err error) {
	defer func() {
		if err != nil {
			for _, fd := range fds {
				s.Close(fd)
			}
			fds = nil
		}
	}()
	if a.Path != "" {
		n = 1
	}
	for range n {
		fd, e := s.Socket(a.Family())
		if e != 0 {
			return fds, fmt.Errorf("making a socket for %v: %w", a, e)
		}
		fds = append(fds, fd)
		if e := s.listen(fd, a, n > 1, o); e != 0 {
			return fds, fmt.Errorf("listening on %v: %w%s", a, e, hint(e))
		}
		if a.Path == "" && a.Port() == 0 {
			a = s.Local(fd)
		}
	}
	return fds, nil
}

func (s Sockets) listen(fd int, a loop.Addr, shared bool, o SocketOptions) syscall.Errno {
	type setting struct {
		option loop.Option
		on     bool
	}
	for _, x := range []setting{
		{loop.ReuseAddr, a.Path == ""},
		{loop.ReusePort, shared},
		{loop.V6Only, a.Family() == loop.IPv6}, // the IPv4 wildcard is a socket of its own
		{loop.FreeBind, o.FreeBind && a.Path == ""},
		{loop.Transparent, o.Transparent && a.Path == ""},
	} {
		if x.on {
			if e := s.Set(fd, x.option, 1); e != 0 {
				return e
			}
		}
	}
	if a.Path != "" {
		s.Unlink(a.Path)
	}
	if e := s.Bind(fd, a); e != 0 {
		return e
	}
	return s.Sockets.Listen(fd, cmp.Or(o.Backlog, backlog))
}

func hint(e syscall.Errno) string {
	switch e {
	case syscall.EADDRINUSE:
		return ": another program, or another listener, has this port"
	case syscall.EACCES, syscall.EPERM:
		return ": ports below 1024 and transparent sockets need privileges (NET_BIND_SERVICE, NET_ADMIN)"
	case syscall.EADDRNOTAVAIL:
		return ": this machine does not have the address"
	}
	return ""
}

// Broker is the ListenSource of a proxy whose listeners live in another network
// namespace.
type Broker struct{ Client *sockbroker.Client }

// Listen is described at ListenSource. The broker sets no option that needs privileges. A Unix socket at a path belongs
// to no network namespace and is made here; one with a name instead (unix:@NAME) would be in the wrong one.
func (b Broker) Listen(a loop.Addr, n int, o SocketOptions) ([]int, error) {
	switch {
	case strings.HasPrefix(a.Path, "@"):
		return nil, fmt.Errorf("listening on %v: the name would be one of the proxy's network namespace, and the workload has its own; use a path in the file system", a)
	case a.Path != "":
		return Sockets{loop.Kernel()}.Listen(a, n, o)
	case o.Transparent || o.FreeBind:
		return nil, fmt.Errorf("listening on %v: a socket broker makes plain TCP sockets only", a)
	}
	fds, err := b.Client.Listen(a.AddrPort, n, n > 1)
	if err != nil {
		return nil, fmt.Errorf("listening on %v: %w", a, err)
	}
	return fds, nil
}
