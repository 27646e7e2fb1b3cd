package pool

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/weirmesh/weir/proxy/cluster"
)

// Group joins the pools of all workers of a process, for the limits they share.
// As long as no limit blocks anybody it costs one atomic load per request.
type Group struct {
	blocked atomic.Int32 // pools waiting, over all limits

	mu      sync.Mutex
	pools   []*Pool
	waiters map[*cluster.Limits][]*Pool // in the order they came
}

func (g *Group) join(p *Pool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pools = append(g.pools, p)
}

// wanted reports whether some worker waits for a connection that l does not permit now.
func (g *Group) wanted(l *cluster.Limits) bool {
	if g.blocked.Load() == 0 {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiters[l]) > 0
}

// wait adds p to those that are told when a connection under l has ended.
func (g *Group) wait(l *cluster.Limits, p *Pool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiters == nil {
		g.waiters = map[*cluster.Limits][]*Pool{}
	}
	if !slices.Contains(g.waiters[l], p) {
		g.waiters[l] = append(g.waiters[l], p)
		g.blocked.Add(1)
	}
}

// wantedBeside reports whether another worker than p's waits for a connection that l does not permit now.
func (g *Group) wantedBeside(l *cluster.Limits, p *Pool) bool {
	if g.blocked.Load() == 0 {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.waiters[l], func(q *Pool) bool { return q != p })
}

// pass gives the place of a connection under l that has ended to the pool that waits longest, other than from, and
// reports whether there is one. The place goes on counting, so that nobody can take it in between.
func (g *Group) pass(l *cluster.Limits, from *Pool) bool {
	if g.blocked.Load() == 0 {
		return false
	}
	for {
		g.mu.Lock()
		i := slices.IndexFunc(g.waiters[l], func(q *Pool) bool { return q != from })
		if i < 0 {
			g.mu.Unlock()
			return false
		}
		p := g.waiters[l][i]
		g.remove(l, i)
		g.mu.Unlock()
		if p.o.Loop.Post(func() { p.granted = l; p.unblock(l) }) {
			return true
		}
	}
}

// remove takes a pool from the queue of l; g.mu is held.
func (g *Group) remove(l *cluster.Limits, i int) {
	if q := slices.Delete(g.waiters[l], i, i+1); len(q) == 0 {
		delete(g.waiters, l)
	} else {
		g.waiters[l] = q
	}
	g.blocked.Add(-1)
}

// freed tells the pool that waits longest for a place under l. by is the caller, which is not posted to.
func (g *Group) freed(l *cluster.Limits, by *Pool) {
	if g.blocked.Load() == 0 {
		return
	}
	g.mu.Lock()
	q := g.waiters[l]
	if len(q) == 0 {
		g.mu.Unlock()
		return
	}
	p := q[0]
	g.remove(l, 0)
	g.mu.Unlock()
	if p == by {
		p.unblock(l)
		return
	}
	p.o.Loop.Post(func() { p.unblock(l) })
}

// evictElsewhere asks the other workers to give up one connection under l.
func (g *Group) evictElsewhere(l *cluster.Limits, by *Pool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.pools {
		if p != by {
			p.o.Loop.Post(func() {
				if g.wanted(l) { // still: another worker may have been quicker
					p.evict(l, nil)
				}
			})
		}
	}
}

// block remembers that h wants to dial and may not.
func (p *Pool) block(h *host) {
	l := h.endpoint.Limits
	if !h.blocked {
		h.blocked = true
		p.blocked[l] = append(p.blocked[l], h)
	}
	p.o.Group.wait(l, p)
}

// unblock lets those try again that wait for a place under l.
func (p *Pool) unblock(l *cluster.Limits) {
	hosts := p.blocked[l]
	delete(p.blocked, l)
	for _, h := range hosts {
		h.blocked = false
	}
	for _, h := range hosts {
		h.dialMore()
	}
	if p.granted != nil {
		p.granted.Connections.Add(-1)
		p.granted = nil
	}
	if len(p.blocked[l]) == 0 {
		// The place may have been more than this worker needed.
		p.o.Group.freed(l, p)
	}
}

// place takes a place for one more connection under l, if there is one.
func (p *Pool) place(l *cluster.Limits) bool {
	if p.granted == l {
		p.granted = nil
		return true
	}
	return cluster.Acquire(&l.Connections, &l.MaxConnections)
}

// othersWant reports whether anybody but h waits for a connection that l does not permit now.
func (p *Pool) othersWant(h *host, l *cluster.Limits) bool {
	if p.o.Group.blocked.Load() == 0 {
		return false
	}
	return slices.ContainsFunc(p.blocked[l], func(o *host) bool { return o != h }) || p.o.Group.wantedBeside(l, p)
}
