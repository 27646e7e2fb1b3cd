package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/weirmesh/weir/internal/memnet"
	"github.com/weirmesh/weir/xds/client"
	"github.com/weirmesh/weir/xds/resource"
	"github.com/weirmesh/weir/xds/server"
)

const address = "control:15012"

// plane is a control plane over gRPC and mutual TLS in a bubble's memory.
type plane struct {
	*server.Server
	t    *testing.T
	net  memnet.Network
	feed server.Feed
	pki  pki
	stop func()
}

func (*plane) Connect(_ context.Context, node *corev3.Node, _ server.Peer) (*server.Feed, error) {
	return nil, fmt.Errorf("no workload is named %q", node.GetId())
}

// source serves one Feed to everybody, except to strangers.
type source struct{ *plane }

func (s source) Connect(ctx context.Context, node *corev3.Node, peer server.Peer) (*server.Feed, error) {
	if strings.HasPrefix(node.GetId(), "stranger") {
		return s.plane.Connect(ctx, node, peer)
	}
	return &s.feed, nil
}

func newPlane(t *testing.T, edit func(*server.Options)) *plane {
	t.Helper()
	p := &plane{t: t, pki: newPKI(t)}
	o := server.Options{
		Source: source{p}, Identifier: "weir-test", Log: slog.New(slog.DiscardHandler),
		Authorize: func(peer server.Peer, node *corev3.Node) error {
			if want := "spiffe://cluster.local/ns/default/sa/" + node.GetId(); peer.ID != want && !strings.HasPrefix(node.GetId(), "stranger") {
				return fmt.Errorf("node %q is %s, but the certificate is for %q", node.GetId(), want, peer.ID)
			}
			return nil
		},
	}
	if edit != nil {
		edit(&o)
	}
	p.Server = server.New(o)
	p.serve()
	return p
}

// serve starts a gRPC server; p.stop ends it and the streams.
func (p *plane) serve() {
	l, err := p.net.Listen(address)
	if err != nil {
		p.t.Fatal(err)
	}
	g := grpc.NewServer(append(p.GRPCOptions(), grpc.Creds(credentials.NewTLS(p.pki.server())))...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, p.Server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.Serve(l)
	}()
	p.stop = func() {
		g.Stop()
		<-done
	}
}

// dial connects as somebody.
func (p *plane) dial(as string) func(context.Context) (client.Conn, error) {
	return func(context.Context) (client.Conn, error) {
		return grpc.NewClient("passthrough:///"+address, append(client.DialOptions(),
			grpc.WithTransportCredentials(credentials.NewTLS(p.pki.client(as))),
			grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return p.net.DialContext(ctx, "", a) }),
		)...)
	}
}

// follower is a client that keeps clusters.
type follower struct {
	*client.Client
	clusters map[string]string // versions
	applied  int
	refuse   string // a name
}

func (p *plane) follow(ctx context.Context, name string, sotw bool) *follower {
	f := &follower{clusters: map[string]string{}}
	f.Client = client.New(client.Options{
		Dial: p.dial(name), Node: func() *corev3.Node { return &corev3.Node{Id: name} }, SotW: sotw,
		Log: slog.New(slog.DiscardHandler),
		Apply: func(_ context.Context, u client.Update) error {
			for _, r := range u.Set {
				if r.Name == f.refuse {
					return fmt.Errorf("cluster %q: no", r.Name)
				}
			}
			for _, r := range u.Set {
				f.clusters[r.Name] = r.Version
				f.applied++
			}
			for _, n := range u.Removed {
				delete(f.clusters, n)
			}
			return nil
		},
	})
	f.Subscribe(resource.ClusterType)
	go f.Run(ctx)
	return f
}

func cluster(name, content string) *resource.Resource {
	return resource.FromBytes(resource.ClusterType, name, []byte("\n"+string(rune(len(name)))+name+"\x12"+string(rune(len(content)))+content))
}

func versions(rs ...*resource.Resource) map[string]string {
	out := map[string]string{}
	for _, r := range rs {
		out[r.Name()] = r.Version()
	}
	return out
}

// The whole way: publish, receive over mTLS, receipts, a change, an outage, a return.
func TestEndToEnd(t *testing.T) {
	for _, sotw := range []bool{false, true} {
		t.Run(fmt.Sprintf("sotw=%v", sotw), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				p := newPlane(t, nil)
				go p.Run(ctx)
				a1, b1, b2 := cluster("a", strings.Repeat("x", 100)), cluster("b", "1"), cluster("b", "2")
				p.feed.Publish(resource.NewView(1, a1, b1))
				f := p.follow(ctx, "alice", sotw)
				synctest.Wait()
				if err := p.WaitActive(ctx, 1); err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(versions(a1, b1), f.clusters); d != "" {
					t.Errorf("clusters (-want +got)\n%s", d)
				}

				p.feed.Publish(resource.NewView(2, a1, b2))
				if err := p.WaitActive(ctx, 2); err != nil {
					t.Fatal(err)
				}
				if f.applied != 3 {
					t.Errorf("%d resources were applied, want 2 and the changed one", f.applied)
				}
				c := p.Clients()[0]
				if c.Node != "alice" || c.Peer.ID != "spiffe://cluster.local/ns/default/sa/alice" || c.SotW != sotw ||
					c.Latest != 2 || c.Active != 2 || !c.BehindSince.IsZero() || !c.Since.Equal(time.Now()) {
					t.Errorf("status %+v", c)
				}
				// 128-bit versions and type URLs are most of it; sotw sends a again.
				if least, most := uint64(400), uint64(900); c.BytesSent < least || c.BytesSent > most {
					t.Errorf("%d bytes were sent, want %d to %d", c.BytesSent, least, most)
				}
				st, _ := f.State()
				if !st.Connected || !st.Synced || st.ControlPlane != "weir-test" || st.Types[0].Version != "2" || st.Types[0].Held != 2 {
					t.Errorf("state %+v", st)
				}

				p.stop()
				time.Sleep(time.Minute) // of the bubble's clock
				if st, _ := f.State(); st.Connected || st.LastError == nil || !st.Synced {
					t.Errorf("state in the outage %+v", st)
				}
				if len(p.Clients()) != 0 {
					t.Error("a client is left")
				}
				p.serve()
				time.Sleep(11 * time.Second)
				if err := p.WaitActive(ctx, 2); err != nil || len(p.Clients()) != 1 {
					t.Errorf("after the outage %d clients, %v", len(p.Clients()), err)
				}
				if f.applied != 3 {
					t.Errorf("%d resources were applied after the outage", f.applied-3)
				}

				cancel()
				p.stop()
				synctest.Wait()
			})
		})
	}
}

// open opens a raw delta stream as name and sends one request.
func (p *plane) open(ctx context.Context, name string, node *corev3.Node) (grpc.BidiStreamingClient[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse], func()) {
	conn, err := p.dial(name)(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	s, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	if node != nil {
		// A stream that is refused already is seen by receiving.
		_ = s.Send(&discoveryv3.DeltaDiscoveryRequest{Node: node, TypeUrl: resource.ClusterType})
	}
	return s, func() { conn.Close() }
}

func TestStreamsAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*server.Options)
		node *corev3.Node // nil sends nothing
		want string
	}{
		"somebody else's node": {
			node: &corev3.Node{Id: "bob"},
			want: `PermissionDenied: node "bob" is spiffe://cluster.local/ns/default/sa/bob, but the certificate is for "spiffe://cluster.local/ns/default/sa/alice"`,
		},
		"no node": {
			node: &corev3.Node{},
			want: "InvalidArgument: the first request on a stream must carry the node with its id",
		},
		"no rule": {
			edit: func(o *server.Options) { o.Authorize = nil },
			node: &corev3.Node{Id: "alice"},
			want: "PermissionDenied: this control plane has no rule by which it could admit a node",
		},
		"unknown to the source": {
			node: &corev3.Node{Id: "stranger"},
			want: `Unavailable: no workload is named "stranger"`,
		},
		"silence": {
			want: "DeadlineExceeded: no request came within 15s",
		},
		"too large a request": {
			edit: func(o *server.Options) { o.MaxRequestBytes = 1000 },
			node: &corev3.Node{Id: "alice", UserAgentName: strings.Repeat("x", 1000)},
			want: "ResourceExhausted: grpc: received message larger than max",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlane(t, c.edit)
				s, end := p.open(t.Context(), "alice", c.node)
				_, err := s.Recv()
				if got := status.Code(err).String() + ": " + status.Convert(err).Message(); !strings.HasPrefix(got, c.want) {
					t.Errorf("the stream ends with\n%s, want\n%s", got, c.want)
				}
				end()
				p.stop()
				if len(p.Clients()) != 0 {
					t.Error("a refused client is listed")
				}
			})
		})
	}
}

// One connection has room for a proxy's streams, and not for those of a mesh.
func TestStreamsOfAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t, nil)
		c, err := p.dial("alice")(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		const tried, most = 1000, 100
		ctx, cancel := context.WithCancel(t.Context())
		var opened atomic.Int64
		var wg sync.WaitGroup
		for range tried {
			wg.Go(func() {
				if _, err := discoveryv3.NewAggregatedDiscoveryServiceClient(c).DeltaAggregatedResources(ctx); err == nil {
					opened.Add(1)
				}
			})
		}
		synctest.Wait()
		if n := opened.Load(); n != most {
			t.Errorf("%d streams on one connection, want %d", n, most)
		}
		cancel()
		wg.Wait()
		c.Close()
		p.stop()
	})
}

func TestMaxStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t, func(o *server.Options) { o.MaxStreams = 1 })
		p.feed.Publish(resource.NewView(1))
		ctx := t.Context()
		first, end := p.open(ctx, "alice", &corev3.Node{Id: "alice"})
		if _, err := first.Recv(); err != nil {
			t.Fatal(err)
		}
		second, end2 := p.open(ctx, "alice", &corev3.Node{Id: "alice"})
		if _, err := second.Recv(); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("the second stream ends with %v", err)
		}
		end()
		synctest.Wait()
		third, end3 := p.open(ctx, "alice", &corev3.Node{Id: "alice"})
		if _, err := third.Recv(); err != nil {
			t.Errorf("the third stream ends with %v", err)
		}
		end2()
		end3()
		p.stop()
	})
}

// What a client would not take is not sent: its stream ends and says why. Who asks for less has it.
func TestResponseThatIsTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t, func(o *server.Options) { o.MaxResponseBytes = 400 })
		p.feed.Publish(resource.NewView(1, cluster("a", strings.Repeat("x", 100)), cluster("b", strings.Repeat("x", 100))))
		all, end := p.open(t.Context(), "alice", &corev3.Node{Id: "alice"})
		_, err := all.Recv()
		if s := status.Convert(err); s.Code() != codes.ResourceExhausted || !strings.HasPrefix(s.Message(), "CDS is a response of ") || !strings.HasSuffix(s.Message(), " bytes, and a client takes 400: let it see less (Sidecar objects, exportTo), or ask for what it uses") {
			t.Errorf("the stream ends with %v", err)
		}
		some, end2 := p.open(t.Context(), "alice", nil)
		if err := some.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "alice"}, TypeUrl: resource.ClusterType, ResourceNamesSubscribe: []string{"b"}}); err != nil {
			t.Fatal(err)
		}
		if r, err := some.Recv(); err != nil || len(r.GetResources()) != 1 {
			t.Errorf("who asks for one gets %v, %v", r, err)
		}
		end()
		end2()
		p.stop()
	})
}

// When Run ends the streams end, at once, and no more are taken.
func TestRunEndsStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- p.Run(ctx) }()
		p.feed.Publish(resource.NewView(1))
		idle, end := p.open(t.Context(), "alice", &corev3.Node{Id: "alice"})
		if _, err := idle.Recv(); err != nil {
			t.Fatal(err)
		}
		silent, end2 := p.open(t.Context(), "alice", nil)
		synctest.Wait()
		start := time.Now()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run gives %v", err)
		}
		for _, s := range []interface {
			Recv() (*discoveryv3.DeltaDiscoveryResponse, error)
		}{idle, silent} {
			if _, err := s.Recv(); status.Code(err) != codes.Unavailable || !time.Now().Equal(start) {
				t.Errorf("a stream ends with %v after %v", err, time.Since(start))
			}
		}
		late, end3 := p.open(t.Context(), "alice", nil)
		if _, err := late.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("a late stream ends with %v", err)
		}
		end()
		end2()
		end3()
		p.stop()
	})
}

func TestWaitActive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p := newPlane(t, nil)
		if err := p.WaitActive(ctx, 99); err != nil {
			t.Errorf("without clients: %v", err)
		}
		p.feed.Publish(resource.NewView(1))
		alice := p.follow(ctx, "alice", false)
		bob := p.follow(ctx, "bob", false)
		bob.refuse = "bad"
		synctest.Wait()

		// It waits for what is published later.
		time.AfterFunc(time.Second, func() { p.feed.Publish(resource.NewView(2, cluster("a", "1"))) })
		if err := p.WaitActive(ctx, 2); err != nil || len(alice.clusters) != 1 || len(bob.clusters) != 1 {
			t.Errorf("%v; alice has %v, bob %v", err, alice.clusters, bob.clusters)
		}

		// It says who has refused what, and the other resources are in effect there too.
		p.feed.Publish(resource.NewView(3, cluster("a", "2"), cluster("bad", "1")))
		err := p.WaitActive(ctx, 3)
		if want := `bob rejected CDS bad: cluster "bad": no`; err == nil || err.Error() != want {
			t.Errorf("got %v, want %v", err, want)
		}
		if bob.clusters["a"] != alice.clusters["a"] || len(alice.clusters) != 2 {
			t.Errorf("alice has %v, bob %v", alice.clusters, bob.clusters)
		}
		i := slices.IndexFunc(p.Clients(), func(c server.Client) bool { return c.Node == "bob" })
		c := p.Clients()[i]
		if c.Active != 2 || c.Latest != 3 || c.BehindSince.IsZero() || !slices.Equal(c.Types[0].Rejected, []string{"bad"}) ||
			c.Types[0].LastNACK.Message != `cluster "bad": no` {
			t.Errorf("bob's status is %+v", c)
		}

		// It gives up when it is told to.
		short, cancelShort := context.WithTimeout(ctx, time.Second)
		defer cancelShort()
		err = p.WaitActive(short, 4)
		if want := `waiting for version 4: 2 of 2 clients do not have it yet, one is "alice": context deadline exceeded`; !errors.Is(err, context.DeadlineExceeded) || err.Error() != want {
			t.Errorf("got %v, want %v", err, want)
		}

		// Who leaves is not waited for.
		time.AfterFunc(time.Second, func() {
			cancel()
			p.stop()
		})
		if err := p.WaitActive(t.Context(), 4); err != nil {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
	})
}

// events are what an Observer was told.
type events struct {
	mu  sync.Mutex
	all []string
}

func (e *events) add(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, fmt.Sprintf(format, args...))
}

func (e *events) Sent(typeURL string, bytes int, _, _ time.Duration) {
	e.add("sent %s %v", resource.Short(typeURL), bytes > 20)
}
func (e *events) Rejected(node, typeURL string, n *server.NACK, in []*resource.Resource) {
	e.add("%s rejected %s %v of %d: %s", node, resource.Short(typeURL), n.Names, len(in), n.Message)
}

func (e *events) Applied(after, to uint64, in []*resource.Resource) {
	e.add("applied %d to %d: %v", after, to, in)
}
func (e *events) Left(node string) { e.add("%s left", node) }
func (e *events) Mended(node, typeURL, name string) {
	e.add("%s mended %s %s", node, resource.Short(typeURL), name)
}
func (e *events) Failed()                    { e.add("failed") }
func (e *events) Begun(after uint64)         { e.add("begun after %d", after) }
func (e *events) Converged(after, to uint64) { e.add("converged %d to %d", after, to) }

// What is counted: responses, rejections, and that a client has come from one version to
// another, unless there was nothing for it to do.
func TestObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		seen := &events{}
		p := newPlane(t, func(o *server.Options) { o.Observer = seen })
		f := p.follow(ctx, "alice", false)
		f.refuse = "bad"
		for _, v := range []*resource.View{
			resource.NewView(3, cluster("a", "1")),
			resource.NewView(4, cluster("a", "1")),
			resource.NewView(5, cluster("a", "2")),
			resource.NewView(6, cluster("a", "2"), cluster("bad", "1")),
			resource.NewView(8, cluster("a", "3")),
		} {
			p.feed.Publish(v)
			synctest.Wait()
		}
		want := []string{"sent CDS true", "begun after 4", "sent CDS true", "converged 4 to 5", `applied 4 to 5: [CDS "a"]`, "begun after 5", "sent CDS true", `alice rejected CDS [bad] of 1: cluster "bad": no`,
			"sent CDS true", "sent CDS true", "converged 5 to 8", `applied 6 to 8: [CDS "a"]`, "alice mended CDS bad"} // the removal apart
		if d := cmp.Diff(want, seen.all); d != "" {
			t.Errorf("(-want +got)\n%s", d)
		}
		cancel()
		p.stop()
		synctest.Wait()
	})
}

// pki is a certificate authority for SPIFFE certificates.
type pki struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newPKI(t *testing.T) pki {
	p := pki{t: t}
	p.key, p.cert = p.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return p
}

func (p pki) sign(c *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(1), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, parentKey := p.cert, p.key
	if parent == nil {
		parent, parentKey = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, parentKey)
	if err != nil {
		p.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		p.t.Fatal(err)
	}
	return key, cert
}

func (p pki) leaf(serviceAccount string) tls.Certificate {
	id := &url.URL{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/default/sa/" + serviceAccount}
	key, cert := p.sign(&x509.Certificate{
		URIs: []*url.URL{id}, DNSNames: []string{"control"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	})
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

func (p pki) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.cert)
	return pool
}

func (p pki) server() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{p.leaf("control")}, ClientCAs: p.roots(), ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13}
}

func (p pki) client(as string) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{p.leaf(as)}, RootCAs: p.roots(), ServerName: "control", MinVersion: tls.VersionTLS13}
}
