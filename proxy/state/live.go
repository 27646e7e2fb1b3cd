package state

import (
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/demand"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/route"
	"github.com/weirmesh/weir/proxy/tcp"
	"github.com/weirmesh/weir/xds/ondemand"
	"github.com/weirmesh/weir/xds/resource"
)

// live is configuration on demand (docs/design/ondemand.md), as far as the Builder has a part
// in it. While view is not nil, what has come is not served before it can be: a virtual host
// or a table with its clusters, and those with their first load assignments, or told that
// there are none. What was served before serves until then.
type live struct {
	view   *demand.View
	absent map[string]map[string]bool // by type and name: asked for, and there is none
	served map[string]served          // by table
	waits  map[string]bool            // tables that do not serve all that has come
}

// served is what a table in use was made of.
type served struct {
	routes *routes
	hosts  map[string]*route.VirtualHost
}

// OnDemand begins configuration on demand, without an index at first, or ends it: what is held
// is all there is. It reports whether that is a change.
func (b *Builder) OnDemand(on bool) (*State, bool) {
	if on == (b.live.view != nil) {
		return b.cur, false
	}
	next := *b.cur
	next.Generation++
	b.live = live{}
	if on {
		b.begin()
	}
	next.view = b.live.view
	tables := map[string]*route.Table{}
	for name := range b.routes {
		tables[name] = nil
	}
	b.serve(&next, tables)
	b.cur = &next
	return &next, true
}

func (b *Builder) begin() {
	b.live = live{view: &demand.View{}, absent: map[string]map[string]bool{}, served: map[string]served{}, waits: map[string]bool{}}
}

// applyIndex takes shards of the index, all or none.
func (b *Builder) applyIndex(next *State, u Update) error {
	x := &ondemand.Index{}
	if v := b.live.view; v != nil && v.Index != nil {
		x = v.Index
	}
	var err error
	for _, r := range u.Set {
		if x, err = x.With(r.Name, r.Body.GetValue()); err != nil {
			return &RefusedError{[]string{r.Name}, err.Error()}
		}
	}
	for _, name := range u.Removed {
		if y, err := x.With(name, nil); err == nil { // else it never was there
			x = y
		}
	}
	if b.live.view == nil { // the first of what was kept
		b.begin()
	}
	b.live.view = &demand.View{Index: x, Absent: b.live.view.Absent}
	next.view = b.live.view
	return nil
}

// Restored says that what was kept of a former process is in place: what it held was live, so
// what it lacks did not exist.
func (b *Builder) Restored() {
	if b.live.view == nil {
		return
	}
	w := b.Wanted(nil)
	lacks := func(typeURL, name string) {
		if b.live.absent[typeURL] == nil {
			b.live.absent[typeURL] = map[string]bool{}
		}
		b.live.absent[typeURL][name] = true
	}
	for _, n := range w.Clusters {
		if b.specs[n] == nil {
			lacks(resource.ClusterType, n)
		}
	}
	for _, n := range w.Endpoints {
		if _, ok := b.endpoints[n]; !ok {
			lacks(resource.EndpointType, n)
		}
	}
	next := *b.cur
	next.Generation++
	b.enliven(&next)
	b.cur = &next
}

// account gives a resource on demand its Use, unless it has one.
func (b *Builder) account(u **demand.Use, typeURL, name string) {
	if b.live.view != nil && *u == nil {
		*u = b.opts.Demand.Use(demand.Key{TypeURL: typeURL, Name: name})
	}
}

// note keeps in mind what there is none of.
func (b *Builder) note(next *State, u Update) {
	if b.live.view == nil {
		return
	}
	m := b.live.absent[u.TypeURL]
	was := len(m)
	for _, r := range u.Set {
		delete(m, r.Name)
	}
	changed := was != len(m)
	if m == nil && len(u.Absent) > 0 {
		m = map[string]bool{}
		b.live.absent[u.TypeURL] = m
	}
	for _, n := range u.Absent {
		m[n], changed = true, true
	}
	if changed {
		b.show(next, u.TypeURL)
	}
}

// show makes a new View where absent names of this type are a part of it.
func (b *Builder) show(next *State, typeURL string) {
	if typeURL == resource.ListenerType || typeURL == resource.VirtualHostType {
		b.live.view = &demand.View{Index: b.live.view.Index, Absent: maps.Clone(b.live.absent[resource.ListenerType])}
		if b.live.view.Absent == nil {
			b.live.view.Absent = map[string]bool{}
		}
		maps.Copy(b.live.view.Absent, b.live.absent[resource.VirtualHostType])
		next.view = b.live.view
	}
}

// dead forgets tables that are gone.
func (b *Builder) dead(tables []string) {
	for _, name := range tables {
		delete(b.live.served, name)
		delete(b.live.waits, name)
	}
}

// serve puts tables, made of all that has come or nil, into next, as far as they are live.
func (b *Builder) serve(next *State, whole map[string]*route.Table) {
	tables := map[string]*route.Table{}
	for name, t := range whole {
		if t = b.table(name, t, next.tables[name]); t != nil {
			tables[name] = t
		}
	}
	next.tables = merged(next.tables, tables, nil)
}

// table is the table of that name as far as it is live; whole is that of all that has come, or
// nil, and was the one before.
func (b *Builder) table(name string, whole, was *route.Table) *route.Table {
	r := b.routes[name]
	if r.vhds && b.vhosts == nil {
		return was
	}
	make := func(s served) (*route.Table, error) { return s.routes.table(s.hosts) }
	now := served{r, b.vhosts[name]}
	if b.live.view != nil {
		before := b.live.served[name]
		waits := false
		if now, waits = b.ready(now, before); waits {
			b.live.waits[name] = true
			if now.routes == nil || now.routes == before.routes && maps.Equal(now.hosts, before.hosts) {
				return was
			}
			t, err := make(now)
			if err != nil { // the old and the new together are not possible: all the old, then
				return was
			}
			b.live.served[name] = now
			return t
		}
		delete(b.live.waits, name)
		b.live.served[name] = now
	}
	if whole == nil {
		whole, _ = make(now) // it was checked when it came
	}
	return whole
}

// ready is what of now is live, in the place of the rest what was before; waits reports
// whether there is a rest.
func (b *Builder) ready(now, before served) (out served, waits bool) {
	out.routes = now.routes
	for _, h := range now.routes.hosts {
		if now.routes != before.routes && !b.settledHost(h) {
			out.routes, waits = before.routes, true
			break
		}
	}
	missing := map[string]*route.VirtualHost{}
	for n, h := range now.hosts {
		if h != before.hosts[n] && !b.settledHost(h) {
			missing[n] = before.hosts[n]
		}
	}
	if out.hosts = now.hosts; len(missing) > 0 {
		waits = true
		out.hosts = maps.Clone(now.hosts)
		for n, h := range missing {
			if out.hosts[n] = h; h == nil {
				delete(out.hosts, n)
			}
		}
	}
	return out, waits
}

// enliven looks again at what waits.
func (b *Builder) enliven(next *State) {
	if len(b.live.waits) == 0 {
		return
	}
	tables := map[string]*route.Table{}
	for name := range b.live.waits {
		tables[name] = nil
	}
	b.serve(next, tables)
}

// Settled reports whether a listener can be served: its tables are there, and on demand the
// clusters of its chains too.
func (b *Builder) Settled(l *Listener) bool {
	if l.Config == nil {
		return false
	}
	for _, r := range l.Routes {
		if b.cur.Table(r) == nil && !b.live.absent[resource.RouteType][r] {
			return false
		}
	}
	if b.live.view != nil {
		for id := range clustersOf(l.Config) {
			if !b.settled(id) {
				return false
			}
		}
	}
	return true
}

// settled reports whether all is known of a cluster that is needed to use it, or that there
// is none.
func (b *Builder) settled(id cluster.ID) bool {
	name := b.idNames[id]
	switch s := b.specs[name]; {
	case s == nil:
		return b.live.absent[resource.ClusterType][name]
	case s.Awaited:
		return false
	case s.edsName != "":
		_, ok := b.endpoints[s.edsName]
		return ok || b.live.absent[resource.EndpointType][s.edsName]
	case len(s.Names) > 0:
		_, ok := b.resolved[name]
		return ok
	}
	return true
}

func (b *Builder) settledHost(h *route.VirtualHost) bool {
	for id := range clustersOfHost(h) {
		if !b.settled(id) {
			return false
		}
	}
	return true
}

// Awaits says of a listener or virtual host on demand whether it has come, whether a version
// of it is served (of a listener the caller knows), and what has to come before this one is.
func (b *Builder) Awaits(typeURL, name string) (come, served bool, missing []string) {
	var clusters iter.Seq[cluster.ID]
	switch typeURL {
	case resource.ListenerType:
		l := b.cur.listeners[name]
		if l == nil {
			return false, false, nil
		}
		for _, r := range l.Routes {
			if b.cur.Table(r) == nil && !b.live.absent[resource.RouteType][r] {
				missing = append(missing, "RDS "+r)
			}
		}
		if l.Config == nil {
			for _, n := range l.Secrets {
				missing = append(missing, "SDS "+n.Name)
			}
			for _, n := range l.Extensions {
				missing = append(missing, "ECDS "+n)
			}
			return true, false, missing
		}
		clusters = clustersOf(l.Config)
	case resource.VirtualHostType:
		table := name[:max(0, strings.LastIndexByte(name, '/'))]
		h := b.vhosts[table][name]
		served = b.live.served[table].hosts[name] != nil
		if h == nil {
			return false, served, nil
		}
		clusters = clustersOfHost(h)
	}
	for id := range clusters {
		if b.settled(id) {
			continue
		}
		m := "CDS " + b.idNames[id]
		if s := b.specs[b.idNames[id]]; s != nil && s.Awaited {
			m = "SDS of " + s.Name
		} else if s != nil {
			if m = "addresses of " + b.idNames[id]; s.edsName != "" {
				m = "EDS " + s.edsName
			}
		}
		if !slices.Contains(missing, m) {
			missing = append(missing, m)
		}
	}
	return true, served, missing
}

// Hosts are the virtual hosts that have come, by name.
func (b *Builder) Hosts() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, m := range b.vhosts {
			for n := range m {
				if !yield(n) {
					return
				}
			}
		}
	}
}

// clustersOfHost are the clusters that a virtual host names.
func clustersOfHost(h *route.VirtualHost) iter.Seq[cluster.ID] {
	return func(yield func(cluster.ID) bool) {
		for _, e := range h.Entries {
			if e.Forward == nil {
				continue
			}
			for i := range e.Forward.Clusters {
				if e.Forward.Clusters[i].Header == "" && !yield(e.Forward.Clusters[i].Cluster) {
					return
				}
			}
			for i := range e.Forward.Mirrors {
				if e.Forward.Mirrors[i].Header == "" && !yield(e.Forward.Mirrors[i].Cluster) {
					return
				}
			}
		}
	}
}

// askedBy are the clusters that filters of a listener ask: those of inbound listeners that come by no other way.
func askedBy(c *listener.Config) iter.Seq[cluster.ID] {
	return func(yield func(cluster.ID) bool) {
		for _, ch := range append(slices.Clip(c.Chains), c.Default) {
			if ch == nil {
				continue
			}
			switch f := ch.Filters.(type) {
			case *http.Config:
				for _, id := range f.Asks {
					if !yield(id) {
						return
					}
				}
			case *tcp.Config:
				for _, k := range f.Asks {
					if !yield(k.Cluster) {
						return
					}
				}
			}
		}
	}
}

// clustersOf are the clusters that a listener names itself.
func clustersOf(c *listener.Config) iter.Seq[cluster.ID] {
	return func(yield func(cluster.ID) bool) {
		for _, ch := range append(slices.Clip(c.Chains), c.Default) {
			if ch == nil {
				continue
			}
			switch f := ch.Filters.(type) {
			case *tcp.Config:
				for _, x := range f.Clusters {
					if !yield(x.Cluster) {
						return
					}
				}
				for _, k := range f.Asks {
					if !yield(k.Cluster) {
						return
					}
				}
			case *http.Config:
				for _, id := range f.Asks {
					if !yield(id) {
						return
					}
				}
				if f.Table == nil {
					continue
				}
				for _, h := range f.Table.Hosts() {
					for id := range clustersOfHost(h) {
						if !yield(id) {
							return
						}
					}
				}
			}
		}
	}
}

// Wanted are the names to subscribe to, sorted.
type Wanted struct {
	Clusters  []string // on demand only: otherwise they come by themselves
	Endpoints []string // load assignments of EDS clusters
	Routes    []string // tables of RDS listeners
	Secrets   []SecretName
	// Extensions are configurations of filters (ECDS).
	Extensions []string
}

// Wanted lists what the state asks for by name, and what the listeners do that are in use.
func (b *Builder) Wanted(active map[string]*Listener) Wanted {
	var w Wanted
	for _, s := range b.specs {
		if s.edsName != "" {
			w.Endpoints = append(w.Endpoints, s.edsName)
		}
		w.Secrets = append(w.Secrets, s.secrets...)
	}
	cds := map[cluster.ID]bool{}
	hosts := func(list iter.Seq[*route.VirtualHost]) {
		for h := range list {
			for id := range clustersOfHost(h) {
				cds[id] = true
			}
		}
	}
	for _, set := range []map[string]*Listener{b.cur.listeners, active} {
		for _, l := range set {
			w.Routes = append(w.Routes, l.Routes...)
			w.Secrets = append(w.Secrets, l.Secrets...)
			w.Extensions = append(w.Extensions, l.Extensions...)
			if b.live.view == nil || l.Config == nil {
				continue
			}
			if l.Config.Direction == listener.Outbound {
				for id := range clustersOf(l.Config) {
					cds[id] = true
				}
			} else {
				for id := range askedBy(l.Config) {
					cds[id] = true
				}
			}
		}
	}
	if b.live.view != nil {
		for _, r := range b.routes {
			hosts(slices.Values(r.hosts))
		}
		for _, m := range b.vhosts {
			hosts(maps.Values(m))
		}
		for name := range b.live.waits {
			s := b.live.served[name]
			if hosts(maps.Values(s.hosts)); s.routes != nil {
				hosts(slices.Values(s.routes.hosts))
			}
		}
	}
	for id := range cds {
		w.Clusters = append(w.Clusters, b.idNames[id])
	}
	for _, list := range []*[]string{&w.Clusters, &w.Endpoints, &w.Routes, &w.Extensions} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	slices.SortFunc(w.Secrets, SecretName.compare)
	w.Secrets = slices.Compact(w.Secrets)
	return w
}

// Forget drops what is not subscribed to any more: there is no removal for it from the
// server, but for what a wildcard might mean. Of that only is forgotten that there was none.
func (b *Builder) Forget(typeURL string, from Server, names []string) *State {
	next := *b.cur
	switch typeURL {
	case resource.EndpointType:
		for _, n := range names {
			delete(b.endpoints, n)
		}
	case resource.SecretType:
		for _, n := range names {
			delete(b.secrets, SecretName{from, n})
			delete(b.noSecret, SecretName{from, n})
		}
	case resource.ExtensionConfigType:
		b.extensions = merged(b.extensions, nil, names)
		for _, n := range names {
			delete(b.noExtension, n)
		}
	case resource.RouteType:
		next.tables = merged(next.tables, nil, names)
		b.routes = merged(b.routes, nil, names)
		b.dead(names)
	}
	if m := b.live.absent[typeURL]; m != nil {
		for _, n := range names {
			delete(m, n)
		}
		b.show(&next, typeURL)
	}
	b.cur = &next
	return &next
}
