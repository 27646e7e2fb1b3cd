// Package objects tests what only a real API server can show of its objects: what a control
// plane in the test's process makes of them, as a proxy sees it; whose certificates it
// signs; what it writes into them. The mesh need not be installed.
package objects

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/types/known/structpb"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	sourcekube "github.com/weirmesh/weir/config/source/kube"
	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/internal/kubewatch"
	"github.com/weirmesh/weir/internal/locked"
	"github.com/weirmesh/weir/mesh"
	registrykube "github.com/weirmesh/weir/registry/kube"
	"github.com/weirmesh/weir/test/kube/cluster"
	"github.com/weirmesh/weir/xds/client"
	"github.com/weirmesh/weir/xds/resource"
)

// definitions are Istio's, for the kinds that the tests make objects of.
const definitions = "../../../install/chart/crds/istio.yaml"

// connect connects to a cluster that knows Istio's kinds, if only for the test.
func connect(t *testing.T) *cluster.Cluster {
	t.Helper()
	c := cluster.Connect(t)
	if c.Serves("networking.istio.io/v1", "VirtualService") {
		return c
	}
	crds, err := os.ReadFile(definitions)
	if err != nil {
		t.Fatal(err)
	}
	c.Apply(string(crds))
	t.Cleanup(func() {
		c.Delete(string(crds))
		c.Eventually("the definitions are gone", func() bool { return !c.Serves("networking.istio.io/v1", "VirtualService") })
	})
	return c
}

// wire is the way to the API server; it can be cut, and what comes can be late.
type wire struct {
	l    net.Listener
	to   string
	late atomic.Int64 // each part of what the API server says, by this

	mu   sync.Mutex
	cut  bool
	open []net.Conn
}

func newWire(t *testing.T, host string) (w *wire, name string) {
	t.Helper()
	u, err := url.Parse(host)
	if err != nil {
		t.Fatal(err)
	}
	w = &wire{to: u.Host}
	if w.l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := w.l.Accept()
			if err != nil {
				return
			}
			go w.carry(conn)
		}
	}()
	t.Cleanup(func() { w.l.Close(); w.set(true) })
	return w, u.Hostname()
}

func (w *wire) carry(a net.Conn) {
	b, err := net.Dial("tcp", w.to)
	if err != nil {
		a.Close()
		return
	}
	w.mu.Lock()
	w.open = append(w.open, a, b)
	if w.cut {
		a.Close()
		b.Close()
	}
	w.mu.Unlock()
	go func() {
		defer a.Close()
		part := make([]byte, 32<<10)
		for {
			n, err := b.Read(part)
			if late := time.Duration(w.late.Load()); late > 0 {
				<-time.After(late)
			}
			if _, lost := a.Write(part[:n]); err != nil || lost != nil {
				return
			}
		}
	}()
	_, _ = io.Copy(b, a)
	b.Close()
}

func (w *wire) set(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	if cut {
		for _, c := range w.open {
			c.Close()
		}
		w.open = nil
	}
}

// plane is a control plane of the cluster, its log, and where it serves without TLS.
type plane struct {
	c    *cluster.Cluster
	wire *wire
	api  *kubewatch.Server
	runs *registrykube.Source
	addr string
	log  *lines
}

type lines struct{ locked.Buffer }

func (l *lines) count(part string) int { return strings.Count(l.String(), part) }

func start(c *cluster.Cluster) *plane {
	t := c.T
	p := &plane{c: c, log: &lines{}}
	log := slog.New(slog.NewTextHandler(io.MultiWriter(p.log, t.Output()), nil))
	through := rest.CopyConfig(c.Config)
	var name string
	p.wire, name = newWire(t, through.Host)
	through.Host, through.ServerName = "https://"+p.wire.l.Addr().String(), name
	core, objects, heads := kubernetes.NewForConfigOrDie(through), dynamic.NewForConfigOrDie(through), metadata.NewForConfigOrDie(through)
	p.api = kubewatch.New(log)
	p.runs = registrykube.New(registrykube.Options{Server: p.api, Client: core, Heads: heads, DomainSuffix: "cluster.local", Namespace: c.Namespace, Log: log})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = l.Addr().String()
	pl, err := control.New(control.Options{State: t.TempDir(), PlainGRPC: []net.Listener{l}, EagerOnly: true, Log: log,
		Settings: mesh.Settings{ClusterID: "Kubernetes", DomainSuffix: "cluster.local", RootNamespace: c.Namespace},
		Cluster: &control.Cluster{Facts: p.runs, Why: p.runs.Why, Awaits: p.api.Awaits,
			Objects: sourcekube.New(sourcekube.Options{Server: p.api, Client: core, Objects: objects, Heads: heads, Namespace: c.Namespace, Log: log})}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- pl.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return p
}

// proxy is what a proxy was told last, as text by type and name.
type proxy struct {
	c *cluster.Cluster
	x *client.Client

	mu   sync.Mutex
	text map[string]map[string]string
}

func (p *plane) proxy(kind, name string, labels map[string]any) *proxy {
	t := p.c.T
	x := &proxy{c: p.c, text: map[string]map[string]string{}}
	m, err := structpb.NewStruct(map[string]any{"NAMESPACE": p.c.Namespace, "LABELS": labels})
	if err != nil {
		t.Fatal(err)
	}
	x.x = client.New(client.Options{
		Dial: func(context.Context) (client.Conn, error) {
			return grpc.NewClient("passthrough:///"+p.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		},
		Node: func() *corev3.Node {
			return &corev3.Node{Id: kind + "~10.255.0.1~" + name + "." + p.c.Namespace + "~" + p.c.Namespace + ".svc.cluster.local", Metadata: m}
		},
		Apply: x.apply, Log: slog.New(slog.DiscardHandler),
	})
	x.x.Subscribe(resource.ClusterType)
	x.x.Subscribe(resource.ListenerType)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = x.x.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return x
}

func (x *proxy) apply(_ context.Context, u client.Update) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	m := x.text[u.TypeURL]
	if m == nil {
		m = map[string]string{}
		x.text[u.TypeURL] = m
	}
	for _, n := range u.Removed {
		delete(m, n)
	}
	for _, r := range u.Set {
		body, err := r.Body.UnmarshalNew()
		if err != nil {
			return err
		}
		m[r.Name] = strings.Join(strings.Fields(prototext.Format(body)), " ") // which has spaces as it likes
		if e, ok := body.(*endpointv3.ClusterLoadAssignment); ok {
			m[r.Name] = endpoints(e)
		}
	}
	return nil
}

func endpoints(e *endpointv3.ClusterLoadAssignment) string {
	var out []string
	for _, l := range e.GetEndpoints() {
		for _, x := range l.GetLbEndpoints() {
			a := x.GetEndpoint().GetAddress().GetSocketAddress()
			out = append(out, fmt.Sprintf("%s:%d %s", a.GetAddress(), a.GetPortValue(), x.GetHealthStatus()))
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// has waits until a resource holds, or no longer holds, a text; "" asks for any.
func (x *proxy) has(what, typeURL, name, part string, want bool) {
	x.c.T.Helper()
	x.c.Eventually(what, func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		text, ok := x.text[typeURL][name]
		return (ok && strings.Contains(text, part)) == want
	})
}
