package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	replicasv1 "github.com/weirmesh/weir/api/replicas/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/mesh"
)

// fetch reads an answer of the API.
func fetch(t *testing.T, url string, v any) http.Header {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v", url, resp.Status, err)
	}
	return resp.Header
}

// Proxies are shown wherever they are connected: whichever control plane is asked, with who did not answer; nobody but control planes
// may ask so, and about nothing else.
func TestProxiesOfSeveralReplicas(t *testing.T) {
	folder, first, second := t.TempDir(), t.TempDir(), t.TempDir()
	a := startReplica(t, first, folder, 0)
	copyAuthority(t, first, second)
	b := startReplica(t, second, folder, 0, func(o *Options) {
		o.Replicas = []string{a.grpc, o.GRPC[0].Addr().String(), "127.0.0.1:1"}
	})
	subscribe(t, a, "page-0", nil, nil)
	subscribe(t, b, "reviews-0", nil, nil)
	for _, r := range []*replica{a, b} {
		eventually(t, "the proxy is connected", func() error {
			if n := len(r.xds.Clients()); n != 1 {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
	}

	var all []apiv1.ProxyStatus
	silent := fetch(t, "http://"+b.http+"/api/v1/proxies", &all).Values(apiv1.SilentHeader)
	var at []string
	for _, p := range all {
		at = append(at, p.Name+" at "+p.ControlPlane)
	}
	if want := []string{"default/page-0 at " + a.o.Name, "default/reviews-0 at " + b.o.Name}; !slices.Equal(at, want) {
		t.Errorf("proxies %q, want %q", at, want)
	}
	if want := []string{"the control plane at 127.0.0.1:1"}; !slices.Equal(silent, want) {
		t.Errorf("silent %q, want %q", silent, want)
	}
	var s apiv1.Status
	eventually(t, "the configuration is read", func() error {
		if b.latest.Load() == nil {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	fetch(t, "http://"+b.http+"/api/v1/status", &s)
	if len(s.Proxies) != 2 || len(s.Silent) != 1 {
		t.Errorf("status: %d proxies, silent %q", len(s.Proxies), s.Silent)
	}
	if i := slices.IndexFunc(s.Findings, func(f apiv1.Finding) bool { return f.Code == string(config.ReplicaAway) }); i < 0 ||
		s.Findings[i].Name != "127.0.0.1:1" || !strings.Contains(s.Findings[i].Message, "does not answer the others since 20") {
		t.Errorf("nothing is said of the one that does not answer, and since when: %+v", s.Findings)
	}
	b.replicas.note("127.0.0.1:1", nil)
	if found := b.replicas.findings(); len(found) > 0 {
		t.Errorf("it answered, and still: %v", found)
	}

	connected := &replicasv1.Question{Question: &replicasv1.Question_Connected{Connected: &replicasv1.Connected{}}}
	_, stranger := a.connect(t, "page", "sidecar~10.0.0.7~page-7.default~default.svc.cluster.local")
	stream, err := stranger.Ask(t.Context(), connected)
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("a workload asks as a replica: %v", err)
	}
	level := func(workload, level string) *replicasv1.Question {
		return &replicasv1.Question{Workload: workload, Question: &replicasv1.Question_Proxies{Proxies: askLevel(&observev1.LogLevelRequest{Level: level})}}
	}
	for name, q := range map[string]*replicasv1.Question{"nothing": {}, "an acknowledgement": {Question: &replicasv1.Question_Proxies{Proxies: &observev1.ControlMessage{Message: &observev1.ControlMessage_Ack{}}}},
		"a level of everybody": level("", "debug"), "a level that is none": level("default/page-0", "loud"), "a long name": level(strings.Repeat("x", maxReportText+1), ""),
		"records of nothing": {Question: &replicasv1.Question_Proxies{Proxies: askRecords(&observev1.RecordsRequest{})}}} {
		if err := b.replicas.one(t.Context(), a.grpc, q, func(*replicasv1.Answer) error { return nil }); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Who calls whom is added up over all control planes, whichever is asked, and who did not say is named.
func TestEdgesOfSeveralReplicas(t *testing.T) {
	folder, first, second := t.TempDir(), t.TempDir(), t.TempDir()
	a := startReplica(t, first, folder, 0)
	copyAuthority(t, first, second)
	b := startReplica(t, second, folder, 0, func(o *Options) { o.Replicas = []string{a.grpc, "127.0.0.1:1"} })
	page := &reporter{self: apiv1.EdgeEnd{Namespace: "default", Workload: "page"}}
	for at, edges := range map[*replica][]*observev1.Edge{a: {edgeTo("reviews", 2), edgeTo("details", 3)}, b: {edgeTo("reviews", 5), edgeTo("ratings", 7)}} {
		for _, e := range edges {
			at.edges.table.add("page", keyOf(page, e), e, time.Now())
		}
	}
	for query, want := range map[string]string{"": "details 4, ratings 8, reviews 9", "?since=5m&workload=reviews": "reviews 9", "?namespace=else": ""} {
		var e apiv1.Edges
		fetch(t, "http://"+b.http+"/api/v1/edges"+query, &e)
		var got []string
		for i := range e.Edges {
			got = append(got, fmt.Sprintf("%s %d", e.Edges[i].Destination.Workload, e.Edges[i].Requests))
			if e.Edges[i].Recent != e.Edges[i].Requests {
				t.Errorf("%s: %d of %d in the last minute", query, e.Edges[i].Recent, e.Edges[i].Requests)
			}
		}
		if g := strings.Join(got, ", "); g != want {
			t.Errorf("%s: %s, want %s", query, g, want)
		}
		if !slices.Equal(e.Silent, []string{apiv1.SilentReplica + "127.0.0.1:1"}) {
			t.Errorf("%s: silent %q", query, e.Silent)
		}
	}
}

// newerReplica answers what nobody here knows.
type newerReplica struct {
	replicasv1.UnimplementedReplicasServer
}

func (newerReplica) Ask(_ *replicasv1.Question, stream answering) error {
	first, more := &replicasv1.Answer{Replica: "newer"}, &replicasv1.Answer{}
	first.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1)) // this does no harm
	more.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 100, protowire.BytesType), "all there is"))
	if err := stream.Send(first); err != nil {
		return err
	}
	return stream.Send(more)
}

// A replica that is older than a question, or whose answer is newer than who asks, does not fail the answer: it is named, with that.
func TestReplicaOfAnotherVersion(t *testing.T) {
	for name, c := range map[string]struct {
		serve func(*grpc.Server)
		says  string
	}{
		"before there were questions": {func(*grpc.Server) {}, " (an older version: it does not know the question)"},
		"newer":                       {func(s *grpc.Server) { replicasv1.RegisterReplicasServer(s, newerReplica{}) }, " (a newer version: its answer is not understood)"},
	} {
		t.Run(name, func(t *testing.T) {
			folder, first, second := t.TempDir(), t.TempDir(), t.TempDir()
			a := startReplica(t, first, folder, 0)
			copyAuthority(t, first, second)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			other := grpc.NewServer(grpc.Creds(credentials.NewTLS(identity.ServerTLS(a.self, identity.OneOf{a.id}, true))))
			c.serve(other)
			ended := make(chan error)
			go func() { ended <- other.Serve(l) }()
			defer func() {
				other.Stop()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}()
			b := startReplica(t, second, folder, 0, func(o *Options) { o.Replicas = []string{l.Addr().String()} })
			want := []string{apiv1.SilentReplica + l.Addr().String() + c.says}
			check := func(what string, silent []string) {
				t.Helper()
				if !slices.Equal(silent, want) {
					t.Errorf("%s: silent %q, want %q", what, silent, want)
				}
			}
			var e apiv1.Edges
			fetch(t, "http://"+b.http+"/api/v1/edges", &e)
			check("edges", e.Silent)
			var w apiv1.Why
			fetch(t, "http://"+b.http+"/api/v1/why?last=5", &w)
			check("why", w.Silent)
			check("proxies", fetch(t, "http://"+b.http+"/api/v1/proxies", &[]apiv1.ProxyStatus{}).Values(apiv1.SilentHeader))
			_, _, silent := b.replicas.ask(t.Context(), question{message: askLimits(&observev1.LimitsRequest{Ejections: true})})
			check("ejections", silent)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			tapped := &tap{lines: make(chan told, 8)}
			go b.replicas.tap(ctx, &observev1.TapRequest{Tap: 1}, tapped)
			check("tap", []string{(<-tapped.lines).silent})
		})
	}
}

// A question of which only half is known here is not answered by half.
func TestQuestionOfANewerReplica(t *testing.T) {
	folder, first, second := t.TempDir(), t.TempDir(), t.TempDir()
	a := startReplica(t, first, folder, 0)
	copyAuthority(t, first, second)
	b := startReplica(t, second, folder, 0, func(o *Options) { o.Replicas = []string{a.grpc} })
	more := protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1)
	limits := &observev1.LimitsRequest{Host: "reviews.default.svc.cluster.local"}
	for _, newer := range []bool{false, true} {
		if newer {
			limits.ProtoReflect().SetUnknown(more)
		}
		_, _, silent := b.replicas.ask(t.Context(), question{message: askLimits(limits)})
		if want := apiv1.SilentReplica + a.grpc + " (an older version: it does not know the question)"; newer != slices.Equal(silent, []string{want}) || !newer && len(silent) > 0 {
			t.Errorf("newer %v: silent %q", newer, silent)
		}
	}
}

// Replicas of every revision are asked, by the Services of control planes in the namespace of the installation.
func TestReplicaAddresses(t *testing.T) {
	snap := &mesh.Snapshot{}
	for i, name := range []string{"istio-system/istiod", "istio-system/istiod-1-1", "istio-system/istiodine", "istio-system/istio-pilot", "shop/istiod"} {
		ns, n, _ := strings.Cut(name, "/")
		svc := &mesh.Service{Namespace: ns, Name: n, Hostname: n + "." + ns + ".svc.cluster.local"} // its endpoints are found by that
		key := svc.Key()
		snap.Services = snap.Services.Set(key, svc)
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), xdsPort)
		snap.Endpoints = snap.Endpoints.Set(key, &mesh.EndpointSet{Ports: map[uint16][]mesh.Endpoint{xdsPort: {{Addr: at}, {Addr: at}}}})
	}
	for service, want := range map[string][]string{"": {"10.0.0.0:15012", "10.0.0.1:15012"}, "istiod": {"10.0.0.0:15012"}, "istiod-1-1": {"10.0.0.1:15012"}, "istiod-2": nil} {
		if got := replicaAddresses(snap, "istio-system", service); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", service, got, want)
		}
	}
}
