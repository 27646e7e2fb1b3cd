package client

import (
	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// pooled is the largest buffer of gRPC's pool below 1 MB (as of gRPC 1.85).
const pooled = 32 << 10

// codec is gRPC's own except that a message too large for a small buffer of its pool is put
// together in one that fits: the pool's next has 1 MB, and keeps it until garbage has been
// collected twice, which in an idle proxy takes minutes.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(encodingproto.Name)} }

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if m, ok := v.(proto.Message); ok && data.Len() > pooled {
		return proto.Unmarshal(data.Materialize(), m)
	}
	return c.CodecV2.Unmarshal(data, v)
}
