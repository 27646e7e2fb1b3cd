package http

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/cluster/pool"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/demand"
	"github.com/weirmesh/weir/proxy/hosts"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/observe/records"
	"github.com/weirmesh/weir/proxy/rbac"
	"github.com/weirmesh/weir/proxy/route"
	"github.com/weirmesh/weir/proxy/tls"
)

// Stage is one step on the way of a request. Stages run in the order of the list;
// the response passes those that the request passed, in the opposite order. A
// Stage is shared by all exchanges of a Config.
type Stage struct {
	Name string
	// Request sees the request head; nil: nothing to do.
	Request func(x *Exchange) Verdict
	// Response sees the response head, of the upstream or of a local reply; nil: nothing to do.
	Response func(x *Exchange)
	// Again says why the request of an exchange that is under way, and began under another configuration, would not be let in by
	// now, whose stage this is; zero: it would. Nil: it would.
	Again func(x *Exchange, now *Config) Refusal
	// Of is what the stage is made of, for those of the same kind in later configurations (Exchange.Passed).
	Of any
	// Filter is the name of the filter it is of, by which routes switch that on or off; "": they do not. Off: it is, but for routes that
	// switch it on.
	Filter string
	Off    bool
}

// Refusal is why a request or a connection is not let in.
type Refusal struct {
	Cause   causes.Cause // NoCause: it is
	Details string
	Decided []observe.Origin
}

// Passed reports whether a stage saw the request whose Of is as asked.
func (x *Exchange) Passed(of func(any) bool) bool {
	for i := range x.Config.Stages {
		if s := &x.Config.Stages[i]; s.Of != nil && !x.skips(s) && of(s.Of) {
			return true
		}
	}
	return false
}

// OfFilter are stages of a filter that routes may switch.
func OfFilter(name string, off bool, stages ...Stage) []Stage {
	for i := range stages {
		stages[i].Filter, stages[i].Off = name, off
	}
	return stages
}

// skips reports whether the request's route has the stage off.
func (x *Exchange) skips(s *Stage) bool {
	if x.Route == nil || len(x.Route.Switches) == 0 || s.Filter == "" {
		return s.Off
	}
	return x.Route.Off(s.Filter, s.Off)
}

// Verdict is what a stage answers.
type Verdict uint8

const (
	Continue Verdict = iota
	Hold             // the stage arranged for the exchange to go on later, by HoldFor or a Ticket
	Replied          // the stage called Reply
)

// downstream is the side a request came from: a client connection, or a stream of one.
type downstream interface {
	writeInterim(x *Exchange) // a head with a status below 200, from x.Response
	writeHead(x *Exchange)    // from x.Response
	// b is sent or copied; last: writeEnd follows at once, and there are no trailers.
	writeData(x *Exchange, b []byte, last bool)
	writeEnd(x *Exchange)
	abort(x *Exchange)   // the response cannot be completed, and the client must notice
	done(x *Exchange)    // the exchange is over: recycle it, when its request is read
	askBody(x *Exchange) // 100 Continue
	tunnel(x *Exchange)  // after a 101: request bytes are data from now on
	endTunnel(x *Exchange)
	pause(x *Exchange) // the request body
	resume(x *Exchange)
	full() bool
	remembers() *Memory
	blame() // a panic from here on is this side's end, not the worker's
}

// upstream is where an attempt went: a pooled connection, or a stream of one.
type upstream interface {
	writeData(x *Exchange, b []byte, last bool)
	writeEnd(x *Exchange)
	tunnel(x *Exchange)
	cancel(x *Exchange) // forget x and end at once what it began
	finish(x *Exchange) // forget x, whose tunnel has ended in order
	pause(x *Exchange)  // the response body
	resume(x *Exchange)
	full() bool
	remembers() *Memory
}

// Exchange is one request and its response. Stages and the Observer may read all
// exported fields and change the messages; the rest is said by methods.
type Exchange struct {
	Request          message.Request
	RequestTrailers  message.Headers
	Response         message.Response
	ResponseTrailers message.Headers

	Config *Config
	Conn   *conn.Info // of the client's connection
	// Remote is the client's address, from x-forwarded-for where that is trusted.
	Remote netip.AddrPort
	// Peer is what the other side of the mesh says about itself: the client on inbound, the server on outbound; nil: nothing.
	Peer *observe.Peer

	Host     *route.VirtualHost
	Route    *route.Entry
	Target   *route.Weighted
	Cluster  *cluster.Cluster
	Endpoint *cluster.Endpoint // of the last attempt
	// UpstreamLocal is the proxy's address on the last upstream connection, UpstreamTLS its security.
	UpstreamLocal netip.AddrPort
	UpstreamTLS   *tls.Peer
	UpstreamHTTP  message.Protocol // of the last attempt that had a connection
	// OriginalPath is the path before it was rewritten; nil: it was not.
	OriginalPath []byte

	Cause   causes.Cause
	Said    causes.Said // by another proxy of the mesh, whose answer is passed on
	Flags   causes.Flags
	Details string  // RESPONSE_CODE_DETAILS
	Audit   *string // the policy that wants it logged; nil: none
	Failure string  // UPSTREAM_TRANSPORT_FAILURE_REASON
	// Decided are the objects by which a stage refused the request, where Details do not name them.
	Decided  []observe.Origin
	Attempts int

	// Bytes of bodies.
	Received, Sent uint64
	// Moments of the loop's clock; 0: did not happen.
	Began, RequestEnded, UpstreamBegan, ResponseBegan, Ended int64

	w   *Worker
	gen uint32 // counts recyclings, so that a late Ticket does nothing
	// stopped is what would have ended the attempts, if there was something to try again for.
	stopped records.Stopped
	state   State
	origin  *origin
	hold    *demand.Hold // while it waits for configuration, or a name
	found   *hosts.Entry // the name of a Dynamic cluster; nil: none, or none that may be asked for
	call    *call        // while it waits for an answer
	down    downstream
	up      upstream // of the attempt under way, once connected
	arena   message.Arena

	stage        int    // the next one
	redirect     []byte // location of a redirect
	webSocketKey []byte // the client's, or ours
	cookie       []byte // for the client, by which later requests find the same endpoint; nil: none
	routed       int64  // when the router got the request
	flags        exchangeFlags
	redirects    uint32 // of upstreams, that were followed here

	body []byte // of the request: not sent yet, or kept for another attempt
	// what bodies pass on their way; nil: nothing
	requestBody, responseBody Body

	answering []answering // headers of the response, from stages
	bodyMost  int         // while it awaits its body

	copies *copyOf // of the request, that get its body; nil: none

	retry              *route.Retry // the policy in force; nil: none
	retries            uint32       // left
	tried              []*cluster.Endpoint
	stays              *cluster.Endpoint // where the first attempt goes; nil: wherever
	total              time.Duration     // the timeout of the whole; then those of an attempt
	perTry, perTryIdle time.Duration
	// A request that waits for other endpoints asks those it knows again when due, pause after it did.
	pause   time.Duration
	due     int64
	tryEnds int64 // when the attempt ends by perTry; 0: it does not
	waiter  pool.Waiter
	// What became of attempts that were not the last: the first three, and how many there are; when the last one began. How many
	// requests its connection had carried, and since when it is open.
	tries       []records.Attempt
	noted       uint32
	tryBegan    int64
	carried     uint32
	connectedAt int64
	limits      *cluster.Limits // where this attempt counts as a request; nil: nowhere
	retryAt     *cluster.Limits // where it counts as a retry; nil: nowhere

	timeout loop.Timer // of the route
	try     loop.Timer // of the attempt
	wait    loop.Timer // a stage's hold, or the back-off before a retry
	idle    loop.Timer // stream idle
	maximum loop.Timer // stream duration
	touched int64      // last activity, for idle
	revoked *revoked   // it is under way, and would not be let in any more; nil: it would
	came    *came      // how the request was before the route changed it; see keepHead
	// streamMax is what maximum bounds the exchange to; 0: nothing.
	streamMax time.Duration
	idleFor   int64
}

type exchangeFlags uint32

const (
	begun       exchangeFlags = 1 << iota // the Observer heard Begin
	requestDone                           // the request was read to its end
	headSent                              // of the response
	responded                             // the response is complete or given up
	keepBody                              // body holds all of the request body so far
	pausedDown                            // the client's body waits for us
	pausedUp                              // the upstream's body waits for us
	replayed                              // a dead idle connection was replaced already
	fresh                                 // a kept connection had been closed: others may have been, so further attempts need new ones
	attemptOpen                           // the attempt counts as active on its endpoint
	tunnelling                            // after a 101
	backingOff                            // wait is the back-off
	upstreamEOF                           // of a tunnel
	clientEOF
	noTrailers // those of the response are not sent
	ownKey     // webSocketKey was made here
	toldHost   // x-forwarded-host says what the authority was
	hasCame    // came is how the request was
	terminates // a CONNECT whose payload goes to an endpoint as it is
	trying     // the attempt tries an endpoint that is half-open
	perAttempt // maximum is the cluster's, not the listener's
	missed     // the last attempt did not reach its endpoint
	connected  // the last attempt had a connection
	awaitsBody // a stage waits for the request body
	fixed      // Cluster and Endpoint are those to ask, and no others: a health check
	strict     // what holds for the first attempt (stays) holds for all
)

func (x *Exchange) is(f exchangeFlags) bool { return x.flags&f != 0 }

// reset makes x as new, and keeps its memory.
func (x *Exchange) reset() {
	x.Request.Reset()
	x.RequestTrailers.Reset()
	x.Response.Reset()
	x.ResponseTrailers.Reset()
	x.arena.Reset()
	x.Config, x.Conn, x.Peer, x.UpstreamTLS = nil, nil, nil, nil
	x.Remote, x.UpstreamLocal = netip.AddrPort{}, netip.AddrPort{}
	x.Host, x.Route, x.Target, x.Cluster, x.Endpoint = nil, nil, nil, nil, nil
	x.OriginalPath = nil
	x.Cause, x.Flags, x.Details, x.Audit, x.Failure, x.Said, x.Decided, x.Attempts = causes.NoCause, 0, "", nil, "", 0, nil, 0
	x.Received, x.Sent = 0, 0
	x.Began, x.RequestEnded, x.UpstreamBegan, x.ResponseBegan, x.Ended = 0, 0, 0, 0, 0
	x.UpstreamHTTP = message.HTTP11
	x.state, x.origin, x.down, x.up = nil, nil, nil, nil
	x.stage, x.flags, x.redirects, x.stopped = 0, keepBody, 0, records.Unstopped
	x.retry, x.retries, x.total, x.perTry, x.perTryIdle = nil, 0, 0, 0, 0
	x.found, x.stays = nil, nil
	if x.came != nil {
		x.came.headers.Reset()
	}
	x.redirect, x.routed, x.webSocketKey, x.cookie = nil, 0, nil, nil
	x.requestBody, x.responseBody, x.copies = nil, nil, nil
	clear(x.answering)
	x.answering = x.answering[:0]
	clear(x.tried)
	x.tried = x.tried[:0]
	x.tries, x.noted = x.tries[:0], 0
	x.pause = 0
	x.idleFor = 0
}

// Worker is the worker the exchange runs on.
func (x *Exchange) Worker() *Worker { return x.w }

// Facts are what policies are asked about: the first. The others are room for other readings of the request, copied from it. Until the next
// call on this worker.
func (x *Exchange) Facts() *[3]rbac.Facts {
	all := &x.w.facts
	all[0] = rbac.Facts{Conn: x.Conn, Remote: x.Remote, Request: &x.Request}
	return all
}

// Arena is memory that lasts as long as the exchange.
func (x *Exchange) Arena() *message.Arena { return &x.arena }

// Start is when the request head was complete.
func (x *Exchange) Start() time.Time {
	return x.w.loop.Wall().Add(time.Duration(x.Began - x.w.loop.Now()))
}

// DownstreamMemory is the memory of the client's connection, UpstreamMemory that of the attempt's; nil: there is none.
func (x *Exchange) DownstreamMemory() *Memory { return x.down.remembers() }

// UpstreamMemory is described at DownstreamMemory.
func (x *Exchange) UpstreamMemory() *Memory {
	if x.up == nil {
		return nil
	}
	return x.up.remembers()
}

// Flag adds response flags.
func (x *Exchange) Flag(f causes.Flags) { x.Flags |= f }

// Duration is the time from the request head to the end, so far or in all.
func (x *Exchange) Duration() time.Duration {
	end := x.Ended
	if end == 0 {
		end = x.w.loop.Now()
	}
	return time.Duration(end - x.Began)
}

// begin starts the stages: the request head is complete.
func (x *Exchange) begin() {
	now := x.w.loop.Now()
	x.Began, x.touched = now, now
	x.flags |= begun
	if o := x.w.o.Observer; o != nil {
		o.Begin(x)
	}
	if d := x.Config.StreamIdle; d > 0 {
		x.idleFor = int64(d)
		x.w.loop.Arm(&x.idle, now+x.idleFor)
	}
	if x.streamMax = x.Config.StreamMax; x.streamMax > 0 {
		x.w.loop.Arm(&x.maximum, now+int64(x.streamMax))
	}
	x.run()
}

// run goes on with the next stage.
func (x *Exchange) run() {
	for stages := x.Config.Stages; x.stage < len(stages); {
		s := &stages[x.stage]
		x.stage++
		if s.Request != nil && !x.skips(s) && s.Request(x) != Continue {
			return
		}
	}
	// The router is the last stage and never answers Continue.
	x.Reply(causes.InternalError)
}

// HoldFor lets the exchange go on with the next stage after d. The stage answers Hold.
func (x *Exchange) HoldFor(d time.Duration) Verdict {
	x.w.loop.Arm(&x.wait, x.w.loop.Now()+int64(d))
	return Hold
}

// Ticket lets a held exchange go on, from any goroutine. If the exchange has
// ended meanwhile, it does nothing.
type Ticket struct {
	x   *Exchange
	gen uint32
}

// Ticket makes the ticket of a stage that is about to answer Hold.
func (x *Exchange) Ticket() Ticket { return Ticket{x, x.gen} }

// Resume calls then on the exchange's worker. With Continue the next stage
// follows; Hold waits for another Resume.
func (t Ticket) Resume(then func(x *Exchange) Verdict) {
	t.x.w.loop.Post(func() {
		if t.x.gen != t.gen || t.x.is(responded) {
			return
		}
		if t.x.down.blame(); then(t.x) == Continue {
			t.x.run()
		}
	})
}

func (x *Exchange) onWait() {
	x.down.blame()
	if x.is(backingOff) {
		if x.awaitNews() {
			return
		}
		x.flags &^= backingOff
		x.attempt()
		return
	}
	x.run()
}

// Reply answers the request locally for a cause. A stage returns its result.
func (x *Exchange) Reply(c causes.Cause) Verdict {
	return x.ReplyWith(c, c.Status(), x.arena.CopyString(c.Body()))
}

// ReplyWith is Reply with another status and body than the cause's own, for causes that leave them open. body must stay
// unchanged as long as the exchange. A gRPC client gets the status as one of gRPC's.
func (x *Exchange) ReplyWith(c causes.Cause, status int, body []byte) Verdict {
	if x.Request.IsGRPC() && status != 200 {
		return x.ReplyGRPC(c, grpcStatus(status), body)
	}
	if !x.replies(c) {
		return Replied
	}
	p := &x.Response
	p.Status = status
	if len(body) > 0 {
		p.Headers.Add(message.ContentType, textPlain)
	}
	p.ContentLength = int64(len(body))
	p.NoBody = len(body) == 0 || x.Request.Method == message.HEAD
	if status < 200 || status == 204 || status == 304 {
		p.ContentLength, p.NoBody = message.Unknown, true
	}
	x.startResponse()
	if !p.NoBody {
		x.write(body, true)
	}
	x.endResponse()
	return Replied
}

// ReplyGRPC replies with a gRPC status (and HTTP status 200, as gRPC has it).
func (x *Exchange) ReplyGRPC(c causes.Cause, status int, text []byte) Verdict {
	if !x.replies(c) {
		return Replied
	}
	x.grpcHead(status, text)
	x.startResponse()
	x.endResponse()
	return Replied
}

// replies ends what is under way for a local reply, and reports whether one can still be made.
func (x *Exchange) replies(c causes.Cause) bool {
	x.endAttempt()
	x.release()
	x.Cause = c
	x.Flags |= c.Flag()
	switch {
	case x.is(responded):
		return false
	case x.is(headSent):
		x.Details = c.Details()
		x.giveUp()
		return false
	case x.Details == "":
		x.Details = c.Details()
	}
	x.Response.Reset()
	x.ResponseTrailers.Reset()
	return true
}

var textPlain = []byte("text/plain")

// startResponse lets the response head pass the stages and sends it.
func (x *Exchange) startResponse() {
	x.ResponseBegan = x.w.loop.Now()
	for i := x.stage - 1; i >= 0; i-- {
		if s := &x.Config.Stages[i]; s.Response != nil && !x.skips(s) {
			s.Response(x)
		}
	}
	x.addAnswering()
	sign(x)
	x.flags |= headSent
	x.dropBody()
	x.down.writeHead(x)
}

// endResponse ends a response that is complete.
func (x *Exchange) endResponse() {
	if !x.believes() {
		silence(&x.ResponseTrailers)
	}
	if x.responseBody != nil && !x.Response.NoBody {
		if out := x.responseBody.End(x, x.w.loop.Buffers().Get(0)); len(out) > 0 {
			x.write(out, false)
			x.w.loop.Buffers().Put(out)
		}
	}
	x.down.writeEnd(x)
	x.complete()
}

// giveUp ends a response that cannot be completed.
func (x *Exchange) giveUp() {
	x.down.abort(x)
	x.complete()
}

// unreadable answers a request whose head could not be taken.
func (x *Exchange) unreadable(c causes.Cause, details string, status int) {
	x.Began = x.w.loop.Now()
	x.flags |= begun
	x.Remote = x.Conn.Remote
	x.Details = details
	if o := x.w.o.Observer; o != nil {
		o.Begin(x)
	}
	x.ReplyWith(c, status, x.arena.CopyString(c.Body()))
}

// crash ends an exchange after a panic in its name: no stage is run for it any more.
func (x *Exchange) crash() {
	if x.is(responded) {
		x.down.abort(x)
		x.down.done(x)
		return
	}
	x.endAttempt()
	x.Cause, x.Details = causes.InternalError, causes.InternalError.Details()
	x.Flags |= causes.InternalError.Flag()
	x.giveUp()
}

// clientGone ends an exchange whose client went away, with the details of the cause unless there are better ones.
func (x *Exchange) clientGone(c causes.Cause, details string) {
	if x.is(responded) {
		return
	}
	x.endAttempt()
	x.Cause, x.Details = c, cmp.Or(details, c.Details())
	x.Flags |= c.Flag()
	if !x.is(headSent) {
		x.Response.Reset()
	}
	x.complete()
}

// complete ends the exchange: nothing is written for it any more.
func (x *Exchange) complete() {
	x.flags |= responded
	x.endAttempt()
	x.release()
	if x.call != nil {
		k := x.call
		x.call = nil
		k.cancel()
	}
	x.timeout.Stop()
	x.idle.Stop()
	x.maximum.Stop()
	if x.revoked != nil {
		x.revoked.timer.Stop()
		x.revoked = nil
	}
	x.dropBody()
	if x.copies != nil {
		x.endCopies(false)
	}
	x.Ended = x.w.loop.Now()
	if x.Details == "" {
		x.Details = x.Cause.Details()
	}
	if x.Cluster != nil && x.routed != 0 {
		x.w.o.Totals.Of(x.Cluster.ID).Answered(x.Response.Status)
	}
	if x.is(begun) {
		if o := x.w.o.Observer; o != nil {
			o.End(x)
		}
	}
	x.down.done(x)
}

// touch notes activity, for the stream idle timeout.
func (x *Exchange) touch() { x.touched = x.w.loop.Now() }

func (x *Exchange) onIdle() {
	x.down.blame()
	if left := x.touched + x.idleFor - x.w.loop.Now(); left > 0 {
		x.w.loop.Arm(&x.idle, x.w.loop.Now()+left)
		return
	}
	if x.is(requestDone) {
		x.Reply(causes.StreamIdleTimeoutUpstream)
	} else {
		x.Reply(causes.StreamIdleTimeout)
	}
}

// armMaximum bounds the attempt under way by its cluster's max_stream_duration, within the exchange's.
func (x *Exchange) armMaximum() {
	at, own := x.w.loop.Now()+int64(x.Cluster.MaxStreamDuration), x.Began+int64(x.streamMax)
	if x.flags |= perAttempt; x.streamMax > 0 && own <= at {
		x.flags &^= perAttempt
		at = own
	}
	x.w.loop.Arm(&x.maximum, at)
}

func (x *Exchange) onMaximum() {
	x.down.blame()
	c := causes.StreamDurationReached
	if x.is(perAttempt) {
		c = causes.MaxDurationReached
	}
	body := x.arena.CopyString(c.Body())
	switch {
	case x.Request.IsGRPC():
		x.ReplyGRPC(c, 4, body) // DEADLINE_EXCEEDED
	case x.is(requestDone):
		x.ReplyWith(c, 504, body)
	default:
		x.ReplyWith(c, 408, body)
	}
}
