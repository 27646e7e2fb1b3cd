package http_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
)

// Thousands of endpoints are asked again and again: that leaves no garbage.
func TestChecksAllocateNothing(t *testing.T) {
	n := mem.New()
	l := n.Loop(loop.Options{})
	at := netip.MustParseAddrPort("10.2.0.1:80")
	listener, err := n.Listen(at)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster.Cluster{Name: "c", Service: cluster.Service{Host: "c.example.com"}, Limits: &cluster.Limits{}, ConnectTimeout: time.Second, Health: cluster.NewHealth(l, cluster.NewChecks(l, http.NewWorker(http.Options{Loop: l}))),
		Endpoints: []*cluster.Endpoint{{Addr: at}}, Check: &cluster.Check{Kind: cluster.CheckHTTP, Method: "GET", Path: "/health", Interval: time.Second, Timeout: time.Second, Unhealthy: 1, Healthy: 1}}
	c.Seal()
	n.Advance(time.Second)
	peer, buf, response := listener.Accept(), make([]byte, 4096), []byte(okResponse(0))
	exchange := func() {
		if peer.Take(buf) == 0 {
			t.Fatal("nobody asked")
		}
		peer.Send(response)
		n.Step()
		n.Advance(time.Second)
	}
	for range 100 {
		exchange()
	}
	if allocs := testing.AllocsPerRun(200, exchange); allocs != 0 {
		t.Errorf("%v allocations per check, want 0", allocs)
	}
	if ok, all := c.Health.Checked.Successes.Load(), c.Health.Checked.Attempts.Load(); ok < 300 || ok != all-1 {
		t.Errorf("%d of %d checks succeeded", ok, all)
	}
}
