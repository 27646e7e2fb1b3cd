//go:build !linux

package capture

import (
	"errors"
	"net/netip"
)

// OriginalDst is for Linux: only there can connections be redirected.
func OriginalDst(int) (netip.AddrPort, error) {
	return netip.AddrPort{}, errors.New("original destination: connections are redirected on Linux only; use --capture=env")
}
