package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
)

// listenAdmin opens the admin interface at unix:///path or host:port; field is where the address was found. Whoever reaches it may end
// the proxy and read its configuration, and says no password: so it is for those on this machine only, and a Unix socket its owner's alone.
func listenAdmin(ctx context.Context, field, address string) (net.Listener, error) {
	path, ok := strings.CutPrefix(address, "unix://")
	if !ok {
		at, err := loopback(ctx, net.DefaultResolver.LookupNetIP, address)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at.String())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		return l, nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", field, err), l.Close())
	}
	return l, nil
}

// loopback is the address that host:port means. What is bound is what was looked at: a name may mean something else a moment later.
func loopback(ctx context.Context, lookup func(ctx context.Context, network, host string) ([]netip.Addr, error), address string) (netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: say 127.0.0.1:15000 or unix:///path", err)
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "tcp", service)
	if err != nil {
		return netip.AddrPort{}, err
	}
	const remedy = "the admin interface is for this machine only: use 127.0.0.1, [::1] or unix:///path, and weir-proxy request or a tunnel from elsewhere"
	if host == "" {
		return netip.AddrPort{}, fmt.Errorf("%q means all addresses; %s", address, remedy)
	}
	all, err := lookup(ctx, "ip", host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for _, a := range all {
		if !a.Unmap().IsLoopback() {
			return netip.AddrPort{}, fmt.Errorf("%s is not a loopback address (%s); %s", address, a.Unmap(), remedy)
		}
	}
	return netip.AddrPortFrom(all[0].Unmap(), uint16(port)), nil
}
