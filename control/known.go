package control

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/control/why"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/resource"
)

// inForce answers why.Objects from the configuration now in force.
type inForce struct {
	p    *Plane
	u    *store.Update // nil: there is none yet
	read map[*config.Object]*document.Value
	// connected are the proxies of the mesh, once somebody has asked for one.
	connected func() (all []apiv1.ProxyStatus, silent []string)
}

// lookUp is for one goroutine, and one question.
func (p *Plane) lookUp(ctx context.Context) why.Objects {
	return &inForce{p: p, u: p.latest.Load(), read: map[*config.Object]*document.Value{},
		connected: sync.OnceValues(func() ([]apiv1.ProxyStatus, []string) { return p.everyProxy(ctx) })}
}

// Object is described at why.Objects.
func (k *inForce) Object(kind, namespace, name string) (why.Object, bool) {
	if k.u == nil {
		return why.Object{}, false
	}
	k.p.receipts.mu.RLock()
	x := k.p.receipts.byOrigin[translate.Origin(kind, namespace, name)]
	k.p.receipts.mu.RUnlock()
	if x == nil {
		return why.Object{}, false
	}
	o := k.u.Objects.At(x.id.String())
	if o == nil {
		return why.Object{}, false
	}
	text := o.InForce()
	if k.read[text] == nil {
		k.read[text] = text.Root()
	}
	return why.Object{File: text.Ref.File, Line: text.Ref.Line, Hash: x.hash, Since: x.began, Root: k.read[text], Quarantined: o.LastGood(), Flaws: k.flaws(o)}, true
}

// flaws are the mistakes in the version of an object that is in force.
func (k *inForce) flaws(o *store.Object) (out []why.Flaw) {
	if o.LastGood() {
		return nil
	}
	for i := range o.Findings {
		if f := &o.Findings[i]; f.Severity == config.Error {
			out = append(out, why.Flaw{Field: strings.TrimPrefix(f.FieldPath, "spec."), Line: f.Line, Message: f.Message})
		}
	}
	if a, ok := o.Lowered.(*mesh.AuthorizationPolicy); ok && a.Action == mesh.AuthorizationCustom && a.Provider != "" && len(out) == 0 &&
		!slices.ContainsFunc(k.u.Snapshot.Settings.Authorizers, func(x mesh.Authorizer) bool { return x.Name == a.Provider }) {
		out = append(out, why.Flaw{Field: "provider.name", Message: "no extensionProvider of the mesh's configuration is called " + strconv.Quote(a.Provider)})
	}
	return out
}

// Endpoints is described at why.Objects.
func (k *inForce) Endpoints(namespace, host string) (out []why.Endpoint) {
	if k.u == nil {
		return nil
	}
	if set := k.u.Snapshot.Endpoints.At(mesh.NewKey(namespace, host)); set != nil {
		for _, port := range slices.Sorted(maps.Keys(set.Ports)) {
			for i := range set.Ports[port] {
				e := &set.Ports[port][i]
				x := why.Endpoint{Address: e.Addr.String(), Ready: e.Health == mesh.Healthy}
				if w := e.Workload; w != nil && w.OwnerKind == "WorkloadEntry" {
					x.Entry = refOf(&w.Ref)
				} else if w != nil {
					x.Workload, x.Proxied, x.Declared = w.Namespace+"/"+w.Name, w.Proxied, w.Declared
				}
				out = append(out, x)
			}
		}
	}
	return out
}

// Selects is described at why.Objects.
func (k *inForce) Selects(namespace, host string) bool {
	if k.u == nil {
		return false
	}
	s := k.u.Snapshot.Services.At(mesh.NewKey(namespace, host))
	if s == nil || len(s.Selector) == 0 {
		return false
	}
	for w := range k.u.Snapshot.Workloads.Values() {
		if w.Namespace == namespace && s.Selector.Selects(w.Labels) {
			return true
		}
	}
	return false
}

// Proxy is described at why.Objects.
func (k *inForce) Proxy(workload string) (since, left time.Time, ok bool) {
	all, silent := k.connected()
	for i := range all {
		if x := &all[i]; workloadOf(x.Node) == workload && x.Connected.After(since) {
			since = x.Connected
		}
	}
	return since, k.p.watch.last(workload), len(silent) == 0
}

// Declares is described at why.Objects.
func (k *inForce) Declares(node string) []uint16 {
	if w := k.workloadAt(node); w != nil {
		return w.Declared
	}
	return nil
}

// Known is described at why.Objects.
func (k *inForce) Known(host, address string) (why.Ref, bool) {
	if k.u == nil {
		return why.Ref{}, false
	}
	at, _ := netip.ParseAddrPort(address)
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	for s := range k.u.Snapshot.Services.Values() {
		if s.Hostname == name || at.IsValid() && slices.Contains(s.Addresses, at.Addr()) {
			return refOf(&s.Ref), true
		}
	}
	return why.Ref{}, false
}

// Hidden is described at why.Objects.
func (k *inForce) Hidden(node, host, subset string) (by []why.Pointer, uncounted []why.Ref) {
	namespace, _, ok := k.workload(node)
	if !ok {
		return nil, nil
	}
	var refs []mesh.Ref
	counts := []string{namespace, k.u.Snapshot.Settings.RootNamespace}
	for s := range k.u.Snapshot.Services.Values() {
		switch {
		case s.Hostname != host:
		case subset != "":
			counts = append(counts, s.Namespace)
		case s.Visible.VisibleTo(namespace):
			return nil, nil
		default:
			refs = append(refs, s.Ref)
		}
	}
	for r := range k.u.Snapshot.DestinationRules.Values() {
		switch {
		case !mesh.Covers(r.Host, host) || !slices.ContainsFunc(r.Subsets, func(x mesh.Subset) bool { return x.Name == subset }):
		case slices.Contains(counts, r.Ref.Namespace) && !r.Visible.VisibleTo(namespace):
			refs = append(refs, r.Ref)
		default:
			uncounted = append(uncounted, refOf(&r.Ref))
		}
	}
	slices.SortFunc(refs, func(a, b mesh.Ref) int { return mesh.Older(&a, &b) })
	for _, r := range refsOf(refs) {
		by = append(by, why.Pointer{Ref: r, Field: "exportTo"})
	}
	slices.SortFunc(uncounted, func(a, b why.Ref) int { return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name) })
	return by, uncounted
}

// Hosts is described at why.Objects.
func (k *inForce) Hosts(node string) (out []string) {
	if k.u == nil || !strings.HasPrefix(node, "router~") {
		return nil
	}
	for v := range k.u.Snapshot.VirtualServices.Values() {
		if slices.ContainsFunc(v.Gateways, func(g string) bool { return g != mesh.Mesh }) {
			out = append(out, v.Hosts...)
		}
	}
	for g := range k.u.Snapshot.Gateways.Values() {
		for i := range g.Servers {
			for _, h := range g.Servers[i].Hosts {
				out = append(out, h.Host)
			}
		}
	}
	return out
}

// Service is described at why.Objects.
func (k *inForce) Service(namespace, host string) (why.Ref, bool) {
	if k.u == nil {
		return why.Ref{}, false
	}
	s := k.u.Snapshot.Services.At(mesh.NewKey(namespace, host))
	if s == nil {
		return why.Ref{}, false
	}
	return refOf(&s.Ref), true
}

// Serves is described at why.Objects.
func (k *inForce) Serves(namespace, host, address string, then time.Time) (serves bool, left time.Time, known bool) {
	at, err := netip.ParseAddrPort(address)
	if err != nil || k.u == nil {
		return false, left, false
	}
	service := mesh.NewKey(namespace, host)
	if set := k.u.Snapshot.Endpoints.At(service); set != nil {
		for _, endpoints := range set.Ports {
			for i := range endpoints {
				if endpoints[i].Host != "" {
					return false, left, false
				}
				serves = serves || endpoints[i].Addr == at
			}
		}
	}
	if serves {
		return true, left, true
	}
	left, begin := k.p.past.departure(service, at)
	if left.IsZero() {
		return false, left, then.After(begin) && k.u.Snapshot.Services.At(service) != nil
	}
	return left.After(then), left, true
}

// Rejected is described at why.Objects.
func (k *inForce) Rejected(node, cluster string, then time.Time) (message string, by []why.Pointer, ok bool) {
	r, ok := k.p.past.refusal(node, cluster, then)
	if !ok || !r.until.IsZero() {
		return r.message, r.by, ok
	}
	for _, c := range k.p.xds.Clients() {
		for _, t := range c.Types {
			if c.Node == node && t.TypeURL == resource.ClusterType && slices.Contains(t.Rejected, cluster) {
				return r.message, r.by, true
			}
		}
	}
	return "", nil, false
}

// Applying is described at why.Objects.
func (k *inForce) Applying(doing why.Doing, node string, port uint16) []why.Ref {
	namespace, labels, ok := k.workload(node)
	if !ok {
		return nil
	}
	s := k.u.Snapshot
	var refs []mesh.Ref
	switch doing {
	case why.Secures:
		if mode, by := translate.NewAccepts(s).On(namespace, labels, port); mode == mesh.MTLSStrict {
			for i := range by { // in the order of what goes before what
				refs = append(refs, by[i].Ref)
			}
		}
		return refsOf(refs)
	case why.Confines:
		var own, root []*mesh.Sidecar
		for c := range s.Sidecars.Values() {
			switch c.Ref.Namespace {
			case namespace:
				own = append(own, c)
			case s.Settings.RootNamespace:
				root = append(root, c)
			}
		}
		for _, all := range [][]*mesh.Sidecar{own, root} {
			slices.SortFunc(all, func(a, b *mesh.Sidecar) int { return mesh.Older(&a.Ref, &b.Ref) })
		}
		if c := mesh.SidecarFor(own, root, labels); c != nil {
			refs = append(refs, c.Ref)
		}
	}
	slices.SortFunc(refs, func(a, b mesh.Ref) int { return mesh.Older(&a, &b) })
	return refsOf(slices.Compact(refs))
}

// workload is that of a proxy, by its node id (TYPE~IP~POD.NAMESPACE~DOMAIN).
func (k *inForce) workload(node string) (namespace string, labels mesh.Labels, ok bool) {
	w := k.workloadAt(node)
	if w == nil {
		return "", nil, false
	}
	return w.Namespace, w.Labels, true
}

// workloadAt is that of a proxy; nil: it is not known.
func (k *inForce) workloadAt(node string) *mesh.Workload {
	part := strings.Split(node, "~")
	if len(part) < 3 || k.u == nil {
		return nil
	}
	dot := strings.LastIndexByte(part[2], '.')
	if dot < 0 {
		return nil
	}
	return k.u.Snapshot.Workloads.At(mesh.NewKey(part[2][dot+1:], part[2][:dot]))
}

func refsOf(refs []mesh.Ref) (out []why.Ref) {
	for i := range refs {
		out = append(out, refOf(&refs[i]))
	}
	return out
}

func refOf(r *mesh.Ref) why.Ref { return why.Ref{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name} }
