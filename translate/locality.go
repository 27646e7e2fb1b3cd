package translate

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/weirmesh/weir/mesh"
)

// Labels by which Istio names where endpoints and proxies are.
const (
	labelRegion  = "topology.kubernetes.io/region"
	labelZone    = "topology.kubernetes.io/zone"
	labelSubZone = "topology.istio.io/subzone"
	labelCluster = "topology.istio.io/cluster"

	labelLocality = "topology.istio.io/locality" // of all three, of a workload that is elsewhere than its node
)

// place is where a client is, as far as somebody's endpoints depend on it: its locality, and the values of the labels that
// orders of preference ask about.
type place struct {
	mesh.Locality
	labels mesh.Labels
	peers  map[string]int // by "region/zone": the client and others of its service; nil: nobody asks, or it has none
}

// place is that of n, and its key: equal for clients to whom the same endpoints are near. Where nobody prefers any it is
// nobody's, so that clients everywhere share what they get.
func (c *Cache) place(n *Node, labels mesh.Labels) (*place, string) {
	own := c.base.settings.Locality.Active()
	if c.index.located == 0 && own == nil {
		return nil, ""
	}
	p := &place{Locality: n.Locality, labels: mesh.Labels{}}
	if w := c.snap.Workloads.At(mesh.NewKey(n.Namespace, n.Name)); w != nil && w.Locality != (mesh.Locality{}) {
		p.Locality = w.Locality
	}
	asked := maps.Clone(c.index.preferred)
	if own != nil {
		for _, l := range own.Priority {
			asked[l.Label]++
		}
	}
	var key strings.Builder
	key.WriteString(p.Region + "/" + p.Zone + "/" + p.SubZone)
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		p.labels[name] = located(labels, &p.Locality, c.base.settings.ClusterID, name)
		key.WriteString("\x00" + name + "\x00" + p.labels[name])
	}
	if c.index.zoned > 0 || own != nil && own.ZonesFrom > 0 {
		p.peers = c.peers(n)
		for _, zone := range slices.Sorted(maps.Keys(p.peers)) {
			fmt.Fprintf(&key, "\x00%s=%d", zone, p.peers[zone])
		}
	}
	return p, key.String()
}

// peers counts by zone those who serve what n serves, by the first of its services: they call what it calls.
func (c *Cache) peers(n *Node) map[string]int {
	var first mesh.Key
	for k := range c.index.instances[mesh.NewKey(n.Namespace, n.Name)] {
		if first == "" || k < first {
			first = k
		}
	}
	endpoints := c.snap.Endpoints.At(first)
	if endpoints == nil {
		return nil
	}
	out, seen := map[string]int{}, map[netip.Addr]bool{}
	for _, port := range endpoints.Ports {
		for i := range port {
			if e := &port[i]; e.Health == mesh.Healthy && !seen[e.Addr.Addr()] {
				seen[e.Addr.Addr()] = true
				out[zoneOf(e.Locality.Region, e.Locality.Zone)]++
			}
		}
	}
	return out
}

func zoneOf(region, zone string) string { return region + "/" + zone }

// located is a label of somebody, or what follows from where they are.
func located(labels mesh.Labels, l *mesh.Locality, cluster, name string) string {
	if v, ok := labels[name]; ok {
		return v
	}
	switch name {
	case labelRegion:
		return l.Region
	case labelZone:
		return l.Zone
	case labelSubZone:
		return l.SubZone
	case labelCluster:
		return cluster
	}
	return ""
}

// localities visits what a rule says about localities, whatever port or subset it is for.
func localities(r *mesh.DestinationRule) func(func(*mesh.LocalityPolicy) bool) {
	return func(yield func(*mesh.LocalityPolicy) bool) {
		one := func(p *mesh.TrafficPolicy) bool {
			return p == nil || p.LoadBalancer == nil || p.LoadBalancer.Locality.Active() == nil || yield(p.LoadBalancer.Locality)
		}
		all := func(p *mesh.TrafficPolicy, ports map[uint16]mesh.TrafficPolicy) bool {
			if !one(p) {
				return false
			}
			for _, byPort := range ports {
				if !one(&byPort) {
					return false
				}
			}
			return true
		}
		if !all(&r.Policy, r.PortPolicies) {
			return
		}
		for i := range r.Subsets {
			if !all(r.Subsets[i].Policy, r.Subsets[i].PortPolicies) {
				return
			}
		}
	}
}

// near is at where what rules say depends on it, nil elsewhere.
func (b *base) near(rules []*mesh.DestinationRule, at *place) *place {
	if at == nil || b.settings.Locality.Active() != nil {
		return at
	}
	for _, r := range rules {
		for range localities(r) {
			return at
		}
	}
	return nil
}

// preference is a policy for a client.
type preference struct {
	*mesh.LocalityPolicy
	at      *place
	cluster string // where endpoints are that do not say
}

// prefers is what counts for the endpoints of a cluster; nil: all are alike.
func (u *upstream) prefers(lb *mesh.LoadBalancer) *preference {
	p := u.settings.Locality
	if lb != nil && lb.Locality != nil {
		p = lb.Locality
	}
	if p = p.Active(); p == nil || u.at == nil {
		return nil
	}
	return &preference{p, u.at, u.settings.ClusterID}
}

// rank says how soon an endpoint is to be used: lower ones first.
func (p *preference) rank(e *endpoint) int {
	if p == nil || len(p.Distribute) > 0 {
		return 0
	}
	differ := 0 // labels that the first ones with another value leave
	for i, l := range p.Priority {
		want := l.Value
		if !l.Fixed {
			want = p.at.labels[l.Label]
		}
		if located(e.labelsFor(), &e.Locality, p.cluster, l.Label) != want {
			differ = len(p.Priority) - i
			break
		}
	}
	if len(p.Priority) > 0 && len(p.Failover) == 0 && p.ZonesFrom == 0 {
		return differ
	}
	return differ*(farthest+1) + p.distance(&e.Locality)
}

// farthest is the largest distance.
const farthest = 4

// distance is how far away a locality is.
func (p *preference) distance(l *mesh.Locality) int {
	from := &p.at.Locality
	switch {
	case *from == (mesh.Locality{}):
		return 0 // who is nowhere has it equally far to everybody
	case *from == *l, p.ZonesFrom > 0 && from.Region == l.Region:
		return 0
	case from.Region == l.Region && from.Zone == l.Zone:
		return 1
	case from.Region == l.Region:
		return 2
	}
	for _, f := range p.Failover {
		if f.From == from.Region && f.To != l.Region {
			return farthest
		}
	}
	return 3
}

// lies reports whether a locality is in "region/zone/subzone", of which the end may be missing or "*".
func lies(l *mesh.Locality, in string) bool {
	parts := [...]string{l.Region, l.Zone, l.SubZone}
	for i, part := range strings.SplitN(in, "/", len(parts)) {
		if part != "*" && part != parts[i] {
			return false
		}
	}
	return true
}

// divide gives the zones of the client's region their shares, as Envoy's zone aware routing does: each zone is to serve as large a part of
// all clients as it has of the endpoints. A zone that has more than its clients' part serves all of them; one that has less serves as many as it can, and
// the rest go to zones that have more, by how much more. Zones without a share come next, before other regions.
func (p *preference) divide(groups []*endpointv3.LocalityLbEndpoints) {
	if p == nil || p.ZonesFrom == 0 || p.at.Zone == "" {
		return
	}
	first := uint32(math.MaxUint32)
	for _, g := range groups {
		first = min(first, g.Priority)
	}
	has, all := map[string]int{}, 0 // usable endpoints by zone
	for _, g := range groups {
		if g.Priority == first && g.GetLocality().GetRegion() == p.at.Region {
			n := usable(g)
			has[zoneOf(p.at.Region, g.GetLocality().GetZone())] += n
			all += n
		}
	}
	peers := 0
	for zone, n := range p.at.peers {
		if strings.HasPrefix(zone, p.at.Region+"/") {
			peers += n
		}
	}
	own := zoneOf(p.at.Region, p.at.Zone)
	if all < int(p.ZonesFrom) || p.at.peers[own] == 0 || has[own] == 0 {
		return
	}
	// More than its need, in units of 1/(all × peers).
	more := func(zone string) int { return has[zone]*peers - p.at.peers[zone]*all }
	share := map[string]float64{own: min(1, float64(has[own]*peers)/float64(p.at.peers[own]*all))}
	spare := 0
	for zone := range has {
		if zone != own {
			spare += max(0, more(zone))
		}
	}
	for zone := range has {
		if zone != own && share[own] < 1 && more(zone) > 0 {
			share[zone] = (1 - share[own]) * float64(more(zone)) / float64(spare)
		}
	}
	for _, g := range groups {
		if g.Priority != first {
			continue
		}
		zone := zoneOf(g.GetLocality().GetRegion(), g.GetLocality().GetZone())
		if s := share[zone]; s > 0 {
			g.LoadBalancingWeight = u32(max(1, uint32(s*100*shareUnit*float64(usable(g))/float64(has[zone]))))
		} else {
			g.Priority++ // free: distances of regions leave room
		}
	}
}

// usable counts the endpoints that may be called.
func usable(g *endpointv3.LocalityLbEndpoints) (n int) {
	for _, e := range g.GetLbEndpoints() {
		if e.GetHealthStatus() == corev3.HealthStatus_HEALTHY {
			n++
		}
	}
	return n
}

// weighted reports whether localities have shares.
func (p *preference) weighted() bool { return p != nil && (len(p.Distribute) > 0 || p.ZonesFrom > 0) }

// shareUnit is 1 % of the requests, in the weights of localities: fine enough to divide it further.
const shareUnit = 1000

// distribute gives groups of endpoints their shares and leaves out those that have none. Nothing changes for a client
// from somewhere of which nothing is said.
func (p *preference) distribute(groups []*endpointv3.LocalityLbEndpoints) []*endpointv3.LocalityLbEndpoints {
	if p == nil {
		return groups
	}
	i := slices.IndexFunc(p.Distribute, func(d mesh.LocalityShares) bool { return lies(&p.at.Locality, d.From) })
	if i < 0 {
		return groups
	}
	var out []*endpointv3.LocalityLbEndpoints
	for _, s := range p.Distribute[i].To {
		var in []*endpointv3.LocalityLbEndpoints
		sum := uint64(0)
		for _, g := range groups {
			l := mesh.Locality{Region: g.GetLocality().GetRegion(), Zone: g.GetLocality().GetZone(), SubZone: g.GetLocality().GetSubZone()}
			if lies(&l, s.To) {
				in = append(in, g)
				sum += uint64(g.GetLoadBalancingWeight().GetValue())
			}
		}
		for _, g := range in {
			g.LoadBalancingWeight = u32(uint32(max(1, uint64(s.Percent)*shareUnit*uint64(g.GetLoadBalancingWeight().GetValue())/max(sum, 1))))
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(a, b *endpointv3.LocalityLbEndpoints) int {
		return compareLocalities(a.GetLocality(), b.GetLocality())
	})
	return out
}

func compareLocalities(a, b *corev3.Locality) int {
	return cmp.Or(strings.Compare(a.GetRegion(), b.GetRegion()), strings.Compare(a.GetZone(), b.GetZone()), strings.Compare(a.GetSubZone(), b.GetSubZone()))
}

// withoutGaps numbers priorities from 0, as xDS wants it.
func withoutGaps(groups []*endpointv3.LocalityLbEndpoints) {
	next, last := uint32(0), uint32(0)
	for i, g := range groups { // in order of priority
		if i > 0 && g.Priority != last {
			next++
		}
		last, g.Priority = g.Priority, next
	}
}
