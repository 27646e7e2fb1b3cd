package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	replicasv1 "github.com/weirmesh/weir/api/replicas/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
)

// connect is a proxy that is connected to a replica.
func (r *replica) connect(t *testing.T, account, node string) (observing, replicasv1.ReplicasClient) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	conn := dial(ctx, t, r.Plane, "default", account, func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", r.grpc) })
	t.Cleanup(func() { cancel(); conn.Close() })
	return introduce(ctx, t, conn, account, node, 1), replicasv1.NewReplicasClient(conn)
}

// One story of two proxies that are connected to different replicas, whichever is asked; limits, ejections and requests as they happen
// of both; a replica that does not answer is named, and
// nobody but replicas may ask so.
func TestWhyOfSeveralReplicas(t *testing.T) {
	folder, first := t.TempDir(), t.TempDir()
	a := startReplica(t, first, folder, 0)
	second := t.TempDir()
	copyAuthority(t, first, second)
	b := startReplica(t, second, folder, 0, func(o *Options) {
		o.Replicas = []string{a.grpc, o.GRPC[0].Addr().String(), "127.0.0.1:1"}
	})
	a.edges.asking.patience, b.edges.asking.patience = time.Hour, time.Hour // whatever else the machine does
	edge := func(side observev1.Side, peer string) *observev1.Edge {
		return &observev1.Edge{Side: side, Peer: &observev1.Peer{Workload: peer, Namespace: "default"}, Service: &observev1.Service{Host: "reviews.default.svc.cluster.local", Port: 9080}}
	}
	at := uint64(time.Now().UnixNano())
	page, _ := b.connect(t, "page", "sidecar~10.0.0.9~page-0.default~default.svc.cluster.local")
	go remember(page, &observev1.Record{Id: "r1", TimeUnixNano: at, EndedNano: 9e6, Status: 503, GrpcStatus: -1, Method: "GET", Authority: "reviews:9080", Path: "/x", Edge: edge(observev1.Side_SIDE_SOURCE, "reviews-v1"),
		Cause: "upstream_connection_reset", Attempts: 1, Tries: []*observev1.Attempt{{Endpoint: "10.0.0.8:9080", Local: "10.0.0.9:4000", Cause: "upstream_connection_reset"}}})
	reviews, stranger := a.connect(t, "reviews", "sidecar~10.0.0.8~reviews-0.default~default.svc.cluster.local")
	go remember(reviews, &observev1.Record{Id: "r1", TimeUnixNano: at + 1e6, EndedNano: 1e6, Status: 503, GrpcStatus: -1, Cause: "memory_exhausted", Edge: edge(observev1.Side_SIDE_DESTINATION, "page-v1"), Client: "10.0.0.9:4000"})
	for _, r := range []*replica{a, b} {
		eventually(t, "the proxies have introduced themselves", func() error {
			r.edges.asking.mu.Lock()
			defer r.edges.asking.mu.Unlock()
			if n := len(r.edges.asking.proxies); n != 1 {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
	}
	for _, query := range []string{"?id=r1", "?last=5"} {
		resp, err := http.Get("http://" + b.http + "/api/v1/why" + query)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		var w apiv1.Why
		if err != nil || json.Unmarshal(body, &w) != nil || len(w.Stories) != 1 {
			t.Fatalf("%s: %v %s", query, err, body)
		}
		if s := w.Stories[0]; len(s.Hops) != 2 || s.Cause != "memory_exhausted" || s.At != "default/reviews-v1" {
			t.Errorf("%s: %+v", query, s)
		}
		if w.Asked != 2 || !slices.Equal(w.Silent, []string{"the control plane at 127.0.0.1:1"}) {
			t.Errorf("%s: %d were asked, %q are silent", query, w.Asked, w.Silent)
		}
	}

	get := func(path string) (out []byte) {
		resp, err := http.Get("http://" + b.http + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if out, err = io.ReadAll(resp.Body); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if err := os.WriteFile(filepath.Join(folder, "reviews.yaml"), []byte(liveService), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both know the service", func() error {
		for _, r := range []*replica{a, b} {
			if r.latest.Load().Snapshot.Services.Len() != 1 {
				return errors.New("not yet")
			}
		}
		return nil
	})
	var l apiv1.Limits
	if body := get("/api/v1/limits?service=reviews"); json.Unmarshal(body, &l) != nil || l.Asked != 2 || len(l.Limits) != 1 || len(l.Limits[0].Proxies) != 2 || len(l.Silent) != 1 {
		t.Errorf("%s", body)
	}
	var e apiv1.Ejections
	if body := get("/api/v1/ejections"); json.Unmarshal(body, &e) != nil || e.Asked != 2 || len(e.Ejections) != 2 {
		t.Errorf("%s", body)
	}
	seen := map[string]bool{}
	resp, err := http.Get("http://" + b.http + "/api/v1/tap")
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(resp.Body)
	for len(seen) < 2 && lines.Scan() {
		var x apiv1.Tapped
		if json.Unmarshal(lines.Bytes(), &x) == nil && x.ID == "tapped" {
			seen[x.Source] = true
		}
	}
	resp.Body.Close()
	if !seen["default/page-v1"] || !seen["default/reviews-v1"] {
		t.Errorf("%v, %v", seen, lines.Err())
	}
	eventually(t, "all taps have ended", func() error {
		for _, r := range []*replica{a, b} {
			if n := len(r.edges.taps.all()); n > 0 {
				return fmt.Errorf("%d", n)
			}
		}
		return nil
	})

	stream, err := stranger.Ask(t.Context(), &replicasv1.Question{Question: &replicasv1.Question_Proxies{Proxies: askRecords(&observev1.RecordsRequest{Which: &observev1.RecordsRequest_Id{Id: "r1"}})}})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("a workload asks as a replica: %v", err)
	}
}

// A tap reaches replicas that come when it is open, and says which ones do not answer.
func TestTapOfALaterReplica(t *testing.T) {
	folder, first, second := t.TempDir(), t.TempDir(), t.TempDir()
	// Nobody accepts yet. It is an address that no connection begins at: its port stays free.
	later, err := net.Listen("tcp", "127.83.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	place := later.Addr().String()
	if err := later.Close(); err != nil {
		t.Fatal(err)
	}
	b := startReplica(t, second, folder, 0, func(o *Options) { o.Replicas = []string{place} })
	copyAuthority(t, second, first)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.http+"/api/v1/tap", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	until := func(what string, is func(*apiv1.Tapped) bool) {
		for lines.Scan() {
			var x apiv1.Tapped
			if json.Unmarshal(lines.Bytes(), &x) == nil && is(&x) {
				return
			}
		}
		t.Fatalf("%s: %v", what, lines.Err())
	}
	until("who does not answer is named", func(x *apiv1.Tapped) bool { return x.Silent == apiv1.SilentReplica+place })
	a := startReplica(t, first, folder, 0, func(o *Options) {
		_ = o.GRPC[0].Close()
		if o.GRPC[0], err = net.Listen("tcp", place); err != nil {
			t.Fatal(err)
		}
	})
	page, _ := a.connect(t, "page", "sidecar~10.0.0.9~page-0.default~default.svc.cluster.local")
	go remember(page)
	until("the later one tells", func(x *apiv1.Tapped) bool { return x.ID == "tapped" && x.Source == "default/page-v1" })
}
