package http

import (
	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/loop"
)

// revoked is an exchange that the rules of now would not let in.
type revoked struct {
	x     *Exchange
	no    Refusal
	timer loop.Timer
}

// came is a request as it was when it was judged.
type came struct {
	path, authority []byte
	headers         message.Headers
}

// gateway says that clients are not the proxy's own application, nor callers of it. Istio's gateways say that they are outbound, too.
func (c *Config) gateway() bool { return c.Direction == Gateway || c.Direction == Outbound && c.Edge }

// keepHead remembers a request that a gateway's route is about to change: it may have to be judged again.
func (x *Exchange) keepHead() {
	e, t, f := x.Route, x.Target, x.Route.Forward
	if !x.Config.gateway() || t.Headers == nil && len(e.Headers) == 0 && f.PrefixRewrite == "" && f.RegexRewrite == nil && t.HostRewrite == "" && f.HostRewrite == "" && !f.HostOfEndpoint {
		return
	}
	if x.came == nil {
		x.came = &came{}
	}
	x.flags |= hasCame
	x.came.path, x.came.authority = x.Request.Path, x.Request.Authority
	x.came.headers.Assign(&x.Request.Headers)
}

// swap exchanges the request's head for the one that was kept.
func (x *Exchange) swap() {
	if x.is(hasCame) {
		q, c := &x.Request, x.came
		q.Path, c.path = c.path, q.Path
		q.Authority, c.authority = c.authority, q.Authority
		q.Headers, c.headers = c.headers, q.Headers
	}
}

// judgeAgain asks the stages of a configuration that came while the exchange is under way whether they would let it in. What
// they would not is ended when between half of grace and all of it has passed, so that clients do not come back at once, unless
// a later change lets it stay.
func (x *Exchange) judgeAgain(now *Config, grace int64) {
	if x.Config.Direction != Inbound && !x.Config.gateway() || x.stage < len(x.Config.Stages) || x.is(responded) {
		return // the configuration it began with still has to judge it, or nobody has
	}
	var no Refusal
	x.swap()
	for i := range now.Stages {
		if s := &now.Stages[i]; s.Again != nil && !x.skips(s) {
			if no = s.Again(x, now); no.Cause != causes.NoCause {
				break
			}
		}
	}
	x.swap()
	switch r := x.revoked; {
	case no.Cause == causes.NoCause && r != nil:
		r.timer.Stop()
		x.revoked = nil
	case no.Cause != causes.NoCause && r != nil: // the next change gives it no more time
		r.no = no
	case no.Cause != causes.NoCause:
		r = &revoked{x: x, no: no}
		r.timer.Fire = r.end
		half := grace / 2
		x.revoked = r
		x.w.loop.Arm(&r.timer, x.w.loop.Now()+half+int64(x.w.loop.Rand()%uint64(half+1)))
	}
}

func (r *revoked) end() {
	x := r.x
	x.down.blame()
	x.Decided = r.no.Decided
	if !x.is(headSent) {
		x.Details = r.no.Details
		x.Reply(r.no.Cause)
		return
	}
	x.endAttempt()
	x.Cause, x.Details = r.no.Cause, r.no.Details
	x.Flags |= r.no.Cause.Flag()
	x.giveUp()
}
