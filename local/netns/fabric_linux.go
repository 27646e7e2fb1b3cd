package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const bridgeName = "weir0"

// bridgeMAC is fixed: a bridge otherwise takes the lowest address of its ports, and every
// new pod could change the gateway's address under the neighbours' caches. The second bit
// of the first byte marks it as locally administered; the rest spells weir.
var bridgeMAC = net.HardwareAddr{0x02, 'w', 'e', 'i', 'r', 0}

func (f *Fabric) buildNetwork() error {
	if !f.Network.Gateway4.Addr().Is4() {
		return fmt.Errorf("gateway %v is not an IPv4 address with its network, such as 10.244.0.1/16", f.Network.Gateway4)
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); errors.Is(err, os.ErrNotExist) {
		f.Network.Gateway6 = netip.Prefix{}
	}
	if err := linkUp("lo"); err != nil {
		return err
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName, HardwareAddr: bridgeMAC}}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("adding a bridge: %w", err)
	}
	f.bridge = bridge.Index
	return linkUp(bridgeName, f.Network.Gateway4, f.Network.Gateway6)
}

// linkUp gives a link its addresses, the valid ones, and sets it up.
func linkUp(name string, addrs ...netip.Prefix) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("finding %s: %w", name, err)
	}
	for _, p := range addrs {
		if !p.IsValid() {
			continue
		}
		a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD // the fabric hands out each address once: no second of waiting
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return fmt.Errorf("adding %s to %s: %w", p, name, err)
		}
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("setting %s up: %w", name, err)
	}
	return nil
}

// podTable is who has which address.
type podTable struct {
	mu    sync.Mutex
	owner map[netip.Addr]string
	links int // names given to links so far
}

// take reserves addresses for a pod and returns a name for its link.
func (t *podTable) take(pod string, addrs []netip.Addr) (link string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range addrs {
		if other, taken := t.owner[a]; taken {
			return "", fmt.Errorf("address %s is pod %s's", a, other)
		}
	}
	if t.owner == nil {
		t.owner = map[netip.Addr]string{}
	}
	for _, a := range addrs {
		t.owner[a] = pod
	}
	t.links++
	return fmt.Sprintf("pod%d", t.links), nil
}

func (t *podTable) release(addrs []netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range addrs {
		delete(t.owner, a)
	}
}
