package proxy

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/internal/editdistance"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/route"
	"github.com/weirmesh/weir/proxy/state"
	"github.com/weirmesh/weir/xds/dump"
)

// strangers tells the log of hosts that nobody knows, on the loop of one worker: the first time, and of one every second at most. All
// of the last ones are in Unknown.
type strangers struct {
	loop *loop.Loop
	p    *Proxy
	told int64 // when, on the loop's clock; 0: never
}

// tell is http.Report.Unknown.
func (s *strangers) tell(t *route.Table, host string) {
	now := s.loop.Now()
	if s.told != 0 && now-s.told < int64(tellEvery) {
		return
	}
	s.told = now
	s.loop.Go(func() { // it looks at every host of the table
		u := s.p.near(s.p.state.current(), t, host)
		a := []any{"host", host, "routes", t.Name, "nearest", u.Nearest}
		if len(u.Elsewhere) > 0 {
			a = append(a, "elsewhere", u.Elsewhere)
		}
		s.p.o.Log.Warn("no virtual host for requests", append(a, "remedy", causes.HostNotFound.Remedy())...)
	})
}

func (p *Proxy) near(s *state.State, t *route.Table, host string) dump.UnknownHost {
	u := dump.UnknownHost{Host: host, Table: t.Name, Nearest: t.Near(host)}
	for other := range s.Tables() {
		if other.Name != t.Name && other.Knows(host) {
			u.Elsewhere = append(u.Elsewhere, other.Name)
		}
	}
	return u
}

// ofListener is before the name of a listener where that of a route table would be.
const ofListener = "listener "

// nearestServers are the server names of a listener's chains that are most like one.
func nearestServers(c *listener.Config, name string) []string {
	return editdistance.Hosts(name, func(yield func(string) bool) {
		for _, ch := range c.Chains {
			for _, n := range ch.Match.ServerNames {
				if !yield(n) {
					return
				}
			}
		}
	})
}

// serves reports whether some chain of a listener is for a server name.
func serves(c *listener.Config, name string) bool {
	return slices.ContainsFunc(c.Chains, func(ch *listener.Chain) bool {
		return slices.ContainsFunc(ch.Match.ServerNames, func(n string) bool {
			suffix, wild := strings.CutPrefix(n, "*")
			return n == name || wild && strings.HasSuffix(name, suffix)
		})
	})
}

// Unknown are the hosts last asked for that nobody knows, those that were asked for most first.
func (p *Proxy) Unknown() []dump.UnknownHost {
	type key struct{ table, host string }
	type seen struct {
		requests uint64
		last     time.Time
	}
	all := map[key]seen{}
	p.each(func(w *worker) {
		for _, u := range w.numbers.UnknownHosts() {
			k := key{u.Table, u.Host}
			n := all[k]
			n.requests += u.Requests
			if u.Last.After(n.last) {
				n.last = u.Last
			}
			all[k] = n
		}
	})
	s := p.state.current()
	out := []dump.UnknownHost{}
	for k, n := range all {
		if name, ok := strings.CutPrefix(k.table, ofListener); ok {
			if l := s.Listener(name); l != nil && l.Config != nil && !serves(l.Config, k.host) {
				out = append(out, dump.UnknownHost{Host: k.host, Listener: name, Requests: n.requests, Last: n.last.UTC(), Nearest: nearestServers(l.Config, k.host)})
			}
			continue
		}
		t := s.Table(k.table)
		if t == nil || t.Knows(k.host) {
			continue // gone, or it is known by now
		}
		u := p.near(s, t, k.host)
		u.Requests, u.Last = n.requests, n.last.UTC()
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b dump.UnknownHost) int {
		return cmp.Or(cmp.Compare(b.Requests, a.Requests), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Listener, b.Listener), cmp.Compare(a.Host, b.Host))
	})
	return out
}
