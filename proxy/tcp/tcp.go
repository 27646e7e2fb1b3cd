// Package tcp relays connections: each accepted one to an endpoint of a cluster, byte
// for byte, with half-close and back-pressure.
//
// What enters: an open connection with its Config (a decoded TcpProxy, immutable) and
// the State it came under. What leaves: a connection to the chosen endpoint, the bytes of both
// directions, and calls to the Observer. Between two proxies of the mesh that agree
// on it (ALPN istio-peer-exchange), each direction begins with the sender's workload
// metadata. A Worker belongs to its loop and so do its Relays.
package tcp

import (
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/cluster/lb"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/demand"
	"github.com/weirmesh/weir/proxy/filter/extauthz"
	"github.com/weirmesh/weir/proxy/hosts"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/proxyproto"
	"github.com/weirmesh/weir/proxy/rbac"
)

// Config is one TCP proxy with the filters in front of it. It is immutable. Fields name the
// TcpProxy field they come from.
type Config struct {
	StatPrefix string
	// Inbound says that the proxy stands on the destination's side.
	Inbound bool
	// Clusters are chosen by weight (cluster, weighted_clusters). One with weight 0 is
	// chosen only if all have it.
	Clusters []Weighted
	// ByServerName takes the cluster that has the name of the ClientHello's SNI instead (the
	// filter envoy.filters.network.sni_cluster), if it has one.
	ByServerName bool
	// HashSource sends clients of one address to one endpoint of clusters that hash, whatever these say (hash_policy).
	HashSource bool

	IdleTimeout        time.Duration // idle_timeout; 0: 1 h, negative: none
	MaxDuration        time.Duration // max_downstream_connection_duration; 0: none
	MaxConnectAttempts int           // max_connect_attempts; 0: 1

	// Tunnel says that endpoints are forward proxies (tunneling_config); nil: where the cluster does not say so, they are where it goes.
	Tunnel *Tunnel

	// RBAC decides who may come (the filters envoy.filters.network.rbac, in their order).
	RBAC []*rbac.Filter
	// Asks decide about those whom RBAC lets come, in their order (the filters envoy.filters.network.ext_authz).
	Asks []*extauthz.Connections
	// Source is the object whose rule chose Clusters (metadata of the filter chain).
	Source observe.Origin
	// Deciders are the objects by which RBAC and Asks decide (metadata weir.deciders of the filter chain).
	Deciders observe.Deciders

	// Chain is the filter chain that connections come by, for whoever decides in Worker.Adopt.
	Chain any

	// Exchange exchanges workload metadata with peers that agreed to it by ALPN (the
	// filter istio.metadata_exchange).
	Exchange bool
	Logs     []observe.AccessLog // access_log
}

// Again says why a connection may not stay that came by was, if it may not: rules deny it, or somebody would be asked about it who was not
// asked then. Who said yes once is not asked again.
func (c *Config) Again(was *Config, info *conn.Info) http.Refusal {
	if d := c.enforce(info, true); !d.Allowed {
		return http.Refusal{Cause: d.Cause(), Details: d.Details(), Decided: c.Deciders.Denied(d.Details())}
	}
	for _, k := range c.Asks {
		if no := k.Again(info, was.Asks, c.Deciders); no.Cause != causes.NoCause {
			return no
		}
	}
	return http.Refusal{}
}

// enforce decides by rules. again: of a connection that is counted already, or will be.
func (c *Config) enforce(info *conn.Info, again bool) rbac.Decision {
	if len(c.RBAC) == 0 {
		return rbac.Decision{Allowed: true}
	}
	return rbac.Enforce(c.RBAC, again, &rbac.Facts{Conn: info})
}

// Weighted is a cluster and its share.
type Weighted struct {
	Cluster cluster.ID
	Name    string // of the cluster, whether or not there is one
	Weight  uint32
}

const (
	defaultIdle = time.Hour // Envoy's
	// reportEvery is how often a relay that moves bytes tells the Observer, Istio's
	// default reporting interval for TCP.
	reportEvery = 5 * time.Second
)

// State is what a relay needs of the proxy's state. proxy/state implements it; it is immutable.
type State interface {
	Cluster(id cluster.ID) *cluster.Cluster
	ClusterNamed(name string) *cluster.Cluster
}

// Observer hears of every relay, on the loop.
type Observer interface {
	// Begin comes when the connection was accepted and nothing else is known.
	Begin(r *Relay)
	// Progress comes at most every 5 s while bytes move, and once as soon as the peers'
	// metadata is settled.
	Progress(r *Relay)
	// End comes once for every Begin; r is not to be kept.
	End(r *Relay)
}

// Options are a Worker's collaborators.
type Options struct {
	Loop     *loop.Loop
	Observer Observer // nil: none
	// Totals counts connections, by cluster; nil: nobody wants to know.
	Totals *cluster.Totals
	// Socket is where the socket of a connection comes from; nil, or a nil source: the
	// loop's own kernel.
	Socket func(c *cluster.Cluster, e *cluster.Endpoint) conn.SocketSource
	// HTTP asks on behalf of Config.Asks; nil: who would have to be asked about may not come.
	HTTP *http.Worker
	// Demand lets connections wait for what is not there yet of their clusters, and State has what there is by then; nil: nobody waits.
	Demand *demand.Worker
	// Hosts has the addresses of names that clients ask for; nil: of none.
	Hosts *hosts.Hosts
	State func() State
	// Source is the workload's own address, for cluster.Cluster.From.
	Source netip.Addr
	// Metadata is what peers are told about this workload, as made by Frame; nil: nothing.
	Metadata []byte
	// Hostname is %HOSTNAME%.
	Hostname string
	// Peers interns what peers tell; nil: it is read and forgotten.
	Peers *observe.Peers
}

// Worker is the TCP side of one loop.
type Worker struct {
	o       Options
	l       *loop.Loop
	pickers []lb.Picker // by cluster.ID
	relays  *Relay
	active  int
}

// NewWorker makes the TCP side of a loop, on which all further calls must happen.
func NewWorker(o Options) *Worker {
	if o.Totals == nil {
		o.Totals = &cluster.Totals{}
	}
	return &Worker{o: o, l: o.Loop}
}

// Active is the number of connections being relayed.
func (w *Worker) Active() int { return w.active }

// CloseAll ends all relays in order: what was received is delivered first.
func (w *Worker) CloseAll() {
	for r := w.relays; r != nil; r = r.next {
		r.down.Close()
		if r.up != nil {
			r.up.Close()
		}
	}
}

// Adopt asks of every relay why it may not stay, now that filter chains have changed. One that may not is cut off after
// grace, unless a later change lets it stay.
func (w *Worker) Adopt(again func(*Config, *conn.Info) http.Refusal, grace time.Duration) {
	until := w.l.Now() + int64(grace)
	for r := w.relays; r != nil; r = r.next {
		no := again(r.config, r.down.Info())
		switch stays := no.Cause == causes.NoCause; {
		case stays && r.revoked != nil:
			r.revoked = nil
			r.endBy(math.MaxInt64)
		case stays:
		case r.revoked != nil: // the next change gives it no more time
			*r.revoked = no
		default:
			r.revoked = new(no)
			r.endBy(until)
			until += cutEvery
		}
	}
}

// cutEvery spreads the ends of relays that may not stay: closing one takes about 20 µs.
const cutEvery = int64(100 * time.Microsecond)

// Serve makes the owner of an accepted connection that is about to open.
func (w *Worker) Serve(c *conn.Conn, config *Config, s State) conn.Handler {
	r := w.relay(c, config, s)
	r.begun()
	return (*downstream)(r)
}

func (w *Worker) relay(c *conn.Conn, config *Config, s State) *Relay {
	r := &Relay{w: w, config: config, state: s, down: c, Start: w.l.Now(), attempts: config.MaxConnectAttempts}
	r.idle.Fire, r.report.Fire, r.limit.Fire = r.onIdle, r.onReport, r.onLimit
	w.active++
	if r.next = w.relays; r.next != nil {
		r.next.prev = r
	}
	w.relays = r
	return r
}

func (w *Worker) picker(id cluster.ID) *lb.Picker {
	for int(id) >= len(w.pickers) {
		w.pickers = append(w.pickers, lb.Picker{})
	}
	return &w.pickers[id]
}

// choose picks a cluster by weight.
func (c *Config) choose(random uint64) Weighted {
	switch len(c.Clusters) {
	case 0:
		return Weighted{Cluster: cluster.NoCluster}
	case 1:
		return c.Clusters[0]
	}
	total := uint64(0)
	for _, x := range c.Clusters {
		total += uint64(x.Weight)
	}
	if total == 0 {
		return c.Clusters[random%uint64(len(c.Clusters))]
	}
	at := random % total
	for _, x := range c.Clusters {
		if at < uint64(x.Weight) {
			return x
		}
		at -= uint64(x.Weight)
	}
	return Weighted{Cluster: cluster.NoCluster} // not reached: at < total
}

// endpoint chooses where a connection of cluster c goes, nil if nowhere. trial is described at lb.Picker.Choose.
func (w *Worker) endpoint(cfg *Config, c *cluster.Cluster, info *conn.Info, tried []*cluster.Endpoint) (e *cluster.Endpoint, trial bool) {
	if c.Kind == cluster.Dynamic {
		known, _ := w.named(c, info)
		addr := c.Pick(known.Addresses(), tried, w.l.Rand())
		if !addr.IsValid() || slices.ContainsFunc(tried, func(e *cluster.Endpoint) bool { return e.Addr == addr }) {
			return nil, false
		}
		return w.direct(c, addr), false
	}
	if c.Kind != cluster.OriginalDst {
		number := w.l.Rand()
		// The client's address is all that a connection has of what may be hashed.
		if cfg.HashSource || slices.ContainsFunc(c.Hash, func(k cluster.HashKey) bool { return k.Source }) {
			b := info.Remote.Addr().Unmap().As16()
			number = cluster.Also(0, cluster.Hash(b[:]))
		}
		e, trial = w.picker(c.ID).Choose(c, number, tried, 2*len(c.Endpoints))
		if now := w.l.Now(); e != nil && e.Silent.Load() > now {
			if f := c.Answering(number, now, tried); f != nil {
				if trial {
					e.Outlier.Tried()
				}
				return f, false
			}
		}
		return e, trial
	}
	addr := info.Asked()
	if c.LocalAddress.IsValid() {
		addr = netip.AddrPortFrom(c.LocalAddress, addr.Port())
	}
	if addr = c.Ported(addr); !addr.IsValid() || len(tried) > 0 {
		return nil, false
	}
	return w.direct(c, addr), false
}

// direct is an endpoint that no list has.
func (w *Worker) direct(c *cluster.Cluster, addr netip.AddrPort) *cluster.Endpoint {
	e := &cluster.Endpoint{ID: -1, Addr: addr, Limits: c.Limits}
	if n := len(c.Transports); n > 0 {
		e.Transport.Store(c.Transports[n-1].Transport) // the default is the last
	}
	return e
}

// named is what is known of the name that the client asks for; wait: it is being asked for.
func (w *Worker) named(c *cluster.Cluster, info *conn.Info) (e *hosts.Entry, wait bool) {
	if w.o.Hosts == nil {
		return nil, false
	}
	name, ok := hosts.AppendName(nil, []byte(info.ServerName), c.Pattern)
	if !ok {
		return nil, false
	}
	return w.o.Hosts.Find(name)
}

// target says how to reach an endpoint for a client.
func (w *Worker) target(cfg *Config, c *cluster.Cluster, e *cluster.Endpoint, info *conn.Info) conn.Target {
	t := conn.Target{Addr: loop.Addr{AddrPort: e.Addr, Path: e.Path}, Also: e.Also, Timeout: c.ConnectTimeout,
		Keepalive: conn.Keepalive{On: c.Keepalive.On, Idle: c.Keepalive.Time, Interval: c.Keepalive.Interval, Count: int(c.Keepalive.Probes)}}
	if tr := e.Transport.Load(); tr != nil {
		if t.TLS = tr.TCP; c.Tunnel != nil || cfg.Tunnel != nil {
			t.TLS = tr.HTTP // a forward proxy speaks HTTP/1.1
		}
		if tr.Proxy != proxyproto.None {
			t.Preface = proxyproto.Append(nil, tr.Proxy, info.Remote, info.Asked())
		}
	}
	if from := c.From(e, w.o.Source); from.IsValid() {
		t.Bind = netip.AddrPortFrom(from, 0)
	}
	if s := info.OriginalSource; s != nil {
		t.From(info.Source(), s.Mark)
	}
	if w.o.Socket != nil {
		t.Socket = w.o.Socket(c, e)
	}
	return t
}
