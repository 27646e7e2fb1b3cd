package main

import (
	"fmt"
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/weirmesh/weir/xds/client"
	"github.com/weirmesh/weir/xds/resource"
)

// port is that of meshgen's services.
const port = 8080

// onDemand is a subscription to what a proxy uses: virtual hosts and the listener of their
// port. Clusters and endpoints follow.
type onDemand struct {
	everything
	hosts []string
}

// hosts are those that client i uses: some services, and those that are edited if it is
// concerned.
func (b *bench) hosts(i int, concerned bool) []string {
	o := b.o
	var hosts []string
	for n := range o.uses {
		s := (i*7 + n*83) % o.services
		hosts = append(hosts, fmt.Sprintf("%d/svc-%04d.ns-%03d.svc.cluster.local", port, s, s%o.namespaces))
	}
	if concerned {
		hosts = append(hosts, fmt.Sprintf("%d/probe.probe-ns.svc.cluster.local", port))
		if o.flap > 0 {
			hosts = append(hosts, fmt.Sprintf("%d/flap.ns-000.svc.cluster.local", port))
		}
		for n := range editedServices {
			if o.stream > 0 {
				hosts = append(hosts, fmt.Sprintf("%d/edited-%d.probe-ns.svc.cluster.local", port, n))
			}
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

func (d *onDemand) begin(x *client.Client) {
	x.Subscribe(resource.ClusterType)
	x.Subscribe(resource.ListenerType)
	x.Subscribe(resource.IndexType)
	x.Subscribe(resource.ListenerType, fmt.Sprintf("0.0.0.0_%d", port))
	x.Subscribe(resource.VirtualHostType, d.hosts...)
}

func (d *onDemand) follow(x *client.Client, u client.Update) error {
	if u.TypeURL == resource.VirtualHostType {
		return d.names(x, u, resource.ClusterType)
	}
	return d.everything.follow(x, u)
}

// clustersOf are the clusters that the routes of a virtual host lead to.
func clustersOf(h *routev3.VirtualHost) []string {
	var names []string
	for _, r := range h.GetRoutes() {
		if n := r.GetRoute().GetCluster(); n != "" {
			names = append(names, n)
		}
		for _, w := range r.GetRoute().GetWeightedClusters().GetClusters() {
			names = append(names, w.GetName())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
