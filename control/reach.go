package control

import (
	"cmp"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
)

// askEverybody is up to how many proxies are all asked about each request: questions to those that know nothing are cheap.
const askEverybody = 200

// near chooses whom to ask about requests of which some hops are known: those proxies that can have seen them, by who calls whom. With
// few proxies, or some at other replicas, which know other calls, that is everybody.
func (p *Plane) near() func(*apiv1.Story) func(*reporter) bool {
	a := &p.edges.asking
	a.mu.Lock()
	few := len(a.proxies) <= cmp.Or(a.everybody, askEverybody)
	a.mu.Unlock()
	if few || !p.replicas.alone() {
		return func(*apiv1.Story) func(*reporter) bool { return nil }
	}
	edges := p.edges.table.list(time.Now(), time.Time{}, func(*apiv1.Edge) bool { return true }).Edges
	calls, called := map[string][]string{}, map[string][]string{}
	for i := range edges {
		from, to := workloadName(&edges[i].Source), workloadName(&edges[i].Destination)
		calls[from] = append(calls[from], to)
		called[to] = append(called[to], from)
	}
	return func(s *apiv1.Story) func(*reporter) bool {
		seen := map[string]bool{}
		for _, h := range s.Hops {
			for _, next := range []map[string][]string{calls, called} {
				follow(seen, h.Workload, next)
				follow(seen, h.Peer, next)
			}
		}
		return func(r *reporter) bool { return seen[workloadName(&r.self)] }
	}
}

func workloadName(e *apiv1.EdgeEnd) string { return e.Namespace + "/" + e.Workload }

// follow adds a workload and all that can be reached from it.
func follow(seen map[string]bool, from string, next map[string][]string) {
	reached := map[string]bool{from: true}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		for _, to := range next[queue[0]] {
			if !reached[to] {
				reached[to] = true
				queue = append(queue, to)
			}
		}
	}
	for w := range reached {
		seen[w] = true
	}
}
