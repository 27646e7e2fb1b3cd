package control

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/server"
)

const (
	// observeToken in our identifier tells proxies that the stream is served.
	observeToken = "weir-observe/1"
	// What a proxy may send: a report is of at most 1,000 edges, every 5 s.
	maxReportEdges   = 1000
	maxReportText    = 512 // bytes of a name
	maxEjections     = 100
	minReportSpacing = 100 * time.Millisecond
	helloTimeout     = 15 * time.Second
	maxObservers     = 20_000
)

// edges is the control plane's end of the observe streams. A proxy says only what the
// other end of an edge is: its own end is who its certificate says.
type edges struct {
	observev1.UnimplementedObserveServer
	p      *Plane
	table  edgeTable
	asking asking
	taps   taps
	stop   chan struct{}
	once   sync.Once

	streams, reports, refused atomic.Int64

	mu   sync.Mutex
	seen map[string]progress // by node
}

// progress is the last report of a process that was counted: on a new stream it may be
// sent again.
type progress struct {
	epoch, sequence uint64
	at              time.Time
}

func newEdges(p *Plane) *edges {
	return &edges{p: p, table: newEdgeTable(), asking: asking{patience: askTime, proxies: map[*reporter]bool{}, waiting: map[uint64]waiter{}}, taps: taps{open: map[uint64]*tap{}}, stop: make(chan struct{}), seen: map[string]progress{}}
}

// close ends all streams.
func (s *edges) close() { s.once.Do(func() { close(s.stop) }) }

// Observe is observev1.ObserveServer.
func (s *edges) Observe(stream grpc.BidiStreamingServer[observev1.ProxyMessage, observev1.ControlMessage]) error {
	if s.streams.Add(1) > maxObservers {
		s.streams.Add(-1)
		return status.Errorf(codes.ResourceExhausted, "the control plane listens to %d proxies already, which is its limit", maxObservers)
	}
	defer s.streams.Add(-1)
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	messages := make(chan *observev1.ProxyMessage)
	ended := make(chan error, 1)
	go func() { // ends with the stream, which ends with this function
		for {
			m, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case messages <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	tooLate := time.NewTimer(helloTimeout)
	defer tooLate.Stop()
	var who *reporter
	var orders <-chan *observev1.ControlMessage // once it has introduced itself
	for {
		select {
		case m := <-orders:
			if err := stream.Send(m); err != nil {
				return err
			}
		case m := <-messages:
			var err error
			if who == nil {
				tooLate.Stop()
				if who, err = s.introduce(stream.Context(), m.GetHello()); err == nil {
					orders = who.orders
					s.asking.enter(who)
					defer s.asking.leave(who)
					for _, m := range s.taps.all() {
						if err := stream.Send(m); err != nil {
							return err
						}
					}
				}
			} else if a := m.GetRecords(); a != nil {
				s.asking.heard(who, a.GetRequest(), m)
			} else if a := m.GetLimits(); a != nil {
				s.asking.heard(who, a.GetRequest(), m)
			} else if a := m.GetLogLevel(); a != nil {
				s.asking.heard(who, a.GetRequest(), m)
			} else if t := m.GetTapped(); t != nil {
				if stop := s.taps.heard(who, t); stop != nil {
					err = stream.Send(stop)
				}
			} else if c := m.GetCertificate(); c != nil {
				if len(c.GetRoot()) > maxRootText {
					err = status.Error(codes.InvalidArgument, "the serial number of the root is too long")
				}
				who.held.Store(saidToHold(c))
			} else if c := m.GetCondition(); c != nil {
				if bad := who.hear(c, time.Now().Round(0)); bad != nil {
					err = status.Error(codes.InvalidArgument, bad.Error())
				}
			} else if r := m.GetReport(); r != nil {
				err = s.report(stream, who, r)
			}
			if err != nil {
				s.refused.Add(1)
				return err
			}
		case <-ended: // whatever the reason, nobody is there to be told
			return nil
		case <-s.stop:
			return status.Error(codes.Unavailable, "the control plane is stopping")
		case <-tooLate.C:
			return status.Errorf(codes.DeadlineExceeded, "no hello came within %v", helloTimeout)
		}
	}
}

// reporter is a proxy that introduced itself.
type reporter struct {
	node  string
	self  apiv1.EdgeEnd
	epoch uint64
	last  time.Time
	held  atomic.Pointer[said] // that it said it shows; nil: it has not
	// condition is what it said of itself; nil: nothing.
	condition atomic.Pointer[condition]
	// orders are for it to answer, or to follow.
	orders chan *observev1.ControlMessage
	gone   <-chan struct{} // closed when its stream has ended
}

// introduce holds who a proxy claims to be against the identity it proved.
func (s *edges) introduce(ctx context.Context, h *observev1.Hello) (*reporter, error) {
	if h == nil {
		return nil, status.Error(codes.InvalidArgument, "the first message must be a hello")
	}
	var who server.Peer
	if gp, ok := peer.FromContext(ctx); ok {
		who.Addr = gp.Addr.String()
		if t, ok := gp.AuthInfo.(credentials.TLSInfo); ok && t.SPIFFEID != nil {
			who.ID = t.SPIFFEID.String()
		}
	}
	namespace, name, _ := strings.Cut(workloadOf(h.GetNodeId()), "/")
	meta := &structpb.Struct{Fields: map[string]*structpb.Value{"NAMESPACE": structpb.NewStringValue(namespace)}}
	if err := authorize(who, &corev3.Node{Id: h.GetNodeId(), Metadata: meta}); err != nil {
		s.p.o.Log.Warn("observe stream refused", "node", clip(h.GetNodeId()), "peer", who.Addr, "id", who.ID, "err", err)
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	if len(h.GetWorkload()) > maxReportText {
		return nil, status.Error(codes.InvalidArgument, "the name of the workload is too long")
	}
	r := &reporter{orders: make(chan *observev1.ControlMessage), gone: ctx.Done(), node: h.GetNodeId(), epoch: h.GetEpoch(), self: apiv1.EdgeEnd{Workload: h.GetWorkload(), Namespace: namespace, Identity: who.ID}}
	if u := s.p.latest.Load(); u != nil {
		if w := u.Snapshot.Workloads.At(mesh.NewKey(namespace, name)); w != nil {
			if id, err := identity.Parse(who.ID); err != nil || id.ServiceAccount != w.ServiceAccount {
				return nil, status.Errorf(codes.PermissionDenied, "workload %s/%s has another service account than the certificate", namespace, name)
			}
			r.self.Workload = cmp.Or(w.Owner, w.Name)
		}
	}
	return r, nil
}

// report counts one report, unless it was counted before, and acknowledges it.
func (s *edges) report(stream grpc.BidiStreamingServer[observev1.ProxyMessage, observev1.ControlMessage], who *reporter, r *observev1.Report) error {
	now := time.Now()
	if now.Sub(who.last) < minReportSpacing {
		return status.Errorf(codes.ResourceExhausted, "reports come faster than every %v", minReportSpacing)
	}
	who.last = now
	if len(r.GetEdges()) > maxReportEdges {
		return status.Errorf(codes.InvalidArgument, "a report of %d edges, more than %d", len(r.GetEdges()), maxReportEdges)
	}
	for _, e := range r.GetEdges() {
		if err := sound(e); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
	}
	if len(r.GetEjections()) > maxEjections {
		return status.Errorf(codes.InvalidArgument, "a report of %d ejections, more than %d", len(r.GetEjections()), maxEjections)
	}
	if s.isNew(who, r.GetSequence(), now) {
		if !s.p.noteCallers(who, r, now.Round(0)) {
			return status.Error(codes.Unavailable, "the control plane is stopping")
		}
		s.reports.Add(1)
		s.table.mu.Lock()
		s.table.lost += r.GetLost()
		s.table.mu.Unlock()
		for _, e := range r.GetEdges() {
			s.table.add(who.self.Identity, keyOf(who, e), e, now)
		}
		s.p.events.add(now, asideEvents(who, r.GetEjections())...)
	}
	return stream.Send(&observev1.ControlMessage{Message: &observev1.ControlMessage_Ack{Ack: &observev1.Ack{Sequence: r.GetSequence()}}})
}

// isNew notes a report.
func (s *edges) isNew(who *reporter, sequence uint64, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, known := s.seen[who.node]
	if known && last.epoch == who.epoch && sequence <= last.sequence {
		return false
	}
	if !known && len(s.seen) >= maxObservers {
		for node, x := range s.seen {
			if now.Sub(x.at) > time.Hour {
				delete(s.seen, node)
			}
		}
	}
	if known || len(s.seen) < 2*maxObservers {
		s.seen[who.node] = progress{who.epoch, sequence, now}
	}
	return true
}

// sound refuses what could not be an edge.
func sound(e *observev1.Edge) error {
	for _, text := range []string{e.GetPeer().GetWorkload(), e.GetPeer().GetNamespace(), e.GetPeer().GetIdentity(), e.GetPeer().GetVersion(),
		e.GetService().GetHost(), e.GetService().GetName(), e.GetService().GetNamespace(), e.GetProtocol()} {
		if len(text) > maxReportText {
			return fmt.Errorf("a name of %d bytes, more than %d", len(text), maxReportText)
		}
	}
	if e.GetSide() != observev1.Side_SIDE_SOURCE && e.GetSide() != observev1.Side_SIDE_DESTINATION {
		return fmt.Errorf("side %v", e.GetSide())
	}
	if len(e.GetOutcomes()) > int(observev1.Outcome_OUTCOME_PROXY)+1 {
		return fmt.Errorf("%d outcomes", len(e.GetOutcomes()))
	}
	return nil
}

var transports = map[observev1.Transport]string{observev1.Transport_TRANSPORT_PLAINTEXT: "plaintext", observev1.Transport_TRANSPORT_MTLS: "mtls", observev1.Transport_TRANSPORT_TLS: "tls"}

func keyOf(who *reporter, e *observev1.Edge) edgeKey {
	// Names repeat over thousands of edges: each is held once.
	one := func(s string) string { return unique.Make(s).Value() }
	other := apiv1.EdgeEnd{Workload: one(e.GetPeer().GetWorkload()), Namespace: one(e.GetPeer().GetNamespace()), Identity: one(e.GetPeer().GetIdentity()), Version: one(e.GetPeer().GetVersion())}
	k := edgeKey{source: who.self, target: other, host: one(e.GetService().GetHost()), service: one(qualified(e.GetService().GetNamespace(), e.GetService().GetName())),
		port: e.GetService().GetPort(), transport: transports[e.GetTransport()], protocol: one(e.GetProtocol())}
	if e.GetSide() == observev1.Side_SIDE_DESTINATION {
		k.destination, k.source, k.target = true, other, who.self
	}
	return k
}

// handleEdges is GET /api/v1/edges.
func (p *Plane) handleEdges(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var since time.Time
	if s := q.Get("since"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			fail(w, http.StatusBadRequest, "since "+quote(s)+" is not a duration", "for example since=5m")
			return
		}
		if d > edgeAge {
			fail(w, http.StatusBadRequest, "since "+quote(s)+" is longer ago than what is remembered", "at most 25h")
			return
		}
		since = time.Now().Add(-d)
	}
	namespace, workload := q.Get("namespace"), q.Get("workload")
	out := p.everyEdge(r.Context(), since)
	out.Edges = slices.DeleteFunc(out.Edges, func(e apiv1.Edge) bool {
		return namespace != "" && e.Source.Namespace != namespace && e.Destination.Namespace != namespace ||
			workload != "" && e.Source.Workload != workload && e.Destination.Workload != workload
	})
	answer(w, http.StatusOK, out)
}
