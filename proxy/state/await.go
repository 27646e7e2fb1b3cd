package state

import (
	"maps"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/weirmesh/weir/xds/resource"
)

const (
	// fetchIn is initial_fetch_timeout's default.
	fetchIn = 15 * time.Second
	// ResolveIn is how long a name server may take before nobody waits for its names: one that does not answer
	// at all must not keep everything else waiting.
	ResolveIn = time.Second
)

// patience is how long what is named by a source is worth waiting for at the start (initial_fetch_timeout); 0: as long as it takes.
func patience(c *corev3.ConfigSource) time.Duration {
	if t := c.GetInitialFetchTimeout(); t != nil {
		return max(0, t.AsDuration())
	}
	return fetchIn
}

// longer is the longer patience of two; negative is none.
func longer(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

// Lack is something that was asked for and has not come.
type Lack struct {
	What string
	// Patience is how long it is worth waiting for; 0: as long as it takes.
	Patience time.Duration
}

// Missing lists what was asked for by name and has not come: while it is not empty a proxy is not ready that never was. Secrets
// do not count: a host whose certificate nobody has made must not keep the other hosts of a gateway from being served.
func (b *Builder) Missing() []Lack {
	out := b.unassigned()
	for l := range b.cur.Listeners() {
		for _, n := range l.Routes {
			if b.cur.tables[n] == nil && !b.live.absent[resource.RouteType][n] {
				out = append(out, Lack{"routes " + n, l.patience})
			}
		}
	}
	return once(out)
}

// unassigned are the load assignments that have not come.
func (b *Builder) unassigned() (out []Lack) {
	for _, name := range slices.Sorted(maps.Keys(b.specs)) {
		s := b.specs[name]
		if _, ok := b.endpoints[s.edsName]; s.edsName != "" && !ok && !b.live.absent[resource.EndpointType][s.edsName] {
			out = append(out, Lack{"endpoints " + s.edsName, s.patience})
		}
	}
	return once(out)
}

// once leaves out what is in the list before.
func once(list []Lack) []Lack {
	told := map[string]bool{}
	return slices.DeleteFunc(list, func(l Lack) bool {
		again := told[l.What]
		told[l.What] = true
		return again
	})
}

// Cold lists what has not come of that without which the first calls would fail: endpoints of clusters, and secrets.
func (b *Builder) Cold() []Lack {
	out := b.unassigned()
	for _, n := range b.Wanted(nil).Secrets {
		if b.secrets[n] == nil && !b.noSecret[n] {
			out = append(out, Lack{"secret " + n.Name, fetchIn})
		}
	}
	_, fresh := b.DNSNames()
	for n := range fresh {
		out = append(out, Lack{"addresses of " + n, ResolveIn})
	}
	return out
}
