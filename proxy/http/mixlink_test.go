package http_test

import (
	"bytes"
	"fmt"
	"io"
	"strconv"

	"github.com/weirmesh/weir/proxy/http/h1"
	"github.com/weirmesh/weir/proxy/http/h2"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/loop/mem"
)

// link is the test's end of a connection.
type link struct {
	m       *mixer
	p       *mem.Peer
	server  bool
	in, out []byte
	talks   []*talk
	ids     []int       // of requests so far
	two     *h2.Machine // nil: HTTP/1.1
	enc     h1.Encoder
	dec     h1.Decoder
	slow    bool
	now     int64
	over    bool
	fin     bool // our side ends behind out
	last    bool // no further request: one wants a tunnel
}

// talk is a request and its response, seen from one end.
type talk struct {
	id         int // 0: not known yet
	out        plan
	sent       int
	said, told bool // the head, the end of our message
	req        message.Request
	resp       message.Response
	trailers   message.Headers
	arena      message.Arena
	heard, got int
	read       bool // the peer's message, to its end
	local      bool // it is the proxy's own
	interim    bool
	tunnel     bool // it is open
	abort      bool
	s          *h2.Stream
}

func (m *mixer) add(p *mem.Peer, server, two bool) {
	k := &link{m: m, p: p, server: server, slow: m.r.IntN(4) == 0}
	if two {
		k.two = &h2.Machine{}
		o := &h2.Options{ExtendedConnect: server, StreamWindow: uint32(200 + m.r.IntN(100_000))}
		if server {
			k.out = k.two.StartServer(nil, o, 0)
		} else {
			k.out = k.two.StartClient(nil, o, 0)
		}
	}
	if !server {
		m.clients++
	}
	m.links = append(m.links, k)
}

// end forgets the link.
func (k *link) end() {
	if k.over {
		return
	}
	k.over = true
	if !k.server {
		k.m.clients--
	}
	for i, o := range k.m.links {
		if o == k {
			k.m.links = append(k.m.links[:i], k.m.links[i+1:]...)
			break
		}
	}
}

func (k *link) newTalk() *talk {
	t := &talk{}
	t.req.Reset()
	t.resp.Reset()
	t.abort = k.m.r.IntN(6) == 0
	k.talks = append(k.talks, t)
	return t
}

func (k *link) step() {
	r := k.m.r
	k.now += 1e8 // nobody is flooded
	n := 1 << (4 + r.IntN(14))
	if k.slow {
		n = 1 + r.IntN(500)
	}
	b, err := k.p.RecvUpTo(n)
	k.in = append(k.in, b...)
	if k.two != nil {
		k.read2()
	} else {
		k.read1()
	}
	t := k.tunnel1()
	open := t != nil && t.tunnel
	if err == io.EOF && open && !t.read {
		k.hearEnd(t)
	} else if err != nil && (err != io.EOF || !open && !k.fin) {
		k.p.Close()
		k.end()
	}
	if k.over {
		return
	}
	if !k.server && !k.last && !k.m.calm && len(k.talks) < 3 && r.IntN(3) == 0 {
		k.ask()
	}
	for range 1 + r.IntN(4) {
		k.speak()
	}
	if n, err := k.p.Send(k.out); err == nil {
		k.out = k.out[:copy(k.out, k.out[n:])]
	}
	if k.fin && len(k.out) == 0 {
		k.fin = false
		k.p.CloseWrite()
	}
}

// tunnel1 is the talk that has, or wants, a connection of HTTP/1.1 for itself.
func (k *link) tunnel1() *talk {
	if k.two == nil && len(k.talks) > 0 {
		if t := k.talks[len(k.talks)-1]; t.tunnel || t.out.tunnel {
			return t
		}
	}
	return nil
}

// ask begins a request.
func (k *link) ask() {
	if k.two != nil && k.two.Capacity() == 0 {
		return
	}
	k.m.last++
	t := k.newTalk()
	t.id = k.m.last
	k.ids = append(k.ids, t.id)
	k.m.ids[t.id] += 0
	t.out = planOf(t.id, false)
	k.last = t.out.tunnel && k.two == nil
}

func decimal(id int) []byte { return strconv.AppendInt(nil, int64(id), 10) }

func label(h *message.Headers, id, pads int) {
	h.AddName([]byte("x-id"), decimal(id))
	for i := range pads {
		h.AddName(fmt.Appendf(nil, "x-pad-%d", i), decimal(id))
	}
}

// speak goes on with a message of ours.
func (k *link) speak() {
	r := k.m.r
	var t *talk
	for _, o := range k.talks {
		if !o.told && o.id != 0 && (k.two == nil || r.IntN(2) == 0) {
			t = o
			break
		}
	}
	if t == nil || len(k.out) > 300_000 {
		return
	}
	if t.abort && !k.m.calm && r.IntN(8) == 0 {
		k.abort(t)
		return
	}
	if !t.said {
		if k.server && !t.read && !t.out.tunnel && r.IntN(6) > 0 {
			return // early answers are few
		}
		k.head(t)
		return
	}
	if t.out.tunnel && !t.tunnel {
		return // it is not open yet
	}
	n := min(t.out.body-t.sent, 1+r.IntN(20_000))
	b := make([]byte, n)
	for i := range b {
		b[i] = octet(t.id, t.sent+i, k.server)
	}
	t.sent += n
	last := t.sent == t.out.body
	var trailers message.Headers
	if last && t.out.trailers && !t.out.known {
		trailers.AddName([]byte("x-end"), decimal(t.id))
	}
	if k.two == nil && t.tunnel {
		k.out = append(k.out, b...)
		if k.fin = last; last {
			k.ended(t)
		}
		return
	}
	if k.two == nil {
		if n > 0 {
			k.out, _ = k.enc.Prefix(k.out, n)
			k.out = k.enc.Suffix(append(k.out, b...))
		}
		if last {
			k.out, _ = k.enc.End(k.out, &trailers)
			k.ended(t)
		}
		return
	}
	var took int
	k.out, took = k.two.Data(k.out, t.s, b, last && trailers.Len() == 0)
	if t.sent -= n - took; took < n {
		return
	}
	if last {
		if trailers.Len() > 0 {
			k.out = k.two.Trailers(k.out, t.s, &trailers)
		}
		k.ended(t)
	}
}

func (k *link) head(t *talk) {
	r := k.m.r
	if !k.server {
		q := message.Request{Authority: []byte("a"), Path: fmt.Appendf(nil, "/%d", t.id), ContentLength: message.Unknown, NoBody: t.out.body == 0 || t.out.tunnel}
		q.SetMethod([]byte([]string{"GET", "POST", "PUT"}[t.id%3]))
		if label(&q.Headers, t.id, t.out.pads); t.out.known && t.out.body > 0 {
			q.ContentLength = int64(t.out.body)
		}
		if t.said = true; t.out.tunnel {
			q.Upgrade = []byte("websocket")
			q.Headers.AddName([]byte("sec-websocket-key"), []byte("dGhlIHNhbXBsZSBub25jZQ=="))
			t.req.Upgrade = q.Upgrade
			if k.two != nil && !k.two.ConnectProtocol() {
				k.drop(t) // SETTINGS have not come
				return
			}
		}
		if k.two == nil {
			k.out = k.enc.Request(k.out, &q, false)
		} else if t.s, k.out = k.two.Request(k.out, &q, &t.resp, &t.trailers, &t.arena, k.now); t.s == nil {
			k.drop(t)
			return
		} else {
			t.s.Owner = t
		}
		if q.NoBody && !t.out.tunnel {
			k.ended(t)
		}
		return
	}
	p := message.Response{Status: 200, ContentLength: message.Unknown}
	label(&p.Headers, t.id, t.out.pads)
	switch what := r.IntN(12); {
	case what == 0 && !t.interim:
		t.interim = true
		p.Status, p.NoBody = 103, true
	case what == 1:
		t.said = true
		p.Status = 503
	default:
		t.said = true
	}
	if t.said && t.out.tunnel && p.Status == 200 {
		p.Status, p.Upgrade = 101, []byte("websocket")
		t.tunnel, t.read = true, false
	} else if t.said {
		t.out.tunnel = false // a refusal has a body like any answer
		p.NoBody = t.out.body == 0
		if t.out.known {
			p.ContentLength = int64(t.out.body)
		}
	}
	if k.two == nil {
		k.out = k.enc.Response(k.out, &p, &t.req, true)
	} else {
		k.out = k.two.Response(k.out, t.s, &p)
	}
	if t.said && p.NoBody {
		k.ended(t)
	}
	if t.tunnel && k.two == nil {
		k.dec.Tunnel()
	}
}

// ended: our message is complete.
func (k *link) ended(t *talk) {
	if t.told = true; !k.server {
		k.m.sent[t.id] = true
	}
	k.settle(t)
}

// settle forgets a talk that is over.
func (k *link) settle(t *talk) {
	if t.told && (t.read || k.server && k.two != nil && !t.tunnel) {
		k.drop(t)
	}
	if k.last && len(k.talks) == 0 && !t.tunnel { // it was refused
		k.p.Close()
		k.end()
	}
}

func (k *link) drop(t *talk) {
	if k.two != nil && t.s != nil {
		k.out = k.two.Release(k.out, t.s, h2.Cancel)
	}
	for i, o := range k.talks {
		if o == t {
			k.talks = append(k.talks[:i], k.talks[i+1:]...)
			return
		}
	}
}

// abort ends a talk, or the connection, at any point.
func (k *link) abort(t *talk) {
	for _, id := range append(k.ids, t.id) { // what was said may be on its way
		k.m.harmed[id] = true
	}
	switch r := k.m.r; {
	case k.two != nil && t.s != nil && r.IntN(4) > 0:
		k.drop(t)
	case r.IntN(2) == 0, k.tunnel1() != nil: // an orderly end is one of what was said
		k.p.Reset()
		k.end()
	default:
		k.p.Send(k.out)
		k.p.Close()
		k.end()
	}
}

func (k *link) read1() {
	for !k.over {
		var t *talk
		for _, o := range k.talks {
			if !o.read {
				t = o
				break
			}
		}
		switch {
		case t == nil && !k.server:
			if len(k.in) > 0 {
				k.m.fatal("%d bytes that nobody asked for: %q", len(k.in), clip(k.in))
			}
			return
		case t == nil && len(k.in) == 0:
			return
		case t == nil:
			t = k.newTalk()
		}
		if t.heard == 0 {
			t.heard = 1
			if k.server {
				k.dec.StartRequest(&t.req, &t.trailers, &t.arena, h1.Limits{}, nil)
			} else {
				t.req.SetMethod([]byte([]string{"GET", "POST", "PUT"}[t.id%3]))
				k.dec.StartResponse(&t.resp, &t.trailers, &t.arena, h1.Limits{}, nil, &t.req)
			}
		}
		n, data, ev := k.dec.Step(k.in)
		switch ev {
		case h1.Head:
			k.hear(t)
		case h1.Data:
			k.hearData(t, data)
		case h1.End:
			k.hearEnd(t)
		case h1.Failed:
			k.m.fatal("%v: %q", k.dec.Reason(), clip(k.in))
			return
		}
		k.in = k.in[:copy(k.in, k.in[n:])]
		if ev == h1.More {
			return
		}
	}
}

func clip(b []byte) []byte { return b[:min(len(b), 200)] }

func (k *link) read2() {
	for !k.over {
		var n int
		var ev h2.Event
		k.out, n, ev = k.two.Step(k.out, k.in, k.now)
		if ev.Kind == h2.More {
			break
		}
		var t *talk
		if ev.Stream != nil {
			t, _ = ev.Stream.Owner.(*talk)
		}
		switch ev.Kind {
		case h2.Open:
			t = k.newTalk()
			t.s, ev.Stream.Owner = ev.Stream, t
			t.s.Request(&t.req, &t.trailers, &t.arena)
		case h2.Head, h2.Interim:
			k.hear(t)
		case h2.Data:
			k.hearData(t, ev.Data)
			k.out = k.two.Consumed(k.out, t.s, len(ev.Data))
		case h2.Reset:
			if ev.Reason != h2.PeerReset && ev.Reason != h2.Unprocessed {
				k.m.fatal("stream reset: %v", ev.Reason)
			}
			if t.tunnel && t.told && k.m.sent[t.id] && !k.m.harmed[t.id] {
				k.m.fatal("tunnel %d, server %v: reset with %d bytes there, though both ends said all they had to say", t.id, k.server, t.got)
			}
			k.drop(t)
			t = nil
		case h2.GoAway:
			if !k.server && len(k.talks)+len(k.out) == 0 {
				k.p.Close()
				k.end()
			}
		case h2.Failed:
			k.m.fatal("connection failed: %v", ev.Reason)
			return
		}
		if ev.End && t != nil {
			k.hearEnd(t)
		}
		k.in = k.in[:copy(k.in, k.in[n:])]
	}
}

// hear checks a head.
func (k *link) hear(t *talk) {
	h := &t.resp.Headers
	if k.server {
		h = &t.req.Headers
		t.id, _ = strconv.Atoi(string(bytes.TrimPrefix(t.req.Path, []byte("/"))))
		t.out = planOf(t.id, true)
		k.m.ids[t.id]++
		k.ids = append(k.ids, t.id)
	}
	id := h.GetName("x-id")
	if id == nil && !k.server {
		if t.local, t.told = true, t.told || t.out.tunnel; t.resp.Status < 400 || string(h.Get(message.Server)) != "proxy" {
			k.m.fatal("request %d: an answer %d without a number", t.id, t.resp.Status)
		}
		return
	}
	pads := 0
	for i, f := range h.Fields() {
		if !bytes.HasPrefix(f.Name, []byte("x-pad-")) {
			continue
		}
		pads++
		if !bytes.Equal(f.Value, id) {
			k.m.fatal("request %d: field %d is %s: %s", t.id, i, f.Name, f.Value)
		}
	}
	if want := planOf(t.id, !k.server); string(id) != strconv.Itoa(t.id) || pads != want.pads || len(h.Get(message.XRequestID)) > 0 != k.server {
		k.m.fatal("request %d: head of %q with %d of %d pads", t.id, id, pads, want.pads)
	}
	switch {
	case k.server && (t.req.Upgrade != nil) != t.out.tunnel:
		k.m.fatal("request %d: upgrade %q", t.id, t.req.Upgrade)
	case k.server:
	case t.resp.Status == 101:
		t.tunnel = true
	case t.resp.Status < 200:
		t.resp.Reset()
	case t.out.tunnel:
		t.told = true // refused
	}
}

func (k *link) hearData(t *talk, b []byte) {
	if t.local {
		return
	}
	for i, c := range b {
		if want := octet(t.id, t.got+i, !k.server); c != want {
			k.m.fatal("request %d, server %v: byte %d is %x, want %x", t.id, k.server, t.got+i, c, want)
			return
		}
	}
	t.got += len(b)
}

func (k *link) hearEnd(t *talk) {
	t.read = true
	if k.server && t.out.tunnel && !t.tunnel {
		return // the tunnel begins behind our answer
	}
	want := planOf(t.id, !k.server)
	end := t.trailers.GetName("x-end")
	switch {
	case t.local:
	case t.got != want.body:
		k.m.fatal("request %d, server %v: %d of %d bytes", t.id, k.server, t.got, want.body)
	case want.trailers && !want.known && want.body > 0 && string(end) != strconv.Itoa(t.id), end != nil && string(end) != strconv.Itoa(t.id):
		k.m.fatal("request %d, server %v: trailers %q", t.id, k.server, end)
	case !k.server:
		k.m.ids[whole]++
	}
	k.settle(t)
	switch {
	case k.server || t.told || t.tunnel:
	case k.two == nil:
		k.p.Close() // answered early: the rest of the request is not wanted
		k.end()
	default:
		k.drop(t)
	}
}
