package translate

import (
	"cmp"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	lbcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/common/v3"
	maglevv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/maglev/v3"
	ringhashv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/mesh"
)

const (
	defaultRing  = 1024  // Istio's ringHash.minimumRingSize
	defaultTable = 65537 // Istio's maglev.tableSize
)

// consistentHash makes the cluster hash what h names. The cluster itself says what is hashed
// (ConsistentHashingLbConfig.hash_policy), so that no route needs to know.
func consistentHash(k *mint, c *clusterv3.Cluster, h *mesh.ConsistentHash) {
	common := &lbcommonv3.ConsistentHashingLbConfig{HashPolicy: []*routev3.RouteAction_HashPolicy{hashPolicy(h)}}
	var name string
	var policy proto.Message
	if h.Maglev {
		size := wrapperspb.UInt64(cmp.Or(h.TableSize, defaultTable))
		c.LbPolicy, name = clusterv3.Cluster_MAGLEV, "envoy.load_balancing_policies.maglev"
		c.LbConfig = &clusterv3.Cluster_MaglevLbConfig_{MaglevLbConfig: &clusterv3.Cluster_MaglevLbConfig{TableSize: size}}
		policy = &maglevv3.Maglev{TableSize: size, ConsistentHashingLbConfig: common}
	} else {
		size := wrapperspb.UInt64(cmp.Or(h.RingSize, defaultRing))
		c.LbPolicy, name = clusterv3.Cluster_RING_HASH, "envoy.load_balancing_policies.ring_hash"
		c.LbConfig = &clusterv3.Cluster_RingHashLbConfig_{RingHashLbConfig: &clusterv3.Cluster_RingHashLbConfig{MinimumRingSize: size}}
		policy = &ringhashv3.RingHash{MinimumRingSize: size, ConsistentHashingLbConfig: common}
	}
	c.LoadBalancingPolicy = &clusterv3.LoadBalancingPolicy{Policies: []*clusterv3.LoadBalancingPolicy_Policy{{
		TypedExtensionConfig: &corev3.TypedExtensionConfig{Name: name, TypedConfig: k.any(policy)}}}}
}

func hashPolicy(h *mesh.ConsistentHash) *routev3.RouteAction_HashPolicy {
	switch {
	case h.Header != "":
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_Header_{Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: h.Header}}}
	case h.Query != "":
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_QueryParameter_{QueryParameter: &routev3.RouteAction_HashPolicy_QueryParameter{Name: h.Query}}}
	case h.Cookie != nil:
		c := &routev3.RouteAction_HashPolicy_Cookie{Name: h.Cookie.Name, Path: h.Cookie.Path}
		if h.Cookie.Generate {
			c.Ttl = duration(h.Cookie.TTL)
		}
		for _, a := range h.Cookie.Attributes {
			c.Attributes = append(c.Attributes, &routev3.RouteAction_HashPolicy_CookieAttribute{Name: a.Name, Value: a.Value})
		}
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_Cookie_{Cookie: c}}
	}
	return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_ConnectionProperties_{
		ConnectionProperties: &routev3.RouteAction_HashPolicy_ConnectionProperties{SourceIp: true}}}
}
