package control

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
)

// remember answers what is asked of a proxy from its records, until its stream ends.
func remember(stream observing, all ...*observev1.Record) {
	send := func(r *observev1.Records) {
		_ = stream.Send(&observev1.ProxyMessage{Message: &observev1.ProxyMessage_Records{Records: r}})
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return
		}
		if q := m.GetLimits(); q != nil {
			_ = stream.Send(&observev1.ProxyMessage{Message: &observev1.ProxyMessage_Limits{Limits: &observev1.Limits{Request: q.GetRequest(),
				Clusters:  []*observev1.ClusterLimits{{Cluster: "c", Port: 9080, Limits: []*observev1.Limit{{Kind: "pending", Value: 7}}}},
				Ejections: []*observev1.Ejection{{Cluster: "c", Endpoint: "10.0.0.2:9080", State: observev1.AsideState_ASIDE_STATE_EJECTED}}}}})
			continue
		}
		if q := m.GetTap(); q != nil {
			if !q.GetStop() {
				_ = stream.Send(&observev1.ProxyMessage{Message: &observev1.ProxyMessage_Tapped{Tapped: &observev1.Tapped{Tap: q.GetTap(), Record: &observev1.Record{Id: "tapped", Edge: &observev1.Edge{Side: observev1.Side_SIDE_SOURCE}}}}})
			}
			continue
		}
		q := m.GetRecords()
		send(&observev1.Records{Request: q.GetRequest() + 1000, Records: []*observev1.Record{{Id: "nobody asked"}}})
		out := &observev1.Records{Request: q.GetRequest()}
		for _, r := range all {
			if q.GetId() == r.GetId() || q.GetLastErrors() > 0 && r.GetCause() != "" {
				out.Records = append(out.Records, r)
			}
		}
		send(out)
	}
}

// What two proxies know of a request becomes one story, which names the object that decided as it is now; of the last failures those
// that were asked for are told, and who does not answer is named.
func TestWhy(t *testing.T) {
	p := start(t, t.TempDir())
	if err := os.WriteFile(filepath.Join(p.state, "config", "deny.yaml"), []byte("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny, namespace: default}\nspec: {action: DENY, rules: [{}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.until(t, "the policy is known", func() bool {
		_, ok := p.lookUp(t.Context()).Object("AuthorizationPolicy", "default", "deny")
		return ok
	})
	p.edges.asking.patience = time.Hour // whatever else the machine does
	edge := func(side observev1.Side, peer string) *observev1.Edge {
		return &observev1.Edge{Side: side, Peer: &observev1.Peer{Workload: peer, Namespace: "default"}, Service: &observev1.Service{Host: "reviews.default.svc.cluster.local", Port: 9080}}
	}
	at := uint64(time.Now().UnixNano())
	page := p.observe(t, "page", "sidecar~10.0.0.9~page-0.default~default.svc.cluster.local", 1)
	go remember(page, &observev1.Record{Id: "r1", TimeUnixNano: at, EndedNano: 9e6, Status: 403, GrpcStatus: -1, Method: "GET", Authority: "reviews:9080", Path: "/x", Edge: edge(observev1.Side_SIDE_SOURCE, "reviews-v1"),
		Attempts: 1, Tries: []*observev1.Attempt{{Endpoint: "10.0.0.8:9080", Local: "10.0.0.9:4000", Status: 403}}})
	reviews := p.observe(t, "reviews", "sidecar~10.0.0.8~reviews-0.default~default.svc.cluster.local", 1)
	go remember(reviews, &observev1.Record{Id: "r1", TimeUnixNano: at + 1e6, EndedNano: 1e6, Status: 403, GrpcStatus: -1, Cause: "access_denied", Details: "rbac_access_denied_matched_policy[ns[default]-policy[deny]-rule[0]]",
		Edge: edge(observev1.Side_SIDE_DESTINATION, "page-v1"), Client: "10.0.0.9:4000", Decisions: []*observev1.Decision{{Stage: "decider", Object: "/apis/security.istio.io/v1/namespaces/default/authorization-policy/deny"}}})
	connected := func(n int) func() bool {
		return func() bool {
			p.edges.asking.mu.Lock()
			defer p.edges.asking.mu.Unlock()
			return len(p.edges.asking.proxies) == n
		}
	}
	p.until(t, "both proxies have introduced themselves", connected(2))

	ask := func(query string, want int) apiv1.Why {
		t.Helper()
		_, body := p.call(t, "GET", "/api/v1/why"+query, "")
		w := decode[apiv1.Why](t, body)
		if len(w.Stories) != want || w.Asked != 2 || len(w.Silent) > 0 {
			t.Fatalf("%s: %s", query, body)
		}
		return w
	}
	for _, query := range []string{"?id=r1", "", "?service=reviews", "?from=page&to=reviews&last=1"} {
		s := ask(query, 1).Stories[0]
		if len(s.Hops) != 2 || s.Hop != 1 || s.Cause != "access_denied" || s.At != "default/reviews-v1" {
			t.Errorf("%s: %+v", query, s)
		}
		if d := s.Decided[0]; d.Kind != "AuthorizationPolicy" || d.Name != "deny" || d.Field != "rules[0]" || !strings.HasSuffix(d.File, "deny.yaml") || d.Line != 4 || d.Since == nil || d.Gone || d.Changed {
			t.Errorf("%s: decided by %+v", query, d)
		}
	}
	ask("?id=r2", 0)
	ask("?from=ratings", 0)
	for _, bad := range []string{"?last=0", "?last=many", "?id=" + strings.Repeat("x", maxReportText+1)} {
		if code, _ := p.call(t, "GET", "/api/v1/why"+bad, ""); code != 400 {
			t.Errorf("%.20s: %d", bad, code)
		}
	}

	_ = page.CloseSend()
	_ = reviews.CloseSend()
	p.until(t, "both streams have ended", connected(0))
	p.edges.asking.patience = time.Millisecond
	p.observe(t, "page", "sidecar~10.0.0.9~page-0.default~default.svc.cluster.local", 2) // and does not read what it is asked
	p.until(t, "the proxy is back", connected(1))
	_, body := p.call(t, "GET", "/api/v1/why?id=r1", "")
	if w := decode[apiv1.Why](t, body); w.Asked != 1 || len(w.Silent) != 1 || len(w.Stories) != 0 {
		t.Errorf("nobody answers: %s", body)
	}
}
