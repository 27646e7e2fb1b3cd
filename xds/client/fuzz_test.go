package client

import (
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/xds/resource"
)

// Whatever a server sends is applied or refused, and nothing is held that was not asked for.
func FuzzResponses(f *testing.F) {
	add := func(m proto.Message) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	body := &anypb.Any{TypeUrl: resource.EndpointType, Value: []byte("\n\x01a")}
	wrapped, err := anypb.New(&discoveryv3.Resource{Name: "a", Resource: body})
	if err != nil {
		f.Fatal(err)
	}
	add(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: resource.EndpointType, Nonce: "1", Resources: []*discoveryv3.Resource{{Name: "a", Version: "1", Resource: body}, {Name: "b"}}, RemovedResources: []string{"c"}})
	add(&discoveryv3.DiscoveryResponse{TypeUrl: resource.EndpointType, Nonce: "1", Resources: []*anypb.Any{body, wrapped}})
	add(&discoveryv3.DiscoveryResponse{TypeUrl: resource.ListenerType, Resources: []*anypb.Any{{TypeUrl: resource.ListenerType, Value: []byte("\n\xff")}}})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, sotw := range []bool{false, true} {
			m := machine{sotw: sotw}
			m.subscribe(resource.ListenerType)
			m.subscribe(resource.EndpointType, "a", "c")
			m.connect()
			for range 2 { // the second time it is known already
				var r *received
				if sotw {
					var d discoveryv3.DiscoveryResponse
					if proto.Unmarshal(b, &d) != nil {
						continue
					}
					r = m.receiveSotW(&d)
				} else {
					var d discoveryv3.DeltaDiscoveryResponse
					if proto.Unmarshal(b, &d) != nil {
						continue
					}
					r = m.receiveDelta(&d)
				}
				nack := ""
				if r.problem != nil {
					nack = r.problem.Error()
				} else {
					m.accepted(r)
				}
				if q := m.answer(r.TypeURL, r.nonce, nack); q.nonce != r.nonce || (q.nack == "") != (r.problem == nil) {
					t.Errorf("%+v is answered by %+v", r, q)
				}
			}
			for n := range m.find(resource.EndpointType).held {
				if n != "a" && n != "c" {
					t.Errorf("%q is held", n)
				}
			}
		}
	})
}
