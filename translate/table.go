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
// piece by piece, joined when it changed.
type table struct {
	hosts persist.Map[string, *vhost]
	// claims counts the virtual hosts that want a domain. A proxy refuses a table in
	// which a domain is there twice, so where somebody contests, join decides.
	claims    map[string]int
	contested int
	origins   []resource.Origin // of the table as such
}

func (t *table) put(h *vhost) {
	t.drop(h.name)
	t.hosts = t.hosts.Set(h.name, h)
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
	for _, d := range h.domains {
		switch t.claims[d]--; t.claims[d] {
		case 0:
			delete(t.claims, d)
		case 1:
			t.contested--
		}
	}
}

// join makes the RouteConfiguration. rest serves the hosts nobody claims; nil: they get
// a 404.
func (t *table) join(name string, rest *vhost, ignorePort bool) *resource.Resource {
	var k mint // of name and settings of our own: it cannot fail
	b := k.marshal(&routev3.RouteConfiguration{
		Name:                           name,
		ValidateClusters:               wrapperspb.Bool(false),
		MaxDirectResponseBodySizeBytes: u32(maxDirectResponse),
		IgnorePortInHostMatching:       ignorePort,
	})
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
