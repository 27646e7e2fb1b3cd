package http

import (
	"bytes"
	"cmp"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/route"
)

// mirrorTimeout bounds copies on routes without a timeout: Envoy's default of RouteAction.timeout. Nobody waits for a
// copy's answer who would notice that it never comes.
const mirrorTimeout = 15 * time.Second

// copyOf is a copy of a request on its way to a mirror (request_mirror_policies): an exchange of its own, whose downstream
// it is. The answer is read and dropped, nothing of it is logged or counted as a request, and it never slows the original
// down: a mirror that does not take the body in time gets no more of it.
type copyOf struct {
	x    *Exchange // nil: it is over
	info conn.Info // of the original's client, whose connection may end first
	slow bool      // the mirror does not keep up
	next *copyOf   // of the same original
}

// mirror begins the copies of a request that is about to be forwarded.
func (x *Exchange) mirror(f *route.Forward) {
	for i := range f.Mirrors {
		m := &f.Mirrors[i]
		if m.Per1M < perMillion && x.w.loop.Rand()%perMillion >= uint64(m.Per1M) {
			continue
		}
		to := x.cluster(m.Cluster, m.Header)
		if to == nil || to.Refused != "" {
			continue
		}
		s := &copyOf{info: *x.Conn, next: x.copies}
		c := x.w.newExchange(s, x.Config, &s.info, x.origin)
		s.x, x.copies = c, s
		c.state, c.Cluster, c.Remote = nil, to, x.Remote
		c.Began, c.touched = x.w.loop.Now(), x.w.loop.Now()
		c.copyRequest(x, m)
		c.total = cmp.Or(x.total, mirrorTimeout)
		if len(x.body) > 0 { // what came while the original was held
			c.body = x.w.loop.Buffers().Append(c.body, x.body)
		}
		if x.is(requestDone) {
			c.copyTrailers(x)
			c.flags |= requestDone
			c.armTimeout()
		}
		c.attempt()
	}
}

const perMillion = 1_000_000

// copyRequest makes the head of x's request that of the original, for a mirror.
func (x *Exchange) copyRequest(original *Exchange, m *route.Mirror) {
	q, from, a := &x.Request, &original.Request, &x.arena
	h := q.Headers
	*q = *from
	q.Headers = h
	q.RawMethod, q.Scheme, q.Path = a.Copy(from.RawMethod), a.Copy(from.Scheme), a.Copy(from.Path)
	q.Authority = a.Copy(from.Authority)
	if m.HostRewrite != "" {
		q.Authority = a.CopyString(m.HostRewrite)
	} else if !m.AsSent {
		q.Authority = a.Close(appendShadow(a.Open(len(from.Authority)+len(shadow)), from.Authority))
	}
	for _, f := range from.Headers.Fields() {
		f.Name, f.Value = a.Copy(f.Name), a.Copy(f.Value)
		q.Headers.Append(f)
	}
}

func (x *Exchange) copyTrailers(original *Exchange) {
	for _, f := range original.RequestTrailers.Fields() {
		f.Name, f.Value = x.arena.Copy(f.Name), x.arena.Copy(f.Value)
		x.RequestTrailers.Append(f)
	}
}

const shadow = "-shadow"

// appendShadow marks an authority as a copy's, before its port, as Envoy does: whoever reads logs can tell.
func appendShadow(dst, authority []byte) []byte {
	end := len(authority)
	if i := bytes.LastIndexByte(authority, ':'); i >= 0 && bytes.IndexByte(authority[i:], ']') < 0 {
		end = i
	}
	dst = append(append(dst, authority[:end]...), shadow...)
	return append(dst, authority[end:]...)
}

// copyBody gives bytes of the request body to the copies.
func (x *Exchange) copyBody(b []byte, last bool) {
	for s := x.copies; s != nil; s = s.next {
		if s.x == nil {
			continue
		}
		s.x.forward(b, last)
		if s.slow {
			s.giveUp()
		}
	}
}

// endCopies ends the request of the copies, or, where it never came to its end, the copies.
func (x *Exchange) endCopies(whole bool) {
	for s := x.copies; s != nil; s = s.next {
		switch c := s.x; {
		case c == nil:
		case c.is(requestDone):
		case whole:
			c.copyTrailers(x)
			c.requestEnd()
		default:
			s.giveUp()
		}
	}
	x.copies = nil
}

// giveUp ends a copy.
func (s *copyOf) giveUp() {
	if s.x != nil {
		s.x.clientGone(causes.DownstreamDisconnected, "")
	}
}

// The downstream of a copy.

func (s *copyOf) writeInterim(*Exchange)            {}
func (s *copyOf) writeHead(*Exchange)               {}
func (s *copyOf) writeData(*Exchange, []byte, bool) {}
func (s *copyOf) writeEnd(*Exchange)                {}
func (s *copyOf) abort(*Exchange)                   {}
func (s *copyOf) askBody(*Exchange)                 {}
func (s *copyOf) tunnel(*Exchange)                  {}
func (s *copyOf) endTunnel(*Exchange)               {}
func (s *copyOf) pause(*Exchange)                   { s.slow = true }
func (s *copyOf) resume(*Exchange)                  {}
func (s *copyOf) full() bool                        { return false }
func (s *copyOf) remembers() *Memory                { return nil }
func (s *copyOf) blame()                            {}

func (s *copyOf) done(x *Exchange) {
	s.x = nil
	x.w.recycle(x)
}
