package translate

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/weirmesh/weir/internal/persist"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

// scopeKey is equal for nodes that see the same services in the same way.
type scopeKey struct {
	namespace string
	selectors string // canonical, those the node's labels satisfy
	sidecar   string // its name and content, "" for none
	kind      scopeKind
	unnamed   bool  // captured, but for its workload's DNS
	net       uint8 // env capture: whose virtual addresses; 0: nobody's, only those given
	// unprivileged: without those on ports below 1024
	unprivileged bool
	passing      bool   // gateways: clients name clusters
	outbound     string // canonical, env capture: the addresses given
	place        string // of those whose endpoints depend on it; "" where nobody's do
}

type scopeKind uint8

const (
	redirected  scopeKind = iota // traffic arrives by original destination
	transparent                  // the same, by TPROXY
	virtualNet                   // env capture
	gateway
	proxyless // see proxyless.go
)

// scope is what one class of viewers sees of the mesh. Scopes are nearly equal, so one begins
// as a fork of another, with which it shares what stays the same.
type scope struct {
	key       scopeKey
	audience  audience
	sight     mesh.Sight
	source    string // of the audience, where rules look at it
	outbound  map[string]netip.AddrPort
	place     *place
	gen, used uint64

	tenants persist.Map[string, *tenant] // by host
	// problems are those of tenants that have some.
	problems persist.Map[string, []Problem]
	base     *resource.View // what does not depend on services
	outer    *outer

	clusters, assignments, listeners resource.Set
	routes, vhosts                   [forms]resource.Set
	asked                            catalogue

	tables map[uint16]*table
	stale  [forms]map[uint16]bool                // tables to make anew, by form, when somebody asks for that
	doors  map[uint16]persist.Map[string, *door] // by port and host
	claims persist.Map[string, []claim]          // listeners by name
	apart  map[spot]*gathering                   // listeners where the Sidecar says

	names   persist.Map[string, []byte]
	table   resource.Set // the name table
	tableOf persist.Map[string, []byte]
}

// form is how route tables go to a proxy: whole, or in pieces, with virtual hosts as
// resources of their own.
type form int

const (
	whole form = iota
	pieces
	onDemand // in pieces, named as a proxy asks for them: docs/design/ondemand.md
	forms
)

// tenant is what one host has in a scope. It does not change once it is there.
type tenant struct {
	clusters    []*resource.Resource
	assignments []*resource.Resource
	hosts       []*vhost
	tables      []*resource.Resource // routes of one port alone
	doors       []*door
	apart       []presence // at listeners of the Sidecar's own
	names       []byte
	origins     []resource.Origin // of names
	problems    []Problem
}

// claim is a service's wish for a listener name. Two services may have one address.
type claim struct {
	ref  *mesh.Ref
	host string
	res  *resource.Resource
}

// scope returns the up-to-date scope of n.
func (c *Cache) scope(n *Node, labels mesh.Labels) *scope {
	key := scopeKey{namespace: n.Namespace}
	switch {
	case n.Type == Router:
		key.kind = gateway
		for g := range c.snap.Gateways.Values() {
			key.passing = key.passing || passes(g) && g.Selector.Selects(labels)
		}
	case n.Proxyless:
		key.kind = proxyless
	case n.Interception == NoInterception:
		key.kind, key.net, key.unprivileged = virtualNet, n.VirtualNet, n.Unprivileged
		key.outbound = given(n.Outbound)
	case n.Interception == TProxy:
		key.kind = transparent
	}
	key.unnamed = !n.DNS && (key.kind == redirected || key.kind == transparent)
	satisfied := map[string]bool{}
	for id, u := range c.index.selectors {
		if u.labels.Selects(labels) {
			satisfied[id] = true
		}
	}
	key.selectors = strings.Join(slices.Sorted(maps.Keys(satisfied)), "\x00")
	var at *place
	at, key.place = c.place(n, labels)
	var sidecar *mesh.Sidecar
	if key.kind != gateway {
		sidecar = c.index.sidecarFor(n.Namespace, labels, c.base.settings.RootNamespace)
		key.sidecar = content(sidecar)
	}
	s := c.scopes[key]
	if s == nil {
		s = c.fork(key)
		s.audience = audience{gateway: mesh.Mesh, namespace: n.Namespace, satisfied: satisfied}
		s.sight = mesh.Sight{Namespace: n.Namespace, Sidecar: sidecar}
		s.source = key.namespace + ";" + key.selectors
		s.outbound = n.Outbound
		s.place = at
		c.scopes[key] = s
	}
	s.catchUp(c)
	return s
}

// given is equal for equal addresses.
func given(outbound map[string]netip.AddrPort) string {
	var b strings.Builder
	for _, service := range slices.Sorted(maps.Keys(outbound)) {
		b.WriteString(service + "=" + outbound[service].String() + "\x00")
	}
	return b.String()
}

// parts are the sets a scope contributes to a View: clusters, load assignments,
// listeners, routes, virtual hosts and, if wanted, the name table and the index.
type parts [7]resource.Set

// partTypes are their types.
var partTypes = [len(parts{})]string{resource.ClusterType, resource.EndpointType, resource.ListenerType, resource.RouteType, resource.VirtualHostType,
	resource.NameTableType, resource.IndexType}

func (s *scope) parts(c *Cache, n *Node) parts {
	f := n.form()
	if f == whole {
		s.join(c.base)
	} else {
		s.split(c.base, f)
	}
	out := parts{s.clusters, s.assignments, s.listeners, s.routes[f], s.vhosts[f]}
	if n.DNS {
		out[5] = s.nameTable(c)
	}
	if f == onDemand {
		out[6] = s.asked.follow(s.listeners, s.vhosts[f])
	}
	return out
}

// touched collects what has to be joined again after hosts changed.
type touched struct{ tables, doors map[uint16]bool }

// catchUp applies the changes since the scope was last looked at.
func (s *scope) catchUp(c *Cache) {
	if s.gen == c.gen {
		return
	}
	hosts := map[string]bool{}
	everything := s.gen == 0 || c.gen-s.gen > uint64(len(c.log))
	for g := s.gen + 1; g <= c.gen && !everything; g++ {
		changed := c.log[g%uint64(len(c.log))]
		everything = changed.base
		for h := range changed.hosts {
			hosts[h] = true
		}
		if !s.sight.Everything() {
			for h := range changed.reached {
				hosts[h] = true
			}
		}
	}
	s.gen = c.gen
	if everything {
		for h := range c.index.hosts {
			hosts[h] = true
		}
		for h := range c.index.byHost {
			hosts[h] = true
		}
		for h := range s.tenants.All() {
			hosts[h] = true
		}
		s.standing(c.base)
	}
	outer := c.base.outside(s.sight.Sidecar)
	strangers := s.outer != outer
	s.outer = outer
	t := &touched{map[uint16]bool{}, map[uint16]bool{}}
	for h := range hosts {
		s.settle(c, h, t)
	}
	if strangers { // what they get may have changed
		for p := range s.doors {
			t.tables[p], t.doors[p] = true, true
		}
		for _, g := range s.apart {
			g.stale = true
		}
	}
	s.share(c, t)
	s.gather(c.base)
	for port := range t.tables {
		for f := range s.stale {
			s.stale[f][port] = true
		}
	}
}

// standing puts what does not depend on services.
func (s *scope) standing(b *base) {
	if s.key.kind == proxyless {
		return
	}
	clusters := b.clusters
	if s.key.kind != gateway {
		clusters = slices.Concat(clusters, b.inboundClusters)
	}
	s.base = resource.NewView(0, clusters...)
	for _, g := range s.apart { // which is to be in it
		g.stale = true
	}
	for _, r := range clusters {
		s.clusters = replace(s.clusters, r)
	}
	if r := b.outside(s.sight.Sidecar).outbounds[s.key.kind]; r != nil {
		if s.sight.Sidecar != nil {
			own := *r
			r = own.MadeOf([]resource.Origin{originOf(&s.sight.Sidecar.Ref)})
		}
		s.listeners = replace(s.listeners, r)
		s.base.Sets[resource.ListenerType] = resource.Set{}.Set(r.Name(), r)
	}
}

// replace puts r into set unless its equal is there.
func replace(set resource.Set, r *resource.Resource) resource.Set {
	if resource.Equal(set.At(r.Name()), r) {
		return set
	}
	return set.Set(r.Name(), r)
}

// settle gives host the place it has now.
func (s *scope) settle(c *Cache, host string, t *touched) {
	old, now := s.tenants.At(host), s.tenant(c, host)
	if old == now {
		return
	}
	if now == nil {
		s.tenants = s.tenants.Delete(host)
		now = &tenant{}
	} else {
		s.tenants = s.tenants.Set(host, now)
	}
	if old == nil {
		old = &tenant{}
	}
	if len(now.problems) > 0 {
		s.problems = s.problems.Set(host, now.problems)
	} else {
		s.problems = s.problems.Delete(host)
	}
	s.clusters = exchange(s.clusters, old.clusters, now.clusters)
	s.assignments = exchange(s.assignments, old.assignments, now.assignments)
	for f := range s.routes {
		s.routes[f] = exchange(s.routes[f], old.tables, now.tables)
	}
	s.settleHosts(old.hosts, now.hosts, t)
	s.settleDoors(host, old.doors, now.doors, t)
	s.settleApart(host, old.apart, now.apart)
	switch {
	case now.names == nil:
		s.names = s.names.Delete(host)
	case string(now.names) != string(s.names.At(host)) || !slices.Equal(now.origins, old.origins):
		s.names = s.names.Set(host, now.names)
	}
}

// exchange puts now into set for old.
func exchange(set resource.Set, old, now []*resource.Resource) resource.Set {
	for _, r := range old {
		if !named(now, r.Name()) {
			set = set.Delete(r.Name())
		}
	}
	for _, r := range now {
		if set.At(r.Name()) != r {
			set = set.Set(r.Name(), r)
		}
	}
	return set
}

func named(list []*resource.Resource, name string) bool {
	return slices.ContainsFunc(list, func(r *resource.Resource) bool { return r.Name() == name })
}

func (s *scope) settleHosts(old, now []*vhost, t *touched) {
	for _, h := range old {
		if !slices.ContainsFunc(now, func(n *vhost) bool { return n.port == h.port && n.name == h.name }) {
			s.tables[h.port].drop(h.name)
			t.tables[h.port] = true
		}
	}
	for _, h := range now {
		if slices.Contains(old, h) {
			continue
		}
		s.at(h.port).put(h)
		t.tables[h.port] = true
	}
}

func (s *scope) settleDoors(host string, old, now []*door, t *touched) {
	for _, d := range old {
		i := slices.IndexFunc(now, func(n *door) bool { return n.port == d.port })
		if i < 0 || !now[i].sameShared(d) {
			t.doors[d.port], t.tables[d.port] = true, true
		}
		s.doors[d.port] = s.doors[d.port].Delete(host)
		for _, r := range d.own {
			s.claim(r.Name(), host, nil, nil)
		}
	}
	for _, d := range now {
		if !slices.ContainsFunc(old, d.samePort) {
			t.doors[d.port], t.tables[d.port] = true, true
		}
		s.doors[d.port] = s.doors[d.port].Set(host, d)
		for _, r := range d.own {
			s.claim(r.Name(), host, d.ref, r)
		}
	}
	for _, d := range slices.Concat(old, now) {
		for _, r := range d.own {
			s.grant(r.Name())
		}
	}
}

func (d *door) samePort(o *door) bool { return d.port == o.port }

// sameShared reports whether 0.0.0.0_<port> need not change for the exchange of o by d.
func (d *door) sameShared(o *door) bool {
	return d.port == o.port && d.http == o.http && d.sniffed == o.sniffed &&
		d.plain == nil && o.plain == nil && len(d.shared)+len(o.shared) == 0
}

// claim replaces host's claim to a listener name; res nil gives it up.
func (s *scope) claim(name, host string, ref *mesh.Ref, res *resource.Resource) {
	list := slices.DeleteFunc(slices.Clone(s.claims.At(name)), func(c claim) bool { return c.host == host })
	if res != nil {
		list = insert(list, claim{ref, host, res}, func(a, b claim) int {
			return cmp.Or(b.calls(name)-a.calls(name), mesh.Older(a.ref, b.ref), strings.Compare(a.host, b.host))
		})
	}
	if len(list) == 0 {
		s.claims = s.claims.Delete(name)
		return
	}
	s.claims = s.claims.Set(name, list)
}

// calls is 1 if name is the full name of the claim's host with a port, which a short form
// of another host must not take.
func (c *claim) calls(name string) int {
	if strings.HasPrefix(name, c.host+":") {
		return 1
	}
	return 0
}

// grant gives a listener name to the oldest service that claims it.
func (s *scope) grant(name string) {
	list := s.claims.At(name)
	switch {
	case s.isApart(name):
	case len(list) == 0:
		s.listeners = s.listeners.Delete(name)
	case s.listeners.At(name) != list[0].res:
		s.listeners = s.listeners.Set(name, list[0].res)
	}
}

// share makes the shared listeners of touched ports.
func (s *scope) share(c *Cache, t *touched) {
	if s.key.kind != redirected && s.key.kind != transparent {
		return
	}
	for port := range t.doors {
		doors := slices.Collect(s.doors[port].Values())
		slices.SortStableFunc(doors, func(a, b *door) int { return mesh.Older(a.ref, b.ref) })
		at := spot{addr: anyV4, port: port}
		if r, err := c.base.shared(at, itoa(port), doors, c.base.outside(s.sight.Sidecar).to); r != nil && err == nil {
			s.listeners = replace(s.listeners, r)
		} else {
			s.listeners = s.listeners.Delete(at.name())
		}
	}
}

// due takes the tables that are to be made anew; wanted says whether a listener uses one.
func (s *scope) due(f form) iter.Seq2[uint16, bool] {
	return func(yield func(uint16, bool) bool) {
		for port := range s.stale[f] {
			wanted := false
			for d := range s.doors[port].Values() {
				if wanted = d.http || d.sniffed; wanted {
					break
				}
			}
			if !yield(port, wanted && (s.key.kind == redirected || s.key.kind == transparent)) {
				return
			}
		}
		clear(s.stale[f])
	}
}

// join brings the whole route tables up to date.
func (s *scope) join(b *base) {
	for port, wanted := range s.due(whole) {
		name := itoa(port)
		if !wanted {
			s.routes[whole] = s.routes[whole].Delete(name)
			continue
		}
		s.routes[whole] = replace(s.routes[whole], s.at(port).join(name, b.outside(s.sight.Sidecar).elsewhere, false))
	}
}

// split brings the route tables in a form of pieces up to date.
func (s *scope) split(b *base, f form) {
	for port, wanted := range s.due(f) {
		name, t := itoa(port), s.at(port)
		if !wanted {
			s.routes[f] = s.routes[f].Delete(name)
			s.vhosts[f] = t.withdraw(s.vhosts[f], f)
			continue
		}
		s.routes[f] = replace(s.routes[f], t.shell(name, b.outside(s.sight.Sidecar).elsewhere, false))
		s.vhosts[f] = t.update(s.vhosts[f], name, f)
	}
}

// at is the table of a port.
func (s *scope) at(port uint16) *table {
	if s.tables[port] == nil {
		s.tables[port] = &table{}
	}
	return s.tables[port]
}

// lonePort is where hosts are served that only a VirtualService knows, as in Istio.
const lonePort = 80

// tenant builds what host has; nil if the scope does not see it.
func (s *scope) tenant(c *Cache, host string) *tenant {
	svc := c.index.service(host, &s.sight)
	behind := c.index.behind(host, &s.sight)
	t := s.seen(c, host, svc)
	if s.key.kind != gateway && s.key.kind != proxyless {
		t = s.withApart(c, host, svc, t)
	}
	if svc != nil && t != nil {
		t = t.narrow(svc, &s.sight, behind != nil, s.key.kind == proxyless)
	}
	if svc != nil || behind == nil {
		return t
	}
	if t == nil {
		t = &tenant{}
	}
	reached := s.seen(c, host, behind)
	if reached != nil {
		t.clusters, t.assignments = reached.clusters, reached.assignments
	}
	return t
}

// seen builds what host has in the eyes of those who see svc, which may be nil.
func (s *scope) seen(c *Cache, host string, svc *mesh.Service) *tenant {
	v, pattern := c.index.virtualFor(host, &s.sight)
	if s.key.kind == proxyless && (svc != nil || v != nil && pattern == host) {
		if svc == nil {
			return s.direct(c, host, nil, v, nil)
		}
		return s.direct(c, host, c.service(svc), v, c.index.rulesFor(svc, &s.audience, c.base.settings.RootNamespace))
	}
	if svc == nil {
		if v == nil || pattern != host || s.key.kind == gateway || s.key.kind == virtualNet || s.key.kind == proxyless {
			return nil
		}
		h, problems := c.base.virtualHost(host, nil, lonePort, v, &s.audience)
		t := &tenant{problems: problems}
		if h != nil {
			t.hosts = []*vhost{h}
			t.doors = []*door{{port: lonePort, ref: &v.Ref, http: true}}
		}
		return t
	}
	st := c.service(svc)
	rules := c.index.rulesFor(svc, &s.audience, c.base.settings.RootNamespace)
	captured := s.key.kind == redirected || s.key.kind == transparent
	cs := st.clusterSet(c.base, rules, captured, s.key.kind == gateway, s.key.passing, s.place, s.key.place)
	if s.key.kind == gateway {
		return st.tenant(cs, nil, nil)
	}
	hs := st.hostSet(c.base, v, &s.audience, s.source)
	if captured {
		return st.tenant(cs, hs, st.doorSet(c.base, v, rules, &s.audience, s.source, !s.key.unnamed))
	}
	t := &tenant{clusters: cs.clusters, assignments: cs.assignments, names: st.names, origins: st.origins, problems: slices.Concat(cs.problems, hs.problems)}
	t.doors = s.bind(c.base, st, v, rules, &t.problems)
	if !isWildcard(host) { // nobody listens for those: see bind
		for _, h := range hs.hosts {
			t.tables = append(t.tables, h.table())
		}
	}
	return t
}

// firstUnprivileged is the first port that anybody may listen on.
const firstUnprivileged = 1024

// bind makes the listeners of a service at the addresses the caller calls it at.
func (s *scope) bind(b *base, st *service, v *virtual, rules []*mesh.DestinationRule, problems *[]Problem) []*door {
	if isWildcard(st.Hostname) {
		return nil // nothing one could bind stands for all names
	}
	if s.key.net != 0 && (st.Index == 0 || st.Index > 0xffff) {
		*problems = append(*problems, problem(&st.Ref, 0, "has no virtual address: its index %d is not 1 to 65535", st.Index))
		return nil
	}
	own := netip.AddrFrom4([4]byte{127, s.key.net, byte(st.Index >> 8), byte(st.Index)})
	var out []*door
	r := merge(rules)
	for _, p := range st.ports {
		at, ok := s.outbound[hostPort(st.Hostname, p.Number)]
		switch {
		case ok:
		case s.key.net == 0, s.key.unprivileged && p.Number < firstUnprivileged:
			continue // a service that came later than the workload, which does not know where it would be
		default:
			at = netip.AddrPortFrom(own, p.Number)
		}
		k := mint{origins: slices.Clone(st.origins)}
		here := spot{addr: at.Addr().String(), port: at.Port(), bound: true}
		name := here.name()
		res := k.resource(name, b.outboundListener(&here, b.chainsFor(&k, st, p, v, r, &s.audience)))
		if res == nil {
			*problems = append(*problems, problem(&st.Ref, 0, "port %d has no listener: %v", p.Number, k.err))
			continue
		}
		if was := s.listeners.At(name); resource.Equal(was, res) {
			res = was
		}
		out = append(out, &door{port: p.Number, ref: &st.Ref, own: []*resource.Resource{res}})
	}
	return out
}
