package proxy

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/weirmesh/weir/proxy/admin"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/cluster/outlier"
)

// clusterTotals are the requests and connections of all clusters, as all workers counted them.
func (p *Proxy) clusterTotals() *cluster.Totals {
	sum := &cluster.Totals{}
	p.each(func(w *worker) { sum.Add(&w.totals) })
	return sum
}

// now is the time by the clock of the loops.
func (p *Proxy) now() (now int64) {
	p.each(func(w *worker) { now = w.loop.Now() })
	return now
}

// clusterStats are how many requests and connections there were, what circuit breakers did and stand at, and what failed, by Envoy's
// names.
func clusterStats(c *cluster.Cluster, total cluster.Total) []admin.Stat {
	l := c.Limits
	counter := func(name string, v uint64) admin.Stat { return admin.Stat{Name: name, Value: int64(v)} }
	gauge := func(name string, v int64) admin.Stat { return admin.Stat{Name: name, Value: v, Gauge: true} }
	out := []admin.Stat{
		counter("upstream_cx_total", total.Connections),
		counter("upstream_rq_total", total.Requests),
	}
	for class, n := range total.Answers {
		if name := classNames[class]; name != "" && n > 0 { // as Envoy: what never came has none
			out = append(out, counter(name, n))
		}
	}
	out = append(out,
		counter("upstream_cx_overflow", l.CxOverflow.Load()),
		counter("upstream_rq_drop_overload", l.Dropped.Load()),
		counter("upstream_rq_pending_overflow", l.PendingOverflow.Load()+l.RqOverflow.Load()), // Envoy counts both there
		counter("upstream_rq_retry_overflow", l.RetryOverflow.Load()),
		counter("upstream_cx_connect_fail", l.ConnectFail.Load()),
		counter("upstream_cx_connect_timeout", l.ConnectTimeout.Load()),
		counter("upstream_rq_timeout", l.RqTimeout.Load()),
		counter("upstream_rq_per_try_timeout", l.TryTimeout.Load()),
		counter("upstream_rq_retry", l.Retried.Load()),
		counter("upstream_rq_retry_success", l.RetrySuccess.Load()),
		counter("upstream_rq_retry_limit_exceeded", l.RetryLimit.Load()),
		counter("upstream_rq_rx_reset", l.RqReset.Load()),
		gauge("upstream_cx_active", int64(l.Connections.Load())),
		gauge("upstream_rq_active", int64(l.Requests.Load())),
		gauge("upstream_rq_pending_active", int64(l.Pending.Load())),
	)
	for _, b := range []struct {
		name, remaining string
		max             uint32
		used            int32
	}{
		{"cx", "cx", l.MaxConnections.Load(), l.Connections.Load()},
		{"rq_pending", "pending", l.MaxPending.Load(), l.Pending.Load()},
		{"rq", "rq", l.MaxRequests.Load(), l.Requests.Load()},
		{"rq_retry", "retries", l.RetriesAllowed(0), l.Retries.Load()},
	} {
		left := max(0, int64(b.max)-int64(b.used))
		open := int64(0)
		if left == 0 {
			open = 1
		}
		out = append(out, gauge("circuit_breakers.default."+b.name+"_open", open), gauge("circuit_breakers.default.remaining_"+b.remaining, left))
	}
	if c.Outlier != nil {
		o := c.Health.Outliers()
		out = append(out, gauge("outlier_detection.ejections_active", int64(o.Active)), counter("outlier_detection.ejections_enforced_total", uint64(o.Total)),
			counter("outlier_detection.ejections_overflow", uint64(o.Overflow)),
			counter("outlier_detection.ejections_enforced_consecutive_5xx", uint64(o.By[outlier.FiveXX])),
			counter("outlier_detection.ejections_enforced_consecutive_gateway_failure", uint64(o.By[outlier.Gateway])),
			counter("outlier_detection.ejections_enforced_consecutive_local_origin_failure", uint64(o.By[outlier.LocalOrigin])))
	}
	if c.Check != nil {
		k := &c.Health.Checked
		sick, degraded := 0, 0
		for _, e := range c.Endpoints {
			if e.Sick.Load() || e.Unproven.Load() {
				sick++
			}
			if e.Degraded.Load() {
				degraded++
			}
		}
		out = append(out, counter("health_check.attempt", k.Attempts.Load()), counter("health_check.success", k.Successes.Load()), counter("health_check.failure", k.Failures.Load()),
			counter("health_check.network_failure", k.NetworkFailures.Load()), gauge("health_check.healthy", int64(len(c.Endpoints)-sick)), gauge("health_check.degraded", int64(degraded)))
	}
	return append(out, gauge("membership_healthy", int64(c.View().Usable())), gauge("membership_total", int64(len(c.Endpoints))))
}

// classNames are the counters of requests by the class of what they came to.
var classNames = [6]string{"", "upstream_rq_1xx", "upstream_rq_2xx", "upstream_rq_3xx", "upstream_rq_4xx", "upstream_rq_5xx"}

// ServerStats are what the proxy as a whole is at, what routes with a stat_prefix and filters have counted, and what authorization decided,
// by Envoy's names.
func (p *Proxy) ServerStats() (out []admin.Stat) {
	out = p.vital()
	add := func(name string, value uint64) { out = append(out, admin.Stat{Name: name, Value: int64(value)}) }
	for name, value := range p.state.builder.Ledger().All() {
		add(name, value)
	}
	p.state.mu.Lock()
	p.state.builder.FilterStats(add)
	p.state.mu.Unlock()
	out = append(out, p.overloads()...)
	for _, c := range p.totals().RouteCounters() {
		out = append(out, admin.Stat{Name: "vhost." + c.Route.Host + ".route." + c.Route.Prefix + "." + c.Name, Value: int64(c.Value)})
	}
	return out
}

// limited reports whether a cluster has a circuit breaker, of whatever kind, or health checks.
func limited(c *cluster.Cluster) bool {
	l := c.Limits
	return c.Outlier != nil || c.Check != nil || l.MaxConnections.Load() != cluster.Unlimited || l.MaxPending.Load() != cluster.Unlimited || l.MaxRequests.Load() != cluster.Unlimited ||
		l.MaxRetries.Load() != cluster.Unlimited || l.Budgeted()
}

// troubled reports whether anything of a cluster has failed.
func troubled(l *cluster.Limits) bool {
	return l.ConnectFail.Load()|l.RqTimeout.Load()|l.TryTimeout.Load()|l.Retried.Load()|l.RetryLimit.Load()|l.RqReset.Load() != 0
}

// writeBreakers writes the statistics of the clusters that have circuit breakers, or trouble: those of all would be most of what
// Prometheus keeps, and say nothing.
func (p *Proxy) writeBreakers(to io.Writer) error {
	type sample struct {
		cluster, class string
		value          int64
	}
	totals := p.clusterTotals()
	var names []string
	kinds, samples := map[string]string{}, map[string][]sample{}
	for c := range p.state.current().Clusters() {
		if !limited(c) && !troubled(c.Limits) {
			continue
		}
		for _, s := range clusterStats(c, totals.At(c.ID)) {
			name, class := "envoy_cluster_"+strings.ReplaceAll(s.Name, ".", "_"), ""
			if i := slices.Index(classNames[:], s.Name); i > 0 {
				name, class = "envoy_cluster_upstream_rq_xx", fmt.Sprintf("envoy_response_code_class=\"%d\",", i)
			}
			if samples[name] == nil {
				names = append(names, name)
				if kinds[name] = "counter"; s.Gauge {
					kinds[name] = "gauge"
				}
			}
			samples[name] = append(samples[name], sample{c.Name, class, s.Value})
		}
	}
	w := bufio.NewWriter(to)
	for _, name := range names {
		fmt.Fprintf(w, "# TYPE %s %s\n", name, kinds[name])
		for _, s := range samples[name] {
			fmt.Fprintf(w, "%s{%scluster_name=%q} %d\n", name, s.class, s.cluster, s.value)
		}
	}
	return w.Flush()
}
