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
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	keysv1 "github.com/weirmesh/weir/api/keys"
	observev1 "github.com/weirmesh/weir/api/observe/v1"
	replicasv1 "github.com/weirmesh/weir/api/replicas/v1"
	"github.com/weirmesh/weir/ca"
	caserver "github.com/weirmesh/weir/ca/server"
	"github.com/weirmesh/weir/ca/token"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/analyze"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/control/keys"
	"github.com/weirmesh/weir/control/ledger"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/internal/memory"
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
	// Authority is where certificates come from; nil: one of its own, in State. Authenticators
	// know callers beside those with its certificates and with tokens of State, of
	// certificates and of xDS.
	Authority      ca.Source
	Authenticators []caserver.Authenticator
	// Renew is why a certificate may not be renewed by itself (ca/server.Certificates); nil: all may.
	Renew func(ctx context.Context, id identity.ID, held *x509.Certificate) error
	// ExternalCA signs the certificates of workloads; nil: Authority does, which also has the control plane's own.
	ExternalCA ca.External
	// ServerNames are DNS names by which proxies ask for the control plane; nil:
	// istiod.istio-system.svc and localhost.
	ServerNames []string
	// CA is the folder of a plugged-in authority (ca-key.pem, ca-cert.pem, root-cert.pem,
	// cert-chain.pem); empty: the mesh has roots of its own, in State. Authority goes before both.
	CA string
	// CertTTL is how long workloads' certificates are good; 0: 24 h, as in Istio. MaxCertTTL is the most that a workload
	// gets if it asks for another life; 0: CertTTL.
	CertTTL, MaxCertTTL time.Duration

	// Cluster is where everything comes from in Kubernetes; nil: from the files above.
	Cluster *Cluster

	// Replicas are the addresses of all replicas of this control plane (host:port of GRPC), this one's own may be among them; nil: in a
	// Cluster the endpoints of ServerNames, else there are no others.
	Replicas []string
	// Callers is where replicas keep who called in plaintext; nil: in State.
	Callers ledger.Keeper
	// HandOver is how long Run goes on after its context ended, to hand the streams over to
	// other replicas; 0: it ends at once. It ends earlier when all are gone.
	HandOver time.Duration

	// Memory says how much is in use and how much there may be; nil: of this process.
	Memory memory.Meter

	// EagerOnly keeps from serving configuration on demand: all proxies hold everything they may see.
	EagerOnly bool

	// GRPC are where xDS and the CA are served, HTTP where the API is. The Plane closes them.
	GRPC []net.Listener
	HTTP []net.Listener
	// PlainGRPC are where xDS is served without TLS, to anybody, with no secrets: for tools on this machine. New refuses
	// addresses that others can reach, unless Cluster.Plaintext.
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
	// sources are where objects come from: files and those in force where they have none, or the cluster.
	sources []store.Source
	auth    ca.Source
	keep    func(context.Context) error // keeps auth alive; nil: somebody else does
	signer  *caserver.Server
	askers  []caserver.Authenticator
	self    *ca.Serving
	tokens  *token.Key
	issued  *issued
	xds     *server.Server
	feeds   *feeds

	latest atomic.Pointer[store.Update]
	given  atomic.Pointer[given]            // of latest, or of what was that
	above  atomic.Pointer[x509.Certificate] // see overseen
	// changed is closed and made anew with every new latest.
	changed atomic.Pointer[chan struct{}]
	// ready is closed when the first configuration is in force.
	ready       chan struct{}
	receipts    *receipts
	past        past
	pushers     pushers
	census      *census
	watch       *watch
	events      *events
	edges       *edges
	callers     *ledger.Table // in plaintext
	replicas    *replicas
	id          identity.ID // this control plane's own, and its replicas'
	instruments *instruments
	journal     *journal
	keys        *keys.Fetcher
	stopping    atomic.Bool   // streams are being handed over
	pressure    atomic.Uint32 // a memory.Level
	applying    sync.Mutex    // one apply or delete at a time
	judging     sync.Mutex
	judge       store.Judge // under judging
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
	if o.ServerNames == nil {
		o.ServerNames = []string{"istiod.istio-system.svc", "localhost"}
	}
	if o.Memory == nil {
		o.Memory = memory.Runtime()
	}
	cluster := o.Cluster
	if cluster == nil {
		cluster = &Cluster{}
	}
	for _, l := range o.PlainGRPC {
		if cluster.Plaintext {
			break
		}
		if a, err := netip.ParseAddrPort(l.Addr().String()); err != nil || !a.Addr().IsLoopback() {
			return nil, fmt.Errorf("xDS without TLS tells whoever asks what the mesh looks like: it can be served on a loopback address only, not on %s", l.Addr())
		}
	}
	p := &Plane{o: o, started: time.Now(), ready: make(chan struct{}), receipts: newReceipts(), watch: newWatch(), issued: &issued{}, events: newEvents(), instruments: newInstruments(), journal: newJournal(o.Log)}
	changed := make(chan struct{})
	p.changed.Store(&changed)
	if err := os.MkdirAll(p.appliedDir(), 0o700); err != nil {
		return nil, fmt.Errorf("opening the state folder: %w", err)
	}
	var err error
	if p.auth = o.Authority; p.auth == nil {
		if p.auth, p.keep, err = openAuthority(o); err != nil {
			return nil, fmt.Errorf("opening the certificate authority: %w", err)
		}
	}
	key, err := token.OpenKey(filepath.Join(o.State, "ca"))
	if err != nil {
		return nil, fmt.Errorf("opening the token key: %w", err)
	}
	p.tokens = key
	certificates := caserver.Certificates{Authority: p.auth, Accept: members{p}}
	p.askers = append([]caserver.Authenticator{
		certificates,
		caserver.Tokens{Key: key, Uses: token.OpenUses(filepath.Join(o.State, "ca"))},
	}, o.Authenticators...)
	signing := slices.Clone(p.askers) // who has a certificate is served until that ends
	certificates.Renew = o.Renew
	signing[0] = certificates
	if p.signer, err = caserver.New(caserver.Options{Authority: p.auth, External: p.overseen(), TrustDomains: p.trustDomains, Issued: p.issued.note, Log: o.Log, Authenticators: signing}); err != nil {
		return nil, err
	}
	id, err := identity.New(o.TrustDomain, cmp.Or(o.Settings.RootNamespace, "istio-system"), control)
	if err != nil {
		return nil, err
	}
	p.id = id
	p.self = ca.NewServing(p.auth, ca.Grant{ID: id, DNSNames: o.ServerNames}, o.Log)
	p.keys = keys.New(nil, KeysDir(o.State), o.Log)
	so := store.Options{Settings: o.Settings, State: o.State, Applied: p.appliedDir(), Facts: cluster.Facts, Keys: p.keys, Publish: p.publish, Log: o.Log}
	so.Ranges.ByName = o.Cluster != nil // replicas have no state in common
	if o.Laptop {
		so.Assume = append(so.Assume, analyze.LocalGateway())
	}
	if p.store, err = store.New(so); err != nil {
		return nil, err
	}
	if o.Cluster != nil { // who writes policies there is not who runs the control plane
		p.keys.Guard(o.Cluster.KeysAllowed)
	}
	paths := append(append([]string(nil), o.Paths...), p.appliedDir())
	if o.Pods != "" {
		if err := os.MkdirAll(o.Pods, 0o700); err != nil {
			return nil, fmt.Errorf("opening the pods folder: %w", err)
		}
		paths = append(paths, o.Pods)
	}
	files := file.New(file.Options{Paths: paths, Written: filepath.Clean(p.appliedDir()), Namespace: o.Namespace, Log: o.Log})
	p.sources = append(p.sources, files, file.New(file.Options{Paths: o.Fallbacks, Namespace: o.Namespace, Rank: config.Fallback, Log: o.Log}))
	if cluster.Objects != nil {
		p.sources = []store.Source{cluster.Objects}
	}
	identifier := "weir-control/" + o.Version + " " + observeToken + " " + keysv1.Token
	var habits *learner
	if !o.EagerOnly {
		identifier += " " + ondemand.Token
		habits = newLearner(time.Now)
	}
	p.feeds = newFeeds(habits, o.Log, p.journal.proxy)
	p.feeds.why = cluster.Why
	p.xds = server.New(server.Options{Source: p.feeds, Authorize: authorize, Authenticate: p.authenticate, Identifier: identifier, Observer: observer{p.instruments, p}, Full: p.full, Log: o.Log})
	p.census = newCensus(p.xds)
	p.edges = newEdges(p)
	p.callers = ledger.New(p.started.Round(0))
	if p.o.Callers == nil {
		p.o.Callers = keepFile(filepath.Join(o.State, callersFile))
	}
	p.replicas = newReplicas(p)
	return p, nil
}

// KeysDir holds keys of token issuers as they were fetched last, below State.
func KeysDir(state string) string { return filepath.Join(state, "keys") }

func (p *Plane) appliedDir() string { return filepath.Join(p.o.State, appliedDir) }

// Run serves until ctx ends. The stages, in the order in which a change passes them:
func (p *Plane) Run(ctx context.Context) error {
	// Whoever is still connected while streams are handed over is served as before.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g := runner.New(work)
	g.Go("end", func(work context.Context) error { p.handOver(ctx, work); stop(); return nil })
	// What was asked for: files → objects → mesh.Snapshot → publish.
	g.Go("configuration", func(ctx context.Context) error { return p.store.Run(ctx, p.sources...) })
	// Snapshot → views of the connected proxies.
	g.Go("translation", p.feeds.run)
	// Views → streams, receipts back.
	g.Go("xds", p.xds.Run)
	// Receipts → what became of each change.
	g.Go("receipts", p.settle)
	// Streams → replicas that have fewer, or more memory.
	g.Go("rebalance", p.rebalance)
	g.Go("memory", p.watchMemory)
	if p.keep != nil {
		g.Go("certificate authority", p.keep)
	}
	// Reports of callers in plaintext → what the next control plane knows.
	g.Go("callers", p.keepCallers)
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
	defer p.replicas.close()
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
	p.past.note(p.latest.Load(), u, time.Now())
	p.instruments.note(p.latest.Load(), u)
	p.journal.note(u)
	before := p.latest.Swap(u)
	first := before == nil
	if first || !before.Snapshot.RequestAuths.Same(u.Snapshot.RequestAuths) {
		p.keys.Want(u.Snapshot.RequestAuths)
	}
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
	creds := credentials.NewTLS(identity.ServerTLS(p.self, members{p}, false))
	// TLS has a buffer of its own.
	g := p.newGRPC(newInTurn(creds), grpc.ReadBufferSize(0))
	p.signer.Register(g)
	observev1.RegisterObserveServer(g, p.edges)
	replicasv1.RegisterReplicasServer(g, p.replicas)
	keysv1.Register(g, newest{p})
	return p.serve(ctx, ending, g, l)
}

// newGRPC is a server of xDS alone.
func (p *Plane) newGRPC(creds credentials.TransportCredentials, more ...grpc.ServerOption) *grpc.Server {
	g := grpc.NewServer(slices.Concat(p.xds.GRPCOptions(), more, []grpc.ServerOption{grpc.Creds(creds)})...)
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
