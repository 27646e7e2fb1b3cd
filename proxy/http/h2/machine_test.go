package h2

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/weirmesh/weir/proxy/http/message"
)

// end is one side of a pair of machines that talk to each other through two buffers.
type end struct {
	t       testing.TB
	m       Machine
	in, out []byte
	now     int64
	event   func(*end, Event)
}

// step reads what has come, in pieces of n bytes. A frame that is longer than a piece gets a larger one.
func (e *end) step(n int) (busy bool) {
	for piece := n; ; {
		in := e.in[:min(piece, len(e.in))]
		all := len(in) == len(e.in)
		out, used, ev := e.m.Step(e.out, in, e.now)
		e.out = out
		e.in = e.in[:copy(e.in, e.in[used:])]
		switch ev.Kind {
		case More:
			if all {
				return busy
			}
			piece *= 2
			continue
		case Failed:
			e.t.Fatalf("%v", ev.Reason)
		case None:
		default:
			e.event(e, ev)
		}
		busy, piece = true, n
	}
}

type pair struct{ client, server end }

func newPair(t testing.TB, co, so *Options) *pair {
	p := &pair{client: end{t: t}, server: end{t: t}}
	p.client.out = p.client.m.StartClient(nil, co, 0)
	p.server.out = p.server.m.StartServer(nil, so, 0)
	return p
}

// exchange moves the bytes until both are silent.
func (p *pair) exchange(n int) {
	for busy := true; busy; {
		p.server.in, p.client.out = append(p.server.in, p.client.out...), p.client.out[:0]
		p.client.in, p.server.out = append(p.client.in, p.server.out...), p.server.out[:0]
		busy = p.server.step(n)
		busy = p.client.step(n) || busy
		busy = busy || len(p.client.out)+len(p.server.out) > 0
	}
}

// call is a request and its response on either side.
type call struct {
	req, got           message.Request
	resp, answer       message.Response
	trailers, gotTrail message.Headers
	arena, gotArena    message.Arena
	body, echo         []byte // what the client has still to send; what the server has still to send back
	sum, back          int
	s, at              *Stream
	ended              bool // the request, at the server
	done               bool
}

// Many streams at once, bodies of all sizes echoed through small windows, whatever pieces the bytes come in: all of it arrives, nobody
// starves, and in the end both machines have given everything back.
func TestEcho(t *testing.T) {
	for seed := range 40 {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		window := uint32(1 + r.IntN(70000))
		p := newPair(t, &Options{StreamWindow: window}, &Options{StreamWindow: window, ConnWindow: 65535, MaxStreams: 20})
		var calls []*call
		for range 30 {
			c := &call{body: bytes.Repeat([]byte("b"), r.IntN(10)*r.IntN(30000))}
			c.sum = len(c.body)
			c.req.Reset()
			c.got.Reset()
			c.resp.Reset()
			c.answer.Reset()
			c.req.SetMethod([]byte("POST"))
			c.req.Scheme, c.req.Authority, c.req.Path = schemeHTTP, []byte("svc"), []byte(fmt.Sprintf("/%d", r.IntN(50)))
			c.req.NoBody = len(c.body) == 0
			c.req.Headers.AddName([]byte("x-large"), bytes.Repeat([]byte("v"), r.IntN(2)*r.IntN(40000)))
			calls = append(calls, c)
		}
		waiting := calls
		send := func(e *end, s *Stream, b *[]byte, last bool) {
			for len(*b) > 0 {
				out, n := e.m.Data(e.out, s, *b, last)
				e.out = out
				*b = (*b)[n:]
				if n == 0 {
					return
				}
			}
		}
		p.server.event = func(e *end, ev Event) {
			s := ev.Stream
			var c *call
			if s != nil {
				c, _ = s.Owner.(*call)
			}
			switch ev.Kind {
			case Open:
				c = &call{at: s}
				c.got.Reset()
				s.Owner = c
				s.Request(&c.got, &c.gotTrail, &c.gotArena)
			case Head:
				c.answer.Reset()
				c.answer.Status, c.answer.NoBody = 200, ev.End
				e.out = e.m.Response(e.out, s, &c.answer)
				c.ended = ev.End
			case Data:
				e.out = e.m.Consumed(e.out, s, len(ev.Data))
				c.echo = append(c.echo, ev.Data...)
				c.ended = ev.End
				if len(c.echo) == 0 && ev.End {
					e.out, _ = e.m.Data(e.out, s, nil, true)
				}
				send(e, s, &c.echo, c.ended)
			case Settings:
			default:
				t.Fatalf("seed %d: server: %+v", seed, ev)
			}
			if c != nil && c.ended && len(c.echo) == 0 && s.is(sendDone) {
				e.out = e.m.Release(e.out, s, NoError)
			}
		}
		p.client.event = func(e *end, ev Event) {
			switch ev.Kind {
			case Data, Head:
				c := ev.Stream.Owner.(*call)
				c.back += len(ev.Data)
				e.out = e.m.Consumed(e.out, ev.Stream, len(ev.Data))
				if ev.End {
					c.done = true
					e.out = e.m.Release(e.out, c.s, Cancel)
				}
			case Settings:
			default:
				t.Fatalf("seed %d: client: %+v", seed, ev)
			}
		}
		p.exchange(1 << 20)
		for left := true; left; {
			for len(waiting) > 0 && p.client.m.Capacity() > 0 {
				c := waiting[0]
				waiting = waiting[1:]
				c.s, p.client.out = p.client.m.Request(p.client.out, &c.req, &c.resp, &c.trailers, &c.arena, 0)
				c.s.Owner = c
				if len(c.body) > 0 {
					send(&p.client, c.s, &c.body, true)
				}
			}
			p.exchange(1 + r.IntN(30000))
			for s := p.client.m.Ready(); s != nil; s = p.client.m.Ready() {
				c := s.Owner.(*call)
				before := len(c.body)
				out, n := p.client.m.Data(p.client.out, s, c.body, true)
				p.client.out, c.body = out, c.body[n:]
				if len(c.body) == before {
					t.Fatalf("seed %d: a turn without a byte", seed)
				}
			}
			for s := p.server.m.Ready(); s != nil; s = p.server.m.Ready() {
				c := s.Owner.(*call)
				out, n := p.server.m.Data(p.server.out, s, c.echo, c.ended)
				p.server.out, c.echo = out, c.echo[n:]
				if c.ended && len(c.echo) == 0 {
					p.server.out = p.server.m.Release(p.server.out, s, NoError)
				}
			}
			left = len(waiting) > 0 || len(p.client.out)+len(p.server.out) > 0
		}
		for i, c := range calls {
			if !c.done || c.back != c.sum {
				t.Fatalf("seed %d, window %d: call %d of %d bytes: %d came back, done %v", seed, window, i, c.sum, c.back, c.done)
			}
		}
		for _, e := range []*end{&p.client, &p.server} {
			m := &e.m
			if m.Active() != 0 || m.First() != nil || m.table.n != 0 || m.ring != nil || m.waiters != 0 {
				t.Fatalf("seed %d: %d streams active, %d known, %d wait", seed, m.Active(), m.table.n, m.waiters)
			}
			if m.recvWindow+int32(m.credit) != int32(m.o.ConnWindow) {
				t.Fatalf("seed %d: the connection lost window: %d and %d of %d", seed, m.recvWindow, m.credit, m.o.ConnWindow)
			}
		}
	}
}

// loop is a client and a server that do one request after the other.
type turns struct {
	*pair
	c, s   call
	id     []byte
	body   []byte
	t      testing.TB
	ended  bool
	length int
}

func newTurns(t testing.TB, post, response int) *turns {
	l := &turns{pair: newPair(t, &Options{}, &Options{}), t: t, id: []byte("5f9c1d1e-7a64-4c5f-9d6c-0a3f6f1b2c3d"), body: make([]byte, max(post, response))}
	l.c.req.Reset()
	q := &l.c.req
	q.SetMethod([]byte("GET"))
	q.Scheme, q.Authority, q.Path, q.NoBody = schemeHTTP, []byte("reviews.default.svc.cluster.local:9080"), []byte("/reviews/0"), post == 0
	q.Headers.Add(message.UserAgent, []byte("Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"))
	q.Headers.Add(message.Accept, []byte("*/*"))
	q.Headers.Add(message.XForwardedProto, []byte("http"))
	q.Headers.Add(message.XRequestID, l.id)
	l.s.answer.Reset()
	a := &l.s.answer
	a.Status, a.NoBody, a.ContentLength = 200, response == 0, int64(response)
	a.Headers.Add(message.ContentType, []byte("application/json"))
	a.Headers.Add(message.Server, []byte("istio-envoy"))
	a.Headers.Add(message.Date, []byte("Mon, 21 Oct 2013 20:13:21 GMT"))
	l.server.event = func(e *end, ev Event) {
		switch ev.Kind {
		case Open:
			l.s.got.Reset()
			l.s.gotTrail.Reset()
			l.s.gotArena.Reset()
			ev.Stream.Request(&l.s.got, &l.s.gotTrail, &l.s.gotArena)
		case Data:
			e.out = e.m.Consumed(e.out, ev.Stream, len(ev.Data))
		case Reset, Refuse:
			t.Fatalf("server: %v", ev.Reason)
		}
		if ev.End {
			e.out = e.m.Response(e.out, ev.Stream, a)
			if response > 0 {
				e.out, _ = e.m.Data(e.out, ev.Stream, l.body[:response], true)
			}
			e.out = e.m.Release(e.out, ev.Stream, NoError)
		}
	}
	l.client.event = func(e *end, ev Event) {
		if ev.Kind == Data {
			e.out = e.m.Consumed(e.out, ev.Stream, len(ev.Data))
			l.length += len(ev.Data)
		}
		if ev.End {
			l.ended = true
			e.out = e.m.Release(e.out, ev.Stream, NoError)
		}
	}
	l.exchange(1 << 20)
	for range 200 {
		l.turn(post, response)
	}
	return l
}

func (l *turns) turn(post, response int) {
	l.ended, l.length = false, 0
	l.id[3] = '0' + (l.id[3]+1)%10
	l.c.resp.Reset()
	l.c.trailers.Reset()
	l.c.arena.Reset()
	m := &l.client.m
	s, out := m.Request(l.client.out, &l.c.req, &l.c.resp, &l.c.trailers, &l.c.arena, 0)
	if post > 0 {
		out, _ = m.Data(out, s, l.body[:post], true)
	}
	l.client.out = out
	l.exchange(1 << 20)
	if !l.ended || l.length != response || l.c.resp.Status != 200 {
		l.t.Fatalf("POST of %d, response of %d: status %d, %d bytes, complete %v", post, response, l.c.resp.Status, l.length, l.ended)
	}
}

func TestNoAllocations(t *testing.T) {
	for _, c := range []struct{ post, response int }{{0, 0}, {0, 1000}, {1000, 0}, {60000, 60000}} {
		l := newTurns(t, c.post, c.response)
		if n := testing.AllocsPerRun(1000, func() { l.turn(c.post, c.response) }); n != 0 {
			t.Errorf("POST of %d, response of %d: %v allocations", c.post, c.response, n)
		}
	}
}

// What a connection and a stream cost while nothing happens. Tables come with use: up to 12 KiB each way.
func TestSizes(t *testing.T) {
	if n := unsafe.Sizeof(Machine{}); n > 600 {
		t.Errorf("a Machine has %d bytes", n)
	}
	if n := unsafe.Sizeof(Stream{}); n > 160 {
		t.Errorf("a Stream has %d bytes", n)
	}
}

// A stream is found by its number whatever other streams there are.
func TestStreams(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var table streams
	have := map[uint32]*Stream{}
	for range 100000 {
		id := uint32(r.IntN(300))*uint32(1+r.IntN(3))*2 + 1
		if s := have[id]; s != nil {
			table.remove(s)
			delete(have, id)
		} else if len(have) < 200 {
			s = &Stream{id: id}
			table.put(s)
			have[id] = s
		}
		probe := uint32(r.IntN(900))*2 + 1
		if got := table.get(probe); got != have[probe] {
			t.Fatalf("stream %d: %v, want %v", probe, got, have[probe])
		}
	}
}

// The fate of the last 256 streams is known, older ones are forgotten.
func TestPast(t *testing.T) {
	var p past
	last := uint32(0)
	for id := uint32(1); id < 3000; id += 2 {
		p.use(id, last)
		last = id
		if p.get(id, last) != neverUsed {
			t.Fatalf("stream %d is not new", id)
		}
		if id%4 == 1 {
			p.set(id, last, ended)
		} else {
			p.set(id, last, weReset)
		}
		for back := uint32(0); back < 600 && back < id; back += 2 {
			want := ended
			if (id-back)%4 == 3 {
				want = weReset
			}
			if back >= 512 {
				want = forgotten
			}
			if got := p.get(id-back, last); got != want {
				t.Fatalf("at %d, stream %d: %v", id, id-back, got)
			}
		}
	}
	// A stream that was open for long has lost its place to a later one, whose fate its end does not change.
	p.set(last-512, last, ended)
	if got := p.get(last, last); got != weReset {
		t.Errorf("after the end of stream %d, stream %d: %v, want %v", last-512, last, got, weReset)
	}
	p.use(last+100, last)
	if p.get(last+50, last+100) != neverUsed || p.get(last, last+100) == neverUsed {
		t.Error("skipped streams were never used")
	}
	p.use(last+2000, last+100)
	if p.get(last+1990, last+2000) != neverUsed {
		t.Error("skipped streams were never used")
	}
}

func benchmark(b *testing.B, post, response int) {
	l := newTurns(b, post, response)
	b.ReportAllocs()
	for b.Loop() {
		l.turn(post, response)
	}
}

func BenchmarkGet(b *testing.B)    { benchmark(b, 0, 0) }
func BenchmarkGet1K(b *testing.B)  { benchmark(b, 0, 1000) }
func BenchmarkPost1K(b *testing.B) { benchmark(b, 1000, 1000) }
func BenchmarkGet60K(b *testing.B) { benchmark(b, 0, 60000) }
