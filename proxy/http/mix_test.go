package http_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/outbound"
	"github.com/weirmesh/weir/proxy/route"
)

// TestNothingMixes has clients and upstreams of both versions talk at random through one worker, whose exchanges, streams,
// codecs and buffers go from one request to the next: with bodies and trailers, in pieces, slowly, with early answers,
// interim heads, tunnels with half-close, retries, resets and ends at any moment, while states and configurations change. Whatever arrives, at
// either end, must be of its own request only, down to the byte; and in the end nothing may be left.
//
// MIX_SEED and MIX_RUNS repeat a run, or make more.
func TestNothingMixes(t *testing.T) {
	seed, runs := uint64(1), 8
	if n, err := strconv.ParseUint(os.Getenv("MIX_SEED"), 10, 64); err == nil {
		seed = n
	}
	if n, err := strconv.Atoi(os.Getenv("MIX_RUNS")); err == nil {
		runs = n
	}
	for range runs {
		mix(t, seed)
		seed++
		if t.Failed() {
			return
		}
	}
}

func mix(t *testing.T, seed uint64) {
	m := &mixer{t: t, seed: seed, r: rand.New(rand.NewPCG(seed, 0)), net: mem.New(), ids: map[int]int{}, sent: map[int]bool{}, harmed: map[int]bool{}}
	l := m.net.Loop(loop.Options{})
	seen := &balance{}
	w := http.NewWorker(http.Options{Loop: l, Observer: seen})
	limits := &cluster.Limits{}
	limits.MaxConnections.Store(6)
	limits.MaxPending.Store(100)
	limits.MaxRequests.Store(100)
	limits.MaxRetries.Store(10)
	s := &state{}
	var listeners [2]*mem.Listener
	for i, p := range []cluster.Protocol{cluster.HTTP1, cluster.HTTP2} {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 2, 0, byte(i)}), 80)
		listeners[i], _ = m.net.Listen(at)
		c := &cluster.Cluster{ID: cluster.ID(i), Limits: limits, ConnectTimeout: time.Second, Protocol: p, Endpoints: []*cluster.Endpoint{{ID: int32(i), Addr: at, Limits: limits}}}
		c.MaxRequestsPerConn = 20
		c.Seal()
		s.clusters = append(s.clusters, c)
	}
	retry := &route.Retry{On: route.On5xx | route.OnReset, Attempts: 2, BackoffBase: time.Millisecond, BackoffMax: 2 * time.Millisecond}
	f := &route.Forward{Clusters: []route.Weighted{{Cluster: 0, Weight: 1}, {Cluster: 1, Weight: 1}}, Total: 2, Retry: retry, Timeout: time.Minute}
	var err error
	s.table, err = route.New("t", "1", false, []*route.VirtualHost{{Domains: []string{"*"}, Entries: []*route.Entry{{When: route.When{Path: "/", Per1M: 1e6}, Forward: f}}}})
	if err != nil {
		t.Fatal(err)
	}
	w.SetState(s)
	cfg := &http.Config{TableName: "t", ServerName: []byte("proxy"), Stages: outbound.Stages(outbound.Options{}), StreamIdle: time.Minute, MaxRequests: 20, Upgrades: []string{"websocket"}}
	listen(t, l, front, func(c *conn.Conn) { c.HandOver(w.Serve(c, cfg)) })

	accept := func() {
		for i, l := range listeners {
			for p := l.Accept(); p != nil; p = l.Accept() {
				m.add(p, true, i == 1)
			}
		}
	}
	for range 3000 {
		accept()
		switch m.r.IntN(200) {
		case 0:
			next := *s
			s = &next
			w.SetState(s)
		case 1:
			next := *cfg
			cfg = &next
			w.Adopt(func(*http.Config, *conn.Info) *http.Config { return cfg }, time.Second)
		case 2:
			m.net.Advance(time.Duration(m.r.IntN(200)) * time.Millisecond)
		case 3, 4, 5, 6, 7, 8, 9:
			if m.clients < 6 {
				p, err := m.net.Dial(front)
				if err != nil {
					t.Fatal(err)
				}
				m.add(p, false, m.r.IntN(2) == 0)
			}
		}
		if len(m.links) > 0 {
			m.links[m.r.IntN(len(m.links))].step()
		}
		m.net.Step()
		if t.Failed() {
			return
		}
	}
	// What is under way comes to its end when nobody does any harm: neither a window nor a turn was lost on the way.
	m.calm = true
	for n := 0; m.asking() > 0; n++ {
		if n > 3000 {
			m.fatal("%d requests are stuck", m.asking())
			return
		}
		accept()
		for _, k := range slices.Clone(m.links) {
			k.slow = false
			if !k.over {
				k.step()
			}
		}
		m.net.Advance(time.Millisecond)
		if t.Failed() {
			return
		}
	}
	for _, k := range m.links {
		k.p.Reset()
	}
	for _, l := range listeners {
		l.Close()
	}
	m.net.Advance(2 * time.Hour)
	if got := w.Pool().Counts(); w.Active() != 0 || seen.begun != seen.ended || got.Busy+got.Idle+got.Connecting+got.Waiting != 0 ||
		limits.Connections.Load() != 0 || limits.Pending.Load() != 0 || limits.Requests.Load() != 0 || limits.Retries.Load() != 0 || m.net.Open() != 1 || l.Panics() != 0 {
		m.fatal("left: %d exchanges, %d of %d ended, pool %+v, %d sockets, %d panics", w.Active(), seen.ended, seen.begun, got, m.net.Open(), l.Panics())
	}
	if whole, some := m.ids[whole], len(m.ids); whole < some/4 || some < 30 {
		m.fatal("of %d requests only %d were answered as a whole: nothing is tested", some, whole)
	}
}

const whole = -1 // in mixer.ids: how many answers came as a whole

// mixer holds what a run needs.
type mixer struct {
	t       *testing.T
	seed    uint64
	r       *rand.Rand
	net     *mem.Net
	links   []*link
	clients int
	calm    bool
	ids     map[int]int // times a request reached an upstream
	last    int
	sent    map[int]bool // requests and tunnels that a client has said to the end
	harmed  map[int]bool // that somebody ended before their time
}

// asking counts requests that clients wait for.
func (m *mixer) asking() (n int) {
	for _, k := range m.links {
		if !k.server {
			n += len(k.talks)
		}
	}
	return n
}

// fatal is for what must not be.
func (m *mixer) fatal(format string, args ...any) {
	m.t.Helper()
	m.t.Errorf("seed %d: %s", m.seed, fmt.Sprintf(format, args...))
}

// plan is what a message has, by the number of its request.
type plan struct {
	body     int
	known    bool // its length
	trailers bool
	pads     int
	tunnel   bool // WebSocket; body is what this end sends by it
}

func planOf(id int, response bool) (p plan) {
	side := uint64(0)
	if response {
		side = 1
	}
	r := rand.New(rand.NewPCG(uint64(id), side))
	if r.IntN(3) > 0 {
		p.body = r.IntN([]int{10, 1000, 20000, 150000}[r.IntN(4)])
	}
	p.known, p.trailers, p.pads = r.IntN(2) == 0, r.IntN(3) == 0, r.IntN(6)
	if p.tunnel = id%12 == 0; p.tunnel {
		p.known, p.trailers = false, false
	}
	return p
}

func octet(id, at int, response bool) byte {
	if response {
		id += 101
	}
	return byte(id*31 + at*7 + at>>8)
}
