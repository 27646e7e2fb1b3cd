// Package control is the control plane assembled: files in, xDS, certificates and an
// HTTP API out.
//
// It is the one place that knows all of config, registry, translate, xds and ca, and
// must not be imported by any of them; cmd/weir-control and tests start it. New opens
// the state folder and checks everything that can be wrong with Options; Run serves
// until its context ends. One Plane is one mesh; several live in one process.
package control

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	"github.com/weirmesh/weir/ca"
	caserver "github.com/weirmesh/weir/ca/server"
	"github.com/weirmesh/weir/ca/token"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/analyze"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/internal/redact"
	"github.com/weirmesh/weir/internal/runner"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/ondemand"
	"github.com/weirmesh/weir/xds/server"
)

// Options of a control plane.
type Options struct {
	// Version of the program, shown in the API.
	Version string
	// Name tells replicas apart: that of the pod, or of the machine; "" is weir-control.
	Name string
	// State is the folder for what must survive: CA, applied objects, allocations.
	State string
	// Paths are the operator's files and folders. Pods is the folder in which the
	// runtime says what is running; "" for none.
	Paths []string
	Pods  string
	// Fallbacks are files and folders whose objects give way to all others of the same
	// name: what `weir up` brings along.
	Fallbacks []string
	// Laptop says that `weir up` runs the mesh: an ingress gateway is going to be there,
	// even if its Pod is not yet.
	Laptop bool
	// Namespace is that of objects that name none.
	Namespace   string
	TrustDomain string
	Settings    mesh.Settings // TrustDomain is taken from above
	// CertTTL is how long workloads' certificates are good; 0: 24 h, as in Istio.
	CertTTL time.Duration

	// HandOver is how long Run goes on after its context ended, to hand the streams over to
	// other replicas; 0: it ends at once. It ends earlier when all are gone.
	HandOver time.Duration

	// EagerOnly keeps from serving configuration on demand: all proxies hold everything they may see.
	EagerOnly bool

	// GRPC are where xDS and the CA are served, HTTP where the API is. The Plane closes them.
	GRPC []net.Listener
	HTTP []net.Listener
	// PlainGRPC are where xDS is served without TLS, to anybody, with no secrets: for tools on this machine. New refuses
	// addresses that others can reach.
	PlainGRPC []net.Listener
	// Token that writes to the API need; the zero value refuses all writes.
	Token redact.String
	Log   *slog.Logger
}

// appliedDir holds what `weir apply` was given, below State.
const appliedDir = "applied"

// Plane is one control plane.
type Plane struct {
	o       Options
	started time.Time
	store   *store.Store
	files   *file.Source
	// fallbacks are the objects in force where files have none.
	fallbacks *file.Source
	auth      *ca.Authority
	signer    *caserver.Server
	self      *identity.Manager
	xds       *server.Server
	feeds     *feeds

	latest atomic.Pointer[store.Update]
	// changed is closed and made anew with every new latest.
	changed atomic.Pointer[chan struct{}]
	// ready is closed when the first configuration is in force.
	ready       chan struct{}
	receipts    *receipts
	census      *census
	watch       *watch
	events      *events
	edges       *edges
	instruments *instruments
	journal     *journal
	stopping    atomic.Bool // streams are being handed over
	applying    sync.Mutex  // one apply or delete at a time
}

// New opens the state folder.
func New(o Options) (*Plane, error) {
	o.Name = cmp.Or(o.Name, "weir-control")
	if o.Namespace == "" {
		o.Namespace = "default"
	}
	if o.TrustDomain == "" {
		o.TrustDomain = "cluster.local"
	}
	o.Settings.TrustDomain = o.TrustDomain
	for _, l := range o.PlainGRPC {
		if a, err := netip.ParseAddrPort(l.Addr().String()); err != nil || !a.Addr().IsLoopback() {
			return nil, fmt.Errorf("xDS without TLS tells whoever asks what the mesh looks like: it can be served on a loopback address only, not on %s", l.Addr())
		}
	}
	p := &Plane{o: o, started: time.Now(), ready: make(chan struct{}), receipts: newReceipts(), watch: newWatch(), events: newEvents(), instruments: newInstruments(), journal: newJournal(o.Log)}
	changed := make(chan struct{})
	p.changed.Store(&changed)
	if err := os.MkdirAll(p.appliedDir(), 0o700); err != nil {
		return nil, fmt.Errorf("opening the state folder: %w", err)
	}
	var err error
	if p.auth, err = ca.OpenSelfSigned(filepath.Join(o.State, "ca"), o.TrustDomain, ca.Options{DefaultTTL: o.CertTTL}); err != nil {
		return nil, fmt.Errorf("opening the certificate authority: %w", err)
	}
	key, err := token.OpenKey(filepath.Join(o.State, "ca"))
	if err != nil {
		return nil, fmt.Errorf("opening the token key: %w", err)
	}
	domains := append([]string{o.TrustDomain}, o.Settings.TrustDomainAliases...)
	if p.signer, err = caserver.New(caserver.Options{Authority: p.auth, TrustDomains: domains, Log: o.Log,
		Authenticators: []caserver.Authenticator{
			caserver.Certificates{Bundle: p.auth.Bundle(), Accept: identity.TrustDomains(domains)},
			caserver.Tokens{Key: key},
		}}); err != nil {
		return nil, err
	}
	id, err := identity.New(o.TrustDomain, "istio-system", "istiod")
	if err != nil {
		return nil, err
	}
	if p.self, err = identity.NewManager(identity.Options{ID: id, Log: o.Log,
		Signer: p.auth.Signer(ca.Grant{ID: id, DNSNames: []string{"istiod.istio-system.svc", "localhost"}})}); err != nil {
		return nil, err
	}
	so := store.Options{Settings: o.Settings, State: o.State, Applied: p.appliedDir(), Publish: p.publish, Log: o.Log}
	if o.Laptop {
		so.Assume = append(so.Assume, analyze.LocalGateway())
	}
	if p.store, err = store.New(so); err != nil {
		return nil, err
	}
	paths := append(append([]string(nil), o.Paths...), p.appliedDir())
	if o.Pods != "" {
		if err := os.MkdirAll(o.Pods, 0o700); err != nil {
			return nil, fmt.Errorf("opening the pods folder: %w", err)
		}
		paths = append(paths, o.Pods)
	}
	p.files = file.New(file.Options{Paths: paths, Written: filepath.Clean(p.appliedDir()), Namespace: o.Namespace, Log: o.Log})
	p.fallbacks = file.New(file.Options{Paths: o.Fallbacks, Namespace: o.Namespace, Rank: config.Fallback, Log: o.Log})
	identifier := "weir-control/" + o.Version + " " + observeToken
	var habits *learner
	if !o.EagerOnly {
		identifier += " " + ondemand.Token
		habits = newLearner(time.Now)
	}
	p.feeds = newFeeds(habits, o.Log, p.journal.proxy)
	p.xds = server.New(server.Options{Source: p.feeds, Authorize: authorize, Identifier: identifier, Observer: observer{p.instruments, p}, Log: o.Log})
	p.census = newCensus(p.xds)
	p.edges = newEdges(p)
	return p, nil
}

func (p *Plane) appliedDir() string { return filepath.Join(p.o.State, appliedDir) }

// Run serves until ctx ends. The stages, in the order in which a change passes them:
func (p *Plane) Run(ctx context.Context) error {
	// Whoever is still connected while streams are handed over is served as before.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g := runner.New(work)
	g.Go("end", func(work context.Context) error { p.handOver(ctx, work); stop(); return nil })
	// Who we are: the serving certificate, renewed by our own CA.
	g.Go("identity", p.self.Run)
	// What was asked for: files → objects → mesh.Snapshot → publish.
	g.Go("configuration", func(ctx context.Context) error { return p.store.Run(ctx, p.files, p.fallbacks) })
	// Snapshot → views of the connected proxies.
	g.Go("translation", p.feeds.run)
	// Views → streams, receipts back.
	g.Go("xds", p.xds.Run)
	// Receipts → what became of each change.
	g.Go("receipts", p.settle)
	// All of it → the log.
	g.Go("journal", p.journal.run)
	for _, l := range p.o.GRPC {
		g.Go("grpc "+l.Addr().String(), func(work context.Context) error { return p.serveGRPC(work, ctx, l) })
	}
	for _, l := range p.o.PlainGRPC {
		g.Go("plaintext grpc "+l.Addr().String(), func(work context.Context) error {
			return p.serve(work, ctx, p.newGRPC(insecure.NewCredentials()), l)
		})
	}
	for _, l := range p.o.HTTP {
		g.Go("http "+l.Addr().String(), func(ctx context.Context) error { return p.serveHTTP(ctx, l) })
	}
	return g.Wait()
}

// handOver waits for ctx to end, and then until all streams have been handed over to
// other replicas, or HandOver has passed, or work ends.
func (p *Plane) handOver(ctx, work context.Context) {
	select {
	case <-ctx.Done():
	case <-work.Done():
		return
	}
	p.stopping.Store(true)
	if p.o.HandOver <= 0 {
		return
	}
	p.o.Log.Info("handing streams over", "streams", len(p.xds.Clients()), "within", p.o.HandOver)
	const part = 5 // the last fifth is for streams that end slowly
	t := time.NewTimer(p.o.HandOver)
	defer t.Stop()
	select {
	case <-p.xds.Drain(p.o.HandOver / part * (part - 1)):
	case <-t.C:
	case <-work.Done():
	}
}

// publish takes every state of the configuration, from the store's goroutine.
func (p *Plane) publish(u *store.Update) {
	p.note(p.latest.Load(), u)
	p.instruments.note(p.latest.Load(), u)
	p.journal.note(u)
	first := p.latest.Swap(u) == nil
	p.feeds.publish(u.Snapshot)
	if first {
		close(p.ready)
	}
	next := make(chan struct{})
	close(*p.changed.Swap(&next))
}

// await returns the first state of the configuration from now on that is as asked.
func (p *Plane) await(ctx context.Context, ok func(*store.Update) bool) (*store.Update, error) {
	for {
		changed := *p.changed.Load()
		if u := p.latest.Load(); u != nil && ok(u) {
			return u, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (p *Plane) serveGRPC(ctx, ending context.Context, l net.Listener) error {
	// A certificate first: a client that connects before would only see a failed handshake.
	if !p.awaitCertificate(ctx) {
		return l.Close()
	}
	g := p.newGRPC(credentials.NewTLS(identity.ServerTLS(p.self, identity.TrustDomains(append([]string{p.o.TrustDomain}, p.o.Settings.TrustDomainAliases...)), false)))
	p.signer.Register(g)
	observev1.RegisterObserveServer(g, p.edges)
	return p.serve(ctx, ending, g, l)
}

// newGRPC is a server of xDS alone.
func (p *Plane) newGRPC(creds credentials.TransportCredentials) *grpc.Server {
	g := grpc.NewServer(append(p.xds.GRPCOptions(), grpc.Creds(creds))...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, p.xds)
	return g
}

// serve serves until ctx ends. When ending ends, before that, clients are told to go
// elsewhere (GOAWAY), and their streams go on.
func (p *Plane) serve(ctx, ending context.Context, g *grpc.Server, l net.Listener) error {
	defer context.AfterFunc(ending, g.GracefulStop)()
	stop := context.AfterFunc(ctx, func() {
		p.edges.close()
		t := time.AfterFunc(time.Second, g.Stop)
		g.GracefulStop()
		t.Stop()
	})
	defer stop()
	if err := g.Serve(l); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

func (p *Plane) awaitCertificate(ctx context.Context) bool {
	for {
		held, changed := p.self.Watch()
		if held != nil {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}
