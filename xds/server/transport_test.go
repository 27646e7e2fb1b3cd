package server_test

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/weirmesh/weir/xds/server"
)

// transport joins clients to a Server without gRPC, and holds every message until the
// test lets it through, so that a test decides what crosses what.
type transport struct {
	server *server.Server
	codec  encoding.CodecV2

	mu    sync.Mutex
	links []*link
}

// link is one stream.
type link struct {
	up, down queue // to the server, to the client
	end      context.CancelFunc
}

// queue holds encoded messages: first those that wait, then those that may be received.
type queue struct {
	mu      sync.Mutex
	changed sync.Cond
	held    [][]byte
	ready   [][]byte
	ended   error
}

func (q *queue) send(b []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended != nil {
		return io.EOF
	}
	q.held = append(q.held, b)
	return nil
}

func (q *queue) recv() ([]byte, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.ready) == 0 && q.ended == nil {
		q.changed.Wait()
	}
	if q.ended != nil { // what was on its way is lost
		return nil, q.ended
	}
	b := q.ready[0]
	q.ready = q.ready[1:]
	return b, nil
}

func (q *queue) waits() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.held) > 0 && q.ended == nil
}

// pass lets one message through.
func (q *queue) pass() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ready = append(q.ready, q.held[0])
	q.held = q.held[1:]
	q.changed.Broadcast()
}

func (q *queue) finish(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended == nil {
		q.ended = err
	}
	q.changed.Broadcast()
}

// pass lets one message through on the i-th of the streams' directions that have any, and
// reports whether there was one.
func (t *transport) pass(i int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	var waiting []*queue
	for _, l := range t.links {
		for _, q := range []*queue{&l.up, &l.down} {
			if q.waits() {
				waiting = append(waiting, q)
			}
		}
	}
	if len(waiting) == 0 {
		return false
	}
	waiting[i%len(waiting)].pass()
	return true
}

// drop ends all streams with what is on its way.
func (t *transport) drop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.links {
		l.kill()
	}
	t.links = nil
}

func (l *link) kill() {
	lost := status.Error(codes.Unavailable, "connection lost")
	l.up.finish(lost)
	l.down.finish(lost)
	l.end()
}

// The client's connection.

func (t *transport) Close() error { return nil }

func (t *transport) Invoke(context.Context, string, any, any, ...grpc.CallOption) error {
	return status.Error(codes.Unimplemented, "streams only")
}

func (t *transport) NewStream(ctx context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	sctx, end := context.WithCancel(context.Background())
	l := &link{end: end}
	l.up.changed.L, l.down.changed.L = &l.up.mu, &l.down.mu
	t.mu.Lock()
	t.links = append(t.links, l)
	t.mu.Unlock()
	sctx = peer.NewContext(sctx, &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}})
	ss := &serverEnd{ctx: sctx, codec: t.codec, l: l}
	go func() {
		var err error
		if strings.HasSuffix(method, "/DeltaAggregatedResources") {
			err = t.server.DeltaAggregatedResources(&grpc.GenericServerStream[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]{ServerStream: ss})
		} else {
			err = t.server.StreamAggregatedResources(&grpc.GenericServerStream[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]{ServerStream: ss})
		}
		if err == nil {
			err = io.EOF
		}
		l.down.finish(err)
		l.up.finish(err)
		end()
	}()
	context.AfterFunc(ctx, l.kill)
	return &clientEnd{ctx: ctx, codec: t.codec, l: l}, nil
}

type serverEnd struct {
	ctx   context.Context
	codec encoding.CodecV2
	l     *link
}

func (s *serverEnd) Context() context.Context { return s.ctx }
func (s *serverEnd) SendMsg(m any) error      { return encodeTo(&s.l.down, s.codec, m) }
func (s *serverEnd) RecvMsg(m any) error      { return decodeFrom(&s.l.up, m) }

func (*serverEnd) SetHeader(metadata.MD) error  { return nil }
func (*serverEnd) SendHeader(metadata.MD) error { return nil }
func (*serverEnd) SetTrailer(metadata.MD)       {}

type clientEnd struct {
	ctx   context.Context
	codec encoding.CodecV2
	l     *link
}

func (c *clientEnd) Context() context.Context { return c.ctx }
func (c *clientEnd) SendMsg(m any) error      { return encodeTo(&c.l.up, c.codec, m) }
func (c *clientEnd) RecvMsg(m any) error      { return decodeFrom(&c.l.down, m) }

func (*clientEnd) Header() (metadata.MD, error) { return nil, nil }
func (*clientEnd) Trailer() metadata.MD         { return nil }
func (*clientEnd) CloseSend() error             { return nil }

func encodeTo(q *queue, codec encoding.CodecV2, m any) error {
	b, err := codec.Marshal(m)
	if err != nil {
		return err
	}
	return q.send(b.Materialize())
}

func decodeFrom(q *queue, m any) error {
	b, err := q.recv()
	if err != nil {
		return err
	}
	return proto.Unmarshal(b, m.(proto.Message))
}
