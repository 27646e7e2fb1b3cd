package translate

import (
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
	hosts persist.Map[string, *vhost]
	// changed are names of virtual hosts that came, changed or went since the last spread.
	changed map[string]struct{}
	// claims counts the virtual hosts that want a domain. A proxy refuses a table in
	// which a domain is there twice, so where somebody contests, join decides.
	claims    map[string]int
	contested int
	decided   bool              // so was the last spread
	origins   []resource.Origin // of the table as such
}

func (t *table) put(h *vhost) {
	t.drop(h.name)
	t.hosts = t.hosts.Set(h.name, h)
	t.touch(h.name)
	if t.claims == nil {
		t.claims = map[string]int{}
	}
	for _, d := range h.domains {
		if t.claims[d]++; t.claims[d] == 2 {
			t.contested++
		}
	}
}

func (t *table) drop(name string) {
	h, ok := t.hosts.Get(name)
	if !ok {
		return
	}
	t.hosts = t.hosts.Delete(name)
	t.touch(name)
	for _, d := range h.domains {
		switch t.claims[d]--; t.claims[d] {
		case 0:
			delete(t.claims, d)
		case 1:
			t.contested--
		}
	}
}

func (t *table) touch(name string) {
	if t.changed == nil {
		t.changed = map[string]struct{}{}
	}
	t.changed[name] = struct{}{}
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
	if rest != nil && t.claims["*"] == 0 {
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
	if rest != nil && t.claims["*"] == 0 {
		b = rest.appendTo(b, rest.name, rest.domains)
	}
	return resource.FromBytes(resource.RouteType, name, b).MadeOf(t.origins)
}

// spread brings the virtual hosts of the table in set, resources of their own, up to
// date.
func (t *table) spread(set resource.Set, name string) resource.Set {
	switch {
	case t.contested > 0 || t.decided: // a change of one may change another
		decided := t.decide()
		for h := range t.hosts.Values() {
			if r := h.resource(name, decided[h]); r != nil {
				set = replace(set, r)
			} else {
				set = set.Delete(h.resourceName(name))
			}
		}
		t.decided = t.contested > 0
	default:
		for id := range t.changed {
			if h, ok := t.hosts.Get(id); ok {
				set = replace(set, h.resource(name, h.domains))
			}
		}
	}
	for id := range t.changed {
		if !t.hosts.Has(id) {
			set = set.Delete((&vhost{name: id}).resourceName(name))
		}
	}
	t.changed = nil
	return set
}

// unspread takes the virtual hosts of the table out of set.
func (t *table) unspread(set resource.Set, name string) resource.Set {
	for h := range t.hosts.Values() {
		set = set.Delete(h.resourceName(name))
		t.touch(h.name)
	}
	for id := range t.changed {
		set = set.Delete((&vhost{name: id}).resourceName(name))
	}
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
