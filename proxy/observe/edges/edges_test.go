package edges

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/weirmesh/weir/api/causes"
	observev1 "github.com/weirmesh/weir/api/observe/v1"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/observe/records"
)

var (
	page    = &observe.Peer{Workload: "productpage-v1", Namespace: "default", CanonicalRevision: "v1"}
	reviews = &observe.Peer{Workload: "reviews-v2", Namespace: "default", CanonicalRevision: "v2"}
	service = observe.Service{Host: "reviews.default.svc.cluster.local", Name: "reviews", Namespace: "default"}
)

const (
	pageID    = "spiffe://cluster.local/ns/default/sa/productpage"
	reviewsID = "spiffe://cluster.local/ns/default/sa/reviews"
)

func totals(w *observe.Worker) *observe.Totals {
	t := observe.NewTotals()
	t.Add(w)
	return t
}

// called is a request as the caller's proxy counts it.
func called(status uint16, flags causes.Flags) *observe.Labels {
	return &observe.Labels{Reporter: observe.Source, Source: page, Destination: reviews, SourcePrincipal: pageID, DestPrincipal: reviewsID, Encrypted: true,
		Service: service, Port: 9080, Protocol: "http", Status: status, GRPCStatus: -1, Flags: flags}
}

// What is reported is what changed, added up by edge; what was acknowledged is not
// reported again, and what was not stays the same report.
func TestReports(t *testing.T) {
	w, r := observe.NewWorker(), &Reporter{}
	if got := r.Next(totals(w)); got != nil {
		t.Errorf("nothing happened, and that is %v", got)
	}
	w.Request(called(200, 0), 3*time.Millisecond, 10, 100)
	w.Request(called(200, causes.DelayInjected), 3*time.Millisecond, 10, 100)
	w.Request(called(404, 0), 30*time.Millisecond, 10, 100)
	w.Request(called(503, 0), 3*time.Second, 10, 100)
	w.Request(called(503, causes.NoHealthyUpstreamFlag), 0, 10, 0)
	plain := &observe.Labels{Reporter: observe.Destination, Destination: page, Service: observe.Service{Host: "productpage"}, Port: 9080, Protocol: "tcp", GRPCStatus: -1}
	s := w.TCP(plain)
	s.Opened, s.Received, s.Sent = 2, 7, 8
	first := r.Next(totals(w))
	want := &observev1.Report{Sequence: 1, Edges: []*observev1.Edge{
		{Side: observev1.Side_SIDE_SOURCE, Peer: &observev1.Peer{Workload: "reviews-v2", Namespace: "default", Identity: reviewsID, Version: "v2"},
			Service:   &observev1.Service{Host: service.Host, Name: "reviews", Namespace: "default", Port: 9080},
			Transport: observev1.Transport_TRANSPORT_MTLS, Protocol: "http", SentBytes: 50, ReceivedBytes: 400, LatencySeconds: 3.036,
			Outcomes: []*observev1.OutcomeCount{{Outcome: observev1.Outcome_OUTCOME_OK, Count: 2}, {Outcome: observev1.Outcome_OUTCOME_CLIENT_ERROR, Count: 1},
				{Outcome: observev1.Outcome_OUTCOME_SERVER_ERROR, Count: 1}, {Outcome: observev1.Outcome_OUTCOME_PROXY, Count: 1}},
			LatencyCounts: []uint64{1, 2, 0, 1, 0, 0, 1}},
		{Side: observev1.Side_SIDE_DESTINATION, Peer: &observev1.Peer{}, Service: &observev1.Service{Host: "productpage", Port: 9080},
			Transport: observev1.Transport_TRANSPORT_PLAINTEXT, Protocol: "tcp", SentBytes: 7, ReceivedBytes: 8,
			Outcomes: []*observev1.OutcomeCount{{Outcome: observev1.Outcome_OUTCOME_OK, Count: 2}}},
	}}
	slices.SortFunc(first.Edges, func(a, b *observev1.Edge) int { return int(a.Side) - int(b.Side) })
	if d := cmp.Diff(want, first, protocmp.Transform()); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	w.Request(called(200, 0), time.Millisecond, 1, 1)
	if r.Acked(99); r.Pending() != first {
		t.Error("an acknowledgement of something else counts")
	}
	r.Acked(1)
	second := r.Next(totals(w))
	if len(second.GetEdges()) != 1 || second.Sequence != 2 || second.Edges[0].SentBytes != 1 || second.Edges[0].Outcomes[0].Count != 1 {
		t.Errorf("the second report is %v", second)
	}
	r.Acked(2)
	if got := r.Next(totals(w)); got != nil {
		t.Errorf("nothing happened since, and that is %v", got)
	}
}

// How a call was secured is known where something was sent only.
func TestTransports(t *testing.T) {
	unsecured := func(l *observe.Labels, change func(*observe.Labels)) *observe.Labels {
		l.SourcePrincipal, l.DestPrincipal, l.Encrypted = "", "", false
		if change != nil {
			change(l)
		}
		return l
	}
	for _, c := range []struct {
		name   string
		labels *observe.Labels
		want   observev1.Transport
	}{
		{"mutual TLS", called(200, 0), observev1.Transport_TRANSPORT_MTLS},
		{"mutual TLS, and no connection at the last attempt", called(503, causes.UpstreamConnectionFailure), observev1.Transport_TRANSPORT_MTLS},
		{"plaintext", unsecured(called(200, 0), nil), observev1.Transport_TRANSPORT_PLAINTEXT},
		{"plaintext that was reset", unsecured(called(503, causes.UpstreamConnectionTermination), nil), observev1.Transport_TRANSPORT_PLAINTEXT},
		{"no connection", unsecured(called(503, causes.UpstreamConnectionFailure|causes.UpstreamRetryLimitExceeded), nil), observev1.Transport_TRANSPORT_UNSPECIFIED},
		{"nobody to connect to", unsecured(called(503, causes.NoHealthyUpstreamFlag), nil), observev1.Transport_TRANSPORT_UNSPECIFIED},
		{"answered by the proxy", unsecured(called(301, 0), func(l *observe.Labels) { l.Service, l.Port = observe.Service{}, 0 }), observev1.Transport_TRANSPORT_UNSPECIFIED},
		{"refused by a server that was asked in plaintext", unsecured(called(429, causes.RateLimited), func(l *observe.Labels) { l.Reporter = observe.Destination }), observev1.Transport_TRANSPORT_PLAINTEXT},
	} {
		if k := edgeOf(c.labels); k.transport != c.want {
			t.Errorf("%s: %v, want %v", c.name, k.transport, c.want)
		}
	}
}

// A report is bounded; what has no room comes with the next. What had no series is lost,
// and that is said.
func TestReportsAreBounded(t *testing.T) {
	w, r := observe.NewWorker(), &Reporter{}
	for i := range maxReport + 10 {
		l := called(200, 0)
		l.Service.Host = fmt.Sprint(i)
		w.Request(l, 0, 0, 0)
	}
	w.Overflow = 3
	a := r.Next(totals(w))
	r.Acked(1)
	b := r.Next(totals(w))
	if len(a.Edges) != maxReport || len(b.Edges) != 10 || a.Lost != 3 || b.Lost != 0 {
		t.Errorf("reports of %d and %d edges, %d and %d lost", len(a.Edges), len(b.Edges), a.Lost, b.Lost)
	}
}

func TestAnnounced(t *testing.T) {
	for identifier, want := range map[string]bool{"": false, "istiod-1": false, "weir-control/1 weir-observe/1": true, "weir-observe/12": false, "x weir-observe/1 weir-ondemand/1": true} {
		if got := Announced(identifier); got != want {
			t.Errorf("%q: %v", identifier, got)
		}
	}
}

// conn is a control plane at the other end of a stream.
type conn struct {
	grpc.ClientConnInterface
	ctx       context.Context
	sent      chan *observev1.ProxyMessage
	heard     chan *observev1.ControlMessage
	unwilling bool
}

func (c *conn) NewStream(ctx context.Context, _ *grpc.StreamDesc, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	if c.unwilling {
		return nil, errors.New("unimplemented")
	}
	return &clientStream{c: c, ctx: ctx}, nil
}

type clientStream struct {
	grpc.ClientStream
	c   *conn
	ctx context.Context
}

func (s *clientStream) SendMsg(m any) error {
	select {
	case s.c.sent <- m.(*observev1.ProxyMessage):
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

func (s *clientStream) RecvMsg(m any) error {
	select {
	case x, ok := <-s.c.heard:
		if !ok {
			return errors.New("gone")
		}
		m.(*observev1.ControlMessage).Message = x.Message
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// A stream that breaks costs nothing: the report that was not acknowledged comes again
// under its number, and what happened meanwhile in the next. A control plane that asks for
// records is told that there are none. While nothing happens, nothing is looked at.
func TestSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex // a worker's own thread, in a proxy
		w := observe.NewWorker()
		request := func() {
			mu.Lock()
			defer mu.Unlock()
			w.Request(called(200, 0), 0, 0, 0)
		}
		var looks atomic.Int64
		var aside []*observev1.Ejection
		stirred := make(chan struct{}, 1)
		var until uint64
		renewed, replaced := make(chan struct{}), make(chan struct{})
		var files []*observev1.CertificateFile
		conns := make(chan *conn)
		s := NewSender(Options{Hello: &observev1.Hello{NodeId: "n", Workload: "w"}, Log: slog.New(slog.DiscardHandler),
			Collect: func() *observe.Totals {
				mu.Lock()
				defer mu.Unlock()
				looks.Add(1)
				return totals(w)
			},
			Limits: func(q *observev1.LimitsRequest) *observev1.Limits { return &observev1.Limits{Request: q.GetRequest()} },
			Certificate: func() (*observev1.Certificate, <-chan struct{}) {
				mu.Lock()
				defer mu.Unlock()
				if until == 0 {
					return nil, renewed
				}
				return &observev1.Certificate{UntilUnixNano: until}, renewed
			},
			Files: func() ([]*observev1.CertificateFile, <-chan struct{}) {
				mu.Lock()
				defer mu.Unlock()
				return files, replaced
			},
			Aside: func() []*observev1.Ejection {
				mu.Lock()
				defer mu.Unlock()
				out := aside
				aside = nil
				return out
			},
			Condition: func() (*observev1.Condition, <-chan struct{}) { return &observev1.Condition{}, nil },
			Tap:       func(*observev1.TapRequest) {},
			Stirred:   stirred,
			Records: func(q *observev1.RecordsRequest) *observev1.Records {
				return &observev1.Records{Request: q.GetRequest(), Records: []*observev1.Record{{Id: q.GetId()}}}
			},
			Connect: func(ctx context.Context) (grpc.ClientConnInterface, error) {
				select {
				case c := <-conns:
					return c, nil
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}})
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		connect := func() (*conn, *observev1.Hello) {
			c := &conn{ctx: ctx, sent: make(chan *observev1.ProxyMessage), heard: make(chan *observev1.ControlMessage)}
			conns <- c
			return c, (<-c.sent).GetHello()
		}
		renew := func() {
			mu.Lock()
			defer mu.Unlock()
			until++
			close(renewed)
			renewed = make(chan struct{})
		}
		conns <- &conn{unwilling: true}

		a, hello := connect()
		renew() // the first one
		if c := (<-a.sent).GetCertificate(); c.GetUntilUnixNano() != 1 {
			t.Errorf("the first certificate: %v", c)
		}
		request()
		first := (<-a.sent).GetReport()
		request()
		mu.Lock()
		aside = []*observev1.Ejection{{Endpoint: "10.0.0.2:9080"}}
		mu.Unlock()
		close(a.heard)

		b, again := connect()
		if c := (<-b.sent).GetCertificate(); c.GetUntilUnixNano() != 1 {
			t.Errorf("on another stream: %v", c)
		}
		if hello.GetEpoch() == 0 || hello.GetEpoch() != again.GetEpoch() || hello.GetNodeId() != "n" {
			t.Errorf("said hello as %v, then as %v", hello, again)
		}
		if d := cmp.Diff(first, (<-b.sent).GetReport(), protocmp.Transform()); d != "" {
			t.Errorf("the report has changed (-first +second)\n%s", d)
		}
		b.heard <- &observev1.ControlMessage{Message: &observev1.ControlMessage_Ack{Ack: &observev1.Ack{Sequence: 1}}}
		if r := (<-b.sent).GetReport(); r.GetSequence() != 2 || r.Edges[0].Outcomes[0].Count != 1 || len(r.GetEjections()) != 1 {
			t.Errorf("then came %v", r)
		}
		b.heard <- &observev1.ControlMessage{Message: &observev1.ControlMessage_Records{Records: &observev1.RecordsRequest{Request: 7, Which: &observev1.RecordsRequest_Id{Id: "x"}}}}
		if r := (<-b.sent).GetRecords(); r.GetRequest() != 7 || len(r.GetRecords()) != 1 || r.GetRecords()[0].GetId() != "x" {
			t.Errorf("records: %v", r)
		}
		b.heard <- &observev1.ControlMessage{Message: &observev1.ControlMessage_Limits{Limits: &observev1.LimitsRequest{Request: 8}}}
		if l := (<-b.sent).GetLimits(); l.GetRequest() != 8 {
			t.Errorf("limits: %v", l)
		}
		renew()
		if c := (<-b.sent).GetCertificate(); c.GetUntilUnixNano() != 2 {
			t.Errorf("renewed: %v", c)
		}
		mu.Lock()
		files = []*observev1.CertificateFile{{Path: "/etc/tls.crt"}}
		close(replaced)
		replaced = make(chan struct{})
		mu.Unlock()
		if c := (<-b.sent).GetCertificate(); c.GetUntilUnixNano() != 2 || len(c.GetFiles()) != 1 {
			t.Errorf("with another file: %v", c)
		}
		// Nobody acknowledges the second: the stream is given up.
		start := time.Now()
		c, _ := connect()
		<-c.sent // its certificate
		if d := time.Since(start); d < patience/2 || d > 2*patience {
			t.Errorf("gave up after %v", d)
		}
		if r := (<-c.sent).GetReport(); r.GetSequence() != 2 {
			t.Errorf("then came %v", r)
		}
		if s.Stats.Reports.Load() != 1 || s.Stats.Streams.Load() != 3 {
			t.Errorf("%d reports on %d streams", s.Stats.Reports.Load(), s.Stats.Streams.Load())
		}
		c.heard <- &observev1.ControlMessage{Message: &observev1.ControlMessage_Ack{Ack: &observev1.Ack{Sequence: 2}}}
		synctest.Wait()
		before := looks.Load()
		time.Sleep(time.Hour) // of the bubble's clock
		if n := looks.Load() - before; n > 1 {
			t.Errorf("looked %d times while nothing happened", n)
		}
		start = time.Now()
		request()
		stirred <- struct{}{}
		if r := (<-c.sent).GetReport(); r.GetSequence() != 3 || time.Since(start) > interval {
			t.Errorf("%v after something happened came %v", time.Since(start), r)
		}
		// Who asks for it is told at once: first what was reported and not acknowledged, then what happened since, then that this was all.
		ask := func(n uint64) {
			c.heard <- &observev1.ControlMessage{Message: &observev1.ControlMessage_Limits{Limits: &observev1.LimitsRequest{Request: n, Report: true}}}
		}
		ack := func(n uint64) {
			c.heard <- &observev1.ControlMessage{Message: &observev1.ControlMessage_Ack{Ack: &observev1.Ack{Sequence: n}}}
		}
		start = time.Now()
		request()
		ask(9)
		ack(3)
		if r := (<-c.sent).GetReport(); r.GetSequence() != 4 || r.Edges[0].Outcomes[0].Count != 1 {
			t.Errorf("asked for a report: %v", r)
		}
		if l := (<-c.sent).GetLimits(); l.GetRequest() != 9 || !l.GetReported() {
			t.Errorf("after it: %v", l)
		}
		ack(4)
		synctest.Wait()
		time.Sleep(time.Hour) // it is idle
		ask(10)
		if l := (<-c.sent).GetLimits(); l.GetRequest() != 10 || !l.GetReported() {
			t.Errorf("with nothing to report: %v", l)
		}
		if d := time.Since(start) - time.Hour; d > 2*spacing {
			t.Errorf("that took %v", d)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A record is told whole: who and what, what was decided and because of which object, and each attempt.
func TestRecord(t *testing.T) {
	r := &records.Record{Facts: records.Facts{Start: time.Unix(1, 5), Ended: 3 * time.Second, ResponseBegan: 2 * time.Second, RequestEnded: time.Second, Labels: *called(503, causes.UpstreamConnectionFailure), Cause: causes.UpstreamConnectRefused,
		Details: "d", Said: causes.Heard([]byte("denied; id=id")), Listener: "outbound_0.0.0.0_9080", Host: "reviews", Route: "default", Cluster: "outbound|9080||reviews", RouteOrigin: observe.OriginOf(observe.Object{Config: "/apis/x", File: "a.yaml", Line: 7}),
		Client: records.AddrOf(netip.MustParseAddrPort("10.0.0.1:40000")), Asked: records.AddrOf(netip.MustParseAddrPort("10.96.0.1:9080")), Attempts: 1}}
	r.Set(records.ID, []byte("id"))
	r.Set(records.Method, []byte("GET"))
	r.Set(records.Authority, []byte("reviews:9080"))
	r.Set(records.Path, []byte("/reviews/0"))
	*r.Try() = records.Attempt{Endpoint: records.AddrOf(netip.MustParseAddrPort("10.0.0.2:9080")), Cause: causes.UpstreamConnectRefused, Failure: "f", Began: time.Millisecond, Ended: 2 * time.Millisecond}
	want := &observev1.Record{
		Id: "id", TimeUnixNano: 1e9 + 5, Cause: "upstream_connect_refused", Flags: "UF", Status: 503, Protocol: "http", Method: "GET", Authority: "reviews:9080", Path: "/reviews/0", GrpcStatus: -1, Details: "d", Said: "denied",
		Edge: &observev1.Edge{Side: observev1.Side_SIDE_SOURCE, Peer: &observev1.Peer{Workload: "reviews-v2", Namespace: "default", Identity: reviewsID, Version: "v2"},
			Service: &observev1.Service{Host: service.Host, Name: "reviews", Namespace: "default", Port: 9080}, Transport: observev1.Transport_TRANSPORT_MTLS, Protocol: "http"},
		Decisions: []*observev1.Decision{{Stage: "listener", Part: "outbound_0.0.0.0_9080"}, {Stage: "host", Part: "reviews"}, {Stage: "route", Part: "default", Object: "/apis/x", File: "a.yaml", Line: 7},
			{Stage: "cluster", Part: "outbound|9080||reviews"}},
		Client: "10.0.0.1:40000", Asked: "10.96.0.1:9080", Attempts: 1, Tries: []*observev1.Attempt{{Endpoint: "10.0.0.2:9080", Cause: "upstream_connect_refused", Failure: "f", BeganNano: 1e6, EndedNano: 2e6}},
		RequestEndedNano: 1e9, ResponseBeganNano: 2e9, EndedNano: 3e9,
	}
	if diff := cmp.Diff(want, Record(r), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}
