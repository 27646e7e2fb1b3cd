package control

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	replicasv1 "github.com/weirmesh/weir/api/replicas/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
)

// everyProxy are the proxies of the mesh, at whichever control plane; silent are those of which they are not known.
func (p *Plane) everyProxy(ctx context.Context) (all []apiv1.ProxyStatus, silent []string) {
	var others []apiv1.ProxyStatus
	silent = page(ctx, p.replicas, &replicasv1.Question{Question: &replicasv1.Question_Connected{Connected: &replicasv1.Connected{}}}, func(more []apiv1.ProxyStatus) {
		others = append(others, more...)
	})
	all = append(p.proxyStatuses(), others...)
	slices.SortStableFunc(all, func(a, b apiv1.ProxyStatus) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), a.Connected.Compare(b.Connected))
	})
	return all, silent
}

// handleProxies is GET /api/v1/proxies: a list, and in its header who did not say which others there are.
func (p *Plane) handleProxies(w http.ResponseWriter, r *http.Request) {
	all, silent := p.everyProxy(r.Context())
	for _, s := range silent {
		w.Header().Add(apiv1.SilentHeader, s)
	}
	answer(w, http.StatusOK, all)
}

// ownEdges are those on which something happened since, as far as it was reported here.
func (p *Plane) ownEdges(since time.Time) apiv1.Edges {
	out := p.edges.table.list(time.Now(), since, func(*apiv1.Edge) bool { return true })
	out.Reporting = int(p.edges.streams.Load())
	return out
}

// everyEdge adds up what was reported to all control planes of the mesh: who moves from one to another has reported to both.
func (p *Plane) everyEdge(ctx context.Context, since time.Time) apiv1.Edges {
	out := p.ownEdges(since)
	at := map[edgeOf]int{}
	for i := range out.Edges {
		at[keyOfEdge(&out.Edges[i])] = i
	}
	q := &replicasv1.Edges{}
	if !since.IsZero() {
		q.SinceUnixNano = uint64(since.UnixNano())
	}
	out.Silent = page(ctx, p.replicas, &replicasv1.Question{Question: &replicasv1.Question_Edges{Edges: q}}, func(more apiv1.Edges) {
		out.Reporting, out.Lost, out.Dropped = out.Reporting+more.Reporting, out.Lost+more.Lost, out.Dropped+more.Dropped
		for i := range more.Edges {
			e := &more.Edges[i]
			if n, ok := at[keyOfEdge(e)]; ok {
				join(&out.Edges[n], e)
				continue
			}
			at[keyOfEdge(e)] = len(out.Edges)
			out.Edges = append(out.Edges, *e)
		}
	})
	slices.SortFunc(out.Edges, inOrder)
	return out
}

// edgeOf tells edges apart.
type edgeOf struct {
	reporter            string
	source, destination apiv1.EdgeEnd
	host, service       string
	port                uint32
	transport, protocol string
}

func keyOfEdge(e *apiv1.Edge) edgeOf {
	return edgeOf{e.Reporter, e.Source, e.Destination, e.Host, e.Service, e.Port, e.Transport, e.Protocol}
}

// join adds what happened on e elsewhere.
func join(to, e *apiv1.Edge) {
	if e.First.Before(to.First) {
		to.First = e.First
	}
	if e.Last.After(to.Last) {
		to.Last = e.Last
	}
	to.Requests, to.ClientErrors, to.ServerErrors, to.ProxyErrors = to.Requests+e.Requests, to.ClientErrors+e.ClientErrors, to.ServerErrors+e.ServerErrors, to.ProxyErrors+e.ProxyErrors
	to.SentBytes, to.ReceivedBytes, to.LatencySeconds = to.SentBytes+e.SentBytes, to.ReceivedBytes+e.ReceivedBytes, to.LatencySeconds+e.LatencySeconds
	to.Recent, to.RecentFailures = to.Recent+e.Recent, to.RecentFailures+e.RecentFailures
	for i := range min(len(to.LatencyCounts), len(e.LatencyCounts)) {
		to.LatencyCounts[i] += e.LatencyCounts[i]
	}
	for i := range min(len(to.RecentLatency), len(e.RecentLatency)) {
		to.RecentLatency[i] += e.RecentLatency[i]
	}
}
