package client

import (
	"bytes"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"
)

// A message is the same whatever it is put together in.
func TestCodec(t *testing.T) {
	c := newCodec()
	for _, size := range []int{0, 100, pooled - 20, pooled, 10 * pooled} {
		m := &discoveryv3.DeltaDiscoveryResponse{Nonce: "n", Resources: []*discoveryv3.Resource{{Name: "x", Resource: &anypb.Any{Value: bytes.Repeat([]byte{7}, size)}}}}
		wire, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var frames mem.BufferSlice
		for len(wire) > 0 {
			n := min(len(wire), 16<<10)
			frames, wire = append(frames, mem.SliceBuffer(wire[:n])), wire[n:]
		}
		got := &discoveryv3.DeltaDiscoveryResponse{}
		if err := c.Unmarshal(frames, got); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(m, got, protocmp.Transform()); d != "" {
			t.Errorf("%d bytes: %s", size, d)
		}
	}
	if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(bytes.Repeat([]byte{0xff}, 2*pooled))}, &discoveryv3.DeltaDiscoveryResponse{}); err == nil {
		t.Error("garbage is a message")
	}
}
