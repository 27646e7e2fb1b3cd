package translate

import (
	"cmp"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/weirmesh/weir/mesh"
)

// checkJitter is the part of an interval, in percent, by which checks are delayed at random, so that those of many proxies
// do not come together.
const checkJitter = 10

// healthCheck has the proxy ask the endpoints of a cluster.
func healthCheck(c *clusterv3.Cluster, h *mesh.HealthCheck) {
	if c.LbPolicy == clusterv3.Cluster_CLUSTER_PROVIDED {
		return // which has no endpoints before somebody calls them
	}
	out := &corev3.HealthCheck{Interval: duration(h.Interval), Timeout: duration(h.Timeout), IntervalJitterPercent: checkJitter,
		UnhealthyThreshold: u32(h.Unhealthy), HealthyThreshold: u32(h.Healthy)}
	switch h.Kind {
	case mesh.CheckHTTP:
		x := &corev3.HealthCheck_HttpHealthCheck{Host: h.Host, Path: h.Path, Method: corev3.RequestMethod(corev3.RequestMethod_value[cmp.Or(h.Method, "GET")])}
		x.ExpectedStatuses = statusRanges(h.Statuses)
		// xDS takes out at once whoever answers with a status that is in no list.
		if x.RetriableStatuses = statusRanges(h.Retriable); x.RetriableStatuses == nil {
			x.RetriableStatuses = []*typev3.Int64Range{{Start: 100, End: 600}}
		}
		for _, o := range h.Headers {
			x.RequestHeadersToAdd = append(x.RequestHeadersToAdd, &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: o.Name, Value: o.Value},
				AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD})
		}
		out.HealthChecker = &corev3.HealthCheck_HttpHealthCheck_{HttpHealthCheck: x}
	case mesh.CheckGRPC:
		out.HealthChecker = &corev3.HealthCheck_GrpcHealthCheck_{GrpcHealthCheck: &corev3.HealthCheck_GrpcHealthCheck{ServiceName: h.Service}}
	case mesh.CheckTCP:
		out.HealthChecker = &corev3.HealthCheck_TcpHealthCheck_{TcpHealthCheck: &corev3.HealthCheck_TcpHealthCheck{}}
	}
	c.HealthChecks = []*corev3.HealthCheck{out}
}

func statusRanges(list []mesh.StatusRange) (out []*typev3.Int64Range) {
	for _, s := range list {
		out = append(out, &typev3.Int64Range{Start: int64(s.From), End: int64(s.To) + 1})
	}
	return out
}
