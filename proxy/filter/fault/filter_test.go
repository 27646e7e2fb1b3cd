package fault_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/filter/fault"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/route"
)

// counter counts what became of requests.
type counter struct{ delayed, aborted, passed int }

func (c *counter) Begin(*http.Exchange) {}

func (c *counter) End(x *http.Exchange) {
	if x.Flags&causes.DelayInjected != 0 {
		c.delayed++
	}
	if x.Flags&causes.FaultInjected != 0 {
		c.aborted++
	} else {
		c.passed++
	}
}

// Shares are kept, delays and aborts strike independently, and the route's fault replaces the filter's.
func TestShares(t *testing.T) {
	const requests = 4000
	for _, c := range []struct {
		what             string
		own, route       *route.Fault
		header           string
		delayed, aborted float64 // shares
	}{
		{"nothing configured", nil, nil, "", 0, 0},
		{"a quarter aborted", nil, &route.Fault{AbortStatus: 500, AbortPer1M: 250_000, AbortGRPC: -1}, "", 0, 0.25},
		{"half delayed, half aborted", nil, &route.Fault{Delay: time.Millisecond, DelayPer1M: 500_000, AbortStatus: 500, AbortPer1M: 500_000, AbortGRPC: -1}, "", 0.5, 0.5},
		{"the filter's own", &route.Fault{AbortStatus: 500, AbortPer1M: 1_000_000, AbortGRPC: -1}, nil, "", 0, 1},
		{"the route's instead", &route.Fault{AbortStatus: 500, AbortPer1M: 1_000_000, AbortGRPC: -1}, &route.Fault{AbortGRPC: -1}, "", 0, 0},
		{"asked for less", nil, &route.Fault{HeaderAbort: true, AbortPer1M: 500_000}, "x-envoy-fault-abort-request: 503\r\nx-envoy-fault-abort-request-percentage: 10\r\n", 0, 0.1},
		{"asked for more than is configured", nil, &route.Fault{HeaderAbort: true, AbortPer1M: 500_000}, "x-envoy-fault-abort-request: 503\r\nx-envoy-fault-abort-request-percentage: 90\r\n", 0, 0.5},
		{"asked for nonsense", nil, &route.Fault{HeaderAbort: true, AbortPer1M: 1_000_000}, "x-envoy-fault-abort-request: 7\r\n", 0, 0},
		{"not asked", nil, &route.Fault{HeaderAbort: true, HeaderDelay: true, DelayPer1M: 1_000_000, AbortPer1M: 1_000_000}, "", 0, 0},
		{"asked for a delay", nil, &route.Fault{HeaderDelay: true, DelayPer1M: 1_000_000, AbortGRPC: -1}, "x-envoy-fault-delay-request: 3\r\n", 1, 0},
		{"asked for a gRPC status", nil, &route.Fault{HeaderAbort: true, AbortPer1M: 1_000_000}, "x-envoy-fault-abort-grpc-request: 14\r\n", 0, 1},
	} {
		n := mem.New()
		l := n.Loop(loop.Options{})
		var got counter
		w := http.NewWorker(http.Options{Loop: l, Observer: &got})
		table, err := route.New("t", "1", false, []*route.VirtualHost{{Domains: []string{"*"}, Entries: []*route.Entry{{When: route.When{Path: "/", Per1M: 1e6}, Direct: &route.Direct{Status: 200}, Fault: c.route}}}})
		if err != nil {
			t.Fatal(err)
		}
		cfg := &http.Config{Table: table, Stages: append(append([]http.Stage{http.Match()}, fault.Stages(c.own)...), http.Router())}
		p := serve(t, n, l, w, cfg)
		one := fmt.Appendf(nil, "GET / HTTP/1.1\r\nHost: a\r\n%s\r\n", c.header)
		for range requests / 100 {
			p.Send(bytes.Repeat(one, 100))
			n.Advance(time.Second)
			p.Recv()
		}
		if got.passed+got.aborted != requests {
			t.Errorf("%s: %d of %d requests were answered", c.what, got.passed+got.aborted, requests)
		}
		if d, a := float64(got.delayed)/requests, float64(got.aborted)/requests; !near(d, c.delayed) || !near(a, c.aborted) {
			t.Errorf("%s: %.3f delayed, %.3f aborted; want %.2f, %.2f", c.what, d, a, c.delayed, c.aborted)
		}
	}
}

// near: within 4 standard deviations of 4,000 draws, and exact at the ends.
func near(got, want float64) bool {
	if want == 0 || want == 1 {
		return got == want
	}
	return got > want-0.032 && got < want+0.032
}

func serve(t *testing.T, n *mem.Net, l *loop.Loop, w *http.Worker, cfg *http.Config) *mem.Peer {
	t.Helper()
	at := netip.MustParseAddrPort("10.0.0.1:80")
	p := l.Poller()
	fd, _ := p.Socket(loop.IPv4)
	p.Bind(fd, loop.TCP(at))
	if e := p.Listen(fd, 1); e != 0 {
		t.Fatal(e)
	}
	client, err := n.Dial(at)
	if err != nil {
		t.Fatal(err)
	}
	nfd, remote, e := p.Accept(fd)
	if e != 0 {
		t.Fatal(e)
	}
	c := conn.Accept(l, nfd, conn.Info{Remote: remote.AddrPort, Local: at}, nil)
	c.HandOver(w.Serve(c, cfg))
	return client
}
