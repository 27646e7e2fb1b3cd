package control

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/weirmesh/weir/internal/memnet"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

// Without TLS a tool on this machine gets what a proxy of the kind it says it is would get. It gets no certificates: there is
// no CA on that port. And the port cannot be where others reach it.
func TestPlaintext(t *testing.T) {
	network := &memnet.Network{}
	options := func(addr string) Options {
		l, err := network.Listen(addr)
		if err != nil {
			t.Fatal(err)
		}
		return Options{State: t.TempDir(), PlainGRPC: []net.Listener{l}, Settings: mesh.Settings{DomainSuffix: "cluster.local"}, Log: slog.New(slog.DiscardHandler)}
	}
	for _, addr := range []string{"10.0.0.1:15010", "[2001:db8::1]:15010"} {
		if _, err := New(options(addr)); err == nil || !strings.Contains(err.Error(), addr) {
			t.Errorf("%s: %v", addr, err)
		}
	}
	p, err := New(options("127.0.0.1:15010"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	c, err := grpc.NewClient("passthrough:///127.0.0.1:15010", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return network.DialContext(ctx, "tcp", a) }))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(c).DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "sidecar~10.1.2.3~a.default~default.svc.cluster.local"}, TypeUrl: resource.ClusterType}); err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || len(m.GetResources()) == 0 {
		t.Errorf("%v %v", m, err)
	}
	err = c.Invoke(t.Context(), "/istio.v1.auth.IstioCertificateService/CreateCertificate", &discoveryv3.Resource{}, &discoveryv3.Resource{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("asking for a certificate: %v", err)
	}
}
