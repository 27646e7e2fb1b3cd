package client

import (
	"context"
	"errors"
	"io"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
)

// response is what both kinds of response have in common.
type response interface {
	GetTypeUrl() string
	GetControlPlane() *corev3.ControlPlane
}

// stream is a gRPC stream of either protocol.
type stream struct {
	recv func() (response, error)
	send func(request) error
	read func(*machine, response) *received
	node *corev3.Node // of the first request; then nil
}

func (c *Client) open(ctx context.Context, conn Conn) (*stream, error) {
	ads, sds := discoveryv3.NewAggregatedDiscoveryServiceClient(conn), secretv3.NewSecretDiscoveryServiceClient(conn)
	whole, delta := ads.StreamAggregatedResources, ads.DeltaAggregatedResources
	if c.opts.Secrets {
		whole, delta = sds.StreamSecrets, sds.DeltaSecrets
	}
	st := &stream{node: c.opts.Node()}
	if c.opts.SotW {
		s, err := whole(ctx)
		if err != nil {
			return nil, err
		}
		st.recv = func() (response, error) { return s.Recv() }
		st.read = func(m *machine, r response) *received { return m.receiveSotW(r.(*discoveryv3.DiscoveryResponse)) }
		st.send = func(r request) error { return s.Send(r.sotw(st.takeNode())) }
		return st, nil
	}
	s, err := delta(ctx)
	if err != nil {
		return nil, err
	}
	st.recv = func() (response, error) { return s.Recv() }
	st.read = func(m *machine, r response) *received {
		return m.receiveDelta(r.(*discoveryv3.DeltaDiscoveryResponse))
	}
	st.send = func(r request) error { return s.Send(r.delta(st.takeNode())) }
	return st, nil
}

func (st *stream) takeNode() *corev3.Node {
	n := st.node
	st.node = nil
	return n
}

// send sends in order. That the stream is over is not its error: receiving tells why.
func send(st *stream, out []request) error {
	for _, r := range out {
		if err := st.send(r); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return nil
}

func (r request) delta(node *corev3.Node) *discoveryv3.DeltaDiscoveryRequest {
	return &discoveryv3.DeltaDiscoveryRequest{
		Node: node, TypeUrl: r.typeURL, ResponseNonce: r.nonce, ErrorDetail: r.errorDetail(),
		ResourceNamesSubscribe: r.subscribe, ResourceNamesUnsubscribe: r.unsubscribe, InitialResourceVersions: r.known,
	}
}

func (r request) sotw(node *corev3.Node) *discoveryv3.DiscoveryRequest {
	return &discoveryv3.DiscoveryRequest{
		Node: node, TypeUrl: r.typeURL, ResponseNonce: r.nonce, ErrorDetail: r.errorDetail(),
		ResourceNames: r.names, VersionInfo: r.version,
	}
}

func (r request) errorDetail() *rpcstatus.Status {
	if r.nack == "" {
		return nil
	}
	return &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: r.nack}
}
