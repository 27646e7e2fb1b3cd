package proxy

import (
	"slices"
	"time"

	"github.com/weirmesh/weir/proxy/state"
	"github.com/weirmesh/weir/xds/resource"
)

const (
	// wholeIn is how long the first listeners may wait, whatever a control plane says of its own patience: then they serve as far as
	// what has come goes. It is Envoy's default, without which it waits for ever.
	wholeIn = 15 * time.Second
	// demandedIn is that of the workload's connections on demand, where so little is asked for that it has come, or never does.
	demandedIn = 5 * time.Second
)

// first is the time in which the first configuration of a control plane comes. Whoever finds an address open where nothing could be
// served yet takes the proxy for one that is up: so the first listeners open when their clusters have endpoints. Later ones, those of
// a kept state or a file, and on demand, where each waits for what it needs, open at once. The publisher's lock guards it.
type first struct {
	holds    bool
	clusters bool      // they have come: what is missing of them does not exist
	since    time.Time // the first listeners came; zero: none have
	next     time.Time // when to look again
}

// note notes what comes from a control plane.
func (f *first) note(u state.Update, begun bool) {
	if !begun {
		return
	}
	f.clusters = f.clusters || u.TypeURL == resource.ClusterType
	if u.TypeURL == resource.ListenerType && len(u.Set) > 0 && f.since.IsZero() {
		f.since = time.Now()
	}
}

func (f *first) waited() time.Duration {
	if f.since.IsZero() {
		return 0
	}
	return time.Since(f.since)
}

// worth leaves out what is not worth waiting for any more.
func (f *first) worth(lacks []state.Lack) []state.Lack {
	waited := f.waited()
	return slices.DeleteFunc(lacks, func(l state.Lack) bool { return l.Patience > 0 && l.Patience <= waited })
}

// givesUp reports whether a control plane that is not of a mesh has not answered all in time: what it names and does not send does not
// exist there. One of a mesh answers everything.
func (s *publisher) givesUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.p.o.Control.Strange && s.first.waited() >= wholeIn
}

// holds reports whether listeners that nothing serves yet stay closed. s.mu is held.
func (s *publisher) holds(next *state.State) bool {
	f := &s.first
	if !f.holds || f.since.IsZero() {
		return f.holds
	}
	var lacks []state.Lack
	if next.View() == nil {
		lacks = f.worth(s.builder.Cold())
	}
	if f.holds = (!f.clusters || len(lacks) > 0) && next.View() == nil && f.waited() < wholeIn; f.holds {
		s.again(lacks, wholeIn)
	}
	return f.holds
}

// again looks anew at the listeners when the first of what is missing is not worth waiting for any more, in that time at the latest.
func (s *publisher) again(lacks []state.Lack, in time.Duration) {
	for _, l := range lacks {
		if l.Patience > 0 {
			in = min(in, l.Patience)
		}
	}
	f, now := &s.first, time.Now()
	next := f.since.Add(in)
	if f.next.After(now) && !f.next.After(next) {
		return
	}
	f.next = next
	time.AfterFunc(next.Sub(now), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.listen(s.builder.State())
	})
}
