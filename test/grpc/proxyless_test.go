package grpc_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	xdscreds "google.golang.org/grpc/credentials/xds"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/xds"

	"github.com/weirmesh/weir/test/mesh"
)

// proxyless is a program that is its own proxy: what gRPC's bootstrap file says of it.
type proxyless struct {
	namespace, name, account string
	template                 string // of server listeners; "": Istio's
}

// bootstrap writes the program's certificate and returns the file that Istio's agent would
// write for it.
func (p proxyless) bootstrap(t *testing.T, m *mesh.Mesh) []byte {
	t.Helper()
	dir := t.TempDir()
	cert := m.Certificate(p.namespace, p.account)
	roots, err := os.ReadFile(filepath.Join(m.Dir, "state", "ca", "root-cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	var chain []byte
	for _, c := range cert.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	for name, data := range map[string][]byte{"cert-chain.pem": chain, "key.pem": key(t, cert), "root-cert.pem": roots} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string]any{"certificate_file": dir + "/cert-chain.pem", "private_key_file": dir + "/key.pem", "ca_certificate_file": dir + "/root-cert.pem"}
	template := p.template
	if template == "" {
		template = "xds.istio.io/grpc/lds/inbound/%s"
	}
	b, err := json.Marshal(map[string]any{
		"xds_servers": []any{map[string]any{"server_uri": "unix://" + filepath.Join(m.Dir, "xds.sock"), "server_features": []string{"xds_v3"},
			"channel_creds": []any{map[string]any{"type": "tls", "config": files}}}},
		"node": map[string]any{"id": "sidecar~127.0.0.1~" + p.name + "." + p.namespace + "~" + p.namespace + ".svc.cluster.local",
			"metadata": map[string]any{"GENERATOR": "grpc", "NAMESPACE": p.namespace, "CLUSTER_ID": "Kubernetes", "INSTANCE_IPS": "127.0.0.1"}},
		"certificate_providers":                  map[string]any{"default": map[string]any{"plugin_name": "file_watcher", "config": files}},
		"server_listener_resource_name_template": template,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func key(t *testing.T, c *tls.Certificate) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// serve runs a gRPC server that takes its listener from the control plane, and returns
// where it listens. It begins to serve when it is told how.
func (p proxyless) serve(t *testing.T, m *mesh.Mesh) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	creds, err := xdscreds.NewServerCredentials(xdscreds.ServerOptions{FallbackCreds: insecure.NewCredentials()})
	if err != nil {
		t.Fatal(err)
	}
	s, err := xds.NewGRPCServer(grpc.Creds(creds), xds.BootstrapContentsForTesting(p.bootstrap(t, m)))
	if err != nil {
		t.Fatal(err)
	}
	healthpb.RegisterHealthServer(s, health.NewServer())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr()
}

// dial opens a channel that takes everything from the control plane.
func (p proxyless) dial(t *testing.T, m *mesh.Mesh, target string, o ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	resolver, err := xds.NewXDSResolverWithConfigForTesting(p.bootstrap(t, m))
	if err != nil {
		t.Fatal(err)
	}
	creds, err := xdscreds.NewClientCredentials(xdscreds.ClientOptions{FallbackCreds: insecure.NewCredentials()})
	if err != nil {
		t.Fatal(err)
	}
	cc, err := grpc.NewClient("xds:///"+target, append(o, grpc.WithTransportCredentials(creds), grpc.WithResolvers(resolver))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// call makes one call and says who answered, by the port, and who the server proved to be.
func call(cc *grpc.ClientConn, headers ...string) (port int, id string, err error) {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), headers...), 5*time.Second)
	defer cancel()
	var p peer.Peer
	if _, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true), grpc.Peer(&p)); err != nil {
		return 0, "", err
	}
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
		id = info.SPIFFEID.String()
	}
	return p.Addr.(*net.TCPAddr).Port, id, nil
}

// entry is the service that two programs outside Kubernetes serve.
func entry(v1, v2 net.Addr) string {
	text := `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: shop, namespace: shop}
spec:
  hosts: [shop.example.com]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 8080, name: grpc, protocol: GRPC}]
  workloadSelector: {labels: {app: shop}}
`
	for version, at := range map[string]net.Addr{"v1": v1, "v2": v2} {
		text += fmt.Sprintf(`---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: shop-%[1]s, namespace: shop}
spec:
  address: 127.0.0.1
  ports: {grpc: %[2]d}
  serviceAccount: shop
  labels: {app: shop, version: %[1]s, security.istio.io/tlsMode: istio}
`, version, at.(*net.TCPAddr).Port)
	}
	return text
}

// rules route by subset and by header; mode is the servers' PeerAuthentication.
func rules(mode string) string {
	return `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: shop}
spec:
  hosts: [shop.example.com]
  http:
  - match: [{headers: {user: {exact: tester}}}]
    route: [{destination: {host: shop.example.com, subset: v2}}]
  - match: [{headers: {user: {exact: unlucky}}}]
    fault: {abort: {grpcStatus: RESOURCE_EXHAUSTED, percentage: {value: 100}}}
    route: [{destination: {host: shop.example.com, subset: v1}}]
  - route: [{destination: {host: shop.example.com, subset: v1}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shop, namespace: shop}
spec:
  host: shop.example.com
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: ` + mode + `}}
`
}

// Programs that speak gRPC's own xDS need no proxy: servers take their listener, clients
// route by header and subset, and mutual TLS follows the mesh's policy while they run.
func TestProxyless(t *testing.T) {
	m := mesh.New(t, nil)
	v1 := proxyless{"shop", "shop-v1", "shop", ""}.serve(t, m)
	v2 := proxyless{"shop", "shop-v2", "shop", "grpc/server?xds.resource.listening_address=%s"}.serve(t, m)
	m.Write("shop.yaml", entry(v1, v2))
	m.Write("rules.yaml", rules("DISABLE"))
	cc := proxyless{"web", "web-0", "web", ""}.dial(t, m, "shop.example.com:8080")

	reach := func(what, wantID string, want net.Addr, headers ...string) {
		t.Helper()
		m.Eventually(what, func() error {
			port, id, err := call(cc, headers...)
			if err != nil {
				return err
			}
			if port != want.(*net.TCPAddr).Port || id != wantID {
				return fmt.Errorf("answered by port %d as %q, want %v as %q", port, id, want, wantID)
			}
			return nil
		})
	}
	reach("plaintext to v1", "", v1)
	reach("plaintext to v2 by header", "", v2, "user", "tester")
	if _, _, err := call(cc, "user", "unlucky"); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the fault gives %v", err)
	}

	m.Write("rules.yaml", rules("STRICT"))
	const shop = "spiffe://cluster.local/ns/shop/sa/shop"
	reach("mutual TLS to v1", shop, v1)
	reach("mutual TLS to v2 by header", shop, v2, "user", "tester")
	plain, err := grpc.NewClient("passthrough:///"+v1.String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := healthpb.NewHealthClient(plain).Check(ctx, &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("a caller without certificate is answered: %v", err)
	}

	// Tokens that somebody asked to be checked, and that nobody here can check, are denied; who has none is served.
	m.Write("tokens.yaml", `
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: shop}
spec:
  selector: {matchLabels: {app: shop}}
  jwtRules:
  - {issuer: me, jwks: '{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}'}
  - {issuer: you, jwks: '{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}', fromHeaders: [{name: x-token}]}
`)
	for _, h := range [][]string{{"authorization", "Bearer x.y.z"}, {"x-token", "x.y.z"}} {
		m.Eventually("a token in "+h[0]+" is denied", func() error {
			if _, _, err := call(cc, h...); status.Code(err) != codes.PermissionDenied {
				return fmt.Errorf("it gives %w", err)
			}
			return nil
		})
	}
	reach("without a token", shop, v1)
	reach("other credentials", shop, v1, "authorization", "Basic eDp5")
	m.Eventually("it is told", func() error {
		for _, f := range m.Status().Findings {
			if f.Kind == "RequestAuthentication" && strings.Contains(f.Message, "check no tokens") {
				return nil
			}
		}
		return errors.New("there is no finding")
	})

	// Nobody rejected anything on the way.
	for _, p := range m.Status().Proxies {
		if len(p.Rejected) > 0 {
			t.Errorf("%s: %+v", p.Node, p.Rejected)
		}
	}
}

// A server that is not who the mesh says it is gets no call.
func TestProxylessChecksIdentity(t *testing.T) {
	m := mesh.New(t, nil)
	real := proxyless{"shop", "shop-v1", "shop", ""}.serve(t, m)
	thief := proxyless{"shop", "shop-v2", "thief", ""}.serve(t, m)
	m.Write("shop.yaml", entry(real, thief))
	m.Write("rules.yaml", rules("STRICT"))
	cc := proxyless{"web", "web-0", "web", ""}.dial(t, m, "shop.example.com:8080")
	m.Eventually("the real one answers", func() error { _, _, err := call(cc); return err })
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "user", "tester"), 5*time.Second)
	defer cancel()
	_, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the thief answers: %v", err)
	}
}
