package server_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"

	"github.com/weirmesh/weir/xds/resource"
	"github.com/weirmesh/weir/xds/server"
)

// Everybody comes at once, and nobody answers: as many begin as may, the next ones when
// those were given their time. One that answers makes room at once, and so does one that
// leaves, be it while it waits.
func TestStreamsBeginAFewAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t, func(o *server.Options) { o.Beginning, o.MaxBeginning = 2, time.Minute })
		p.feed.Publish(resource.NewView(1, cluster("a", "1")))
		came := make(chan int, 9)
		streams := map[int]grpc.BidiStreamingClient[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]{}
		var nonces [9]string
		leave := map[int]context.CancelFunc{}
		for i := range 9 {
			ctx, cancel := context.WithCancel(t.Context())
			s, end := p.open(ctx, "alice", &corev3.Node{Id: "alice"})
			defer end()
			streams[i], leave[i] = s, cancel
			synctest.Wait() // they come in this order
			go func() {
				r, err := s.Recv()
				if err == nil {
					nonces[i] = r.GetNonce()
					came <- i
				}
			}()
		}
		expect := func(when string, want ...int) {
			t.Helper()
			synctest.Wait()
			var got []int
			for len(came) > 0 {
				got = append(got, <-came)
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%s: %v begin, want %v", when, got, want)
			}
		}
		expect("at once", 0, 1)
		if err := streams[0].Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.ClusterType, ResponseNonce: nonces[0]}); err != nil {
			t.Fatal(err)
		}
		expect("after an ACK", 2)
		leave[1]()
		expect("after one left", 3)
		leave[4]()
		expect("after one left that waited")
		time.Sleep(time.Minute - time.Second)
		expect("shortly before they have had their time")
		time.Sleep(2 * time.Second)
		expect("then", 5, 6)
		time.Sleep(time.Minute)
		expect("and then", 7, 8)
		p.stop()
	})
}

// Changes reach those who are in sync while a crowd waits that never answers.
func TestACrowdDoesNotDelayChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t, func(o *server.Options) { o.Beginning = 1 })
		ctx, cancel := context.WithCancel(t.Context())
		p.feed.Publish(resource.NewView(1, cluster("a", "1")))
		f := p.follow(ctx, "alice", false)
		synctest.Wait()
		for range 20 {
			_, end := p.open(ctx, "alice", &corev3.Node{Id: "alice"})
			defer end()
		}
		synctest.Wait()
		start := time.Now()
		p.feed.Publish(resource.NewView(2, cluster("a", "2")))
		synctest.Wait()
		if got, want := f.clusters["a"], cluster("a", "2").Version(); got != want || time.Since(start) > 0 {
			t.Errorf("a client that is in sync has version %q after %v, want %q", got, time.Since(start), want)
		}
		cancel()
		synctest.Wait()
		p.stop()
	})
}
