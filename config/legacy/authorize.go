package legacy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/mesh"
)

// authorize makes ALLOW policies for the services to which Roles apply: one that allows nobody on the ports of such
// services, and one for each binding.
func (c *conversion) authorize() {
	for _, b := range c.bindings {
		if c.roles[mesh.NewKey(b.Ref.Namespace, b.Role)] == nil {
			c.Findings = append(c.Findings, config.New(config.ReferenceNotFound, b.Ref, "spec.roleRef.name", b.RoleLine,
				fmt.Sprintf("there is no ServiceRole %s/%s, or it has errors: nobody gets anything by it", b.Ref.Namespace, b.Role), "correct the name, or the ServiceRole"))
		}
	}
	configs := c.inForce()
	byNamespace := map[string][]*guarded{}
	for _, s := range c.services {
		if cfg := enabling(configs, s); cfg != nil {
			byNamespace[s.Namespace] = append(byNamespace[s.Namespace], &guarded{service: s, by: cfg})
		}
	}
	for _, namespace := range slices.Sorted(maps.Keys(byNamespace)) {
		c.guard(namespace, byNamespace[namespace])
	}
	c.listed(configs)
}

// inForce are the Configs that count: a ClusterRbacConfig before all RbacConfigs.
func (c *conversion) inForce() []*Config {
	one := slices.IndexFunc(c.configs, func(x *Config) bool { return x.Ref.Kind == "ClusterRbacConfig" })
	if one < 0 {
		return c.configs
	}
	for _, x := range c.configs {
		if x != c.configs[one] {
			c.Findings = append(c.Findings, config.New(config.RuleIgnored, x.Ref, "", x.Ref.Line, "there is a ClusterRbacConfig, which is used instead", "remove it").Because(c.configs[one].Ref, ""))
		}
	}
	return c.configs[one : one+1]
}

// enabling is a Config by which Roles apply to a service: one that enforces them, if there is any.
func enabling(configs []*Config, s *service) (by *Config) {
	for _, x := range configs {
		listed := slices.Contains(x.Namespaces, s.Namespace) || slices.Contains(x.Services, s.Hostname)
		if on := x.Mode == On || x.Mode == OnlyListed && listed || x.Mode == AllButListed && !listed; on && (by == nil || by.Watched) {
			by = x
		}
	}
	return by
}

// listed tells which services that are listed are not there.
func (c *conversion) listed(configs []*Config) {
	for _, x := range configs {
		for _, host := range x.Services {
			if c.known[host] == nil {
				c.Findings = append(c.Findings, config.New(config.SchemaWarning, x.Ref, "", x.Ref.Line, fmt.Sprintf("there is no service %q, which it lists", host), "services are listed by their full host name, without wildcards: name.namespace.svc.cluster.local"))
			}
		}
	}
}

// guarded is a service to which Roles apply.
type guarded struct {
	*service
	by     *Config
	ports  []uint16        // what it is called at; a gateway listens on the service's own numbers, too
	grants []grant         // in order
	lost   map[uint16]bool // ports at which another service counts
	real   map[uint16]bool // ports that workloads serve it at
}

// grant is what a rule of a Role gives to the subjects of a Binding.
type grant struct {
	binding *Binding
	access  int // in the Role
}

func (c *conversion) guard(namespace string, services []*guarded) {
	var all []uint16
	for _, g := range services {
		g.lost, g.real = map[uint16]bool{}, map[uint16]bool{}
		for i, p := range g.Ports {
			for _, n := range append(slices.Clone(g.targets[i]), p.Number) {
				if !slices.Contains(g.ports, n) {
					g.ports = append(g.ports, n)
				}
			}
			for _, n := range g.targets[i] {
				g.real[n] = true
			}
		}
		slices.Sort(g.ports)
		all = append(all, g.ports...)
		for _, b := range c.bindings {
			role := c.roles[mesh.NewKey(namespace, b.Role)]
			if role == nil || b.Ref.Namespace != namespace {
				continue
			}
			for i := range role.Access {
				if role.Access[i].covers(g.service) {
					g.grants = append(g.grants, grant{b, i})
				}
			}
		}
	}
	slices.Sort(all)
	c.share(services)
	others := mesh.AuthorizationCondition{Attribute: "destination.port", NotValues: texts(slices.Compact(all))}
	for _, g := range services {
		c.unselected(&g.by.Ref, g.service)
		rest := []mesh.AuthorizationRule{{To: []mesh.AuthorizationClause{{others}}}}
		if g.unknown() {
			rest = nil // until it is known which ports are not the service's
		}
		c.allow(&g.by.Ref, g, g.selector, "", g.by.Watched, rest)
		for i, x := range g.grants {
			if i > 0 && g.grants[i-1].binding == x.binding {
				continue
			}
			c.grant(g, x.binding)
		}
	}
}

// share settles whose Roles count at a port that workloads serve for several services: those of the oldest, as one
// listener of the old proxies was one service's.
func (c *conversion) share(services []*guarded) {
	type place struct {
		pod  *mesh.Workload
		port uint16
	}
	first := map[place]*guarded{}
	for _, g := range services {
		for _, w := range g.pods {
			for _, n := range g.ports {
				at := place{w, n}
				was := first[at]
				if was == nil {
					first[at] = g
				}
				if was == nil || g.lost[n] || slices.Equal(was.grants, g.grants) {
					continue
				}
				if g.lost[n] = true; !g.real[n] {
					continue
				}
				c.Findings = append(c.Findings, config.New(config.LegacyClosed, g.by.Ref, "", g.by.Ref.Line,
					fmt.Sprintf("workloads serve port %d for Service %s/%s and for %s, which is older: roles for it count there, and those for %s give nothing", n, g.Namespace, g.Name, was.Name, g.Name),
					"write roles that name both services, or policies of security.istio.io"))
			}
		}
	}
}

// grant makes the policy of one binding for one service; of those about labels of workloads one for each set of them.
func (c *conversion) grant(g *guarded, b *Binding) {
	role := c.roles[mesh.NewKey(g.Namespace, b.Role)]
	type part struct {
		selector mesh.Labels
		rules    []mesh.AuthorizationRule
	}
	var parts []part
	for _, x := range g.grants {
		if x.binding != b {
			continue
		}
		a := &role.Access[x.access]
		var ports []uint16
		for _, n := range g.ports {
			if !g.lost[n] && !slices.ContainsFunc(a.Ports, func(p mesh.AuthorizationCondition) bool { return !holds(p, strconv.Itoa(int(n))) }) {
				ports = append(ports, n)
			}
		}
		if len(ports) == 0 {
			continue
		}
		rule := mesh.AuthorizationRule{From: b.Subjects, When: a.When,
			To: []mesh.AuthorizationClause{append(slices.Clip(a.To), mesh.AuthorizationCondition{Attribute: "destination.port", Values: texts(ports)})}}
		for _, selector := range narrowed(g.selector, a.Labels) {
			i := slices.IndexFunc(parts, func(p part) bool { return maps.Equal(p.selector, selector) })
			if i < 0 {
				parts, i = append(parts, part{selector: selector}), len(parts)
			}
			parts[i].rules = append(parts[i].rules, rule)
		}
	}
	for i, p := range parts {
		more := ""
		if i > 0 {
			more = fmt.Sprintf(".%d", i)
		}
		c.allow(&b.Ref, g, p.selector, more, b.Watched || g.by.Watched, p.rules)
	}
}

// narrowed are the selectors of those workloads that have one of the values of each label, too.
func narrowed(selector mesh.Labels, labels []mesh.AuthorizationCondition) []mesh.Labels {
	out := []mesh.Labels{selector}
	for _, l := range labels {
		var next []mesh.Labels
		for _, s := range out {
			for _, v := range l.Values {
				if was, ok := s[l.Attribute]; ok && was != v {
					continue
				}
				own := mesh.Labels{}
				maps.Copy(own, s)
				own[l.Attribute] = v
				next = append(next, own)
			}
		}
		out = next
	}
	return out
}

func (c *conversion) allow(ref *mesh.Ref, g *guarded, selector mesh.Labels, more string, watched bool, rules []mesh.AuthorizationRule) {
	p := &mesh.AuthorizationPolicy{Ref: *ref, Namespace: g.Namespace, Name: name(ref, g.service, more), Legacy: true, Selector: selector, DryRun: watched, Rules: rules}
	c.Authorizations[mesh.NewKey(p.Namespace, p.Name)] = p
}

// covers reports whether a rule is about a service.
func (a *Access) covers(s *service) bool {
	return slices.ContainsFunc(a.Services, func(v string) bool { return matches(v, strings.ToLower(s.Hostname)) }) &&
		!slices.ContainsFunc(a.Namespaces, func(c mesh.AuthorizationCondition) bool { return !holds(c, s.Namespace) })
}

func texts(ports []uint16) []string {
	out := make([]string, len(ports))
	for i, n := range ports {
		out[i] = strconv.Itoa(int(n))
	}
	return out
}
