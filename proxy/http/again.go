package http

import (
	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/loop"
)

// revoked is an exchange that the rules of now would not let in.
type revoked struct {
	x       *Exchange
	cause   causes.Cause
	details string
	timer   loop.Timer
}

// judgeAgain asks the stages of a configuration that came while the exchange is under way whether they would let it in. What
// they would not is ended when between half of grace and all of it has passed, so that clients do not come back at once, unless
// a later change lets it stay. At gateways and towards the outside requests are not what they were when they came, because
// routes rewrite them.
func (x *Exchange) judgeAgain(now *Config, grace int64) {
	if x.Config.Direction != Inbound || x.stage < len(x.Config.Stages) || x.is(responded) {
		return // the configuration it began with still has to judge it
	}
	cause, details := causes.NoCause, ""
	for i := range now.Stages {
		if again := now.Stages[i].Again; again != nil {
			if cause, details = again(x); cause != causes.NoCause {
				break
			}
		}
	}
	switch r := x.revoked; {
	case cause == causes.NoCause && r != nil:
		r.timer.Stop()
		x.revoked = nil
	case cause != causes.NoCause && r != nil: // the next change gives it no more time
		r.cause, r.details = cause, details
	case cause != causes.NoCause:
		r = &revoked{x: x, cause: cause, details: details}
		r.timer.Fire = r.end
		half := grace / 2
		x.revoked = r
		x.w.loop.Arm(&r.timer, x.w.loop.Now()+half+int64(x.w.loop.Rand()%uint64(half+1)))
	}
}

func (r *revoked) end() {
	x := r.x
	x.down.blame()
	if !x.is(headSent) {
		x.Details = r.details
		x.Reply(r.cause)
		return
	}
	x.endAttempt()
	x.Cause, x.Details = r.cause, r.details
	x.Flags |= r.cause.Flag()
	x.giveUp()
}
