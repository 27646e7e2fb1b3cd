package grpc_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/rogpeppe/go-internal/txtar"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/weirmesh/weir/test/mesh"
	"github.com/weirmesh/weir/xds/client"
	"github.com/weirmesh/weir/xds/resource"
)

// gRPC takes what it is sent in every mesh that translate's cases describe: its own rules
// are stricter than Envoy's, and one refused resource would fail all calls to a service.
func TestGRPCTakesEveryCase(t *testing.T) {
	cases := filepath.Join("..", "..", "translate", "testdata")
	paths, err := filepath.Glob(filepath.Join(cases, "*.txtar"))
	if err != nil || len(paths) == 0 {
		t.Fatal("no cases", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			m := mesh.New(t, nil)
			for _, f := range ar.Files {
				switch {
				case strings.HasSuffix(f.Name, ".yaml"):
					m.Write(filepath.Base(f.Name), string(f.Data))
				case f.Name == "include":
					for name := range strings.FieldsSeq(string(f.Data)) {
						included, err := txtar.ParseFile(filepath.Join(cases, "include", name)) // a text without sections
						if err != nil {
							t.Fatal(err)
						}
						m.Write(name, string(included.Comment))
					}
				}
			}
			m.Settle()
			services, err := m.API().Services(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			sent := listeners(t, m)
			for _, s := range services {
				for _, p := range s.Ports {
					name := net.JoinHostPort(s.Hostname, strconv.Itoa(int(p.Number)))
					if sent[name] {
						settle(t, caller.dial(t, m, name, grpc.WithContextDialer(nowhere)))
					}
				}
			}
			for _, p := range m.Status().Proxies {
				for _, r := range p.Rejected {
					t.Errorf("%s rejected: %s", r.Type, r.Message)
				}
			}
		})
	}
}

var caller = proxyless{"default", "caller-0", "default", ""}

// nowhere is a network without anybody: what is called does not matter here.
func nowhere(context.Context, string) (net.Conn, error) { return nil, errors.New("nobody is there") }

// listeners are the names that the control plane has a listener for: gRPC waits long for
// one that there is none of.
func listeners(t *testing.T, m *mesh.Mesh) map[string]bool {
	t.Helper()
	node := &corev3.Node{}
	boot := caller.bootstrap(t, m)
	var file struct{ Node json.RawMessage }
	if err := json.Unmarshal(boot, &file); err != nil {
		t.Fatal(err)
	}
	if err := protojson.Unmarshal(file.Node, node); err != nil {
		t.Fatal(err)
	}
	cert := m.Certificate(caller.namespace, caller.account)
	roots, err := m.Roots()
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	for _, c := range roots.Roots() {
		pool.AddCert(c)
	}
	got := make(chan []client.Resource, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := client.New(client.Options{Log: slog.New(slog.DiscardHandler), Node: func() *corev3.Node { return node },
		Dial: func(context.Context) (client.Conn, error) {
			return grpc.NewClient("unix://"+filepath.Join(m.Dir, "xds.sock"), append(client.DialOptions(), grpc.WithTransportCredentials(credentials.NewTLS(
				&tls.Config{Certificates: []tls.Certificate{*cert}, RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS12})))...)
		},
		Apply: func(_ context.Context, u client.Update) error {
			select {
			case got <- u.Set:
			default:
			}
			return nil
		}})
	c.Subscribe(resource.ListenerType)
	go func() { _ = c.Run(ctx) }()
	out := map[string]bool{}
	for {
		st, changed := c.State()
		select {
		case set := <-got:
			for _, r := range set {
				out[r.Name] = true
			}
			return out
		default:
		}
		if st.Synced {
			return out
		}
		select {
		case <-changed:
		case <-time.After(20 * time.Second):
			t.Fatal("no listeners come")
		}
	}
}

// settle calls, so that the channel finds out what it is to do: then it has all it is sent.
func settle(t *testing.T, cc *grpc.ClientConn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{}); ctx.Err() != nil {
		t.Fatal(fmt.Errorf("%s does not find out what to do: %w", cc.Target(), err))
	}
}
