package capture

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Verify proves that rules with these ports are in force in the network namespace of
// the calling process: it connects where nobody listens and awaits itself at the inbound
// port. Rules change as a whole, so that this rule stands for all. It needs no right, and
// tries until ctx ends: rules may come from outside (a CNI plugin). Istio's own rules
// pass, too, if the caller is the user they exempt.
func Verify(ctx context.Context, inbound, probe uint16) error {
	target := netip.AddrPortFrom(Passthrough4, probe)
	// A redirected packet that was made here goes to 127.0.0.1: nobody else's arrives.
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), inbound).String())
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		// A proxy is there already. That the connection succeeds must do.
	case err != nil:
		return fmt.Errorf("verifying the capture rules: %w", err)
	default:
		defer func() { _ = l.Close() }()
	}
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	var last error
	for {
		err := arrives(ctx, l, target)
		switch {
		case err == nil:
			return nil
		case last == nil || !errors.Is(err, os.ErrDeadlineExceeded): // the end cuts an attempt short: that is no reason
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the rules that capture this pod's connections are not in force: a connection to %s, where nobody listens, does not reach port %d: %w", target, inbound, last)
		case <-again.C:
		}
	}
}

// arrives connects to target and expects the connection at l.
func arrives(ctx context.Context, l net.Listener, target netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp4", target.String())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if l == nil {
		return nil
	}
	deadline, _ := ctx.Deadline()
	if err := l.(*net.TCPListener).SetDeadline(deadline); err != nil {
		return err
	}
	for {
		in, err := l.Accept()
		if err != nil {
			return fmt.Errorf("something else answered there: %w", err)
		}
		ours := in.RemoteAddr().String() == c.LocalAddr().String()
		_ = in.Close()
		if ours {
			return nil
		}
	}
}

// InForce asks the same of a namespace whose proxy runs, by one connection that ends as it begins; the proxy takes no notice of it. An error
// says that it cannot be told now.
func InForce(ctx context.Context, inbound, probe uint16) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp4", netip.AddrPortFrom(Passthrough4, probe).String())
	if err == nil {
		_ = c.(*net.TCPConn).SetLinger(0) // nothing of it stays behind
		return true, c.Close()
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return false, err
	}
	// Refused by nobody at the probe's port, or, redirected, by nobody at the inbound one?
	l, busy := (&net.ListenConfig{}).Listen(ctx, "tcp4", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), inbound).String())
	switch {
	case errors.Is(busy, unix.EADDRINUSE):
		return false, nil
	case busy == nil:
		_ = l.Close()
	}
	return false, err
}
