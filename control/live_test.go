package control

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
)

const liveService = "apiVersion: v1\nkind: Service\nmetadata: {name: reviews, namespace: default}\nspec: {selector: {app: reviews}, ports: [{port: 9080, name: http}]}\n"

// Every proxy is asked about a service, nobody answers for another, and who does not answer is named.
func TestLimits(t *testing.T) {
	p := start(t, t.TempDir())
	if err := os.WriteFile(filepath.Join(p.state, "config", "reviews.yaml"), []byte(liveService), 0o600); err != nil {
		t.Fatal(err)
	}
	p.until(t, "the service is known", func() bool {
		u := p.latest.Load()
		return u != nil && u.Snapshot.Services.Len() == 1
	})
	const pageNode, mutedNode = "sidecar~10.0.0.9~page-0.default~default.svc.cluster.local", "sidecar~10.0.0.8~muted-0.default~default.svc.cluster.local"
	page := p.observe(t, "page", pageNode, 1)
	muted := p.observe(t, "muted", mutedNode, 1)
	p.until(t, "both proxies have introduced themselves", func() bool {
		p.edges.asking.mu.Lock()
		defer p.edges.asking.mu.Unlock()
		return len(p.edges.asking.proxies) == 2
	})
	hear := func(stream observing) *observev1.LimitsRequest {
		m, err := stream.Recv()
		if err != nil {
			t.Error(err)
		}
		return m.GetLimits()
	}
	say := func(stream observing, l *observev1.Limits) {
		_ = stream.Send(&observev1.ProxyMessage{Message: &observev1.ProxyMessage_Limits{Limits: l}})
	}
	clusters := func(most float64) []*observev1.ClusterLimits {
		return []*observev1.ClusterLimits{{Cluster: "c", Side: observev1.Side_SIDE_SOURCE, Port: 9080, Limits: []*observev1.Limit{{Kind: "pending", Value: most}}}}
	}
	p.edges.asking.patience = time.Hour // whatever else the machine does
	go func() {
		q, other := hear(page), hear(muted)
		say(page, &observev1.Limits{Request: other.GetRequest(), Clusters: clusters(1)}) // asked of somebody else
		say(page, &observev1.Limits{Request: q.GetRequest(), Clusters: clusters(2)})
		say(muted, &observev1.Limits{Request: other.GetRequest(), Clusters: clusters(3)})
	}()
	_, body := p.call(t, "GET", "/api/v1/limits?service=reviews&namespace=default", "")
	l := decode[apiv1.Limits](t, body)
	if l.Host != "reviews.default.svc.cluster.local" || l.Asked != 2 || len(l.Silent) != 0 || len(l.Limits) != 2 || *l.Limits[0].Value+*l.Limits[1].Value != 5 {
		t.Errorf("%s", body)
	}
	p.edges.asking.patience = time.Millisecond // and nobody reads what it is asked
	_, body = p.call(t, "GET", "/api/v1/limits?service=reviews.default.svc.cluster.local", "")
	if l = decode[apiv1.Limits](t, body); len(l.Silent) != 2 || l.Silent[0] != mutedNode {
		t.Errorf("%s", body)
	}
	for query, want := range map[string]int{"": 400, "?service=nosuch": 404} {
		if code, _ := p.call(t, "GET", "/api/v1/limits"+query, ""); code != want {
			t.Errorf("%q: %d", query, code)
		}
	}
}

// Who is set aside is told by the proxy that does it, and its changes are events of the service.
func TestEjections(t *testing.T) {
	p := start(t, t.TempDir())
	const node = "sidecar~10.0.0.9~page-0.default~default.svc.cluster.local"
	since := time.Now().Truncate(time.Second)
	e := &observev1.Ejection{Cluster: "outbound|9080|v1|reviews.default.svc.cluster.local", Endpoint: "10.0.0.2:9080", State: observev1.AsideState_ASIDE_STATE_EJECTED, Reason: "errors_in_a_row", InARow: 5, Status: 503, Times: 2,
		Service:  &observev1.Service{Host: "reviews.default.svc.cluster.local", Name: "reviews", Namespace: "default", Port: 9080},
		Workload: &observev1.Peer{Workload: "reviews-v1", Namespace: "default"}, SinceUnixNano: uint64(since.UnixNano()), UntilUnixNano: uint64(since.Add(30 * time.Second).UnixNano())}
	back := &observev1.Ejection{Endpoint: "10.0.0.3:9080", State: observev1.AsideState_ASIDE_STATE_RETURNED, Service: e.GetService()}
	page := p.observe(t, "page", node, 1)
	if n, err := report(page, &observev1.Report{Sequence: 1, Ejections: []*observev1.Ejection{e, back}}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	got, _ := p.events.after(t.Context(), 0, func(e *apiv1.Event) bool { return e.Kind == "Service" && e.Proxy == "default/page-0" })
	want := []string{"ejected: 10.0.0.2:9080 (default/reviews-v1): 5 errors (5xx, or no answer) in a row, the last answer was 503; for 30s", "returned: 10.0.0.3:9080: in use again: active health checks pass"}
	if len(got) != 2 || got[0].Name != "reviews" || got[0].Namespace != "default" || got[0].Type+": "+got[0].Message != want[0] || got[1].Type+": "+got[1].Message != want[1] {
		t.Errorf("%+v", got)
	}
	if _, err := report(p.observe(t, "page", node, 2), &observev1.Report{Sequence: 1, Ejections: make([]*observev1.Ejection, maxEjections+1)}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("too many: %v", err)
	}
	p.until(t, "there is one proxy", func() bool {
		p.edges.asking.mu.Lock()
		defer p.edges.asking.mu.Unlock()
		return len(p.edges.asking.proxies) == 1
	})
	p.edges.asking.patience = time.Hour
	go func() {
		m, err := page.Recv()
		if q := m.GetLimits(); err == nil && q.GetEjections() && q.GetHost() == "" {
			_ = page.Send(&observev1.ProxyMessage{Message: &observev1.ProxyMessage_Limits{Limits: &observev1.Limits{Request: q.GetRequest(), Ejections: []*observev1.Ejection{back, e}}}})
		}
	}()
	_, body := p.call(t, "GET", "/api/v1/ejections", "")
	all := decode[apiv1.Ejections](t, body)
	if len(all.Ejections) != 2 {
		t.Fatal(body)
	}
	if x := all.Ejections[0]; x.Proxy != "default/page-0" || x.State != "ejected" || x.Subset != "v1" || x.Workload != "default/reviews-v1" || x.Times != 2 || !x.Since.Equal(since) || x.Until == nil || all.Ejections[1].State != "returned" {
		t.Error(body)
	}
}
