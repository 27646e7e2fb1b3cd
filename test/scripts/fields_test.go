package scripts

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	"sigs.k8s.io/yaml"
)

// Every field of the traffic objects stands in some script, or somebody said where else it is shown.
func TestEveryFieldIsInAScript(t *testing.T) {
	roots := map[string]proto.Message{
		"VirtualService": &networkingv1alpha3.VirtualService{}, "DestinationRule": &networkingv1alpha3.DestinationRule{}, "Gateway": &networkingv1alpha3.Gateway{},
		"ServiceEntry": &networkingv1alpha3.ServiceEntry{}, "WorkloadEntry": &networkingv1alpha3.WorkloadEntry{}, "Sidecar": &networkingv1alpha3.Sidecar{},
	}
	used := map[string]bool{}
	for name, s := range read(t) {
		for i := range s.rounds {
			for text := range strings.SplitSeq(s.rounds[i].objects, "\n---") {
				var o struct {
					Kind string
					Spec map[string]any
				}
				if err := yaml.Unmarshal([]byte(text), &o); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if root := roots[o.Kind]; root != nil {
					mark(used, root.ProtoReflect().Descriptor(), o.Spec)
				}
			}
		}
	}
	seen := map[protoreflect.FullName]bool{}
	var walk func(m protoreflect.MessageDescriptor)
	walk = func(m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] {
			return
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			name := string(m.Name()) + "." + f.JSONName()
			why := elsewhere[name]
			switch {
			case !used[name] && why == "":
				t.Errorf("%s is in no script", name)
			case used[name] && why != "":
				t.Errorf("%s: a script has it, and yet it is said to be shown elsewhere", name)
			}
			if next := f.Message(); why == "" && next != nil && !f.IsMap() && strings.HasPrefix(string(next.FullName()), "istio.networking.") {
				walk(next)
			}
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(roots)) {
		walk(roots[kind].ProtoReflect().Descriptor())
	}
}

// mark notes which fields a message in JSON's form has.
func mark(used map[string]bool, m protoreflect.MessageDescriptor, v map[string]any) {
	for k, x := range v {
		f := m.Fields().ByJSONName(k)
		if f == nil {
			continue
		}
		used[string(m.Name())+"."+k] = true
		if f.Message() == nil || f.IsMap() && f.MapValue().Message() == nil {
			continue
		}
		next := f.Message()
		items := []any{x}
		switch list := x.(type) {
		case []any:
			items = list
		case map[string]any:
			if f.IsMap() {
				next, items = f.MapValue().Message(), slices.Collect(maps.Values(list))
			}
		}
		for _, item := range items {
			if o, ok := item.(map[string]any); ok {
				mark(used, next, o)
			}
		}
	}
}

// elsewhere are the fields that no script has, with the reason.
var elsewhere = map[string]string{
	// Choice among many endpoints, and limits, show in many calls at once: not one by one.
	"LoadBalancerSettings.consistentHash":  "test/e2e: hashing",
	"LocalityLoadBalancerSetting.failover": "test/e2e: localities", "Failover.from": "test/e2e: localities", "Failover.to": "test/e2e: localities",
	"LocalityLoadBalancerSetting.enabled": "test/e2e: localities",
	"OutlierDetection.consecutiveErrors":  "test/e2e: who is set aside", "OutlierDetection.splitExternalLocalOriginErrors": "test/e2e: who is set aside",
	"OutlierDetection.consecutiveLocalOriginFailures": "test/e2e: who is set aside", "OutlierDetection.consecutiveGatewayErrors": "test/e2e: who is set aside",
	"OutlierDetection.consecutive5xxErrors": "test/e2e: who is set aside", "OutlierDetection.interval": "test/e2e: who is set aside",
	"OutlierDetection.baseEjectionTime": "test/e2e: who is set aside", "OutlierDetection.maxEjectionPercent": "test/e2e: who is set aside",
	"OutlierDetection.outlierDetectionHttpErrorCodes": "test/e2e: who is set aside",
	"LoadBalancerSettings.warmup":                     "proxy/cluster: warm-up", "LoadBalancerSettings.warmupDurationSecs": "proxy/cluster: warm-up",
	"ConnectionPoolSettings.tcp": "test/e2e: limits", "PortTrafficPolicy.connectionPool": "test/e2e: limits",
	"HTTPSettings.http1MaxPendingRequests": "test/e2e: limits", "HTTPSettings.http2MaxRequests": "test/e2e: limits",
	"HTTPSettings.maxRequestsPerConnection": "proxy/http", "HTTPSettings.idleTimeout": "proxy/http", "HTTPSettings.maxConcurrentStreams": "proxy/http",
	"HTTPSettings.http2KeepAlive": "proxy/http", "HTTPSettings.h2UpgradePolicy": "test/e2e", "HTTPSettings.useClientProtocol": "test/e2e",
	"PortTrafficPolicy.outlierDetection": "test/e2e: who is set aside",
	"TrafficPolicy.tunnel":               "test/e2e: tunnels", "TrafficPolicy.retryBudget": "test/e2e: retries",
	"TrafficPolicy.proxyProtocol": "test/e2e: PROXY protocol",
	// The cast is called by env capture, where listeners are where they were told to be.
	"Sidecar.ingress": "test/e2e: ports of a workload",
	// Not in force: config/istio says so when the object is applied.
	"ZoneAwareLoadBalancerSetting.failover": "translate: localities", "ZoneAwareLoadBalancerSetting.minClusterSize": "not in force",
	"Server.defaultEndpoint":        "not in force",
	"WorkloadEntry.network":         "not in force",
	"Sidecar.inboundConnectionPool": "translate", "HTTPMatchRequest.statPrefix": "test/e2e: outcomes", "Delay.exponentialDelay": "not in force", "Abort.http2Error": "not in force",
	"L4MatchAttributes.sourceSubnet": "not in force", "TLSCertificate.caCertificates": "not in force", "SidecarPort.targetPort": "deprecated, without effect",
	"Port.targetPort": "deprecated, without effect",
}
