package translate

import (
	"bytes"
	"fmt"
	"iter"
	"slices"
	"strings"
	"unicode/utf8"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

// vhost is a virtual host, marshalled but for its name and domains: which domains it
// gets depends on what else is in the table.
type vhost struct {
	name    string
	port    uint16
	domains []string // the first `own` are its own beyond doubt, then come short forms, after `names` wildcards and addresses
	own     int
	names   int
	tail    []byte
	origins []resource.Origin

	lone  *resource.Resource // see table
	apart [forms]apart       // see resources
}

// apart are a virtual host's resources for one table.
type apart struct {
	table     string
	resources []*resource.Resource
}

// Field numbers of envoy/config/route/v3/route_components.proto and route.proto.
const (
	fieldVirtualHostName    = 1
	fieldVirtualHostDomains = 2
	fieldVirtualHosts       = 2 // of RouteConfiguration
)

// appendTo appends the virtual host as an element of RouteConfiguration.virtual_hosts.
func (h *vhost) appendTo(b []byte, name string, domains []string) []byte {
	b = protowire.AppendTag(b, fieldVirtualHosts, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(h.size(name, domains)))
	return h.appendBody(b, name, domains)
}

func (h *vhost) size(name string, domains []string) int {
	size := protowire.SizeTag(fieldVirtualHostName) + protowire.SizeBytes(len(name)) + len(h.tail)
	for _, d := range domains {
		size += protowire.SizeTag(fieldVirtualHostDomains) + protowire.SizeBytes(len(d))
	}
	return size
}

func (h *vhost) appendBody(b []byte, name string, domains []string) []byte {
	b = protowire.AppendTag(b, fieldVirtualHostName, protowire.BytesType)
	b = protowire.AppendString(b, name)
	for _, d := range domains {
		b = protowire.AppendTag(b, fieldVirtualHostDomains, protowire.BytesType)
		b = protowire.AppendString(b, d)
	}
	return append(b, h.tail...)
}

// resources is the virtual host with these domains, which decide has left to it, as resources
// of their own for the table of that name. Their names are in them, too: by that Envoy
// finds one when it is removed.
func (h *vhost) resources(f form, table string, domains []string) []*resource.Resource {
	whole := len(domains) == len(h.domains) // decide takes away, and does not add
	cached := &h.apart[f]
	if whole && cached.table == table && cached.resources != nil {
		return cached.resources
	}
	var out []*resource.Resource
	add := func(name string, domains []string) {
		name = table + "/" + name
		b := make([]byte, 0, h.size(name, domains))
		out = append(out, resource.FromBytes(resource.VirtualHostType, name, h.appendBody(b, name, domains)).MadeOf(h.origins))
	}
	switch {
	case len(domains) == 0:
	case f == pieces: // with the server's port if the table is not a port's
		add(strings.TrimSuffix(h.name, ":"+table), domains)
	default:
		for name, group := range h.byKey(domains) {
			add(name, group)
		}
	}
	if whole {
		*cached = apart{table, out}
	}
	return out
}

// byKey groups domains by what a proxy asks for (docs/design/ondemand.md, "Virtual hosts"): the
// host with its short forms, each wildcard, and each address.
func (h *vhost) byKey(domains []string) iter.Seq2[string, []string] {
	return func(yield func(string, []string) bool) {
		host := h.domains[0]
		lost := domains[0] != host
		var names []string
		groups := map[string][]string{}
		for _, d := range domains {
			key := host
			if i := slices.Index(h.domains, d); lost || i >= h.names {
				key = strings.TrimSuffix(d, ":"+itoa(h.port))
			}
			if groups[key] == nil {
				names = append(names, key)
			}
			groups[key] = append(groups[key], d)
		}
		for _, n := range names {
			if !yield(n, groups[n]) {
				return
			}
		}
	}
}

func (h *vhost) same(o *vhost) bool {
	return h.name == o.name && h.port == o.port && h.own == o.own && h.names == o.names && slices.Equal(h.domains, o.domains) && bytes.Equal(h.tail, o.tail) &&
		slices.Equal(h.origins, o.origins)
}

// seal marshals a virtual host; own is how many of its domains are beyond doubt, names how
// many are no wildcards for pods and no addresses.
func seal(k *mint, m *routev3.VirtualHost, port uint16, own, names int) *vhost {
	k.check(m)
	if !utf8.ValidString(m.Name + strings.Join(m.Domains, "")) {
		k.fail(fmt.Errorf("host %q is not text", m.Name))
	}
	h := &vhost{name: m.Name, port: port, domains: m.Domains, own: own, names: names, origins: k.origins}
	h.tail = k.marshal(&routev3.VirtualHost{Routes: m.Routes, IncludeRequestAttemptCount: m.IncludeRequestAttemptCount})
	return h
}

// domainsOf lists what a host is called on a port. Proxies compare without case.
func domainsOf(host string, port uint16) []string {
	host = strings.ToLower(host)
	switch {
	case host == "*":
		return []string{"*"}
	case strings.Contains(host, ":"): // an IPv6 address
		return []string{"[" + host + "]", hostPort(host, port)}
	}
	return []string{host, hostPort(host, port)}
}

// serviceDomains lists all names and addresses a service answers to on a port, for a
// viewer in its own namespace or in another. The first own are the full names, the first
// names no addresses and no wildcards: those of a headless service, for its pods by name.
func serviceDomains(s *mesh.Service, port uint16, sameNamespace bool, suffix string) (domains []string, own, names int) {
	domains = domainsOf(s.Hostname, port)
	own = len(domains)
	if isClusterLocal(s, suffix) {
		short := s.Name + "." + s.Namespace
		domains = append(domains, domainsOf(short+".svc", port)...)
		domains = append(domains, domainsOf(short, port)...)
		if sameNamespace {
			domains = append(domains, domainsOf(s.Name, port)...)
		}
	}
	names = len(domains)
	if s.Resolution == mesh.Passthrough && isClusterLocal(s, suffix) {
		for _, d := range domains[:names] {
			domains = append(domains, "*."+d)
		}
	}
	for _, a := range s.Addresses {
		domains = append(domains, domainsOf(a.String(), port)...)
	}
	return domains, own, names
}

// isClusterLocal reports whether s is a Kubernetes Service by its name: only those have
// short forms.
func isClusterLocal(s *mesh.Service, suffix string) bool {
	return s.Hostname == s.Name+"."+s.Namespace+".svc."+suffix
}

// virtualHost builds the virtual host of an outbound service port, or, without service,
// of a host that only a VirtualService knows.
func (b *base) virtualHost(host string, s *mesh.Service, port uint16, v *virtual, a *audience) (*vhost, []Problem) {
	m := &routev3.VirtualHost{Name: hostPort(host, port), IncludeRequestAttemptCount: true}
	own, names := 0, 0
	if s != nil {
		m.Domains, own, names = serviceDomains(s, port, s.Namespace == a.namespace, b.settings.DomainSuffix)
	} else {
		m.Domains = domainsOf(host, port)
		own, names = len(m.Domains), len(m.Domains)
	}
	var problems []Problem
	if v != nil {
		rb := &routeBuilder{v: v, port: port, retries: b.settings.DefaultRetries}
		m.Routes = rb.httpRoutes(a)
		problems = rb.problems
		rb.of(v.refs()...)
		if s != nil {
			rb.from(originsOf(s)...)
		}
		if len(m.Routes) > 0 {
			h := seal(&rb.mint, m, port, own, names)
			if rb.err == nil {
				return h, problems
			}
			problems = append(problems, problem(&v.Ref, 0, "is not in force for %s: %v", m.Name, rb.err))
		}
	}
	if s == nil {
		return nil, problems
	}
	m.Routes = []*routev3.Route{defaultRoute(clusterName(port, "", s.Hostname), b.settings.DefaultRetries)}
	k := mint{origins: originsOf(s)}
	k.stay(m.Routes[0], s)
	if _, err := sessionOf(s); err != nil {
		problems = append(problems, problem(&s.Ref, 0, "%v", err))
	}
	h := seal(&k, m, port, own, names)
	if k.err != nil {
		return nil, append(problems, problem(&s.Ref, 0, "has no route on port %d: %v", port, k.err))
	}
	return h, problems
}
