package tcp

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/observe"
)

// The metadata exchange of Istio's proxies (network filter istio.metadata_exchange): on a
// connection whose TLS agreed on the protocol below, each side begins with eight bytes, the
// magic number and a length in network byte order, and so many bytes of a
// google.protobuf.Any that holds a Struct with the two keys below.
const (
	protocol    = "istio-peer-exchange"
	magic       = 0x3D230467
	frameHeader = 8
	// maxFrame bounds what a peer can make us hold: Istio's metadata has 0.3 to 2 KB.
	maxFrame = 32 << 10

	metadataKey   = "x-envoy-peer-metadata"
	metadataIDKey = "x-envoy-peer-metadata-id"
)

// exchanges reports whether the peers of c agreed to exchange metadata.
func exchanges(c *conn.Conn) bool {
	p := c.Info().TLS
	return p != nil && p.ALPN == protocol
}

// Frame is what peers are told about a workload.
func Frame(n *observe.Node) ([]byte, error) {
	s := &structpb.Struct{Fields: map[string]*structpb.Value{metadataKey: structpb.NewStructValue(n.Metadata())}}
	if n.ID != "" {
		s.Fields[metadataIDKey] = structpb.NewStringValue(n.ID)
	}
	deterministic := proto.MarshalOptions{Deterministic: true}
	inner, err := deterministic.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding peer metadata: %w", err)
	}
	body, err := deterministic.Marshal(&anypb.Any{TypeUrl: "type.googleapis.com/google.protobuf.Struct", Value: inner})
	if err != nil {
		return nil, fmt.Errorf("encoding peer metadata: %w", err)
	}
	if len(body) > maxFrame {
		return nil, fmt.Errorf("peer metadata has %d bytes, at most %d are exchanged: shorten the workload's labels", len(body), maxFrame)
	}
	b := binary.BigEndian.AppendUint32(nil, magic)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	return append(b, body...), nil
}

var (
	errShort = errors.New("more bytes are needed")
	errLong  = errors.New("the peer's metadata is too long")
)

// parseFrame takes a frame off b. n is 0 where the peer sends none, as some that agree
// on the protocol do; a frame whose content makes no sense is taken and says nothing:
// telemetry fails open.
func parseFrame(b []byte) (n int, metadata *structpb.Struct, err error) {
	for i := 0; i < 4 && i < len(b); i++ {
		if b[i] != byte(uint32(magic)>>(24-8*i)) {
			return 0, nil, nil
		}
	}
	if len(b) < frameHeader {
		return 0, nil, errShort
	}
	size := binary.BigEndian.Uint32(b[4:])
	if size > maxFrame {
		return 0, nil, errLong
	}
	n = frameHeader + int(size)
	if len(b) < n {
		return 0, nil, errShort
	}
	var a anypb.Any
	var s structpb.Struct
	if proto.Unmarshal(b[frameHeader:n], &a) != nil || a.UnmarshalTo(&s) != nil {
		return n, nil, nil
	}
	return n, s.Fields[metadataKey].GetStructValue(), nil
}

func (w *Worker) readFrame(b []byte) (n int, peer *observe.Peer, err error) {
	n, metadata, err := parseFrame(b)
	if err == nil && metadata != nil && w.o.Peers != nil {
		peer = w.o.Peers.FromStruct(metadata)
	}
	return n, peer, err
}
