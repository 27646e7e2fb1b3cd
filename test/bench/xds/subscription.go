package main

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/weirmesh/weir/xds/client"
	"github.com/weirmesh/weir/xds/resource"
)

// subscription is what one proxy asks for. Its methods are called from one goroutine.
type subscription interface {
	begin(x *client.Client)
	// follow asks for what an update leads to.
	follow(x *client.Client, u client.Update) error
}

// everything is a subscription to all there is: clusters and their endpoints, listeners and
// their route tables, and virtual hosts if tables leave them out.
type everything struct {
	b    *bench
	asks map[string]*asks // by type asked for
	vhds bool
}

// asks are the names that resources ask for, and how many ask for a name.
type asks struct {
	of map[string][]string // by resource
	by map[string]int
}

func (*everything) begin(x *client.Client) {
	x.Subscribe(resource.ClusterType)
	x.Subscribe(resource.ListenerType)
}

func (e *everything) follow(x *client.Client, u client.Update) error {
	switch u.TypeURL {
	case resource.ClusterType:
		return e.names(x, u, resource.EndpointType)
	case resource.ListenerType:
		return e.names(x, u, resource.RouteType)
	case resource.RouteType:
		for _, r := range u.Set {
			if names, err := e.b.namesIn(u.TypeURL, &r); err != nil {
				return err
			} else if len(names) > 0 && !e.vhds {
				e.vhds = true
				x.Subscribe(resource.VirtualHostType)
			}
		}
	}
	return nil
}

// names subscribes to what resources ask for by name.
func (e *everything) names(x *client.Client, u client.Update, typeURL string) error {
	a := e.asks[typeURL]
	if a == nil {
		a = &asks{of: map[string][]string{}, by: map[string]int{}}
		e.asks[typeURL] = a
	}
	var add, drop []string
	forget := func(resource string) {
		for _, n := range a.of[resource] {
			if a.by[n]--; a.by[n] == 0 {
				delete(a.by, n)
				drop = append(drop, n)
			}
		}
		delete(a.of, resource)
	}
	for _, r := range u.Set {
		names, err := e.b.namesIn(u.TypeURL, &r)
		if err != nil {
			return err
		}
		for _, n := range names {
			if a.by[n]++; a.by[n] == 1 {
				add = append(add, n)
			}
		}
		forget(r.Name)
		if len(names) > 0 {
			a.of[r.Name] = names
		}
	}
	for _, n := range u.Removed {
		forget(n)
	}
	if len(add) > 0 {
		x.Subscribe(typeURL, add...)
	}
	if len(drop) > 0 {
		x.Unsubscribe(typeURL, drop...)
	}
	return nil
}

// namesIn are the names a resource asks for.
func (b *bench) namesIn(typeURL string, r *client.Resource) ([]string, error) {
	key := typeURL + r.Version
	if v, ok := b.names.Load(key); ok {
		return v.([]string), nil
	}
	var names []string
	switch typeURL {
	case resource.ClusterType:
		m := &clusterv3.Cluster{}
		if err := r.Body.UnmarshalTo(m); err != nil {
			return nil, err
		}
		if e := m.GetEdsClusterConfig(); e != nil {
			names = append(names, e.GetServiceName())
		}
	case resource.ListenerType:
		m := &listenerv3.Listener{}
		if err := r.Body.UnmarshalTo(m); err != nil {
			return nil, err
		}
		for _, f := range append(m.GetFilterChains(), m.GetDefaultFilterChain()) {
			for _, x := range f.GetFilters() {
				h := &hcmv3.HttpConnectionManager{}
				if !x.GetTypedConfig().MessageIs(h) {
					continue
				}
				if err := x.GetTypedConfig().UnmarshalTo(h); err != nil {
					return nil, err
				}
				if n := h.GetRds().GetRouteConfigName(); n != "" {
					names = append(names, n)
				}
			}
		}
	case resource.VirtualHostType:
		m := &routev3.VirtualHost{}
		if err := r.Body.UnmarshalTo(m); err != nil {
			return nil, err
		}
		names = clustersOf(m)
	case resource.RouteType:
		m := &routev3.RouteConfiguration{}
		if err := r.Body.UnmarshalTo(m); err != nil {
			return nil, err
		}
		if m.GetVhds() != nil {
			names = append(names, "*")
		}
	}
	b.names.Store(key, names)
	return names, nil
}
