package analyze

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/internal/persist"
	"github.com/weirmesh/weir/mesh"
)

// analysis is all parts, and the indexes in which they find things.
type analysis struct {
	Input
	parts  map[subject]*part
	things map[thing]*seen
	due    map[*part]struct{}
	doing  *part
	texts  map[string]*text // by config.ID.String()
	told   map[*part]struct{}
	stale  bool // all is
	all    []config.Finding

	hosts      index[string, *mesh.Service]
	names      []string                     // of all hosts; nil if they are to be collected
	services   index[string, *mesh.Service] // by namespace
	meshHosts  index[string, *mesh.VirtualService]
	delegators index[mesh.Key, *mesh.VirtualService]
	bound      index[binding, *mesh.VirtualService]
	rules      index[string, *mesh.DestinationRule] // in force, by host
	wildRules  []*mesh.DestinationRule
	ruleHosts  index[place, *mesh.DestinationRule]
	ports      index[uint16, *mesh.Gateway]
	policies   index[string, *mesh.PeerAuthentication] // in force, by namespace
	auths      index[string, *mesh.RequestAuthentication]
	sidecars   index[string, *mesh.Sidecar] // by namespace
	labelled   index[pair, *instance]
	instances  map[instanceID]*instance
}

type (
	binding struct{ gateway, host string }
	place   struct{ namespace, host string }
)

// instance is a workload that runs or will run.
type instance struct {
	id               instanceID
	namespace        string
	labels           mesh.Labels
	ports            map[string]uint16 // named; nil of a kind that has no names
	entry            bool              // a WorkloadEntry
	proxied, settled bool              // of what runs, as in mesh.Workload
	owner            string
}

// port is the one of the workload that a service's port leads to.
func (i *instance) port(p mesh.Port) uint16 {
	switch {
	case p.TargetName != "":
		return i.ports[p.TargetName]
	case p.Target == 0:
		return p.Number
	}
	return p.Target
}

// instanceID orders instances: those that run, those assumed, those deployed.
type instanceID struct {
	from instanceSource
	key  string
}

type instanceSource uint8

const (
	running instanceSource = iota
	assumed
	deployed
)

// pair is a label in a namespace ("" is all); without key everything there.
type pair struct{ namespace, key, value string }

// index is what is found by a key, in a fixed order.
type index[K comparable, V comparable] map[K][]V

// replace puts now in the place of was; the zero values are nothing.
func (x index[K, V]) replace(k K, was, now V, order func(a, b V) int) {
	var none V
	list := x[k]
	if was != none {
		list = slices.DeleteFunc(list, func(v V) bool { return v == was })
	}
	if now != none {
		at, _ := slices.BinarySearchFunc(list, now, order)
		list = slices.Insert(list, at, now)
	}
	if len(list) == 0 {
		delete(x, k)
	} else {
		x[k] = list
	}
}

func newAnalysis(in Input) *analysis {
	a := &analysis{
		parts: map[subject]*part{}, things: map[thing]*seen{}, due: map[*part]struct{}{}, texts: map[string]*text{}, told: map[*part]struct{}{},
		hosts: index[string, *mesh.Service]{}, services: index[string, *mesh.Service]{},
		meshHosts: index[string, *mesh.VirtualService]{}, delegators: index[mesh.Key, *mesh.VirtualService]{}, bound: index[binding, *mesh.VirtualService]{},
		rules: index[string, *mesh.DestinationRule]{}, ruleHosts: index[place, *mesh.DestinationRule]{}, ports: index[uint16, *mesh.Gateway]{},
		policies: index[string, *mesh.PeerAuthentication]{}, auths: index[string, *mesh.RequestAuthentication]{}, sidecars: index[string, *mesh.Sidecar]{},
		labelled: index[pair, *instance]{}, instances: map[instanceID]*instance{},
	}
	a.Snapshot = &mesh.Snapshot{}
	for i, w := range in.Assume {
		a.instance(instanceID{assumed, strconv.Itoa(i)}, instanceOf(w))
	}
	return a
}

// update brings indexes and parts up to in.
func (a *analysis) update(in Input) {
	was := a.Input
	a.Input = in
	now, old := in.Snapshot, was.Snapshot
	each(old.Services, now.Services, a.tookService)
	each(old.VirtualServices, now.VirtualServices, a.tookVirtualService)
	each(old.DestinationRules, now.DestinationRules, a.tookRule)
	each(old.Gateways, now.Gateways, a.tookGateway)
	each(old.PeerAuths, now.PeerAuths, a.tookPolicy)
	each(old.RequestAuths, now.RequestAuths, a.tookAuth)
	each(old.Authorizations, now.Authorizations, func(k mesh.Key, was, now *mesh.AuthorizationPolicy) {
		if was != nil && was.Action == mesh.AuthorizationCustom || now != nil && now.Action == mesh.AuthorizationCustom {
			a.again(custom, string(k), "")
		}
	})
	each(old.Sidecars, now.Sidecars, a.tookSidecar)
	each(old.Workloads, now.Workloads, func(k mesh.Key, _, w *mesh.Workload) {
		var i *instance
		if w != nil {
			i = instanceOf(w)
		}
		a.instance(instanceID{running, string(k)}, i)
	})
	for id := range in.Objects.Since(was.Objects) {
		a.changed(thing{kind: anObject, a: id})
		o, lowered := in.Objects.At(id)
		if o == nil {
			delete(a.texts, id)
		}
		a.tookDeployment(id, lowered)
		if n, ok := lowered.(*corev1.Namespace); ok {
			a.again(injection, n.Name, "")
		}
	}
	for id := range in.Facts.Since(was.Facts) {
		a.changed(thing{kind: anObject, a: id})
	}
	for id := range in.Outside.Diff(was.Outside, func(x, y mesh.Ref) bool { return x == y }) {
		a.again(outsider, id, "")
	}
	a.do()
}

// each calls f for what is another value than before; nil is none.
func each[V any](was, now persist.Map[mesh.Key, *V], f func(k mesh.Key, was, now *V)) {
	for k := range now.Diff(was, func(x, y *V) bool { return x == y }) {
		f(k, was.At(k), now.At(k))
	}
}

// leaveAndEnter has one take was out of the places was names and put now into those now names.
func leaveAndEnter[V any](was, now *V, one func(of, was, now *V)) {
	if was != nil {
		one(was, was, nil)
	}
	if now != nil {
		one(now, nil, now)
	}
}

func byKey(x, y *mesh.Service) int { return strings.Compare(string(x.Key()), string(y.Key())) }

// older compares ages; of equals the first in order of keys counts as older.
func older(x, y mesh.Ref) int {
	return cmp.Or(cmp.Compare(x.Created, y.Created), strings.Compare(string(mesh.NewKey(x.Namespace, x.Name)), string(mesh.NewKey(y.Namespace, y.Name))))
}

func (a *analysis) tookService(k mesh.Key, was, now *mesh.Service) {
	one := func(s *mesh.Service, was, now *mesh.Service) {
		n := len(a.hosts)
		a.hosts.replace(s.Hostname, was, now, byKey)
		a.services.replace(s.Namespace, was, now, byKey)
		if len(a.hosts) != n {
			a.names = nil
			a.changed(thing{kind: hostNames})
		}
		a.changed(thing{kind: servicesOf, a: s.Hostname})
		a.changed(thing{kind: servicesIn, a: s.Namespace})
	}
	if was != nil && now != nil { // of the same key, and so of the same names
		one(now, was, now)
	} else {
		leaveAndEnter(was, now, one)
	}
	a.changed(thing{kind: aService, a: string(k)})
	a.changed(thing{kind: allServices})
	a.again(service, string(k), "")
}

func (a *analysis) tookVirtualService(k mesh.Key, was, now *mesh.VirtualService) {
	order := func(x, y *mesh.VirtualService) int { return older(x.Ref, y.Ref) }
	one := func(v *mesh.VirtualService, was, now *mesh.VirtualService) {
		for i := range v.HTTP {
			if to := v.HTTP[i].Action.Delegate; to != "" {
				a.delegators.replace(to, was, now, order)
				a.changed(thing{kind: delegatorsOf, a: string(to)})
			}
		}
		for _, h := range slices.Compact(slices.Sorted(slices.Values(v.Hosts))) {
			for _, g := range slices.Compact(slices.Sorted(slices.Values(v.Gateways))) {
				if g == mesh.Mesh {
					a.meshHosts.replace(h, was, now, order)
					a.again(meshHost, h, "")
				} else {
					a.bound.replace(binding{g, h}, was, now, order)
					a.again(gatewayHost, h, g)
				}
			}
		}
	}
	leaveAndEnter(was, now, one)
	a.changed(thing{kind: aVirtualService, a: string(k)})
	a.changed(thing{kind: allVirtualServices})
	a.again(virtualService, string(k), "")
}

func (a *analysis) tookRule(k mesh.Key, was, now *mesh.DestinationRule) {
	order := func(x, y *mesh.DestinationRule) int { return older(x.Ref, y.Ref) }
	inOrder := func(x, y *mesh.DestinationRule) int {
		return strings.Compare(string(mesh.NewKey(x.Ref.Namespace, x.Ref.Name)), string(mesh.NewKey(y.Ref.Namespace, y.Ref.Name)))
	}
	one := func(r *mesh.DestinationRule, was, now *mesh.DestinationRule) {
		if r.Refused { // it has a finding that says more
			return
		}
		a.rules.replace(r.Host, was, now, inOrder)
		a.changed(thing{kind: rulesFor, a: r.Host})
		if strings.HasPrefix(r.Host, "*") {
			wild := index[bool, *mesh.DestinationRule]{true: a.wildRules}
			wild.replace(true, was, now, inOrder)
			a.wildRules = wild[true]
			a.changed(thing{kind: wildRules})
		}
		if len(r.WorkloadSelector) == 0 && !r.Visible.Limited { // else not for the same clients
			a.ruleHosts.replace(place{r.Ref.Namespace, r.Host}, was, now, order)
			a.again(ruleHost, r.Host, r.Ref.Namespace)
		}
	}
	leaveAndEnter(was, now, one)
	a.again(destinationRule, string(k), "")
}

func (a *analysis) tookGateway(k mesh.Key, was, now *mesh.Gateway) {
	one := func(g *mesh.Gateway, was, now *mesh.Gateway) {
		for _, s := range g.Servers {
			if now == nil || !slices.Contains(a.ports[s.Port], now) {
				a.ports.replace(s.Port, was, now, func(x, y *mesh.Gateway) int { return older(x.Ref, y.Ref) })
			}
			a.again(gatewayPort, strconv.Itoa(int(s.Port)), "")
		}
	}
	leaveAndEnter(was, now, one)
	a.changed(thing{kind: aGateway, a: string(k)})
	a.changed(thing{kind: allGateways})
	a.again(gateway, string(k), "")
}

func (a *analysis) tookPolicy(_ mesh.Key, was, now *mesh.PeerAuthentication) {
	one := func(p *mesh.PeerAuthentication, was, now *mesh.PeerAuthentication) {
		if p.Refused {
			return
		}
		a.policies.replace(p.Home(), was, now, func(x, y *mesh.PeerAuthentication) int { return older(x.Ref, y.Ref) })
		a.changed(thing{kind: policiesIn, a: p.Home()})
		a.again(policies, p.Home(), "")
	}
	leaveAndEnter(was, now, one)
}

func (a *analysis) tookAuth(_ mesh.Key, was, now *mesh.RequestAuthentication) {
	leaveAndEnter(was, now, func(r *mesh.RequestAuthentication, was, now *mesh.RequestAuthentication) {
		a.auths.replace(r.Home(), was, now, func(x, y *mesh.RequestAuthentication) int { return older(x.Ref, y.Ref) })
		a.changed(thing{kind: authsIn, a: r.Home()})
	})
}

func (a *analysis) tookSidecar(k mesh.Key, was, now *mesh.Sidecar) {
	namespace, _ := k.Split()
	a.sidecars.replace(namespace, was, now, func(x, y *mesh.Sidecar) int { return older(x.Ref, y.Ref) })
	a.again(sidecars, namespace, "")
	a.again(sidecar, string(k), "")
}

func (a *analysis) tookDeployment(id string, lowered any) {
	d, ok := lowered.(*appsv1.Deployment)
	k := instanceID{deployed, id}
	if !ok {
		if a.instances[k] != nil {
			a.instance(k, nil)
			a.again(deployment, id, "")
		}
		return
	}
	i := &instance{namespace: d.Namespace, labels: d.Spec.Template.Labels, ports: map[string]uint16{}}
	for _, c := range d.Spec.Template.Spec.Containers {
		for _, p := range c.Ports {
			if p.Name != "" {
				i.ports[p.Name] = uint16(p.ContainerPort)
			}
		}
	}
	a.instance(k, i)
	a.again(deployment, id, "")
}

func instanceOf(w *mesh.Workload) *instance {
	return &instance{namespace: w.Namespace, labels: w.Labels, ports: w.Ports, entry: w.OwnerKind == "WorkloadEntry",
		proxied: w.Proxied, settled: w.Settled, owner: w.OwnerKind + "/" + w.Owner}
}

// instance takes up what runs, or will; nil if it is gone. Most changes of what runs are
// none here: it became healthy.
func (a *analysis) instance(id instanceID, now *instance) {
	was := a.instances[id]
	if was == now || was != nil && now != nil && was.namespace == now.namespace && was.entry == now.entry && was.proxied == now.proxied && was.settled == now.settled && was.owner == now.owner && maps.Equal(was.labels, now.labels) && maps.Equal(was.ports, now.ports) {
		return
	}
	one := func(i *instance, was, now *instance) {
		enter := func(p pair) {
			a.labelled.replace(p, was, now, func(x, y *instance) int {
				return cmp.Or(cmp.Compare(x.id.from, y.id.from), strings.Compare(x.id.key, y.id.key))
			})
			a.changed(thing{labelled, p.namespace, p.key, p.value})
		}
		for _, namespace := range []string{i.namespace, ""} {
			enter(pair{namespace: namespace})
			for k, v := range i.labels {
				enter(pair{namespace, k, v})
			}
		}
	}
	if now != nil {
		now.id = id
		a.instances[id] = now
	} else {
		delete(a.instances, id)
	}
	leaveAndEnter(was, now, one)
}
