package state

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weirmesh/weir/proxy/cluster"
)

const (
	// Of checks: what is asked more often is load, not health, and what is asked of a service's name must fit one length
	// byte of its message.
	minCheckInterval = 10 * time.Millisecond
	maxCheckService  = 100
)

// decodeCheck reads the active health check of a cluster.
func (s *clusterSpec) decodeCheck(c *clusterv3.Cluster, path string) error {
	all := c.GetHealthChecks()
	if len(all) == 0 || !s.listed() {
		return nil
	}
	path += ".health_checks"
	if len(all) > 1 {
		return fmt.Errorf("%s: there are %d, and one is supported", path, len(all))
	}
	h := all[0]
	path += "[0]"
	k := &cluster.Check{Interval: h.GetInterval().AsDuration(), Timeout: h.GetTimeout().AsDuration(), Jitter: h.GetIntervalJitter().AsDuration(),
		Unhealthy: max(1, h.GetUnhealthyThreshold().GetValue()), Healthy: max(1, h.GetHealthyThreshold().GetValue())}
	k.Jitter += time.Duration(float64(k.Interval) * float64(min(100, h.GetIntervalJitterPercent())) / 100)
	for _, d := range []struct {
		field string
		value time.Duration
		least time.Duration
	}{{"interval", k.Interval, minCheckInterval}, {"timeout", k.Timeout, time.Millisecond}, {"interval_jitter", k.Jitter, 0}} {
		if d.value < d.least || d.value > cluster.MaxOutlierInterval {
			return fmt.Errorf("%s.%s: %v is not %v to a year", path, d.field, d.value, d.least)
		}
	}
	switch x := h.GetHealthChecker().(type) {
	case *corev3.HealthCheck_TcpHealthCheck_:
		k.Kind = cluster.CheckTCP
		if x.TcpHealthCheck.GetSend() != nil || len(x.TcpHealthCheck.GetReceive()) > 0 {
			return fmt.Errorf("%s.tcp_health_check: send and receive are not supported: a connection that opens is all that is asked for", path)
		}
	case *corev3.HealthCheck_GrpcHealthCheck_:
		k.Kind, k.Service, k.Host = cluster.CheckGRPC, x.GrpcHealthCheck.GetServiceName(), x.GrpcHealthCheck.GetAuthority()
		if len(k.Service) > maxCheckService {
			return fmt.Errorf("%s.grpc_health_check.service_name: has %d bytes, at most %d", path, len(k.Service), maxCheckService)
		}
	case *corev3.HealthCheck_HttpHealthCheck_:
		if err := decodeHTTPCheck(k, x.HttpHealthCheck, path+".http_health_check"); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%s.health_checker: %T is not supported", path, x)
	}
	key, err := proto.MarshalOptions{Deterministic: true}.Marshal(h)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	k.Key = string(key)
	s.Check = k
	return nil
}

func decodeHTTPCheck(k *cluster.Check, h *corev3.HealthCheck_HttpHealthCheck, path string) error {
	k.Kind, k.Host, k.Path, k.Method = cluster.CheckHTTP, h.GetHost(), h.GetPath(), http.MethodGet
	if m := h.GetMethod(); m != corev3.RequestMethod_METHOD_UNSPECIFIED {
		k.Method = m.String()
	}
	word := func(s string) bool {
		return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f })
	}
	switch {
	case !strings.HasPrefix(k.Path, "/") || !word(k.Path):
		return fmt.Errorf("%s.path: %q is not a path", path, k.Path)
	case !word(k.Host):
		return fmt.Errorf("%s.host: %q is not a host", path, k.Host)
	case k.Method == http.MethodConnect:
		return fmt.Errorf("%s.method: CONNECT asks for no answer", path)
	}
	var err error
	statuses := func(field string, ranges []*typev3.Int64Range) (out [][2]int) {
		for i, s := range ranges {
			if err == nil && (s.GetStart() < 100 || s.GetEnd() > 600 || s.GetStart() >= s.GetEnd()) {
				err = fmt.Errorf("%s.%s[%d]: %d to %d is not part of 100 to 600", path, field, i, s.GetStart(), s.GetEnd())
			}
			out = append(out, [2]int{int(s.GetStart()), int(s.GetEnd())})
		}
		return out
	}
	k.Statuses, k.Retriable = statuses("expected_statuses", h.GetExpectedStatuses()), statuses("retriable_statuses", h.GetRetriableStatuses())
	if err != nil {
		return err
	}
	for i, o := range h.GetRequestHeadersToAdd() {
		name, value := strings.ToLower(o.GetHeader().GetKey()), o.GetHeader().GetValue()
		if name == "" || !word(name) || strings.ContainsAny(name, ":") || strings.ContainsAny(value, "\r\n\x00") {
			return fmt.Errorf("%s.request_headers_to_add[%d]: %q cannot be sent", path, i, name)
		}
		k.Headers = append(k.Headers, [2]string{name, value})
	}
	return nil
}
