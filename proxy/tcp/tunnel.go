package tcp

import (
	"strconv"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http/h1"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/loop"
)

// passage is a relay's way through a forward proxy: the endpoint is asked, by HTTP/1.1, for a connection to somewhere else
// (cluster.Tunnel). With CONNECT it then passes bytes on as they are; with POST they are the bodies of request and answer.
type passage struct {
	post, open bool
	timer      loop.Timer // for the answer
	enc        h1.Encoder
	dec        h1.Decoder
	req        message.Request
	resp       message.Response
	trailers   message.Headers
	arena      message.Arena
}

// maxAnswer bounds the head of a forward proxy's answer.
const maxAnswer = 16 << 10

// ask begins the passage on a connection that is open.
func (r *Relay) ask(c *conn.Conn, t *cluster.Tunnel) {
	p := &passage{post: t.Post}
	r.passage = p
	q := &p.req
	q.Reset()
	p.resp.Reset()
	q.Protocol, q.Scheme, q.Authority = message.HTTP11, []byte("http"), []byte(t.Host)
	if p.post {
		q.SetMethod([]byte("POST"))
		q.Path, q.NoBody = []byte("/"), false
	} else {
		q.SetMethod([]byte("CONNECT"))
	}
	p.dec.StartResponse(&p.resp, &p.trailers, &p.arena, h1.Limits{HeadBytes: maxAnswer}, nil, q)
	c.SetOut(p.enc.Request(c.Out(), q, false))
	p.timer.Fire = func() { r.refused(causes.UpstreamConnectTimeout, "the forward proxy does not answer") }
	r.w.l.Arm(&p.timer, r.w.l.Now()+int64(r.Cluster.ConnectTimeout))
}

// refused ends a relay for which the forward proxy opened no way.
func (r *Relay) refused(why causes.Cause, text string) {
	r.Failure = text
	r.fail(why)
}

// through takes bytes of the forward proxy: its answer, and what comes out of the tunnel.
func (r *Relay) through(c *conn.Conn, b []byte) (used int) {
	p := r.passage
	for {
		n, data, ev := p.dec.Step(b[used:])
		used += n
		switch ev {
		case h1.More:
			return used
		case h1.Head:
			switch s := p.resp.Status; {
			case s < 200 && s != 101:
				p.resp.Reset()
			case s < 200, s >= 300:
				r.refused(causes.UpstreamConnectFailed, "the forward proxy answered "+strconv.Itoa(s))
				return len(b)
			default:
				p.open = true
				p.timer.Stop()
				r.settled()
				r.down.Resume()
			}
		case h1.Data:
			r.deliver(c, data)
		case h1.End:
			r.down.CloseWrite()
			return len(b)
		case h1.Failed:
			r.refused(causes.UpstreamProtocolError, "http1."+p.dec.Reason().String())
			return len(b)
		}
	}
}

// write sends bytes of the client.
func (r *Relay) write(b []byte) {
	if p := r.passage; p != nil && p.post {
		out, _ := p.enc.Prefix(r.up.Out(), len(b))
		r.up.SetOut(out)
		r.up.Write(b)
		r.up.SetOut(p.enc.Suffix(r.up.Out()))
		return
	}
	r.up.Write(b)
}

// closeWrite tells the endpoint that the client has said all.
func (r *Relay) closeWrite() {
	if p := r.passage; p != nil && p.post {
		out, _ := p.enc.End(r.up.Out(), nil)
		r.up.SetOut(out)
		return
	}
	r.up.CloseWrite()
}

// spliceable reports whether the kernel may move bytes from here on.
func (r *Relay) spliceable() bool { return r.passage == nil || !r.passage.post }
