package control

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
)

// FuzzAPI asks the API anything. It answers: what it says in JSON is JSON, and whatever is not asked well is the caller's
// fault. Nothing is written (dry-run), nothing is waited for.
func FuzzAPI(f *testing.F) {
	for _, target := range []string{
		"GET /api/v1/status", "GET /api/v1/objects?raw", "GET /api/v1/objects/Service/default/reviews", "GET /api/v1/receipts/Service/default/reviews",
		"GET /api/v1/wait?version=1&timeout=1ms", "GET /api/v1/wait?workload=default/a&health=healthy", "GET /api/v1/edges?since=2026-11-01T00:00:00Z",
		"GET /api/v1/events?follow=true", "GET /api/v1/proxies/default/a/config?x=%zz", "GET /api/v1/workloads/default/a/config", "DELETE /api/v1/objects/Service/default/none", "GET /debug/syncz", "PUT /",
	} {
		f.Add(target, []byte(nil))
	}
	f.Add("POST /api/v1/objects", []byte(reviewsService+"---\n"+virtualService("reviews")))
	f.Add("POST /api/v1/receipts", []byte(`{"objects":[{"kind":"Service","namespace":"default","name":"reviews"}]}`))
	p := start(f, f.TempDir())
	h := p.guard(p.mux())
	f.Fuzz(func(t *testing.T, what string, body []byte) {
		method, target, _ := strings.Cut(what, " ")
		u, err := url.ParseRequestURI(target)
		if err != nil || u.Host != "" || strings.HasPrefix(u.Path, "/debug/pprof/") {
			return // the server refuses it, or takes its time
		}
		if method == http.MethodPost {
			u.RawQuery = "dry-run=true"
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		q := (&http.Request{Method: method, URL: u, RequestURI: target, Host: "127.0.0.1:15014", Header: http.Header{"Authorization": {"Bearer secret"}},
			Body: http.NoBody, ContentLength: int64(len(body)), ProtoMajor: 1, ProtoMinor: 1, RemoteAddr: "127.0.0.1:1"}).WithContext(ctx)
		if len(body) > 0 {
			q.Body = httptest.NewRequest(http.MethodPost, "/", strings.NewReader(string(body))).Body
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, q)
		if w.Code == http.StatusInternalServerError {
			t.Errorf("%s: %d %s", what, w.Code, w.Body)
		}
		if w.Header().Get("Content-Type") == "application/json" && w.Body.Len() > 0 && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s: not JSON: %s", what, w.Body)
		}
	})
}

// FuzzObserve lets a proxy introduce itself as anything and report anything. It is refused, or counted within bounds and shown.
func FuzzObserve(f *testing.F) {
	hello, err := proto.Marshal(&observev1.Hello{NodeId: "sidecar~127.0.0.1~a.default~default.svc.cluster.local", Workload: "a", Epoch: 1})
	if err != nil {
		f.Fatal(err)
	}
	said, err := proto.Marshal(&observev1.Report{Sequence: 1, Edges: []*observev1.Edge{edgeTo("b", 7)}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(hello, said)
	f.Add([]byte{}, []byte{8, 1})
	of, err := proto.Marshal(&observev1.Condition{ClockJumpNano: -5e9, RenewalError: "away", Overflow: 7, Crowd: edgeTo("b", 7)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(hello, of)
	p := start(f, f.TempDir())
	f.Fuzz(func(t *testing.T, hello, said []byte) {
		now, c := time.Now(), &observev1.Condition{}
		if x := (&reporter{node: "n"}); proto.Unmarshal(said, c) == nil && x.hear(c, now) == nil {
			for _, f := range conditionFindings([]condition{*x.condition.Load()}, now) {
				if len(f.Message) > 2000 {
					t.Errorf("%d bytes: %s", len(f.Message), f.Message)
				}
			}
		}
		h, r := &observev1.Hello{}, &observev1.Report{}
		if proto.Unmarshal(hello, h) != nil || proto.Unmarshal(said, r) != nil {
			return // grpc refuses it
		}
		if _, err := p.edges.introduce(t.Context(), h); err == nil {
			t.Error("a proxy without a certificate was let in")
		}
		who := &reporter{node: h.GetNodeId(), epoch: h.GetEpoch(), self: apiv1.EdgeEnd{Workload: "a", Namespace: "default"}}
		if err := p.edges.report(silent{}, who, r); err != nil {
			return
		}
		w := httptest.NewRecorder()
		p.handleEdges(w, httptest.NewRequest(http.MethodGet, "/api/v1/edges", nil))
		if w.Code != http.StatusOK || !json.Valid(w.Body.Bytes()) {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

// silent is a stream whose acknowledgements nobody reads.
type silent struct {
	grpc.BidiStreamingServer[observev1.ProxyMessage, observev1.ControlMessage]
}

func (silent) Send(*observev1.ControlMessage) error { return nil }
