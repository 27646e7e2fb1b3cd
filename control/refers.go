package control

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"maps"

	"github.com/weirmesh/weir/xds/resource"
	"github.com/weirmesh/weir/xds/server"
)

// refers are the clusters and route tables that a listener, table or virtual host names:
// on demand it is not used before they are there. (An ACK says that it is right; see
// docs/design/ondemand.md, "What waits".) Mirrors are not among them: no request waits for one.
func refers(r *resource.Resource) []place {
	var x references
	switch r.TypeURL() {
	case resource.VirtualHostType:
		h := &routev3.VirtualHost{}
		if r.Unmarshal(h) == nil {
			x.host(h)
		}
	case resource.RouteType:
		t := &routev3.RouteConfiguration{}
		if r.Unmarshal(t) == nil {
			x.table(t)
		}
	case resource.ListenerType:
		l := &listenerv3.Listener{}
		if r.Unmarshal(l) != nil || l.GetTrafficDirection() != corev3.TrafficDirection_OUTBOUND {
			break // inbound ones are held with their clusters, all of them
		}
		for _, c := range append(l.GetFilterChains(), l.GetDefaultFilterChain()) {
			x.chain(c)
		}
	}
	return x.all
}

type references struct{ all []place }

func (x *references) cluster(name string) {
	if name != "" {
		x.all = append(x.all, place{resource.ClusterType, name})
	}
}

func (x *references) table(t *routev3.RouteConfiguration) {
	for _, h := range t.GetVirtualHosts() {
		x.host(h)
	}
}

func (x *references) host(h *routev3.VirtualHost) {
	for _, r := range h.GetRoutes() {
		x.cluster(r.GetRoute().GetCluster())
		for _, w := range r.GetRoute().GetWeightedClusters().GetClusters() {
			x.cluster(w.GetName())
		}
	}
}

func (x *references) chain(c *listenerv3.FilterChain) {
	for _, f := range c.GetFilters() {
		m, err := f.GetTypedConfig().UnmarshalNew()
		if err != nil {
			continue
		}
		switch m := m.(type) {
		case *tcpproxyv3.TcpProxy:
			x.cluster(m.GetCluster())
			for _, w := range m.GetWeightedClusters().GetClusters() {
				x.cluster(w.GetName())
			}
		case *hcmv3.HttpConnectionManager:
			if name := m.GetRds().GetRouteConfigName(); name != "" {
				x.all = append(x.all, place{resource.RouteType, name})
			}
			x.table(m.GetRouteConfig())
		}
	}
}

// follower says of one client on demand whether it has what its resources name.
type follower struct {
	view *resource.View
	subs map[string]server.Subscribed
	// out are the names it does not have, by type; made when they are asked for.
	out map[string]map[string]*server.NACK
}

// lacks is what is not there yet of what r names: the first of it; ok: there is something.
func (f *follower) lacks(refs []place) (p place, nack *server.NACK, ok bool) {
	for _, p := range refs {
		if nack, ok := f.missing(p); ok {
			return p, nack, true
		}
		if p.typeURL == resource.ClusterType {
			p.typeURL = resource.EndpointType // which have the cluster's name
			if nack, ok := f.missing(p); ok {
				return p, nack, true
			}
		}
	}
	return place{}, nil, false
}

func (f *follower) missing(p place) (*server.NACK, bool) {
	if !f.view.Set(p.typeURL).Has(p.name) {
		return nil, false // it waits for nothing that does not exist
	}
	sub, ok := f.subs[p.typeURL]
	if !ok || !sub.Has(p.name) {
		return nil, true // it has not come to ask for it
	}
	out, ok := f.out[p.typeURL]
	if !ok {
		out = maps.Collect(sub.Outstanding())
		f.out[p.typeURL] = out
	}
	nack, ok := out[p.name]
	return nack, ok
}
