package tcp

import (
	"strconv"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http/h1"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/observe"
)

// Tunnel is TcpProxy.TunnelingConfig: what a forward proxy is asked for, which may depend on the connection.
type Tunnel struct {
	Host    *observe.Format // host:port
	Post    bool            // asked for by POST instead of CONNECT
	Path    string          // of POST
	Headers []Header
}

// Header is one of the request for a tunnel.
type Header struct {
	Name     string // lower case
	Value    *observe.Format
	Replaces bool
}

// passage is a relay's way through a forward proxy: the endpoint is asked, by HTTP/1.1, for a connection to somewhere else
// (Tunnel, or cluster.Tunnel). With CONNECT it then passes bytes on as they are; with POST they are the bodies of request and answer.
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
func (r *Relay) ask(c *conn.Conn) {
	p := &passage{}
	r.passage = p
	q := &p.req
	q.Reset()
	p.resp.Reset()
	q.Protocol, q.Scheme, q.Path = message.HTTP11, []byte("http"), []byte("/")
	if t := r.config.Tunnel; t != nil {
		rec := &observe.Record{}
		r.Describe(rec)
		q.Authority, p.post = t.Host.AppendValue(nil, rec), t.Post
		if t.Path != "" {
			q.Path = []byte(t.Path)
		}
		for _, h := range t.Headers {
			if v := h.Value.AppendValue(nil, rec); h.Replaces {
				q.Headers.SetName([]byte(h.Name), v)
			} else {
				q.Headers.AddName([]byte(h.Name), v)
			}
		}
	} else {
		q.Authority, p.post = []byte(r.Cluster.Tunnel.Host), r.Cluster.Tunnel.Post
	}
	switch {
	case r.Cluster.Protocol == cluster.HTTP2:
		r.refused(causes.UpstreamProtocolError, "the cluster speaks HTTP/2, and tunnels are asked for by HTTP/1.1")
		return
	case message.CheckAuthority(q.Authority) != message.NoFault, !p.post && !message.HasPort(q.Authority):
		// A part of it may be the client's.
		r.refused(causes.UpstreamConnectFailed, "a tunnel to "+strconv.Quote(string(q.Authority))+" cannot be asked for")
		return
	}
	if p.post {
		q.SetMethod([]byte("POST"))
		q.NoBody = false
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
