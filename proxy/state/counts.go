package state

import (
	"maps"
	"slices"

	"github.com/weirmesh/weir/proxy/filter/extauthz"
	"github.com/weirmesh/weir/proxy/ratelimit"
)

// counts are the statistics of filters that ask others, or limit, by their prefix in Envoy's names. They are kept for good: a filter that comes back goes
// on counting, and there are no more than listeners have stat prefixes.
type counts struct {
	authz  map[string]*extauthz.Counts
	limits map[string]*ratelimit.Counts
}

// counted is what a filter of that prefix counts into.
func counted[C any](m map[string]*C, prefix string) *C {
	c := m[prefix]
	if c == nil {
		c = new(C)
		m[prefix] = c
	}
	return c
}

// FilterStats yields the statistics of these filters by Envoy's names, in order; authorization has a ledger. The counts of limits that routes have of their own
// are not among them.
func (b *Builder) FilterStats(yield func(name string, value uint64)) {
	for _, p := range slices.Sorted(maps.Keys(b.counts.authz)) {
		c := b.counts.authz[p]
		yield(p+"ok", c.OK.Load())
		yield(p+"denied", c.Denied.Load())
		yield(p+"error", c.Error.Load())
		yield(p+"failure_mode_allowed", c.FailureModeAllowed.Load())
		yield(p+"disabled", c.Disabled.Load())
	}
	for _, p := range slices.Sorted(maps.Keys(b.counts.limits)) {
		c := b.counts.limits[p]
		yield(p+"enabled", c.Enabled.Load())
		yield(p+"enforced", c.Enforced.Load())
		yield(p+"ok", c.OK.Load())
		yield(p+"rate_limited", c.RateLimited.Load())
	}
}
