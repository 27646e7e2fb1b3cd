package istio

import (
	"fmt"
	"slices"
	"strings"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// locality lowers localityLbSetting, of a DestinationRule or of MeshConfig.
func (l *lowerer) locality(path string, s *networkingv1alpha3.LocalityLoadBalancerSetting) *mesh.LocalityPolicy {
	if s == nil {
		return nil
	}
	out := &mesh.LocalityPolicy{Off: s.Enabled != nil && !s.Enabled.Value}
	if len(s.Distribute) > 0 && len(s.Failover)+len(s.FailoverPriority) > 0 {
		l.Invalid(path+".distribute", "cannot be given together with failover or failoverPriority", "keep one: shares by locality, or an order of preference")
	}
	var from []string
	for i, d := range s.Distribute {
		at := document.Index(path+".distribute", i)
		shares := mesh.LocalityShares{From: l.pattern(at+".from", d.From)}
		from = append(from, d.From)
		sum := uint32(0)
		for _, to := range sortedKeys(d.To) {
			where := document.Key(at+".to", to)
			w := d.To[to]
			if w == 0 || w > 100 {
				l.Invalid(where, fmt.Sprintf("%d is not a share", w), "give 1 to 100 percent")
			}
			sum += min(w, 1000)
			shares.To = append(shares.To, mesh.LocalityShare{To: l.pattern(where, to), Percent: w})
		}
		if sum != 100 {
			l.Invalid(at+".to", fmt.Sprintf("the shares add up to %d", sum), "make them 100")
		}
		l.distinct(at+".to", sortedKeys(d.To))
		out.Distribute = append(out.Distribute, shares)
	}
	l.distinct(path+".distribute", from)
	for i, f := range s.Failover {
		at := document.Index(path+".failover", i)
		for _, end := range []field{{".from", f.From}, {".to", f.To}} {
			if end.value == "" || strings.ContainsAny(end.value, "*/") {
				l.Invalid(at+end.name, fmt.Sprintf("%q is not the name of a region", end.value), "zones of a region stand in for each other by themselves: name two regions")
			}
		}
		if f.From == f.To && f.From != "" {
			l.Invalid(at+".to", "is the region itself", "name another region")
		}
		if slices.ContainsFunc(out.Failover, func(o mesh.RegionFailover) bool { return o.From == f.From }) {
			l.Invalid(at+".from", fmt.Sprintf("region %q has two regions to fail over to", f.From), "keep one; the others come last")
		}
		out.Failover = append(out.Failover, mesh.RegionFailover{From: f.From, To: f.To})
	}
	for i, p := range s.FailoverPriority {
		at := document.Index(path+".failoverPriority", i)
		name, value, fixed := strings.Cut(p, "=")
		if name == "" {
			l.Invalid(at, fmt.Sprintf("%q names no label", p), `write "label", or "label=value"`)
		}
		if len(s.Failover) > 0 && strings.HasPrefix(name, "topology.") && slices.Contains(topologyLabels, name) {
			l.Invalid(at, name+" cannot be given together with failover", "keep one of the two orders")
		}
		if slices.ContainsFunc(out.Priority, func(o mesh.LabelPreference) bool { return o.Label == name }) {
			l.Invalid(at, name+" is named twice", "keep the first one")
		}
		out.Priority = append(out.Priority, mesh.LabelPreference{Label: name, Value: value, Fixed: fixed})
	}
	return out
}

// zoneAware lowers zoneAwareLbSetting, of a DestinationRule or of MeshConfig: regions come before each other, and the zones of one share
// by what each has of the clients and of the endpoints.
func (l *lowerer) zoneAware(path string, s *networkingv1alpha3.ZoneAwareLoadBalancerSetting) *mesh.LocalityPolicy {
	regions := &networkingv1alpha3.LocalityLoadBalancerSetting{}
	for _, f := range s.Failover {
		regions.Failover = append(regions.Failover, &networkingv1alpha3.LocalityLoadBalancerSetting_Failover{From: f.From, To: f.To})
	}
	out := l.locality(path, regions)
	// Beside failover, too, other labels than those of places may be given.
	order := l.locality(path, &networkingv1alpha3.LocalityLoadBalancerSetting{FailoverPriority: s.FailoverPriority})
	for i, p := range order.Priority {
		if slices.Contains(topologyLabels, p.Label) {
			l.Invalid(document.Index(path+".failoverPriority", i), p.Label+" is no label for it: regions and zones have their order already", "remove it")
		}
	}
	if m := s.MinClusterSize; m != nil && m.Value == 0 {
		l.Invalid(path+".minClusterSize", "0 is not a number of endpoints", "give at least 1, or remove it for 6")
	}
	if !s.Enabled.GetValue() {
		if len(s.Failover)+len(s.FailoverPriority) > 0 || s.MinClusterSize != nil {
			l.Add(config.SchemaWarning, path+".enabled", "is not true: the other fields have no effect", "add enabled: true, or remove them")
		}
		return nil
	}
	out.Priority, out.ZonesFrom = order.Priority, zonesFrom
	if m := s.MinClusterSize; m != nil {
		out.ZonesFrom = m.Value
	}
	return out
}

// zonesFrom is Envoy's min_cluster_size, where nothing else is said.
const zonesFrom = 6

var topologyLabels = []string{"topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"}

// pattern checks region[/zone[/subzone]], where "*" stands at the end for anything.
func (l *lowerer) pattern(path, s string) string {
	parts := strings.Split(s, "/")
	for i, p := range parts {
		if p == "" || len(parts) > 3 || strings.Contains(p, "*") && (p != "*" || i != len(parts)-1) {
			l.Invalid(path, fmt.Sprintf("%q is not a locality", s), `write region, region/zone or region/zone/subzone; "*" may stand for the last part`)
			break
		}
	}
	return s
}

// distinct reports localities of which one is part of another: it would have two shares.
func (l *lowerer) distinct(path string, all []string) {
	bare := func(s string) string { return strings.TrimSuffix(strings.TrimSuffix(s, "*"), "/") + "/" }
	for i, a := range all {
		for _, b := range all[:i] {
			x, y := bare(a), bare(b)
			if x == "/" || y == "/" || strings.HasPrefix(x, y) || strings.HasPrefix(y, x) {
				l.Invalid(path, fmt.Sprintf("%q and %q overlap", b, a), "name each place once")
			}
		}
	}
}
