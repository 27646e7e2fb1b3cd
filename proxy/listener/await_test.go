package listener_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/demand"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/xds/ondemand"
)

// A connection whose listener is in the index and not there waits for it, unread, whatever the client says or does not
// say. What is not in the index goes by what caught it, at once.
func TestAwaitingListeners(t *testing.T) {
	w := newWorld(t, 1)
	catch := plain("catch", "127.0.0.1:15001")
	catch.UseOriginalDst, catch.HandOff, catch.Direction = true, true, listener.Outbound
	at := func(name, addr string) *listener.Config {
		c := plain(name)
		c.Direction, c.Address = listener.Outbound, netip.MustParseAddrPort(addr)
		return c
	}
	w.apply(catch)
	view := &demand.View{Index: ondemand.Of("10.0.0.1_80", "0.0.0.0_90", "fd00::1_80", "::_70", "10.0.0.9_80")}
	w.demand.Changed(view)
	held := func(want int) {
		t.Helper()
		w.n.Step()
		if n, _ := w.demands.Held(); n != want || w.workers[0].Waiting() != want {
			t.Errorf("%d held, %d waiting, want %d", n, w.workers[0].Waiting(), want)
		}
	}

	w.dialVia("127.0.0.1:15001", "192.0.2.1:80")
	w.want("catch/only open")

	exact := w.dialVia("127.0.0.1:15001", "10.0.0.1:80")
	exact.Send([]byte("words"))
	w.dialVia("127.0.0.1:15001", "10.0.0.2:90") // its server speaks first
	w.dialVia("127.0.0.1:15001", "[fd00::1]:80")
	w.dialVia("127.0.0.1:15001", "[fd00::2]:70")
	gone := w.dialVia("127.0.0.1:15001", "10.0.0.9:80")
	held(5)
	w.want()
	if add, _ := w.demands.Take(); len(add) != 5 {
		t.Errorf("asked for %v", add)
	}
	gone.Reset()
	held(4)
	w.apply(catch, at("10.0.0.1_80", "10.0.0.1:80"))
	w.n.Step()
	w.want("10.0.0.1_80/only open", `only data "words"`)
	held(3)
	if n := w.group.Connections("10.0.0.1_80"); n != 1 {
		t.Errorf("%d connections of the listener that came", n)
	}
	w.apply(catch, at("10.0.0.1_80", "10.0.0.1:80"), at("0.0.0.0_90", "0.0.0.0:90"))
	w.n.Step()
	w.want("0.0.0.0_90/only open")

	// Told that there is none, it goes by what is there.
	w.demand.Changed(&demand.View{Index: view.Index, Absent: map[string]bool{"fd00::1_80": true}})
	w.n.Step()
	w.want("catch/only open")
	held(1)
	w.n.Advance(demand.Patience + time.Millisecond)
	w.want("refused by catch: the configuration of its destination did not come in time, or too much waits for some already")
	held(0)
	if n := w.group.Connections("catch"); n != 2 {
		t.Errorf("%d connections of the listener that caught them", n)
	}

	// What has a listener for all addresses waits for its own first.
	w.demand.Changed(&demand.View{Index: ondemand.Of("10.0.0.3_90", "0.0.0.0_90")})
	w.dialVia("127.0.0.1:15001", "10.0.0.3:90")
	held(1)
	w.dialVia("127.0.0.1:15001", "10.0.0.4:90")
	w.want("0.0.0.0_90/only open")
	w.demand.Changed(nil)
	w.n.Step()
	w.want("0.0.0.0_90/only open")

	// There is a limit, and an end.
	w.demand.Changed(view)
	var peers []*mem.Peer
	for range demand.MaxHeld {
		peers = append(peers, w.dialVia("127.0.0.1:15001", "10.0.0.9:80"))
		w.n.Step()
	}
	held(demand.MaxHeld)
	w.dialVia("127.0.0.1:15001", "10.0.0.9:80")
	w.want("refused by catch: the configuration of its destination did not come in time, or too much waits for some already")
	w.demand.Close()
	for range demand.MaxHeld / 100 {
		w.n.Step()
	}
	held(0)
	if len(w.log) != len(peers) {
		t.Errorf("%d refused at the end, want %d", len(w.log), len(peers))
	}
}
