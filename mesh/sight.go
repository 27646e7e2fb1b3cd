package mesh

import (
	"cmp"
	"iter"
	"slices"
	"strings"
)

// Sight is what a class of viewers may see: what is exported to its namespace and, if a
// Sidecar is for it, imported by that. Whatever is visible is decided here.
type Sight struct {
	Namespace string
	Sidecar   *Sidecar // that says what is imported; nil: everything is
}

// Everything reports whether all that is exported is imported.
func (v *Sight) Everything() bool { return v.Sidecar == nil || v.Sidecar.Egress == nil }

// Port reports whether port of s is imported: by an Egress for that port, or else by
// that for all others, or to a socket.
func (v *Sight) Port(s *Service, port uint16) bool {
	return v.Everything() || v.any(s, port, func(*Egress) bool { return true })
}

// InPlace reports whether port of s is imported to where the service is.
func (v *Sight) InPlace(s *Service, port uint16) bool {
	return v.Everything() || v.any(s, port, func(e *Egress) bool { return !e.Apart() })
}

// any reports whether port of s is imported by an Egress that is as wanted.
func (v *Sight) any(s *Service, port uint16, wanted func(*Egress) bool) bool {
	for e := range v.Importing(port) {
		if wanted(e) && e.Imports(v.Namespace, s.Namespace, s.Hostname) {
			return true
		}
	}
	return false
}

// Importing are the Egresses that say what is imported of services' ports of that number.
func (v *Sight) Importing(port uint16) iter.Seq[*Egress] {
	return func(yield func(*Egress) bool) {
		if v.Everything() {
			return
		}
		all := v.Sidecar.Egress
		own := port != 0 && slices.ContainsFunc(all, func(e Egress) bool { return e.Port == port })
		for i := range all {
			e := &all[i]
			if (e.Socket() != "" || e.Port == port || e.Port == 0 && !own) && !yield(e) {
				return
			}
		}
	}
}

// Sees reports whether a port of s is seen.
func (v *Sight) Sees(s *Service) bool {
	switch {
	case !s.Visible.VisibleTo(v.Namespace):
		return false
	case v.Everything():
		return true
	case len(s.Ports) == 0:
		return v.Port(s, 0)
	}
	return slices.ContainsFunc(s.Ports, func(p Port) bool { return v.Port(s, p.Number) })
}

// SeesRules reports whether the rules of s are seen: one of its hosts may be imported.
func (v *Sight) SeesRules(s *VirtualService) bool {
	if !s.Visible.VisibleTo(v.Namespace) {
		return false
	}
	if v.Everything() {
		return true
	}
	for i := range v.Sidecar.Egress {
		for _, h := range s.Hosts {
			if v.Sidecar.Egress[i].Meets(v.Namespace, s.Ref.Namespace, h) {
				return true
			}
		}
	}
	return false
}

// Service is the one that viewers mean by the host of list, the most authoritative first:
// their namespace's own, else the first that they see.
func (v *Sight) Service(list []*Service) *Service {
	var out *Service
	for _, s := range list {
		switch {
		case !v.Sees(s):
		case s.Namespace == v.Namespace:
			return s
		case out == nil:
			out = s
		}
	}
	return out
}

// SidecarFor is the Sidecar of a workload, nil if there is none: own are those of its
// namespace, root those of the root namespace, both oldest first.
func SidecarFor(own, root []*Sidecar, labels Labels) *Sidecar {
	var whole *Sidecar
	for _, s := range own {
		switch {
		case s.Selector != nil && s.Selector.Selects(labels):
			return s
		case s.Selector == nil && whole == nil:
			whole = s
		}
	}
	if whole != nil {
		return whole
	}
	if i := slices.IndexFunc(root, func(s *Sidecar) bool { return s.Selector == nil }); i >= 0 {
		return root[i]
	}
	return nil
}

// Client is for whom DestinationRules are read.
type Client struct {
	Namespace string
	Has       func(selector Labels) bool // whether its labels are such
}

// Rules are the DestinationRules for a service as a client sees them: those of the
// client's namespace, else of the service's, else of the root namespace; of these those
// with the most specific host. Rules made for selected clients come before the others.
// Refused ones that would come before or beside them are in the list, too. at lists those of
// a namespace for a host or wildcard, oldest first.
func (c *Client) Rules(s *Service, root string, at func(namespace, host string) []*DestinationRule) []*DestinationRule {
	var found []*DestinationRule
	namespaces := []string{c.Namespace, s.Namespace, root}
	for i, ns := range namespaces {
		if slices.Contains(namespaces[:i], ns) {
			continue
		}
		more := true
		find := func(host string) bool {
			var rules []*DestinationRule
			rules, more = c.applicable(at(ns, host))
			found = append(found, rules...)
			return more
		}
		if find(s.Hostname) {
			Wider(s.Hostname, find)
		}
		if !more {
			break
		}
	}
	return found
}

// applicable are the rules of one namespace and host that a client goes by, and whether
// others may still come after them: there is none in force.
func (c *Client) applicable(rules []*DestinationRule) (out []*DestinationRule, more bool) {
	var all, selected []*DestinationRule
	for _, r := range rules {
		switch {
		case !r.Visible.VisibleTo(c.Namespace):
		case len(r.WorkloadSelector) == 0:
			all = append(all, r)
		case r.Ref.Namespace == c.Namespace && c.Has(r.WorkloadSelector):
			selected = append(selected, r)
		}
	}
	inForce := func(r *DestinationRule) bool { return !r.Refused }
	if slices.ContainsFunc(selected, inForce) {
		return selected, false
	}
	return append(selected, all...), !slices.ContainsFunc(all, inForce)
}

// Wider yields the wildcards that cover host, the most specific first, until yield has seen
// enough.
func Wider(host string, yield func(pattern string) bool) {
	host = strings.TrimPrefix(host, "*.")
	for {
		i := strings.IndexByte(host, '.')
		if i < 0 {
			break
		}
		host = host[i+1:]
		if !yield("*." + host) {
			return
		}
	}
	yield("*")
}

// Older orders objects for "the oldest wins": by creation, then by namespace and name.
func Older(a, b *Ref) int {
	return cmp.Or(cmp.Compare(a.Created, b.Created), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name), strings.Compare(a.Kind, b.Kind))
}

// Authority orders services of one hostname: Kubernetes Services before ServiceEntries,
// then the oldest.
func Authority(a, b *Service) int {
	rank := func(s *Service) int {
		if s.Ref.Kind == "ServiceEntry" {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), Older(&a.Ref, &b.Ref), strings.Compare(string(a.Key()), string(b.Key())))
}
