package control

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
)

// mtlsWindow is how far back callers count unless it is asked for: who calls once a day is
// seen, and edges are remembered for an hour more.
const mtlsWindow = 24 * time.Hour

var mtlsModes = map[mesh.MTLSMode]string{mesh.MTLSDisable: "DISABLE", mesh.MTLSPermissive: "PERMISSIVE", mesh.MTLSStrict: "STRICT"}

// workloadPort is a port of all replicas of a workload.
type workloadPort struct {
	namespace, owner string
	port             uint16
}

// handleMTLS is GET /api/v1/mtls?namespace=shop&workload=cart&window=24h.
func (p *Plane) handleMTLS(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	window := mtlsWindow
	if s := q.Get("window"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d < 0 || d > edgeAge {
			fail(w, http.StatusBadRequest, "window "+quote(s)+" is not a duration up to "+edgeAge.String(), "for example window=24h")
			return
		}
		window = d
	}
	p.known(func(u *store.Update) any {
		out := p.mtls(u.Snapshot, time.Now().Round(0), window)
		out.Ports = slices.DeleteFunc(out.Ports, func(x apiv1.MTLSPort) bool {
			return q.Get("namespace") != "" && x.Namespace != q.Get("namespace") || q.Get("workload") != "" && x.Workload != q.Get("workload")
		})
		return out
	})(w, r)
}

// mtls is the ledger: modes of the configuration in force, callers as proxies saw them.
func (p *Plane) mtls(snap *mesh.Snapshot, now time.Time, window time.Duration) apiv1.MTLS {
	out := apiv1.MTLS{Time: now, Since: p.started, Window: window.String(), Ports: []apiv1.MTLSPort{}}
	accepts := translate.NewAccepts(snap)
	reports := map[string]bool{} // workloads whose proxies are connected here
	routers := map[string]bool{}
	for _, c := range p.xds.Clients() {
		if kind, name, ok := nodeName(c.Node); ok {
			reports[name], routers[name] = true, kind == "router"
		}
	}
	ports := map[workloadPort]*apiv1.MTLSPort{}
	silent := map[workloadPort]map[string]bool{}
	called := map[string][]workloadPort{} // by service "namespace/name" and port
	for key, svc := range snap.Services.All() {
		eps := snap.Endpoints.At(key)
		if eps == nil {
			continue
		}
		for i := range svc.Ports {
			port := &svc.Ports[i]
			for j := range eps.Ports[port.Number] {
				wl := eps.Ports[port.Number][j].Workload
				if wl == nil || !wl.Proxied || routers[string(wl.Key())] {
					continue // what a gateway demands of its clients, its Gateway says
				}
				number, ok := wl.Serves(port)
				if !ok {
					continue
				}
				k := workloadPort{wl.Namespace, cmp.Or(wl.Owner, wl.Name), number}
				x := ports[k]
				if x == nil {
					mode, by := accepts.On(wl.Namespace, wl.Labels, number)
					x = &apiv1.MTLSPort{Namespace: k.namespace, Workload: k.owner, Port: k.port, Mode: mtlsModes[mode], Labels: map[string]string{}}
					maps.Copy(x.Labels, wl.Labels)
					for _, r := range by {
						x.Policies = append(x.Policies, apiv1.MTLSPolicy{Level: r.Level, Namespace: r.Ref.Namespace, Name: r.Ref.Name})
					}
					ports[k], silent[k] = x, map[string]bool{}
				}
				for l, v := range x.Labels {
					if wl.Labels[l] != v {
						delete(x.Labels, l)
					}
				}
				if name := string(wl.Key()); !reports[name] {
					silent[k][name] = true
				}
				service := fmt.Sprintf("%s/%s:%d", svc.Namespace, svc.Name, port.Number)
				if !slices.Contains(called[service], k) {
					called[service] = append(called[service], k)
				}
			}
		}
	}
	edges := p.edges.table.list(now, now.Add(-window), func(*apiv1.Edge) bool { return true })
	for _, e := range edges.Edges {
		var at []workloadPort
		if e.Reporter == "destination" {
			at = []workloadPort{{e.Destination.Namespace, e.Destination.Workload, uint16(e.Port)}}
		} else {
			at = called[fmt.Sprintf("%s:%d", e.Service, e.Port)]
			at = slices.DeleteFunc(slices.Clone(at), func(k workloadPort) bool {
				return e.Destination.Workload != "" && (k.owner != e.Destination.Workload || k.namespace != e.Destination.Namespace)
			})
		}
		for _, k := range at {
			x := ports[k]
			switch {
			case x == nil:
			case e.Transport == "mtls" && e.Reporter == "destination":
				if e.Last.After(x.LastTLS) {
					x.LastTLS = e.Last
				}
			case e.Transport == "plaintext":
				x.Callers = meet(x.Callers, apiv1.MTLSCaller{Namespace: e.Source.Namespace, Workload: e.Source.Workload, First: e.First, Last: e.Last, Requests: e.Requests})
			}
		}
	}
	for k, x := range ports {
		x.Blockers = blockers(x, now, p.started, window, len(silent[k]))
		x.Ready = len(x.Blockers) == 0
		for _, l := range []string{"pod-template-hash", "controller-revision-hash", "statefulset.kubernetes.io/pod-name", "security.istio.io/tlsMode", "service.istio.io/canonical-name", "service.istio.io/canonical-revision"} {
			delete(x.Labels, l) // of one revision, or of the mesh's own making
		}
		slices.SortFunc(x.Callers, func(a, b apiv1.MTLSCaller) int {
			return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Workload, b.Workload))
		})
		out.Ports = append(out.Ports, *x)
	}
	slices.SortFunc(out.Ports, func(a, b apiv1.MTLSPort) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Workload, b.Workload), cmp.Compare(a.Port, b.Port))
	})
	return out
}

// meet adds what one edge says of a caller. Both ends may have seen it: the larger count is taken.
func meet(all []apiv1.MTLSCaller, c apiv1.MTLSCaller) []apiv1.MTLSCaller {
	i := slices.IndexFunc(all, func(o apiv1.MTLSCaller) bool { return o.Namespace == c.Namespace && o.Workload == c.Workload })
	if i < 0 {
		return append(all, c)
	}
	o := &all[i]
	o.Requests = max(o.Requests, c.Requests)
	if c.Last.After(o.Last) {
		o.Last = c.Last
	}
	if c.First.Before(o.First) {
		o.First = c.First
	}
	return all
}

// blockers is what stands against STRICT: no evidence counts as much as evidence against it.
func blockers(x *apiv1.MTLSPort, now, since time.Time, window time.Duration, silent int) (out []string) {
	for _, c := range x.Callers {
		who := "somebody without a proxy"
		if c.Workload != "" {
			who = c.Namespace + "/" + c.Workload
		}
		out = append(out, fmt.Sprintf("%s called in plaintext, %d times, last %s ago (%s)", who, c.Requests, now.Sub(c.Last).Round(time.Second), c.Last.UTC().Format(time.RFC3339)))
	}
	if seen := now.Sub(since); seen < window {
		out = append(out, fmt.Sprintf("callers are known for %s only, of a window of %s", seen.Round(time.Second), window))
	}
	if silent > 0 {
		out = append(out, fmt.Sprintf("%d of its proxies do not report to this replica: who calls them is not known", silent))
	}
	return out
}
