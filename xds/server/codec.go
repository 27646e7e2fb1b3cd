package server

import (
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// frame is a marshalled response: a few bytes of its own and the shared bytes of its
// resources. The bytes are not copied together, so that a thousand slow clients which are
// sent the same ten megabytes wait for the same ten megabytes.
type frame mem.BufferSlice

// encode marshals r. (The encodings of two messages of one type, put together, are the
// encoding of both merged; that is how the resources join the rest.)
func encode(r *response, sotw bool, controlPlane *corev3.ControlPlane) (frame, error) {
	version := strconv.FormatUint(r.version, 10)
	var rest proto.Message
	if sotw {
		rest = &discoveryv3.DiscoveryResponse{
			VersionInfo: version, TypeUrl: r.typeURL, Nonce: r.nonce, ControlPlane: controlPlane,
		}
	} else {
		rest = &discoveryv3.DeltaDiscoveryResponse{
			SystemVersionInfo: version, TypeUrl: r.typeURL, Nonce: r.nonce, ControlPlane: controlPlane,
			RemovedResources: r.removed,
		}
	}
	b, err := proto.Marshal(rest)
	if err != nil {
		return nil, err
	}
	f := make(frame, 1, 1+len(r.resources))
	f[0] = mem.SliceBuffer(b)
	if r.bundle != nil {
		return append(f, r.bundle.fields...), nil
	}
	for _, res := range r.resources {
		if sotw {
			b = res.SotwField()
		} else {
			b = res.DeltaField()
		}
		f = append(f, mem.SliceBuffer(b))
	}
	return f, nil
}

// codec is gRPC's protobuf codec that also takes frames.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(grpcproto.Name)} }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(frame); ok {
		return mem.BufferSlice(f), nil
	}
	return c.CodecV2.Marshal(v)
}
