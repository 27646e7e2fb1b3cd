package proxy

import (
	"sync"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/cluster/outlier"
)

const (
	// Of an answer, and of a report: there they are the newest.
	mostAside, mostAsideReported = 200, 100
)

// asides are changes of who is set aside that the control plane has not been told of. Any goroutine.
type asides struct {
	mu   sync.Mutex
	list []*observev1.Ejection
}

func (a *asides) add(e *observev1.Ejection) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.list = append(a.list, e); len(a.list) > mostAsideReported {
		a.list = append(a.list[:0], a.list[1:]...)
	}
}

func (a *asides) take() []*observev1.Ejection {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := a.list
	a.list = nil
	return out
}

// noteAside notes that an endpoint was set aside, or returned.
func (p *Proxy) noteAside(c *cluster.Cluster, a *cluster.Aside) {
	if p.sender != nil { // somebody may ask
		p.aside.add(ejection(c, a, wall(time.Now(), a.Since, a.Since), wall(time.Now(), a.Until, a.Since)))
	}
}

// wall is when something is by the clock on the wall, given what time it is now by both; 0 stays 0.
func wall(now time.Time, at, loop int64) uint64 {
	if at == 0 {
		return 0
	}
	return uint64(now.UnixNano() + at - loop)
}

// ejections are the endpoints of a host, "" for all, that are set aside or were.
func (p *Proxy) ejections(host string) []*observev1.Ejection {
	loop, now := p.now(), time.Now()
	var out []*observev1.Ejection
	for c := range p.state.current().Clusters() {
		if host != "" && c.Service.Host != host {
			continue
		}
		for _, a := range c.Health.Aside(loop) {
			if len(out) == mostAside {
				return out
			}
			out = append(out, ejection(c, &a, wall(now, a.Since, loop), wall(now, a.Until, loop)))
		}
	}
	return out
}

var asideStates = [...]observev1.AsideState{cluster.Returned: observev1.AsideState_ASIDE_STATE_RETURNED, cluster.Ejected: observev1.AsideState_ASIDE_STATE_EJECTED, cluster.Probed: observev1.AsideState_ASIDE_STATE_PROBED,
	cluster.Unhealthy: observev1.AsideState_ASIDE_STATE_UNHEALTHY, cluster.Withdrawn: observev1.AsideState_ASIDE_STATE_WITHDRAWN, cluster.Unreached: observev1.AsideState_ASIDE_STATE_SILENT}

func ejection(c *cluster.Cluster, a *cluster.Aside, since, until uint64) *observev1.Ejection {
	w := &a.Endpoint.Workload
	out := &observev1.Ejection{Cluster: c.Name, Endpoint: address(a.Endpoint), State: asideStates[a.State], Times: a.Times, SinceUnixNano: since, UntilUnixNano: until,
		Service:  &observev1.Service{Host: c.Service.Host, Name: c.Service.Name, Namespace: c.Service.Namespace, Port: uint32(c.Service.Port)},
		Workload: &observev1.Peer{Workload: w.Name, Namespace: w.Namespace, Version: w.Revision}}
	if a.Reason < outlier.Reasons {
		out.Reason, out.InARow, out.Status = inARow[a.Reason], a.InARow, uint32(a.Status)
	}
	return out
}
