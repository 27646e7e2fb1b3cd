package proxy

import (
	"cmp"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/observe/records"
	"github.com/weirmesh/weir/proxy/tcp"
)

// relays counts and logs the relayed connections of one worker, on its loop.
type relays struct {
	self    *observe.Peer
	loop    *loop.Loop
	numbers *observe.Worker
	records *records.Recorder // nil: none are kept
	log     *observe.Log      // nil: none
	// reported is what each connection under way has been counted with so far.
	reported  map[*tcp.Relay]*tally
	workloads http.Workloads
	record    observe.Record
}

type tally struct {
	series         *observe.TCPSeries
	sent, received uint64
}

// Begin has nothing to count: who the peers are is not known yet.
func (o *relays) Begin(*tcp.Relay) {}

// Progress counts the connection as opened as soon as its labels are settled, and then
// the bytes that moved since the last time.
func (o *relays) Progress(r *tcp.Relay) {
	if r.Settled() {
		o.count(r)
	}
}

func (o *relays) count(r *tcp.Relay) *tally {
	t := o.reported[r]
	if t == nil {
		l := o.labels(r)
		t = &tally{series: o.numbers.TCP(&l)}
		t.series.Opened++
		o.reported[r] = t
	}
	t.series.Sent += r.Sent - t.sent
	t.series.Received += r.Received - t.received
	t.sent, t.received = r.Sent, r.Received
	return t
}

// End counts the connection as closed and logs it.
func (o *relays) End(r *tcp.Relay) {
	o.count(r).series.Closed++
	reporter := observe.Source
	if r.Config().Inbound {
		reporter = observe.Destination
	}
	o.numbers.Failed(reporter, r.Cause)
	delete(o.reported, r)
	if o.records != nil {
		o.keep(r)
	}
	if o.log == nil || len(r.Config().Logs) == 0 {
		return
	}
	r.Describe(&o.record)
	o.log.Write(r.Config().Logs, &o.record)
}

// keep records a connection that has ended.
func (o *relays) keep(r *tcp.Relay) {
	took := time.Duration(o.loop.Now() - r.Start)
	var c *records.Record
	cause := cmp.Or(r.Cause, r.Broken)
	if cause != causes.NoCause {
		c = o.records.Failed()
	} else if c = o.records.Well(took); c == nil {
		return
	}
	down := r.Downstream()
	c.Start, c.Ended = o.loop.Wall().Add(-took), took
	c.Labels, c.Cause, c.Details, c.Listener = o.labels(r), cause, cmp.Or(r.Details, r.Cause.Details()), r.Config().StatPrefix
	c.Client, c.Asked = records.AddrOf(down.Remote), records.AddrOf(down.Asked())
	c.Deciders, c.RouteOrigin, c.Cluster = r.Deciders(), r.Config().Source, r.Target
	if r.Cluster != nil {
		c.Cluster, c.ClusterOrigin = r.Cluster.Name, r.Cluster.Source
	}
	if r.Endpoint != nil {
		c.Attempts = 1
		a := c.Try()
		*a = records.Attempt{Endpoint: records.AddrOf(r.Endpoint.Addr), Local: records.AddrOf(r.Upstream.Local), Failure: r.Failure, Ended: took}
		if cause.OfUpstream() {
			a.Cause = cause
		}
	}
}

func (o *relays) labels(r *tcp.Relay) observe.Labels {
	l := observe.Labels{Protocol: "tcp", GRPCStatus: -1, Flags: r.Flags()}
	if r.Cluster != nil {
		s := &r.Cluster.Service
		l.Service, l.Port = observe.Service{Host: s.Host, Name: s.Name, Namespace: s.Namespace}, s.Port
		if l.Service.Host == "" {
			l.Service.Name = r.Cluster.Name // PassthroughCluster and its kind, as Istio names them
		}
	}
	if r.Config().Inbound {
		l.Reporter, l.Source, l.Destination, l.Security = observe.Destination, r.Source, o.self, observe.SecurityNone
		l.Encrypted = r.Downstream().TLS != nil
		if t := r.Downstream().TLS; t != nil && t.Presented {
			l.Security, l.SourcePrincipal, l.DestPrincipal = observe.SecurityMutualTLS, t.URI, t.Local
		}
		return l
	}
	l.Reporter, l.Source, l.Destination = observe.Source, o.self, r.Destination
	if l.Destination == nil && r.Endpoint != nil {
		l.Destination = o.workloads.Of(r.Endpoint)
	}
	if t := r.Upstream.TLS; t != nil {
		l.Encrypted = true
		l.SourcePrincipal, l.DestPrincipal = t.Local, t.URI
	}
	return l
}
