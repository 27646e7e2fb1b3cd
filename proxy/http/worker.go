package http

import (
	"math"
	"net/netip"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/cluster/lb"
	"github.com/weirmesh/weir/proxy/cluster/pool"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/demand"
	"github.com/weirmesh/weir/proxy/hosts"
	"github.com/weirmesh/weir/proxy/http/h2"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/proxyproto"
	"github.com/weirmesh/weir/proxy/rbac"
	"github.com/weirmesh/weir/proxy/route"
)

// Observer hears of every exchange. Nothing of it may be kept.
type Observer interface {
	// Begin comes when the request head was read and its stages have not begun.
	Begin(x *Exchange)
	// End comes once for every Begin, when the response is complete or given up.
	End(x *Exchange)
}

// Options are a Worker's collaborators.
type Options struct {
	Loop     *loop.Loop
	Group    *pool.Group // shared by all workers
	Observer Observer    // nil: none
	// Totals counts requests and connections, by cluster; nil: nobody wants to know.
	Totals *cluster.Totals
	// Socket is where the sockets of upstream connections come from; nil, or a nil source: the loop's own kernel.
	Socket func(c *cluster.Cluster, e *cluster.Endpoint) conn.SocketSource
	// Source is the workload's own address, for cluster.Cluster.From.
	Source netip.Addr
	// Hostname is for %HOSTNAME%.
	Hostname string
	// Demand says which requests wait for configuration; nil: none.
	Demand *demand.Worker
	// Hosts has the addresses of names that clients ask for; nil: of none.
	Hosts *hosts.Hosts
	// Full reports whether memory is nearly used up: requests that begin are answered by 503, the others go on; nil: never.
	Full func() bool
	// Outdated reports whether endpoints may have been replaced without our knowing, but not for long; nil: never.
	Outdated func() bool
}

// Worker is the HTTP side of one loop.
type Worker struct {
	o         Options
	loop      *loop.Loop
	pool      *pool.Pool
	state     State
	pickers   []lb.Picker // by cluster.ID
	free      *loop.Spares[*Exchange]
	codecs    *loop.Spares[*codec] // an idle client connection needs none
	streams   *loop.Spares[*stream]
	probes    *loop.Spares[*probe]
	probing   Config // of their exchanges
	h2streams h2.Pool
	goOn      message.Response // 100 Continue
	fronts    *front           // open client connections
	farewell  farewell
	active    int     // exchanges
	drained   [3]bool // by Direction: clients are asked to go

	record observe.Record // of the exchange whose header is evaluated
	facts  [3]rbac.Facts  // of the exchange that policies are asked about: as variables they would be allocated, since tests are functions

	date   []byte // the Date header of the second dateOf
	dateOf int64
}

// Recycled exchanges, codecs and streams of a worker: with their usual arenas and field lists 128 exchanges are about 1 MB.
const fewExchanges, mostExchanges = 128, 4096

// NewWorker makes the HTTP side of a loop, on which all further calls must happen.
func NewWorker(o Options) *Worker {
	w := &Worker{
		o: o, loop: o.Loop, state: nothing{},
		free:    loop.NewSpares[*Exchange](o.Loop, fewExchanges, mostExchanges),
		codecs:  loop.NewSpares[*codec](o.Loop, fewExchanges, mostExchanges),
		streams: loop.NewSpares[*stream](o.Loop, fewExchanges, mostExchanges),
		probes:  loop.NewSpares[*probe](o.Loop, fewExchanges, mostExchanges),
	}
	w.farewell.turn.Do, w.farewell.timer.Fire = w.sayFarewell, w.endGrace
	if w.o.Totals == nil {
		w.o.Totals = &cluster.Totals{}
	}
	w.pool = pool.New(pool.Options{Loop: o.Loop, Group: o.Group, Totals: w.o.Totals, Target: w.target, New: w.newClient})
	return w
}

// nothing is the state before the first one: no routes, no clusters.
type nothing struct{}

func (nothing) Cluster(cluster.ID) *cluster.Cluster  { return nil }
func (nothing) ClusterNamed(string) *cluster.Cluster { return nil }
func (nothing) Table(string) *route.Table            { return nil }

// target says how to reach an endpoint with HTTP.
func (w *Worker) target(c *cluster.Cluster, e *cluster.Endpoint, p cluster.Protocol) conn.Target {
	t := conn.Target{Addr: loop.Addr{AddrPort: e.Addr, Path: e.Path}, Also: e.Also, Timeout: c.ConnectTimeout,
		Keepalive: conn.Keepalive{On: c.Keepalive.On, Idle: c.Keepalive.Time, Interval: c.Keepalive.Interval, Count: int(c.Keepalive.Probes)}}
	if tr := e.Transport.Load(); tr != nil {
		switch p {
		case cluster.HTTP2:
			t.TLS = tr.HTTP2
		case cluster.Negotiated:
			t.TLS = tr.Negotiated
		case cluster.Raw:
			t.TLS = tr.TCP
		default:
			t.TLS = tr.HTTP
		}
		if b := e.Behalf; b != nil && tr.Proxy != proxyproto.None {
			t.Preface = proxyproto.Append(nil, tr.Proxy, b.Client, b.Asked)
		}
	}
	if from := c.From(e, w.o.Source); from.IsValid() {
		t.Bind = netip.AddrPortFrom(from, 0)
	}
	if e.Behalf != nil {
		t.From(e.Behalf.Source, e.Behalf.Mark)
	}
	if w.o.Socket != nil {
		t.Socket = w.o.Socket(c, e)
	}
	return t
}

// SetState makes s the state that new exchanges begin with.
func (w *Worker) SetState(s State) { w.state = s }

// outdated reports whether endpoints may have been replaced without our knowing.
func (w *Worker) outdated() bool { return w.o.Outdated != nil && w.o.Outdated() }

// Pool gives access to the upstream connections.
func (w *Worker) Pool() *pool.Pool { return w.pool }

// Loop is the worker's loop.
func (w *Worker) Loop() *loop.Loop { return w.loop }

// Active is the number of exchanges under way.
func (w *Worker) Active() int { return w.active }

// Drain asks clients to go: responses of HTTP/1.1 say connection: close from now on, HTTP/2 clients get GOAWAY, and idle
// upstream connections are closed.
func (w *Worker) Drain() {
	w.ask(Inbound, Gateway, Outbound)
	w.pool.Drain()
}

// DrainInbound asks the clients from outside to go, while those of the workload stay.
func (w *Worker) DrainInbound() { w.ask(Inbound, Gateway) }

func (w *Worker) ask(to ...Direction) {
	for _, d := range to {
		w.drained[d] = true
	}
	w.each(func(f *front) {
		if w.drained[f.is.direction()] {
			f.is.drain()
		}
	})
}

// CloseIdle closes the client connections that have waited for a request for so long.
func (w *Worker) CloseIdle(already time.Duration) {
	since := int64(math.MaxInt64) // whenever it began
	if already > 0 {
		since = w.loop.Now() - int64(already)
	}
	w.each(func(f *front) { f.is.closeIdle(since) })
}

// Adopt has client connections go by other Configs from their next exchanges on: next tells which Config takes the place of
// theirs. nil: their filter chain is gone. They are asked to go, closed as soon as nothing is under way, and cut off after
// grace, unless a later change lets them stay. Exchanges under way are judged anew by stages that do (Stage.Again).
func (w *Worker) Adopt(next func(*Config, *conn.Info) *Config, grace time.Duration) {
	until := w.loop.Now() + int64(grace)
	gone := false
	w.each(func(f *front) {
		switch {
		case f.is.adopt(next, int64(grace)):
			f.until = 0
		case f.until == 0:
			f.until = until
			gone = true
		}
	})
	if gone {
		w.farewell.next, w.farewell.again = w.fronts, 0
		w.sayFarewell()
	}
}

// Touch notes that the virtual hosts of exchanges under way are used: those may last.
func (w *Worker) Touch() { w.each(func(f *front) { f.is.touch() }) }

// farewell goes through the connections that may not stay, some each turn.
type farewell struct {
	next  *front
	again int64 // when the next of those met so far must be gone
	turn  loop.TurnNode
	timer loop.Timer
}

// farewells is how many connections are closed in a turn: one takes about 10 µs.
const farewells = 100

func (w *Worker) sayFarewell() {
	v := &w.farewell
	if v.next == nil {
		if v.again != 0 {
			w.loop.Arm(&v.timer, v.again)
		}
		return
	}
	w.loop.NextTurn(&v.turn) // at once: a panic on the way costs one connection, and the others go nevertheless
	now := w.loop.Now()
	for n := 0; v.next != nil && n < farewells; {
		f := v.next
		if v.next = f.next; f.until == 0 {
			continue
		}
		n++
		if f.until <= now {
			f.is.cut(causes.ChainRemoved)
			continue
		}
		if v.again == 0 || f.until < v.again {
			v.again = f.until
		}
		f.is.leave()
	}
}

func (w *Worker) endGrace() {
	w.farewell.next, w.farewell.again = w.fronts, 0
	w.sayFarewell()
}

// frontend is a client's connection.
type frontend interface {
	// adopt replaces the Config that exchanges begin with; false: there is none.
	adopt(next func(*Config, *conn.Info) *Config, grace int64) bool
	direction() Direction
	drain()
	closeIdle(since int64) // if it is idle since then or longer
	// leave begins nothing any more, tells the client so, and closes when nothing is under way. It may be called again.
	leave()
	cut(causes.Cause)
	// touch notes that the virtual hosts of exchanges under way are used.
	touch()
}

// front is a frontend's place in the worker's list.
type front struct {
	is         frontend
	next, prev *front
	until      int64 // when it must be gone, because its filter chain is; 0: it may stay
	turn       uint32
	begun      uint32 // requests in the turn
}

// requestsPerTurn bounds how many requests of one connection begin before others get their turn. A client that sends
// them faster than we answer, which we can where no upstream is asked, would have the worker for itself.
const requestsPerTurn = 64

// enough reports whether the connection has had its share of the turn.
func (f *front) enough(l *loop.Loop) bool {
	return f.turn == uint32(l.Turns()) && f.begun >= requestsPerTurn
}

// share counts a request that begins.
func (f *front) share(l *loop.Loop) {
	if now := uint32(l.Turns()); f.turn != now {
		f.turn, f.begun = now, 0
	}
	f.begun++
}

func (f *front) enter(w *Worker, is frontend) {
	f.is, f.next = is, w.fronts
	if f.next != nil {
		f.next.prev = f
	}
	w.fronts = f
}

func (f *front) exit(w *Worker) {
	if w.farewell.next == f {
		w.farewell.next = f.next
	}
	if f.prev != nil {
		f.prev.next = f.next
	} else if w.fronts == f {
		w.fronts = f.next
	}
	if f.next != nil {
		f.next.prev = f.prev
	}
	f.next, f.prev = nil, nil
}

func (w *Worker) each(do func(*front)) {
	for f := w.fronts; f != nil; {
		next := f.next
		do(f)
		f = next
	}
}

func (w *Worker) picker(id cluster.ID) *lb.Picker {
	for int(id) >= len(w.pickers) {
		w.pickers = append(w.pickers, lb.Picker{})
	}
	return &w.pickers[id]
}

// newExchange makes the exchange of a request that is about to be read from down.
func (w *Worker) newExchange(down downstream, cfg *Config, c *conn.Info, o *origin) *Exchange {
	w.active++
	x, ok := w.free.Get()
	if !ok {
		x = w.makeExchange()
	}
	x.Config, x.Conn = cfg, c
	x.state, x.down, x.origin = w.state, down, o
	return x
}

func (w *Worker) makeExchange() *Exchange {
	x := &Exchange{w: w}
	x.waiter.Client = x
	x.timeout.Fire = x.onTimeout
	x.try.Fire = x.onTry
	x.wait.Fire = x.onWait
	x.idle.Fire = x.onIdle
	x.maximum.Fire = x.onMaximum
	x.reset()
	return x
}

func (w *Worker) newCodec() *codec {
	if c, ok := w.codecs.Get(); ok {
		return c
	}
	return &codec{}
}

func (w *Worker) recycle(x *Exchange) {
	w.active--
	x.gen++
	x.reset()
	w.free.Put(x)
}

// httpDate returns the Date of this second, valid for this turn (copy it into an arena).
func (w *Worker) httpDate() []byte {
	now := w.loop.Wall()
	if sec := now.Unix(); sec != w.dateOf || w.date == nil {
		w.dateOf = sec
		w.date = now.UTC().AppendFormat(w.date[:0], "Mon, 02 Jan 2006 15:04:05 GMT")
	}
	return w.date
}

// room makes sure that n more bytes fit into an output buffer of a connection, without garbage.
func (w *Worker) room(out []byte, n int) []byte {
	if cap(out)-len(out) >= n {
		return out
	}
	grown := append(w.loop.Buffers().Get(len(out)+n), out...)
	w.loop.Buffers().Put(out)
	return grown
}

func millis(ns int64) int64 { return ns / int64(time.Millisecond) }
