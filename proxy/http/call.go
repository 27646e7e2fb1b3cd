package http

import (
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/loop"
)

// Call is a question that a stage asks somebody else before the exchange goes on: a request of the proxy's own.
type Call struct {
	Cluster cluster.ID
	Timeout time.Duration // of all of it; 0: none
	// MaxAnswer is how much of the answer's body is kept.
	MaxAnswer int
	// Ask makes the head of the question, with memory of a, and appends its body to body. The request has NoBody if that
	// stays empty.
	Ask func(q *message.Request, a *message.Arena, body []byte) []byte
	// Then goes on with the exchange as a stage does. What the answer refers to is gone when it returns.
	Then func(x *Exchange, a *Answer) Verdict
}

// Answer is what became of a Call.
type Answer struct {
	Cause    causes.Cause // NoCause: it is the peer's answer
	Response *message.Response
	Trailers *message.Headers
	Body     []byte // at most Call.MaxAnswer of it
	Cut      bool   // there was more
}

// GRPCStatus is the status of an answer by gRPC; -1: none.
func (a *Answer) GRPCStatus() int {
	v := a.Trailers.Get(message.GRPCStatus)
	if v == nil {
		v = a.Response.Headers.Get(message.GRPCStatus)
	}
	if n, ok := parseUint(v, 127); ok {
		return int(n)
	}
	return -1
}

// Call asks, and holds the exchange until there is an answer or none can be expected. A stage returns its result. If the
// exchange ends before, so does the call, and Then is not called.
func (x *Exchange) Call(c Call) Verdict {
	k := &call{Call: c, owner: x}
	x.call = k
	k.ask(x.w, x.state)
	return Hold
}

// Call asks on behalf of no exchange, by the newest state, and tells the answer on the loop, once, unless the question was withdrawn
// before. What the answer refers to is gone when told returns. Then is not called.
func (w *Worker) Call(c Call, told func(*Answer)) (withdraw func()) {
	k := &call{Call: c, told: told}
	k.ask(w, w.state)
	return k.cancel
}

func (k *call) ask(w *Worker, s State) {
	k.turn.Do = k.step
	q := w.newExchange(k, &w.probing, &k.info, nil)
	k.q = q
	q.state = s
	q.Began, q.touched = w.loop.Now(), w.loop.Now()
	q.total = k.Timeout
	q.flags |= requestDone
	q.body = k.Ask(&q.Request, &q.arena, w.loop.Buffers().Get(0))
	if q.Request.NoBody, q.Request.ContentLength = len(q.body) == 0, int64(len(q.body)); q.Request.NoBody {
		q.dropBody()
		q.flags |= keepBody // there is none to lose
	}
	w.loop.AtTurnEnd(&k.turn) // the pool may answer at once, and a stage is under way
}

// call is a Call under way, and the downstream of its exchange.
type call struct {
	Call
	owner    *Exchange // nil: nobody wants to know any more, or told
	told     func(*Answer)
	q        *Exchange // the question
	info     conn.Info
	turn     loop.TurnNode
	begun    bool
	over     bool
	answered bool // by the peer, wholly
	body     []byte
	cut      bool
}

// step begins the call, and later tells of its end: both at the end of a turn, when no other exchange is in the middle of
// something.
func (k *call) step() {
	switch {
	case k.over:
		k.tell()
	case !k.begun:
		k.begun = true
		if k.q.Cluster = k.q.state.Cluster(k.Cluster); k.q.Cluster == nil || k.q.Cluster.Refused != "" {
			k.q.Reply(causes.ClusterNotFound)
			return
		}
		k.q.state = nil
		k.q.armTimeout()
		k.q.attempt()
	}
}

func (k *call) tell() {
	q, x := k.q, k.owner
	k.q, k.owner = nil, nil
	a := Answer{Cause: q.Cause, Response: &q.Response, Trailers: &q.ResponseTrailers, Body: k.body, Cut: k.cut}
	if !k.answered && a.Cause == causes.NoCause {
		a.Cause = causes.UpstreamTerminated
	}
	switch {
	case k.told != nil:
		k.told(&a)
	case x != nil:
		x.call = nil
		if x.down.blame(); k.Then(x, &a) == Continue {
			x.run()
		}
	}
	if k.body != nil {
		q.w.loop.Buffers().Put(k.body)
	}
	q.w.recycle(q)
}

// cancel ends the call: nobody wants to know any more.
func (k *call) cancel() {
	k.owner, k.told = nil, nil
	if !k.over {
		k.q.clientGone(causes.DownstreamDisconnected, "")
	}
}

// The downstream of a call.

func (k *call) writeInterim(*Exchange) {}
func (k *call) writeHead(*Exchange)    {}

func (k *call) writeData(x *Exchange, b []byte, _ bool) {
	if room := k.MaxAnswer - len(k.body); len(b) > room {
		b, k.cut = b[:room], true
	}
	k.body = x.w.loop.Buffers().Append(k.body, b)
}

func (k *call) writeEnd(*Exchange)  { k.answered = true }
func (k *call) abort(*Exchange)     {}
func (k *call) askBody(*Exchange)   {}
func (k *call) tunnel(*Exchange)    {}
func (k *call) endTunnel(*Exchange) {}
func (k *call) pause(*Exchange)     {}
func (k *call) resume(*Exchange)    {}
func (k *call) full() bool          { return false }
func (k *call) remembers() *Memory  { return nil }
func (k *call) blame()              {}

func (k *call) done(x *Exchange) {
	k.over, k.begun = true, true
	x.w.loop.AtTurnEnd(&k.turn)
}

// HoldForBody lets the exchange go on with the next stage when the whole request is here, or more than most bytes of its
// body. The stage returns the result.
func (x *Exchange) HoldForBody(most int) Verdict {
	if x.Request.NoBody || x.is(requestDone) || len(x.body) > most {
		return Continue
	}
	x.flags |= awaitsBody
	x.bodyMost = most
	if x.Request.Continue {
		x.Request.Continue = false
		x.down.askBody(x)
	}
	return Hold
}

// Body is what is here of the request body; whole: that is all of it.
func (x *Exchange) Body() (b []byte, whole bool) {
	return x.body, x.Request.NoBody || x.is(requestDone)
}

// bodyCame lets an exchange go on that waits for its body, once control is back at the loop.
func (x *Exchange) bodyCame() {
	if x.is(awaitsBody) && (x.is(requestDone) || len(x.body) > x.bodyMost) {
		x.flags &^= awaitsBody
		x.w.loop.Arm(&x.wait, x.w.loop.Now())
	}
}

// Answering puts a header into the response, whoever makes it: in the place of those of that name, or beside them. name, in
// lower case, and value must stay unchanged as long as the exchange.
func (x *Exchange) Answering(name, value []byte, replaces bool) {
	x.answering = append(x.answering, answering{name, value, replaces})
}

type answering struct {
	name, value []byte
	replaces    bool
}

func (x *Exchange) addAnswering() {
	h := &x.Response.Headers
	for _, a := range x.answering {
		if a.replaces {
			h.SetName(a.name, a.value)
		} else {
			h.AddName(a.name, a.value)
		}
	}
}

// Reroute finds the route anew, after a stage changed what routes match by. A stage returns its result.
func (x *Exchange) Reroute() Verdict { return matchRoute(x) }
