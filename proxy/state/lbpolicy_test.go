package state

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/xds/resource"
)

// How endpoints are chosen is said by load_balancing_policy, where there is one, by the first of its policies that is known; lb_policy is for those who
// know nothing newer. Control planes send both, or either.
func TestLoadBalancingPolicy(t *testing.T) {
	one := func(typed string) string {
		return `policies { typed_extension_config { name: "p" typed_config { ` + typed + ` } } }`
	}
	known := func(name, fields string) string {
		return one(fmt.Sprintf("[type.googleapis.com/envoy.extensions.load_balancing_policies.%s] { %s }", name, fields))
	}
	list := func(policies ...string) string {
		return "load_balancing_policy { " + strings.Join(policies, " ") + " }"
	}
	policy := func(name, fields string) string { return list(known(name, fields)) }
	unknown := one("[type.googleapis.com/xds.type.v3.TypedStruct] {}")
	const slow = `slow_start_config { slow_start_window { seconds: 30 } min_weight_percent { value: 20 } }`
	for _, c := range []struct {
		text   string
		policy cluster.Policy
		slow   time.Duration
		size   uint32
		local  bool
	}{
		{"", cluster.RoundRobin, 0, 0, false},
		{"lb_policy: RANDOM", cluster.Random, 0, 0, false},
		{"lb_policy: RANDOM " + policy("round_robin.v3.RoundRobin", slow), cluster.RoundRobin, 30 * time.Second, 0, false},
		{"lb_policy: LOAD_BALANCING_POLICY_CONFIG " + policy("random.v3.Random", ""), cluster.Random, 0, 0, false},
		{policy("least_request.v3.LeastRequest", slow+" choice_count { value: 3 } locality_lb_config { locality_weighted_lb_config {} }"), cluster.LeastRequest, 30 * time.Second, 0, true},
		{list(unknown, known("least_request.v3.LeastRequest", ""), known("random.v3.Random", "")), cluster.LeastRequest, 0, 0, false},
		{policy("ring_hash.v3.RingHash", "minimum_ring_size { value: 64 }"), cluster.RingHash, 0, 64, false},
		{policy("maglev.v3.Maglev", "table_size { value: 101 }"), cluster.Maglev, 0, 101, false},
		{"lb_policy: RING_HASH ring_hash_lb_config { minimum_ring_size { value: 32 } } " + policy("ring_hash.v3.RingHash", ""), cluster.RingHash, 0, 32, false},
	} {
		s, _ := apply(t, newBuilder(), update(t, resource.ClusterType, `name: "c" type: STATIC load_assignment { cluster_name: "c" } `+c.text))
		got := s.ClusterNamed("c")
		if got.Policy != c.policy || got.SlowStart.Window != c.slow || got.TableSize != c.size || got.LocalityWeighted != c.local {
			t.Errorf("%s: %v, slow start %v, size %d, by locality %v", c.text, got.Policy, got.SlowStart.Window, got.TableSize, got.LocalityWeighted)
		}
	}
	for text, want := range map[string]string{
		list(unknown): "cluster c.load_balancing_policy.policies: none is supported: type.googleapis.com/xds.type.v3.TypedStruct",
		policy("least_request.v3.LeastRequest", "selection_method: FULL_SCAN"): "cluster c.load_balancing_policy.policies[0].selection_method: field is not supported",
		policy("maglev.v3.Maglev", "table_size { value: 100 }"):                "cluster c.lb_config: size 100: it is a prime number",
	} {
		if _, _, err := newBuilder().Apply(update(t, resource.ClusterType, `name: "c" type: STATIC `+text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
