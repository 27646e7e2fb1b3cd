package tcp_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/tcp"
)

// A connection to an endpoint that does not answer goes to another one after half a second, without using up an attempt; who comes
// meanwhile does not ask it, and five seconds later it is tried again. Where there is no other, it is waited for.
func TestSilentEndpoint(t *testing.T) {
	n := mem.New()
	gone, there := netip.MustParseAddrPort("10.0.1.1:80"), netip.MustParseAddrPort("10.0.1.2:80")
	both, one := newCluster(0, "both", gone.String(), there.String()), newCluster(1, "one", gone.String())
	both.ConnectTimeout, one.ConnectTimeout = 10*time.Second, 10*time.Second
	ln, err := n.Listen(there)
	if err != nil {
		t.Fatal(err)
	}
	n.Silence(gone, true)
	first, second := start(t, n, at(entry, nil), to(0), tcp.Options{}, both), start(t, n, at("10.0.0.2:15001", nil), to(1), tcp.Options{}, one)
	connect := func(to string) {
		if _, err := n.Dial(netip.MustParseAddrPort(to)); err != nil {
			t.Fatal(err)
		}
		n.Step()
	}
	accepted := func() (k int) {
		for ln.Accept() != nil {
			k++
		}
		return k
	}
	const many = 20
	for range many {
		connect(entry)
	}
	at := accepted()
	if at == 0 || at == many {
		t.Fatalf("%d of %d are there at once: the test needs some of both", at, many)
	}
	n.Advance(cluster.Silence + time.Millisecond)
	if at += accepted(); at != many {
		t.Errorf("%d of %d after half a second", at, many)
	}
	for range many {
		connect(entry)
	}
	if at := accepted(); at != many {
		t.Errorf("%d of %d go past the silent endpoint", at, many)
	}
	connect("10.0.0.2:15001")
	n.Advance(cluster.Avoided)
	second.want()
	for range many {
		connect(entry)
	}
	if at := accepted(); at == many {
		t.Error("nobody tries the silent endpoint again")
	}
	n.Advance(5 * time.Second)
	second.want("upstream_reset_before_response_started{connection_timeout} received 0 sent 0 one")
	first.want()
}
