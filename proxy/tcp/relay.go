package tcp

import (
	"cmp"
	"errors"
	"math"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/cluster/outlier"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/demand"
	"github.com/weirmesh/weir/proxy/filter/extauthz"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/h1"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/tls"
)

// Relay is one accepted connection and the one it is relayed to. The exported fields
// are for the Observer to read.
type Relay struct {
	Start    int64 // loop time
	Cluster  *cluster.Cluster
	Target   string // the name of the cluster that Config chose, whether or not there is one
	Endpoint *cluster.Endpoint
	// Received and Sent count payload bytes from and to the downstream peer, without metadata.
	Received, Sent uint64
	// Source and Destination are what the two peers told of themselves, nil if they did not.
	Source, Destination *observe.Peer
	// Cause is why the proxy ended the relay; NoCause if one of the peers did.
	Cause causes.Cause
	// Details is more than the cause can say, for logs; "" if there is nothing more.
	Details string
	// Audit is the policy that wants the connection logged; nil: none.
	Audit *string
	// Decided are the objects because of which Config.Asks did not let the connection come, or a later Config did not let it stay.
	Decided []observe.Origin
	// Broken is how the upstream connection ended that was open, other than in good order. It is no Cause: Envoy has no flag for it.
	Broken causes.Cause
	// Failure is the last failure of the upstream connection in words.
	Failure string
	// Upstream describes the connection to the endpoint once it is open.
	Upstream conn.Info

	w        *Worker
	config   *Config
	state    State
	down, up *conn.Conn // up is nil while there is none
	next     *Relay
	prev     *Relay
	idle     loop.Timer
	report   loop.Timer
	limit    loop.Timer
	moved    int64 // when bytes moved last
	attempts int   // left
	again    uint8 // attempts because of misjudged
	tried    []*cluster.Endpoint
	limits   *cluster.Limits // whose Connections we hold
	hold     *demand.Hold    // while the cluster is awaited
	spoke    func()          // of a tentative relay
	withdraw func()          // the question under way, if there is one
	passage  *passage        // through a forward proxy; nil: there is none
	revoked  *http.Refusal   // why the client would not be let in now; nil: it would
	flags    flags
	// Full reads in a row, by direction.
	bulkDown, bulkUp uint8
}

type flags uint16

const (
	expectDown flags = 1 << iota // the downstream peer's metadata comes first
	expectUp
	upOpen
	downEnded // Closed was called
	ended
	tentative // see Begin
	withdrawn
	told // the Observer knows of it
)

func (r *Relay) is(f flags) bool { return r.flags&f != 0 }

// Downstream describes the accepted connection.
func (r *Relay) Downstream() *conn.Info { return r.down.Info() }

// Deciders are the objects because of which the proxy ended the relay.
func (r *Relay) Deciders() []observe.Origin {
	if r.Decided != nil {
		return r.Decided
	}
	return r.config.Deciders.Denied(r.Details)
}

// Config is what the relay runs by.
func (r *Relay) Config() *Config { return r.config }

// Settled reports that no metadata is awaited any more: labels will not change.
func (r *Relay) Settled() bool {
	return r.is(upOpen) && !r.is(expectDown|expectUp|tentative) && (r.passage == nil || r.passage.open)
}

// downstream and upstream are the two faces of a Relay to its connections.
type (
	downstream Relay
	upstream   Relay
)

// The accepted connection.

func (d *downstream) Open(c *conn.Conn) {
	r := (*Relay)(d)
	w := r.w
	if r.config.Exchange && exchanges(c) {
		// At once, not with the first byte: a client that waits for the server to speak gets
		// ours before it.
		r.flags |= expectDown
		c.Write(w.o.Metadata)
	}
	if r.up != nil { // the service was begun before
		if r.revoked != nil {
			r.revoke() // until now the client could turn out to be one that may come in
			return
		}
		if r.begun(); !r.is(upOpen) {
			c.Pause()
		}
		return
	}
	// Nobody can take the bytes yet. A reset is noticed nevertheless.
	c.Pause()
	if r.begun(); r.withdraw == nil { // else an answer is awaited
		r.start()
	}
}

// Begin connects for a client that has said nothing yet, before it is known whether
// config is what the client wants: the relay is tentative until the connection is handed
// over to it, and withdrawn without a trace otherwise. It writes nothing to the endpoint,
// and calls spoke before it passes on what the endpoint said.
func (w *Worker) Begin(c *conn.Conn, config *Config, s State, spoke func()) Tentative {
	r := w.relay(c, config, s)
	r.flags |= tentative
	r.spoke = spoke
	r.start()
	return (*downstream)(r)
}

// Tentative is a relay that may turn out not to be wanted. Withdraw ends it; the accepted
// connection goes on without it.
type Tentative interface {
	conn.Handler
	Withdraw()
}

func (d *downstream) Withdraw() {
	r := (*Relay)(d)
	r.flags |= withdrawn | downEnded
	if r.up == nil {
		r.end()
		return
	}
	r.up.Close()
}

// begun makes the relay final.
func (r *Relay) begun() {
	r.flags &^= tentative
	if r.is(told) {
		return
	}
	r.flags |= told
	if r.w.o.Observer != nil {
		r.w.o.Observer.Begin(r)
		r.settled()
	}
}

// first is called with whatever the endpoint does first.
func (r *Relay) first() {
	if r.is(tentative) {
		r.flags &^= tentative
		r.spoke()
	}
}

// start connects.
func (r *Relay) start() {
	w := r.w
	r.moved = w.l.Now()
	if r.idleTimeout() > 0 {
		w.l.Arm(&r.idle, r.moved+r.idleTimeout())
	}
	if r.revoked == nil {
		r.endBy(math.MaxInt64)
	}
	if r.is(tentative) && !r.config.enforce(r.down.Info(), true).Allowed {
		return // whoever it turns out to be, it is decided again in Open
	}
	d := r.config.enforce(r.down.Info(), false)
	if d.Marked != nil {
		r.Audit = &d.Marked.Name
	}
	if !d.Allowed {
		r.Details = d.Details()
		r.fail(d.Cause())
		return
	}
	r.inquire(0)
}

// inquire asks about the connection, one after the other of Config.Asks from the i-th on, and goes on when all have said yes.
func (r *Relay) inquire(i int) {
	for ; i < len(r.config.Asks); i++ {
		k := r.config.Asks[i]
		if !k.Applies(r.down.Info()) {
			k.Passed()
			continue
		}
		if r.w.o.HTTP == nil {
			r.ruled(extauthz.Ruling{Cause: causes.ExtAuthzError}, i)
			return
		}
		r.withdraw = k.Ask(r.w.o.HTTP, r.down.Info(), r.w.l.Wall().Add(time.Duration(r.Start-r.w.l.Now())), r.config.Deciders, func(ruling extauthz.Ruling) {
			r.withdraw = nil
			r.down.Blame()
			r.ruled(ruling, i)
		})
		return
	}
	r.admitted()
}

// ruled takes the answer of the i-th who was asked.
func (r *Relay) ruled(x extauthz.Ruling, i int) {
	switch {
	case r.is(ended | downEnded):
	case x.Cause == causes.NoCause:
		r.inquire(i + 1)
	case r.is(tentative): // whoever it turns out to be, it is asked again in Open
	default:
		r.Decided, r.Failure = x.Decided, x.Failure
		r.fail(x.Cause)
	}
}

// admitted goes on with a connection that may come.
func (r *Relay) admitted() {
	if r.choose(); r.awaits() && r.w.o.Demand != nil && !r.is(tentative) {
		if r.hold = r.w.o.Demand.Hold(r.lookAgain); r.hold != nil {
			return
		}
	}
	r.reach()
}

func (r *Relay) choose() {
	if name := r.down.Info().ServerName; r.config.ByServerName && name != "" {
		r.Target, r.Cluster = "", r.state.ClusterNamed(name)
	} else {
		to := r.config.choose(r.w.l.Rand())
		r.Target, r.Cluster = to.Name, r.state.Cluster(to.Cluster)
	}
}

// awaits reports whether something of the cluster has to come before anybody may be called there.
func (r *Relay) awaits() bool {
	if r.Cluster != nil && r.Cluster.Kind == cluster.Dynamic && r.Cluster.Refused == "" {
		_, wait := r.w.named(r.Cluster, r.down.Info())
		return wait
	}
	return r.Cluster != nil && r.Cluster.Awaited
}

// waited ends a wait.
func (r *Relay) waited() {
	if r.withdraw != nil {
		r.withdraw()
		r.withdraw = nil
	}
	if r.hold != nil {
		r.hold.End()
		r.hold = nil
	}
}

// lookAgain looks whether what is awaited has come.
func (r *Relay) lookAgain(over bool) {
	r.down.Blame()
	r.state = r.w.o.State()
	if r.choose(); r.awaits() && !over {
		return
	}
	r.waited()
	r.reach()
}

func (r *Relay) reach() {
	r.state = nil // a relay may last for weeks, and what it began with is a whole configuration
	if r.Cluster == nil {
		r.fail(causes.ClusterNotFound)
		return
	}
	if r.Cluster.Refused != "" {
		r.Failure, r.Details = r.Cluster.Refused, r.Cluster.Refusal()
		r.fail(causes.DestinationRefused)
		return
	}
	r.connect()
}

func (d *downstream) Data(c *conn.Conn, b []byte) int {
	r := (*Relay)(d)
	used := 0
	if r.is(expectDown) {
		n, peer, err := r.w.readFrame(b)
		switch {
		case err == errShort:
			return 0
		case err != nil:
			r.fail(causes.DownstreamProtocolError)
			return 0
		}
		r.flags &^= expectDown
		r.Source = peer
		r.settled()
		used = n
		if b = b[n:]; len(b) == 0 {
			return used
		}
	}
	if r.up == nil {
		return used
	}
	r.Received += uint64(len(b))
	r.touch()
	r.write(b)
	if r.up.Buffered() > conn.HighWater {
		c.Pause()
	}
	if r.spliceable() {
		bulk(&r.bulkDown, c, r.up, len(b))
	}
	return used + len(b)
}

func (d *downstream) EOF(*conn.Conn) {
	if d.up != nil {
		(*Relay)(d).closeWrite()
	}
}

func (d *downstream) Drained(*conn.Conn) {
	if d.up != nil {
		d.up.Resume()
	}
}

func (d *downstream) Closed(_ *conn.Conn, why conn.Why) {
	r := (*Relay)(d)
	r.flags |= downEnded
	if r.up == nil {
		r.end()
		return
	}
	switch why.Kind {
	case conn.Finished, conn.ClosedHere:
		r.up.Close() // flushes, and does not wait for ever
	default:
		r.up.Reset()
	}
}

// The connection to the endpoint.

func (r *Relay) connect() {
	e, trial := r.w.endpoint(r.config, r.Cluster, r.down.Info(), r.tried)
	if e == nil {
		if r.Cause == causes.NoCause {
			if r.Cause = r.Cluster.Missing(); r.Cluster.Kind == cluster.Dynamic {
				known, _ := r.w.named(r.Cluster, r.down.Info())
				r.Failure = known.Reason()
			}
		}
		r.fail(r.Cause)
		return
	}
	if e.Limits != nil {
		if !cluster.Acquire(&e.Limits.Connections, &e.Limits.MaxConnections) {
			e.Limits.CxOverflow.Add(1)
			r.fail(causes.ConnectionsOverflow)
			return
		}
		r.limits = e.Limits
	}
	e.Active.Add(1)
	if trial { // a connection that opens, or does not, ends it
		e.Outlier.Tried()
	}
	r.Endpoint = e
	r.attempts--
	r.w.o.Totals.Of(r.Cluster.ID).Connections++
	r.up = conn.Dial(r.w.l, r.w.target(r.config, r.Cluster, e, r.down.Info()), (*upstream)(r))
	if len(r.Cluster.Endpoints) > 1 {
		r.w.l.Arm(&r.report, r.w.l.Now()+int64(cluster.Silence)) // there is nothing to report before it is open
	}
}

// silent is called when the endpoint has not answered for a while: rather than wait for one that may be gone the connection is made
// to another, if there is one. Nothing was sent.
func (r *Relay) silent() {
	now := r.w.l.Now()
	if r.is(downEnded) || r.up == nil || !r.up.Unanswered() || now-r.Start >= int64(r.Cluster.ConnectTimeout) {
		return
	}
	r.Endpoint.Hush(now, now+int64(cluster.Avoided))
	if r.Cluster.Answering(0, now, r.tried) == nil {
		return
	}
	r.down.Blame()
	given := r.up
	r.release()
	r.up = nil
	r.attempts++
	r.connect()
	given.Close()
}

func (u *upstream) Open(c *conn.Conn) {
	r := (*Relay)(u)
	r.flags |= upOpen
	r.report.Stop()
	if r.Endpoint.Silent.Load() != 0 {
		r.Endpoint.Silent.Store(0)
	}
	r.Cause, r.Failure = causes.NoCause, ""
	r.Cluster.Report(r.Endpoint, outlier.Success, 0, r.w.l.Now())
	r.Upstream = *c.Info()
	if r.config.Exchange && exchanges(c) {
		r.flags |= expectUp
		c.Write(r.w.o.Metadata)
	}
	r.touch()
	if r.config.Tunnel != nil || r.Cluster.Tunnel != nil {
		r.ask(c)
		return
	}
	r.settled()
	if !r.is(tentative) {
		r.down.Resume()
	}
}

func (u *upstream) Data(c *conn.Conn, b []byte) int {
	r := (*Relay)(u)
	used := 0
	if r.is(expectUp) {
		n, peer, err := r.w.readFrame(b)
		switch {
		case err == errShort:
			return 0
		case err != nil:
			r.fail(causes.UpstreamProtocolError)
			return 0
		}
		r.flags &^= expectUp
		r.Destination = peer
		r.settled()
		used = n
		if b = b[n:]; len(b) == 0 {
			return used
		}
	}
	if r.passage != nil {
		return used + r.through(c, b)
	}
	r.deliver(c, b)
	return used + len(b)
}

// deliver passes on what the endpoint said.
func (r *Relay) deliver(c *conn.Conn, b []byte) {
	r.first()
	r.Sent += uint64(len(b))
	r.touch()
	r.down.Write(b)
	if r.down.Buffered() > conn.HighWater {
		c.Pause()
	}
	if r.spliceable() {
		bulk(&r.bulkUp, c, r.down, len(b))
	}
}

// bulk lets the kernel move the bytes of a direction that has shown to carry many.
func bulk(reads *uint8, from, to *conn.Conn, n int) {
	switch {
	case n < loop.ScratchSize/4:
		*reads = 0
	case n == loop.ScratchSize:
		if *reads++; *reads >= bulkReads {
			*reads = 0
			from.SpliceTo(to)
		}
	}
}

// bulkReads is how many full reads, with no small one between them, make bulk: 256 KiB,
// more than nearly all answers of services, and little of what is worth splicing.
const bulkReads = 4

func (d *downstream) Moved(_ *conn.Conn, n int) {
	d.Received += uint64(n)
	(*Relay)(d).touch()
}

func (u *upstream) Moved(_ *conn.Conn, n int) {
	u.Sent += uint64(n)
	(*Relay)(u).touch()
}

func (u *upstream) EOF(*conn.Conn) {
	r := (*Relay)(u)
	r.first()
	if p := r.passage; p != nil && p.dec.EOF() == h1.Failed {
		if p.open {
			r.fail(causes.UpstreamTerminated) // in the middle of a body
		} else {
			r.refused(causes.UpstreamConnectFailed, "the forward proxy closed the connection")
		}
		return
	}
	u.down.CloseWrite()
}

func (u *upstream) Drained(*conn.Conn) { u.down.Resume() }

func (u *upstream) Closed(c *conn.Conn, why conn.Why) {
	r := (*Relay)(u)
	if c != r.up {
		return // given up for another endpoint
	}
	r.release()
	r.up = nil
	if p := r.passage; p != nil && !p.open && !r.is(downEnded) {
		r.refused(causes.UpstreamConnectFailed, "the forward proxy closed the connection: "+why.String())
		return
	}
	if r.is(downEnded) {
		r.end()
		return
	}
	if !r.is(upOpen) && why.Kind.BeforeOpen() {
		r.Cluster.Limits.ConnectFail.Add(1)
		if why.Kind == conn.ConnectTimeout {
			r.Cluster.Limits.ConnectTimeout.Add(1)
		}
		cause, transport := why.Upstream()
		r.Cause, r.Failure = cause, cmp.Or(transport, why.Kind.String())
		if r.misjudged(why) {
			r.connect()
			return
		}
		if r.Cause != causes.UpstreamNoSocket {
			r.Cluster.Report(r.Endpoint, outlier.LocalFailure, 0, r.w.l.Now())
		}
		r.tried = append(r.tried, r.Endpoint)
		if r.attempts > 0 {
			r.connect()
			return
		}
		r.fail(r.Cause)
		return
	}
	switch why.Kind {
	case conn.Finished, conn.ClosedHere:
		r.down.Close()
	case conn.ResetHere: // by fail
	default:
		r.Broken, _ = why.Upstream()
		r.Failure = why.String()
		r.down.Abort() // after what the endpoint said before
	}
}

// misjudged reports that the endpoint's proxy took us for a client without TLS, because
// its application spoke before our ClientHello had arrived; its RST may overtake what
// the application said. It knows better now, and nothing was passed on, so the same
// endpoint is asked again; twice, because another of its workers may have accepted the
// second connection before the first had news.
func (r *Relay) misjudged(why conn.Why) bool {
	e, ok := errors.AsType[*tls.Error](why.Err)
	if !ok || e.Reason != tls.NotTLS && e.Reason != tls.Interrupted || r.again >= 2 {
		return false
	}
	if t := r.Endpoint.Transport.Load(); t == nil || !t.Istio {
		return false
	}
	r.again++
	r.attempts++
	return true
}

// Flags are the response flags of Cause. A connection that could not be made has used up its attempts, as Envoy counts them,
// be it one.
func (r *Relay) Flags() causes.Flags {
	f := r.Cause.Flag()
	if f&causes.UpstreamConnectionFailure != 0 {
		f |= causes.UpstreamRetryLimitExceeded
	}
	return f
}

// fail ends the relay for a reason of our own, so that the client learns it failed: by
// RST, where an orderly end would look like an empty answer.
func (r *Relay) fail(why causes.Cause) {
	r.Cause = why
	r.down.Reset()
	if r.up != nil {
		r.up.Reset()
	}
}

// release gives back what the upstream connection counted for.
func (r *Relay) release() {
	if r.Endpoint != nil && r.up != nil {
		r.Endpoint.Active.Add(-1)
	}
	if r.limits != nil {
		r.limits.Connections.Add(-1)
		r.limits = nil
	}
}

// end is the last thing: both connections are closed.
func (r *Relay) end() {
	if r.is(ended) {
		return
	}
	r.flags |= ended
	r.waited()
	r.idle.Stop()
	r.report.Stop()
	r.limit.Stop()
	if r.passage != nil {
		r.passage.timer.Stop()
	}
	w := r.w
	w.active--
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		w.relays = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	}
	if w.o.Observer != nil && !r.is(withdrawn) {
		r.begun()
		w.o.Observer.End(r)
	}
}

func (r *Relay) settled() {
	if r.Settled() && r.w.o.Observer != nil {
		r.w.o.Observer.Progress(r)
	}
}

// touch notes that bytes moved. The timers are looked after when they fire, not for every byte.
func (r *Relay) touch() {
	l := r.w.l
	r.moved = l.Now()
	if !r.report.Armed() && r.w.o.Observer != nil {
		l.Arm(&r.report, r.moved+int64(reportEvery))
	}
}

func (r *Relay) onReport() {
	if !r.is(upOpen) {
		r.silent()
		return
	}
	if !r.is(tentative) && r.w.o.Observer != nil {
		r.w.o.Observer.Progress(r)
	}
}

func (r *Relay) onIdle() {
	l := r.w.l
	if at := r.moved + r.idleTimeout(); at > l.Now() {
		l.Arm(&r.idle, at)
		return
	}
	r.fail(causes.StreamIdleTimeout)
}

// endBy arms the limit of the relay's life: its maximum duration, or until where that is sooner.
func (r *Relay) endBy(until int64) {
	if d := r.config.MaxDuration; d > 0 {
		until = min(until, r.Start+int64(d))
	}
	if until == math.MaxInt64 {
		r.limit.Stop()
		return
	}
	r.w.l.Arm(&r.limit, until)
}

func (r *Relay) onLimit() {
	if r.revoked != nil {
		r.revoke()
		return
	}
	r.fail(causes.ConnectionDurationReached)
}

// revoke ends a relay that may not stay.
func (r *Relay) revoke() {
	r.Details, r.Decided = r.revoked.Details, r.revoked.Decided
	r.fail(r.revoked.Cause)
}

func (r *Relay) idleTimeout() int64 {
	if r.config.IdleTimeout == 0 {
		return int64(defaultIdle)
	}
	return int64(r.config.IdleTimeout)
}
