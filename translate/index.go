package translate

import (
	"maps"
	"slices"
	"strings"

	"github.com/weirmesh/weir/mesh"
)

// index holds what is looked up in a Snapshot other than by key. It follows a Snapshot
// by differences, so that its upkeep costs what changed. Slices in it are replaced, not
// changed: others hold on to them and compare them.
type index struct {
	snap *mesh.Snapshot

	hosts        map[string][]*mesh.Service // by hostname, the most authoritative first
	inNamespace  map[string][]*mesh.Service // those that select workloads
	virtuals     map[mesh.Key]*virtual
	byGateway    map[string][]*virtual              // by gateway they are bound to, mesh included; oldest first
	byHost       map[string][]*virtual              // those bound to the mesh, by host; oldest first
	byTarget     map[string]map[mesh.Key]bool       // VirtualServices by host they route to
	delegators   map[mesh.Key]map[mesh.Key]bool     // by VirtualService they delegate to
	rules        map[hostIn][]*mesh.DestinationRule // oldest first
	instances    map[mesh.Key]map[mesh.Key]bool     // by workload: services it is an endpoint of
	selectors    map[string]selectorUse             // of clients, by canonical form
	sidecars     map[string][]*mesh.Sidecar         // by namespace, oldest first
	credentialed map[*mesh.DestinationRule]bool     // that name Secrets
	located      int                                // how many times DestinationRules prefer localities
	preferred    map[string]int                     // labels by which they do, and how many times
	sessions     int                                // how many services have sessions
	zoned        int                                // how many times they divide among zones by capacity
}

// hostIn is a host (or wildcard) and the namespace of the rule that speaks about it.
type hostIn struct{ namespace, host string }

// selectorUse is a label selector that some rule uses to pick clients, and how often.
type selectorUse struct {
	labels mesh.Labels
	uses   int
}

func newIndex() *index {
	return &index{
		snap: &mesh.Snapshot{}, hosts: map[string][]*mesh.Service{}, inNamespace: map[string][]*mesh.Service{},
		virtuals: map[mesh.Key]*virtual{}, byGateway: map[string][]*virtual{}, byHost: map[string][]*virtual{},
		byTarget: map[string]map[mesh.Key]bool{}, delegators: map[mesh.Key]map[mesh.Key]bool{}, rules: map[hostIn][]*mesh.DestinationRule{},
		instances: map[mesh.Key]map[mesh.Key]bool{}, selectors: map[string]selectorUse{}, sidecars: map[string][]*mesh.Sidecar{}, preferred: map[string]int{}, credentialed: map[*mesh.DestinationRule]bool{},
	}
}

// canonical is equal for equal labels.
func canonical(l mesh.Labels) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(l)) {
		b.WriteString(k + "\x00" + l[k] + "\x00")
	}
	return b.String()
}

// dirt says which part of what is built of a host must be built again.
type dirt uint8

const (
	dirtyClusters dirt = 1 << iota
	dirtyHosts
	dirtyDoors
	dirtyAll = dirtyClusters | dirtyHosts | dirtyDoors
)

// change is what differs between two Snapshots, for those who built on the first.
type change struct {
	hosts    map[string]dirt
	reached  map[string]bool   // hosts that other VirtualServices lead to than before
	services map[mesh.Key]bool // whose object or endpoints changed
	edges    bool              // what gateways are made of, other than endpoints
	base     bool              // Settings, or whether any service has sessions
	secrets  bool              // some Secret
	authn    map[string]bool   // namespaces of PeerAuthentications
	authz    bool              // AuthorizationPolicies, RequestAuthentications, key sets
}

func (c *change) mark(host string, d dirt) { c.hosts[host] |= d }

// pattern marks a host, or all known hosts a wildcard covers.
func (x *index) pattern(c *change, host string, d dirt) {
	c.mark(host, d)
	if !isWildcard(host) {
		return
	}
	for h := range x.hosts {
		if covers(host, h) {
			c.mark(h, d)
		}
	}
	for h := range x.byHost {
		if covers(host, h) {
			c.mark(h, d)
		}
	}
}

func same[P comparable](a, b P) bool { return a == b }

// follow brings the index to snap and says what changed.
func (x *index) follow(snap *mesh.Snapshot) *change {
	old := x.snap
	c := &change{hosts: map[string]dirt{}, reached: map[string]bool{}, services: map[mesh.Key]bool{}, authn: map[string]bool{}}

	hadSessions := x.sessions > 0
	stale := map[mesh.Key]bool{} // VirtualServices to be looked at again
	for key := range snap.Services.Diff(old.Services, same) {
		x.swapService(c, old.Services.At(key), snap.Services.At(key))
		c.services[key], c.edges = true, true
	}
	for key := range snap.VirtualServices.Diff(old.VirtualServices, same) {
		stale[key] = true
		for root := range x.delegators[key] {
			stale[root] = true
		}
		c.edges = true
	}
	// A VirtualService that routes to a service without naming a port depends on it.
	for key := range c.services {
		_, host := key.Split()
		for v := range x.byTarget[host] {
			stale[v] = true
		}
	}
	for _, key := range slices.Sorted(maps.Keys(stale)) {
		x.swapVirtual(c, key, snap.VirtualServices.At(key), func(k mesh.Key) *mesh.VirtualService { return snap.VirtualServices.At(k) })
	}
	for key := range snap.DestinationRules.Diff(old.DestinationRules, same) {
		x.swapRule(c, old.DestinationRules.At(key), snap.DestinationRules.At(key))
	}
	for key := range snap.Endpoints.Diff(old.Endpoints, same) {
		x.swapEndpoints(key, old.Endpoints.At(key), snap.Endpoints.At(key))
		c.services[key] = true
		_, host := key.Split()
		d := dirtyClusters
		if s := snap.Services.At(key); s != nil && len(s.Addresses) == 0 {
			d |= dirtyDoors
		}
		c.mark(host, d)
	}
	c.authz = !snap.Authorizations.Same(old.Authorizations) || !snap.RequestAuths.Same(old.RequestAuths) || !snap.KeySets.Same(old.KeySets)
	c.secrets = !snap.Secrets.Same(old.Secrets)
	if c.authz || !snap.Gateways.Same(old.Gateways) || !snap.Secrets.Same(old.Secrets) {
		c.edges = true
	}
	for key := range snap.PeerAuths.Diff(old.PeerAuths, same) {
		ns, _ := key.Split()
		c.authn[ns] = true
	}
	for key := range snap.Sidecars.Diff(old.Sidecars, same) {
		x.swapSidecar(old.Sidecars.At(key), snap.Sidecars.At(key))
	}
	c.base = snap.Settings != old.Settings || (x.sessions > 0) != hadSessions
	x.markAuthn(c, snap)
	x.snap = snap
	return c
}

// markAuthn marks the services with endpoints in namespaces whose policy changed: their
// clients must know.
func (x *index) markAuthn(c *change, snap *mesh.Snapshot) {
	if len(c.authn) == 0 {
		return
	}
	everywhere := c.authn[settingsOf(snap).RootNamespace]
	for workload, services := range x.instances {
		if ns, _ := workload.Split(); everywhere || c.authn[ns] {
			for key := range services {
				_, host := key.Split()
				c.mark(host, dirtyClusters)
				c.services[key] = true
			}
		}
	}
}

// insert returns list with v at its place in the order of compare.
func insert[E any](list []E, v E, compare func(a, b E) int) []E {
	i, _ := slices.BinarySearchFunc(list, v, compare)
	return slices.Insert(slices.Clip(slices.Clone(list)), i, v)
}

// remove returns list without the first element is holds for.
func remove[E any](list []E, is func(E) bool) []E {
	i := slices.IndexFunc(list, is)
	if i < 0 {
		return list
	}
	return slices.Concat(list[:i], list[i+1:])
}

// put keeps maps free of empty lists.
func put[K comparable, E any](m map[K][]E, k K, list []E) {
	if len(list) == 0 {
		delete(m, k)
		return
	}
	m[k] = list
}

func (x *index) swapService(c *change, old, now *mesh.Service) {
	if old != nil {
		is := func(s *mesh.Service) bool { return s == old }
		put(x.hosts, old.Hostname, remove(x.hosts[old.Hostname], is))
		put(x.inNamespace, old.Namespace, remove(x.inNamespace[old.Namespace], is))
		c.mark(old.Hostname, dirtyAll)
		if s, _ := sessionOf(old); s != (session{}) && old.Hostname != "" {
			x.sessions--
		}
	}
	if now != nil && now.Hostname != "" {
		put(x.hosts, now.Hostname, insert(x.hosts[now.Hostname], now, mesh.Authority))
		if len(now.Selector) > 0 {
			put(x.inNamespace, now.Namespace, insert(x.inNamespace[now.Namespace], now, mesh.Authority))
		}
		c.mark(now.Hostname, dirtyAll)
		if s, _ := sessionOf(now); s != (session{}) {
			x.sessions++
		}
	}
}

func oldestVirtual(a, b *virtual) int { return mesh.Older(&a.Ref, &b.Ref) }

func (x *index) swapVirtual(c *change, key mesh.Key, now *mesh.VirtualService, find func(mesh.Key) *mesh.VirtualService) {
	if old := x.virtuals[key]; old != nil {
		is := func(v *virtual) bool { return v == old }
		delete(x.virtuals, key)
		gateways := old.boundTo()
		for _, g := range gateways {
			put(x.byGateway, g, remove(x.byGateway[g], is))
		}
		if slices.Contains(gateways, mesh.Mesh) {
			for _, h := range old.hosts() {
				x.pattern(c, h, dirtyHosts|dirtyDoors)
				put(x.byHost, h, remove(x.byHost[h], is))
			}
		}
		for h := range old.targets() {
			c.reached[h] = true
			delete(x.byTarget[h], key)
			if len(x.byTarget[h]) == 0 {
				delete(x.byTarget, h)
			}
		}
		old.selectors(func(l mesh.Labels) { x.useSelector(canonical(l), l, -1) })
		for _, d := range old.delegates {
			delete(x.delegators[d], key)
			if len(x.delegators[d]) == 0 {
				delete(x.delegators, d)
			}
		}
	}
	if now == nil {
		return
	}
	v := &virtual{destinations: map[string]*mesh.Service{}, delegates: now.Delegates()}
	v.VirtualService, _ = now.Delegated(find)
	for _, d := range v.delegates {
		if x.delegators[d] == nil {
			x.delegators[d] = map[mesh.Key]bool{}
		}
		x.delegators[d][key] = true
	}
	for h := range v.targets() {
		c.reached[h] = true
		if x.byTarget[h] == nil {
			x.byTarget[h] = map[mesh.Key]bool{}
		}
		x.byTarget[h][key] = true
		if s := x.service(h, &mesh.Sight{Namespace: now.Ref.Namespace}); s != nil {
			v.destinations[h] = s
		}
	}
	v.selectors(func(l mesh.Labels) {
		v.sourced = true
		x.useSelector(canonical(l), l, 1)
	})
	v.sourced = v.sourced || v.namesClients()
	x.virtuals[key] = v
	gateways := v.boundTo()
	for _, g := range gateways {
		put(x.byGateway, g, insert(x.byGateway[g], v, oldestVirtual))
	}
	if slices.Contains(gateways, mesh.Mesh) {
		for _, h := range v.hosts() {
			put(x.byHost, h, insert(x.byHost[h], v, oldestVirtual))
			x.pattern(c, h, dirtyHosts|dirtyDoors)
		}
	}
}

// virtualFor is the VirtualService that speaks for host to viewers: of those they see with
// the most specific matching host the oldest. pattern is that host.
func (x *index) virtualFor(host string, seen *mesh.Sight) (v *virtual, pattern string) {
	find := func(p string) bool {
		for _, c := range x.byHost[p] {
			if seen.SeesRules(c.VirtualService) {
				v, pattern = c, p
				return false
			}
		}
		return true
	}
	if find(host) {
		mesh.Wider(host, find)
	}
	return v, pattern
}

func (x *index) useSelector(id string, l mesh.Labels, n int) {
	u := x.selectors[id]
	u.labels = l
	if u.uses += n; u.uses <= 0 {
		delete(x.selectors, id)
		return
	}
	x.selectors[id] = u
}

// useLocalities counts what a rule says about localities n times.
func (x *index) useLocalities(r *mesh.DestinationRule, n int) {
	for p := range localities(r) {
		x.located += n
		if p.ZonesFrom > 0 {
			x.zoned += n
		}
		for _, l := range p.Priority {
			if x.preferred[l.Label] += n; x.preferred[l.Label] == 0 {
				delete(x.preferred, l.Label)
			}
		}
	}
}

func (x *index) swapRule(c *change, old, now *mesh.DestinationRule) {
	if old != nil {
		x.useLocalities(old, -1)
		delete(x.credentialed, old)
		at := hostIn{old.Ref.Namespace, old.Host}
		put(x.rules, at, remove(x.rules[at], func(r *mesh.DestinationRule) bool { return r == old }))
		if len(old.WorkloadSelector) > 0 {
			x.useSelector(canonical(old.WorkloadSelector), old.WorkloadSelector, -1)
		}
		x.markSubsets(c, old.Host)
		x.pattern(c, old.Host, dirtyClusters|dirtyDoors)
	}
	if now != nil {
		x.useLocalities(now, 1)
		if len(credentialsOf(now)) > 0 {
			x.credentialed[now] = true
		}
		at := hostIn{now.Ref.Namespace, now.Host}
		put(x.rules, at, insert(x.rules[at], now, func(a, b *mesh.DestinationRule) int { return mesh.Older(&a.Ref, &b.Ref) }))
		if len(now.WorkloadSelector) > 0 {
			x.useSelector(canonical(now.WorkloadSelector), now.WorkloadSelector, 1)
		}
		x.markSubsets(c, now.Host)
		x.pattern(c, now.Host, dirtyClusters|dirtyDoors)
	}
}

// markSubsets has the hosts looked at again from which VirtualServices lead to host: clients without proxy are told to go
// to no subset that is not there. Nothing that is built of them for others is built again.
func (x *index) markSubsets(c *change, host string) {
	mark := func(from map[mesh.Key]bool) {
		for key := range from {
			for _, h := range x.virtuals[key].hosts() {
				x.pattern(c, h, 0)
			}
		}
	}
	mark(x.byTarget[host])
	if isWildcard(host) {
		for to, from := range x.byTarget {
			if covers(host, to) {
				mark(from)
			}
		}
	}
}

// rulesFor are the DestinationRules for a service as its client sees them.
func (x *index) rulesFor(s *mesh.Service, a *audience, root string) []*mesh.DestinationRule {
	c := mesh.Client{Namespace: a.namespace, Has: func(selector mesh.Labels) bool { return a.satisfied[canonical(selector)] }}
	return c.Rules(s, root, func(namespace, host string) []*mesh.DestinationRule { return x.rules[hostIn{namespace, host}] })
}

func (x *index) swapEndpoints(key mesh.Key, old, now *mesh.EndpointSet) {
	for w := range workloadsOf(old) {
		delete(x.instances[w], key)
		if len(x.instances[w]) == 0 {
			delete(x.instances, w)
		}
	}
	for w := range workloadsOf(now) {
		if x.instances[w] == nil {
			x.instances[w] = map[mesh.Key]bool{}
		}
		x.instances[w][key] = true
	}
}

func workloadsOf(e *mesh.EndpointSet) map[mesh.Key]bool {
	out := map[mesh.Key]bool{}
	if e == nil {
		return out
	}
	for _, list := range e.Ports {
		for i := range list {
			if w := list[i].Workload; w != nil {
				out[w.Key()] = true
			}
		}
	}
	return out
}
