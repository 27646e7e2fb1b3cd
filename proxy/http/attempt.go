package http

import (
	"bytes"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/cluster/outlier"
	"github.com/weirmesh/weir/proxy/cluster/pool"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/observe/records"
	"github.com/weirmesh/weir/proxy/proxyproto"
	"github.com/weirmesh/weir/proxy/route"
)

// attempt chooses an endpoint and gets a connection to it.
func (x *Exchange) attempt() {
	c := x.latest()
	e := x.choose()
	if e == nil {
		x.Reply(c.Missing())
		return
	}
	x.Endpoint = e // whose labels a refusal has, too
	if !cluster.Acquire(&c.Limits.Requests, &c.Limits.MaxRequests) {
		c.Limits.RqOverflow.Add(1)
		if x.is(trying) {
			x.flags &^= trying
			e.Outlier.Tried()
		}
		x.Reply(causes.UpstreamOverflow)
		return
	}
	x.limits = c.Limits
	x.Attempts++
	if !x.is(fixed) { // health checks are counted apart
		x.w.o.Totals.Of(c.ID).Requests++
	}
	x.flags &^= connected
	x.tryBegan = x.w.loop.Now()
	if e.Host != "" && x.Route != nil && x.Route.Forward != nil && x.Route.Forward.HostOfEndpoint {
		x.rewriteHost(e.Host)
	}
	if x.Host != nil && x.Host.AttemptCount {
		n := strconv.AppendInt(x.arena.Open(4), int64(x.Attempts), 10)
		x.Request.Headers.Set(message.XEnvoyAttemptCount, x.arena.Close(n))
	}
	e.Active.Add(1)
	x.flags |= attemptOpen
	if c.MaxStreamDuration > 0 {
		x.armMaximum()
	}
	isFresh := x.is(fresh) || x.is(terminates)
	x.armTry()
	if b := behalf(e, x.Conn); b != (cluster.Behalf{}) {
		e = x.w.pool.OnBehalf(c, e, b)
	}
	m, result := x.w.pool.Get(c, e, x.speaks(c), &x.waiter, isFresh)
	switch result {
	case pool.Lent:
		m.(carrier).serve(x)
	case pool.Overflow:
		x.Reply(causes.PendingOverflow)
	case pool.Waiting:
	}
}

// behalf is what an endpoint is to know of the client, if anything.
func behalf(e *cluster.Endpoint, info *conn.Info) (b cluster.Behalf) {
	if t := e.Transport.Load(); t != nil && t.Proxy != proxyproto.None {
		b.Client, b.Asked = info.Remote, info.Asked()
	}
	if s := info.OriginalSource; s != nil {
		b.Source, b.Mark = info.Source(), s.Mark
	}
	return b
}

// speaks is the HTTP version of an attempt.
func (x *Exchange) speaks(c *cluster.Cluster) cluster.Protocol {
	if x.is(terminates) {
		return cluster.Raw
	}
	if c.Protocol != cluster.Downstream {
		return c.Protocol
	}
	if x.Request.Protocol == message.HTTP2 {
		return cluster.HTTP2
	}
	return cluster.HTTP1
}

// maxAddress is longer than any address with a zone and a port.
const maxAddress = 80

// hashed is what chooses the endpoint: what the cluster says, or the route.
func (x *Exchange) hashed(c *cluster.Cluster) []cluster.HashKey {
	if c.Hash == nil && x.Route != nil && x.Route.Forward != nil && (c.Policy == cluster.RingHash || c.Policy == cluster.Maglev) {
		return x.Route.Forward.Hash
	}
	return c.Hash
}

// choose picks the endpoint of this attempt, nil if there is none.
func (x *Exchange) choose() *cluster.Endpoint {
	c := x.Cluster
	if x.is(fixed) {
		return x.Endpoint
	}
	if c.Kind == cluster.OriginalDst {
		addr := x.Conn.Asked()
		if c.LocalAddress.IsValid() {
			addr = netip.AddrPortFrom(c.LocalAddress, addr.Port())
		}
		if c.DestinationHeader != "" {
			if v := x.Request.Headers.GetName(c.DestinationHeader); len(v) > 0 && len(v) <= maxAddress {
				if a, err := netip.ParseAddrPort(string(v)); err == nil {
					addr = a
				}
			}
		}
		if addr = c.Ported(addr); !addr.IsValid() {
			return nil
		}
		return x.w.pool.OriginalDst(c, addr)
	}
	if c.Kind == cluster.Dynamic {
		return x.dynamic(c)
	}
	if e := x.stays; e != nil && !e.Gone.Load() && (len(x.tried) == 0 && !x.silent(e) || x.is(strict)) {
		return e
	}
	if x.is(strict) {
		return nil
	}
	var avoid []*cluster.Endpoint
	draws := 0
	if x.retry != nil && x.retry.OtherHosts {
		avoid, draws = x.tried, x.retry.HostAttempts
	}
	number := x.w.loop.Rand()
	if keys := x.hashed(c); keys != nil {
		number = x.hash(keys, number)
	}
	if n := len(x.tried); n > 0 && x.retry != nil && x.retry.OtherPriorities > 0 && n%x.retry.OtherPriorities == 0 {
		if e := c.Elsewhere(number, x.tried); e != nil {
			return e
		}
	}
	e, trial := x.w.picker(c.ID).Choose(c, number, avoid, draws)
	if e != nil && x.silent(e) {
		if f := x.instead(c, number, e); f != nil {
			if trial {
				e.Outlier.Tried()
			}
			return f
		}
	}
	// Those that are near have all been tried, the last one is not there, and nobody knows yet: rather than the same again
	// one of those that come next, or whom the network finds.
	if e != nil && x.is(missed) && slices.Contains(x.tried, e) {
		var f *cluster.Endpoint
		if avoid != nil {
			if f = c.Answering(number, x.w.loop.Now(), avoid); f == nil {
				f = c.Elsewhere(number, avoid)
			}
		}
		if f == nil && c.Led.IsValid() && x.outdated() {
			f = x.w.pool.At(c, c.Led, e)
		}
		if f != nil {
			if trial {
				e.Outlier.Tried()
			}
			return f
		}
	}
	if trial {
		x.flags |= trying
	}
	return e
}

// silent reports whether an endpoint does not answer to connections.
func (x *Exchange) silent(e *cluster.Endpoint) bool {
	until := e.Silent.Load()
	return until != 0 && until > x.w.loop.Now()
}

// instead is an endpoint to be called in place of one that does not answer to connections, nil if there is none.
func (x *Exchange) instead(c *cluster.Cluster, random uint64, e *cluster.Endpoint) *cluster.Endpoint {
	f := c.Answering(random, x.w.loop.Now(), x.tried)
	if f == nil && c.Led.IsValid() && x.outdated() && e.Addr != c.Led {
		f = x.w.pool.At(c, c.Led, e)
		if x.silent(f) {
			return nil
		}
	}
	return f
}

// latest is the exchange's cluster with the endpoints of now, if there still is one that may be called: they change faster
// than routes, and an exchange that waited, for a delay or to try again, may have seen the last of those it began with.
func (x *Exchange) latest() *cluster.Cluster {
	if now := x.w.state.Cluster(x.Cluster.ID); now != nil && now.Refused == "" && !x.is(fixed) {
		x.Cluster = now
	}
	return x.Cluster
}

// Connected is called by the pool: the attempt has its connection.
func (x *Exchange) Connected(m pool.Member) { m.(carrier).serve(x) }

// NotConnected is called by the pool: the attempt has none.
func (x *Exchange) NotConnected(local netip.AddrPort, why conn.Why) {
	if local.IsValid() { // the endpoint knows the connection by that
		x.UpstreamLocal, x.UpstreamBegan, x.carried, x.connectedAt = local, x.tryBegan, 0, x.tryBegan
		x.flags |= connected
	}
	c, text := why.Upstream()
	x.upstreamFailed(c, text, true, true, false)
}

// Abandoned is called by the pool: the endpoint is not of the cluster any more, while its connection is being made. It may
// be a pod that is gone, whose address never answers: rather than wait for that the request goes to one that is there. It
// is the same attempt, since nothing was sent.
func (x *Exchange) Abandoned() {
	if !x.is(fixed) && x.latest().View().Usable() > 0 {
		x.move()
	}
}

// Silent is called by the pool: the endpoint does not answer to connections. Nobody knows whether it ever will, and nothing was sent:
// the request goes to another one, if there is one, and is not held up by a pod that is gone. The connection goes on being made.
func (x *Exchange) Silent(until int64) {
	x.Endpoint.Hush(x.w.loop.Now(), until) // which the pool does not know if it is called on behalf of a client
	if x.pinned() {
		return
	}
	if x.instead(x.latest(), 0, x.Endpoint) != nil {
		x.move()
	}
}

// move goes on with the attempt elsewhere: nothing of it was sent.
func (x *Exchange) move() {
	retryAt := x.retryAt
	x.retryAt = nil
	x.endAttempt()
	x.retryAt = retryAt
	x.Attempts--
	x.attempt()
}

// endAttempt forgets the attempt under way, if there is one.
func (x *Exchange) endAttempt() {
	x.waiter.Cancel()
	x.wait.Stop()
	x.try.Stop()
	x.flags &^= backingOff
	if up := x.up; up != nil {
		x.up = nil
		up.cancel(x)
	}
	if x.limits != nil {
		x.limits.Over(x.routed)
		x.limits = nil
	}
	if x.is(attemptOpen) {
		if x.is(trying) {
			x.Endpoint.Outlier.Tried()
		}
		x.flags &^= attemptOpen | trying
		x.Endpoint.Active.Add(-1)
	}
	if x.retryAt != nil {
		x.retryAt.Retries.Add(-1)
		x.retryAt = nil
	}
}

// armTimeout starts the route's timeout: when the request is complete and routed (RouteAction.timeout).
func (x *Exchange) armTimeout() {
	if x.total > 0 && x.is(requestDone) && !x.timeout.Armed() {
		x.w.loop.Arm(&x.timeout, x.w.loop.Now()+int64(x.total))
	}
}

// armTry starts the timeouts of the attempt under way, once the request is complete: a client that is slow to send must
// not look like a slow upstream.
func (x *Exchange) armTry() {
	if x.perTry == 0 && x.perTryIdle == 0 || x.flags&(requestDone|attemptOpen) != requestDone|attemptOpen {
		return
	}
	x.tryEnds = 0
	if x.perTry > 0 && !x.is(headSent) {
		x.tryEnds = x.w.loop.Now() + int64(x.perTry)
	}
	x.touch()
	x.w.loop.Arm(&x.try, x.tryDue())
}

// tryDue is when the attempt must be looked at next.
func (x *Exchange) tryDue() int64 {
	if x.perTryIdle == 0 {
		return x.tryEnds
	}
	idle := x.touched + int64(x.perTryIdle)
	if x.tryEnds == 0 {
		return idle
	}
	return min(idle, x.tryEnds)
}

// judge reports what the upstream answered to outlier detection: its status, or that of gRPC, which may come at the end.
func (x *Exchange) judge(end bool) {
	if x.Cluster.Outlier == nil {
		return
	}
	status := x.Response.Status
	if x.Request.IsGRPC() {
		n := x.grpcStatusOf()
		if trailing := !x.Response.Headers.Has(message.GRPCStatus) && status == 200; trailing != end {
			return
		}
		if n >= 0 {
			status = httpStatusOf(n)
		}
	} else if end {
		return
	}
	x.report(x.Cluster.Outlier.OfStatus(status), status)
}

// report tells outlier detection how the attempt went; status is that of its answer, 0: there was none.
func (x *Exchange) report(r outlier.Result, status int) {
	if x.Cluster.Outlier != nil && x.is(attemptOpen) {
		x.Cluster.Report(x.Endpoint, r, status, x.w.loop.Now())
	}
}

func (x *Exchange) onTimeout() {
	x.down.blame()
	x.Cluster.Limits.RqTimeout.Add(1)
	x.report(outlier.LocalFailure, 0)
	x.Failure = ""
	x.stopped = records.ByDeadline
	x.Reply(causes.UpstreamTimeout)
}

func (x *Exchange) onTry() {
	x.down.blame()
	now := x.w.loop.Now()
	c := causes.UpstreamPerTryTimeout
	if x.tryEnds == 0 || now < x.tryEnds {
		c = causes.UpstreamPerTryIdleTimeout
	}
	if due := x.tryDue(); now < due {
		x.w.loop.Arm(&x.try, due)
		return
	}
	x.Cluster.Limits.TryTimeout.Add(1)
	x.report(outlier.LocalFailure, 0)
	x.Failure = ""
	if x.mayRetry() && x.wanted(x.retry.On&x.onSilence() != 0) && x.again(c, false) {
		return
	}
	x.Reply(c)
}

// mayRetry reports whether another attempt is possible at all.
func (x *Exchange) mayRetry() bool {
	switch {
	case x.flags&(headSent|tunnelling) != 0:
		x.stopped = records.ByAnswer
	case x.retry == nil:
		x.stopped = records.ByPolicy
	case !x.is(keepBody):
		x.stopped = records.ByBody
	default:
		return true
	}
	return false
}

// wanted notes what the policy's conditions say.
func (x *Exchange) wanted(on bool) bool {
	if !on {
		x.stopped = records.ByCondition
	}
	return on
}

// retryFailure begins another attempt after a failure, if the policy says so.
func (x *Exchange) retryFailure(c causes.Cause, untouched bool) bool {
	if !x.mayRetry() {
		return false
	}
	on := x.onSilence()
	switch {
	case unreached(c):
		if x.Cluster.Inbound && x.Peer != nil {
			x.stopped = records.ByCaller
			return false // there is one application here; the caller's proxy hears it at once (Undelivered) and knows others
		}
		on = onUnreached
	case refused(c):
		on |= route.OnRefusedStream
	case terminated(c), c == causes.UpstreamReset:
		if untouched {
			on |= route.OnResetBeforeRequest
		}
	case c == causes.UpstreamProtocolError:
	default:
		on = 0
	}
	return x.wanted(x.retry.On&on != 0) && x.again(c, unreached(c))
}

// onSilence are the conditions under which a request is tried again that reached an upstream which does not answer: it
// counts as a 5xx and as a gateway error, as in Envoy.
func (x *Exchange) onSilence() route.RetryOn {
	on := route.On5xx | route.OnGatewayError | route.OnReset
	if x.Request.Method.Idempotent() {
		on |= route.OnResetIdempotent
	}
	return on
}

// retryResponse begins another attempt instead of passing a response on, if the policy says so.
func (x *Exchange) retryResponse() bool {
	if !x.mayRetry() {
		return false
	}
	p := &x.Response
	if p.Headers.Has(message.XWeirUndelivered) && x.Cluster.InMesh() && x.retry.On&onUnreached != 0 {
		return x.again(causes.NoCause, true)
	}
	switch {
	case p.Headers.Has(message.XEnvoyOverloaded):
		x.stopped = records.ByUpstream
		return false // more requests are the last thing that upstream needs
	case p.Headers.GetName("x-envoy-ratelimited") != nil:
		return x.wanted(x.retry.On&route.OnEnvoyRateLimited != 0) && x.again(causes.NoCause, false)
	}
	return x.wanted(x.retry.Retriable(p.Status, int(x.grpcStatusOf())) || x.retry.RetriableHeader(&p.Headers)) && x.again(causes.NoCause, false)
}

// onUnreached are the conditions under which a request is tried again that did not reach an upstream.
const onUnreached = route.On5xx | route.OnGatewayError | route.OnReset | route.OnConnectFailure | route.OnResetBeforeRequest

// Undelivered reports whether the request, as far as this proxy knows, had no effect on the upstream, or none that doing
// it again would add to: no connection to the upstream could be made, so nothing of the request was sent; or the upstream
// closed the connection instead of answering, and the request is idempotent. The second is what a program does that ends:
// its kernel accepts connections that the program never will, and resets them. Nobody can say whether such a request was
// processed, so only one that may be processed twice counts (RFC 9110 section 9.2.2).
//
// Between two proxies of the mesh such an answer says x-weir-undelivered, and the caller's proxy takes it for a connection
// that it could not make itself: seen from there, the server's proxy and application are one upstream. Without it a
// program that ends fails the requests that are on their way to it until every proxy has heard of its end.
func (x *Exchange) Undelivered() bool {
	return unreached(x.Cause) || terminated(x.Cause) && x.Request.Method.Idempotent()
}

func unreached(c causes.Cause) bool {
	switch c {
	case causes.UpstreamConnectFailed, causes.UpstreamConnectRefused, causes.UpstreamConnectTimeout, causes.UpstreamNoSocket, causes.UpstreamTLSFailed,
		causes.UpstreamCertificateRefused, causes.UpstreamTLSRefused, causes.UpstreamNotTLS, causes.NoOwnCertificate:
		return true
	}
	return false
}

// terminated reports whether the upstream ended its connection instead of answering.
func terminated(c causes.Cause) bool {
	switch c {
	case causes.UpstreamTerminated, causes.UpstreamConnectionReset, causes.UpstreamTLSEnded, causes.UpstreamIdleClosed:
		return true
	}
	return false
}

// refused reports whether the upstream itself said that it processed nothing of the request.
func refused(c causes.Cause) bool {
	return c == causes.UpstreamRefused || c == causes.UpstreamGoingAway
}

const (
	// newsLook is how often a request that waits for other endpoints looks whether there are.
	newsLook = 200 * time.Millisecond
	// newsWait is how long such a request waits before it asks those it knows again, the first time; maxNewsWait is the
	// longest time. Hundreds may wait for one that is gone, and are not to keep both proxies busy.
	newsWait    = newsLook
	maxNewsWait = 2 * time.Second
	// leavingWait is how long the news may take that somebody took the place of endpoints that are about to end. Kubernetes'
	// controller of EndpointSlices takes seconds where it has much to do.
	leavingWait = 10 * time.Second
)

// outdated reports whether endpoints may have been replaced without our knowing.
func (x *Exchange) outdated() bool {
	return x.w.outdated() || x.Cluster.Leaving && x.w.loop.Now()-x.Began < int64(leavingWait)
}

// awaitNews goes on waiting for other endpoints, if that is what the exchange does.
func (x *Exchange) awaitNews() bool {
	now := x.w.loop.Now()
	if x.due <= now || x.w.state.Cluster(x.Cluster.ID) != x.Cluster || !x.outdated() {
		return false
	}
	x.w.loop.Arm(&x.wait, min(x.due, now+int64(newsLook)))
	return true
}

// absent reports whether a failure means that the endpoint is not there: its kernel, a router or its proxy says so.
func absent(c causes.Cause) bool {
	return c == causes.UpstreamConnectRefused || c == causes.UpstreamConnectFailed || c == causes.NoCause
}

// pinned reports whether the endpoint of this attempt is the only one that it may be sent to.
func (x *Exchange) pinned() bool {
	return x.is(fixed) || x.is(strict) && x.stays == x.Endpoint || x.Cluster.Kind == cluster.OriginalDst || x.Cluster.Kind == cluster.Dynamic
}

// untried reports whether there is an endpoint that the exchange has not tried, and that answers as far as is known.
func (x *Exchange) untried() bool {
	return !x.pinned() && x.latest().Answering(0, x.w.loop.Now(), append(x.tried, x.Endpoint)) != nil
}

// again ends this attempt, which failed because of c or answered what is not to be passed on, and arranges for the next one, unless
// the number of retries or their limit is used up. unreached says that the attempt did not reach its endpoint. Attempts at endpoints
// that are not there nobody has had work with: they go on while there is one that has not been tried, and nobody else tries the absent
// for a second. Many may be gone at once, and the control plane that should have said so, too.
func (x *Exchange) again(c causes.Cause, unreached bool) bool {
	// Whoever took the place of endpoints that are gone will be known in a moment: until then the last one is asked.
	spared := unreached && absent(c) && x.retry.OtherHosts && x.untried()
	waits := x.retries == 0 && !spared && unreached && len(x.tried) > 0 && x.outdated()
	if x.retries == 0 && !waits && !spared {
		x.stopped = records.ByAttempts
		x.Cluster.Limits.RetryLimit.Add(1)
		x.Flags |= causes.UpstreamRetryLimitExceeded
		return false
	}
	l := x.Cluster.Limits
	if x.retryAt != nil { // this attempt was one, and makes room for the next
		x.retryAt.Retries.Add(-1)
		x.retryAt = nil
	}
	switch {
	case l.AcquireRetry(x.w.loop.Now()):
		x.retryAt = l
	case !spared:
		x.stopped = records.ByBudget
		l.RetryOverflow.Add(1)
		x.Flags |= causes.UpstreamOverflowFlag
		return false
	}
	x.note(c)
	retryAt := x.retryAt
	x.retryAt = nil // which the attempt that ends would give back
	x.endAttempt()
	if x.Host != nil && x.Host.TellTimeout {
		late := valueFalse
		if c == causes.UpstreamPerTryTimeout {
			late = valueTrue
		}
		x.Request.Headers.Set(message.XEnvoyIsTimeoutRetry, late)
	}
	l.Retried.Add(1)
	x.retryAt = retryAt
	x.flags = x.flags&^missed | backingOff
	if unreached {
		x.flags |= missed
	}
	if x.retries > 0 {
		x.retries--
	}
	if spared {
		x.Endpoint.Hush(x.w.loop.Now(), x.w.loop.Now()+int64(cluster.Absent))
	}
	x.tried = append(x.tried, x.Endpoint)
	x.Response.Reset()
	x.ResponseTrailers.Reset()
	x.Failure = ""
	n := len(x.tried)
	// Fully jittered exponential back-off, as Envoy's: 0 to base × (2^n - 1), at most the maximum.
	limit := x.retry.BackoffMax
	x.due = 0
	if n < 20 {
		limit = min(limit, x.retry.BackoffBase*(1<<n-1))
	}
	var d time.Duration
	if limit > 0 {
		d = time.Duration(x.w.loop.Rand() % uint64(limit))
	}
	// Back-off spares an upstream that has too much to do. An endpoint that is not there says nothing about the
	// others: one of them is asked at once.
	if (n == 1 || spared) && unreached && x.retry.Eager && x.retry.OtherHosts && (len(x.latest().Endpoints) > 1 || x.Cluster.Led.IsValid() && x.outdated()) {
		d = 0
	}
	if waits {
		x.pause = max(newsWait, min(2*x.pause, maxNewsWait))
		d = x.pause/2 + time.Duration(x.w.loop.Rand()%uint64(x.pause))
		x.due = x.w.loop.Now() + int64(d)
		d = min(d, newsLook)
	}
	x.w.loop.Arm(&x.wait, x.w.loop.Now()+int64(d))
	return true
}

// policy sets retries and timeouts from the route and from what the request may ask for by x-envoy headers, which end here.
func (x *Exchange) policy(f *route.Forward) {
	x.total = f.Timeout
	grpc := x.Request.IsGRPC()
	if grpc {
		x.askedDeadline(f)
	}
	if f.StreamMax != nil || grpc && f.StreamGRPC != nil {
		x.bound(f, grpc)
	}
	if f.Retry != nil {
		if x.retry = f.Retry; f.Retry.Requests != nil && !f.Retry.Wants(&x.Request.Headers) {
			x.retry = nil
		}
		x.retries = f.Retry.Attempts
		x.perTry, x.perTryIdle = f.Retry.PerTryTimeout, f.Retry.PerTryIdle
	}
	h := &x.Request.Headers
	if v := h.Get(message.XEnvoyUpstreamRQTimeoutMS); v != nil {
		if n, ok := parseUint(v, maxMillis); ok {
			x.total = time.Duration(n) * time.Millisecond
		}
		h.Remove(message.XEnvoyUpstreamRQTimeoutMS)
	}
	if v := h.Get(message.XEnvoyUpstreamRQPerTryTimeoutMS); v != nil {
		if n, ok := parseUint(v, maxMillis); ok {
			x.perTry = time.Duration(n) * time.Millisecond
		}
		h.Remove(message.XEnvoyUpstreamRQPerTryTimeoutMS)
	}
	if x.total > 0 && x.perTry >= x.total {
		x.perTry = 0 // the whole ends first
	}
	x.askedRetries(h)
	if f.Idle > 0 {
		x.idleFor = int64(f.Idle)
		x.w.loop.Arm(&x.idle, x.w.loop.Now()+x.idleFor)
	}
	expected := x.total
	if x.perTry > 0 {
		expected = x.perTry
	}
	if expected > 0 {
		if !x.Config.Quiet {
			n := strconv.AppendInt(x.arena.Open(12), int64(expected/time.Millisecond), 10)
			h.Set(message.XEnvoyExpectedRQTimeoutMS, x.arena.Close(n))
		}
		if grpc && f.GRPC != nil {
			h.Set(message.GRPCTimeout, x.arena.Close(appendGRPCTimeout(x.arena.Open(9), expected)))
		}
	}
}

// maxMillis bounds timeouts that a request may ask for: 24 days.
const maxMillis = 1<<31 - 1

// askedRetries adds what the request asks for to the route's policy.
func (x *Exchange) askedRetries(h *message.Headers) {
	if !h.Has(message.XEnvoyRetryOn) && !h.Has(message.XEnvoyRetryGRPCOn) && !h.Has(message.XEnvoyRetriableStatusCodes) && !h.Has(message.XEnvoyMaxRetries) {
		return
	}
	asked, _, _ := route.ParseRetryOn(string(h.Get(message.XEnvoyRetryOn)) + "," + string(h.Get(message.XEnvoyRetryGRPCOn)))
	own := route.Retry{HostAttempts: 1, BackoffBase: 25 * time.Millisecond, BackoffMax: 250 * time.Millisecond}
	if x.retry != nil {
		own = *x.retry
	} else if asked != 0 {
		x.retries = 1
	}
	own.On |= asked
	own.StatusCodes = slices.Clone(own.StatusCodes)
	for f := range bytes.SplitSeq(h.Get(message.XEnvoyRetriableStatusCodes), []byte{','}) {
		if n, ok := parseUint(bytes.TrimSpace(f), 599); ok {
			own.StatusCodes = append(own.StatusCodes, int(n))
		}
	}
	if n, ok := parseUint(h.Get(message.XEnvoyMaxRetries), 100); ok {
		x.retries = uint32(n)
	}
	if own.On != 0 {
		x.retry = &own
	}
	h.Remove(message.XEnvoyRetryOn)
	h.Remove(message.XEnvoyRetryGRPCOn)
	h.Remove(message.XEnvoyRetriableStatusCodes)
	h.Remove(message.XEnvoyMaxRetries)
}

// parseUint reads a decimal number up to limit.
func parseUint(b []byte, limit uint64) (uint64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, n <= limit
}

// withTransport adds a transport failure reason to details as Envoy does: {reason|transport_failure_reason}.
func withTransport(details, transport string) string {
	return strings.TrimSuffix(details, "}") + "|" + underscored.Replace(transport) + "}"
}

// underscored keeps details one word.
var underscored = strings.NewReplacer(" ", "_", "\t", "_", "\n", "_", "\r", "_")

// afterStart is the details of a cause that struck when the response had begun.
func afterStart(c causes.Cause) string {
	return strings.Replace(c.Details(), "before_response_started", "after_response_started", 1)
}
