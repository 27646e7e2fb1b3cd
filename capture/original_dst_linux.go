package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// soOriginalDst is SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST (linux/netfilter_ipv4.h,
// linux/netfilter_ipv6/ip6_tables.h).
const soOriginalDst = 80

// OriginalDst returns where the client of the accepted TCP socket fd meant to connect
// before a rule redirected it, or fd's own local address if no rule did. It asks the
// connection tracking of the namespace that the socket was made in, whichever
// namespace the caller is in. IPv4 clients of a dual-stack socket give an IPv4 address.
func OriginalDst(fd int) (netip.AddrPort, error) {
	local, err := localAddr(fd)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("original destination: %w", err)
	}
	original := original6
	if local.Addr().Is4() {
		original = original4
	}
	dst, err := original(fd)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOPROTOOPT):
		// Nothing tracks this connection, so nothing translated it.
		return local, nil
	case err != nil:
		return netip.AddrPort{}, fmt.Errorf("original destination: %w", err)
	}
	return dst, nil
}

func localAddr(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(inZone(netip.AddrFrom16(a.Addr).Unmap(), a.ZoneId), uint16(a.Port)), nil
	}
	return netip.AddrPort{}, errors.New("not an IP socket")
}

// x/sys has no call for these options; the two used below have results of the right size.

func original4(fd int) (netip.AddrPort, error) {
	v, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, soOriginalDst) // struct sockaddr_in: 16 bytes of 20
	if err != nil {
		return netip.AddrPort{}, err
	}
	sa := v.Multiaddr
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(sa[4:8])), binary.BigEndian.Uint16(sa[2:4])), nil
}

func original6(fd int) (netip.AddrPort, error) {
	v, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, soOriginalDst) // struct sockaddr_in6: 28 bytes of 32
	if err != nil {
		return netip.AddrPort{}, err
	}
	sa := v.Addr
	port := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, sa.Port))
	return netip.AddrPortFrom(inZone(netip.AddrFrom16(sa.Addr), sa.Scope_id), port), nil
}

func inZone(a netip.Addr, index uint32) netip.Addr {
	if index == 0 {
		return a
	}
	return a.WithZone(strconv.FormatUint(uint64(index), 10))
}
