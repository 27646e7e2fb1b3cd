package translate

import (
	"maps"
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/internal/persist"
	"github.com/weirmesh/weir/xds/resource"
)

// maxDirectResponse is what a VirtualService may answer with (features.md B.1); xDS's
// own default is 4 KiB.
const maxDirectResponse = 1 << 20

// table is a RouteConfiguration in the making: virtual hosts by name, kept up to date
// piece by piece. Whoever takes virtual hosts as resources of their own (VHDS) gets a
// shell and what changed of them, all others the whole, joined when it changed.
type table struct {
	hosts  persist.Map[string, *vhost]
	spread [forms]spread // of the forms in which virtual hosts are resources of their own
	// claims counts the virtual hosts that want a domain. A proxy refuses a table in
	// which a domain is there twice, so where somebody contests, join decides.
	claims    persist.Map[string, int]
	contested int
	origins   []resource.Origin // of the table as such
}

// spread is what became of the virtual hosts of a table as resources of their own.
type spread struct {
	asked   bool                                      // by anybody
	given   persist.Map[string, []*resource.Resource] // by virtual host
	changed map[string]struct{}                       // virtual hosts that came, changed or went since
	decided bool                                      // some domain was contested
}

// fork is a table that begins as this one.
func (t *table) fork() *table {
	out := *t
	for f := range out.spread {
		out.spread[f].changed = maps.Clone(out.spread[f].changed)
	}
	return &out
}

func (t *table) put(h *vhost) {
	if was := t.hosts.At(h.name); was == nil || !slices.Equal(was.domains, h.domains) {
		t.drop(h.name)
		for _, d := range h.domains {
			n := t.claims.At(d) + 1
			if t.claims = t.claims.Set(d, n); n == 2 {
				t.contested++
			}
		}
	}
	t.hosts = t.hosts.Set(h.name, h)
	t.touch(h.name)
}

func (t *table) drop(name string) {
	h, ok := t.hosts.Get(name)
	if !ok {
		return
	}
	t.hosts = t.hosts.Delete(name)
	t.touch(name)
	for _, d := range h.domains {
		switch n := t.claims.At(d) - 1; n {
		case 0:
			t.claims = t.claims.Delete(d)
		case 1:
			t.contested--
			fallthrough
		default:
			t.claims = t.claims.Set(d, n)
		}
	}
}

func (t *table) touch(name string) {
	for f := range t.spread {
		if p := &t.spread[f]; p.asked {
			p.changed[name] = struct{}{}
		}
	}
}

// join makes the RouteConfiguration. rest serves the hosts nobody claims; nil: they get
// a 404.
func (t *table) join(name string, rest *vhost, ignorePort bool) *resource.Resource {
	b := head(name, ignorePort, false)
	size, origins := len(b), slices.Clone(t.origins)
	for h := range t.hosts.Values() {
		origins = append(origins, h.origins...)
		size += len(h.tail) + 512 // tail, and some domains
	}
	b = append(make([]byte, 0, size), b...)
	domains := func(h *vhost) []string { return h.domains }
	if t.contested > 0 {
		decided := t.decide()
		domains = func(h *vhost) []string { return decided[h] }
	}
	for h := range t.hosts.Values() {
		if d := domains(h); len(d) > 0 {
			b = h.appendTo(b, h.name, d)
		}
	}
	if rest != nil && !t.claims.Has("*") {
		b = rest.appendTo(b, rest.name, rest.domains)
	}
	return resource.FromBytes(resource.RouteType, name, b).MadeOf(origins)
}

// head is a RouteConfiguration without virtual hosts.
func head(name string, ignorePort, vhds bool) []byte {
	var k mint // of name and settings of our own: it cannot fail
	m := &routev3.RouteConfiguration{
		Name:                           name,
		ValidateClusters:               wrapperspb.Bool(false),
		MaxDirectResponseBodySizeBytes: u32(maxDirectResponse),
		IgnorePortInHostMatching:       ignorePort,
	}
	if vhds {
		m.Vhds = &routev3.Vhds{ConfigSource: ads()}
	}
	return k.marshal(m)
}

// shell is the RouteConfiguration whose virtual hosts go by VHDS, but for rest.
func (t *table) shell(name string, rest *vhost, ignorePort bool) *resource.Resource {
	b := head(name, ignorePort, true)
	if rest != nil && !t.claims.Has("*") {
		b = rest.appendTo(b, rest.name, rest.domains)
	}
	return resource.FromBytes(resource.RouteType, name, b).MadeOf(t.origins)
}

// update brings the virtual hosts of the table in set, resources of their own, up to date.
func (t *table) update(set resource.Set, name string, f form) resource.Set {
	p := &t.spread[f]
	domains, all := func(h *vhost) []string { return h.domains }, !p.asked
	if all {
		*p = spread{asked: true, changed: map[string]struct{}{}}
	}
	if t.contested > 0 || p.decided { // a change of one may change another
		decided := t.decide()
		domains, all = func(h *vhost) []string { return decided[h] }, true
		p.decided = t.contested > 0
	}
	now := map[string][]*resource.Resource{}
	if all {
		for h := range t.hosts.Values() {
			now[h.name] = h.resources(f, name, domains(h))
		}
	}
	for id := range p.changed {
		if h, ok := t.hosts.Get(id); !ok {
			now[id] = nil
		} else if !all {
			now[id] = h.resources(f, name, domains(h))
		}
	}
	// What one has no more another may have now.
	for id, resources := range now {
		for _, r := range p.given.At(id) {
			if !named(resources, r.Name()) {
				set = set.Delete(r.Name())
			}
		}
	}
	for id, resources := range now {
		for _, r := range resources {
			set = replace(set, r)
		}
		if resources == nil {
			p.given = p.given.Delete(id)
		} else {
			p.given = p.given.Set(id, resources)
		}
	}
	clear(p.changed)
	return set
}

// withdraw takes the virtual hosts of the table out of set.
func (t *table) withdraw(set resource.Set, f form) resource.Set {
	p := &t.spread[f]
	for given := range p.given.Values() {
		for _, r := range given {
			set = set.Delete(r.Name())
		}
	}
	*p = spread{}
	return set
}

// decide gives every domain to one virtual host: to one that is fully called so before
// one for which it is a short form or an address, then in order of name.
func (t *table) decide() map[*vhost][]string {
	taken := map[string]bool{}
	out := make(map[*vhost][]string, t.hosts.Len())
	take := func(h *vhost, domains []string) {
		for _, d := range domains {
			if !taken[d] {
				taken[d] = true
				out[h] = append(out[h], d)
			}
		}
	}
	for h := range t.hosts.Values() {
		take(h, h.domains[:h.own])
	}
	for h := range t.hosts.Values() {
		take(h, h.domains[h.own:])
	}
	return out
}

// table is the RouteConfiguration "<fqdn>:<port>" of this virtual host alone, which
// takes whatever host is asked for: the address a client dialled has said which service
// it means.
func (h *vhost) table() *resource.Resource {
	if h.lone == nil {
		var k mint
		b := k.marshal(&routev3.RouteConfiguration{
			Name: h.name, ValidateClusters: wrapperspb.Bool(false), MaxDirectResponseBodySizeBytes: u32(maxDirectResponse),
		})
		h.lone = resource.FromBytes(resource.RouteType, h.name, h.appendTo(b, h.name, []string{"*"})).MadeOf(h.origins)
	}
	return h.lone
}
