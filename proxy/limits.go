package proxy

import (
	"cmp"
	"slices"
	"time"

	"github.com/weirmesh/weir/api/causes"
	observev1 "github.com/weirmesh/weir/api/observe/v1"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/cluster/outlier"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/route"
	"github.com/weirmesh/weir/proxy/state"
)

const (
	// Of an answer: clusters, limits of routes that lead to one, and callers that a limit of it refused.
	mostLimited, mostRouteLimits, mostRefused = 100, 20, 50
)

// Limits answers who asks for the limits of calls to a host, and of serving them. It waits for the workers, and may be called from
// any goroutine.
func (p *Proxy) Limits(q *observev1.LimitsRequest) *observev1.Limits {
	out := &observev1.Limits{Request: q.GetRequest()}
	if q.GetEjections() {
		out.Ejections = p.ejections(q.GetHost())
		return out
	}
	s := p.state.current()
	now := p.now()
	var routes map[string][]*observev1.Limit
	for c := range s.Clusters() {
		if c.Service.Host == "" || c.Service.Host != q.GetHost() {
			continue
		}
		if len(out.Clusters) == mostLimited {
			break
		}
		x := &observev1.ClusterLimits{Cluster: c.Name, Side: observev1.Side_SIDE_SOURCE, Port: uint32(c.Service.Port), Endpoints: uint32(len(c.Endpoints)), Limits: limitsOf(c, now)}
		if c.Inbound {
			x.Side = observev1.Side_SIDE_DESTINATION
		} else {
			if routes == nil {
				routes = routeLimits(s, q.GetHost())
			}
			counted(routes[c.Name], c.Limits)
			x.Limits = append(x.Limits, routes[c.Name]...)
		}
		out.Clusters = append(out.Clusters, x)
	}
	p.refusals(q.GetHost(), out.GetClusters())
	return out
}

// inARow are the kinds of limits of errors in a row, by reason.
var inARow = [outlier.Reasons]string{outlier.FiveXX: "errors_in_a_row", outlier.Gateway: "gateway_errors_in_a_row", outlier.LocalOrigin: "local_failures_in_a_row"}

// limitsOf are the limits of a cluster, and what became of each.
func limitsOf(c *cluster.Cluster, now int64) []*observev1.Limit {
	l := c.Limits
	o := c.Source.Object()
	var out []*observev1.Limit
	add := func(x *observev1.Limit) *observev1.Limit {
		x.Object, x.File, x.Line = o.Config, o.File, uint32(o.Line)
		out = append(out, x)
		return x
	}
	places := func(kind string, most uint32, u *cluster.Use, trips uint64) {
		add(&observev1.Limit{Kind: kind, Value: float64(most), None: most == cluster.Unlimited, Use: uint64(max(0, u.Load())), Peak: uint64(max(0, u.Peak())), Trips: trips})
	}
	places("connections", l.MaxConnections.Load(), &l.Connections, l.CxOverflow.Load())
	places("pending", l.MaxPending.Load(), &l.Pending, l.PendingOverflow.Load())
	places("requests", l.MaxRequests.Load(), &l.Requests, l.RqOverflow.Load())
	if l.Budgeted() {
		places("retry_budget", l.RetriesAllowed(now), &l.Retries, l.RetryOverflow.Load())
	} else {
		places("retries", l.MaxRetries.Load(), &l.Retries, l.RetryOverflow.Load())
	}
	add(&observev1.Limit{Kind: "requests_per_connection", Value: float64(c.MaxRequestsPerConn), None: c.MaxRequestsPerConn == 0})
	period := func(kind string, d time.Duration, trips uint64) {
		add(&observev1.Limit{Kind: kind, Value: d.Seconds(), None: d <= 0, Trips: trips})
	}
	period("connection_age", c.MaxConnectionDuration, 0)
	period("connect_timeout", c.ConnectTimeout, l.ConnectTimeout.Load())
	if d := c.Outlier; d != nil {
		o := c.Health.Outliers()
		add(&observev1.Limit{Kind: "ejected", Value: float64(d.MaxPercent), Use: uint64(o.Active), Peak: uint64(o.Peak), Trips: uint64(o.Overflow)})
		for r, n := range d.Consecutive {
			if n > 0 {
				add(&observev1.Limit{Kind: inARow[r], Value: float64(n), Trips: uint64(o.By[r])})
			}
		}
	} else if !c.Inbound {
		add(&observev1.Limit{Kind: "ejected", None: true})
	}
	return out
}

// counted gives limits of routes the trips of their cluster, unless it is not clear which of several it was.
func counted(list []*observev1.Limit, l *cluster.Limits) {
	for kind, n := range map[string]uint64{"timeout": l.RqTimeout.Load(), "try_timeout": l.TryTimeout.Load(), "attempts": l.RetryLimit.Load()} {
		var of []*observev1.Limit
		for _, x := range list {
			if x.Kind == kind {
				of = append(of, x)
			}
		}
		if len(of) == 1 {
			of[0].Trips = n
		}
	}
}

// routeLimits are what routes bound of requests to a host, by cluster.
func routeLimits(s *state.State, host string) map[string][]*observev1.Limit {
	out := map[string][]*observev1.Limit{}
	for t := range s.Tables() {
		for _, vh := range t.Hosts() {
			for _, e := range vh.Entries {
				if e.Forward == nil {
					continue
				}
				for _, w := range e.Forward.Clusters {
					if c := s.ClusterNamed(w.Name); c == nil || c.Service.Host != host || len(out[w.Name]) >= mostRouteLimits {
						continue
					}
					for _, x := range entryLimits(e) {
						if !slices.ContainsFunc(out[w.Name], func(y *observev1.Limit) bool {
							return y.Kind == x.Kind && y.Value == x.Value && y.None == x.None && y.Object == x.Object && y.Line == x.Line
						}) {
							out[w.Name] = append(out[w.Name], x)
						}
					}
				}
			}
		}
	}
	return out
}

func entryLimits(e *route.Entry) []*observev1.Limit {
	o := e.Source.Object()
	at := func(x *observev1.Limit) *observev1.Limit {
		x.Object, x.File, x.Line = o.Config, o.File, uint32(o.Line)
		return x
	}
	f := e.Forward
	out := []*observev1.Limit{at(&observev1.Limit{Kind: "timeout", Value: f.Timeout.Seconds(), None: f.Timeout <= 0})}
	if r := f.Retry; r != nil {
		out = append(out, at(&observev1.Limit{Kind: "attempts", Value: float64(r.Attempts)}))
		if r.PerTryTimeout > 0 {
			out = append(out, at(&observev1.Limit{Kind: "try_timeout", Value: r.PerTryTimeout.Seconds()}))
		}
	}
	return out
}

// refusals adds whom the limits of a destination refused, by what was counted for metrics.
func (p *Proxy) refusals(host string, clusters []*observev1.ClusterLimits) {
	if !slices.ContainsFunc(clusters, func(c *observev1.ClusterLimits) bool { return c.Side == observev1.Side_SIDE_DESTINATION }) {
		return
	}
	type caller struct {
		workload, namespace, identity string
		port                          uint16
	}
	counts := map[caller]uint64{}
	count := func(l *observe.Labels, n uint64) {
		if n == 0 || l.Reporter != observe.Destination || l.Service.Host != host || l.Flags&causes.UpstreamOverflowFlag == 0 {
			return
		}
		w := caller{identity: l.SourcePrincipal, port: l.Port}
		if l.Source != nil {
			w.workload, w.namespace = l.Source.Workload, l.Source.Namespace
		}
		counts[w] += n
	}
	t := p.totals()
	for l, s := range t.HTTP {
		count(&l, s.Requests)
	}
	for l, s := range t.TCP {
		count(&l, s.Opened)
	}
	for w, n := range counts {
		for _, c := range clusters {
			if c.Side == observev1.Side_SIDE_DESTINATION && c.Port == uint32(w.port) {
				c.Refused = append(c.Refused, &observev1.Trip{Peer: &observev1.Peer{Workload: w.workload, Namespace: w.namespace, Identity: w.identity}, Count: n})
			}
		}
	}
	for _, c := range clusters {
		slices.SortFunc(c.Refused, func(a, b *observev1.Trip) int {
			return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Peer.Workload, b.Peer.Workload))
		})
		c.Refused = c.Refused[:min(len(c.Refused), mostRefused)]
	}
}
