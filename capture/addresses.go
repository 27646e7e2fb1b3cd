package capture

import (
	"net"
	"net/netip"
)

// HasIPv6 reports whether an interface of the calling thread's network namespace has an IPv6 address that others can reach.
func HasIPv6() (bool, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false, err
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is6() && p.Addr().IsGlobalUnicast() {
			return true, nil
		}
	}
	return false, nil
}
