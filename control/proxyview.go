package control

import (
	"net/http"
	"slices"
	"strings"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/dump"
	"github.com/weirmesh/weir/xds/resource"
	"github.com/weirmesh/weir/xds/server"
)

// shownTypes are the types that everybody asks about, in istioctl's order.
var shownTypes = []string{resource.ClusterType, resource.ListenerType, resource.EndpointType, resource.RouteType, resource.ExtensionConfigType}

func (p *Plane) proxyStatuses() []apiv1.ProxyStatus {
	out := []apiv1.ProxyStatus{}
	for _, c := range p.xds.Clients() {
		out = append(out, p.proxyStatus(&c))
	}
	return out
}

func (p *Plane) proxyStatus(c *server.Client) apiv1.ProxyStatus {
	m := c.Metadata.GetFields()
	x := apiv1.ProxyStatus{Proxy: proxy(*c), Cluster: m["CLUSTER_ID"].GetStringValue(), Version: c.Agent, Address: c.Peer.Addr, ControlPlane: p.o.Name, Protocol: "delta", Types: []apiv1.SyncType{}}
	if c.SotW {
		x.Protocol = "sotw"
	}
	x.Kind, _, _ = strings.Cut(c.Node, "~")
	if m["GENERATOR"].GetStringValue() == "grpc" {
		x.Kind = "grpc"
	}
	for _, typ := range shownTypes {
		x.Types = append(x.Types, apiv1.SyncType{Type: resource.Short(typ), State: apiv1.Ignored})
	}
	// On demand it subscribes to a type when something is used that needs it: before, there is
	// nothing to send.
	onDemand := slices.ContainsFunc(c.Types, func(t server.TypeStatus) bool { return t.TypeURL == resource.IndexType })
	if onDemand {
		for i, typ := range shownTypes {
			if typ == resource.EndpointType || typ == resource.RouteType {
				x.Types[i].State = apiv1.NotSent
			}
		}
	}
	for _, t := range c.Types {
		routes := withHosts(t, c.Types)
		s := apiv1.SyncType{Type: resource.Short(t.TypeURL), State: syncState(&routes, onDemand), Subscribed: t.Subscribed, Sent: t.Sent, ACKed: t.ACKed}
		if i := slices.Index(shownTypes, t.TypeURL); i >= 0 {
			x.Types[i] = s
		} else {
			x.Types = append(x.Types, s)
		}
	}
	return x
}

// withHosts is t, and if that is about route configurations, about their virtual hosts, too,
// where these come as resources of their own: whoever looks for routes means both.
func withHosts(t server.TypeStatus, types []server.TypeStatus) server.TypeStatus {
	i := slices.IndexFunc(types, func(h server.TypeStatus) bool { return h.TypeURL == resource.VirtualHostType })
	if t.TypeURL != resource.RouteType || i < 0 {
		return t
	}
	h := &types[i]
	t.Waits, t.Rejected = t.Waits || h.Waits, slices.Concat(t.Rejected, h.Rejected)
	switch answered := t.ACKed == t.Sent; {
	case h.ACKed == h.Sent && answered:
		t.ACKed = max(t.ACKed, h.ACKed)
	case h.ACKed != h.Sent && answered:
		t.ACKed = h.ACKed
	case h.ACKed != h.Sent:
		t.ACKed = min(t.ACKed, h.ACKed)
	}
	t.Sent = max(t.Sent, h.Sent)
	return t
}

func syncState(t *server.TypeStatus, onDemand bool) string {
	switch {
	case len(t.Rejected) > 0:
		return apiv1.Erred
	case !t.Wildcard && t.Subscribed == 0 && !onDemand:
		return apiv1.Ignored
	case t.Waits:
		return apiv1.Stale
	case t.Sent == 0:
		return apiv1.NotSent
	}
	return apiv1.Synced
}

// handleDump answers with what a proxy is to hold, as that proxy's own /config_dump would
// say it: what differs has not arrived, or was not taken.
func (p *Plane) handleDump(w http.ResponseWriter, r *http.Request) {
	asked := r.URL.Query().Get("proxyID")
	if r.PathValue("name") != "" {
		asked = qualified(r.PathValue("namespace"), r.PathValue("name"))
	}
	if !p.holdsToken(w, r, "what a proxy is sent is shown with") {
		return
	}
	q, err := dump.ParseQuery(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error(), "")
		return
	}
	h, ok := p.xds.Holding(func(node string) bool { return isProxy(node, asked) })
	if !ok {
		fail(w, http.StatusNotFound, "no proxy "+quote(asked)+" is connected", "GET /api/v1/proxies lists those that are")
		return
	}
	refused := map[string]map[string]*dump.Refusal{}
	for _, t := range h.Client.Types {
		if n := t.LastNACK; n != nil {
			m := map[string]*dump.Refusal{}
			for _, name := range t.Rejected {
				m[name] = &dump.Refusal{Details: n.Message, Time: n.Time}
			}
			refused[t.TypeURL] = m
		}
	}
	d := &dump.Dump{}
	for _, x := range h.Resources {
		d.Resources = append(d.Resources, dump.Resource{TypeURL: x.TypeURL(), Name: x.Name(), Version: x.Version(), Body: x.Any(), Refused: refused[x.TypeURL()][x.Name()]})
	}
	w.Header().Set("Content-Type", "application/json")
	if err := dump.Write(w, d, q); err != nil {
		panic(http.ErrAbortHandler) // the head is out: a connection that breaks says that this is not all
	}
}

// handleWorkloadConfig answers with everything that a sidecar of a workload would be sent if it asked for it, in the
// form of handleDump, load assignments included: what is to become of calls, whether or not its proxy is
// connected here and has asked for them before. Secrets are left out.
func (p *Plane) handleWorkloadConfig(w http.ResponseWriter, r *http.Request) {
	if !p.holdsToken(w, r, "what proxies are sent is shown with") {
		return
	}
	q, err := dump.ParseQuery(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error(), "")
		return
	}
	q.EDS = true
	u := p.latest.Load()
	if u == nil {
		fail(w, http.StatusServiceUnavailable, "the configuration is not read yet", "try again in a moment")
		return
	}
	wl := u.Snapshot.Workloads.At(mesh.NewKey(r.PathValue("namespace"), r.PathValue("name")))
	if wl == nil {
		fail(w, http.StatusNotFound, "there is no workload "+quote(r.PathValue("namespace")+"/"+r.PathValue("name")), "GET /api/v1/workloads lists those there are")
		return
	}
	d := &dump.Dump{}
	for typ, set := range translate.New().View(u.Snapshot, translate.ProxyOf(u.Snapshot, wl)).Sets {
		if typ == resource.SecretType {
			continue
		}
		for x := range set.Values() {
			d.Resources = append(d.Resources, dump.Resource{TypeURL: typ, Name: x.Name(), Version: x.Version(), Body: x.Any()})
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if err := dump.Write(w, d, q); err != nil {
		panic(http.ErrAbortHandler) // as in handleDump
	}
}

// isProxy reports whether a node is the one asked for: by its id, its workload as
// namespace/name, or as Istio has it, name.namespace.
func isProxy(node, asked string) bool {
	workload := workloadOf(node)
	ns, name, _ := strings.Cut(workload, "/")
	return asked == node || asked == workload || asked == name+"."+ns
}
