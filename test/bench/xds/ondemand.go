package main

import (
	"fmt"
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/weirmesh/weir/xds/resource"
)

// port is that of meshgen's services.
const port = 8080

// demand asks for what client i uses: some services, the edited one perhaps, and the
// listener of their port. Clusters and endpoints follow.
func (c *proxy) demand(i int) {
	o := c.b.o
	var hosts []string
	for n := range o.uses {
		s := (i*7 + n*83) % o.services
		hosts = append(hosts, fmt.Sprintf("%d/svc-%04d.ns-%03d.svc.cluster.local", port, s, s%o.namespaces))
	}
	if c.concerned {
		hosts = append(hosts, fmt.Sprintf("%d/probe.probe-ns.svc.cluster.local", port))
	}
	slices.Sort(hosts)
	c.xds.Subscribe(resource.IndexType)
	c.xds.Subscribe(resource.ListenerType, fmt.Sprintf("0.0.0.0_%d", port))
	c.xds.Subscribe(resource.VirtualHostType, slices.Compact(hosts)...)
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
