package proxy

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/weirmesh/weir/proxy/demand"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/state"
	"github.com/weirmesh/weir/xds/dump"
	"github.com/weirmesh/weir/xds/ondemand"
	"github.com/weirmesh/weir/xds/resource"
)

const (
	// idleAfter is how long what was asked for by name may go unused, looked at every
	// minute: longer than the pauses of a program that calls somebody now and then.
	idleAfter = 10 * time.Minute
	lookEvery = time.Minute
)

// place is where this node is in the mesh, for what names mean on it.
func (p *Proxy) place() *ondemand.Place {
	_, suffix, _ := strings.Cut(p.o.Node.ID[strings.LastIndexByte(p.o.Node.ID, '~')+1:], ".svc.")
	return &ondemand.Place{Namespace: p.o.Node.Namespace, Suffix: suffix}
}

// opened is client.Options.Opened: whether configuration comes on demand is decided anew on
// every stream.
func (s *publisher) opened(identifier string) {
	if s.p.demands == nil {
		return
	}
	on := slices.Contains(strings.Fields(identifier), ondemand.Token)
	s.mu.Lock()
	defer s.mu.Unlock()
	next, changed := s.builder.OnDemand(on)
	if on && !s.vhds { // before a table refers to them: they may be learned ones
		s.vhds = true
		s.p.xds.Subscribe(resource.VirtualHostType)
	}
	if !changed {
		return
	}
	if on {
		s.p.o.Log.Info("configuration comes on demand")
		s.keepServed()
	} else {
		s.p.o.Log.Warn("this control plane does not know configuration on demand: what is held now is all there is")
		s.giveUp(s.p.demands.Clear())
		// What was held of the index is forgotten: it is asked for from the beginning.
		s.p.xds.Unsubscribe(resource.IndexType)
		s.p.xds.Subscribe(resource.IndexType)
		if s.p.keeper != nil {
			s.p.keeper.Forget(resource.IndexType)
		}
	}
	s.publish(next, nil)
	s.follow()
}

// demand asks for what is wanted, and gives up what is not used, until ctx ends.
func (s *publisher) demand(ctx context.Context) error {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.p.demands.Asked():
			s.ask()
		case <-t.C:
			s.age()
		}
	}
}

// ask subscribes to what is wanted.
func (s *publisher) ask() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.builder.State().View() == nil {
		s.p.demands.Clear() // nobody waits any more
		return
	}
	add, drop := s.p.demands.Take()
	s.giveUp(drop)
	for typeURL, names := range byType(add) {
		s.p.xds.Subscribe(typeURL, names...)
	}
	s.keepDemands()
}

// age gives up what was not used for long.
func (s *publisher) age() {
	s.p.each(func(w *worker) { w.http.Touch() })
	idle := s.p.o.OnDemandIdle
	if idle == 0 {
		idle = idleAfter
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	drop := s.p.demands.Age(int(idle/lookEvery), func(k demand.Key) bool {
		return k.TypeURL == resource.ListenerType && s.p.group.Connections(k.Name) > 0
	})
	if len(drop) > 0 {
		s.giveUp(drop)
		s.keepDemands()
	}
}

// giveUp unsubscribes. What it is about goes when the control plane says so.
func (s *publisher) giveUp(keys []demand.Key) {
	before := s.builder.State()
	for typeURL, names := range byType(keys) {
		s.p.xds.Unsubscribe(typeURL, names...)
		s.builder.Forget(typeURL, state.Server{}, names)
	}
	if next := s.builder.State(); next.View() != before.View() {
		s.publish(next, nil)
	}
}

// keepServed asks for the listeners that have connections: those came by a wildcard that meant
// everything, and would go with their connections.
func (s *publisher) keepServed() {
	var names []string
	for l := range s.builder.State().Listeners() {
		if l.Config != nil && len(l.Config.Binds) == 0 && s.p.group.Connections(l.Name) > 0 {
			names = append(names, l.Name)
		}
	}
	s.demandAgain(map[string][]string{resource.ListenerType: names})
}

// demandAgain asks for what a former process had asked for.
func (s *publisher) demandAgain(names map[string][]string) {
	var keys []demand.Key
	for typeURL, list := range names {
		for _, n := range list {
			keys = append(keys, demand.Key{TypeURL: typeURL, Name: n})
		}
		if len(list) > 0 { // none would mean all
			s.p.xds.Subscribe(typeURL, list...)
		}
	}
	s.p.demands.Restore(keys)
}

// restored ends the restoration of a kept state.
func (s *publisher) restored() {
	if s.p.demands == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.builder.Restored()
	s.publish(s.builder.State(), nil)
	s.follow()
	if s.builder.State().View() != nil && s.live && s.listenErr == nil && len(s.builder.Missing()) == 0 {
		s.p.ready.Store(true) // the former process was, and what it has asked for in vain changes nothing of that
	}
}

func (s *publisher) keepDemands() {
	if s.p.keeper != nil {
		s.p.keeper.Demanded(byType(s.p.demands.Names()))
	}
}

func byType(keys []demand.Key) map[string][]string {
	m := map[string][]string{}
	for _, k := range keys {
		m[k.TypeURL] = append(m[k.TypeURL], k.Name)
	}
	return m
}

// waits are those of all workers.
func (p *Proxy) waits() *demand.Waits {
	total := &demand.Waits{}
	p.each(func(w *worker) { total.Add(w.demand.Waits()) })
	return total
}

// OnDemand is admin.Proxy.
func (p *Proxy) OnDemand() *dump.OnDemand {
	x := &dump.OnDemand{Resources: []dump.Demanded{}}
	if p.demands == nil {
		x.Why = "this proxy is to hold everything: a gateway, env capture, a static configuration, or --on-demand=false"
		return x
	}
	if s, _ := p.xds.State(); !s.Connected {
		x.Away = "not connected to a control plane"
		if s.LastError != nil {
			x.Away = s.LastError.Error()
		}
	}
	x.Held, x.HeldBytes = p.demands.Held()
	w := p.waits()
	x.Demands, x.Waits, x.Refused, x.Expired, x.LongestWait = p.demands.Total(), w.Count, w.Refused, w.Expired, w.Longest.String()
	p.state.onDemand(x)
	return x
}

// onDemand says what is held, and what is waited for.
func (s *publisher) onDemand(x *dump.OnDemand) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.builder.State().View()
	if x.Active = v != nil; !x.Active {
		x.Why = "the control plane does not offer it, or has not been reached yet"
		return
	}
	if v.Index != nil {
		n := v.Index.Len()
		x.Index = &n
	}
	known := map[demand.Key]bool{}
	for _, a := range s.p.demands.All() {
		known[a.Key] = true
		idle := a.Idle * int(lookEvery/time.Minute)
		d := dump.Demanded{Type: resource.Short(a.TypeURL), Name: a.Name, State: dump.Served, Since: &a.Since, Idle: &idle}
		come, served, missing := s.builder.Awaits(a.TypeURL, a.Name)
		if a.TypeURL == resource.ListenerType {
			served = s.active[a.Name] != nil
		}
		d.Missing = missing
		switch {
		case v.Absent[a.Name] && !come:
			d.State = dump.Absent
		case !served:
			d.State = dump.Waiting
		}
		x.Resources = append(x.Resources, d)
	}
	learned := func(typeURL, name string) {
		if k := (demand.Key{TypeURL: typeURL, Name: name}); !known[k] {
			x.Resources = append(x.Resources, dump.Demanded{Type: resource.Short(typeURL), Name: name, State: dump.Learned})
		}
	}
	for l := range s.builder.State().Listeners() {
		if l.Config != nil && l.Config.Direction == listener.Outbound && len(l.Config.Binds) == 0 {
			learned(resource.ListenerType, l.Name)
		}
	}
	for n := range s.builder.Hosts() {
		learned(resource.VirtualHostType, n)
	}
	slices.SortFunc(x.Resources, func(a, b dump.Demanded) int { return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name)) })
}

// writeOnDemand writes its metrics.
func (p *Proxy) writeOnDemand(out io.Writer) error {
	if p.demands == nil {
		return nil
	}
	index := 0
	if v := p.state.current().View(); v != nil && v.Index != nil {
		index = v.Index.Len()
	}
	held, body := p.demands.Held()
	w := p.waits()
	const prefix = "weir_proxy_ondemand_"
	var b strings.Builder
	one := func(name, kind, help string, value any) {
		fmt.Fprintf(&b, "# HELP %[1]s%[2]s %[4]s\n# TYPE %[1]s%[2]s %[3]s\n%[1]s%[2]s %[5]v\n", prefix, name, kind, help, value)
	}
	one("index_names", "gauge", "Listeners and virtual hosts that may be asked for.", index)
	one("names", "gauge", "Listeners and virtual hosts that are asked for by name.", len(p.demands.Names()))
	one("demands_total", "counter", "Listeners and virtual hosts that were asked for because they were not there.", p.demands.Total())
	one("held", "gauge", "Requests and connections that wait for configuration.", held)
	one("held_bytes", "gauge", "Bytes of request bodies kept meanwhile.", body)
	one("refused_total", "counter", "Requests and connections that were refused because too much waited already.", w.Refused)
	one("expired_total", "counter", "Requests and connections whose configuration did not come in time.", w.Expired)
	one("wait_longest_seconds", "gauge", "The longest wait.", w.Longest.Seconds())
	fmt.Fprintf(&b, "# HELP %[1]swait_seconds How long requests and connections waited.\n# TYPE %[1]swait_seconds histogram\n", prefix)
	for i, bound := range demand.Bounds {
		fmt.Fprintf(&b, "%swait_seconds_bucket{le=\"%v\"} %d\n", prefix, bound.Seconds(), w.Within[i])
	}
	fmt.Fprintf(&b, "%[1]swait_seconds_bucket{le=\"+Inf\"} %[2]d\n%[1]swait_seconds_sum %[3]v\n%[1]swait_seconds_count %[2]d\n", prefix, w.Count, w.Sum.Seconds())
	_, err := io.WriteString(out, b.String())
	return err
}
