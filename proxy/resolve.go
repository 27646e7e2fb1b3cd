package proxy

import (
	"cmp"
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/state"
)

const (
	// resolveEvery is how often names of DNS clusters are asked for again. Istio's
	// dnsRefreshRate is 60 s, Envoy's default 5 s; the resolver does not tell us the TTL.
	resolveEvery   = 10 * time.Second
	resolveTimeout = 5 * time.Second
	resolveAtOnce  = 16
)

// resolve keeps the addresses of DNS clusters up to date. A name that cannot be
// resolved keeps the addresses it had.
func (s *publisher) resolve(ctx context.Context) error {
	find := s.p.lookupHost()
	type outcome struct {
		cluster string
		err     error
	}
	// Side by side: a name server that does not answer keeps its own names waiting only, and
	// a cluster that somebody waits for is looked up at once.
	done := make(chan outcome)
	asking := map[string]bool{}
	due := map[string]time.Time{}
	asked := map[string][]cluster.Name{}
	failing := map[string]bool{} // it was said
	t := time.NewTimer(resolveEvery)
	defer t.Stop()
	for {
		s.mu.Lock()
		names, fresh := s.builder.DNSNames()
		s.mu.Unlock()
		gone := func(c string) bool { return names[c] == nil }
		maps.DeleteFunc(due, func(c string, _ time.Time) bool { return fresh[c] || !slices.Equal(asked[c], names[c]) })
		maps.DeleteFunc(asked, func(c string, _ []cluster.Name) bool { return gone(c) })
		maps.DeleteFunc(due, func(c string, _ time.Time) bool { return gone(c) })
		maps.DeleteFunc(failing, func(c string, _ bool) bool { return gone(c) })
		now := time.Now()
		t.Stop() // without clusters of names there is nothing to wake up for
		// Who has waited longest is first.
		for _, c := range slices.SortedFunc(maps.Keys(names), func(a, b string) int { return cmp.Or(due[a].Compare(due[b]), cmp.Compare(a, b)) }) {
			if len(asking) == resolveAtOnce {
				break
			}
			if asking[c] {
				continue
			}
			if due[c].After(now) { // and so are all that follow
				t.Reset(due[c].Sub(now))
				break
			}
			asking[c], asked[c] = true, names[c]
			go func() { done <- outcome{c, s.resolveCluster(ctx, find, c, names[c])} }()
		}
		select {
		case <-ctx.Done():
			for range asking {
				<-done
			}
			return nil
		case <-s.names:
		case <-t.C:
		case o := <-done:
			delete(asking, o.cluster)
			due[o.cluster] = time.Now().Add(resolveEvery)
			if o.err != nil && !failing[o.cluster] {
				s.p.o.Log.Warn("the name of a cluster cannot be resolved", "cluster", o.cluster, "err", o.err)
			}
			failing[o.cluster] = o.err != nil
		}
	}
}

// resolveFirst asks for the names of the clusters there are, which are wanted as soon as somebody connects, and waits for the answers a while.
func (s *publisher) resolveFirst(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, state.ResolveIn)
	defer cancel()
	s.mu.Lock()
	names, _ := s.builder.DNSNames()
	s.mu.Unlock()
	find := s.p.lookupHost()
	var all sync.WaitGroup
	for c, list := range names {
		all.Go(func() {
			if err := s.resolveCluster(ctx, find, c, list); err != nil {
				s.p.o.Log.Warn("the name of a cluster cannot be resolved yet", "cluster", c, "err", err)
			}
		})
	}
	all.Wait()
}

func (s *publisher) resolveCluster(ctx context.Context, find func(context.Context, string) ([]netip.Addr, error), c string, names []cluster.Name) error {
	var addrs []cluster.Found
	for i, n := range names {
		if ip, err := netip.ParseAddr(n.Host); err == nil {
			addrs = append(addrs, cluster.Found{AddrPort: netip.AddrPortFrom(ip, n.Port), Name: i})
			continue
		}
		short, cancel := context.WithTimeout(ctx, resolveTimeout)
		ips, err := find(short, n.Host)
		cancel()
		if err != nil {
			s.resolved(func() (*state.State, []*cluster.Endpoint) { return s.builder.Unresolved(c) })
			return err
		}
		for _, ip := range n.Lookup.Of(ips) {
			addrs = append(addrs, cluster.Found{AddrPort: netip.AddrPortFrom(ip, n.Port), Name: i})
		}
	}
	slices.SortFunc(addrs, func(a, b cluster.Found) int { return cmp.Or(a.Compare(b.AddrPort), cmp.Compare(a.Name, b.Name)) })
	s.resolved(func() (*state.State, []*cluster.Endpoint) { return s.builder.Resolved(c, addrs) })
	return nil
}

func (s *publisher) resolved(change func() (*state.State, []*cluster.Endpoint)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.builder.State()
	if next, gone := change(); next != before {
		s.publish(next, gone)
		s.follow()
	}
}

// lookupHost is how names are resolved.
func (p *Proxy) lookupHost() func(context.Context, string) ([]netip.Addr, error) {
	if p.o.LookupHost != nil {
		return p.o.LookupHost
	}
	return p.o.DNS.lookupHost()
}

// lookupHost asks the first resolver of d, or those of this machine.
func (d *DNS) lookupHost() func(context.Context, string) ([]netip.Addr, error) {
	r := &net.Resolver{PreferGo: true}
	if d != nil && len(d.Resolvers) > 0 {
		dial := d.Dial
		if dial == nil {
			dial = new(net.Dialer).DialContext
		}
		r.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dial(ctx, network, d.Resolvers[0])
		}
	}
	return func(ctx context.Context, host string) ([]netip.Addr, error) { return r.LookupNetIP(ctx, "ip", host) }
}
