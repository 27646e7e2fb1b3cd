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
	snap  *mesh.Snapshot
	gen   uint64 // counts Snapshots
	// edgeGen is when what gateways are made of changed last.
	edgeGen uint64

	services map[mesh.Key]*service
	renewed  []*service // by the last change
	scopes   map[scopeKey]*scope
	inbounds map[string]*inboundSet
	own      map[string]*resource.Resource // of inbounds, by version
	edges    map[string]*edgeSet
	views    map[viewKey]*view

	lists    map[string][]*mesh.Service // see listing
	listsGen uint64

	// log[g%len(log)] is what generation g changed: a scope that was not looked at for
	// a while catches up with it.
	log [64]*change
}

// New returns an empty Cache.
func New() *Cache {
	return &Cache{index: newIndex(), services: map[mesh.Key]*service{}, scopes: map[scopeKey]*scope{},
		inbounds: map[string]*inboundSet{}, own: map[string]*resource.Resource{}, edges: map[string]*edgeSet{}, views: map[viewKey]*view{}}
}

// viewKey is equal for nodes that get the same View.
type viewKey struct {
	scope *scope
	own   any // *inboundSet or *edgeSet
	dns   bool
	form  form
	known *Learned
	// unproven: without secrets
	unproven bool
}

type view struct {
	*resource.View
	parts parts // it was made of
	used  uint64
}

// View returns what n gets under snap. Snapshots may come in any order, but each that
// differs from the one before costs its differences.
func (c *Cache) View(snap *mesh.Snapshot, n *Node) *resource.View {
	c.follow(snap)
	labels := c.labels(n)
	s := c.scope(n, labels)
	key := viewKey{scope: s, dns: n.DNS, form: n.form(), known: n.Learned, unproven: n.Unproven}
	var add func(map[string]resource.Set)
	if n.Type == Router {
		e := c.edge(n, labels, s)
		key.own, add = e, e.addTo
	} else {
		in := c.inbound(n, labels)
		key.own, add = in, in.addTo
	}
	v := c.views[key]
	parts := s.parts(c, n)
	switch {
	case v == nil || !sameSets(parts, v.parts):
		v = &view{View: &resource.View{Version: snap.Version, Sets: map[string]resource.Set{
			resource.ClusterType:  parts[0],
			resource.EndpointType: parts[1],
			resource.ListenerType: parts[2],
			resource.RouteType:    parts[3],
		}}, parts: parts}
		if n.form() != whole {
			v.Sets[resource.VirtualHostType] = parts[4]
		}
		if n.DNS {
			v.Sets[resource.NameTableType] = parts[5]
		}
		if n.OnDemand {
			v.Sets[resource.IndexType] = parts[6]
			v.Wild = s.unasked(n.Learned, v.View, add)
		}
		add(v.View.Sets)
		if n.Unproven {
			delete(v.Sets, resource.SecretType)
		}
		c.views[key] = v
	case v.Version != snap.Version:
		v = &view{View: &resource.View{Version: snap.Version, Sets: v.Sets, Wild: v.Wild}, parts: parts}
		c.views[key] = v
	}
	v.used, s.used = c.gen, c.gen
	return v.View
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
	s := mesh.Settings{DefaultRetries: mesh.RetryPolicy{Attempts: 2, RetryOn: defaultRetryOn, IgnorePreviousHosts: true}}
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
		c.base = newBase(s, c.gen)
	}
	if changed.base || len(changed.authn) > 0 {
		b := *c.base
		b.authn = newAuthn(b.settings.RootNamespace, snap.PeerAuths)
		c.base = &b
	}
	if changed.base {
		for host := range c.index.hosts {
			changed.mark(host, dirtyAll)
		}
	}
	if changed.base || changed.edges {
		c.edgeGen = c.gen
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
}

// labels are the workload's as the registry knows them, else as the node says.
func (c *Cache) labels(n *Node) mesh.Labels {
	if w := c.snap.Workloads.At(mesh.NewKey(n.Namespace, n.Name)); w != nil {
		return w.Labels
	}
	return n.Labels
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
		for _, t := range s.tenants {
			note(t.problems)
		}
	}
	for _, e := range c.edges {
		if e.used == c.gen {
			note(e.problems)
		}
	}
	return slices.SortedFunc(maps.Keys(seen), func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.Ref.Kind, b.Ref.Kind), strings.Compare(a.Ref.Namespace, b.Ref.Namespace),
			strings.Compare(a.Ref.Name, b.Ref.Name), cmp.Compare(a.Line, b.Line), strings.Compare(a.Text, b.Text))
	})
}
