package http

import (
	"bytes"
	"strings"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster/pool"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/observe/records"
)

// lent notes the connection of the attempt under way.
func (x *Exchange) lent(it *pool.Item) {
	info := it.Conn.Info()
	x.UpstreamLocal, x.UpstreamTLS = info.Local, info.TLS
	x.UpstreamBegan = x.w.loop.Now()
	x.carried, x.connectedAt = it.Carried()
	x.flags |= connected
}

// note keeps what became of an attempt that another one follows.
func (x *Exchange) note(c causes.Cause) {
	x.noted++
	if len(x.tries) == cap(x.tries) && len(x.tries) < mostTries {
		x.tries = append(make([]records.Attempt, 0, mostTries), x.tries...)
	}
	if len(x.tries) == mostTries {
		return
	}
	x.tries = x.tries[:len(x.tries)+1]
	x.attempted(&x.tries[len(x.tries)-1], c)
}

// mostTries is how many attempts are noted, beside the last.
const mostTries = records.MostTries - 1

// attempted fills in what became of the attempt under way.
func (x *Exchange) attempted(a *records.Attempt, c causes.Cause) {
	now := x.w.loop.Now()
	if x.Ended != 0 {
		now = x.Ended
	}
	*a = records.Attempt{Cause: c, Failure: short(x.Failure), Began: time.Duration(x.tryBegan - x.Began), Ended: time.Duration(now - x.Began)}
	if c == causes.NoCause {
		a.Status = uint16(x.Response.Status)
	}
	if x.Endpoint != nil {
		a.Endpoint = records.AddrOf(x.Endpoint.Addr)
	}
	if x.is(connected) {
		a.Local, a.Requests, a.Age = records.AddrOf(x.UpstreamLocal), x.carried, time.Duration(x.UpstreamBegan-x.connectedAt)
	}
}

// longestFailure bounds texts that records keep.
const longestFailure = 400

func short(s string) string {
	if len(s) <= longestFailure {
		return s
	}
	return strings.Clone(s[:longestFailure])
}

// keep records an exchange that has ended.
func (r *Report) keep(x *Exchange, l *observe.Labels, took time.Duration) {
	var c *records.Record
	if x.Said != 0 || failed(x, l) {
		c = r.Records.Failed()
	} else if c = r.Records.Well(took); c == nil {
		return
	}
	x.Record(c, l, took)
}

// Record fills in what there is to tell of an exchange that has ended.
func (x *Exchange) Record(c *records.Record, l *observe.Labels, took time.Duration) {
	q := &x.Request
	c.Set(records.ID, q.Headers.Get(message.XRequestID))
	if v := q.Headers.Get(message.Traceparent); len(v) >= len("00-")+32 {
		c.Set(records.Trace, v[3:3+32])
	} else {
		c.Set(records.Trace, q.Headers.Get(message.XB3TraceID))
	}
	c.Start, c.Ended = x.Start(), took
	if x.RequestEnded != 0 {
		c.RequestEnded = time.Duration(x.RequestEnded - x.Began)
	}
	if x.ResponseBegan != 0 {
		c.ResponseBegan = time.Duration(x.ResponseBegan - x.Began)
	}
	c.Labels, c.Cause, c.Details, c.Said = *l, x.Cause, short(x.Details), x.Said
	c.Set(records.Method, q.RawMethod)
	c.Set(records.Authority, q.Authority)
	path, _, _ := bytes.Cut(q.Path, []byte{'?'})
	if x.OriginalPath != nil {
		path, _, _ = bytes.Cut(x.OriginalPath, []byte{'?'})
	}
	c.Set(records.Path, path)
	c.Listener = x.Config.StatPrefix
	if x.Host != nil {
		c.Host = x.Host.Name
	}
	if x.Route != nil {
		c.Route, c.RouteOrigin = x.Route.Name, x.Route.Source
	}
	if x.Cluster != nil {
		c.Cluster, c.ClusterOrigin = x.Cluster.Name, x.Cluster.Source
	} else {
		c.Cluster = x.TargetName()
	}
	c.Deciders = x.deciders()
	c.Client, c.Asked = records.AddrOf(x.Conn.Remote), records.AddrOf(x.Conn.Asked())
	if c.Attempts = uint32(x.Attempts); x.Attempts > 0 && failed(x, l) {
		c.Stopped = x.stopped
		if x.Cause == causes.NoCause && x.Response.Status < 400 { // gRPC says so at its end
			c.Stopped = records.ByAnswer
		}
	}
	for i := range x.tries {
		*c.Try() = x.tries[i]
	}
	if c.Attempts > x.noted {
		cause := x.Cause
		if !cause.OfUpstream() {
			cause = causes.NoCause
		}
		x.attempted(c.Try(), cause)
	}
}

// deciders are the objects that decided, besides those of the route and the cluster.
func (x *Exchange) deciders() []observe.Origin {
	switch {
	case x.Decided != nil:
		return x.Decided
	case x.Cause == causes.RouteNotFound && x.Host != nil:
		return x.Host.Sources
	}
	return x.Config.Deciders.Denied(x.Details)
}

// failed reports whether an exchange came to something that somebody may ask about.
func failed(x *Exchange, l *observe.Labels) bool {
	return x.Cause.Failure() || l.Status >= 500 || l.GRPCStatus > 0 && httpStatusOf(l.GRPCStatus) >= 500
}
