package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/demand"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/observe/records"
	"github.com/weirmesh/weir/proxy/state"
	"github.com/weirmesh/weir/proxy/tcp"
)

// worker is one loop with everything that lives on it.
type worker struct {
	loop    *loop.Loop
	accept  *listener.Acceptor
	http    *http.Worker
	tcp     *tcp.Worker
	demand  *demand.Worker
	numbers *observe.Worker
	totals  cluster.Totals
	report  *http.Report
	records *records.Recorder
	checks  *cluster.Checks // active health checks, which are the first worker's business; nil of the others
	state   *state.State
	table   *listener.Table // whose chains connections go by
	tabled  int64           // since when, on the loop's clock
	late    loop.Timer      // asks those to go who were let in after it
	grace   time.Duration   // of connections that would not be let in any more
	ended   chan struct{}
	log     *slog.Logger
}

func (p *Proxy) newWorker(i int) (*worker, error) {
	poller, err := p.o.Poller()
	if err != nil {
		return nil, fmt.Errorf("worker %d: %w", i, err)
	}
	w := &worker{loop: loop.New(poller, loop.Options{Log: p.o.Log, Census: p.o.Census}), numbers: observe.NewWorker(), records: records.New(p.o.Workers), state: p.state.builder.State(), grace: p.o.ListenerDrain, ended: make(chan struct{}), log: p.o.Log}
	w.late.Fire = func() { w.adopt(w.table) }
	demands := p.demands
	if demands == nil {
		demands = demand.New() // without a View it has nothing to say
	}
	w.demand = demands.NewWorker(w.loop, p.place())
	w.report = &http.Report{Self: p.self, Numbers: w.numbers, Records: w.records, Log: p.logs, Unknown: (&strangers{loop: w.loop, p: p}).tell}
	w.http = http.NewWorker(http.Options{Loop: w.loop, Demand: w.demand, Hosts: p.hosts, Group: p.pools, Socket: p.socket, Source: p.o.Source, Hostname: p.o.Node.Name, Outdated: p.outdated, Full: p.noRequest,
		Observer: w.report, Totals: &w.totals})
	if i == 0 {
		w.checks = cluster.NewChecks(w.loop, w.http)
	}
	w.tcp = tcp.NewWorker(tcp.Options{Loop: w.loop, HTTP: w.http, Demand: w.demand, Hosts: p.hosts, State: func() tcp.State { return w.state }, Socket: p.socket, Source: p.o.Source, Metadata: p.frame, Hostname: p.o.Node.Name, Peers: p.peers,
		Totals: &w.totals, Observer: &relays{self: p.self, loop: w.loop, numbers: w.numbers, records: w.records, log: p.logs, reported: map[*tcp.Relay]*tally{}}})
	w.accept = listener.NewAcceptor(w.loop, listener.Options{Log: p.o.Log, Serve: w.serve, Begin: w.begin, Demand: w.demand,
		Room: p.room, Full: p.noConnection, Relief: w.http.Pool().CloseIdle,
		Refused: (&refusals{loop: w.loop, access: p.logs, log: p.o.Log, numbers: w.numbers, records: w.records, self: p.self}).tell})
	return w, nil
}

// room reports whether the process has descriptors for another connection: an eighth of
// them, and 32 at least, are left for connections to endpoints, for pipes and for what
// goroutines need, so that those who are served already go on being served.
func (p *Proxy) room() bool {
	return p.descriptors == 0 || p.o.Census.Descriptors() < p.descriptors-max(32, p.descriptors/8)
}

// serve gives a connection to the filters of its chain.
func (w *worker) serve(c *conn.Conn, a listener.Arrival) conn.Handler {
	if !w.current(&a, c) {
		return nil
	}
	switch f := a.Chain.Filters.(type) {
	case *http.Config:
		return w.http.Serve(c, f)
	case *tcp.Config:
		return w.tcp.Serve(c, f, w.state)
	}
	return nil
}

// begin connects the application for a client that has said nothing yet.
func (w *worker) begin(c *conn.Conn, a listener.Arrival, spoke func()) listener.Tentative {
	if !w.current(&a, c) {
		return nil
	}
	return w.tcp.Begin(c, a.Chain.Filters.(*tcp.Config), w.state, spoke)
}

// current replaces the chain of a connection that took its time to say what it wants by the one it would come by now; false:
// there is none.
func (w *worker) current(a *listener.Arrival, c *conn.Conn) bool {
	if a.Table == w.table {
		return true
	}
	if now := w.loop.Now(); !w.table.Has(a.Config.Name) && now-w.tabled < int64(lateComers) {
		// It was let in by a listener that is gone: it is served as it would have been a moment ago, and asked to go like those
		// that came before.
		if !w.late.Armed() {
			w.loop.Arm(&w.late, now+int64(lateComers))
		}
		return true
	}
	a.Chain = w.table.Again(a.Chain, c.Info())
	return a.Chain != nil
}

// lateComers is how long who was in the accept queue of a listener that was removed has to say what it wants.
const lateComers = time.Second

// adopt has connections go by the chains of t, those there are and those to come.
func (w *worker) adopt(t *listener.Table) {
	w.table, w.tabled = t, w.loop.Now()
	w.http.Adopt(func(f *http.Config, info *conn.Info) *http.Config {
		if c := t.Again(f.Chain.(*listener.Chain), info); c != nil {
			return c.Filters.(*http.Config)
		}
		return nil
	}, w.grace)
	w.tcp.Adopt(func(f *tcp.Config, info *conn.Info) http.Refusal {
		c := t.Again(f.Chain.(*listener.Chain), info)
		if c == nil {
			return http.Refusal{Cause: causes.ChainRemoved}
		}
		if now, ok := c.Filters.(*tcp.Config); ok {
			return now.Again(f, info)
		}
		return http.Refusal{}
	}, w.grace)
}

// use makes s the state of what begins from now on; on the loop.
func (w *worker) use(s *state.State) {
	w.state = s
	w.http.SetState(s)
	w.demand.Changed(s.View())
}

func (w *worker) run(ctx context.Context) {
	defer close(w.ended)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := w.loop.Run(ctx); err != nil {
		w.log.Error("a worker ended", "err", err)
	}
}

// socket says in whose network namespace a connection begins, which is the laptop
// mesh's business and follows from where it goes; nil is where the proxy runs.
func (p *Proxy) socket(c *cluster.Cluster, e *cluster.Endpoint) conn.SocketSource {
	switch {
	case c.Inbound:
		return p.o.App
	case p.o.Host != nil && e.Path == "" && !p.inMesh(e.Addr.Addr()):
		return p.o.Host
	}
	return nil
}

func (p *Proxy) inMesh(a netip.Addr) bool {
	a = a.Unmap()
	for _, m := range p.o.Mesh {
		if m.Contains(a) {
			return true
		}
	}
	return false
}
