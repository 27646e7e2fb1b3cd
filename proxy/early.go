package proxy

import (
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
}

// outboundListener is what Istio calls the listener that captured connections arrive at.
const outboundListener = "virtualOutbound"

// early keeps the workload's connections waiting, instead of refused, while there is no configuration: a program that calls somebody as it
// begins is served when the control plane has answered. The owner's lock guards it.
type early struct {
	config *listener.Config
	wait   *time.Timer // since listeners came; nil: none have
	over   bool        // what came is not whole in time: it serves as far as it goes
}

// wholeIn is how long the first configuration may be in coming once its listeners have.
const wholeIn = 5 * time.Second

// hold has connections wait, unless there is configuration already.
func (s *publisher) hold(e *Early) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e == nil || s.active[outboundListener] != nil {
		return
	}
	c := &listener.Config{Name: outboundListener, Direction: listener.Outbound, Address: netip.AddrPortFrom(netip.IPv4Unspecified(), e.Port),
		UseOriginalDst: true, HandOff: true, Early: true, Transparent: e.Transparent}
	for _, a := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		c.Binds = append(c.Binds, loop.Addr{AddrPort: netip.AddrPortFrom(a, e.Port)})
	}
	s.early = &early{config: c}
	s.listen(s.builder.State())
	s.live = false // nothing is served by that
}

// ends reports whether nobody has to wait any more: everything that came refers to has come too. s.mu is held.
func (s *publisher) ends(next *state.State, active map[string]*state.Listener) bool {
	e := s.early
	if e.over || active[outboundListener] != nil && len(s.builder.Missing()) == 0 {
		if e.wait != nil {
			e.wait.Stop()
		}
		return true
	}
	for range next.Listeners() {
		if e.wait == nil {
			e.wait = time.AfterFunc(wholeIn, func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				if e.over = true; s.early == e {
					s.listen(s.builder.State())
				}
			})
		}
		break
	}
	return false
}
