package sandbox

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/local/netns"
)

// dialIn connects with a socket of the pod's namespace.
func dialIn(ctx context.Context, p *netns.Pod, to netip.AddrPort) (net.Conn, error) {
	fd := -1
	err := p.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("making a socket in a pod: %w", err)
	}
	f := os.NewFile(uintptr(fd), to.String())
	defer f.Close()
	if deadline, ok := ctx.Deadline(); ok {
		// The kernel bounds connect by the time for sending (socket(7)).
		tv := unix.NsecToTimeval(max(time.Until(deadline), time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
			return nil, err
		}
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", to, err)
	}
	return net.FileConn(f)
}
