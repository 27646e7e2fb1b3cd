//go:build !linux

package sandbox

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/weirmesh/weir/local/netns"
)

func dialIn(context.Context, *netns.Pod, netip.AddrPort) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}
