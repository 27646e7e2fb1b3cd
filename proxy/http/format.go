package http

import (
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/observe"
)

// format evaluates a header value into the arena.
func (x *Exchange) format(f *observe.Format) []byte {
	if s, ok := f.Literal(); ok {
		return x.arena.CopyString(s)
	}
	rec := &x.w.record
	x.Describe(rec)
	v := x.arena.Close(f.AppendValue(x.arena.Open(128), rec))
	*rec = observe.Record{} // refers to nothing of the exchange any more
	return v
}

// Describe fills rec with what is known of the exchange now.
func (x *Exchange) Describe(rec *observe.Record) {
	*rec = observe.Record{
		Start: x.Start(), Duration: x.Duration(),
		Request: &x.Request, Response: &x.Response, Trailers: &x.ResponseTrailers,
		RequestEnded: x.since(x.RequestEnded), ResponseBegan: -1,
		GRPCStatus: -1, Attempts: x.Attempts,
		Forwarded: x.UpstreamBegan != 0, UpstreamHTTP: x.UpstreamHTTP,
		Flags: x.Flags, Details: x.Details, Audit: x.Audit, UpstreamFailure: x.Failure,
		Received: int64(x.Received), Sent: int64(x.Sent),
		UpstreamLocal: x.UpstreamLocal, UpstreamTLS: x.UpstreamTLS,
		DownstreamLocal: x.Conn.Asked(), DownstreamRemote: x.Remote, DownstreamDirect: x.Conn.Remote, DownstreamTLS: x.Conn.TLS,
		Hostname: x.w.o.Hostname, Cause: x.Cause, Deciders: x.deciders(),
	}
	if x.Cause == causes.NoCause {
		rec.ResponseBegan = x.since(x.ResponseBegan)
	}
	if x.Request.IsGRPC() {
		rec.GRPCStatus = x.grpcStatusOf()
	}
	if d := x.Conn.Direct; d != nil {
		rec.DownstreamDirect = *d
	}
	if e := x.Endpoint; e != nil {
		rec.UpstreamHost, rec.UpstreamPath, rec.UpstreamName = e.Addr, e.Path, e.Host
	}
	rec.UpstreamCluster = x.TargetName()
	if x.Route != nil {
		rec.RouteName, rec.RouteOrigin = x.Route.Name, x.Route.Source
	}
	if x.Cluster != nil {
		rec.ClusterOrigin = x.Cluster.Source
	}
	if x.Conn.TLS != nil {
		rec.ServerName = x.Conn.TLS.SNI
	}
}

// since is how long after the beginning a moment was; negative: it did not come.
func (x *Exchange) since(moment int64) time.Duration {
	if moment == 0 {
		return -1
	}
	return time.Duration(moment - x.Began)
}
