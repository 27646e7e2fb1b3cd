package http

import (
	"strconv"
	"strings"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/observe/records"
	"github.com/weirmesh/weir/proxy/route"
)

// Report is the Observer of a worker that counts exchanges in Istio's metrics and
// writes access logs.
type Report struct {
	Self    *observe.Peer
	Numbers *observe.Worker   // this worker's
	Log     *observe.Log      // nil: no access log
	Records *records.Recorder // this worker's; nil: none are kept
	// Tap is shown every exchange that ends; nil: nobody looks. It is set on the worker's loop.
	Tap func(*Exchange, *observe.Labels, time.Duration)
	// Unknown is told of a host that no virtual host of a table has, when it is first asked for; nil: nobody is.
	Unknown func(t *route.Table, host string)

	record    observe.Record
	workloads Workloads
}

// serviceOf is the service of a cluster by its name alone (direction|port|subset|host).
func serviceOf(name string) (s observe.Service, port uint16) {
	_, rest, _ := strings.Cut(name, "|")
	number, rest, _ := strings.Cut(rest, "|")
	_, host, _ := strings.Cut(rest, "|")
	if host == "" {
		return observe.Service{Name: name}, 0
	}
	n, _ := strconv.ParseUint(number, 10, 16)
	return observe.Service{Host: host, Name: host}, uint16(n)
}

// Begin has nothing to count: Istio's metrics are of finished requests.
func (r *Report) Begin(*Exchange) {}

// End counts the exchange and logs it.
func (r *Report) End(x *Exchange) {
	took := x.Duration()
	l := observe.Labels{Protocol: "http", Status: uint16(x.Response.Status), GRPCStatus: -1, Flags: x.Flags}
	if x.Request.IsGRPC() {
		l.Protocol = "grpc"
		l.GRPCStatus = x.grpcStatusOf()
	}
	if c := x.Cluster; c != nil {
		l.Service, l.Port = observe.Service{Host: c.Service.Host, Name: c.Service.Name, Namespace: c.Service.Namespace}, c.Service.Port
	}
	if l.Service.Host == "" && x.Target != nil {
		// PassthroughCluster, BlackHoleCluster: as Istio names them. Of one that does not exist, whose it would be.
		if s, port := serviceOf(x.TargetName()); s.Host != "" {
			l.Service, l.Port = s, port
		} else {
			l.Service = s
		}
	}
	if x.Config.Direction == Inbound {
		l.Reporter, l.Source, l.Destination, l.Security = observe.Destination, x.Peer, r.Self, observe.SecurityNone
		l.Encrypted = x.Conn.TLS != nil
		if t := x.Conn.TLS; t != nil && t.Presented {
			l.Security, l.SourcePrincipal, l.DestPrincipal = observe.SecurityMutualTLS, t.URI, t.Local
		}
	} else {
		l.Reporter, l.Source, l.Destination, l.Security = observe.Source, r.Self, x.Peer, observe.SecurityUnknown
		if x.Peer == nil && x.Endpoint != nil {
			l.Destination = r.workloads.Of(x.Endpoint)
		}
		if t := x.UpstreamTLS; t != nil {
			l.Encrypted = true
			l.SourcePrincipal, l.DestPrincipal = t.Local, t.URI
		}
	}
	r.Numbers.Request(&l, took, int64(x.Received), int64(x.Sent))
	if e := x.Route; e != nil && e.StatPrefix != "" {
		r.Numbers.Route(observe.Route{Host: x.Host.Name, Prefix: e.StatPrefix}, x.Response.Status, len(x.tried), x.Cause == causes.UpstreamTimeout)
	}
	r.Numbers.Failed(l.Reporter, x.Cause)
	if x.Cause == causes.HostNotFound {
		r.stranger(x)
	}
	if r.Records != nil {
		r.keep(x, &l, took)
	}
	if r.Tap != nil {
		own := l // which is on the heap from here on; l is not
		r.Tap(x, &own, took)
	}
	if r.Log != nil && len(x.Config.Logs) > 0 {
		x.Describe(&r.record)
		r.Log.Write(x.Config.Logs, &r.record)
		r.record = observe.Record{} // refers to nothing of the exchange any more
	}
}

func (r *Report) stranger(x *Exchange) {
	t := x.table()
	if r.Numbers.Unknown(t.Name, x.Request.Authority, x.w.loop.Wall()) && r.Unknown != nil {
		r.Unknown(t, string(x.Request.Authority))
	}
}

// Workloads are the peers that endpoints' metadata describes, for servers that did not introduce themselves: one for each
// workload, because metrics tell peers apart by their pointers. The zero value is ready and belongs to one worker.
type Workloads struct {
	peers map[cluster.Workload]*observe.Peer
}

// maxWorkloads bounds them; it begins anew when it is full.
const maxWorkloads = 4096

// Of is the peer of an endpoint; nil: its workload is not known.
func (all *Workloads) Of(e *cluster.Endpoint) *observe.Peer {
	w := e.Workload
	if w == (cluster.Workload{}) {
		return nil
	}
	if p := all.peers[w]; p != nil {
		return p
	}
	if all.peers == nil || len(all.peers) >= maxWorkloads {
		all.peers = map[cluster.Workload]*observe.Peer{}
	}
	p := &observe.Peer{Workload: w.Name, Namespace: w.Namespace, CanonicalService: w.Service, CanonicalRevision: w.Revision, Cluster: w.Cluster}
	all.peers[w] = p
	return p
}
