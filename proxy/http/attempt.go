package http

import (
	"bytes"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/cluster/pool"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/proxyproto"
	"github.com/weirmesh/weir/proxy/route"
)

// attempt chooses an endpoint and gets a connection to it.
func (x *Exchange) attempt() {
	c := x.latest()
	if !cluster.Acquire(&c.Limits.Requests, &c.Limits.MaxRequests) {
		x.Reply(observe.UpstreamOverflow)
		return
	}
	x.limits = c.Limits
	e := x.choose()
	if e == nil {
		x.Reply(observe.NoHealthyUpstream)
		return
	}
	x.Endpoint = e
	x.Attempts++
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
	x.flags &^= fresh
	x.armTry()
	if b := behalf(e, x.Conn); b != (cluster.Behalf{}) {
		e = x.w.pool.OnBehalf(c, e, b)
	}
	m, result := x.w.pool.Get(c, e, x.speaks(c), &x.waiter, isFresh)
	switch result {
	case pool.Lent:
		m.(carrier).serve(x)
	case pool.Overflow:
		x.Reply(observe.UpstreamOverflow)
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

// choose picks the endpoint of this attempt, nil if there is none.
func (x *Exchange) choose() *cluster.Endpoint {
	c := x.Cluster
	if c.Kind == cluster.OriginalDst {
		addr := x.Conn.Asked()
		if c.LocalAddress.IsValid() {
			addr = netip.AddrPortFrom(c.LocalAddress, addr.Port())
		}
		if !addr.IsValid() {
			return nil
		}
		return x.w.pool.OriginalDst(c, addr)
	}
	var avoid []*cluster.Endpoint
	draws := 0
	if x.retry != nil && x.retry.OtherHosts {
		avoid, draws = x.tried, x.retry.HostAttempts
	}
	return x.w.picker(c.ID).Pick(c, x.w.loop.Rand(), avoid, draws)
}

// latest is the exchange's cluster with the endpoints of now, if there still is one that may be called: they change faster
// than routes, and an exchange that waited, for a delay or to try again, may have seen the last of those it began with.
func (x *Exchange) latest() *cluster.Cluster {
	if now := x.w.state.Cluster(x.Cluster.ID); now != nil && now.Refused == "" {
		x.Cluster = now
	}
	return x.Cluster
}

// Connected is called by the pool: the attempt has its connection.
func (x *Exchange) Connected(m pool.Member) { m.(carrier).serve(x) }

// NotConnected is called by the pool: the attempt has none.
func (x *Exchange) NotConnected(why conn.Why) {
	c, text := causeOf(why)
	x.upstreamFailed(c, text, true, true, false)
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
		x.limits.Requests.Add(-1)
		x.limits = nil
	}
	if x.is(attemptOpen) {
		x.flags &^= attemptOpen
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

func (x *Exchange) onTimeout() {
	x.down.blame()
	x.Failure = ""
	x.Reply(observe.UpstreamTimeout)
}

func (x *Exchange) onTry() {
	x.down.blame()
	now := x.w.loop.Now()
	c := observe.UpstreamPerTryTimeout
	if x.tryEnds == 0 || now < x.tryEnds {
		c = observe.UpstreamPerTryIdleTimeout
	}
	if due := x.tryDue(); now < due {
		x.w.loop.Arm(&x.try, due)
		return
	}
	x.Failure = ""
	if x.mayRetry() && x.retry.On&(route.On5xx|route.OnGatewayError|route.OnReset) != 0 && x.again(false) {
		return
	}
	x.Reply(c)
}

// mayRetry reports whether another attempt is possible at all.
func (x *Exchange) mayRetry() bool {
	return x.retry != nil && x.is(keepBody) && x.flags&(headSent|tunnelling) == 0
}

// retryFailure begins another attempt after a failure, if the policy says so.
func (x *Exchange) retryFailure(c observe.Cause, untouched bool) bool {
	if !x.mayRetry() {
		return false
	}
	// An upstream that does not answer counts as a 5xx and as a gateway error, as in Envoy.
	on := route.On5xx | route.OnGatewayError | route.OnReset
	switch {
	case unreached(c):
		if x.Cluster.Inbound && x.Peer != nil {
			return false // there is one application here; the caller's proxy hears it at once (Undelivered) and knows others
		}
		on = onUnreached
	case c == observe.UpstreamRefused:
		on |= route.OnRefusedStream
	case c == observe.UpstreamTerminated, c == observe.UpstreamReset:
		if untouched {
			on |= route.OnResetBeforeRequest
		}
	case c == observe.UpstreamProtocolError:
	default:
		return false
	}
	return x.retry.On&on != 0 && x.again(unreached(c))
}

// retryResponse begins another attempt instead of passing a response on, if the policy says so.
func (x *Exchange) retryResponse() bool {
	if !x.mayRetry() {
		return false
	}
	p := &x.Response
	if p.Headers.Has(message.XWeirUndelivered) && x.Cluster.InMesh() && x.retry.On&onUnreached != 0 {
		return x.again(true)
	}
	return x.retry.Retriable(p.Status, int(x.grpcStatusOf())) && x.again(false)
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
	return unreached(x.Cause) || x.Cause == observe.UpstreamTerminated && x.Request.Method.Idempotent()
}

func unreached(c observe.Cause) bool {
	switch c {
	case observe.UpstreamConnectFailed, observe.UpstreamConnectTimeout, observe.UpstreamNoSocket, observe.UpstreamTLSFailed:
		return true
	}
	return false
}

// again ends this attempt and arranges for the next one, unless the number of retries or their limit is used up. unreached
// says that the attempt did not reach its endpoint.
func (x *Exchange) again(unreached bool) bool {
	if x.retries == 0 {
		x.Flags |= observe.UpstreamRetryLimitExceeded
		return false
	}
	l := x.Cluster.Limits
	if !cluster.Acquire(&l.Retries, &l.MaxRetries) {
		x.Flags |= observe.UpstreamOverflowFlag
		return false
	}
	x.endAttempt()
	x.retryAt = l
	x.flags |= backingOff
	x.retries--
	x.tried = append(x.tried, x.Endpoint)
	x.Response.Reset()
	x.ResponseTrailers.Reset()
	x.Failure = ""
	n := len(x.tried)
	// Fully jittered exponential back-off, as Envoy's: 0 to base × (2^n - 1), at most the maximum.
	limit := x.retry.BackoffMax
	if n < 20 {
		limit = min(limit, x.retry.BackoffBase*(1<<n-1))
	}
	var d time.Duration
	if limit > 0 {
		d = time.Duration(x.w.loop.Rand() % uint64(limit))
	}
	// Back-off spares an upstream that has too much to do. The first endpoint that is not there says nothing about the
	// others: one of them is asked at once.
	if n == 1 && unreached && x.retry.Eager && x.retry.OtherHosts && len(x.latest().Endpoints) > 1 {
		d = 0
	}
	x.w.loop.Arm(&x.wait, x.w.loop.Now()+int64(d))
	return true
}

// policy sets retries and timeouts from the route and from what the request may ask for by x-envoy headers, which end here.
func (x *Exchange) policy(f *route.Forward) {
	x.total = f.Timeout
	grpc := isGRPC(&x.Request)
	if grpc {
		x.askedDeadline(f)
	}
	if f.StreamMax != nil || grpc && f.StreamGRPC != nil {
		x.bound(f, grpc)
	}
	if f.Retry != nil {
		x.retry = f.Retry
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
		n := strconv.AppendInt(x.arena.Open(12), int64(expected/time.Millisecond), 10)
		h.Set(message.XEnvoyExpectedRQTimeoutMS, x.arena.Close(n))
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

// causeOf says what the end of an upstream connection means for the exchange on it.
func causeOf(why conn.Why) (c observe.Cause, transport string) {
	if why.Err != nil {
		transport = why.Err.Error()
	} else if why.Errno != 0 {
		transport = why.Errno.Error()
	}
	switch why.Kind {
	case conn.ConnectRefused, conn.ConnectFailed:
		return observe.UpstreamConnectFailed, transport
	case conn.ConnectTimeout:
		return observe.UpstreamConnectTimeout, transport
	case conn.SocketFailed:
		return observe.UpstreamNoSocket, transport
	case conn.HandshakeFailed, conn.HandshakeTimeout:
		return observe.UpstreamTLSFailed, transport
	case conn.RecordFailed:
		return observe.UpstreamTerminated, transport
	case conn.Panicked, conn.LoopEnded:
		return observe.InternalError, transport
	}
	return observe.UpstreamTerminated, "" // the cause says it
}

// withTransport adds a transport failure reason to details as Envoy does: {reason|transport_failure_reason}.
func withTransport(details, transport string) string {
	return strings.TrimSuffix(details, "}") + "|" + underscored.Replace(transport) + "}"
}

// underscored keeps details one word.
var underscored = strings.NewReplacer(" ", "_", "\t", "_", "\n", "_", "\r", "_")

// afterStart is the details of a cause that struck when the response had begun.
func afterStart(c observe.Cause) string {
	return strings.Replace(c.Details(), "before_response_started", "after_response_started", 1)
}
