package control

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/weirmesh/weir/ca/token"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/xds/resource"
)

// bare is who has no certificate yet.
type bare struct{ roots *identity.Bundle }

func (b bare) Certificate() *tls.Certificate { return nil }
func (b bare) Bundle() *identity.Bundle      { return b.roots }

// A stream without a certificate is opened by a token, as Istio's agents do: by the workload
// that the token was made for, and nobody else.
func TestStreamsByToken(t *testing.T) {
	p := start(t, t.TempDir())
	key, err := token.OpenKey(filepath.Join(p.state, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	authority, _ := p.auth.Watch()
	mint := func(namespace, audience string) string {
		s, err := key.Mint(token.Claims{ID: identity.ID{TrustDomain: "cluster.local", Namespace: namespace, ServiceAccount: "page"}, Workload: "page-0", Audience: audience, Expires: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		return "Bearer " + s.Reveal()
	}
	istiod, _ := identity.New("cluster.local", "istio-system", "istiod")
	conn, err := grpc.NewClient("passthrough:///control",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return p.network.DialContext(ctx, "tcp", "127.0.0.1:15012")
		}),
		grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(bare{authority.Bundle()}, identity.OneOf{istiod}))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, c := range []struct {
		name, token, node string
		code              codes.Code
		text              string
	}{
		{"its own", mint("shop", token.Audience), "page-0.shop", codes.OK, ""},
		{"nothing", "", "page-0.shop", codes.Unauthenticated, "send a bearer token"},
		// Who has not said a word yet has no place among the streams that others need.
		{"nothing, and silence", "", "", codes.Unauthenticated, "send a bearer token"},
		{"another audience", mint("shop", "vault"), "page-0.shop", codes.Unauthenticated, `for audience "vault"`},
		{"another pod of the account", mint("shop", token.Audience), "page-1.shop", codes.PermissionDenied, "the credential is that of shop/page-0, and the node says it is shop/page-1"},
		{"another namespace", mint("zoo", token.Audience), "page-0.shop", codes.PermissionDenied, `namespace "shop"`},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		if c.token != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", c.token)
		}
		stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if c.node != "" {
			if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.ClusterType, Node: &corev3.Node{Id: "sidecar~10.0.0.9~" + c.node + "~shop.svc.cluster.local"}}); err != nil && !errors.Is(err, io.EOF) { // it may be refused already: Recv says why
				t.Fatal(err)
			}
		}
		_, err = stream.Recv()
		if s := status.Convert(err); s.Code() != c.code || !strings.Contains(s.Message(), c.text) {
			t.Errorf("%s: %v, want %s with %q", c.name, err, c.code, c.text)
		}
		cancel()
	}
}
