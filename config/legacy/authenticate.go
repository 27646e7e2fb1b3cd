package legacy

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/mesh"
)

// authenticate makes PeerAuthentications of what Policies say of mutual TLS, and of what they say of tokens
// RequestAuthentications and, where one is required, policies that deny requests without.
func (c *conversion) authenticate() {
	whole := map[string]*Policy{} // by namespace; "" is the mesh
	for _, p := range c.policies {
		c.targets(p)
		if len(p.Targets) > 0 {
			continue
		}
		if first := whole[p.Ref.Namespace]; first != nil {
			c.beaten(p, first, "")
			continue
		}
		whole[p.Ref.Namespace] = p
		if root := c.snap.Settings.RootNamespace; p.Ref.Namespace != root { // there it would be for the mesh
			c.peers(p, &mesh.PeerAuthentication{Ref: youngest(p.Ref), Namespace: cmp.Or(p.Ref.Namespace, root), Mode: p.Mode}, nil)
		}
	}
	for _, s := range c.services {
		by := make([]*Policy, len(s.Ports))
		var order []*Policy
		for i := range s.Ports {
			by[i] = cmp.Or(c.specific(s, &s.Ports[i]), whole[s.Namespace], whole[""])
			if by[i] != nil && !slices.Contains(order, by[i]) {
				order = append(order, by[i])
			}
		}
		for _, p := range order {
			var ports, http []uint16
			known := true
			for i := range s.Ports {
				if by[i] != p {
					continue
				}
				known = known && len(s.targets[i]) > 0
				ports = append(ports, s.targets[i]...)
				if proto := s.Ports[i].Protocol; proto.IsHTTP() || proto == mesh.Auto {
					http = append(http, s.targets[i]...)
				}
			}
			slices.Sort(ports)
			slices.Sort(http)
			ports, http = slices.Compact(ports), slices.Compact(http)
			if !known {
				ports, http = nil, nil // all of the workload's, until they are
			}
			if len(p.Targets) > 0 || p.Ref.Namespace == c.snap.Settings.RootNamespace {
				c.ports(p, s, ports)
			}
			if len(http) > 0 || !known {
				c.tokens(p, s, http)
			}
			if p.Closed {
				c.deny(p, s, []mesh.AuthorizationRule{{To: at(ports, nil)}})
			}
		}
	}
}

// targets tells of services that are not there, and of several Policies for one.
func (c *conversion) targets(p *Policy) {
	for _, t := range p.Targets {
		s := c.known[t.Service+"."+p.Ref.Namespace+".svc."+c.snap.Settings.DomainSuffix]
		if s == nil {
			c.Findings = append(c.Findings, config.New(config.SchemaWarning, p.Ref, t.Path+".name", t.Line,
				fmt.Sprintf("there is no Service %s in namespace %s: it protects nothing there", t.Service, p.Ref.Namespace), "targets are short names of Services in the Policy's namespace"))
			continue
		}
		if i := slices.IndexFunc(c.services, func(x *service) bool { return x.Service == s }); i >= 0 {
			c.unselected(&p.Ref, c.services[i])
		}
		for i := range t.Ports {
			if !slices.ContainsFunc(s.Ports, func(x mesh.Port) bool { return t.Ports[i].is(&x) }) {
				c.Findings = append(c.Findings, config.New(config.SchemaWarning, p.Ref, t.Path+".ports", t.Line,
					fmt.Sprintf("Service %s/%s has no such port", s.Namespace, s.Name), "write number or name of a port of the Service"))
			}
		}
	}
}

func (c *conversion) beaten(p, by *Policy, what string) {
	c.Findings = append(c.Findings, config.New(config.RuleIgnored, p.Ref, "", p.Ref.Line,
		fmt.Sprintf("%s %s is for the same%s, and is older: it is used", by.Ref.Kind, by.Ref.Name, what), "keep one of the two").Because(by.Ref, ""))
}

// specific is the oldest Policy that names a service's port, or else the service.
func (c *conversion) specific(s *service, port *mesh.Port) (out *Policy) {
	level := 0
	for _, p := range c.policies {
		if p.Ref.Namespace != s.Namespace {
			continue
		}
		for _, t := range p.Targets {
			if t.Service != s.Name {
				continue
			}
			own := 1
			if len(t.Ports) > 0 {
				if !slices.ContainsFunc(t.Ports, func(x Port) bool { return x.is(port) }) {
					continue
				}
				own = 2
			}
			if own == level && out != p {
				c.beaten(p, out, fmt.Sprintf(" service, %s", s.Name))
			}
			if own > level {
				out, level = p, own
			}
		}
	}
	return out
}

func (x Port) is(p *mesh.Port) bool {
	return x.Number != 0 && x.Number == p.Number || x.Name != "" && x.Name == p.Name
}

// at is a clause about ports, of which none is all.
func at(ports []uint16, more mesh.AuthorizationClause) []mesh.AuthorizationClause {
	if len(ports) > 0 {
		more = append(mesh.AuthorizationClause{{Attribute: "destination.port", Values: texts(ports)}}, more...)
	}
	if more == nil {
		return nil
	}
	return []mesh.AuthorizationClause{more}
}

// ports is what a Policy for a service says of mutual TLS. STRICT holds whatever else is said of its workloads; of two
// that say less the strictest thing holds that both allow, or what is said of the namespace.
func (c *conversion) ports(p *Policy, s *service, ports []uint16) {
	a := &mesh.PeerAuthentication{Ref: youngest(p.Ref), Namespace: s.Namespace, Selector: s.selector, Ports: map[uint16]mesh.MTLSMode{}}
	for _, n := range ports {
		a.Ports[n] = p.Mode
	}
	switch {
	case p.Mode == mesh.MTLSStrict && (s.selector == nil || len(ports) == 0):
		a.Refused, a.Mode, a.Ports = true, mesh.MTLSStrict, nil
	case p.Mode == mesh.MTLSStrict:
		a.Refused = true
	case s.selector == nil || len(ports) == 0:
		return // what the namespace says holds
	}
	c.peers(p, a, s)
}

func (c *conversion) peers(p *Policy, a *mesh.PeerAuthentication, s *service) {
	c.PeerAuths[mesh.NewKey(a.Namespace, name(&p.Ref, s))] = a
}

// tokens is what a Policy says of requests to ports of a service.
func (c *conversion) tokens(p *Policy, s *service, ports []uint16) {
	if len(p.Origins) == 0 {
		return
	}
	ra := &mesh.RequestAuthentication{Ref: p.Ref, Namespace: s.Namespace, Legacy: true, Selector: s.selector}
	for _, o := range p.Origins {
		ra.Rules = append(ra.Rules, o.Rule)
	}
	c.RequestAuths[mesh.NewKey(s.Namespace, name(&p.Ref, s))] = ra
	if p.Required {
		c.deny(p, s, required(p.Origins, ports))
	}
}

// required are rules about requests without a token that they need. What several issuers are asked for by paths of
// their own needs a token of each, which nobody has.
func required(origins []Origin, ports []uint16) (out []mesh.AuthorizationRule) {
	var always []string
	for _, o := range origins {
		if len(o.Triggers) == 0 {
			always = append(always, o.Rule.Issuer)
		}
	}
	for i, o := range origins {
		if slices.ContainsFunc(origins[:i], func(x Origin) bool { return reflect.DeepEqual(x.Triggers, o.Triggers) }) {
			continue
		}
		issuers := slices.Clone(always)
		for _, x := range origins {
			if reflect.DeepEqual(x.Triggers, o.Triggers) && !slices.Contains(issuers, x.Rule.Issuer) {
				issuers = append(issuers, x.Rule.Issuer)
			}
		}
		rule := mesh.AuthorizationRule{From: []mesh.AuthorizationClause{{{Attribute: "request.auth.claims[iss]", NotValues: issuers}}}}
		everywhere := len(o.Triggers) == 0
		for _, t := range o.Triggers {
			var path mesh.AuthorizationClause
			if len(t.Paths)+len(t.NotPaths) > 0 {
				path = mesh.AuthorizationClause{{Attribute: mesh.AttributePath, Values: t.Paths, NotValues: t.NotPaths}}
			}
			to := at(ports, path)
			everywhere = everywhere || to == nil
			rule.To = append(rule.To, to...)
		}
		if everywhere {
			rule.To = at(ports, nil)
		}
		out = append(out, rule)
	}
	return out
}

func (c *conversion) deny(p *Policy, s *service, rules []mesh.AuthorizationRule) {
	a := &mesh.AuthorizationPolicy{Ref: p.Ref, Namespace: s.Namespace, Name: name(&p.Ref, s), Legacy: true, Action: mesh.AuthorizationDeny, Selector: s.selector, Rules: rules}
	c.Authorizations[mesh.NewKey(a.Namespace, a.Name)] = a
}
