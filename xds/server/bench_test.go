package server

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/weirmesh/weir/xds/resource"
)

const (
	benchClients  = 1000
	benchClusters = 1000
)

// benchView has clusters of 2 kB and their endpoints.
func benchView() *resource.View {
	all := make([]*resource.Resource, 0, 2*benchClusters)
	for i := range benchClusters {
		name := fmt.Sprintf("outbound|80||service-%d.namespace.svc.cluster.local", i)
		all = append(all,
			resource.FromBytes(resource.ClusterType, name, make([]byte, 2000)),
			resource.FromBytes(resource.EndpointType, name, make([]byte, 300)))
	}
	return resource.NewView(1, all...)
}

// benchClient is one in-sync client with a wildcard of clusters and all endpoints by name.
type benchClient struct {
	m    *machine
	sent int
}

func newBenchClient(tb testing.TB, shared *bundles, v *resource.View) *benchClient {
	c := &benchClient{m: newMachine(false, "", limits{types: 64, names: 10 * benchClusters}, shared)}
	c.m.publish(v)
	c.request(tb, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.ClusterType})
	eds := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.EndpointType}
	for n := range v.Set(resource.ClusterType).All() {
		// A name of its own, as each request brings its own.
		eds.ResourceNamesSubscribe = append(eds.ResourceNamesSubscribe, string([]byte(n)))
	}
	c.request(tb, eds)
	return c
}

// request takes a request, and encodes and ACKs what comes of it.
func (c *benchClient) request(tb testing.TB, r *discoveryv3.DeltaDiscoveryRequest) {
	settled := c.m.settled
	out, err := c.m.deltaRequest(r, time.Time{})
	if err != nil {
		tb.Fatal(err)
	}
	if c.m.settled > settled {
		c.m.accepted = nil // as a session takes them
	}
	c.take(tb, out)
}

func (c *benchClient) take(tb testing.TB, out []*response) {
	for _, r := range out {
		if _, err := encode(r, false, &corev3.ControlPlane{Identifier: "bench"}); err != nil {
			tb.Fatal(err)
		}
		c.sent++
		c.request(tb, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.typeURL, ResponseNonce: r.nonce})
	}
}

// One resource of a thousand changes for a thousand clients: what each costs, from the
// View to the ACK, without gRPC.
func BenchmarkPushToNStreams(b *testing.B) {
	for _, typeURL := range []string{resource.EndpointType, resource.ClusterType} {
		b.Run(resource.Short(typeURL), func(b *testing.B) {
			v, shared := benchView(), newBundles()
			clients := make([]*benchClient, benchClients)
			for i := range clients {
				clients[i] = newBenchClient(b, shared, v)
			}
			name := fmt.Sprintf("outbound|80||service-%d.namespace.svc.cluster.local", benchClusters/2)
			b.ReportAllocs()
			before := clients[0].sent
			for i := 0; b.Loop(); i++ {
				sets := map[string]resource.Set{resource.ClusterType: v.Set(resource.ClusterType), resource.EndpointType: v.Set(resource.EndpointType)}
				sets[typeURL] = sets[typeURL].Set(name, resource.FromBytes(typeURL, name, fmt.Appendf(nil, "%d", i)))
				v = &resource.View{Version: v.Version + 1, Sets: sets}
				for _, c := range clients {
					c.take(b, c.m.publish(v))
				}
			}
			if clients[0].sent == before {
				b.Fatal("nothing was sent")
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchClients, "ns/client")
		})
	}
}

// A client connects and is sent everything.
func BenchmarkColdStart(b *testing.B) {
	v, shared := benchView(), newBundles()
	b.ReportAllocs()
	for b.Loop() {
		newBenchClient(b, shared, v)
	}
}

// An idle client costs what sets it apart from others, not what it was sent.
func TestMemoryPerStream(t *testing.T) {
	v, shared := benchView(), newBundles()
	clients := make([]*benchClient, 50)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range clients {
		clients[i] = newBenchClient(t, shared, v)
	}
	runtime.GC()
	runtime.GC() // with the first go the weak pointers to what they shared meanwhile
	runtime.ReadMemStats(&after)
	per := (after.HeapAlloc - before.HeapAlloc) / uint64(len(clients))
	runtime.KeepAlive(clients)
	// It subscribed to every name there is, which is known without keeping the names.
	if limit := uint64(4 << 10); per > limit {
		t.Errorf("a client costs %d bytes, want at most %d", per, limit)
	}
	t.Logf("%d bytes per client", per)
}
