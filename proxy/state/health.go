package state

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	matchingv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/cluster/outlier"
	"github.com/weirmesh/weir/proxy/route"
)

// maxPriority is xDS's (LocalityLbEndpoints.priority).
const maxPriority = 128

// maxProbes bounds weir.half_open_probes.
const maxProbes = 1000

// keeps are the endpoints that a status stands for.
var keeps = map[corev3.HealthStatus]cluster.Keeps{
	corev3.HealthStatus_UNKNOWN: cluster.KeepsWell, corev3.HealthStatus_HEALTHY: cluster.KeepsWell, corev3.HealthStatus_DEGRADED: cluster.KeepsDegraded,
	corev3.HealthStatus_UNHEALTHY: cluster.KeepsUnhealthy, corev3.HealthStatus_TIMEOUT: cluster.KeepsUnhealthy, corev3.HealthStatus_DRAINING: cluster.KeepsDraining,
}

// decodeHealth reads how the health of endpoints changes what is chosen.
func (s *clusterSpec) decodeHealth(c *clusterv3.Cluster, path string) error {
	l := c.GetCommonLbConfig()
	s.PanicAt = 50 // Envoy's
	if t := l.GetHealthyPanicThreshold(); t != nil {
		if v := t.GetValue(); v < 0 || v > 100 {
			return fmt.Errorf("%s.common_lb_config.healthy_panic_threshold: %v is not 0 to 100", path, v)
		}
		s.PanicAt = uint32(t.GetValue())
	}
	s.LocalityWeighted = l.GetLocalityWeightedLbConfig() != nil
	if s.Keeps = cluster.DefaultKeeps; l.GetOverrideHostStatus() != nil {
		s.Keeps = 0
		for _, h := range l.GetOverrideHostStatus().GetStatuses() {
			s.Keeps |= keeps[h]
		}
	}
	slow, at := c.GetLeastRequestLbConfig().GetSlowStartConfig(), path+".least_request_lb_config"
	if c.GetLbPolicy() == clusterv3.Cluster_ROUND_ROBIN {
		slow, at = c.GetRoundRobinLbConfig().GetSlowStartConfig(), path+".round_robin_lb_config"
	}
	if slow != nil && s.listed() {
		s.SlowStart = cluster.SlowStart{Window: slow.GetSlowStartWindow().AsDuration(), Aggression: 1, MinPercent: 10}
		if a := slow.GetAggression(); a != nil {
			s.SlowStart.Aggression = a.GetDefaultValue()
		}
		if m := slow.GetMinWeightPercent(); m != nil {
			s.SlowStart.MinPercent = m.GetValue()
		}
		if w := s.SlowStart; w.Window < 0 || w.Window > cluster.MaxOutlierInterval || w.Aggression <= 0 || w.MinPercent < 0 || w.MinPercent > 100 {
			return fmt.Errorf("%s.slow_start_config: window, aggression and percentage must be positive", at)
		}
	}
	if o := c.GetOutlierDetection(); o != nil && s.listed() {
		return s.decodeOutlier(o, path+".outlier_detection")
	}
	return nil
}

// listed reports whether the cluster has endpoints of its own: otherwise the client says where it calls.
func (s *clusterSpec) listed() bool {
	return s.Kind != cluster.OriginalDst && s.Kind != cluster.Dynamic
}

// errorStatuses are the statuses that a matcher of responses takes for errors: each is tried once, here.
func errorStatuses(m *matchingv3.MatchPredicate, path string) (*outlier.Statuses, error) {
	holds, err := statusTest(m, path, 0)
	if err != nil {
		return nil, err
	}
	out := &outlier.Statuses{}
	for n := 100; n < 600; n++ {
		if holds([]byte(strconv.Itoa(n))) {
			out.Add(n)
		}
	}
	return out, nil
}

// maxPredicates bounds how deep predicates may be in one another.
const maxPredicates = 16

// statusTest compiles a predicate of which the status decides alone.
func statusTest(m *matchingv3.MatchPredicate, path string, depth int) (func(status []byte) bool, error) {
	if depth > maxPredicates {
		return nil, fmt.Errorf("%s: is more than %d levels deep", path, maxPredicates)
	}
	several := func(rules []*matchingv3.MatchPredicate, path string, end bool) (func([]byte) bool, error) {
		var tests []func([]byte) bool
		for i, r := range rules {
			t, err := statusTest(r, fmt.Sprintf("%s.rules[%d]", path, i), depth+1)
			if err != nil {
				return nil, err
			}
			tests = append(tests, t)
		}
		return func(status []byte) bool {
			return slices.ContainsFunc(tests, func(t func([]byte) bool) bool { return t(status) == end }) == end
		}, nil
	}
	switch r := m.GetRule().(type) {
	case *matchingv3.MatchPredicate_OrMatch:
		return several(r.OrMatch.GetRules(), path+".or_match", true)
	case *matchingv3.MatchPredicate_AndMatch:
		return several(r.AndMatch.GetRules(), path+".and_match", false)
	case *matchingv3.MatchPredicate_NotMatch:
		t, err := statusTest(r.NotMatch, path+".not_match", depth+1)
		return func(status []byte) bool { return !t(status) }, err
	case *matchingv3.MatchPredicate_AnyMatch:
		return func([]byte) bool { return r.AnyMatch }, nil
	case *matchingv3.MatchPredicate_HttpResponseHeadersMatch:
		var matches []route.ValueMatch
		for i, h := range r.HttpResponseHeadersMatch.GetHeaders() {
			at := fmt.Sprintf("%s.http_response_headers_match.headers[%d]", path, i)
			v, err := decodeHeaderMatch(h, at)
			if err == nil && v.Name != ":status" {
				err = fmt.Errorf("%s.name: %q is not supported: errors are told by :status alone", at, v.Name)
			}
			if err != nil {
				return nil, err
			}
			matches = append(matches, v)
		}
		return func(status []byte) bool {
			return !slices.ContainsFunc(matches, func(v route.ValueMatch) bool { return !v.Holds(status) })
		}, nil
	}
	return nil, fmt.Errorf("%s: %T is not supported: errors are told by the status of a response", path, m.GetRule())
}

// decodeOutlier reads outlier detection with Envoy's defaults. Success rates and failure percentages are not looked at:
// Istio turns them off.
func (s *clusterSpec) decodeOutlier(d *clusterv3.OutlierDetection, path string) (err error) {
	number := func(v *wrapperspb.UInt32Value, otherwise uint32) uint32 {
		if v == nil {
			return otherwise
		}
		return v.GetValue()
	}
	span := func(field string, v *durationpb.Duration, otherwise time.Duration) time.Duration {
		if v == nil {
			return otherwise
		}
		t := v.AsDuration()
		if (t <= 0 || t > cluster.MaxOutlierInterval) && err == nil {
			err = fmt.Errorf("%s.%s: %v is not within a year", path, field, t)
		}
		return t
	}
	enforced := func(enforce *wrapperspb.UInt32Value, otherwise uint32, n *wrapperspb.UInt32Value) uint32 {
		if number(enforce, otherwise) == 0 {
			return 0
		}
		return number(n, 5)
	}
	o := &outlier.Config{
		Split:        d.GetSplitExternalLocalOriginErrors(),
		Interval:     span("interval", d.GetInterval(), 10*time.Second),
		BaseEjection: span("base_ejection_time", d.GetBaseEjectionTime(), 30*time.Second),
		MaxPercent:   min(100, number(d.GetMaxEjectionPercent(), 10)),
		AlwaysOne:    d.GetAlwaysEjectOneHost().GetValue(),
		Probes:       s.probes,
	}
	o.MaxEjection = max(o.BaseEjection, span("max_ejection_time", d.GetMaxEjectionTime(), 300*time.Second))
	o.Consecutive[outlier.FiveXX] = enforced(d.GetEnforcingConsecutive_5Xx(), 100, d.GetConsecutive_5Xx())
	o.Consecutive[outlier.Gateway] = enforced(d.GetEnforcingConsecutiveGatewayFailure(), 0, d.GetConsecutiveGatewayFailure())
	if o.Split {
		o.Consecutive[outlier.LocalOrigin] = enforced(d.GetEnforcingConsecutiveLocalOriginFailure(), 100, d.GetConsecutiveLocalOriginFailure())
	}
	s.Outlier = o
	return err
}
