package state

import (
	"fmt"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	providedv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/cluster_provided/v3"
	lbcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/common/v3"
	leastrequestv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	maglevv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/maglev/v3"
	randomv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	ringhashv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	roundrobinv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	"google.golang.org/protobuf/proto"
)

// olderPolicy says in the older fields of c what load_balancing_policy says, which comes before them: the first policy of its list that is known
// here counts. What hashing takes keys from is read where it stands.
func olderPolicy(c *clusterv3.Cluster, path string) error {
	var unknown []string
	for i, p := range c.GetLoadBalancingPolicy().GetPolicies() {
		a, at := p.GetTypedExtensionConfig().GetTypedConfig(), fmt.Sprintf("%s.load_balancing_policy.policies[%d]", path, i)
		as := func(policy clusterv3.Cluster_LbPolicy, m proto.Message) error {
			c.LbPolicy = policy
			return unpack(a, m, at)
		}
		switch strings.TrimPrefix(a.GetTypeUrl(), typePrefix+"envoy.extensions.load_balancing_policies.") {
		case "round_robin.v3.RoundRobin":
			m := &roundrobinv3.RoundRobin{}
			err := as(clusterv3.Cluster_ROUND_ROBIN, m)
			c.LbConfig = &clusterv3.Cluster_RoundRobinLbConfig_{RoundRobinLbConfig: &clusterv3.Cluster_RoundRobinLbConfig{SlowStartConfig: olderSlowStart(m.GetSlowStartConfig())}}
			olderLocality(c, m.GetLocalityLbConfig())
			return err
		case "least_request.v3.LeastRequest":
			m := &leastrequestv3.LeastRequest{}
			err := as(clusterv3.Cluster_LEAST_REQUEST, m)
			c.LbConfig = &clusterv3.Cluster_LeastRequestLbConfig_{LeastRequestLbConfig: &clusterv3.Cluster_LeastRequestLbConfig{SlowStartConfig: olderSlowStart(m.GetSlowStartConfig())}}
			olderLocality(c, m.GetLocalityLbConfig())
			return err
		case "random.v3.Random":
			m := &randomv3.Random{}
			err := as(clusterv3.Cluster_RANDOM, m)
			olderLocality(c, m.GetLocalityLbConfig())
			return err
		case "ring_hash.v3.RingHash":
			m := &ringhashv3.RingHash{}
			err := as(clusterv3.Cluster_RING_HASH, m)
			if n := m.GetMinimumRingSize(); n != nil {
				c.LbConfig = &clusterv3.Cluster_RingHashLbConfig_{RingHashLbConfig: &clusterv3.Cluster_RingHashLbConfig{MinimumRingSize: n}}
			}
			return err
		case "maglev.v3.Maglev":
			m := &maglevv3.Maglev{}
			err := as(clusterv3.Cluster_MAGLEV, m)
			if n := m.GetTableSize(); n != nil {
				c.LbConfig = &clusterv3.Cluster_MaglevLbConfig_{MaglevLbConfig: &clusterv3.Cluster_MaglevLbConfig{TableSize: n}}
			}
			return err
		case "cluster_provided.v3.ClusterProvided":
			return as(clusterv3.Cluster_CLUSTER_PROVIDED, &providedv3.ClusterProvided{})
		}
		unknown = append(unknown, a.GetTypeUrl())
	}
	if len(unknown) > 0 {
		return fmt.Errorf("%s.load_balancing_policy.policies: none is supported: %s", path, strings.Join(unknown, ", "))
	}
	return nil
}

func olderSlowStart(s *lbcommonv3.SlowStartConfig) *clusterv3.Cluster_SlowStartConfig {
	if s == nil {
		return nil
	}
	return &clusterv3.Cluster_SlowStartConfig{SlowStartWindow: s.GetSlowStartWindow(), Aggression: s.GetAggression(), MinWeightPercent: s.GetMinWeightPercent()}
}

func olderLocality(c *clusterv3.Cluster, l *lbcommonv3.LocalityLbConfig) {
	if l.GetLocalityWeightedLbConfig() == nil {
		return
	}
	if c.CommonLbConfig == nil {
		c.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{}
	}
	c.CommonLbConfig.LocalityConfigSpecifier = &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig_{LocalityWeightedLbConfig: &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig{}}
}
