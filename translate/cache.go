// Package translate is where configuration becomes xDS: pure functions from the plan to
// named resources.
//
// A *mesh.Snapshot and a Node enter, a *resource.View leaves: the clusters, load
// assignments, listeners, routes and name table of that proxy. The same Snapshot and
// Node always give the same bytes; there is no clock, no goroutine and no logger here,
// and no Snapshot makes it panic. An object that cannot be translated is left out alone
// and named by Problems.
//
// A Cache remembers what it built, so that a change costs what it changes. One
// goroutine at a time may use a Cache; the Views that come out are immutable and may be
// read by any number of goroutines.
//
// How it fits together: index follows the Snapshot and says which hosts a change
// concerns; service holds what is built of one service, for each way of looking at it;
// scope is what one class of viewers sees (a namespace, more finely only where rules
// pick clients by label) as persistent sets, updated host by host; inbound and edge are
// a sidecar's and a gateway's own part. docs/design/xds-profile.md lists what is sent.
package translate

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

// Cache builds Views. The zero value is not usable; see New.
type Cache struct {
	index *index
	base  *base
	authz *authz
	snap  *mesh.Snapshot
	gen   uint64 // counts Snapshots
	// edgeGen is when what gateways are made of changed last.
	edgeGen uint64
	// secretGen is when Secrets changed last.
	secretGen uint64

	services map[mesh.Key]*service
	renewed  []*service // by the last change
	scopes   map[scopeKey]*scope
	donors   map[scopeKey]*scope // by scopeKey.class, of scopes
	inbounds map[string]*inboundSet
	own      map[string]*resource.Resource // of inbounds, by version
	edges    map[string]*edgeSet
	clients  map[string]*secretSet
	views    map[viewKey]*view
	names    *resource.Resource // the name table made last

	lists    map[string][]*mesh.Service // see listing
	listsGen uint64

	// log[g%len(log)] is what generation g changed: a scope that was not looked at for
	// a while catches up with it.
	log [64]*change
}

// New returns an empty Cache.
func New() *Cache {
	return &Cache{index: newIndex(), services: map[mesh.Key]*service{}, scopes: map[scopeKey]*scope{}, donors: map[scopeKey]*scope{},
		inbounds: map[string]*inboundSet{}, own: map[string]*resource.Resource{}, edges: map[string]*edgeSet{}, clients: map[string]*secretSet{}, views: map[viewKey]*view{}}
}

// viewKey is equal for nodes that get the same View.
type viewKey struct {
	scope *scope
	own   ownSet
	// clients are Secrets for what it calls; nil: none.
	clients *secretSet
	dns     bool
	form    form
	known   *Learned
	// unproven, strange: without secrets
	unproven, strange bool
}

type view struct {
	*resource.View
	parts parts          // it was made of
	base  *resource.View // of the scope
	used  uint64
}

// ownSet is what a node has for itself, beside what its scope has.
type ownSet interface {
	// of is what it has of a type.
	of(typeURL string) []*resource.Resource
}

// joinTo puts what own has of a type into set.
func joinTo(set resource.Set, own ownSet, typeURL string) resource.Set {
	for _, r := range own.of(typeURL) {
		set = set.Set(r.Name(), r)
	}
	return set
}

// View returns what n gets under snap. Snapshots may come in any order, but each that
// differs from the one before costs its differences.
func (c *Cache) View(snap *mesh.Snapshot, n *Node) *resource.View {
	c.follow(snap)
	labels := c.labels(n)
	s := c.scope(n, labels)
	key := viewKey{scope: s, dns: n.DNS, form: n.form(), known: n.Learned, unproven: n.Unproven}
	if n.Type == Router {
		key.own, key.strange = c.edge(n, labels, s), !c.vouched(n)
	} else {
		key.own = c.inbound(n, labels)
	}
	if key.clients = c.clientSecrets(n, labels); key.clients != nil {
		key.strange = !c.vouched(n)
	}
	v := c.views[key]
	parts := s.parts(c, n)
	switch {
	case v == nil || !sameSets(parts, v.parts) || v.base != s.base:
		v = s.assemble(key, parts, v)
		v.Version = snap.Version
		c.views[key] = v
	case v.Version != snap.Version:
		v.View = &resource.View{Version: snap.Version, Sets: v.Sets, Wild: v.Wild}
	}
	v.used, s.used = c.gen, c.gen
	return v.View
}

// assemble makes a View, the same sets of that of before (which may be nil) where the parts are the
// same: whoever holds it need not even look at them.
func (s *scope) assemble(key viewKey, parts parts, before *view) *view {
	v := &view{View: &resource.View{Sets: make(map[string]resource.Set, len(parts)+1)}, parts: parts, base: s.base}
	for i, typeURL := range partTypes {
		switch {
		case typeURL == resource.VirtualHostType && key.form == whole, typeURL == resource.NameTableType && !key.dns, typeURL == resource.IndexType && key.form != onDemand:
		case before != nil && parts[i].Same(before.parts[i]):
			v.Sets[typeURL] = before.Sets[typeURL]
		default:
			v.Sets[typeURL] = joinTo(parts[i], key.own, typeURL)
		}
	}
	if !key.unproven && !key.strange {
		if secrets := joinTo(joinTo(resource.Set{}, key.own, resource.SecretType), key.clients, resource.SecretType); secrets.Len() > 0 {
			v.Sets[resource.SecretType] = secrets
		}
	}
	if key.form == onDemand {
		if before != nil && before.base != s.base {
			before = nil
		}
		v.Wild = s.unasked(key, v.View, before)
	}
	return v
}

func sameSets(a, b parts) bool {
	for i := range a {
		if !a[i].Same(b[i]) {
			return false
		}
	}
	return true
}

// settingsOf are a Snapshot's settings, with Istio's defaults where none are given.
func settingsOf(snap *mesh.Snapshot) *mesh.Settings {
	s := mesh.Settings{DefaultRetries: mesh.SafeRetries()}
	if snap.Settings != nil {
		s = *snap.Settings
	}
	s.TrustDomain = cmp.Or(s.TrustDomain, "cluster.local")
	s.ClusterID = cmp.Or(s.ClusterID, "Kubernetes")
	s.DomainSuffix = cmp.Or(s.DomainSuffix, "cluster.local")
	s.RootNamespace = cmp.Or(s.RootNamespace, "istio-system")
	return &s
}

// follow brings everything shared to snap. Scopes catch up when they are asked for.
func (c *Cache) follow(snap *mesh.Snapshot) {
	if c.snap == snap {
		return
	}
	changed := c.index.follow(snap)
	c.snap = snap
	c.gen++
	c.log[c.gen%uint64(len(c.log))] = changed
	if changed.base || c.base == nil {
		changed.base = true
		s := settingsOf(snap)
		c.base = newBase(s, c.index.sessions > 0, c.gen)
	}
	if changed.base || len(changed.authn) > 0 {
		b := *c.base
		b.authn = newAuthn(b.settings.RootNamespace, snap.PeerAuths)
		c.base = &b
	}
	if changed.base || changed.authz || c.authz == nil {
		c.authz = newAuthz(c.base.settings.RootNamespace, snap, c.gen, c.authz)
	}
	if changed.base {
		for host := range c.index.hosts {
			changed.mark(host, dirtyAll)
		}
	}
	if changed.base || changed.edges {
		c.edgeGen = c.gen
	}
	if changed.secrets {
		c.secretGen = c.gen
	}
	for _, s := range c.renewed {
		s.prev = nil
	}
	c.renewed = c.renewed[:0]
	for key := range changed.services {
		if c.services[key] != nil && !snap.Services.Has(key) {
			delete(c.services, key)
		}
	}
	for host, d := range changed.hosts {
		for _, s := range c.index.hosts[host] {
			if old := c.services[s.Key()]; old != nil {
				c.renew(s, old, d)
			}
		}
	}
	if c.gen%uint64(len(c.log)) == 0 {
		c.sweep()
	}
}

// renew replaces a service of which something changed, taking over what did not.
func (c *Cache) renew(s *mesh.Service, old *service, d dirt) {
	now := newService(c.base, s, c.snap.Endpoints.At(s.Key()))
	now.prev = old
	if s == old.Service {
		if d&dirtyClusters == 0 {
			now.clusters = old.clusters
		}
		if d&dirtyHosts == 0 {
			now.hosts = old.hosts
		}
		if d&dirtyDoors == 0 {
			now.doors = old.doors
		}
	}
	c.services[s.Key()] = now
	c.renewed = append(c.renewed, now)
}

func (c *Cache) service(s *mesh.Service) *service {
	key := s.Key()
	out := c.services[key]
	if out == nil {
		out = newService(c.base, s, c.snap.Endpoints.At(key))
		c.services[key] = out
	}
	return out
}

// sweep forgets what nobody asked for during the whole log.
func (c *Cache) sweep() {
	old := c.gen - min(c.gen, uint64(len(c.log)))
	for k, s := range c.scopes {
		if s.used <= old {
			delete(c.scopes, k)
		}
	}
	clear(c.donors)
	for k, s := range c.scopes {
		c.donors[k.class()] = s
	}
	for k, v := range c.views {
		if v.used <= old {
			delete(c.views, k)
		}
	}
	clear(c.own)
	for k, in := range c.inbounds {
		if in.used <= old {
			delete(c.inbounds, k)
			continue
		}
		in.intern(c.own)
	}
	for k, e := range c.edges {
		if e.used <= old {
			delete(c.edges, k)
		}
	}
	for k, s := range c.clients {
		if s.used <= old {
			delete(c.clients, k)
		}
	}
}

// labels are the workload's as the registry knows them, else as the node says.
func (c *Cache) labels(n *Node) mesh.Labels {
	if w := c.snap.Workloads.At(mesh.NewKey(n.Namespace, n.Name)); w != nil {
		return w.Labels
	}
	return n.Labels
}

// vouched reports whether n is a workload that is known, and runs as who n proved to be. What
// else a node says of itself, its labels above all, anybody of its namespace can say.
func (c *Cache) vouched(n *Node) bool {
	w := c.snap.Workloads.At(mesh.NewKey(n.Namespace, n.Name))
	return w != nil && w.ServiceAccount == n.ServiceAccount
}

// Problems lists what translation had to set aside in the Views given out for the
// newest Snapshot, in order of object and line.
func (c *Cache) Problems() []Problem {
	seen := map[Problem]bool{}
	note := func(list []Problem) {
		for _, p := range list {
			seen[p] = true
		}
	}
	for _, s := range c.scopes {
		if s.used != c.gen {
			continue
		}
		for list := range s.problems.Values() {
			note(list)
		}
	}
	for _, e := range c.edges {
		if e.used == c.gen {
			note(e.problems)
		}
	}
	for k, v := range c.views {
		if e, ok := k.own.(*edgeSet); ok && v.used == c.gen && k.strange && !k.unproven {
			note(e.withheld)
		}
		if in, ok := k.own.(*inboundSet); ok && v.used == c.gen {
			note(in.problems)
		}
		if v.used == c.gen && k.clients != nil {
			note(k.clients.problems)
			if k.strange && !k.unproven {
				note(k.clients.withheld)
			}
		}
	}
	return slices.SortedFunc(maps.Keys(seen), func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.Ref.Kind, b.Ref.Kind), strings.Compare(a.Ref.Namespace, b.Ref.Namespace),
			strings.Compare(a.Ref.Name, b.Ref.Name), cmp.Compare(a.Line, b.Line), strings.Compare(a.Text, b.Text))
	})
}
