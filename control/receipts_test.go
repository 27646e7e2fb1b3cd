package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/client"
	"github.com/weirmesh/weir/xds/resource"
	"github.com/weirmesh/weir/xds/server"
)

// dial connects with the identity of a service account.
func (p *plane) dial(ctx context.Context, t *testing.T, namespace, account string) *grpc.ClientConn {
	t.Helper()
	return dial(ctx, t, p.Plane, namespace, account, func(ctx context.Context) (net.Conn, error) {
		return p.network.DialContext(ctx, "tcp", "127.0.0.1:15012")
	})
}

// dial connects to a control plane as a workload.
func dial(ctx context.Context, t *testing.T, p *Plane, namespace, account string, to func(context.Context) (net.Conn, error)) *grpc.ClientConn {
	t.Helper()
	id, err := identity.New("cluster.local", namespace, account)
	if err != nil {
		t.Fatal(err)
	}
	authority, _ := p.auth.Watch()
	mgr, err := identity.NewManager(identity.Options{ID: id, Signer: authority.Signer(ca.Grant{ID: id}), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = mgr.Run(ctx) }()
	for held, changed := mgr.Watch(); held == nil; held, changed = mgr.Watch() {
		<-changed
	}
	istiod, _ := identity.New("cluster.local", "istio-system", "istiod")
	conn, err := grpc.NewClient("passthrough:///control", append(client.DialOptions(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return to(ctx) }),
		grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(mgr, identity.OneOf{istiod}))))...)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// proxy runs one that takes everything but what refuse says.
func (p *plane) proxy(t *testing.T, name string, refuse *atomic.Bool) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var c *client.Client
	c = client.New(client.Options{
		Dial: func(ctx context.Context) (client.Conn, error) { return p.dial(ctx, t, "default", name), nil },
		Node: func() *corev3.Node {
			meta, _ := structpb.NewStruct(map[string]any{"NAMESPACE": "default", "NAME": name + "-0", "SERVICE_ACCOUNT": name})
			return &corev3.Node{Id: "sidecar~10.0.0.9~" + name + "-0.default~default.svc.cluster.local", Metadata: meta}
		},
		Apply: func(_ context.Context, u client.Update) error {
			for _, r := range u.Set {
				if u.TypeURL == resource.RouteType && refuse.Load() {
					return errors.New("route " + r.Name + ": no such thing")
				}
				if u.TypeURL == resource.ClusterType && strings.HasPrefix(r.Name, "outbound") {
					c.Subscribe(resource.EndpointType, r.Name)
				}
			}
			return nil
		},
		Log: slog.New(slog.DiscardHandler),
	})
	c.Subscribe(resource.ClusterType)
	c.Subscribe(resource.ListenerType)
	c.Subscribe(resource.RouteType, "9080")
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func (p *plane) receipt(t *testing.T, path string) apiv1.Receipt {
	t.Helper()
	status, body := p.call(t, "GET", "/api/v1/receipts/"+path, "")
	if status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	return decode[apiv1.Receipt](t, body)
}

func pod(name string) string {
	return `apiVersion: v1
kind: Pod
metadata: {name: ` + name + `-0, labels: {app: ` + name + `}, annotations: {sidecar.istio.io/status: "{}"}}
spec: {serviceAccountName: ` + name + `, containers: [{name: app, ports: [{containerPort: 9080}]}]}
status: {podIP: 10.0.0.9, podIPs: [{ip: 10.0.0.9}], conditions: [{type: Ready, status: "True"}]}
`
}

// A change says who needs it, who has it, who refuses it and in which words, and who is
// not there to ask; and all that is told as it happens.
func TestReceipts(t *testing.T) {
	p := start(t, t.TempDir())
	for _, name := range []string{"reviews", "ratings"} {
		if err := os.WriteFile(filepath.Join(p.state, "run", "pods", name+".yaml"), []byte(pod(name)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.until(t, "the pods are known", func() bool { return p.latest.Load().Snapshot.Workloads.Len() == 2 })
	var refuse atomic.Bool
	var never atomic.Bool
	stop := p.proxy(t, "reviews", &refuse)
	p.proxy(t, "ratings", &never)
	p.until(t, "both proxies have the Service", func() bool {
		r := p.receipt(t, "Service/default/reviews")
		return r.Proxies == 2 && r.Active == 2 && r.Everywhere
	})

	if status, body := p.call(t, "POST", "/api/v1/objects", virtualService("reviews")); status != 200 {
		t.Fatal(body)
	}
	query := `{"objects":[{"kind":"VirtualService","namespace":"default","name":"reviews"}],"timeout":"`
	_, body := p.call(t, "POST", "/api/v1/receipts", query+`10s"}`)
	r := decode[[]apiv1.Receipt](t, body)[0]
	if r.State != "compiled" || r.Connected != 2 || r.Proxies != 2 || r.Active != 2 || !r.Everywhere || r.Propagation == nil || r.Propagation.Proxies != 2 ||
		r.Propagation.P50 <= 0 || r.Propagation.P99 < r.Propagation.P50 || r.Propagation.P99 > 10 {
		t.Errorf("got %s", body)
	}

	p.happened(t, "compiled", "active")

	refuse.Store(true)
	if status, body := p.call(t, "POST", "/api/v1/objects", strings.Replace(virtualService("reviews"), "- route", "- timeout: 5s\n    route", 1)); status != 200 {
		t.Fatal(body)
	}
	p.until(t, "one has it and one refuses it", func() bool {
		r = p.receipt(t, "vs/default/reviews")
		return r.Active == 1 && len(r.Missing) == 1 && r.Missing[0].Why == "rejected"
	})
	if m := r.Missing[0]; r.Proxies != 2 || r.Everywhere || m.Proxy != "default/reviews-0" || m.Type != "RDS" || !slices.Equal(m.Resources, []string{"9080"}) || m.Message != "route 9080: no such thing" {
		t.Errorf("got %+v", r)
	}
	// Its Service is as old as before, but what the proxy refuses is made of that, too.
	if s := p.receipt(t, "Service/default/reviews"); s.Active != 1 {
		t.Errorf("the Service: %+v", s)
	}
	_, body = p.call(t, "POST", "/api/v1/receipts", query+`100ms"}`)
	if r = decode[[]apiv1.Receipt](t, body)[0]; r.Everywhere {
		t.Errorf("got %s", body)
	}

	stop()
	p.until(t, "the other is gone", func() bool {
		r = p.receipt(t, "VirtualService/default/reviews")
		return r.Connected == 1
	})
	if len(r.Missing) != 1 || r.Missing[0].Why != "disconnected" || r.Missing[0].Since == nil || !r.Everywhere {
		t.Errorf("got %+v", r)
	}

	p.happened(t, "compiled", "active", "compiled", "rejected default/reviews-0", "active")
	if status, _ := p.call(t, "GET", "/api/v1/receipts/VirtualService/default/none", ""); status != 404 {
		t.Errorf("an object that is not there: %d", status)
	}
}

// happened waits for the events of the VirtualService reviews.
func (p *plane) happened(t *testing.T, want ...string) {
	t.Helper()
	var after uint64
	var seen []string
	for len(seen) < len(want) {
		_, body := p.call(t, "GET", fmt.Sprintf("/api/v1/events?kind=vs&namespace=default&name=reviews&timeout=10s&after=%d", after), "")
		events := decode[apiv1.Events](t, body)
		if len(events.Events) == 0 {
			break
		}
		after = events.Next
		for _, e := range events.Events {
			seen = append(seen, strings.TrimSpace(e.Type+" "+e.Proxy))
		}
	}
	if !slices.Equal(seen, want) {
		t.Errorf("events %v, want %v", seen, want)
	}
}

// A quantile is right to within 10 %, and never is without any observation a figure.
func TestSpread(t *testing.T) {
	var s spread
	for i := range 1000 {
		s.add(time.Duration(i+1) * time.Millisecond)
	}
	for q, want := range map[float64]time.Duration{.5: 500 * time.Millisecond, .99: 990 * time.Millisecond, .01: 10 * time.Millisecond} {
		if got := s.quantile(q); got < want*9/10 || got > want*11/10 {
			t.Errorf("quantile %v is %v, want about %v", q, got, want)
		}
	}
	s.add(0)
	s.add(time.Hour)
	if got := (&spread{}).quantile(.5); got != 0 {
		t.Errorf("nothing has the quantile %v", got)
	}
}

// objectsOf are n VirtualServices in force.
func objectsOf(n int) *store.Update {
	u := &store.Update{Snapshot: &mesh.Snapshot{Version: 1}}
	for i := range n {
		id := virtualServiceID(i)
		u.Objects = u.Objects.Set(id.String(), &store.Object{ID: id, State: store.Compiled, Serving: &config.Object{}})
	}
	return u
}

func virtualServiceID(i int) config.ID {
	return config.ID{Group: "networking.istio.io", Kind: "VirtualService", Namespace: "default", Name: fmt.Sprint("vs-", i)}
}

// tableOf is a table of routes of n hosts, each made of a VirtualService and a Service.
func tableOf(n int) *resource.Resource {
	var origins []resource.Origin
	for i := range n {
		origins = append(origins, translate.Origin("VirtualService", "default", fmt.Sprint("vs-", i)), translate.Origin("Service", "default", fmt.Sprint("s-", i)))
	}
	return resource.FromBytes(resource.RouteType, "9080", nil).MadeOf(origins)
}

// What it costs that one proxy of many accepts a change: a table of 1,000 hosts, made of
// 2,000 objects, of which one has changed.
func BenchmarkApplied(b *testing.B) {
	r, u, now := newReceipts(), objectsOf(1000), time.Now()
	r.note(nil, u, now)
	next := *u
	next.Snapshot = &mesh.Snapshot{Version: 2}
	id := virtualServiceID(999)
	next.Objects = u.Objects.Set(id.String(), &store.Object{ID: id, State: store.Compiled, Serving: &config.Object{}})
	r.note(u, &next, now)
	accepted := []*resource.Resource{tableOf(1000)}
	b.ReportAllocs()
	for b.Loop() {
		r.applied(1, 2, accepted, now.Add(time.Millisecond))
	}
}

// What it costs to find out who needs an object and who has it, of 2,000 proxies that are
// subscribed to 12 of 1,000 services and to the table of all routes.
func BenchmarkCensus(b *testing.B) {
	const proxies = 2000
	r, u := newReceipts(), objectsOf(1000)
	wanted, _ := r.note(nil, u, time.Now())
	resources := []*resource.Resource{tableOf(1000)}
	for i := range 1000 {
		resources = append(resources, resource.FromBytes(resource.ClusterType, fmt.Sprint("c-", i), nil).MadeOf(
			[]resource.Origin{translate.Origin("Service", "default", fmt.Sprint("s-", i))}))
	}
	s := crowd(b, proxies, resource.NewView(1, resources...))
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("objects=%d/proxies=%d", n, proxies), func(b *testing.B) {
			c := newCensus(s)
			b.ReportAllocs()
			for b.Loop() {
				counts, connected := c.take(wanted[:n], 0)
				if connected != proxies || counts[0].needed != proxies || counts[0].active != proxies {
					b.Fatalf("%d connected, %+v", connected, counts[0])
				}
			}
		})
	}
}

// crowd is a server with n streams that have accepted what they get of view.
func crowd(b *testing.B, n int, view *resource.View) *server.Server {
	var feed server.Feed
	feed.Publish(view)
	s := server.New(server.Options{Source: always{&feed}, Authorize: func(server.Peer, *corev3.Node) error { return nil }, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	b.Cleanup(func() { cancel(); running.Wait() })
	for i := range n {
		x := &extra{ctx: ctx, in: make(chan *discoveryv3.DeltaDiscoveryRequest, 4)}
		node := &corev3.Node{Id: fmt.Sprintf("sidecar~10.0.0.1~p-%d.default~default.svc.cluster.local", i)}
		var names []string
		for j := range 12 {
			names = append(names, fmt.Sprint("c-", (i+j)%1000))
		}
		x.in <- &discoveryv3.DeltaDiscoveryRequest{Node: node, TypeUrl: resource.ClusterType, ResourceNamesSubscribe: names}
		x.in <- &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.RouteType, ResourceNamesSubscribe: []string{"9080"}}
		running.Go(func() { _ = s.DeltaAggregatedResources(x) })
	}
	for active := 0; active < n; {
		active = 0
		for _, c := range s.Clients() {
			if c.Active == view.Version && len(c.Types) == 2 {
				active++
			}
		}
	}
	return s
}

type always struct{ feed *server.Feed }

func (a always) Connect(context.Context, *corev3.Node, server.Peer) (*server.Feed, error) {
	return a.feed, nil
}

// extra is the server's side of a stream to a client that accepts everything.
type extra struct {
	grpc.ServerStream
	ctx context.Context
	in  chan *discoveryv3.DeltaDiscoveryRequest
}

func (x *extra) Context() context.Context { return x.ctx }

func (x *extra) Send(*discoveryv3.DeltaDiscoveryResponse) error { panic("not used") }

func (x *extra) Recv() (*discoveryv3.DeltaDiscoveryRequest, error) {
	select {
	case r := <-x.in:
		return r, nil
	case <-x.ctx.Done():
		return nil, x.ctx.Err()
	}
}

func (x *extra) SendMsg(m any) error {
	var r discoveryv3.DeltaDiscoveryResponse
	if err := proto.Unmarshal(reflect.ValueOf(m).Convert(reflect.TypeFor[mem.BufferSlice]()).Interface().(mem.BufferSlice).Materialize(), &r); err != nil {
		return err
	}
	x.in <- &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce}
	return nil
}

// A rule without effect is named in the receipt, with what has its effect.
func TestShadowed(t *testing.T) {
	p := start(t, t.TempDir())
	text := strings.Replace(virtualService("reviews"), "  http:\n", "  http:\n  - route:\n    - destination: {host: reviews}\n", 1)
	if status, body := p.call(t, "POST", "/api/v1/objects", text); status != 200 {
		t.Fatal(body)
	}
	var r apiv1.Receipt
	p.until(t, "the objects are compared", func() bool {
		r = p.receipt(t, "vs/default/reviews")
		return len(r.Shadowed) > 0
	})
	want := []apiv1.Shadow{{Part: "spec.http[1]", By: "VirtualService default/reviews", ByPart: "spec.http[0]", Message: "is never used: spec.http[0] already matches everything"}}
	if !slices.Equal(r.Shadowed, want) || len(r.Findings) != 1 {
		t.Errorf("got %+v", r)
	}
	rules := []apiv1.Rule{
		{Part: "spec.http[0]", At: "mesh", State: "active", Example: "GET http://reviews.default.svc.cluster.local:9080/ from namespace default"},
		{Part: "spec.http[1]", At: "mesh", State: "shadowed", By: "VirtualService default/reviews", ByPart: "spec.http[0]", Why: "spec.http[0] already matches all that it matches"},
	}
	if diff := cmp.Diff(rules, r.Rules); diff != "" {
		t.Error(diff)
	}
}

// Whoever subscribes to the virtual hosts of a table by the name of the table, as Envoy
// does, needs what any of them is made of; who names one, what that one is.
func TestCensusOfVirtualHosts(t *testing.T) {
	r := newReceipts()
	wanted, _ := r.note(nil, objectsOf(100), time.Now())
	var resources []*resource.Resource
	for i := range 100 {
		resources = append(resources, resource.FromBytes(resource.VirtualHostType, fmt.Sprintf("9080/s-%d:9080", i), nil).MadeOf(
			[]resource.Origin{translate.Origin("VirtualService", "default", fmt.Sprint("vs-", i))}))
	}
	var feed server.Feed
	feed.Publish(resource.NewView(1, resources...))
	s := server.New(server.Options{Source: always{&feed}, Authorize: func(server.Peer, *corev3.Node) error { return nil }, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer func() { cancel(); running.Wait() }()
	for i, name := range []string{"9080", "9080/s-3:9080"} {
		x := &extra{ctx: ctx, in: make(chan *discoveryv3.DeltaDiscoveryRequest, 4)}
		x.in <- &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: fmt.Sprint("n-", i)}, TypeUrl: resource.VirtualHostType, ResourceNamesSubscribe: []string{name}}
		running.Go(func() { _ = s.DeltaAggregatedResources(x) })
	}
	if err := s.WaitActive(ctx, 1); err != nil {
		t.Fatal(err)
	}
	for active := 0; active < 2; {
		active = 0
		for _, c := range s.Clients() {
			if c.Active == 1 {
				active++
			}
		}
	}
	c := newCensus(s)
	for _, some := range [][]*receipt{wanted, wanted[:10]} {
		counts, _ := c.take(some, 0)
		for i, n := range counts {
			want := 1
			if some[i].id.Name == "vs-3" {
				want = 2
			}
			if n.needed != want || n.active != want {
				t.Errorf("%s: %+v, want %d", some[i].id.Name, n, want)
			}
		}
	}
}
