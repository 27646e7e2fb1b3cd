package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/test/link"
	"github.com/weirmesh/weir/xds/client"
)

// bench is all proxies and what they received.
type bench struct {
	o       *options
	proxies []*proxy
	began   usage
	addr    atomic.Pointer[string] // of the control plane
	net     *link.Link             // between all of them and it
	plane   *plane                 // that this program started; nil: another did

	wire   atomic.Int64 // bytes received
	last   atomic.Int64 // when, in Unix nanoseconds
	lines  atomic.Int64 // that proxies logged
	mu     sync.Mutex
	counts map[string]*count
	failed error // of a proxy

	marker atomic.Pointer[marker]
	stream atomic.Pointer[editing]
	names  sync.Map // what a resource asks for, by its version: equal for all who get it
}

type count struct{ resources, bytes atomic.Int64 }

// marker is bytes that only an edit brings.
type marker struct {
	text  []byte
	since time.Time
}

// proxy is one client.
type proxy struct {
	b         *bench
	namespace string
	node      *corev3.Node
	xds       *client.Client
	sub       subscription
	creds     credentials.TransportCredentials
	since     time.Time
	wire      atomic.Int64 // bytes received
	synced    atomic.Pointer[time.Duration]
	seen      atomic.Pointer[time.Time] // the marker
	newest    []int                     // edit of each object of editing
	// concerned: it uses what is edited.
	concerned bool
	resources atomic.Int64 // received
}

func newBench(o *options) *bench {
	b := &bench{o: o, counts: map[string]*count{}, net: link.New()}
	b.addr.Store(&o.addr)
	for i := range o.clients {
		s := i % o.services
		ns := fmt.Sprintf("ns-%03d", s%o.namespaces)
		n := s*32 + i/o.services%2 // meshgen's addresses of endpoints
		ip := fmt.Sprintf("10.%d.%d.%d", 16+n/65536, n/256%256, n%256)
		fields := map[string]any{"NAMESPACE": ns, "CLUSTER_ID": "Kubernetes", "INSTANCE_IPS": ip, "SERVICE_ACCOUNT": "default",
			"LABELS": map[string]any{"app": fmt.Sprintf("app-%d", i)}, "WEIR": map[string]any{"VHDS": o.vhds, "ONDEMAND": o.ondemand}}
		meta, err := structpb.NewStruct(fields)
		if err != nil {
			panic(err) // of our own making
		}
		concerned := !o.ondemand || i%100 < o.users
		var sub subscription = &everything{b: b, asks: map[string]*asks{}}
		if o.ondemand {
			sub = &onDemand{everything{b: b, asks: map[string]*asks{}}, b.hosts(i, concerned)}
		}
		b.proxies = append(b.proxies, &proxy{b: b, namespace: ns, sub: sub, concerned: concerned, creds: insecure.NewCredentials(),
			node: &corev3.Node{Id: fmt.Sprintf("sidecar~%s~app-%d.%s~%s.svc.cluster.local", ip, i, ns, ns), Metadata: meta}})
	}
	return b
}

// identify gives each proxy a certificate of the authority in a state folder.
func (b *bench) identify(ctx context.Context, state string) error {
	const trustDomain = "cluster.local"
	authority, err := ca.OpenSelfSigned(state+"/ca", trustDomain, ca.Options{})
	if err != nil {
		return err
	}
	istiod := identity.OneOf{{TrustDomain: trustDomain, Namespace: "istio-system", ServiceAccount: "istiod"}}
	byNamespace := map[string]credentials.TransportCredentials{}
	for _, c := range b.proxies {
		if byNamespace[c.namespace] == nil {
			id, err := identity.New(trustDomain, c.namespace, "default")
			if err != nil {
				return err
			}
			m, err := identity.NewManager(identity.Options{ID: id, Log: slog.New(slog.DiscardHandler), Signer: authority.Signer(ca.Grant{ID: id})})
			if err != nil {
				return err
			}
			go m.Run(ctx)
			for held, changed := m.Watch(); held == nil; held, changed = m.Watch() {
				select {
				case <-changed:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			byNamespace[c.namespace] = credentials.NewTLS(identity.ClientTLS(m, istiod))
		}
		c.creds = byNamespace[c.namespace]
	}
	return nil
}

// start connects everybody; the channel is closed when all have ended with ctx.
func (b *bench) start(ctx context.Context) <-chan struct{} {
	b.began = usageOf(b.o.pid)
	b.touch()
	var all sync.WaitGroup
	for _, c := range b.proxies {
		c.since = time.Now()
		c.xds = client.New(client.Options{Node: func() *corev3.Node { return c.node }, Apply: c.apply, Log: slog.New(slog.NewTextHandler(counter{&b.lines}, nil)), Dial: c.dial})
		c.sub.begin(c.xds)
		all.Go(func() {
			if err := c.xds.Run(ctx); err != nil {
				b.fail(err)
			}
		})
		all.Go(func() { c.awaitSync(ctx) })
	}
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	return done
}

// counter counts lines.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(1)
	return len(p), nil
}

func (c *proxy) dial(context.Context) (client.Conn, error) {
	return grpc.NewClient("passthrough:///"+*c.b.addr.Load(), append(client.DialOptions(), grpc.WithTransportCredentials(c.creds), grpc.WithStatsHandler(meter{c}),
		grpc.WithContextDialer(c.b.net.Dial))...)
}

func (b *bench) touch() { b.last.Store(time.Now().UnixNano()) }

func (b *bench) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed = errors.Join(b.failed, err)
}

// awaitSync notes when everything asked for was answered.
func (c *proxy) awaitSync(ctx context.Context) {
	for {
		st, changed := c.xds.State()
		if st.Synced {
			took := time.Since(c.since)
			c.synced.Store(&took)
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// apply is client.Options.Apply.
func (c *proxy) apply(_ context.Context, u client.Update) error {
	m, s := c.b.marker.Load(), c.b.stream.Load()
	k := c.b.count(u.TypeURL)
	c.resources.Add(int64(len(u.Set) + len(u.Removed)))
	k.resources.Add(int64(len(u.Set)))
	for _, r := range u.Set {
		body := r.Body.GetValue()
		k.bytes.Add(int64(len(body)))
		if m != nil && c.seen.Load() == nil && bytes.Contains(body, m.text) {
			now := time.Now()
			c.seen.Store(&now)
		}
		if s != nil {
			s.received(c, body)
		}
	}
	if err := c.sub.follow(c.xds, u); err != nil {
		c.b.fail(err)
	}
	c.b.touch()
	return nil
}

func (b *bench) count(typeURL string) *count {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.counts[typeURL] == nil {
		b.counts[typeURL] = &count{}
	}
	return b.counts[typeURL]
}

func (b *bench) types() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.counts))
}

// watch begins to look for an edit.
func (b *bench) watch(text string) {
	for _, c := range b.proxies {
		c.seen.Store(nil)
	}
	b.marker.Store(&marker{[]byte(text), time.Now()})
}

// everywhere waits until everybody concerned has seen what is watched for, and returns how
// long that took each since a moment.
func (b *bench) everywhere(ctx context.Context, since time.Time) ([]time.Duration, error) {
	if err := b.all(ctx, func(c *proxy) bool { return !c.concerned || c.seen.Load() != nil }); err != nil {
		return nil, err
	}
	var took []time.Duration
	for _, c := range b.proxies {
		if c.concerned {
			took = append(took, c.seen.Load().Sub(since))
		}
	}
	return took, nil
}

// received is how many resources those proxies have received.
func (b *bench) received(which func(*proxy) bool) int64 {
	n := int64(0)
	for _, c := range b.proxies {
		if which(c) {
			n += c.resources.Load()
		}
	}
	return n
}

// all waits until something is true of everybody.
func (b *bench) all(ctx context.Context, is func(*proxy) bool) error {
	limit := time.After(b.o.limit)
	for {
		missing := 0
		for _, c := range b.proxies {
			if !is(c) {
				missing++
			}
		}
		b.mu.Lock()
		err := b.failed
		b.mu.Unlock()
		if b.plane != nil && b.plane.over() {
			err = errors.Join(err, errors.New("the control plane ended: "+b.plane.last))
		}
		if missing == 0 || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-limit:
			for _, c := range b.proxies {
				if !is(c) {
					st, _ := c.xds.State()
					return fmt.Errorf("%d of %d clients are not there after %v; of one the connection is %v, its last error %w", missing, len(b.proxies), b.o.limit, st.Connected, st.LastError)
				}
			}
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// quiet waits until nothing has been received for a while.
func (b *bench) quiet(ctx context.Context) {
	for time.Since(time.Unix(0, b.last.Load())) < b.o.settle && ctx.Err() == nil {
		time.Sleep(20 * time.Millisecond)
	}
}

// meter counts bytes on the wire.
type meter struct{ c *proxy }

func (m meter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (m meter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (m meter) HandleConn(context.Context, stats.ConnStats)                       {}
func (m meter) HandleRPC(_ context.Context, s stats.RPCStats) {
	if in, ok := s.(*stats.InPayload); ok {
		m.c.wire.Add(int64(in.WireLength))
		m.c.b.wire.Add(int64(in.WireLength))
		m.c.b.touch()
	}
}
