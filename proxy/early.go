package proxy

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/state"
)

// Early says where capture leads the connections that the workload makes.
type Early struct {
	Port        uint16
	Transparent bool // by TPROXY
	// Patience is how long they wait while there is no configuration; 0: listener.EarlyPatience.
	Patience time.Duration
}

// outboundListener is what Istio calls the listener that captured connections arrive at.
const outboundListener = "virtualOutbound"

// early keeps the workload's connections waiting, instead of refused, while there is no configuration: a program that calls somebody as it
// begins is served when the control plane has answered. The owner's lock guards it.
type early struct {
	config *listener.Config
}

// hold has connections wait, unless there is configuration already.
func (s *publisher) hold(e *Early) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e == nil || s.active[outboundListener] != nil {
		return
	}
	c := &listener.Config{Name: outboundListener, Direction: listener.Outbound, Address: netip.AddrPortFrom(netip.IPv4Unspecified(), e.Port),
		UseOriginalDst: true, HandOff: true, Early: cmp.Or(e.Patience, listener.EarlyPatience), Transparent: e.Transparent}
	for _, a := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		c.Binds = append(c.Binds, loop.Addr{AddrPort: netip.AddrPortFrom(a, e.Port)})
	}
	s.early = &early{c}
	s.listen(s.builder.State())
	s.live = false // nothing is served by that
}

// ends reports whether nobody has to wait any more: everything that came refers to has come too, or is not worth waiting for. s.mu is held.
func (s *publisher) ends(next *state.State, active map[string]*state.Listener) bool {
	f := &s.first
	if f.since.IsZero() {
		return false
	}
	in := wholeIn
	if next.View() != nil {
		in = demandedIn
	}
	lacks := f.worth(s.builder.Missing())
	if active[outboundListener] != nil && len(lacks) == 0 || f.waited() >= in {
		return true
	}
	s.again(lacks, in)
	return false
}
