package control

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/weirmesh/weir/api/causes"
	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/control/limits"
)

// mostReached is of how many stories it is asked how far the limit is used that they are about: each is a question to a proxy.
const mostReached = 10

// reached adds to stories about a limit what that is, and how far it is used by now in the proxy that refused.
func (p *Plane) reached(ctx context.Context, stories []apiv1.Story) {
	objects := p.lookUp(ctx).Object
	var wait sync.WaitGroup
	n := 0
	for i := range stories {
		s := &stories[i]
		c, _ := causes.Named(s.Cause)
		kind := limits.Of(c)
		if kind == "" || n == mostReached {
			continue
		}
		n++
		wait.Go(func() { s.Limit = p.limitOf(ctx, &s.Hops[s.Hop], kind, objects) })
	}
	wait.Wait()
}

// limitOf is a limit of the proxy of a hop, of the cluster that was chosen there; nil: it says nothing.
func (p *Plane) limitOf(ctx context.Context, h *apiv1.Hop, kind string, objects limits.Objects) *apiv1.Limit {
	d := slices.IndexFunc(h.Decisions, func(d apiv1.Decision) bool { return d.Stage == "cluster" })
	if d < 0 {
		return nil
	}
	host := h.Service
	if i := strings.LastIndexByte(host, ':'); i > 0 {
		host = host[:i]
	}
	all, _, _ := p.replicas.ask(ctx, question{message: askLimits(&observev1.LimitsRequest{Host: host}), workload: workloadOf(h.Proxy)})
	for _, a := range all {
		for _, c := range a.message.GetLimits().GetClusters() {
			if a.node != h.Proxy || c.GetCluster() != h.Decisions[d].Name {
				continue
			}
			rows := limits.Table([]limits.Told{{Workload: a.workload, Clusters: []*observev1.ClusterLimits{c}}}, objects)
			if i := slices.IndexFunc(rows, func(l apiv1.Limit) bool { return l.Name == kind }); i >= 0 {
				return &rows[i]
			}
		}
	}
	return nil
}
