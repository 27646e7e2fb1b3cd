package control

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
)

type observing = grpc.BidiStreamingClient[observev1.ProxyMessage, observev1.ControlMessage]

func (p *plane) observe(t *testing.T, account, node string, epoch uint64) observing {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	conn := p.dial(ctx, t, "default", account)
	t.Cleanup(func() { cancel(); conn.Close() })
	return introduce(ctx, t, conn, account, node, epoch)
}

// introduce opens the stream of a proxy.
func introduce(ctx context.Context, t *testing.T, conn *grpc.ClientConn, account, node string, epoch uint64) observing {
	t.Helper()
	stream, err := observev1.NewObserveClient(conn).Observe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	hello := &observev1.Hello{NodeId: node, Workload: account + "-v1", Epoch: epoch}
	if err := stream.Send(&observev1.ProxyMessage{Message: &observev1.ProxyMessage_Hello{Hello: hello}}); err != nil {
		t.Fatal(err)
	}
	return stream
}

func report(stream observing, r *observev1.Report) (uint64, error) {
	if err := stream.Send(&observev1.ProxyMessage{Message: &observev1.ProxyMessage_Report{Report: r}}); err != nil {
		_, err = stream.Recv()
		return 0, err
	}
	m, err := stream.Recv()
	return m.GetAck().GetSequence(), err
}

func edgeTo(workload string, count uint64) *observev1.Edge {
	return &observev1.Edge{Side: observev1.Side_SIDE_SOURCE, Transport: observev1.Transport_TRANSPORT_MTLS, Protocol: "http",
		Peer:          &observev1.Peer{Workload: workload, Namespace: "default", Identity: "spiffe://cluster.local/ns/default/sa/" + workload},
		Service:       &observev1.Service{Host: workload + ".default.svc.cluster.local", Name: workload, Namespace: "default", Port: 9080},
		Outcomes:      []*observev1.OutcomeCount{{Outcome: observev1.Outcome_OUTCOME_OK, Count: count}, {Outcome: observev1.Outcome_OUTCOME_SERVER_ERROR, Count: 1}},
		LatencyCounts: []uint64{count, 0, 0, 0, 0, 0, 1}}
}

// Edges add up, each report once, and a proxy reports only as who it is.
func TestEdges(t *testing.T) {
	p := start(t, t.TempDir())
	if err := os.WriteFile(filepath.Join(p.state, "run", "pods", "page.yaml"), []byte(pod("page")), 0o600); err != nil {
		t.Fatal(err)
	}
	p.until(t, "the pod is known", func() bool { return p.latest.Load().Snapshot.Workloads.Len() == 1 })
	const node = "sidecar~10.0.0.9~page-0.default~default.svc.cluster.local"

	a := p.observe(t, "page", node, 5)
	for i, r := range []*observev1.Report{{Sequence: 1, Edges: []*observev1.Edge{edgeTo("reviews", 2)}, Lost: 3}, {Sequence: 1, Edges: []*observev1.Edge{edgeTo("reviews", 2)}, Lost: 3}} {
		stream := a
		if i == 1 { // the acknowledgement was lost with its stream
			stream = p.observe(t, "page", node, 5)
		}
		if n, err := report(stream, r); n != 1 || err != nil {
			t.Fatalf("report %d: acknowledged %d, %v", i, n, err)
		}
	}
	// Another process begins to count anew.
	b := p.observe(t, "page", node, 6)
	if n, err := report(b, &observev1.Report{Sequence: 1, Edges: []*observev1.Edge{edgeTo("reviews", 5), edgeTo("ratings", 1)}}); n != 1 || err != nil {
		t.Fatalf("acknowledged %d, %v", n, err)
	}
	_, body := p.call(t, "GET", "/api/v1/edges?since=1h", "")
	got := decode[apiv1.Edges](t, body)
	if len(got.Edges) != 2 || got.Lost != 3 || got.Reporting != 3 {
		t.Fatalf("got %s", body)
	}
	e := got.Edges[1]
	if e.Source != (apiv1.EdgeEnd{Workload: "page-0", Namespace: "default", Identity: "spiffe://cluster.local/ns/default/sa/page"}) || e.Destination.Workload != "reviews" ||
		e.Service != "default/reviews" || e.Port != 9080 || e.Transport != "mtls" || e.Requests != 9 || e.ServerErrors != 2 || e.Recent != 9 || e.RecentFailures != 2 || e.LatencyCounts[0] != 7 {
		t.Errorf("got %+v", e)
	}
	if _, body = p.call(t, "GET", "/api/v1/edges?workload=ratings", ""); len(decode[apiv1.Edges](t, body).Edges) != 1 {
		t.Errorf("got %s", body)
	}
	if _, body = p.call(t, "GET", "/metrics", ""); !strings.Contains(body, "weir_control_observe_edges 2\n") {
		t.Error("the metrics do not say how many edges there are")
	}

	many := &observev1.Report{Sequence: 2}
	for range maxReportEdges + 1 {
		many.Edges = append(many.Edges, edgeTo("x", 1))
	}
	for _, c := range []struct {
		what, account, node string
		r                   *observev1.Report
		want                codes.Code
	}{
		{"another namespace", "page", "sidecar~10.0.0.9~page-0.shop~shop.svc.cluster.local", &observev1.Report{}, codes.PermissionDenied},
		{"a workload of another account", "thief", node, &observev1.Report{}, codes.PermissionDenied},
		{"a node without end", "page", "sidecar~10.0.0.9~" + strings.Repeat("x", 4096) + ".default~default.svc.cluster.local", &observev1.Report{}, codes.PermissionDenied},
		{"no node", "page", "page-0", &observev1.Report{}, codes.PermissionDenied},
		{"too many edges", "page", node, many, codes.InvalidArgument},
		{"a name without end", "page", node, &observev1.Report{Sequence: 2, Edges: []*observev1.Edge{edgeTo(strings.Repeat("x", 600), 1)}}, codes.InvalidArgument},
		{"no side", "page", node, &observev1.Report{Sequence: 2, Edges: []*observev1.Edge{{}}}, codes.InvalidArgument},
	} {
		if _, err := report(p.observe(t, c.account, c.node, 7), c.r); status.Code(err) != c.want {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	// Without a hello there is no stream.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	conn := p.dial(ctx, t, "default", "page")
	defer conn.Close()
	stream, err := observev1.NewObserveClient(conn).Observe(ctx)
	if err == nil {
		_, err = report(stream, &observev1.Report{Sequence: 9})
	}
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a report without a hello: %v", err)
	}
}

// What is old goes, what has no room is counted, and the last minute is the last minute.
func TestEdgeTable(t *testing.T) {
	tab := newEdgeTable()
	at := time.Unix(1_800_000_000, 0)
	bytes := func() (n int) {
		for k := range tab.m {
			n += k.weight()
		}
		return n
	}
	long := strings.Repeat("x", maxReportText)
	for i := range 80_000 { // who makes up names fills his own share
		tab.add("liar", edgeKey{host: fmt.Sprint(i), service: long, source: apiv1.EdgeEnd{Workload: long}}, edgeTo("x", 1), at)
	}
	if n := bytes(); n > eachEdges || n < eachEdges/10*9 || tab.dropped != uint64(80_000-len(tab.m)) {
		t.Errorf("%d edges of %d bytes, %d dropped", len(tab.m), n, tab.dropped)
	}
	tab.add("page", edgeKey{host: "1"}, edgeTo("x", 1), at)
	for i := range 80_000 {
		tab.add(fmt.Sprint(i%20), edgeKey{host: fmt.Sprint("h", i), service: long, source: apiv1.EdgeEnd{Workload: long}}, edgeTo("x", 1), at)
	}
	if n := bytes(); n > allEdges {
		t.Errorf("%d edges of %d bytes", len(tab.m), n)
	}
	all := func(*apiv1.Edge) bool { return true }
	tab.add("page", edgeKey{host: "1"}, edgeTo("x", 10), at.Add(50*time.Second))
	if e := tab.list(at.Add(70*time.Second), at.Add(time.Second), all).Edges; len(e) != 1 || e[0].Requests != 13 || e[0].Recent != 11 || e[0].RecentFailures != 1 || e[0].RecentLatency[0] != 10 || e[0].LatencyCounts[0] != 11 {
		t.Errorf("got %+v", e)
	}
	if n := len(tab.list(at.Add(edgeAge+40*time.Second), time.Time{}, all).Edges); n != 1 {
		t.Errorf("%d edges are left", n)
	}
}

// What a report costs: of a proxy that talks to ten others.
func BenchmarkReport(b *testing.B) {
	tab := newEdgeTable()
	who := &reporter{self: apiv1.EdgeEnd{Workload: "page", Namespace: "default"}}
	var edges []*observev1.Edge
	for i := range 10 {
		edges = append(edges, edgeTo(fmt.Sprint("w", i), 1))
	}
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		for _, e := range edges {
			tab.add("page", keyOf(who, e), e, now)
		}
	}
}
