package control

import (
	"net/netip"
	"slices"
	"strings"
	"time"

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
}

// lookUp is for one goroutine.
func (p *Plane) lookUp() why.Objects {
	return &inForce{p: p, u: p.latest.Load(), read: map[*config.Object]*document.Value{}}
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
	return why.Object{File: text.Ref.File, Line: text.Ref.Line, Hash: x.hash, Since: x.began, Root: k.read[text], Quarantined: o.LastGood()}, true
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
func (k *inForce) Rejected(node, cluster string, then time.Time) (message string, by []why.Ref, ok bool) {
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
	part := strings.Split(node, "~")
	if len(part) < 3 || k.u == nil {
		return "", nil, false
	}
	dot := strings.LastIndexByte(part[2], '.')
	if dot < 0 {
		return "", nil, false
	}
	w := k.u.Snapshot.Workloads.At(mesh.NewKey(part[2][dot+1:], part[2][:dot]))
	if w == nil {
		return "", nil, false
	}
	return w.Namespace, w.Labels, true
}

func refsOf(refs []mesh.Ref) (out []why.Ref) {
	for i := range refs {
		out = append(out, refOf(&refs[i]))
	}
	return out
}

func refOf(r *mesh.Ref) why.Ref { return why.Ref{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name} }
