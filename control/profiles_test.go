package control

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/rogpeppe/go-internal/txtar"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/weirmesh/weir/internal/memnet"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

var update = flag.Bool("update", false, "rewrite what profiles are answered: only commit the changes if proxies that run now may be told something else")

// Proxies that are older, or not ours, say who they are and what they can do in words that were fixed when they were built. Each file
// has the node of one kind of proxy as it is on the wire ("node", JSON) and what such a proxy is answered on the types it begins with
// ("answered"): the words that the control plane announces itself by, and names of resources. What one is answered never changes because
// another kind has learnt something. "over" is how it asks: delta, or sotw. Write down a new file with each release; a changed "answered"
// means that proxies which run now would be told something else.
func TestProfiles(t *testing.T) {
	network := &memnet.Network{}
	l, err := network.Listen("127.0.0.1:15010")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	folder := filepath.Join(dir, "config")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "shop.yaml"), []byte(shop), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := New(Options{Version: "test", Name: "replica", State: filepath.Join(dir, "state"), Paths: []string{folder}, PlainGRPC: []net.Listener{l},
		Settings: mesh.Settings{ClusterID: "Kubernetes", DomainSuffix: "cluster.local", RootNamespace: "istio-system"}, Log: slog.New(slog.DiscardHandler)})
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
	<-p.ready
	files, err := filepath.Glob("testdata/profiles/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no profiles", err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			over := "delta"
			node := &corev3.Node{}
			for i := range ar.Files {
				f := &ar.Files[i]
				switch f.Name {
				case "node":
					if err := protojson.Unmarshal(f.Data, node); err != nil {
						t.Fatal(err)
					}
				case "over":
					over = strings.TrimSpace(string(f.Data))
				case "answered":
					got := answers(t, network, node, over)
					if string(f.Data) == got {
						continue
					}
					if !*update {
						t.Errorf("answered\n%s\nwant\n%s", got, f.Data)
						continue
					}
					f.Data = []byte(got)
					if err := os.WriteFile(path, txtar.Format(ar), 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// answers is what a node is told about all clusters and listeners.
func answers(t *testing.T, network *memnet.Network, node *corev3.Node, over string) string {
	t.Helper()
	types := []string{resource.ClusterType, resource.ListenerType}
	c, err := grpc.NewClient("passthrough:///127.0.0.1:15010", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return network.DialContext(ctx, "tcp", a) }))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var b strings.Builder
	said := ""
	tell := func(by *corev3.ControlPlane, typeURL string, names []string) {
		if id := by.GetIdentifier(); id != said {
			said = id
			fmt.Fprintf(&b, "identifier %s\n", id)
		}
		slices.Sort(names)
		fmt.Fprintf(&b, "%s %s\n", resource.Short(typeURL), strings.Join(names, " "))
	}
	client := discoveryv3.NewAggregatedDiscoveryServiceClient(c)
	if over == "sotw" {
		s, err := client.StreamAggregatedResources(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, typ := range types {
			if err := s.Send(&discoveryv3.DiscoveryRequest{Node: node, TypeUrl: typ}); err != nil {
				t.Fatal(err)
			}
			m, err := s.Recv()
			if err != nil {
				return b.String() + err.Error() + "\n"
			}
			var names []string
			for _, r := range m.GetResources() {
				x, err := r.UnmarshalNew()
				if err != nil {
					t.Fatal(err)
				}
				names = append(names, x.(interface{ GetName() string }).GetName())
			}
			tell(m.GetControlPlane(), m.GetTypeUrl(), names)
			if err := s.Send(&discoveryv3.DiscoveryRequest{TypeUrl: typ, VersionInfo: m.GetVersionInfo(), ResponseNonce: m.GetNonce()}); err != nil {
				t.Fatal(err)
			}
		}
		return b.String()
	}
	s, err := client.DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range types {
		if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{Node: node, TypeUrl: typ}); err != nil {
			t.Fatal(err)
		}
		m, err := s.Recv()
		if err != nil {
			return b.String() + err.Error() + "\n"
		}
		var names []string
		for _, r := range m.GetResources() {
			names = append(names, r.GetName())
		}
		tell(m.GetControlPlane(), m.GetTypeUrl(), names)
		if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typ, ResponseNonce: m.GetNonce()}); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}
