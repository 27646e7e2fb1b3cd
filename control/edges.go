package control

import (
	"cmp"
	"slices"
	"sync"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/internal/share"
)

const (
	// allEdges bounds the table in bytes, to some 60,000 edges: of 5,000 services each with ten callers, as both sides see
	// them, that is more than half. eachEdges is for what proxies of one identity report, some 10,000: a gateway's.
	allEdges, eachEdges = 54 << 20, 9 << 20
	// edgeWeight is what an edge takes without its names, which are some 200 bytes.
	edgeWeight = 700
	// edgeAge is how long an edge is remembered after the last that happened on it: a
	// caller that comes once a day is one still.
	edgeAge = 25 * time.Hour
	// recently is what the window of an edge covers, in slots of a sixth of it.
	recently   = time.Minute
	slots      = 6
	slotLength = recently / slots
)

// edgeKey is an edge as one side sees it.
type edgeKey struct {
	destination         bool // reports
	source, target      apiv1.EdgeEnd
	host, service       string
	port                uint32
	transport, protocol string
}

type edgeCount struct {
	by             string // the identity that reported it first
	first, last    time.Time
	outcomes       [observev1.Outcome_OUTCOME_PROXY + 1]uint64
	sent, received uint64
	latency        float64
	latencies      [latencySlots]uint64
	window         [slots]slot
}

type slot struct {
	at                 int64 // number of the slot since 1970
	requests, failures uint64
	latencies          [latencySlots]uint32
}

// latencySlots is how many counts a report has.
const latencySlots = 7

// edgeTable adds reports up. Any goroutine may call it.
type edgeTable struct {
	mu      sync.Mutex
	m       map[edgeKey]*edgeCount
	room    share.Shares[string]
	dropped uint64
	lost    uint64
	swept   time.Time
}

func newEdgeTable() edgeTable {
	return edgeTable{m: map[edgeKey]*edgeCount{}, room: share.Shares[string]{Each: eachEdges, All: allEdges}}
}

func (k *edgeKey) weight() int {
	n := edgeWeight + len(k.host) + len(k.service) + len(k.protocol)
	for _, e := range []*apiv1.EdgeEnd{&k.source, &k.target} {
		n += len(e.Workload) + len(e.Namespace) + len(e.Identity) + len(e.Version)
	}
	return n
}

// add adds what one report of an identity's proxies says about an edge.
func (t *edgeTable) add(by string, k edgeKey, e *observev1.Edge, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.m[k]
	if c == nil {
		if w := k.weight(); !t.room.Take(by, w) {
			t.sweep(now, edgeAge)
			if !t.room.Take(by, w) {
				t.dropped++
				return
			}
		}
		c = &edgeCount{by: by, first: now}
		t.m[k] = c
	}
	c.last = now
	at := now.UnixNano() / int64(slotLength)
	w := &c.window[at%slots]
	if w.at != at {
		*w = slot{at: at}
	}
	for _, o := range e.GetOutcomes() {
		i := min(max(o.GetOutcome(), 0), observev1.Outcome_OUTCOME_PROXY)
		c.outcomes[i] += o.GetCount()
		w.requests += o.GetCount()
		if i == observev1.Outcome_OUTCOME_SERVER_ERROR || i == observev1.Outcome_OUTCOME_PROXY {
			w.failures += o.GetCount()
		}
	}
	c.sent += e.GetSentBytes()
	c.received += e.GetReceivedBytes()
	c.latency += e.GetLatencySeconds()
	for i, n := range e.GetLatencyCounts()[:min(len(e.GetLatencyCounts()), latencySlots)] {
		c.latencies[i] += n
		w.latencies[i] += uint32(n)
	}
}

// sweep forgets what is old. It is looked at once a minute at most. t.mu is held.
func (t *edgeTable) sweep(now time.Time, age time.Duration) {
	if now.Sub(t.swept) < time.Minute {
		return
	}
	t.swept = now
	for k, c := range t.m {
		if now.Sub(c.last) > age {
			delete(t.m, k)
			t.room.Give(c.by, k.weight())
		}
	}
}

// list is the table for people and programs, edges on which something happened since.
func (t *edgeTable) list(now time.Time, since time.Time, match func(*apiv1.Edge) bool) apiv1.Edges {
	t.mu.Lock()
	t.sweep(now, edgeAge)
	out := apiv1.Edges{Edges: []apiv1.Edge{}, Lost: t.lost, Dropped: t.dropped}
	for k, c := range t.m {
		if c.last.Before(since) {
			continue
		}
		e := apiv1.Edge{Reporter: "source", Source: k.source, Destination: k.target, Host: k.host, Service: k.service, Port: k.port, Transport: k.transport, Protocol: k.protocol,
			First: c.first, Last: c.last, ClientErrors: c.outcomes[observev1.Outcome_OUTCOME_CLIENT_ERROR], ServerErrors: c.outcomes[observev1.Outcome_OUTCOME_SERVER_ERROR],
			ProxyErrors: c.outcomes[observev1.Outcome_OUTCOME_PROXY], SentBytes: c.sent, ReceivedBytes: c.received, LatencySeconds: c.latency}
		if k.destination {
			e.Reporter = "destination"
		}
		for _, n := range c.outcomes {
			e.Requests += n
		}
		if k.protocol != "tcp" {
			e.LatencyCounts, e.RecentLatency = slices.Clone(c.latencies[:]), make([]uint64, latencySlots)
		}
		at := now.UnixNano() / int64(slotLength)
		for _, w := range c.window {
			if at-w.at < slots {
				e.Recent += w.requests
				e.RecentFailures += w.failures
				for i := range e.RecentLatency {
					e.RecentLatency[i] += uint64(w.latencies[i])
				}
			}
		}
		if match(&e) {
			out.Edges = append(out.Edges, e)
		}
	}
	t.mu.Unlock()
	slices.SortFunc(out.Edges, inOrder)
	return out
}

func inOrder(a, b apiv1.Edge) int {
	return cmp.Or(compareEnds(a.Source, b.Source), compareEnds(a.Destination, b.Destination), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Service, b.Service),
		cmp.Compare(a.Port, b.Port), cmp.Compare(b.Reporter, a.Reporter), cmp.Compare(a.Transport, b.Transport), cmp.Compare(a.Protocol, b.Protocol))
}

func compareEnds(a, b apiv1.EdgeEnd) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Workload, b.Workload), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Identity, b.Identity))
}
