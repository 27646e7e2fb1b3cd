package tcp

import (
	"cmp"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/observe"
)

// Describe fills rec with what is known of the connection now.
func (r *Relay) Describe(rec *observe.Record) {
	down, since := r.Downstream(), time.Duration(r.w.l.Now()-r.Start)
	*rec = observe.Record{Start: r.w.l.Wall().Add(-since), Duration: since,
		Flags: r.Flags(), Audit: r.Audit, Termination: cmp.Or(r.Details, r.Cause.Details()), UpstreamFailure: r.Failure, Received: int64(r.Received), Sent: int64(r.Sent),
		UpstreamLocal: r.Upstream.Local, UpstreamTLS: r.Upstream.TLS, DownstreamLocal: down.Asked(), DownstreamRemote: down.Remote, DownstreamTLS: down.TLS, Hostname: r.w.o.Hostname, Cause: r.Cause, RouteOrigin: r.Config().Source, Deciders: r.Deciders()}
	if r.Cause == causes.NoCause || r.Cause.Flag() == causes.UpstreamConnectionFailure { // the latter is told by the failure
		rec.Termination = ""
	}
	if down.Direct != nil {
		rec.DownstreamDirect = *down.Direct
	}
	if r.Endpoint != nil {
		rec.UpstreamHost, rec.UpstreamPath, rec.UpstreamName = r.Endpoint.Addr, r.Endpoint.Path, r.Endpoint.Host
	}
	if r.Upstream.Remote.IsValid() {
		rec.UpstreamHost = r.Upstream.Remote // of several addresses, the one that answered
	}
	if r.Cluster != nil {
		rec.UpstreamCluster, rec.ClusterOrigin = r.Cluster.Name, r.Cluster.Source
	}
	if rec.ServerName = down.ServerName; down.TLS != nil {
		rec.ServerName = down.TLS.SNI
	}
}
