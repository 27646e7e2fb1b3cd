package proxy

import (
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
)

// Wherever the control plane is, Envoy would find it by the cluster that the bootstrap has for it.
func TestControlPlaneInABootstrap(t *testing.T) {
	for address, want := range map[string]struct {
		kind clusterv3.Cluster_DiscoveryType
		host string
		port uint32
	}{
		"unix:///run/weir/xds.sock":                        {clusterv3.Cluster_STATIC, "/run/weir/xds.sock", 0},
		"127.0.0.1:15012":                                  {clusterv3.Cluster_STATIC, "127.0.0.1", 15012},
		"[2001:db8::1]:15012":                              {clusterv3.Cluster_STATIC, "2001:db8::1", 15012},
		"istiod.istio-system.svc:15012":                    {clusterv3.Cluster_STRICT_DNS, "istiod.istio-system.svc", 15012},
		"dns:///istiod.istio-system.svc:15012":             {clusterv3.Cluster_STRICT_DNS, "istiod.istio-system.svc", 15012},
		"passthrough:///istiod.istio-system.svc:70000":     {},
		"dns:///istiod.istio-system.svc.cluster.local:xds": {},
		"": {},
	} {
		c, err := controlPlane(address, "", nil)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		if (c == nil) != (want.host == "") {
			t.Errorf("%s: %v", address, c)
		}
		if c == nil {
			continue
		}
		if err := c.ValidateAll(); err != nil {
			t.Errorf("%s: %v", address, err)
		}
		at := c.GetLoadAssignment().GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress()
		host := at.GetSocketAddress().GetAddress() + at.GetPipe().GetPath()
		if c.GetType() != want.kind || host != want.host || at.GetSocketAddress().GetPortValue() != want.port {
			t.Errorf("%s: %s %s %d", address, c.GetType(), host, at.GetSocketAddress().GetPortValue())
		}
	}
}
