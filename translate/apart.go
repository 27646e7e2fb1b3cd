package translate

import (
	"cmp"
	"maps"
	"slices"

	"github.com/weirmesh/weir/internal/persist"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

// presence is what one host has at a listener that is where a Sidecar says (egress[].bind,
// captureMode NONE).
type presence struct {
	at    spot
	doors []*door
	hosts []*vhost
}

// gathering is such a listener in the making: who is there, and the routes.
type gathering struct {
	doors persist.Map[string, []*door] // by host
	table *table
	stale bool
}

func (g *gathering) fork() *gathering {
	out := *g
	out.table = g.table.fork()
	return &out
}

// localhost is where captureMode NONE has applications call the proxy if nothing is said.
const localhost = "127.0.0.1"

// spotOf is where e has hosts served, on port of theirs.
func (s *scope) spotOf(e *mesh.Egress, port uint16) spot {
	if path := e.Socket(); path != "" {
		return spot{socket: path, bound: true}
	}
	at := spot{addr: cmp.Or(e.Bind, localhost), port: port}
	at.bound = e.Uncaptured || s.key.kind == virtualNet // to whose listeners nothing is redirected
	return at
}

// withApart adds to t what a host has at listeners of the Sidecar's own; t may be nil.
func (s *scope) withApart(c *Cache, host string, svc *mesh.Service, t *tenant) *tenant {
	if s.sight.Everything() || !slices.ContainsFunc(s.sight.Sidecar.Egress, func(e mesh.Egress) bool { return e.Apart() }) {
		return t
	}
	if svc != nil && isWildcard(host) && s.key.kind != redirected && s.key.kind != transparent {
		return t // as at their own addresses, see bind: a name that stands for many has no cluster here
	}
	v, pattern := c.index.virtualFor(host, &s.sight)
	out := &tenant{}
	if t != nil {
		*out = *t
	}
	at := map[spot]*presence{}
	add := func(e *mesh.Egress, st *service, p mesh.Port) {
		if p.Protocol == mesh.Auto {
			p.Protocol = cmp.Or(e.Protocol, mesh.Auto)
		}
		if e.Socket() != "" && e.Protocol != "" && e.Protocol.IsHTTP() != p.Protocol.IsHTTP() {
			return
		}
		where := s.spotOf(e, p.Number)
		if at[where] == nil {
			at[where] = &presence{at: where}
		}
		s.appear(c, at[where], host, st, &p, v, out)
	}
	switch {
	case svc != nil:
		st := c.service(svc)
		for _, p := range st.ports {
			for e := range s.sight.Importing(p.Number) {
				if e.Apart() && e.Imports(s.sight.Namespace, svc.Namespace, svc.Hostname) {
					add(e, st, *p)
				}
			}
		}
	case v != nil && pattern == host:
		for e := range s.sight.Importing(lonePort) {
			if e.Apart() && e.Meets(s.sight.Namespace, v.Ref.Namespace, host) {
				add(e, nil, mesh.Port{Number: lonePort, Protocol: mesh.HTTP})
			}
		}
	}
	if len(at) == 0 {
		return t
	}
	for _, p := range at {
		out.apart = append(out.apart, *p)
	}
	return out
}

// appear adds port p of st (nil: a host only v knows) to x.
func (s *scope) appear(c *Cache, x *presence, host string, st *service, p *mesh.Port, v *virtual, t *tenant) {
	d := &door{port: p.Number, http: p.Protocol.IsHTTP(), sniffed: p.Protocol == mesh.Auto}
	var svc *mesh.Service
	if st != nil {
		d.ref, svc = &st.Ref, st.Service
	} else {
		d.ref = &v.Ref
	}
	if d.http || d.sniffed {
		h, problems := c.base.virtualHost(host, svc, p.Number, v, &s.audience)
		t.problems = slices.Concat(t.problems, problems)
		if h == nil {
			return
		}
		x.hosts = append(x.hosts, h)
	}
	if !d.http {
		k := mint{origins: slices.Clone(st.origins)}
		r := merge(c.index.rulesFor(svc, &s.audience, c.base.settings.RootNamespace))
		for _, f := range c.base.relays(&k, st, p, v, r, &s.audience, nil, d.sniffed) {
			if f.FilterChainMatch == nil {
				d.plain = f
			} else {
				d.shared = append(d.shared, f)
			}
			k.vet(f)
		}
		if k.err != nil {
			t.problems = append(slices.Clone(t.problems), problem(&st.Ref, 0, "port %d is not served at %s: %v", p.Number, x.at.name(), k.err))
			return
		}
		d.origins = k.origins
	}
	x.doors = append(x.doors, d)
}

// settleApart gives a host its places at listeners of the Sidecar's own.
func (s *scope) settleApart(host string, old, now []presence) {
	for i := range old {
		x := &old[i]
		g := s.apart[x.at]
		g.stale = true
		g.doors = g.doors.Delete(host)
		for _, h := range x.hosts {
			g.table.drop(h.name)
		}
	}
	for i := range now {
		x := &now[i]
		g := s.apart[x.at]
		if g == nil {
			g = &gathering{table: &table{}}
			s.apart[x.at] = g
		}
		g.stale = true
		g.doors = g.doors.Set(host, x.doors)
		for _, h := range x.hosts {
			g.table.put(h)
		}
	}
}

// isApart reports whether the listener of that name is where the Sidecar says.
func (s *scope) isApart(name string) bool {
	for at, g := range s.apart {
		if at.name() == name && g.doors.Len() > 0 {
			return true
		}
	}
	return false
}

// gather makes the listeners that are where the Sidecar says, and their routes, where something
// changed. A proxy that asks for what it needs gets them unasked, as it listens there before
// anybody calls.
func (s *scope) gather(b *base) {
	set := s.base
	for at, g := range s.apart {
		if !g.stale {
			continue
		}
		g.stale = false
		var doors []*door
		for d := range g.doors.Values() {
			doors = append(doors, d...)
		}
		slices.SortStableFunc(doors, func(a, b *door) int { return mesh.Older(a.ref, b.ref) })
		name := at.name()
		rest := b.outer[blackHoleCluster] // nobody else is meant: what was dialled is the proxy itself
		if s.sight.Sidecar.Proxy != nil {
			rest = b.outside(s.sight.Sidecar)
		}
		l, err := b.shared(at, name, doors, rest.to)
		if err != nil {
			l = nil
		}
		routes := l != nil && slices.ContainsFunc(doors, func(d *door) bool { return d.http || d.sniffed })
		for f := range s.routes {
			if routes {
				s.routes[f] = replace(s.routes[f], g.table.join(name, rest.elsewhere, false))
			} else {
				s.routes[f] = s.routes[f].Delete(name)
			}
		}
		standing := set.Sets[resource.ListenerType]
		if l != nil {
			s.listeners = replace(s.listeners, l.MadeOf(append(l.Origins(), originOf(&s.sight.Sidecar.Ref))))
			standing = replace(standing, s.listeners.At(name))
		} else {
			s.listeners, standing = s.listeners.Delete(name), standing.Delete(name)
		}
		if g.doors.Len() == 0 {
			delete(s.apart, at)
			s.grant(name)
		}
		if !standing.Same(set.Sets[resource.ListenerType]) {
			own := *set
			own.Sets = maps.Clone(set.Sets)
			own.Sets[resource.ListenerType] = standing
			set = &own
		}
	}
	s.base = set
}
