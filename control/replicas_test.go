package control

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/client"
	"github.com/weirmesh/weir/xds/resource"
)

// replica is one of several control planes over the same folder, with the same authority.
type replica struct {
	*Plane
	grpc, http string
	stop       context.CancelFunc
	ended      chan error
}

func startReplica(t *testing.T, state, folder string, handOver time.Duration, change ...func(*Options)) *replica {
	t.Helper()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	g, h := listen(), listen()
	o := Options{Version: "test", Name: filepath.Base(state), State: state, Paths: []string{folder}, GRPC: []net.Listener{g}, HTTP: []net.Listener{h}, HandOver: handOver,
		Log: slog.New(slog.DiscardHandler), Settings: mesh.Settings{ClusterID: "Kubernetes", DomainSuffix: "cluster.local", RootNamespace: "istio-system"}}
	for _, f := range change {
		f(&o)
	}
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &replica{Plane: p, grpc: o.GRPC[0].Addr().String(), http: h.Addr().String(), stop: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- p.Run(ctx); close(r.ended) }()
	t.Cleanup(func() {
		cancel()
		if err := <-r.ended; err != nil {
			t.Error(err)
		}
	})
	<-p.ready
	return r
}

// subscriber is a proxy as far as xDS goes, at the replica that it is told.
type subscriber struct {
	mu      sync.Mutex
	at      *replica
	held    map[string]*resource.Resource // by type and name
	updates int                           // resources received
	c       *client.Client
}

func subscribe(t *testing.T, at *replica, name string, eds, rds []string) *subscriber {
	t.Helper()
	id, err := identity.New("cluster.local", "default", "default")
	if err != nil {
		t.Fatal(err)
	}
	authority, _ := at.auth.Watch()
	held, err := identity.NewManager(identity.Options{ID: id, Log: slog.New(slog.DiscardHandler), Signer: authority.Signer(ca.Grant{ID: id})})
	if err != nil {
		t.Fatal(err)
	}
	s := &subscriber{at: at, held: map[string]*resource.Resource{}}
	s.c = client.New(client.Options{Log: slog.New(slog.DiscardHandler), MinBackoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond,
		Node: func() *corev3.Node {
			return &corev3.Node{Id: "sidecar~10.0.0.9~" + name + ".default~default.svc.cluster.local"}
		},
		Dial: func(ctx context.Context) (client.Conn, error) {
			for {
				if m, changed := held.Watch(); m == nil {
					select {
					case <-changed:
						continue
					case <-ctx.Done():
						return nil, ctx.Err()
					}
				}
				break
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			istiod := identity.OneOf{{TrustDomain: "cluster.local", Namespace: "istio-system", ServiceAccount: "istiod"}}
			return grpc.NewClient("passthrough:///"+s.at.grpc, append(client.DialOptions(), grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(held, istiod))))...)
		},
		Apply: func(_ context.Context, u client.Update) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, r := range u.Set {
				s.held[u.TypeURL+" "+r.Name] = resource.FromBytes(u.TypeURL, r.Name, r.Body.GetValue())
				s.updates++
			}
			for _, n := range u.Removed {
				delete(s.held, u.TypeURL+" "+n)
			}
			return nil
		}})
	s.c.Subscribe(resource.ClusterType)
	s.c.Subscribe(resource.ListenerType)
	s.c.Subscribe(resource.EndpointType, eds...)
	s.c.Subscribe(resource.RouteType, rds...)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = held.Run(ctx) })
	running.Go(func() { _ = s.c.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return s
}

func (s *subscriber) contents() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]string{}
	for k, r := range s.held {
		out[k] = string(r.Body())
	}
	return out
}

func (s *subscriber) received() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.updates
}

func (s *subscriber) move(to *replica) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = to
}

// copyAuthority gives a replica that has not begun the authority of another.
func copyAuthority(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(to, "ca"), 0o700); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(from, "ca", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err == nil {
			err = os.WriteFile(filepath.Join(to, "ca", filepath.Base(f)), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// active is a condition: all clients of r have accepted everything, and there are n.
func (r *replica) active(n int) error {
	all := r.xds.Clients()
	if len(all) != n {
		return fmt.Errorf("%d clients", len(all))
	}
	u := r.latest.Load()
	for _, c := range all {
		if c.Active < u.Snapshot.Version {
			return fmt.Errorf("%s has version %d of %d", c.Node, c.Active, u.Snapshot.Version)
		}
	}
	return nil
}

func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		<-time.After(5 * time.Millisecond) // a condition of other goroutines, which nothing tells
	}
}

const shop = `apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  clusterIP: 10.96.7.1
  selector: {app: shop}
  ports: [{name: http, port: 9080}, {name: tcp, port: 9090}]
---
apiVersion: v1
kind: Pod
metadata: {name: shop-0, labels: {app: shop, version: v1}}
spec: {containers: [{name: x, image: x}]}
status: {podIP: 10.1.7.1, phase: Running}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bank}
spec:
  hosts: [bank.example.com]
  addresses: [240.240.7.7]
  ports: [{number: 9080, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.10}]
`

func shopRoutes(name, header string) string {
	return `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ` + name + `}
spec:
  hosts: [shop]
  http:
  - headers: {request: {set: {x-rule: ` + header + `}}}
    route: [{destination: {host: shop}}]
`
}

// Replicas over one folder say the same, byte by byte, whatever each has lived through;
// a proxy that moves from one that stops to another is sent nothing again.
func TestReplicas(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "config")
	write := func(name, text string) {
		t.Helper()
		tmp := filepath.Join(dir, "new")
		if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	write("shop.yaml", shop)
	write("z.yaml", shopRoutes("rules-z", "first"))

	a := startReplica(t, filepath.Join(dir, "replica-a"), folder, 2*time.Second)
	eds := []string{"outbound|9080||shop.default.svc.cluster.local", "outbound|9080||bank.example.com"}
	clients := []*subscriber{subscribe(t, a, "w-0", eds, []string{"9080"}), subscribe(t, a, "w-1", eds, []string{"9080"})}
	eventually(t, "the clients have everything", func() error { return a.active(2) })
	before := clients[0].contents()
	version := func() uint64 { return a.latest.Load().Snapshot.Version }
	change := func(what string, f func()) { // a life of changes, each seen
		t.Helper()
		was := version()
		f()
		eventually(t, what, func() error {
			if version() == was {
				return fmt.Errorf("version %d", was)
			}
			return a.active(2)
		})
	}
	change("a route changes", func() { write("z.yaml", shopRoutes("rules-z", "second")) })
	change("a rule for the same host comes", func() { write("a.yaml", shopRoutes("rules-a", "other")) })
	change("a service comes", func() {
		write("gone.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: gone}\nspec:\n  clusterIP: 10.96.7.9\n  ports: [{name: http, port: 80}]\n")
	})
	change("and goes", func() {
		if err := os.Remove(filepath.Join(folder, "gone.yaml")); err != nil {
			t.Fatal(err)
		}
	})
	if cmp.Equal(before, clients[0].contents()) {
		t.Fatal("the changes changed nothing")
	}

	// Another replica, which knows the authority and the folder, and nothing of that life.
	copyAuthority(t, filepath.Join(dir, "replica-a"), filepath.Join(dir, "replica-b"))
	b := startReplica(t, filepath.Join(dir, "replica-b"), folder, 0)
	fresh := subscribe(t, b, "w-2", eds, []string{"9080"})
	eventually(t, "the client of the new replica has everything", func() error { return b.active(1) })
	if d := cmp.Diff(clients[0].contents(), fresh.contents()); d != "" {
		t.Fatalf("replicas differ (-old +new)\n%s", d)
	}

	// The first one stops: its clients go to the other, and it says so while they do.
	received := []int{clients[0].received(), clients[1].received()}
	held := []map[string]string{clients[0].contents(), clients[1].contents()}
	for _, c := range clients {
		c.move(b)
	}
	a.stop()
	eventually(t, "the replica that stops is not ready", func() error {
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + a.http + "/ready")
		if err != nil {
			return nil // it has stopped
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable {
			return fmt.Errorf("answered %d", resp.StatusCode)
		}
		return nil
	})
	eventually(t, "the clients are at the other", func() error { return b.active(3) })
	for i, c := range clients {
		if n := c.received() - received[i]; n != 0 || !maps.Equal(held[i], c.contents()) {
			t.Errorf("client %d was sent %d resources again", i, n)
		}
	}
	if err := <-a.ended; err != nil {
		t.Error(err)
	}
}
