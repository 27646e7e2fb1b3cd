package conn

import (
	"context"
	"syscall"

	"github.com/weirmesh/weir/internal/sockbroker"
	"github.com/weirmesh/weir/proxy/loop"
)

// Brokered is the SocketSource of a proxy whose outbound connections begin in another
// network namespace: sockets come from a broker there, through pools kept filled.
type Brokered struct {
	IPv4, IPv6 *sockbroker.Pool
	// Done ends orders under way; it is the life of the pools.
	Done context.Context
}

func (b Brokered) pool(f loop.Family) *sockbroker.Pool {
	switch f {
	case loop.IPv4:
		return b.IPv4
	case loop.IPv6:
		return b.IPv6
	}
	return nil
}

// Take is described at SocketSource. Unix sockets at a path belong to no network
// namespace and are made here.
func (b Brokered) Take(f loop.Family) (int, syscall.Errno) {
	p := b.pool(f)
	if p == nil {
		return loop.Kernel().Socket(f)
	}
	if fd, ok := p.Take(); ok {
		return fd, 0
	}
	return -1, syscall.EAGAIN
}

// Order is described at SocketSource.
func (b Brokered) Order(f loop.Family, done func(fd int, err error)) {
	go func() { done(b.pool(f).Wait(b.Done)) }()
}
