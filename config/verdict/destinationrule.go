package verdict

import (
	"maps"
	"slices"

	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// DestinationRule judges its traffic policy and each of its subsets: whether there is a
// service that some client calls so.
func (v *View) DestinationRule(key mesh.Key) []Verdict {
	r := v.snap.DestinationRules.At(key)
	if r == nil || r.Refused {
		return nil
	}
	policy := pending(&r.Ref, "spec.trafficPolicy", "")
	subsets := make([]Verdict, len(r.Subsets))
	for i := range subsets {
		subsets[i] = pending(&r.Ref, document.Index("spec.subsets", i), "")
	}
	gives := given(r)
	better := func(d Verdict) {
		policy.better(d)
		for i := range subsets {
			subsets[i].better(d)
		}
	}
	var hosts []string
	for h := range v.hosts {
		if mesh.Covers(r.Host, h) {
			hosts = append(hosts, h)
		}
	}
	slices.Sort(hosts)
	for _, w := range v.callers(r) {
		c := mesh.Client{Namespace: w.Namespace, Has: func(selector mesh.Labels) bool { return selector.Selects(w.labels) }}
		for _, host := range hosts {
			s := w.Service(v.hosts[host])
			if s == nil {
				continue
			}
			var inForce []*mesh.DestinationRule
			for _, o := range c.Rules(s, v.snap.Settings.RootNamespace, func(ns, host string) []*mesh.DestinationRule { return v.rules[inNamespace{ns, host}] }) {
				if !o.Refused {
					inForce = append(inForce, o)
				}
			}
			n := slices.Index(inForce, r)
			if n < 0 {
				if len(inForce) > 0 {
					o := inForce[0]
					better(shadowed(&o.Ref, "spec.host", "DestinationRule %s/%s is for %s, too, and comes first: it is of a nearer namespace, or names the host more exactly", o.Ref.Namespace, o.Ref.Name, host))
				}
				continue
			}
			call := &Example{Namespace: w.Namespace, Labels: w.labels, Host: host}
			if i := slices.IndexFunc(inForce, given); i < 0 || i >= n {
				policy.better(active(call))
			} else {
				o := inForce[i]
				policy.better(shadowed(&o.Ref, "spec.trafficPolicy", "DestinationRule %s/%s is for %s, too, and is older: its trafficPolicy is used", o.Ref.Namespace, o.Ref.Name, host))
			}
			for i := range subsets {
				d := active(call)
				for _, o := range inForce[:n] {
					if j := slices.IndexFunc(o.Subsets, func(x mesh.Subset) bool { return x.Name == r.Subsets[i].Name }); j >= 0 {
						d = shadowed(&o.Ref, document.Index("spec.subsets", j), "DestinationRule %s/%s defines subset %s of %s, too, and is older", o.Ref.Namespace, o.Ref.Name, r.Subsets[i].Name, host)
						break
					}
				}
				subsets[i].better(d)
			}
		}
	}
	why := rejected("no service %s is called by anybody who sees the rule", r.Host)
	better(why)
	if !gives {
		return subsets
	}
	return append([]Verdict{policy}, subsets...)
}

// given reports whether a rule has a traffic policy.
func given(r *mesh.DestinationRule) bool {
	return r.Policy != (mesh.TrafficPolicy{}) || r.PortPolicies != nil
}

// callers are those who may go by a rule.
func (v *View) callers(r *mesh.DestinationRule) []*viewer {
	var out []*viewer
	namespaces := slices.Insert(slices.Clone(v.namespace), 0, r.Ref.Namespace)
	for i, ns := range namespaces {
		if slices.Contains(namespaces[:i], ns) || !r.Visible.VisibleTo(ns) {
			continue
		}
		all := []mesh.Labels{{}}
		if len(r.WorkloadSelector) > 0 {
			all = []mesh.Labels{r.WorkloadSelector}
		}
		for _, s := range v.sidecars[ns] {
			if len(s.Selector) > 0 {
				l := maps.Clone(s.Selector)
				maps.Copy(l, r.WorkloadSelector)
				all = append(all, l)
			}
		}
		for _, l := range all {
			out = append(out, &viewer{mesh.Sight{Namespace: ns, Sidecar: v.sidecarOf(ns, l)}, l})
		}
	}
	return out
}
