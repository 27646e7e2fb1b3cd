package keys

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
)

// Guard keeps requests from addresses that mean another thing here than to who wrote a RequestAuthentication: this machine, its
// link (where clouds serve credentials), and what is no address of one host. It looks at what is dialled, after names were resolved
// and for every redirect. Prefixes in allowed are reached all the same. It is called before Run.
func (f *Fetcher) Guard(allowed []netip.Prefix) {
	t, ok := f.client.Transport.(*http.Transport)
	if !ok {
		return // somebody else's network
	}
	d := &net.Dialer{Control: func(_, address string, _ syscall.RawConn) error { return reachable(address, allowed) }}
	t.DialContext = d.DialContext
}

// reachable says why keys are not fetched from an address; nil if they are.
func reachable(address string, allowed []netip.Prefix) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("keys are fetched from addresses, not from %.100q", address)
	}
	ip := at.Addr().Unmap().WithZone("")
	what := ""
	switch {
	case slices.ContainsFunc(allowed, func(p netip.Prefix) bool { return p.Contains(ip) }):
		return nil
	case ip.IsLoopback():
		what = "the control plane's own machine"
	case ip.IsUnspecified():
		what = "no address of anybody"
	case ip.IsLinkLocalUnicast():
		what = "the link of the control plane's machine"
	case ip.IsMulticast(), ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		what = "not one machine"
	default:
		return nil
	}
	return fmt.Errorf("%s is %s, where keys are not fetched; if they are meant to be: weir-control --keys-allow=%s (pilot.keysAllow of the chart)", ip, what, netip.PrefixFrom(ip, ip.BitLen()))
}
