// Package proxy is the data plane assembled: workers with their listeners and pools,
// the state they decide by, the xDS client that changes it, identity, DNS and the admin
// interface.
//
// It is the one place that knows all rooms below it; cmd/weir-proxy and tests start it.
// New checks everything that can be wrong with Options and restores kept state; Run
// serves until its context ends. Several Proxies live in one process: nothing here is
// shared between them. Connections are served on the workers' loops; everything else
// (configuration, handshakes, DNS, admin) runs on goroutines and reaches a loop by Post.
package proxy

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/internal/memory"
	"github.com/weirmesh/weir/internal/runner"
	"github.com/weirmesh/weir/proxy/admin"
	"github.com/weirmesh/weir/proxy/cluster/pool"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/demand"
	"github.com/weirmesh/weir/proxy/dns"
	"github.com/weirmesh/weir/proxy/filter/jwtauthn"
	"github.com/weirmesh/weir/proxy/hosts"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/observe/edges"
	"github.com/weirmesh/weir/proxy/overload"
	"github.com/weirmesh/weir/proxy/restore"
	"github.com/weirmesh/weir/proxy/tcp"
	"github.com/weirmesh/weir/proxy/tls"
	"github.com/weirmesh/weir/xds/client"
)

// Options of a Proxy. A static proxy has Static and no Control; with both, what Static says is there before anything
// comes from the control plane.
type Options struct {
	Version string
	// Node is who we are towards the control plane and our peers; Metadata are further
	// keys of the xDS node's metadata.
	Node     observe.Node
	Metadata map[string]any

	Workers int // 0: 1
	// Census counts the loops of the process; proxies that share one process share it.
	Census *loop.Census

	// Static is a bootstrap with static listeners and clusters.
	Static *bootstrapv3.Bootstrap
	// Control connects to the control plane.
	Control *Control
	// OnDemand takes configuration on demand from a control plane that offers it, which the
	// node's Metadata must say (WEIR.ONDEMAND, WEIR.VHDS). OnDemandIdle is how long what was
	// asked for may go unused, in whole minutes; 0: 10.
	OnDemand     bool
	OnDemandIdle time.Duration
	// Early is where capture leads the workload's connections, by the listener virtualOutbound: they wait there from the beginning
	// until that has come; nil: they are refused until then.
	Early *Early
	// Required are listeners without which the proxy is not ready.
	Required []string
	// StateDir is where the last good state is kept; "" keeps nothing.
	StateDir string

	// Listen opens listening sockets; nil: of this namespace's kernel.
	Listen listener.ListenSource
	// App makes sockets for connections to the application, Host those to addresses
	// outside Mesh; nil: of this namespace's kernel.
	App, Host conn.SocketSource
	// Source is the workload's own address where the machine has it as a loopback address
	// (env capture): its connections to other workloads come from there.
	Source netip.Addr
	Mesh   []netip.Prefix

	// LookupHost finds the addresses of the names of DNS clusters; nil: the resolvers of
	// DNS, or those of this machine.
	LookupHost func(ctx context.Context, host string) ([]netip.Addr, error)

	Admin  []net.Listener // everything: for the operator only
	Health []net.Listener // readiness and metrics
	DNS    *DNS

	// StdRecords leaves TLS records to crypto/tls.
	StdRecords bool

	// MaxConnections limits the clients' connections of all listeners together; 0: as a static
	// bootstrap says, or no limit.
	MaxConnections int64

	AccessLog io.Writer // nil: no access log
	Log       *slog.Logger
	Level     *slog.LevelVar

	// DrainTime is how long Run goes on after its context ended, for exchanges under way.
	DrainTime time.Duration
	// ListenerDrain is how long a connection goes on that a change of configuration would not
	// let in any more; 0: 45 s, Istio's default (drainDuration).
	ListenerDrain time.Duration

	// Memory says how much is in use, for what is given up near the limit (package overload); nil: the Go runtime, and GOMEMLIMIT.
	Memory memory.Meter
	// GroupMemory is what the control group permits, for an overload manager that asks; 0: there is no limit.
	GroupMemory int64

	// Poller makes a worker's poller; nil: the kernel's. It is for tests, which have no rules of
	// capture.
	Poller func() (loop.Poller, error)
}

// Control is the way to the control plane. Without a Signer the workload has no identity,
// and nothing of what it does is secured.
type Control struct {
	TrustDomain string
	ID          identity.ID
	Signer      identity.Signer
	// Bootstrap are the roots that vouch for the control plane; Roots, where set, gives them
	// anew for each connection.
	Bootstrap *identity.Bundle
	Roots     func() (*identity.Bundle, error)
	// TTL is the life of certificates that is asked for; 0: the signer's.
	TTL time.Duration
	// Strange says that it is not of a mesh: it knows nothing of identities, and no name means the workload's own.
	Strange bool
	// SotW speaks state of the world instead of delta.
	SotW bool
	// Address is where the control plane is, as Dial takes it, and Server who it has to be, a SPIFFE
	// ID or a DNS name: to be shown. Without an address it is not.
	Address, Server string
	// Dial connects with the identity's TLS.
	Dial func(ctx context.Context, m *identity.Manager) (client.Conn, error)
}

// DNS is where the workload's queries come in.
type DNS struct {
	Packets   []net.PacketConn
	Listeners []net.Listener
	Search    []string
	Resolvers []string
	// Dial reaches the resolvers; nil: net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Proxy is one data plane.
type Proxy struct {
	o       Options
	started time.Time
	self    *observe.Peer
	frame   []byte // our metadata for the TCP exchange
	id      *identity.Manager
	held    held // files of certificates
	gate    *tls.Gate
	level   *admin.Level    // of the log
	demands *demand.Demands // nil: nothing is ever on demand
	hosts   *hosts.Hosts    // names that only clients know
	peers   *observe.Peers
	callers *listener.Peers
	pools   *pool.Group
	workers []*worker
	group   *listener.Group
	state   *publisher
	xds     *client.Client
	uplink  atomic.Pointer[client.Conn] // the newest to the control plane
	stirred chan struct{}               // a worker did something since collect
	sender  *edges.Sender
	keeper  *restore.Keeper
	keys    *jwtauthn.Sets // of tokens
	logs    *observe.Log
	// descriptors is how many this process may have; 0: unknown.
	descriptors int64
	manager     *overload.Manager
	pressure    pressure
	aside       asides
	taps        taps

	quit    context.CancelFunc
	quitCtx context.Context //nolint:containedctx // ended by Quit, joined to Run's

	ready    atomic.Bool // once
	draining atomic.Bool
	leaving  atomic.Bool // clients from outside are asked to go

	restored    error // why kept state was not used; nil if it was, or none is kept
	restoredAge time.Duration
}

// New makes a Proxy, with kept state in place.
func New(o Options) (*Proxy, error) {
	o.Workers = max(o.Workers, 1)
	if o.Census == nil {
		o.Census = &loop.Census{}
	}
	if o.Poller == nil {
		o.Poller = loop.NewPoller
	}
	if o.ListenerDrain == 0 {
		o.ListenerDrain = 45 * time.Second
	}
	if o.Memory == nil {
		o.Memory = memory.Runtime()
	}
	if o.Listen == nil {
		o.Listen = listener.Sockets{Sockets: loop.Kernel()}
	}
	p := &Proxy{o: o, started: time.Now(), self: o.Node.Peer(), gate: tls.NewGate(0, 0), peers: observe.NewPeers(), callers: listener.NewPeers(), descriptors: loop.DescriptorLimit(), pools: &pool.Group{}, stirred: make(chan struct{}, 1), taps: newTaps(), level: admin.NewLevel(o.Level, o.Log)}
	p.quitCtx, p.quit = context.WithCancel(context.Background())
	var err error
	if p.manager, err = overload.Decode(o.Static, o.GroupMemory); err != nil {
		return nil, err
	}
	if p.frame, err = tcp.Frame(&p.o.Node); err != nil {
		return nil, err
	}
	if o.AccessLog != nil {
		p.logs = observe.NewLog()
	}
	if o.Control == nil && o.Static == nil {
		return nil, errors.New("a proxy has a control plane, a static configuration, or both")
	}
	if o.OnDemand && o.Control != nil {
		p.demands = demand.New()
	}
	p.hosts = p.newHosts()
	var saved *restore.Saved
	if o.Control != nil {
		saved = p.openState()
		if err := p.openIdentity(saved); err != nil {
			return nil, err
		}
	}
	if p.state, err = newPublisher(p); err != nil {
		return nil, err
	}
	for i := range o.Workers {
		w, err := p.newWorker(i)
		if err != nil {
			return nil, err
		}
		p.workers = append(p.workers, w)
	}
	acceptors := make([]*listener.Acceptor, len(p.workers))
	for i, w := range p.workers {
		acceptors[i] = w.accept
	}
	p.group = listener.NewGroup(o.Listen, loop.Kernel(), p.callers, o.Log, acceptors...)
	p.group.MaxConnections = cmp.Or(o.MaxConnections, p.manager.Connections)
	if o.Control != nil {
		p.subscribe(saved)
	}
	return p, nil
}

// openState reads what a former process kept, nil if there is nothing of use, and begins to keep.
func (p *Proxy) openState() *restore.Saved {
	if p.o.StateDir == "" {
		if p.o.Static != nil { // whoever runs a proxy by a file has /config_dump of Envoy's
			p.keeper = restore.NewKeeper("", restore.Binding{}, false, p.o.Log)
		}
		return nil
	}
	binding := restore.Binding{TrustDomain: p.o.Control.TrustDomain, Node: p.o.Node.Name + "." + p.o.Node.Namespace}
	if p.o.Control.Signer != nil { // without one, in plaintext, it is nobody's but the node's
		binding.Identity = p.o.Control.ID.String()
	}
	saved, err := restore.Load(p.o.StateDir, binding, time.Now())
	switch {
	case err == nil:
		p.restoredAge = time.Since(saved.Saved)
		p.o.Log.Info("continuing with the kept state", "age", p.restoredAge.Round(time.Second))
	case !errors.Is(err, restore.ErrNone):
		p.restored = err
		p.o.Log.Warn("starting empty", "err", err)
	}
	if saved != nil && !p.o.OnDemand && saved.OnDemand() {
		p.restored = errors.New("it is a part of the configuration only, on demand")
		p.o.Log.Warn("starting without kept configuration", "err", p.restored)
		saved.Updates = nil
	}
	p.keeper = restore.NewKeeper(p.o.StateDir, binding, saved != nil && p.restored == nil, p.o.Log)
	return saved
}

// openIdentity makes the identity manager, from kept material if there is some. Nobody signs
// for a proxy in plaintext: it has no identity.
func (p *Proxy) openIdentity(saved *restore.Saved) (err error) {
	c := p.o.Control
	if c.Signer == nil {
		return nil
	}
	io := identity.Options{ID: c.ID, Signer: c.Signer, TTL: c.TTL, Bootstrap: c.Bootstrap, Roots: c.Roots, Log: p.o.Log}
	if saved != nil && len(saved.Material) > 0 {
		if io.Restored, err = identity.Unmarshal(saved.Material); err != nil {
			p.o.Log.Warn("kept certificate cannot be used", "err", err)
		}
	}
	p.id, err = identity.NewManager(io)
	return err
}

// NodeProto is the xDS node.
func (p *Proxy) nodeProto() *corev3.Node {
	agent := &corev3.Node_UserAgentVersion{UserAgentVersion: p.o.Version}
	if own := p.o.Static.GetNode(); own != nil { // as its bootstrap says
		n := proto.CloneOf(own)
		n.UserAgentName, n.UserAgentVersionType = "weir-proxy", agent
		return n
	}
	m := p.o.Node.Metadata()
	m.Fields["ISTIO_VERSION"] = structpb.NewStringValue("1.31.0") // the dialect of configuration we understand
	for k, v := range p.o.Metadata {
		x, err := structpb.NewValue(v)
		if err != nil {
			p.o.Log.Error("node metadata", "key", k, "err", err)
			continue
		}
		m.Fields[k] = x
	}
	return &corev3.Node{Id: p.o.Node.ID, Cluster: p.self.CanonicalService + "." + p.self.Namespace, Metadata: m,
		UserAgentName: "weir-proxy", UserAgentVersionType: agent}
}

// Run serves until ctx ends or Quit is called, then drains. The stages:
func (p *Proxy) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.quitCtx, cancel)()

	// Workers outlive the rest: they finish what is under way.
	loops, stopLoops := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLoops()
	var workers sync.WaitGroup
	for _, w := range p.workers {
		workers.Go(func() { w.run(loops) })
	}
	g := runner.New(ctx)
	if p.logs != nil {
		workers.Go(func() { _ = p.logs.Run(loops, p.o.AccessLog) })
	}
	if p.id != nil {
		g.Go("identity", p.id.Run) // who we are
		g.Go("material", p.keepMaterial)
	}
	// What to do: kept or static state first, so that traffic need not wait for anybody.
	if err := p.state.begin(ctx, p.o.Static); err != nil {
		g.Fail(err)
	}
	if p.xds != nil {
		g.Go("xds", p.xds.Run)
		g.Go("edges", p.sender.Run) // what happened, to a control plane that wants to know
	}
	if p.demands != nil {
		g.Go("on demand", p.state.demand) // what of it is wanted and is not there
	}
	if p.keeper != nil && p.o.StateDir != "" {
		g.Go("kept state", p.keeper.Run)
	}
	g.Go("secrets", p.state.askForSecrets)
	g.Go("dns clusters", p.state.resolve)
	g.Go("names of clients", p.hosts.Run)
	g.Go("listening", p.state.listenAgain)
	g.Go("files", p.state.reread)
	g.Go("memory", p.watchMemory) // what is given up when little is left
	if d := p.o.DNS; d != nil {
		g.Go("dns", func(ctx context.Context) error {
			return dns.New(dns.Options{Names: p.state.lookup, Search: d.Search, Resolvers: d.Resolvers, Dial: d.Dial, Log: p.o.Log}).Run(ctx, d.Packets, d.Listeners)
		})
	}
	// Whoever watches is answered as long as there is traffic: that it drains, too, and the last metrics.
	watched, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	defer unwatch()
	ao := admin.Options{Proxy: p, Level: p.level, Log: p.o.Log}
	for _, l := range p.o.Admin {
		g.Go("admin", func(context.Context) error { return admin.Serve(watched, l, ao) })
	}
	for _, l := range p.o.Health {
		g.Go("health", func(context.Context) error { return admin.ServeHealth(watched, l, ao) })
	}
	<-g.Done()
	p.drain()
	unwatch()
	err := g.Wait()
	p.keys.Close()
	stopLoops()
	workers.Wait()
	return err
}

// quiet is how long a draining proxy waits at least: a request that was on its way on an
// idle connection when the drain began must still find somebody who answers.
const quiet = 300 * time.Millisecond

// drain ends the work of the workers in good order: no new connections, connection:
// close on responses, and up to DrainTime for exchanges under way. Idle connections are
// closed at the very end.
func (p *Proxy) drain() {
	p.Drain()
	p.each(func(w *worker) { w.demand.Close() }) // no configuration comes any more
	defer p.each(func(w *worker) { w.http.CloseIdle(0) })
	began := time.Now()
	deadline := time.NewTimer(p.o.DrainTime)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for p.active() > 0 || time.Since(began) < min(quiet, p.o.DrainTime) {
		select {
		case <-deadline.C:
			p.o.Log.Info("ending with exchanges under way", "active", p.active())
			return
		case <-tick.C:
		}
	}
}

// Drain stops accepting, for good, and asks clients to go.
func (p *Proxy) Drain() {
	p.draining.Store(true)
	<-p.group.Drain()
	for _, w := range p.workers {
		w.loop.Post(func() { w.http.Drain() })
	}
}

// DrainInbound asks clients from outside to go elsewhere, without refusing those that have
// not heard of it: connection: close, GOAWAY, and not ready any more. The workload's own
// calls go on as before.
func (p *Proxy) DrainInbound() {
	p.leaving.Store(true)
	for _, w := range p.workers {
		w.loop.Post(func() { w.http.DrainInbound() })
	}
}

// Busy is the number of exchanges and relayed connections under way, and whether anybody
// from outside has ever connected.
func (p *Proxy) Busy() (active int, called bool) {
	p.each(func(w *worker) { called = called || w.accept.Stats().Inbound > 0 })
	return p.active(), called
}

// Quit ends Run.
func (p *Proxy) Quit() { p.quit() }

// active is the number of exchanges and relayed connections under way.
func (p *Proxy) active() int {
	n := 0
	p.each(func(w *worker) { n += w.http.Active() + w.tcp.Active() + w.accept.Waiting() })
	return n
}

// each runs f on every worker's loop, one after the other, and waits. Loops that ended
// are left out.
func (p *Proxy) each(f func(w *worker)) {
	for _, w := range p.workers {
		done := make(chan struct{})
		if w.loop.Post(func() { f(w); close(done) }) {
			select {
			case <-done:
			case <-w.ended:
			}
		}
	}
}

// keepMaterial keeps every new certificate with the state.
func (p *Proxy) keepMaterial(ctx context.Context) error {
	for {
		held, changed := p.id.Watch()
		if held != nil && p.keeper != nil {
			if m, err := held.Marshal(); err != nil {
				p.o.Log.Error("keeping the certificate", "err", err)
			} else {
				p.keeper.Material(m.Reveal())
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// SetThreads sets GOMAXPROCS for n workers of this process: one thread each and one for
// everything else, so that a busy worker never keeps a handshake waiting.
func SetThreads(n int) { runtime.GOMAXPROCS(n + 1) }
