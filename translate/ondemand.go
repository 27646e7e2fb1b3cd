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
// on services, what is its own, and what was learned as far as v has it. before is the same
// of the View that v takes the place of, nil if there is none with the same beginnings.
func (s *scope) unasked(key viewKey, v *resource.View, before *view) map[string]resource.Set {
	out := maps.Clone(s.base.Sets)
	for _, typeURL := range []string{resource.ClusterType, resource.ListenerType, resource.VirtualHostType} {
		if before != nil {
			out[typeURL] = before.Wild[typeURL]
		} else {
			out[typeURL] = joinTo(out[typeURL], key.own, typeURL)
		}
	}
	if l := key.known; l != nil {
		out[resource.ListenerType] = some(out[resource.ListenerType], v.Sets[resource.ListenerType], l.Listeners)
		out[resource.VirtualHostType] = some(out[resource.VirtualHostType], v.Sets[resource.VirtualHostType], l.VirtualHosts)
	}
	return out
}

// some makes set hold those of from with the given names.
func some(set, from resource.Set, names []string) resource.Set {
	for _, n := range names {
		switch r := from.At(n); {
		case r == nil:
			set = set.Delete(n)
		case set.At(n) != r:
			set = set.Set(n, r)
		}
	}
	return set
}
