package pool_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/cluster/pool"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
)

// member is a connection without a protocol.
type member struct {
	pool.Item
	streams uint32 // carried at once; 0: that is agreed on when it opens
	agreed  uint32
	ended   bool // a request
}

func (m *member) Pooled() *pool.Item { return &m.Item }
func (m *member) Goodbye()           {}
func (m *member) Open(c *conn.Conn) {
	if m.streams == 0 {
		heir := &member{streams: m.agreed}
		m.Become(heir)
		c.SetHandler(heir)
		m = heir
	}
	m.Opened(m.streams)
}
func (m *member) Data(_ *conn.Conn, b []byte) int   { return len(b) }
func (m *member) EOF(c *conn.Conn)                  { c.Close() }
func (m *member) Drained(*conn.Conn)                {}
func (m *member) Closed(_ *conn.Conn, why conn.Why) { m.Item.Closed(why) }

// client asks for one connection.
type client struct {
	name string
	w    pool.Waiter
	m    *member
	log  *[]string

	leaves bool // when abandoned
	fresh  bool
}

func (c *client) release() {
	c.m.ended = true
	c.m.Release()
}

func (c *client) Connected(m pool.Member) {
	c.m = m.(*member)
	if c.fresh && c.m.ended {
		*c.log = append(*c.log, c.name+" has a kept connection")
		return
	}
	*c.log = append(*c.log, c.name+" connected")
}

func (c *client) NotConnected(_ netip.AddrPort, why conn.Why) {
	*c.log = append(*c.log, fmt.Sprintf("%s failed: %v", c.name, why.Kind))
}

func (c *client) Abandoned() {
	*c.log = append(*c.log, c.name+" abandoned")
	if c.leaves {
		c.w.Cancel()
	}
}

func (c *client) Silent(int64) {
	*c.log = append(*c.log, c.name+" hears nothing")
	if c.leaves {
		c.w.Cancel()
	}
}

type world struct {
	net     *mem.Net
	pools   []*pool.Pool
	cluster *cluster.Cluster
	streams uint32 // that new connections carry
	agreed  uint32 // if that is 0
	log     []string
}

func newWorld(t testing.TB, workers, endpoints int) *world {
	w := &world{net: mem.New(), streams: 1}
	l := &cluster.Limits{}
	for _, m := range []interface{ Store(uint32) }{&l.MaxConnections, &l.MaxPending, &l.MaxRequests, &l.MaxRetries} {
		m.Store(cluster.Unlimited)
	}
	w.cluster = &cluster.Cluster{Name: "c", Limits: l}
	for i := range endpoints {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 2, 0, byte(i + 1)}), 80)
		w.cluster.Endpoints = append(w.cluster.Endpoints, &cluster.Endpoint{ID: int32(i), Addr: at, Limits: l})
		if _, err := w.net.Listen(at); err != nil {
			t.Fatal(err)
		}
	}
	w.cluster.Seal()
	g := &pool.Group{}
	for range workers {
		lp := w.net.Loop(loop.Options{})
		w.pools = append(w.pools, pool.New(pool.Options{Loop: lp, Group: g, New: func(*cluster.Cluster, cluster.Protocol) (pool.Member, uint32) {
			return &member{streams: w.streams, agreed: w.agreed}, w.streams
		},
			Target: func(_ *cluster.Cluster, e *cluster.Endpoint, _ cluster.Protocol) conn.Target {
				return conn.Target{Addr: loop.TCP(e.Addr)}
			}}))
	}
	return w
}

func (w *world) get(name string, worker, endpoint int) *client {
	return w.ask(&client{name: name}, worker, endpoint)
}

func (w *world) ask(c *client, worker, endpoint int) *client {
	c.log, c.w.Client = &w.log, c
	name := c.name
	m, result := w.pools[worker].Get(w.cluster, w.cluster.Endpoints[endpoint], w.cluster.Protocol, &c.w, c.fresh)
	switch result {
	case pool.Lent:
		c.m = m.(*member)
		w.log = append(w.log, name+" lent")
	case pool.Overflow:
		w.log = append(w.log, name+" overflow")
	case pool.Waiting:
	}
	w.net.Step()
	return c
}

func (w *world) want(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(w.log, want) {
		t.Errorf("happened: %s; want: %s", strings.Join(w.log, ", "), strings.Join(want, ", "))
	}
	w.log = nil
}

// A limit of one connection is one over all workers: an idle connection of another worker makes room, a busy one is
// waited for, and its place comes to the worker that waits.
func TestLimitHoldsAcrossWorkers(t *testing.T) {
	w := newWorld(t, 2, 1)
	w.cluster.Limits.MaxConnections.Store(1)
	a := w.get("a", 0, 0)
	a.m.Release()
	b := w.get("b", 1, 0)
	w.want(t, "a connected", "b connected")
	if n := w.pools[0].Counts(); n.Idle != 0 {
		t.Errorf("worker 0 still has %+v", n)
	}
	c := w.get("c", 0, 0)
	w.want(t)
	if got := w.cluster.Limits.Connections.Load(); got != 1 {
		t.Errorf("%d connections, want 1", got)
	}
	b.m.Release()
	w.net.Step()
	w.want(t, "c connected")
	c.m.Discard(true)
	w.net.Step()
	if got := w.cluster.Limits.Connections.Load() + w.cluster.Limits.Pending.Load(); got != 0 {
		t.Errorf("%d left in the limits", got)
	}
}

// Who waits first is served first, by a connection that comes back or by a new one, whichever is sooner; the one that
// comes too late is kept.
func TestQueue(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.net.Silence(w.cluster.Endpoints[0].Addr, false)
	a := w.get("a", 0, 0)
	w.want(t, "a connected")
	w.net.Silence(w.cluster.Endpoints[0].Addr, true)
	w.get("b", 0, 0)
	w.get("c", 0, 0)
	w.want(t)
	if n := w.pools[0].Counts(); n != (pool.Counts{Busy: 1, Connecting: 2, Waiting: 2}) {
		t.Errorf("%+v", n)
	}
	a.m.Release()
	w.want(t, "b connected")
	w.net.Advance(11 * time.Second)
	w.want(t, "c hears nothing", "c failed: connecting timed out")
	if n := w.pools[0].Counts(); n != (pool.Counts{Busy: 1}) {
		t.Errorf("%+v", n)
	}
}

// Who has just found a kept connection dead waits for a new one, although another one comes back before it: that may be
// as dead, when a machine was slow for as long as servers keep connections.
func TestFreshMeansNew(t *testing.T) {
	w := newWorld(t, 1, 1)
	a := w.get("a", 0, 0)
	w.net.Silence(w.cluster.Endpoints[0].Addr, true)
	w.ask(&client{name: "b", fresh: true}, 0, 0)
	w.get("c", 0, 0)
	a.release()
	w.want(t, "a connected", "c connected")
	w.net.Advance(11 * time.Second)
	w.net.Silence(w.cluster.Endpoints[0].Addr, false)
	w.want(t, "b hears nothing", "b failed: connecting timed out")
	w.ask(&client{name: "d", fresh: true}, 0, 0)
	w.want(t, "d connected")

	// Where there is no place for another connection, the one that came back gives its own.
	w = newWorld(t, 1, 1)
	w.cluster.Limits.MaxConnections.Store(1)
	a = w.get("a", 0, 0)
	w.ask(&client{name: "b", fresh: true}, 0, 0)
	w.want(t, "a connected")
	a.release()
	w.net.Step()
	w.want(t, "b connected")
}

func TestPendingOverflow(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.cluster.Limits.MaxPending.Store(1)
	w.net.Silence(w.cluster.Endpoints[0].Addr, true)
	b := w.get("b", 0, 0)
	w.get("c", 0, 0)
	w.want(t, "c overflow")
	b.w.Cancel()
	w.get("d", 0, 0)
	w.want(t)
	if got := w.cluster.Limits.Pending.Load(); got != 1 {
		t.Errorf("%d pending, want 1", got)
	}
}

// The number of an endpoint that left may be given to another one: neither gets the other's connections.
func TestRetire(t *testing.T) {
	w := newWorld(t, 1, 2)
	old := w.cluster.Endpoints[0]
	a, b := w.get("a", 0, 0), w.get("b", 0, 0)
	a.m.Release()
	old.Gone.Store(true)
	w.pools[0].Retire(old, func() { w.log = append(w.log, "unused") })
	w.net.Step()
	w.want(t, "a connected", "b connected")
	if n := w.pools[0].Counts(); n != (pool.Counts{Busy: 1}) {
		t.Errorf("after retiring: %+v", n)
	}
	b.m.Release()
	w.net.Step()
	w.want(t, "unused")

	successor := &cluster.Endpoint{ID: old.ID, Addr: w.cluster.Endpoints[1].Addr, Limits: w.cluster.Limits}
	w.cluster.Endpoints[0] = successor
	c := w.get("c", 0, 0)
	if c.m.Endpoint != successor || c.m.Conn.Info().Remote != successor.Addr {
		t.Errorf("the successor's request went to %v", c.m.Conn.Info().Remote)
	}
	w.cluster.Endpoints[0] = old // an exchange that chose before
	d := w.get("d", 0, 0)
	if d.m.Endpoint != old || d.m.Conn.Info().Remote != old.Addr {
		t.Errorf("the old endpoint's request went to %v", d.m.Conn.Info().Remote)
	}
	d.m.Release()
	w.net.Step()
	if n := w.pools[0].Counts(); n != (pool.Counts{Busy: 1}) {
		t.Errorf("the old endpoint's connection was kept: %+v", n)
	}
	never := &cluster.Endpoint{ID: 7, Limits: w.cluster.Limits}
	w.log = nil
	w.pools[0].Retire(never, func() { w.log = append(w.log, "unused") })
	w.want(t, "unused")
}

// Endpoints by original destination are one per address, and leave no trace.
func TestOriginalDst(t *testing.T) {
	w := newWorld(t, 1, 1)
	at := w.cluster.Endpoints[0].Addr
	w.cluster.Endpoints = []*cluster.Endpoint{w.pools[0].OriginalDst(w.cluster, at)}
	a := w.get("a", 0, 0)
	if again := w.pools[0].OriginalDst(w.cluster, at); again != w.cluster.Endpoints[0] {
		t.Error("the same address is two endpoints while it is used")
	}
	a.m.Release()
	w.get("b", 0, 0).m.Release()
	w.want(t, "a connected", "b lent")
	w.net.Advance(2 * time.Hour)
	if n := w.pools[0].Counts(); n != (pool.Counts{}) {
		t.Errorf("%+v", n)
	}
	if again := w.pools[0].OriginalDst(w.cluster, at); again == w.cluster.Endpoints[0] {
		t.Error("the endpoint is kept though nothing uses it")
	}
}

func TestConnectionsWearOut(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.cluster.MaxRequestsPerConn = 2
	a := w.get("a", 0, 0)
	if a.m.Last() {
		t.Error("the first of two requests is said to be the last")
	}
	a.m.Release()
	b := w.get("b", 0, 0)
	if b.m != a.m || !b.m.Last() || !b.m.Reused() {
		t.Error("the second request should be the last one of the first connection")
	}
	b.m.Release()
	w.net.Step()
	if n := w.pools[0].Counts(); n != (pool.Counts{}) {
		t.Errorf("%+v", n)
	}
	w.cluster.MaxRequestsPerConn, w.cluster.MaxConnectionDuration = 0, time.Minute
	c := w.get("c", 0, 0)
	w.net.Advance(time.Minute)
	c.m.Release()
	w.net.Step()
	if n := w.pools[0].Counts(); n != (pool.Counts{}) {
		t.Errorf("%+v", n)
	}
}

// Whatever three workers do, no limit is ever exceeded, and once all is given back everybody was served and nothing is left.
func TestPoolProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, 3, 2)
		l := w.cluster.Limits
		most := rapid.IntRange(1, 4).Draw(rt, "max")
		w.streams = rapid.Uint32Range(1, 3).Draw(rt, "streams")
		l.MaxConnections.Store(uint32(most))
		var open []*client
		check := func() {
			if n := l.Connections.Load(); int(n) > most {
				rt.Fatalf("%d connections, at most %d", n, most)
			}
			if i := slices.IndexFunc(w.log, func(s string) bool { return strings.HasSuffix(s, "has a kept connection") }); i >= 0 {
				rt.Fatal(w.log[i])
			}
			busy := 0
			for _, p := range w.pools {
				busy += p.Counts().Busy
			}
			if busy > most {
				rt.Fatalf("%d busy connections, at most %d", busy, most)
			}
		}
		for i := range rapid.IntRange(1, 40).Draw(rt, "steps") {
			switch rapid.IntRange(0, 4).Draw(rt, "op") {
			case 0, 1:
				open = append(open, w.ask(&client{name: fmt.Sprint(i), fresh: rapid.Bool().Draw(rt, "fresh")}, rapid.IntRange(0, 2).Draw(rt, "worker"), rapid.IntRange(0, 1).Draw(rt, "endpoint")))
			case 2:
				if len(open) > 0 {
					k := rapid.IntRange(0, len(open)-1).Draw(rt, "release")
					if c := open[k]; c.m != nil {
						c.release()
						open = slices.Delete(open, k, k+1)
					}
				}
			case 3:
				if len(open) > 0 {
					k := rapid.IntRange(0, len(open)-1).Draw(rt, "discard")
					if c := open[k]; c.m != nil {
						c.m.Discard(rapid.Bool().Draw(rt, "hard"))
					} else {
						c.w.Cancel()
					}
					open = slices.Delete(open, k, k+1)
				}
			case 4:
				if len(open) > 0 {
					if c := open[rapid.IntRange(0, len(open)-1).Draw(rt, "leave")]; c.m != nil {
						if rapid.Bool().Draw(rt, "goaway") {
							c.m.Leave()
						} else {
							c.m.SetStreams(rapid.Uint32Range(1, 3).Draw(rt, "settings"))
						}
					}
				}
			}
			w.net.Step()
			check()
		}
		for range 1000 {
			if len(open) == 0 {
				break
			}
			k := slices.IndexFunc(open, func(c *client) bool { return c.m != nil })
			if k < 0 {
				rt.Fatalf("%d requests wait and nobody has a connection", len(open))
			}
			open[k].release()
			open = slices.Delete(open, k, k+1)
			w.net.Step()
			check()
		}
		w.net.Advance(2 * time.Hour)
		for i, p := range w.pools {
			if n := p.Counts(); n != (pool.Counts{}) {
				rt.Fatalf("worker %d is left with %+v", i, n)
			}
		}
		if l.Connections.Load() != 0 || l.Pending.Load() != 0 {
			rt.Fatalf("%d connections, %d pending are left", l.Connections.Load(), l.Pending.Load())
		}
	})
}

// Requests that wait share the connection that is dialled for the first of them, up to what it carries; further ones
// share it as long as there is room, and then another one is dialled.
func TestShare(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.streams = 3
	at := w.cluster.Endpoints[0].Addr
	w.net.Silence(at, true)
	for i := range 4 {
		w.get(fmt.Sprint(i), 0, 0)
	}
	if n := w.pools[0].Counts(); n != (pool.Counts{Connecting: 2, Waiting: 4}) {
		t.Errorf("while connecting: %+v", n)
	}
	w.net.Advance(11 * time.Second)
	w.want(t, "0 hears nothing", "1 hears nothing", "2 hears nothing", "3 hears nothing", "0 failed: connecting timed out", "1 failed: connecting timed out", "2 failed: connecting timed out", "3 failed: connecting timed out")
	w.net.Silence(at, false)
	var cs []*client
	for i := range 4 {
		cs = append(cs, w.get(fmt.Sprint(i), 0, 0))
	}
	w.want(t, "0 connected", "1 lent", "2 lent", "3 connected")
	if cs[0].m != cs[1].m || cs[0].m != cs[2].m || cs[3].m == cs[0].m {
		t.Error("the first three should share a connection")
	}
	cs[0].m.SetStreams(1)
	cs[0].m.Release()
	cs[1].m.Release()
	if w.get("4", 0, 0).m != cs[3].m {
		t.Error("a connection took a request beyond what its peer permits now")
	}
	cs[3].m.Leave()
	cs[2].m.Release()
	if w.get("5", 0, 0).m != cs[0].m {
		t.Error("a connection that leaves took a request")
	}
	cs[3].m.Release()
	if n := w.pools[0].Counts(); n != (pool.Counts{Busy: 2}) {
		t.Errorf("%+v", n)
	}
	cs[3].m.Release()
	w.net.Step()
	if n := w.pools[0].Counts(); n != (pool.Counts{Busy: 1}) {
		t.Errorf("%+v", n)
	}
}

// A shared connection that is never idle does not keep its place for ever: it takes no more requests once somebody waits
// for the place, and who waited gets it before its own worker does.
func TestSharedConnectionYields(t *testing.T) {
	w := newWorld(t, 2, 1)
	w.streams = 100
	w.cluster.Limits.MaxConnections.Store(1)
	a := w.get("a", 0, 0)
	w.get("b", 0, 0)
	c := w.get("c", 1, 0)
	d := w.get("d", 0, 0)
	w.want(t, "a connected", "b lent")
	a.m.Release()
	a.m.Release()
	w.net.Step()
	w.want(t, "c connected")
	if n := w.cluster.Limits.Connections.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	c.m.Release()
	w.net.Step()
	w.want(t, "d connected")
	d.m.Release()
	w.net.Advance(2 * time.Hour)
	if n := w.cluster.Limits.Connections.Load() + w.cluster.Limits.Pending.Load(); n != 0 {
		t.Errorf("%d left in the limits", n)
	}
}

// A client that speaks HTTP/2 and one that speaks HTTP/1.1 get connections of their own to one endpoint, and both are
// gone when it is retired.
func TestProtocolsAreKeptApart(t *testing.T) {
	w := newWorld(t, 1, 1)
	a := w.get("a", 0, 0)
	a.m.Release()
	w.cluster.Protocol, w.streams = cluster.HTTP2, 10
	b := w.get("b", 0, 0)
	if a.m == b.m {
		t.Error("an HTTP/1.1 connection carries HTTP/2")
	}
	w.cluster.Protocol = cluster.HTTP1
	if c := w.get("c", 0, 0); c.m != a.m {
		t.Error("the HTTP/1.1 connection was not used again")
	}
	w.log = nil
	w.cluster.Endpoints[0].Gone.Store(true)
	w.pools[0].Retire(w.cluster.Endpoints[0], func() { w.log = append(w.log, "unused") })
	a.m.Release()
	w.net.Step()
	w.want(t)
	b.m.Release()
	w.net.Step()
	w.want(t, "unused")
}

// Once TLS has agreed on a protocol, another Member takes the place of the one that dialled, and how much it carries
// says how many connections the next requests need.
func TestBecome(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.streams = 0 // not known
	w.agreed = 5
	a, b := w.get("a", 0, 0), w.get("b", 0, 0)
	w.want(t, "a connected", "b lent")
	if a.m != b.m || a.m.streams != 5 {
		t.Error("the connection should have become one of five")
	}
	w.net.Silence(w.cluster.Endpoints[0].Addr, true)
	for range 5 {
		w.get("", 0, 0)
	}
	if n := w.pools[0].Counts(); n != (pool.Counts{Busy: 1, Connecting: 1, Waiting: 2}) {
		t.Errorf("%+v", n)
	}
	w.net.Advance(11 * time.Second)
	w.cluster.Endpoints[0].Gone.Store(true)
	for range 5 {
		a.m.Release()
	}
	w.net.Step()
	if n := w.pools[0].Counts(); n != (pool.Counts{}) {
		t.Errorf("%+v", n)
	}
}
