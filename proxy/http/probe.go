package http

import (
	"cmp"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/loop"
)

// Probe asks an endpoint whether it is well (cluster.Prober). A request of it is an exchange of its own, whose downstream
// the probe is: nothing of it is logged or counted here as a request, and a kept connection that had been closed meanwhile
// is replaced, as for any request that is idempotent.
func (w *Worker) Probe(c *cluster.Cluster, e *cluster.Endpoint, k *cluster.Check, done func(cluster.CheckResult)) cluster.Probing {
	if k.Kind == cluster.CheckTCP {
		return w.knock(c, e, k, done)
	}
	p, ok := w.probes.Get()
	if !ok {
		p = &probe{w: w}
		p.turn.Do = p.begin
	}
	p.check, p.told = k, done
	x := w.newExchange(p, &w.probing, &p.info, nil)
	p.x = x
	x.Cluster, x.Endpoint = c, e
	x.Began, x.touched = w.loop.Now(), w.loop.Now()
	x.flags |= fixed | requestDone
	x.total = k.Timeout
	x.ask(c, e, k)
	w.loop.AtTurnEnd(&p.turn)
	return p
}

// probe is a check under way, and the downstream of its exchange.
type probe struct {
	w      *Worker
	x      *Exchange // nil: it is over
	check  *cluster.Check
	told   func(cluster.CheckResult) // nil: nobody wants to know any more
	info   conn.Info
	turn   loop.TurnNode
	result cluster.CheckResult
	answer [16]byte // the beginning of a gRPC answer
	got    int
}

func (p *probe) begin() {
	if x := p.x; x != nil {
		x.armTimeout()
		x.attempt()
	}
}

// ask makes the request of a check.
func (x *Exchange) ask(c *cluster.Cluster, e *cluster.Endpoint, k *cluster.Check) {
	q, a := &x.Request, &x.arena
	host := cmp.Or(e.Checked.Host, k.Host)
	if host == "" {
		host = c.Service.Host
	}
	if host == "" {
		host = e.Addr.String()
	}
	q.Authority, q.Scheme = a.CopyString(host), valueHTTP
	q.Headers.Set(message.UserAgent, valueChecker)
	if k.Kind == cluster.CheckGRPC {
		q.Protocol = message.HTTP2
		q.SetMethod(methodPost)
		q.Path = pathHealth
		q.Headers.Set(message.ContentType, typeGRPC)
		q.Headers.Set(message.TE, valueTrailers)
		q.NoBody, q.ContentLength = false, message.Unknown
		x.body = appendHealthRequest(x.w.loop.Buffers().Get(7+len(k.Service)), k.Service)
		return
	}
	q.Protocol = message.HTTP11
	q.SetMethod(a.CopyString(k.Method))
	q.Path = a.CopyString(k.Path)
	q.NoBody, q.ContentLength = true, message.Unknown
	for _, h := range k.Headers {
		q.Headers.SetName(a.CopyString(h[0]), a.CopyString(h[1]))
	}
}

var (
	valueHTTP     = []byte("http")
	valueChecker  = []byte("weir-health-check")
	methodPost    = []byte("POST")
	pathHealth    = []byte("/grpc.health.v1.Health/Check")
	typeGRPC      = []byte("application/grpc")
	valueTrailers = []byte("trailers")
)

// appendHealthRequest writes a grpc.health.v1.HealthCheckRequest (string service = 1) as a message of gRPC: not compressed, of
// a length in four bytes. Names are shorter than 128.
func appendHealthRequest(b []byte, service string) []byte {
	if service == "" {
		return append(b, 0, 0, 0, 0, 0)
	}
	b = append(b, 0, 0, 0, 0, byte(2+len(service)), 1<<3|2, byte(len(service)))
	return append(b, service...)
}

// serves reports whether an answer is a grpc.health.v1.HealthCheckResponse with status SERVING (field 1, value 1).
func (p *probe) serves() bool {
	return p.got == 7 && [7]byte(p.answer[:7]) == [7]byte{0, 0, 0, 0, 2, 1 << 3, 1}
}

// The downstream of a probe.

func (p *probe) writeInterim(*Exchange) {}

func (p *probe) writeHead(x *Exchange) {
	switch {
	case x.Cause != causes.NoCause:
		p.result = cluster.CheckNetwork
	case x.Response.Headers.GetName(cluster.FailHeader) != nil:
		p.result = cluster.CheckWithdrawn
	case p.check.Kind == cluster.CheckHTTP:
		p.result = p.check.Judge(x.Response.Status)
		if p.result == cluster.CheckPassed && x.Response.Headers.GetName(cluster.DegradedHeader) != nil {
			p.result = cluster.CheckDegraded
		}
	case x.Response.Status == 200:
		p.result = cluster.CheckPassed
	default:
		p.result = cluster.CheckFailed
	}
}

func (p *probe) writeData(_ *Exchange, b []byte, _ bool) {
	n := copy(p.answer[p.got:], b)
	if p.got += n; n < len(b) {
		p.got = len(p.answer) // too long for what is expected
	}
}

func (p *probe) writeEnd(x *Exchange) {
	if p.check.Kind == cluster.CheckGRPC && p.result == cluster.CheckPassed && (x.grpcStatusOf() != 0 || !p.serves()) {
		p.result = cluster.CheckFailed
	}
}

func (p *probe) abort(*Exchange)     { p.result = cluster.CheckNetwork }
func (p *probe) askBody(*Exchange)   {}
func (p *probe) tunnel(*Exchange)    {}
func (p *probe) endTunnel(*Exchange) {}
func (p *probe) pause(*Exchange)     {}
func (p *probe) resume(*Exchange)    {}
func (p *probe) full() bool          { return false }
func (p *probe) remembers() *Memory  { return nil }
func (p *probe) blame()              {}

func (p *probe) done(x *Exchange) {
	told, result := p.told, p.result
	p.x, p.told, p.check = nil, nil, nil
	p.result, p.got, p.info = cluster.CheckPassed, 0, conn.Info{}
	x.w.recycle(x)
	p.w.probes.Put(p)
	if told != nil {
		told(result)
	}
}

// Cancel ends the check.
func (p *probe) Cancel() {
	if p.told = nil; p.x != nil {
		p.x.clientGone(causes.DownstreamDisconnected, "")
	}
}

// knock is a check that a connection opens.
type knock struct {
	w     *Worker
	conn  *conn.Conn
	told  func(cluster.CheckResult)
	timer loop.Timer
}

func (w *Worker) knock(c *cluster.Cluster, e *cluster.Endpoint, k *cluster.Check, done func(cluster.CheckResult)) cluster.Probing {
	n := &knock{w: w, told: done}
	n.timer.Fire = func() { n.tell(cluster.CheckNetwork) }
	w.loop.Arm(&n.timer, w.loop.Now()+int64(k.Timeout))
	n.conn = conn.Dial(w.loop, w.target(c, e, cluster.Raw), n)
	return n
}

func (n *knock) tell(r cluster.CheckResult) {
	told := n.told
	n.Cancel()
	if told != nil {
		told(r)
	}
}

// Cancel ends the check.
func (n *knock) Cancel() {
	n.told = nil
	n.timer.Stop()
	n.conn.Reset()
}

// Open is described at conn.Handler, as are the following.
func (n *knock) Open(*conn.Conn) { n.tell(cluster.CheckPassed) }

// Data is what a server says that speaks first.
func (n *knock) Data(_ *conn.Conn, b []byte) int { return len(b) }

// EOF needs no answer.
func (n *knock) EOF(*conn.Conn) {}

// Drained needs no answer.
func (n *knock) Drained(*conn.Conn) {}

// Closed comes after Cancel, too.
func (n *knock) Closed(*conn.Conn, conn.Why) {
	if n.told != nil {
		n.tell(cluster.CheckNetwork)
	}
}
