package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/dns/names"
	"github.com/weirmesh/weir/proxy/filter/jwtauthn"
	"github.com/weirmesh/weir/proxy/filter/peermetadata"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/observe/edges"
	"github.com/weirmesh/weir/proxy/restore"
	"github.com/weirmesh/weir/proxy/state"
	"github.com/weirmesh/weir/xds/client"
	"github.com/weirmesh/weir/xds/ondemand"
	"github.com/weirmesh/weir/xds/resource"
)

// publisher owns the Builder and makes its States those of the workers.
type publisher struct {
	p *Proxy

	mu      sync.Mutex
	builder *state.Builder
	// active are the listeners in use: a listener whose routes have not come yet waits,
	// and the one before it serves on.
	active    map[string]*state.Listener
	table     *listener.Table
	subs      state.Wanted // subscribed to
	secrets   secretServers
	vhds      bool
	saved     *restore.Saved
	begun     bool // what there was at the start is in force
	live      bool // workers have a state with listeners applied
	listenErr error
	skipped   map[state.Skipped]bool // optional filters that are skipped, of which the log has told
	unheeded  map[setting]bool       // settings of filters without effect, likewise

	first first
	// early takes the workload's connections until there is configuration; nil: there is.
	early *early

	names chan struct{} // DNS clusters changed
	deaf  chan struct{} // something could not be listened on
	files chan struct{} // configuration has been read from files
}

func newPublisher(p *Proxy) (*publisher, error) {
	p.keys = jwtauthn.NewSets(p.newestKeys, p.fetchKeys)
	o := state.Options{Gate: p.gate, Keys: p.keys, Peers: p.callers, StdRecords: p.o.StdRecords, Demand: p.demands, Strange: p.o.Control != nil && p.o.Control.Strange, Plaintext: p.o.Control != nil && p.id == nil && !p.o.Control.Strange,
		Loop: func() *loop.Loop { return p.workers[0].loop }, Checks: func() *cluster.Checks { return p.workers[0].checks }, Aside: p.noteAside}
	if p.id != nil {
		o.Identity = p.id.Peers()
	}
	o.Cluster = p.nodeProto().GetCluster()
	var err error
	if o.Metadata, err = peermetadata.New(&p.o.Node, p.peers); err != nil {
		return nil, err
	}
	return &publisher{p: p, builder: state.NewBuilder(o), active: map[string]*state.Listener{}, names: make(chan struct{}, 1), deaf: make(chan struct{}, 1), files: make(chan struct{}, 1),
		secrets: secretServers{clients: map[state.Server]*client.Client{}, changed: make(chan struct{}, 1)}}, nil
}

// subscribe makes the xDS client, on top of saved state.
func (p *Proxy) subscribe(saved *restore.Saved) {
	p.state.saved = saved
	held := map[string]map[string]string{}
	if saved != nil {
		for _, u := range saved.Updates {
			m := map[string]string{}
			for _, r := range u.Set {
				m[r.Name] = r.Version
			}
			held[u.TypeURL] = m
		}
	}
	p.xds = client.New(client.Options{Node: p.nodeProto, Log: p.o.Log, Held: held, Apply: p.state.apply, Opened: p.state.opened, SotW: p.o.Control.SotW,
		Announced: map[string]string{resource.IndexType: ondemand.Token},
		Dial: func(ctx context.Context) (client.Conn, error) {
			// Without a certificate the control plane would only refuse us.
			for p.id != nil {
				held, changed := p.id.Watch()
				if held != nil {
					break
				}
				select {
				case <-changed:
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			conn, err := p.o.Control.Dial(ctx, p.id)
			if err == nil {
				p.uplink.Store(&conn)
			}
			return conn, err
		}})
	p.sender = edges.NewSender(edges.Options{Hello: &observev1.Hello{NodeId: p.o.Node.ID, Workload: p.o.Node.Workload}, Connect: p.observed, Collect: p.collect, Records: p.Records, Limits: p.Limits, Level: p.level.Ask, Certificate: p.certificate, Condition: p.condition, Files: p.held.watch, Aside: p.aside.take, Tap: p.tap, Tapped: p.taps.caught, Stirred: p.stirred, Log: p.o.Log})
	p.xds.Subscribe(resource.ClusterType)
	p.xds.Subscribe(resource.ListenerType)
	if p.demands != nil {
		p.xds.Subscribe(resource.IndexType)
		if saved != nil {
			p.state.demandAgain(saved.Demanded)
		}
	}
	if p.o.DNS != nil {
		p.xds.Subscribe(resource.NameTableType)
	}
}

const (
	// restart is how long a control plane that dies takes to be back where another one is started for it, with room. A pod
	// that becomes ready as it dies takes the place of one that ends at once, and nobody hears of the new one before.
	// Afterwards no pod becomes ready without a control plane, and who does not answer is not replaced.
	restart = 15 * time.Second
	// news is how long the first answers of one that is back take.
	news = time.Second
)

// outdated reports whether endpoints may have been replaced while the control plane is, or just was, away.
func (p *Proxy) outdated() bool {
	if p.xds == nil {
		return false
	}
	s, _ := p.xds.State()
	away := time.Since(s.Since)
	return !s.Connected && away < restart || s.Connected && away < news
}

// observed waits for a control plane that listens to what happens, and returns the
// connection on which it sends configuration.
func (p *Proxy) observed(ctx context.Context) (grpc.ClientConnInterface, error) {
	for {
		s, changed := p.xds.State()
		if conn := p.uplink.Load(); s.Connected && conn != nil && edges.Announced(s.ControlPlane) {
			return *conn, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// certificate is the one that peers are shown, for the control plane, and what is closed when there is another.
func (p *Proxy) certificate() (*observev1.Certificate, <-chan struct{}) {
	if p.id == nil {
		return nil, nil
	}
	held, changed := p.id.Watch()
	if held == nil {
		return nil, changed
	}
	return &observev1.Certificate{FromUnixNano: uint64(held.NotBefore().UnixNano()), UntilUnixNano: uint64(held.NotAfter().UnixNano()), Root: fmt.Sprintf("%x", held.Root().SerialNumber)}, changed
}

// condition is what the control plane cannot know of our identity: that the clock jumped, and what became of the last attempt to renew.
func (p *Proxy) condition() (*observev1.Condition, <-chan struct{}) {
	if p.id == nil {
		return &observev1.Condition{}, nil
	}
	s, again := p.id.Noted()
	c := &observev1.Condition{RenewalError: s.LastError}
	if s.LastError != "" {
		c.RenewalErrorUnixNano = uint64(s.LastErrorAt.UnixNano())
	}
	if by, err := time.ParseDuration(s.ClockJump); err == nil {
		c.ClockJumpNano, c.ClockJumpUnixNano = int64(by), uint64(s.ClockJumpAt.UnixNano())
	}
	return c, again
}

// totals are the counters of all workers.
func (p *Proxy) totals() *observe.Totals {
	total := observe.NewTotals()
	p.each(func(w *worker) { total.Add(w.numbers) })
	return total
}

// collect is totals for who waits for stirred before it looks again.
func (p *Proxy) collect() *observe.Totals {
	total := observe.NewTotals()
	p.each(func(w *worker) {
		total.Add(w.numbers)
		w.loop.Stirred(func() { signal(p.stirred) })
	})
	return total
}

// begin puts kept or static state in force.
func (s *publisher) begin(ctx context.Context, static *bootstrapv3.Bootstrap) error {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.begun = true
	}()
	if static != nil {
		updates, err := staticUpdates(static)
		if err != nil {
			return err
		}
		for _, u := range updates {
			if u.TypeURL == resource.ListenerType && len(u.Set) > 0 {
				s.resolveFirst(ctx)
			}
			if err := s.update(u); err != nil {
				return err
			}
		}
		if s.p.o.Control == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			return cmp.Or(nobody(s.builder.Wanted(nil)), s.listenErr) // a static proxy that cannot listen is of no use
		}
	}
	if s.saved != nil {
		for _, u := range s.saved.Updates {
			if err := s.update(u); err != nil {
				// It was accepted once, by another version of this program.
				s.p.o.Log.Warn("part of the kept state is not used", "type", resource.Short(u.TypeURL), "err", err)
			}
		}
		s.restored()
	}
	s.mu.Lock()
	s.first.holds = s.saved == nil || len(s.saved.Updates) == 0
	s.saved = nil
	s.mu.Unlock()
	s.hold(s.p.o.Early)
	return nil
}

// nobody says what a proxy without a control plane asks one for.
func nobody(w state.Wanted) error {
	for what, names := range map[string][]string{"load assignments (EDS)": w.Endpoints, "route configurations (RDS)": w.Routes, "extension configurations (ECDS)": w.Extensions} {
		if len(names) > 0 {
			return fmt.Errorf("static_resources name %s that nobody sends, such as %q: there is no dynamic_resources.ads_config", what, names[0])
		}
	}
	for _, n := range w.Secrets {
		if n.From == (state.Server{}) {
			return fmt.Errorf("static_resources name secrets that nobody sends, such as %q: there is no dynamic_resources.ads_config", n.Name)
		}
	}
	return nil
}

// staticUpdates turns the static resources of a bootstrap into updates.
func staticUpdates(b *bootstrapv3.Bootstrap) ([]state.Update, error) {
	clusters := state.Update{TypeURL: resource.ClusterType}
	for _, c := range b.GetStaticResources().GetClusters() {
		a, err := anypb.New(c)
		if err != nil {
			return nil, err
		}
		clusters.Set = append(clusters.Set, state.Resource{Name: c.GetName(), Body: a})
	}
	listeners := state.Update{TypeURL: resource.ListenerType}
	for _, l := range b.GetStaticResources().GetListeners() {
		a, err := anypb.New(l)
		if err != nil {
			return nil, err
		}
		listeners.Set = append(listeners.Set, state.Resource{Name: l.GetName(), Body: a})
	}
	return []state.Update{clusters, listeners}, nil
}

// apply is client.Options.Apply.
func (s *publisher) apply(_ context.Context, u client.Update) error {
	return s.applyFrom(state.Server{}, u)
}

// applyFrom applies what a server sent.
func (s *publisher) applyFrom(from state.Server, u client.Update) error {
	x := state.Update{TypeURL: u.TypeURL, Removed: u.Removed, Absent: u.Absent, From: from}
	for _, r := range u.Set {
		x.Set = append(x.Set, state.Resource(r))
	}
	err := s.update(x)
	if err != nil && !inForce(err) {
		return err
	}
	if s.keeps(from) {
		s.p.keeper.Changed(x)
	}
	// An ACK says that it is in force: every worker has come to it by now.
	s.p.each(func(*worker) {})
	return err
}

// keeps reports whether what a server sends is kept: after a restart only the control plane's is of use, but to be shown all is.
func (s *publisher) keeps(from state.Server) bool {
	return s.p.keeper != nil && (from == (state.Server{}) || s.p.o.StateDir == "")
}

// inForce reports whether what an error is about is in force nevertheless.
func inForce(err error) bool {
	_, ok := errors.AsType[*state.UnservedError](err)
	return ok
}

// update builds and publishes one update, or changes nothing.
func (s *publisher) update(u state.Update) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(u.Absent) > 0 && s.p.xds != nil { // of what was given up meanwhile it is not known: nobody would say that it has come
		u.Absent = s.p.xds.Asked(u.TypeURL, u.Absent)
	}
	next, gone, err := s.builder.Apply(u)
	if err != nil && !inForce(err) {
		return err
	}
	s.first.note(u, s.begun)
	s.publish(next, gone)
	s.follow()
	if u.TypeURL == resource.ClusterType {
		signal(s.names)
	}
	if len(s.builder.Files()) > 0 {
		signal(s.files)
	}
	s.noteFiles()
	return err
}

// publish makes next the state of all workers. It is called with the lock held.
func (s *publisher) publish(next *state.State, gone []*cluster.Endpoint) {
	for _, w := range s.p.workers {
		w.loop.Post(func() { w.use(next) })
	}
	s.listen(next)
	s.retire(gone)
	s.tellSkipped(next)
	s.tellUnheeded(next)
}

// mostSkipped bounds how many lines the log gets for a change: a server may have the same filter in every chain.
const mostSkipped = 100

// tellSkipped says in the log which optional filters are skipped, each once as long as it is.
func (s *publisher) tellSkipped(next *state.State) {
	now, told := map[state.Skipped]bool{}, 0
	for l := range next.Listeners() {
		for _, x := range l.Skipped {
			if now[x] = true; s.skipped[x] {
				continue
			}
			if told++; told <= mostSkipped {
				s.p.o.Log.Warn("an optional filter is skipped", "listener", l.Name, "path", x.Path, "type", x.TypeURL, "reason", "this proxy has no such filter, and is_optional permits to go without")
			}
		}
	}
	if told > mostSkipped {
		s.p.o.Log.Warn("more optional filters are skipped; /state lists them", "more", told-mostSkipped)
	}
	s.skipped = now
}

// setting is what a filter can be told, wherever it stands: a server says the same in every chain.
type setting struct{ name, typeURL string }

// tellUnheeded says in the log which settings of filters have no effect, each once as long as it is somewhere, with the first place.
func (s *publisher) tellUnheeded(next *state.State) {
	now, told := map[setting]bool{}, 0
	for u := range next.Unheeded() {
		x := setting{u.Setting, u.TypeURL}
		known := now[x] || s.unheeded[x]
		if now[x] = true; known {
			continue
		}
		if told++; told <= mostSkipped {
			s.p.o.Log.Warn("a setting of a filter has no effect", "path", u.Path, "setting", u.Setting, "type", u.TypeURL, "reason", "this proxy does the filter's work always in the same way; unheededSettings of /state lists all places")
		}
	}
	if told > mostSkipped {
		s.p.o.Log.Warn("more settings of filters have no effect; /state lists them", "more", told-mostSkipped)
	}
	s.unheeded = now
}

// retire lets go of endpoints that left, and gives their numbers back when no worker
// uses them.
func (s *publisher) retire(gone []*cluster.Endpoint) {
	for _, e := range gone {
		e.Gone.Store(true)
		left := len(s.p.workers)
		var mu sync.Mutex
		unused := func() {
			mu.Lock()
			left--
			last := left == 0
			mu.Unlock()
			if last {
				// From a worker's loop: the lock may be held by somebody who waits for that
				// loop, so not here.
				go func() {
					s.mu.Lock()
					defer s.mu.Unlock()
					s.builder.Release(e)
				}()
			}
		}
		for _, w := range s.p.workers {
			if !w.loop.Post(func() { w.http.Pool().Retire(e, unused) }) {
				unused()
			}
		}
	}
}

// listen applies the listeners of next, the newest state, that can be served.
func (s *publisher) listen(next *state.State) {
	active := map[string]*state.Listener{}
	holds := s.holds(next)
	for l := range next.Listeners() {
		switch old := s.active[l.Name]; {
		case s.builder.Settled(l) && (!holds || old != nil):
			active[l.Name] = l
		case old != nil:
			active[l.Name] = old
		}
	}
	same := maps.Equal(active, s.active)
	if s.early != nil && s.ends(next, active) {
		s.early, same = nil, false
	}
	if s.live && same {
		return
	}
	configs := make([]*listener.Config, 0, len(active)+1)
	for _, name := range slices.Sorted(maps.Keys(active)) {
		if s.early == nil || name != outboundListener {
			configs = append(configs, active[name].Config)
		}
	}
	if s.early != nil {
		configs = append(configs, s.early.config)
	}
	table, err := listener.NewTable(configs)
	if err == nil {
		for _, w := range s.p.workers {
			w.loop.Post(func() { w.adopt(table) })
		}
		_, err = s.p.group.Apply(table)
		s.active, s.table, s.live = active, table, true
	}
	if s.listenErr = err; err != nil {
		s.p.o.Log.Error("listening", "err", err)
		signal(s.deaf)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// listenRetry is how soon an address is tried again that somebody else had.
const listenRetry = time.Second

// listenAgain tries again to listen on what another program may have let go.
func (s *publisher) listenAgain(ctx context.Context) error {
	for {
		select {
		case <-s.deaf:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(listenRetry):
		case <-ctx.Done():
			return nil
		}
		s.mu.Lock()
		if s.listenErr != nil && s.table != nil {
			if _, s.listenErr = s.p.group.Apply(s.table); s.listenErr != nil {
				signal(s.deaf)
			} else {
				s.p.o.Log.Info("listening everywhere")
			}
		}
		s.mu.Unlock()
	}
}

// follow subscribes to what the state asks for by name.
func (s *publisher) follow() {
	w := s.builder.Wanted(s.active)
	s.followSecrets(w.Secrets)
	if s.p.xds == nil {
		return
	}
	s.change(s.p.xds, resource.ClusterType, state.Server{}, s.subs.Clusters, w.Clusters)
	s.change(s.p.xds, resource.EndpointType, state.Server{}, s.subs.Endpoints, w.Endpoints)
	s.change(s.p.xds, resource.RouteType, state.Server{}, s.subs.Routes, w.Routes)
	s.change(s.p.xds, resource.ExtensionConfigType, state.Server{}, s.subs.Extensions, w.Extensions)
	s.subs = w
	if !s.vhds && s.builder.WantsVirtualHosts() {
		s.vhds = true
		s.p.xds.Subscribe(resource.VirtualHostType)
	}
}

// change tells a server from which names come, c, which are wanted no more, and which newly.
func (s *publisher) change(c *client.Client, typeURL string, from state.Server, old, wanted []string) {
	var add, drop []string
	for _, n := range wanted {
		if _, ok := slices.BinarySearch(old, n); !ok {
			add = append(add, n)
		}
	}
	for _, n := range old {
		if _, ok := slices.BinarySearch(wanted, n); !ok {
			drop = append(drop, n)
		}
	}
	if len(add) > 0 {
		c.Subscribe(typeURL, add...)
	}
	if len(drop) > 0 {
		c.Unsubscribe(typeURL, drop...)
		s.builder.Forget(typeURL, from, drop)
		if s.keeps(from) && typeURL != resource.ClusterType { // those stay until the server says otherwise
			s.p.keeper.Changed(state.Update{TypeURL: typeURL, Removed: drop})
		}
	}
}

// missing says what is not there yet, nil when the state is whole and in use. Once it was, it is whatever else is awaited:
// requests for that are answered one by one.
func (s *publisher) missing(once bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var m []string
	if !once {
		for _, l := range s.first.worth(s.builder.Missing()) {
			m = append(m, l.What)
		}
	}
	switch {
	case !s.begun: // listeners of the kept state come one after the other
		return errors.New("the kept state is not whole yet")
	case len(m) > 3:
		return fmt.Errorf("%s and %d more have not come yet", strings.Join(m[:3], ", "), len(m)-3)
	case len(m) > 0:
		return fmt.Errorf("%s have not come yet", strings.Join(m, ", "))
	case !once && s.first.holds && !s.first.since.IsZero():
		return errors.New("listeners wait for their clusters")
	case s.listenErr != nil:
		return s.listenErr
	case !s.live:
		return errors.New("no listeners yet")
	}
	for _, name := range s.p.o.Required {
		if s.active[name] == nil {
			return fmt.Errorf("listener %s is not live: it has not come, or was rejected (the log says why)", name)
		}
	}
	return nil
}

// current is the newest state.
func (s *publisher) current() *state.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.builder.State()
}

// lookup is dns.Options.Names.
func (s *publisher) lookup(host string) (names.Addrs, bool) {
	t := s.current().Names()
	if t == nil {
		return names.Addrs{}, false
	}
	return t.Find(host)
}
