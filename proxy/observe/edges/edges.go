// Package edges tells the control plane who talks to whom: counters of the workers, added
// up by edge, as reports of what changed.
//
// Totals of package observe enter, reports on the stream weir.dev.observe.v1 leave. The
// request path knows nothing of it: what it counts for metrics is read every few seconds.
// A Reporter decides what is sent and is for one goroutine; Run is that goroutine, with
// the stream. It fails open: without a stream the counters go on, and what happened
// meanwhile is in the next report. What a control plane did not acknowledge is sent again
// under the same number, so that it counts once.
package edges

import (
	"maps"
	"slices"

	"github.com/weirmesh/weir/api/causes"
	observev1 "github.com/weirmesh/weir/api/observe/v1"
	"github.com/weirmesh/weir/proxy/observe"
)

// maxReport bounds the edges of one report: 0.3 MB. The others wait for the next.
const maxReport = 1000

// key is an edge.
type key struct {
	side              observe.Reporter
	workload, ns      string // of the other end
	identity, version string
	service           observe.Service
	port              uint16
	transport         observev1.Transport
	protocol          string
}

// value counts what happened on an edge, from the start of the process on.
type value struct {
	outcomes       [observev1.Outcome_OUTCOME_PROXY + 1]uint64
	sent, received uint64
	latency        float64 // seconds
	latencies      [len(bounds) + 1]uint64
}

// bounds of the coarse histogram in milliseconds, some of those of the metrics.
var bounds = [...]float64{1, 5, 25, 100, 500, 2500}

// sum adds totals up by edge.
func sum(t *observe.Totals) map[key]*value {
	out := map[key]*value{}
	of := func(l *observe.Labels) *value {
		k := edgeOf(l)
		v := out[k]
		if v == nil {
			v = &value{}
			out[k] = v
		}
		return v
	}
	for l, s := range t.HTTP {
		v := of(&l)
		v.outcomes[outcome(&l)] += s.Requests
		v.sent += uint64(s.RequestBytes.Sum())
		v.received += uint64(s.ResponseBytes.Sum())
		v.latency += s.Duration.Sum() / 1000
		for bound, n := range s.Duration.Buckets() {
			i, _ := slices.BinarySearch(bounds[:], bound)
			v.latencies[i] += n
		}
	}
	for l, s := range t.TCP {
		v := of(&l)
		v.outcomes[outcome(&l)] += s.Opened
		v.sent += s.Received // by us, from the client
		v.received += s.Sent
	}
	return out
}

func edgeOf(l *observe.Labels) key {
	k := key{side: l.Reporter, service: l.Service, port: l.Port, protocol: l.Protocol, transport: observev1.Transport_TRANSPORT_PLAINTEXT}
	peer := l.Source
	k.identity = l.SourcePrincipal
	if l.Reporter == observe.Source {
		peer, k.identity = l.Destination, l.DestPrincipal
	}
	if peer != nil && peer != observe.Crowd { // nobody knows who they are
		k.workload, k.ns, k.version = peer.Workload, peer.Namespace, peer.CanonicalRevision
	}
	switch {
	case l.SourcePrincipal != "" && l.DestPrincipal != "", l.Security == observe.SecurityMutualTLS: // of a crowd there are no names
		k.transport = observev1.Transport_TRANSPORT_MTLS
	case l.Encrypted:
		k.transport = observev1.Transport_TRANSPORT_TLS
	case l.Reporter == observe.Source && (l.Flags&unsent != 0 || l.Service == observe.Service{}):
		k.transport = observev1.Transport_TRANSPORT_UNSPECIFIED
	}
	return k
}

// unsent are the flags of what a client's proxy sent to nobody, so that nobody can say how it would have been secured.
const unsent = causes.NoRouteFound | causes.NoClusterFound | causes.NoHealthyUpstreamFlag | causes.UpstreamConnectionFailure | causes.UpstreamOverflowFlag | causes.FaultInjected |
	causes.RateLimited | causes.UnauthorizedExternalService | causes.DNSResolutionFailed | causes.DropOverload | causes.UnconditionalDropOverload | causes.OverloadManagerTerminated

func outcome(l *observe.Labels) observev1.Outcome {
	switch {
	case l.Flags&^(causes.DelayInjected|causes.UpstreamRetryLimitExceeded) != 0: // with these two a server may have answered
		return observev1.Outcome_OUTCOME_PROXY
	case l.GRPCStatus > 0, l.Status >= 500:
		return observev1.Outcome_OUTCOME_SERVER_ERROR
	case l.Status >= 400:
		return observev1.Outcome_OUTCOME_CLIENT_ERROR
	}
	return observev1.Outcome_OUTCOME_OK
}

// Reporter turns counters into reports.
type Reporter struct {
	acked map[key]value // what the control plane has been told of and acknowledged
	lost  uint64        // the same

	sequence uint64
	pending  *observev1.Report
	becomes  map[key]value // acked, once pending is acknowledged
	lostThen uint64
}

// Pending is a report that is not acknowledged, nil if there is none.
func (r *Reporter) Pending() *observev1.Report { return r.pending }

// Next is a report of what changed, endpoints that were set aside among it, nil if nothing did. There must be none pending.
func (r *Reporter) Next(t *observe.Totals, aside ...*observev1.Ejection) *observev1.Report {
	out := &observev1.Report{Lost: t.Overflow - r.lost, Ejections: aside}
	r.becomes, r.lostThen = map[key]value{}, t.Overflow
	for k, v := range sum(t) {
		was := r.acked[k]
		if *v == was {
			continue
		}
		if len(out.Edges) == maxReport {
			break
		}
		r.becomes[k] = *v
		out.Edges = append(out.Edges, edge(&k, &was, v))
	}
	if len(out.Edges) == 0 && out.Lost == 0 && len(aside) == 0 {
		return nil
	}
	r.sequence++
	out.Sequence = r.sequence
	r.pending = out
	return out
}

// Acked takes an acknowledgement.
func (r *Reporter) Acked(sequence uint64) {
	if r.pending == nil || r.pending.Sequence != sequence {
		return
	}
	if r.acked == nil {
		r.acked = map[key]value{}
	}
	maps.Copy(r.acked, r.becomes)
	r.lost, r.pending, r.becomes = r.lostThen, nil, nil
}

// edge is what happened between two moments.
func edge(k *key, was, now *value) *observev1.Edge {
	e := &observev1.Edge{
		Side: observev1.Side_SIDE_SOURCE, Transport: k.transport, Protocol: k.protocol,
		Peer:      &observev1.Peer{Workload: k.workload, Namespace: k.ns, Identity: k.identity, Version: k.version},
		Service:   &observev1.Service{Host: k.service.Host, Name: k.service.Name, Namespace: k.service.Namespace, Port: uint32(k.port)},
		SentBytes: now.sent - was.sent, ReceivedBytes: now.received - was.received, LatencySeconds: now.latency - was.latency,
	}
	if k.side == observe.Destination {
		e.Side = observev1.Side_SIDE_DESTINATION
	}
	for o, n := range now.outcomes {
		if n > was.outcomes[o] {
			e.Outcomes = append(e.Outcomes, &observev1.OutcomeCount{Outcome: observev1.Outcome(o), Count: n - was.outcomes[o]})
		}
	}
	if k.protocol != "tcp" {
		for i, n := range now.latencies {
			e.LatencyCounts = append(e.LatencyCounts, n-was.latencies[i])
		}
	}
	return e
}
