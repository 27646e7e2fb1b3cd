package cluster

import (
	"net/netip"

	"github.com/weirmesh/weir/proxy/cluster/outlier"
)

// Keeps says of which endpoints requests of a session are served that they began with.
type Keeps uint8

// What endpoints are like: each is one of these.
const (
	KeepsWell Keeps = 1 << iota
	KeepsDegraded
	KeepsUnhealthy // as the control plane, health checks or outlier detection say
	KeepsDraining

	DefaultKeeps = KeepsWell | KeepsDegraded // Envoy's
)

// Kept is the endpoint of an address, nil if there is none that a session may stay with; known says that there is one of this address.
func (c *Cluster) Kept(addr netip.AddrPort) (e *Endpoint, known bool) {
	for i, e := range c.Endpoints {
		if e.Addr == addr && e.Path == "" {
			if c.Keeps&c.like(i) == 0 {
				return nil, true
			}
			return e, true
		}
	}
	return nil, false
}

func (c *Cluster) like(i int) Keeps {
	switch e, at := c.Endpoints[i], c.place(i); {
	case e.Outlier.Phase() != outlier.Closed, e.Sick.Load(), at.Unhealthy && !at.Draining:
		return KeepsUnhealthy
	case at.Draining:
		return KeepsDraining
	case at.Degraded, e.Degraded.Load():
		return KeepsDegraded
	}
	return KeepsWell
}
