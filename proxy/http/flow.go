package http

import (
	"strings"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/cluster/outlier"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/observe/records"
)

// replayLimit is how much of a request body is kept for another attempt, or
// while there is no connection to send it on. Envoy's per_connection_buffer_limit
// is 1 MiB; 64 KiB holds nearly every request that is worth repeating, and a
// worker with 1,000 waiting exchanges in 64 MB.
const replayLimit = 64 << 10

// Body rewrites a body on its way, for one exchange: its stage gives it to RewriteRequest or RewriteResponse with the
// head, and makes the head fit (ContentLength). The calls come in order; b is only valid during the call.
type Body interface {
	// Data appends what b becomes to out. A request's may Reply; what it returns is then dropped.
	Data(x *Exchange, out, b []byte) []byte
	// End appends what follows the last byte, or replies likewise. The trailers are in place.
	End(x *Exchange, out []byte) []byte
}

// RewriteRequest lets the request body pass b.
func (x *Exchange) RewriteRequest(b Body) { x.requestBody = b }

// RewritesRequest is what the request body passes; nil: nothing.
func (x *Exchange) RewritesRequest() Body { return x.requestBody }

// RewriteResponse lets the response body pass b.
func (x *Exchange) RewriteResponse(b Body) { x.responseBody = b }

// WithoutTrailers keeps the response's trailers for the log, and sends none: a Body has written them.
func (x *Exchange) WithoutTrailers() { x.flags |= noTrailers }

// trailersToSend are those of the response; nil: none.
func (x *Exchange) trailersToSend() *message.Headers {
	if x.is(noTrailers) {
		return nil
	}
	return &x.ResponseTrailers
}

// requestData takes bytes of the request body from the downstream. last: requestEnd follows at once, and there are no
// trailers.
func (x *Exchange) requestData(b []byte, last bool) {
	x.Received += uint64(len(b))
	x.touch()
	if x.requestBody == nil || x.is(responded) {
		x.forward(b, last)
		return
	}
	gen := x.gen
	out := x.requestBody.Data(x, x.w.loop.Buffers().Get(len(b)), b)
	if x.gen == gen { // else it was refused, and x is nobody's, or another's
		x.forward(out, false)
	}
	x.w.loop.Buffers().Put(out)
}

// forward sends bytes of the request body upstream, or keeps them until that is possible.
func (x *Exchange) forward(b []byte, last bool) {
	if x.copies != nil {
		x.copyBody(b, last)
	}
	switch {
	case x.is(responded):
		return
	case x.up != nil:
		x.up.writeData(x, b, last)
		if x.is(keepBody) {
			x.keep(b)
		}
		if x.up != nil && x.up.full() && !x.is(pausedDown) {
			x.flags |= pausedDown
			x.down.pause(x)
		}
	case x.hold != nil && !x.hold.Keep(len(b)):
		x.crowd()
	default:
		x.body = x.w.loop.Buffers().Append(x.body, b)
		x.bodyCame()
		if len(x.body) > replayLimit && !x.is(pausedDown) && !x.is(awaitsBody) {
			x.flags |= pausedDown
			x.down.pause(x)
		}
	}
}

// keep remembers bytes that were sent, if all there will be fit.
func (x *Exchange) keep(b []byte) {
	need := max(int64(len(x.body)+len(b)), x.Request.ContentLength)
	if need > replayLimit {
		x.dropBody()
		return
	}
	if x.body == nil && len(b) >= replayLimit/8 { // a peer that says much and sends little gets no room for it
		x.body = x.w.loop.Buffers().Get(int(need))
	}
	x.body = x.w.loop.Buffers().Append(x.body, b)
}

// dropBody gives up repeating the request.
func (x *Exchange) dropBody() {
	x.flags &^= keepBody
	if x.body != nil {
		x.w.loop.Buffers().Put(x.body)
		x.body = nil
	}
}

// requestEnd tells that the request is complete; its trailers are in place.
func (x *Exchange) requestEnd() {
	if x.requestBody != nil && !x.is(responded) {
		gen := x.gen
		out := x.requestBody.End(x, x.w.loop.Buffers().Get(0))
		if x.gen != gen { // as above
			x.w.loop.Buffers().Put(out)
			return
		}
		if len(out) > 0 {
			x.forward(out, false)
		}
		x.w.loop.Buffers().Put(out)
	}
	x.flags |= requestDone
	x.RequestEnded = x.w.loop.Now()
	x.touch()
	if x.is(responded) {
		return
	}
	if x.RequestTrailers.Len() > 0 && x.Config.Underscores != UnderscoresPass {
		x.RequestTrailers.RemoveFunc(hasUnderscore) // too late to refuse
	}
	x.bodyCame()
	if x.copies != nil {
		x.endCopies(true)
	}
	x.armTimeout()
	x.armTry()
	if x.up != nil {
		x.up.writeEnd(x)
	}
}

// unpauseDown lets the request body flow again.
func (x *Exchange) unpauseDown() {
	if x.is(pausedDown) {
		x.flags &^= pausedDown
		x.down.resume(x)
	}
}

// upstreamDrained: the upstream takes bytes again.
func (x *Exchange) upstreamDrained() { x.unpauseDown() }

// downstreamDrained: the client takes bytes again.
func (x *Exchange) downstreamDrained() {
	if x.is(pausedUp) {
		x.flags &^= pausedUp
		if x.up != nil {
			x.up.resume(x)
		}
	}
}

// responseHead takes a response head from the upstream, in x.Response. It reports whether the attempt goes on.
func (x *Exchange) responseHead() bool {
	x.touch()
	p := &x.Response
	switch {
	case p.Status == 101, p.Status >= 200 && p.Status < 300 && x.Request.Method == message.CONNECT:
		if !x.switched() {
			x.Failure = "http1.websocket_accept"
			x.fail(causes.UpstreamProtocolError)
			return false
		}
		x.try.Stop()
		x.finishHead()
		x.flags |= tunnelling
		x.timeout.Stop() // a tunnel is not a response that is late
		x.up.tunnel(x)
		x.down.tunnel(x)
		if x.is(clientEOF) {
			x.up.writeEnd(x)
		}
		return true
	case p.Status < 200:
		// 100 was asked for and answered by us; others are the client's business (RFC 9110 section 15.2).
		if p.Status != 100 && x.Request.Protocol != message.HTTP10 {
			p.Headers.Remove(message.XWeirWhy)
			x.down.writeInterim(x)
		}
		return true
	case p.Status < 300 && x.Request.Upgrade != nil && x.Request.Protocol == message.HTTP2:
		// To an extended CONNECT it would mean that the tunnel is open (RFC 8441 section 5).
		x.Failure = "http1.no_upgrade"
		x.fail(causes.UpstreamProtocolError)
		return false
	}
	x.try.Stop()
	x.judge(false)
	if c := x.Cluster; c.Check != nil && p.Headers.GetName(cluster.FailHeader) != nil {
		c.Health.Withdraw(x.Endpoint)
	}
	if x.retryResponse() || p.Status >= 300 && p.Status < 400 && x.follow() {
		return false
	}
	x.finishHead()
	if x.perTryIdle > 0 {
		x.armTry()
	}
	return true
}

// finishHead makes the upstream's head ours and sends it.
func (x *Exchange) finishHead() {
	x.Cause = causes.NoCause
	if x.Details == "" {
		x.Details = causes.NoCause.Details()
	}
	if len(x.tried) > 0 && x.Flags&causes.UpstreamRetryLimitExceeded == 0 {
		x.Cluster.Limits.RetrySuccess.Add(1)
	}
	x.startResponse()
}

// responseData takes bytes of the response body from the upstream. last: responseEnd follows at once, and there are no
// trailers.
func (x *Exchange) responseData(b []byte, last bool) {
	x.touch()
	if x.responseBody == nil {
		x.write(b, last)
	} else {
		out := x.responseBody.Data(x, x.w.loop.Buffers().Get(2*len(b)), b)
		x.write(out, false)
		x.w.loop.Buffers().Put(out)
	}
	if x.down.full() && !x.is(pausedUp) && x.up != nil {
		x.flags |= pausedUp
		x.up.pause(x)
	}
}

func (x *Exchange) write(b []byte, last bool) {
	x.Sent += uint64(len(b))
	x.down.writeData(x, b, last)
}

// responseEnd: the upstream's response is complete, and its connection is not x's any more.
func (x *Exchange) responseEnd() {
	x.judge(true)
	x.up = nil
	x.endResponse()
}

// atOnce is how soon a kept connection has to end after it was used again for the reason to be that it was idle for too long: a
// round trip in a data centre, several times. A program that fails over the request itself usually takes longer.
const atOnce = 5 * time.Millisecond

// upstreamFailed ends an attempt that failed; its connection is not x's any more. transport says what TLS or the kernel
// said. untouched means that no byte of the request left the proxy, silent that none of a response came.
func (x *Exchange) upstreamFailed(c causes.Cause, transport string, untouched, silent, reused bool) {
	x.up = nil
	x.Failure = transport
	if c == causes.UpstreamReset || refused(c) {
		x.Cluster.Limits.RqReset.Add(1)
	}
	if c != causes.UpstreamNoSocket && !refused(c) && !(silent && reused) { // not our own lack, nor a race with its keep-alive timeout
		x.report(outlier.LocalFailure, 0)
	}
	if x.is(headSent) {
		x.stopped = records.ByAnswer
		x.endAttempt()
		x.Details = afterStart(c)
		if terminated(c) {
			c = causes.ResponseCut
		}
		x.Cause = c
		x.Flags |= c.Flag()
		x.giveUp()
		return
	}
	// The peer closed a connection without a word: an idle one just when we used it, or one that still waited to be
	// accepted when its program ended. Nothing of the request was processed if nothing left here; else the peer may have
	// begun, and only what is harmless twice is sent again (RFC 9112 section 9.3.1), once.
	// A peer that refuses a stream says itself that it processed nothing of it (RFC 9113 section 8.7).
	if silent && x.is(keepBody) && !x.is(replayed) && (refused(c) ||
		terminated(c) && (untouched && reused || x.Request.Method.Idempotent())) {
		x.note(c)
		x.endAttempt()
		x.Failure = ""
		x.flags |= replayed
		if terminated(c) {
			x.flags |= fresh
		}
		x.attempt()
		return
	}
	if x.retryFailure(c, untouched) {
		return
	}
	x.endAttempt()
	if terminated(c) && silent && reused && (untouched || x.w.loop.Now()-x.UpstreamBegan < int64(atOnce)) {
		c = causes.UpstreamIdleClosed
	}
	x.fail(c)
}

// fail answers for an upstream that failed.
func (x *Exchange) fail(c causes.Cause) {
	body := c.Body()
	if x.Attempts > 1 {
		body = strings.Replace(body, "reset reason", "retried and the latest reset reason", 1)
	}
	if x.Failure != "" {
		x.Details = withTransport(c.Details(), x.Failure)
		body += ", transport failure reason: " + x.Failure
	}
	x.ReplyWith(c, c.Status(), x.arena.CopyString(body))
}

// clientTunnelEnd: the client of a tunnel half-closed.
func (x *Exchange) clientTunnelEnd() {
	x.flags |= clientEOF
	if x.is(upstreamEOF) {
		x.endTunnel()
		return
	}
	x.up.writeEnd(x)
}

// upstreamTunnelEnd: the upstream of a tunnel half-closed.
func (x *Exchange) upstreamTunnelEnd() {
	x.flags |= upstreamEOF
	if x.is(clientEOF) {
		x.endTunnel()
		return
	}
	x.down.endTunnel(x)
}

func (x *Exchange) endTunnel() {
	up := x.up
	x.up = nil
	up.finish(x)
	x.complete()
}
