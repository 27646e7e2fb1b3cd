package http_test

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/h1"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/outbound"
	"github.com/weirmesh/weir/proxy/route"
)

type balance struct {
	begun, ended int
	last         string // details and flags of the last one that ended
}

func (b *balance) Begin(*http.Exchange) { b.begun++ }
func (b *balance) End(x *http.Exchange) {
	b.ended++
	b.last = x.Details + " " + x.Flags.String()
}

// FuzzExchange lets any bytes come from the client and from upstreams, in any
// pieces, with ends and resets between them. Nothing may panic, and when all is
// over nothing may be left: no exchange, no connection, no count.
func FuzzExchange(f *testing.F) {
	f.Add([]byte(getRequest), []byte(okResponse(10)), []byte{0, 1, 2, 3})
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), []byte("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"), []byte{10, 20, 30, 41, 2, 3, 4})
	f.Add([]byte("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nabc"), []byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\ndef"), []byte{255, 1, 200, 3, 12, 13})
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc"), []byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\n\r\nHTTP/1.0 200 OK\r\n\r\nuntil"), []byte{9, 8, 7, 6, 5})
	f.Add([]byte("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\nearly"), []byte("HTTP/1.1 200 OK\r\n\r\nlate"), []byte{255, 1, 200, 3, 12, 13, 4, 12})
	f.Add([]byte("CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n\r\nearly"), []byte("raw"), []byte{255, 1, 200, 3, 12, 13, 4, 12})
	f.Add([]byte("\x16\x03\x01"), []byte("SSH-2.0\r\n"), []byte{1})
	// HTTP/2: the client's bytes say so, for upstreams the first step does.
	two := hello2(http2.ClientPreface)
	for id := uint32(1); id < 12; id += 2 {
		two = append(two, onStream(frames2(20*(int(id)&2), ":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/", "te", "trailers"), id)...)
	}
	answers := hello2("")
	for id := uint32(1); id < 12; id += 2 {
		answers = append(answers, onStream(frames2(30, ":status", "200", "grpc-status", "14"), id)...)
	}
	f.Add(two, []byte(okResponse(30)), []byte{121, 121, 2, 2, 2, 7, 7})
	f.Add(two, answers, []byte{255, 121, 2, 121, 2, 7, 15, 7, 2, 2, 61})
	f.Add([]byte(getRequest+getRequest), answers, []byte{255, 121, 2, 121, 2, 7, 15, 7, 2, 2, 61})
	tunnel := append(hello2(http2.ClientPreface), onStream(frames2(10, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "a", ":path", "/"), 1)...)
	f.Add(tunnel, answers, []byte{255, 121, 2, 121, 2, 7})
	f.Add(append([]byte("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAQAAAAF\r\n\r\n"), two...), answers, []byte{255, 121, 2, 121, 2, 7, 15, 7, 2, 2, 61})
	f.Fuzz(func(t *testing.T, client, upstream, plan []byte) {
		n := mem.New()
		l := n.Loop(loop.Options{})
		seen := &balance{}
		w := http.NewWorker(http.Options{Loop: l, Observer: seen})
		limits := &cluster.Limits{}
		limits.MaxConnections.Store(2)
		limits.MaxPending.Store(2)
		limits.MaxRequests.Store(10)
		limits.MaxRetries.Store(2)
		c := &cluster.Cluster{Name: "c", Limits: limits}
		if len(plan) > 0 && plan[0] == 255 {
			c.Protocol = cluster.HTTP2
		}
		var listeners []*mem.Listener
		for i, a := range []string{"10.2.0.1:80", "10.2.0.2:80"} {
			at := netip.MustParseAddrPort(a)
			c.Endpoints = append(c.Endpoints, &cluster.Endpoint{ID: int32(i), Addr: at, Limits: limits})
			ln, err := n.Listen(at)
			if err != nil {
				t.Fatal(err)
			}
			listeners = append(listeners, ln)
		}
		c.Seal()
		retry := &route.Retry{On: route.On5xx | route.OnReset | route.OnConnectFailure, Attempts: 2, HostAttempts: 2, OtherHosts: true, BackoffBase: time.Millisecond, BackoffMax: 10 * time.Millisecond, PerTryTimeout: 3 * time.Second}
		to := func(f route.Forward) *route.Forward {
			f.Clusters, f.Total, f.Timeout = []route.Weighted{{Weight: 1}}, 1, 10*time.Second
			return &f
		}
		tunnel := route.When{Kind: route.PathConnect, Per1M: 1e6}
		table, err := route.New("t", "1", false, []*route.VirtualHost{
			{Domains: []string{"b:80"}, Entries: []*route.Entry{{When: tunnel, Forward: to(route.Forward{Upgrades: []route.Upgrade{{Name: "connect", Enabled: true, Terminate: true}}})}}},
			{Domains: []string{"*"}, Entries: []*route.Entry{
				{When: tunnel, Forward: to(route.Forward{})},
				{When: route.When{Path: "/", Per1M: 1e6}, Fault: &route.Fault{Delay: time.Millisecond, DelayPer1M: 500_000, AbortGRPC: -1}, Forward: to(route.Forward{Retry: retry})},
			}}})
		if err != nil {
			t.Fatal(err)
		}
		w.SetState(&state{clusters: []*cluster.Cluster{c}, table: table})
		cfg := &http.Config{TableName: "t", Stages: outbound.Stages(outbound.Options{}), Upgrades: []string{"websocket", "connect"}, StreamIdle: time.Minute,
			HTTP1: h1.Rules{HTTP10: true, DefaultHost: "d", Names: h1.PreserveOrProperCase}, Underscores: http.UnderscoresDrop, Via: []byte("via"), MaxDuration: 20 * time.Minute, DurationJitter: 0.1}
		listen(t, l, front, func(c *conn.Conn) { c.HandOver(w.Serve(c, cfg)) })

		var peers, ups []*mem.Peer
		dial := func() *mem.Peer {
			p, err := n.Dial(front)
			if err != nil {
				t.Fatal(err)
			}
			peers = append(peers, p)
			return p
		}
		p := dial()
		rest := client
		for i, step := range plan {
			if i > 200 {
				break
			}
			for _, l := range listeners {
				for u := l.Accept(); u != nil; u = l.Accept() {
					ups, peers = append(ups, u), append(peers, u)
				}
			}
			var u *mem.Peer
			if len(ups) > 0 {
				u = ups[int(step)%len(ups)]
			}
			switch k := int(step >> 3); step & 7 {
			case 0, 1: // the client sends
				k = min(max(k*len(client)/8, 1), len(rest))
				p.Send(rest[:k])
				rest = rest[k:]
			case 2, 3: // an upstream sends
				if u != nil && len(upstream) > 0 {
					u.Send(upstream[min(k, len(upstream)-1):])
				}
			case 4: // an end
				if k&1 == 0 {
					p.CloseWrite()
				} else if u != nil {
					u.CloseWrite()
				}
			case 5: // a reset
				if k&1 == 0 {
					p.Reset()
					p, rest = dial(), client
				} else if u != nil {
					u.Reset()
				}
			case 6:
				n.Advance(time.Duration(k*k) * time.Millisecond)
			case 7:
				p.Recv()
				if u != nil {
					u.Recv()
				}
			}
			n.Step()
		}
		for _, p := range peers {
			p.Reset()
		}
		for _, l := range listeners {
			l.Close()
		}
		n.Advance(2 * time.Hour)
		if got := w.Pool().Counts(); w.Active() != 0 || seen.begun != seen.ended || got.Busy+got.Idle+got.Connecting+got.Waiting != 0 ||
			limits.Connections.Load() != 0 || limits.Pending.Load() != 0 || limits.Requests.Load() != 0 || limits.Retries.Load() != 0 ||
			c.Endpoints[0].Active.Load() != 0 || c.Endpoints[1].Active.Load() != 0 {
			t.Fatalf("left: %d exchanges, %d of %d begun ended, pool %+v, limits %d %d %d %d", w.Active(), seen.ended, seen.begun, got,
				limits.Connections.Load(), limits.Pending.Load(), limits.Requests.Load(), limits.Retries.Load())
		}
		if n.Open() != 1 {
			t.Fatalf("%d sockets are open", n.Open())
		}
		if l.Panics() != 0 {
			t.Fatal("a callback panicked")
		}
	})
}
