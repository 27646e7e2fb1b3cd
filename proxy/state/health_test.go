package state

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/cluster/outlier"
	"github.com/weirmesh/weir/xds/resource"
	"github.com/weirmesh/weir/xds/simulate"
)

const eds = `type: EDS eds_cluster_config { eds_config { ads {} } } `

// Outlier detection has Envoy's defaults, and none of it is there unless it is asked for.
func TestOutlierDetection(t *testing.T) {
	consecutive := func(fiveXX, gateway, local uint32) [outlier.Reasons]uint32 {
		return [...]uint32{fiveXX, gateway, local}
	}
	for _, c := range []struct {
		text string
		want *outlier.Config
	}{
		{``, nil},
		{`outlier_detection {}`, &outlier.Config{Consecutive: consecutive(5, 0, 0), Interval: 10 * time.Second, BaseEjection: 30 * time.Second, MaxEjection: 300 * time.Second, MaxPercent: 10}},
		{`outlier_detection { consecutive_5xx { value: 7 } enforcing_consecutive_5xx { value: 0 } consecutive_gateway_failure { value: 1 } enforcing_consecutive_gateway_failure { value: 100 }
			interval { seconds: 1 } base_ejection_time { seconds: 900 } max_ejection_percent { value: 100 } always_eject_one_host { value: true } }
			metadata { filter_metadata { key: "weir" value { fields { key: "half_open_probes" value { number_value: 3 } } } } }`,
			&outlier.Config{Consecutive: consecutive(0, 1, 0), Interval: time.Second, BaseEjection: 900 * time.Second, MaxEjection: 900 * time.Second, MaxPercent: 100, AlwaysOne: true, Probes: 3}},
		{`outlier_detection { split_external_local_origin_errors: true consecutive_local_origin_failure { value: 2 } }`,
			&outlier.Config{Consecutive: consecutive(5, 0, 2), Split: true, Interval: 10 * time.Second, BaseEjection: 30 * time.Second, MaxEjection: 300 * time.Second, MaxPercent: 10}},
	} {
		s, _ := apply(t, newBuilder(), update(t, resource.ClusterType, `name: "c" `+eds+c.text))
		if diff := cmp.Diff(c.want, s.ClusterNamed("c").Outlier); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.text, diff)
		}
	}
	_, _, err := newBuilder().Apply(update(t, resource.ClusterType, `name: "c" `+eds+`outlier_detection { interval { seconds: -1 } }`))
	if err == nil || !strings.Contains(err.Error(), "outlier_detection.interval") {
		t.Errorf("an interval in the past: %v", err)
	}
}

// Which statuses are errors: a predicate is worked out once, and one that looks at something else is refused by its path.
func TestErrorStatuses(t *testing.T) {
	in := func(matcher string) string {
		return `name: "c" ` + eds + `outlier_detection {} ` + httpOptions(`explicit_http_config { http_protocol_options {} } outlier_detection { error_matcher { `+matcher+` } }`)
	}
	status := func(s string) string {
		return `http_response_headers_match { headers { name: ":status" ` + s + ` } }`
	}
	exactly := func(s string) string { return status(`string_match { exact: "` + s + `" }`) }
	for _, c := range []struct {
		matcher string
		want    []int
	}{
		{exactly("429"), []int{429}},
		{`or_match { rules { ` + exactly("429") + ` } rules { ` + exactly("503") + ` } }`, []int{429, 503}},
		{`and_match { rules { ` + status(`range_match { start: 501 end: 505 }`) + ` } rules { not_match { ` + exactly("502") + ` } } }`, []int{501, 503, 504}},
		{status(`string_match { safe_regex { regex: "42[0-1]" } }`), []int{420, 421}},
		{`not_match { any_match: true }`, nil},
	} {
		s, _ := apply(t, newBuilder(), update(t, resource.ClusterType, in(c.matcher)))
		var got []int
		for n := range 1000 {
			if s.ClusterNamed("c").Outlier.Statuses.Has(n) {
				got = append(got, n)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.matcher, got, c.want)
		}
	}
	for matcher, want := range map[string]string{
		`http_response_headers_match { headers { name: "x-bad" present_match: true } }`:   `error_matcher.http_response_headers_match.headers[0].name: "x-bad" is not supported`,
		`http_request_headers_match { headers { name: "a" present_match: true } }`:        "error_matcher.http_request_headers_match: field is not supported",
		strings.Repeat("not_match { ", 20) + "any_match: true" + strings.Repeat(" }", 20): "levels deep",
	} {
		if _, _, err := newBuilder().Apply(update(t, resource.ClusterType, in(matcher))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", matcher, err, want)
		}
	}
}

// Who is chosen: the first priority while it is well, more of the next the less of it is, localities by their weights, and
// everybody in panic.
func TestWhoIsChosen(t *testing.T) {
	endpoint := func(i int, status string) string {
		return fmt.Sprintf(`lb_endpoints { health_status: %s endpoint { address { socket_address { address: "10.0.0.%d" port_value: 80 } } } } `, status, i)
	}
	group := func(priority, weight int, zone string, endpoints ...string) string {
		return fmt.Sprintf(`endpoints { priority: %d load_balancing_weight { value: %d } locality { region: "r" zone: %q } %s } `, priority, weight, zone, strings.Join(endpoints, ""))
	}
	const ok, ill = "HEALTHY", "UNHEALTHY"
	near := func(a, b string) string { return group(0, 1, "near", endpoint(1, a), endpoint(2, b)) }
	far := group(1, 1, "far", endpoint(3, ok), endpoint(4, ok))
	const calm = `common_lb_config { healthy_panic_threshold { value: 0 } } `
	const weighted = `common_lb_config { healthy_panic_threshold { value: 0 } locality_weighted_lb_config {} } `
	for _, c := range []struct {
		name, cluster, endpoints string
		want                     string // the last digit of addresses and their share in percent
	}{
		{"all are well", calm, near(ok, ok) + far, "1:50 2:50"},
		{"half of them are: 70 % of the load stays", calm, near(ok, ill) + far, "1:70 3:15 4:15"},
		{"none of them is", calm, near(ill, ill) + far, "3:50 4:50"},
		{"nobody is", calm, near(ill, ill), ""},
		{"nobody is, and there is panic", ``, near(ill, ill), "1:50 2:50"},
		{"half of two are: no panic below half", ``, near(ok, ill), "1:100"},
		{"localities make no difference", calm, group(0, 1, "a", endpoint(1, ok)) + group(0, 9, "b", endpoint(2, ok)), "1:50 2:50"},
		{"but by their weights", weighted, group(0, 1, "a", endpoint(1, ok)) + group(0, 3, "b", endpoint(2, ok), endpoint(3, ok)), "1:25 2:38 3:38"},
		{"a locality that is half ill gets 70 % of its weight", weighted, group(0, 1, "a", endpoint(1, ok), endpoint(2, ill)) + group(0, 1, "b", endpoint(3, ok)), "1:41 3:59"},
		{"who is degraded takes what the others cannot", calm, near(ok, "DEGRADED"), "1:70 2:30"},
		{"and nothing of what the next priority can", calm, near(ok, "DEGRADED") + far, "1:70 3:15 4:15"},
		{"degraded ones come after the last priority", calm, near("DEGRADED", "DEGRADED") + group(1, 1, "far", endpoint(3, ok), endpoint(4, ill)), "1:15 2:15 3:70"},
		{"all are degraded", ``, near("DEGRADED", "DEGRADED"), "1:50 2:50"},
		{"in panic it makes no difference", ``, group(0, 1, "a", endpoint(1, "DEGRADED"), endpoint(2, ill), endpoint(3, ill), endpoint(4, ill), endpoint(5, ill)), "1:20 2:20 3:20 4:20 5:20"},
		{"a locality without weight gets nothing", weighted, group(0, 0, "a", endpoint(1, ok)) + group(0, 1, "b", endpoint(2, ok)), "2:100"},
	} {
		b := newBuilder()
		apply(t, b, update(t, resource.ClusterType, `name: "c" `+eds+c.cluster))
		s, _ := apply(t, b, update(t, resource.EndpointType, `cluster_name: "c" `+c.endpoints))
		if got := shares(s.ClusterNamed("c")); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// shares are those of endpoints in percent.
func shares(c *cluster.Cluster) string {
	const draws = 10_000
	var n [10]int
	v := c.View()
	for i := range uint64(draws) {
		if g := v.Group(uint32(i * (1 << 32) / draws)); g != nil {
			for _, e := range g.Endpoints {
				n[e.Addr.Addr().As4()[3]] += 1000 / len(g.Endpoints)
			}
		}
	}
	var out []string
	for i, x := range n {
		if x > 0 {
			out = append(out, fmt.Sprintf("%d:%.0f", i, float64(x)/1000/draws*100))
		}
	}
	return strings.Join(out, " ")
}

// The proxy spreads calls as the simulator says, whatever the control plane says of priorities, localities, weights and health.
func TestSpreadAgrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		load := &endpointv3.ClusterLoadAssignment{ClusterName: "c"}
		n, priorities := byte(0), 0
		for zone := range rapid.IntRange(1, 4).Draw(t, "localities") {
			l := &endpointv3.LocalityLbEndpoints{Priority: uint32(rapid.IntRange(0, priorities).Draw(t, "priority")), LoadBalancingWeight: wrapperspb.UInt32(rapid.Uint32Range(1, 3).Draw(t, "weight")),
				Locality: &corev3.Locality{Region: "r", Zone: fmt.Sprint(zone)}}
			priorities = max(priorities, int(l.GetPriority())+1) // there are no gaps
			for range rapid.IntRange(1, 4).Draw(t, "endpoints") {
				n++
				l.LbEndpoints = append(l.LbEndpoints, &endpointv3.LbEndpoint{HealthStatus: corev3.HealthStatus(rapid.IntRange(0, 5).Draw(t, "health")), LoadBalancingWeight: wrapperspb.UInt32(rapid.Uint32Range(1, 3).Draw(t, "share")),
					HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
						Address: netip.AddrFrom4([4]byte{10, 0, 0, n}).String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 80}}}}}}})
			}
			load.Endpoints = append(load.Endpoints, l)
		}
		c := &clusterv3.Cluster{Name: "c", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}, EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}},
			CommonLbConfig: &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{Value: rapid.SampledFrom([]float64{0, 30, 50, 100}).Draw(t, "panic")}}}
		if rapid.Bool().Draw(t, "by locality") {
			c.CommonLbConfig.LocalityConfigSpecifier = &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig_{LocalityWeightedLbConfig: &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig{}}
		}
		b := newBuilder()
		for typeURL, m := range map[string]proto.Message{resource.ClusterType: c, resource.EndpointType: load} {
			a, err := anypb.New(m)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := b.Apply(Update{TypeURL: typeURL, Set: []Resource{{Name: "c", Body: a}}}); err != nil {
				t.Fatal(err)
			}
		}
		want := map[string]float64{}
		for _, e := range simulate.Spread(c, load) {
			want[e.Address] += 100 * e.Weight
		}
		const draws = 10_000
		got := map[string]float64{}
		v := b.State().ClusterNamed("c").View()
		for i := range uint64(draws) {
			g := v.Group(uint32(i * (1 << 32) / draws))
			switch {
			case g == nil:
			case !g.Weighted:
				for _, e := range g.Endpoints {
					got[e.Addr.String()] += 100.0 / draws / float64(len(g.Endpoints))
				}
			default:
				for at := range g.TotalWeight {
					got[g.Pick(at).Addr.String()] += 100.0 / draws / float64(g.TotalWeight)
				}
			}
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateApprox(0, 0.1), cmpopts.IgnoreMapEntries(func(_ string, share float64) bool { return share < 0.1 })); diff != "" {
			t.Fatalf("shares in percent (-simulator +proxy):\n%s", diff)
		}
	})
}
