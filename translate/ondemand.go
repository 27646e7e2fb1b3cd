package translate

import (
	"maps"

	"github.com/weirmesh/weir/xds/ondemand"
	"github.com/weirmesh/weir/xds/resource"
)

// catalogue is the index of a scope: the names a proxy may ask for, by hash, in shards.
type catalogue struct {
	listeners, vhosts resource.Set // it is about
	hashes            [ondemand.Shards][]uint64
	shards            resource.Set
}

// follow brings the catalogue to what there is now.
func (x *catalogue) follow(listeners, vhosts resource.Set) resource.Set {
	changed := map[int]bool{}
	note := func(old, now resource.Set) {
		for name := range now.Diff(old, func(a, b *resource.Resource) bool { return (a == nil) == (b == nil) }) {
			if name == virtualOutbound {
				continue
			}
			h := ondemand.Hash(name)
			i := ondemand.ShardOf(h)
			if now.Has(name) {
				x.hashes[i] = ondemand.Insert(x.hashes[i], h)
			} else {
				x.hashes[i] = ondemand.Remove(x.hashes[i], h)
			}
			changed[i] = true
		}
	}
	note(x.listeners, listeners)
	note(x.vhosts, vhosts)
	x.listeners, x.vhosts = listeners, vhosts
	for i := range changed {
		name := ondemand.ShardName(i)
		if len(x.hashes[i]) == 0 {
			x.shards = x.shards.Delete(name)
			continue
		}
		var k mint // of bytes: it cannot fail
		x.shards = replace(x.shards, k.resource(name, ondemand.Shard(x.hashes[i])))
	}
	return x.shards
}

// unasked is what a proxy on demand gets without asking (View.Wild): what does not depend
// on services, what add adds, and what was learned as far as v has it.
func (s *scope) unasked(l *Learned, v *resource.View, add func(map[string]resource.Set)) map[string]resource.Set {
	out := maps.Clone(s.base.Sets)
	out[resource.VirtualHostType] = resource.Set{}
	add(out)
	if l != nil {
		out[resource.ListenerType] = some(out[resource.ListenerType], v.Sets[resource.ListenerType], l.Listeners)
		out[resource.VirtualHostType] = some(out[resource.VirtualHostType], v.Sets[resource.VirtualHostType], l.VirtualHosts)
	}
	return out
}

// some puts those of from with the given names into set.
func some(set, from resource.Set, names []string) resource.Set {
	for _, n := range names {
		if r := from.At(n); r != nil {
			set = set.Set(n, r)
		}
	}
	return set
}
