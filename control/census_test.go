package control

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/resource"
	"github.com/weirmesh/weir/xds/server"
)

// While a change is under way it is asked every few milliseconds who has it. What its
// resources refer to is read once, whoever asks and however often, and not kept longer than
// they are.
func TestCensusReadsAResourceOnce(t *testing.T) {
	const proxies, routes = 5, 300
	r := newReceipts()
	wanted, _ := r.note(nil, objectsOf(1), time.Now())
	host := &routev3.VirtualHost{Name: "s-0", Domains: []string{"s-0"}}
	for range routes {
		host.Routes = append(host.Routes, &routev3.Route{Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: "c"}}}})
	}
	named, err := resource.NewNamed(resource.VirtualHostType, "80/s-0", host)
	if err != nil {
		t.Fatal(err)
	}
	named = named.MadeOf([]resource.Origin{translate.Origin("VirtualService", "default", "vs-0")})
	var feed server.Feed
	feed.Publish(resource.NewView(1, named, resource.FromBytes(resource.ClusterType, "c", nil), resource.FromBytes(resource.EndpointType, "c", nil), resource.FromBytes(resource.IndexType, "0", nil)))
	s := server.New(server.Options{Source: always{&feed}, Authorize: func(server.Peer, *corev3.Node) error { return nil }, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer func() { cancel(); running.Wait() }()
	for i := range proxies {
		x := &extra{ctx: ctx, in: make(chan *discoveryv3.DeltaDiscoveryRequest, 8)}
		node := &corev3.Node{Id: fmt.Sprint("n-", i)}
		for _, sub := range [][2]string{{resource.IndexType, "0"}, {resource.ClusterType, "c"}, {resource.EndpointType, "c"}, {resource.VirtualHostType, "80/s-0"}} {
			x.in <- &discoveryv3.DeltaDiscoveryRequest{Node: node, TypeUrl: sub[0], ResourceNamesSubscribe: []string{sub[1]}}
			node = nil
		}
		running.Go(func() { _ = s.DeltaAggregatedResources(x) })
	}
	c := newCensus(s)
	for {
		if n, connected := c.take(wanted[:1], 0); connected == proxies && n[0].needed == proxies && n[0].active == proxies {
			break
		}
	}
	// To read the host allocates several times a route.
	if n := testing.AllocsPerRun(10, func() { c.take(wanted[:1], 0) }); n > routes {
		t.Errorf("a census that finds nothing new allocates %v times", n)
	}
	if len(c.refs) != 1 || c.named != 1+routes {
		t.Errorf("%d resources with %d references are kept, want the host's", len(c.refs), c.named)
	}
}

// Who has been given the version in which an object came into force, and holds something made of it, counts as one that
// needs the object, also where that version comes while others are looked at: else a change would be said to be in
// force everywhere when those who had it before have it.
func TestCensusAtTheMomentOfAChange(t *testing.T) {
	var feed server.Feed
	publish := func(version uint64) {
		host, err := resource.NewNamed(resource.VirtualHostType, "80/h", &routev3.VirtualHost{Name: fmt.Sprint("h-", version), Domains: []string{"h"}})
		if err != nil {
			t.Error(err)
			return
		}
		origin := translate.Origin("VirtualService", "default", fmt.Sprint("vs-", version))
		feed.Publish(resource.NewView(version, host.MadeOf([]resource.Origin{origin}), resource.FromBytes(resource.IndexType, "0", nil)))
	}
	publish(1)
	s := server.New(server.Options{Source: always{&feed}, Authorize: func(server.Peer, *corev3.Node) error { return nil }, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer func() { cancel(); running.Wait() }()
	x := &extra{ctx: ctx, in: make(chan *discoveryv3.DeltaDiscoveryRequest, 8)}
	x.in <- &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "n"}, TypeUrl: resource.IndexType, ResourceNamesSubscribe: []string{"0"}}
	x.in <- &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.VirtualHostType, ResourceNamesSubscribe: []string{"80/h"}}
	running.Go(func() { _ = s.DeltaAggregatedResources(x) })
	c := newCensus(s)
	of := func(version uint64) count {
		id := virtualServiceID(int(version))
		n, _ := c.take([]*receipt{{id: id, origin: translate.Origin(id.Kind, id.Namespace, id.Name), mesh: version}}, 0)
		return n[0]
	}
	for of(1).active == 0 {
		runtime.Gosched()
	}
	for version := uint64(2); version < 300 && !t.Failed(); version++ {
		running.Go(func() { publish(version) })
		for n := of(version); n.active == 0; n = of(version) {
			if n.unknown == 0 && n.needed == 0 {
				t.Fatalf("the proxy has been given version %d, and does not count: %+v", version, n)
			}
		}
	}
}

// A look that took long because others had the machine keeps nobody waiting; looks that
// always take long become rare.
func TestPace(t *testing.T) {
	var p pace
	for i, x := range []struct{ took, rest time.Duration }{
		{100 * time.Microsecond, lookInterval},
		{30 * time.Millisecond, lookInterval},
		{200 * time.Microsecond, lookInterval},
		{10 * time.Millisecond, lookInterval},
		{5 * time.Millisecond, lookInterval},
		{5 * time.Millisecond, lookInterval}, // 200 µs is among the last four
		{5 * time.Millisecond, 100 * time.Millisecond},
	} {
		if got := p.after(x.took); got != x.rest {
			t.Errorf("look %d, of %v: the next one after %v, want %v", i, x.took, got, x.rest)
		}
	}
}
