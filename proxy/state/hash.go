package state

import (
	"fmt"
	"math/big"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	maglevv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/maglev/v3"
	ringhashv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"

	"github.com/weirmesh/weir/proxy/cluster"
)

const (
	defaultRing  = 1024      // Envoy's minimum_ring_size
	defaultTable = 65537     // Envoy's table_size
	maxTable     = 5_000_011 // Envoy's limit of table_size
)

// decodeHash reads what is hashed and how: sizes from lb_config, the keys from load_balancing_policy.
func (s *clusterSpec) decodeHash(c *clusterv3.Cluster, path string) error {
	s.Policy, s.TableSize = cluster.RingHash, defaultRing
	size := c.GetRingHashLbConfig().GetMinimumRingSize()
	if c.GetLbPolicy() == clusterv3.Cluster_MAGLEV {
		s.Policy, s.TableSize = cluster.Maglev, defaultTable
		size = c.GetMaglevLbConfig().GetTableSize()
	}
	if size != nil {
		n := size.GetValue()
		if n < 2 || n > maxTable || s.Policy == cluster.Maglev && !new(big.Int).SetUint64(n).ProbablyPrime(0) {
			return fmt.Errorf("%s.lb_config: size %d: it is a prime number for a table, and at most %d", path, n, maxTable)
		}
		s.TableSize = uint32(n)
	}
	for i, p := range c.GetLoadBalancingPolicy().GetPolicies() {
		a, at := p.GetTypedExtensionConfig().GetTypedConfig(), fmt.Sprintf("%s.load_balancing_policy.policies[%d]", path, i)
		var keys []*routev3.RouteAction_HashPolicy
		switch {
		case a.MessageIs((*ringhashv3.RingHash)(nil)) && s.Policy == cluster.RingHash:
			m := &ringhashv3.RingHash{}
			if err := unpack(a, m, at); err != nil {
				return err
			}
			keys = m.GetConsistentHashingLbConfig().GetHashPolicy()
		case a.MessageIs((*maglevv3.Maglev)(nil)) && s.Policy == cluster.Maglev:
			m := &maglevv3.Maglev{}
			if err := unpack(a, m, at); err != nil {
				return err
			}
			keys = m.GetConsistentHashingLbConfig().GetHashPolicy()
		default:
			continue // of another policy: what counts is the first that is known
		}
		for j, k := range keys {
			key, err := decodeHashKey(k)
			if err != nil {
				return fmt.Errorf("%s.hash_policy[%d]: %w", at, j, err)
			}
			s.Hash = append(s.Hash, key)
		}
		break
	}
	return nil
}

func decodeHashKey(p *routev3.RouteAction_HashPolicy) (cluster.HashKey, error) {
	k := cluster.HashKey{Terminal: p.GetTerminal()}
	switch x := p.GetPolicySpecifier().(type) {
	case *routev3.RouteAction_HashPolicy_Header_:
		if k.Header = strings.ToLower(x.Header.GetHeaderName()); k.Header == "" || x.Header.GetRegexRewrite() != nil {
			return k, fmt.Errorf("header: needs a name, and regex_rewrite is not supported")
		}
	case *routev3.RouteAction_HashPolicy_QueryParameter_:
		if k.Query = x.QueryParameter.GetName(); k.Query == "" {
			return k, fmt.Errorf("query_parameter: needs a name")
		}
	case *routev3.RouteAction_HashPolicy_Cookie_:
		if k.Cookie = x.Cookie.GetName(); k.Cookie == "" {
			return k, fmt.Errorf("cookie: needs a name")
		}
		if ttl := x.Cookie.GetTtl(); ttl != nil {
			k.Generate = true
			var attributes [][2]string
			for _, a := range x.Cookie.GetAttributes() {
				attributes = append(attributes, [2]string{a.GetName(), a.GetValue()})
			}
			if k.SetCookie = cluster.CookieSuffix(x.Cookie.GetPath(), ttl.AsDuration(), attributes); strings.ContainsFunc(k.Cookie+k.SetCookie, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				return k, fmt.Errorf("cookie: has a control character")
			}
		}
	case *routev3.RouteAction_HashPolicy_ConnectionProperties_:
		if k.Source = x.ConnectionProperties.GetSourceIp(); !k.Source {
			return k, fmt.Errorf("connection_properties: source_ip is all there is")
		}
	default:
		return k, fmt.Errorf("%T is not supported", x)
	}
	return k, nil
}
