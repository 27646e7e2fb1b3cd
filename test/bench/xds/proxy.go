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

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weirmesh/weir/xds/client"
	"github.com/weirmesh/weir/xds/resource"
)

// bench is all proxies and what they received.
type bench struct {
	o       *options
	proxies []*proxy
	began   usage

	wire   atomic.Int64 // bytes received
	last   atomic.Int64 // when, in Unix nanoseconds
	mu     sync.Mutex
	counts map[string]*count
	failed error // of a proxy

	marker atomic.Pointer[marker]
	names  sync.Map // what a resource asks for, by its version: equal for all who get it
}

type count struct{ resources, bytes atomic.Int64 }

// marker is bytes that only an edit brings.
type marker struct {
	text  []byte
	since time.Time
}

// asks are the names that resources ask for, and how many ask for a name.
type asks struct {
	of map[string][]string // by resource
	by map[string]int
}

// proxy is one client.
type proxy struct {
	b      *bench
	node   *corev3.Node
	xds    *client.Client
	since  time.Time
	asks   map[string]*asks // by type asked for
	vhds   bool
	synced atomic.Pointer[time.Duration]
	seen   atomic.Pointer[time.Duration] // since the marker
	// concerned: it uses what is edited.
	concerned bool
	resources atomic.Int64 // received
}

func newBench(o *options) *bench {
	b := &bench{o: o, counts: map[string]*count{}}
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
		b.proxies = append(b.proxies, &proxy{b: b, asks: map[string]*asks{}, concerned: !o.ondemand || i%100 < o.users,
			node: &corev3.Node{Id: fmt.Sprintf("sidecar~%s~app-%d.%s~%s.svc.cluster.local", ip, i, ns, ns), Metadata: meta}})
	}
	return b
}

// start connects everybody; the channel is closed when all have ended with ctx.
func (b *bench) start(ctx context.Context) <-chan struct{} {
	b.began = usageOf(b.o.pid)
	b.touch()
	var all sync.WaitGroup
	for i, c := range b.proxies {
		c.since = time.Now()
		c.xds = client.New(client.Options{Node: func() *corev3.Node { return c.node }, Apply: c.apply, Log: slog.New(slog.DiscardHandler), Dial: b.dial})
		c.xds.Subscribe(resource.ClusterType)
		c.xds.Subscribe(resource.ListenerType)
		if b.o.ondemand {
			c.demand(i)
		}
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

func (b *bench) dial(context.Context) (client.Conn, error) {
	return grpc.NewClient("passthrough:///"+b.o.addr, append(client.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStatsHandler(meter{b}))...)
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

// apply is client.Options.Apply: it follows names from clusters to endpoints and from listeners to routes.
func (c *proxy) apply(_ context.Context, updates []client.Update) error {
	m := c.b.marker.Load()
	for _, u := range updates {
		k := c.b.count(u.TypeURL)
		c.resources.Add(int64(len(u.Set) + len(u.Removed)))
		k.resources.Add(int64(len(u.Set)))
		for _, r := range u.Set {
			k.bytes.Add(int64(len(r.Body.GetValue())))
			if m != nil && c.seen.Load() == nil && bytes.Contains(r.Body.GetValue(), m.text) {
				took := time.Since(m.since)
				c.seen.Store(&took)
			}
		}
		switch u.TypeURL {
		case resource.ClusterType:
			c.follow(u, resource.EndpointType)
		case resource.ListenerType:
			c.follow(u, resource.RouteType)
		case resource.VirtualHostType:
			if c.b.o.ondemand {
				c.follow(u, resource.ClusterType)
			}
		case resource.RouteType:
			for _, r := range u.Set {
				if names, err := c.b.namesIn(u.TypeURL, &r); err != nil {
					return err
				} else if len(names) > 0 && !c.vhds {
					c.vhds = true
					c.xds.Subscribe(resource.VirtualHostType)
				}
			}
		}
	}
	c.b.touch()
	return nil
}

// follow subscribes to what resources ask for.
func (c *proxy) follow(u client.Update, typeURL string) {
	a := c.asks[typeURL]
	if a == nil {
		a = &asks{of: map[string][]string{}, by: map[string]int{}}
		c.asks[typeURL] = a
	}
	var add, drop []string
	forget := func(resource string) {
		for _, n := range a.of[resource] {
			if a.by[n]--; a.by[n] == 0 {
				drop = append(drop, n)
			}
		}
		delete(a.of, resource)
	}
	for _, r := range u.Set {
		names, err := c.b.namesIn(u.TypeURL, &r)
		if err != nil {
			c.b.fail(err)
		}
		for _, n := range names {
			if a.by[n]++; a.by[n] == 1 {
				add = append(add, n)
			}
		}
		forget(r.Name)
		if len(names) > 0 {
			a.of[r.Name] = names
		}
	}
	for _, n := range u.Removed {
		forget(n)
	}
	if len(add) > 0 {
		c.xds.Subscribe(typeURL, add...)
	}
	if len(drop) > 0 {
		c.xds.Unsubscribe(typeURL, drop...)
	}
}

// namesIn are the names a resource asks for.
func (b *bench) namesIn(typeURL string, r *client.Resource) ([]string, error) {
	key := typeURL + r.Version
	if v, ok := b.names.Load(key); ok {
		return v.([]string), nil
	}
	var names []string
	switch typeURL {
	case resource.ClusterType:
		m := &clusterv3.Cluster{}
		if err := r.Body.UnmarshalTo(m); err != nil {
			return nil, err
		}
		if e := m.GetEdsClusterConfig(); e != nil {
			names = append(names, e.GetServiceName())
		}
	case resource.ListenerType:
		m := &listenerv3.Listener{}
		if err := r.Body.UnmarshalTo(m); err != nil {
			return nil, err
		}
		for _, f := range append(m.GetFilterChains(), m.GetDefaultFilterChain()) {
			for _, x := range f.GetFilters() {
				h := &hcmv3.HttpConnectionManager{}
				if !x.GetTypedConfig().MessageIs(h) {
					continue
				}
				if err := x.GetTypedConfig().UnmarshalTo(h); err != nil {
					return nil, err
				}
				if n := h.GetRds().GetRouteConfigName(); n != "" {
					names = append(names, n)
				}
			}
		}
	case resource.VirtualHostType:
		m := &routev3.VirtualHost{}
		if err := r.Body.UnmarshalTo(m); err != nil {
			return nil, err
		}
		names = clustersOf(m)
	case resource.RouteType:
		m := &routev3.RouteConfiguration{}
		if err := r.Body.UnmarshalTo(m); err != nil {
			return nil, err
		}
		if m.GetVhds() != nil {
			names = append(names, "*")
		}
	}
	b.names.Store(key, names)
	return names, nil
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

// watch begins the time of an edit.
func (b *bench) watch(text string) {
	for _, c := range b.proxies {
		c.seen.Store(nil)
	}
	b.marker.Store(&marker{[]byte(text), time.Now()})
}

// all waits until everybody, or everybody concerned, has what of asks for.
func (b *bench) all(ctx context.Context, everybody bool, of func(*proxy) *time.Duration) error {
	limit := time.After(b.o.limit)
	for {
		missing := 0
		for _, c := range b.proxies {
			if (everybody || c.concerned) && of(c) == nil {
				missing++
			}
		}
		b.mu.Lock()
		err := b.failed
		b.mu.Unlock()
		if missing == 0 || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-limit:
			return fmt.Errorf("%d of %d clients are not there after %v", missing, len(b.proxies), b.o.limit)
		case <-time.After(5 * time.Millisecond):
		}
	}
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

// quiet waits until nothing has been received for a while.
func (b *bench) quiet(ctx context.Context) {
	for time.Since(time.Unix(0, b.last.Load())) < b.o.settle && ctx.Err() == nil {
		time.Sleep(20 * time.Millisecond)
	}
}

// meter counts bytes on the wire.
type meter struct{ b *bench }

func (m meter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (m meter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (m meter) HandleConn(context.Context, stats.ConnStats)                       {}
func (m meter) HandleRPC(_ context.Context, s stats.RPCStats) {
	if in, ok := s.(*stats.InPayload); ok {
		m.b.wire.Add(int64(in.WireLength))
		m.b.touch()
	}
}
