package registry

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/weirmesh/weir/mesh"
)

// Allocation is what a service was given for good.
type Allocation struct {
	Index     uint32       `json:"index"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

// Ranges are the blocks from which virtual addresses are taken. Invalid ones get their
// defaults: Kubernetes' usual 10.96.0.0/16 (and an IPv6 sibling) for Services, Istio's
// 240.240.0.0/16 for hosts outside.
type Ranges struct {
	Cluster, Cluster6, External netip.Prefix
	// ByName makes addresses follow from the names of services, so that replicas which know
	// nothing of each other give the same (but where two names fall on one address: then it
	// is whose service was there first); otherwise they are given one after the other.
	ByName bool
}

func (r Ranges) withDefaults() Ranges {
	def := func(p *netip.Prefix, s string) {
		if !p.IsValid() {
			*p = netip.MustParsePrefix(s)
		}
	}
	def(&r.Cluster, "10.96.0.0/16")
	def(&r.Cluster6, "fd00:10:96::/112")
	def(&r.External, "240.240.0.0/16")
	return r
}

// firstIndex leaves 127.W.0.x to a workload's own addresses: in env capture the address
// of a service as workload W calls it is 127.W.<index high byte>.<index low byte>.
const (
	firstIndex = 1 << 8
	lastIndex  = 1<<16 - 1
)

// allocator remembers who has which address and index. Services that are gone keep
// theirs until the range is exhausted: they may come back, and clients remember.
type allocator struct {
	ranges Ranges
	given  map[mesh.Key]*Allocation
	addrs  map[netip.Addr]mesh.Key
	index  map[uint32]mesh.Key
	// cursors is where to look next, by range.
	cursors map[netip.Prefix]netip.Addr
	next    uint32
	// changes counts them, so that a writer knows when there is something to keep.
	changes uint64
}

func newAllocator(r Ranges, given map[mesh.Key]Allocation) *allocator {
	a := &allocator{ranges: r.withDefaults(), given: map[mesh.Key]*Allocation{}, addrs: map[netip.Addr]mesh.Key{}, index: map[uint32]mesh.Key{},
		cursors: map[netip.Prefix]netip.Addr{}, next: firstIndex}
	for _, k := range sorted(given) {
		g := given[k]
		n := &Allocation{}
		if _, taken := a.index[g.Index]; !taken && g.Index >= firstIndex && g.Index <= lastIndex {
			n.Index = g.Index
			a.index[g.Index] = k
		}
		for _, addr := range g.Addresses {
			if _, taken := a.addrs[addr]; !taken {
				n.Addresses = append(n.Addresses, addr)
				a.addrs[addr] = k
			}
		}
		a.given[k] = n
	}
	return a
}

// place gives k its index and addresses. used tells which keys are services now;
// displaced services must be placed again. ok is false if a range is exhausted, and
// takenBy names the service that has the address s asks for.
func (a *allocator) place(k mesh.Key, s *Service, asks, used func(mesh.Key) bool) (got Allocation, displaced []mesh.Key, takenBy mesh.Key, ok bool) {
	n := a.given[k]
	if n == nil {
		n = &Allocation{}
		a.given[k] = n
	}
	before := *n
	ok = true
	if n.Index == 0 {
		n.Index, ok = a.takeIndex(k, used)
	}
	allocate := s.Allocate
	var want []netip.Addr
	for _, addr := range s.Mesh.Addresses {
		switch owner, taken := a.addrs[addr]; {
		case taken && owner != k && used(owner) && asks(owner) && a.has(owner, addr):
			takenBy = owner
			allocate = FromCluster
			continue
		case taken && owner != k:
			a.drop(owner, addr)
			if used(owner) {
				displaced = append(displaced, owner)
			}
		}
		want = append(want, addr)
	}
	if allocate != Nowhere && len(want) == 0 {
		for _, r := range a.rangesFor(s, allocate) {
			addr, found := a.keep(n, r)
			if !found {
				addr, found = a.takeAddr(k, r, used)
			}
			ok = ok && found
			if found {
				want = append(want, addr)
			}
		}
	}
	if n.Index != before.Index || !slices.Equal(n.Addresses, want) {
		a.changes++
	}
	for _, old := range n.Addresses {
		if !slices.Contains(want, old) {
			delete(a.addrs, old)
		}
	}
	n.Addresses = want
	for _, addr := range want {
		a.addrs[addr] = k
	}
	return Allocation{n.Index, slices.Clone(want)}, displaced, takenBy, ok
}

func (a *allocator) has(k mesh.Key, addr netip.Addr) bool {
	return a.given[k] != nil && slices.Contains(a.given[k].Addresses, addr)
}

func (a *allocator) rangesFor(s *Service, from Allocate) []netip.Prefix {
	switch {
	case from == FromExternal:
		return []netip.Prefix{a.ranges.External}
	case s.IPv6Only:
		return []netip.Prefix{a.ranges.Cluster6}
	case s.IPv6:
		return []netip.Prefix{a.ranges.Cluster, a.ranges.Cluster6}
	}
	return []netip.Prefix{a.ranges.Cluster}
}

func (a *allocator) keep(n *Allocation, r netip.Prefix) (netip.Addr, bool) {
	for _, addr := range n.Addresses {
		if r.Contains(addr) {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

func (a *allocator) takeAddr(k mesh.Key, r netip.Prefix, used func(mesh.Key) bool) (netip.Addr, bool) {
	first := r.Masked().Addr().Next() // the block's own address stays free
	start := a.cursors[r]
	switch {
	case a.ranges.ByName:
		start = byName(k, r, first)
	case !start.IsValid():
		start = first
	}
	type pass struct {
		from    netip.Addr
		reclaim bool
	}
	passes := []pass{{start, false}, {first, true}}
	if a.ranges.ByName {
		passes = slices.Insert(passes, 1, pass{first, false})
	}
	for _, p := range passes {
		addr, reclaim := p.from, p.reclaim
		for ; r.Contains(addr) && r.Contains(addr.Next()); addr = addr.Next() { // and so does the last
			owner, taken := a.addrs[addr]
			if taken && (!reclaim || used(owner)) {
				continue
			}
			if taken {
				a.drop(owner, addr)
			}
			a.cursors[r] = addr.Next()
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// byName is where the search for an address of k begins.
func byName(k mesh.Key, r netip.Prefix, first netip.Addr) netip.Addr {
	bits := min(r.Addr().BitLen()-r.Bits(), 31)
	if bits < 2 {
		return first
	}
	h := fnv.New64a()
	h.Write([]byte(k))
	b := first.AsSlice()
	low := b[len(b)-4:]
	binary.BigEndian.PutUint32(low, binary.BigEndian.Uint32(low)+uint32(h.Sum64()%(1<<bits-2)))
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

func (a *allocator) takeIndex(k mesh.Key, used func(mesh.Key) bool) (uint32, bool) {
	for ; a.next <= lastIndex; a.next++ {
		if _, taken := a.index[a.next]; !taken {
			a.index[a.next] = k
			return a.next, true
		}
	}
	for i := uint32(firstIndex); i <= lastIndex; i++ {
		if owner := a.index[i]; !used(owner) {
			if g := a.given[owner]; g != nil {
				g.Index = 0
			}
			a.index[i] = k
			return i, true
		}
	}
	return 0, false
}

func (a *allocator) drop(k mesh.Key, addr netip.Addr) {
	delete(a.addrs, addr)
	if g := a.given[k]; g != nil {
		g.Addresses = slices.DeleteFunc(g.Addresses, func(o netip.Addr) bool { return o == addr })
	}
}
