package listener

import (
	"hash/maphash"
	"net/netip"
	"sync"
)

// Peers is what is known about the addresses that connections come from: whether one
// begins with the mesh's TLS, so that a port that takes both can wait for its
// ClientHello instead of letting the application speak first. What an address did last
// on a port counts; failing that, whether a workload of the mesh ever identified itself
// from there; failing that, whether the control plane lists it as the address of a
// workload with a proxy.
//
// It is shared by the workers of a process and locked: connections to permissive ports
// of applications that may speak first ask once, when they come.
type Peers struct {
	seed maphash.Seed

	mu   sync.Mutex
	told map[uint64]int32 // by the control plane: how many endpoints have the address
	// What addresses did, in two generations: a full young one replaces the old one, and
	// what is asked for moves to the young one. That keeps at least the maxSeen/2 used
	// last, in about 24 bytes each.
	young, old map[peer]bool
}

// peer is an address by its hash, and a local port of ours; 0: any. A hash of 64 bits
// under a secret seed is as good as the address, and a third of its size.
type peer struct {
	addr uint64
	port uint16
}

// maxSeen bounds what strangers can make us remember.
const maxSeen = 16 << 10

// NewPeers makes an empty one.
func NewPeers() *Peers {
	return &Peers{seed: maphash.MakeSeed(), told: map[uint64]int32{}, young: map[peer]bool{}}
}

func (p *Peers) hash(a netip.Addr) uint64 { return maphash.Comparable(p.seed, a.Unmap()) }

// Add notes that the control plane lists an endpoint with a proxy at a; Remove takes
// one back. Any goroutine.
func (p *Peers) Add(a netip.Addr) {
	p.mu.Lock()
	p.told[p.hash(a)]++
	p.mu.Unlock()
}

// Remove is described at Add.
func (p *Peers) Remove(a netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.hash(a)
	if p.told[k]--; p.told[k] <= 0 {
		delete(p.told, k)
	}
}

// expect reports whether a connection from a to our port will begin with TLS.
func (p *Peers) expect(a netip.Addr, port uint16) bool {
	k := p.hash(a)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, at := range [...]peer{{k, port}, {k, 0}} {
		if tls, ok := p.find(at); ok {
			return tls
		}
	}
	return p.told[k] > 0
}

// note keeps what a connection from a to our port began with.
func (p *Peers) note(a netip.Addr, port uint16, tls bool) {
	k := p.hash(a)
	p.mu.Lock()
	p.put(peer{k, port}, tls)
	p.mu.Unlock()
}

// vouch keeps that a workload of the mesh identified itself from a.
func (p *Peers) vouch(a netip.Addr) {
	k := p.hash(a)
	p.mu.Lock()
	defer p.mu.Unlock()
	if known, _ := p.find(peer{k, 0}); !known {
		p.put(peer{k, 0}, true)
	}
}

func (p *Peers) find(at peer) (tls, ok bool) {
	if tls, ok = p.young[at]; ok {
		return tls, true
	}
	if tls, ok = p.old[at]; ok {
		p.put(at, tls)
	}
	return tls, ok
}

func (p *Peers) put(at peer, tls bool) {
	if _, ok := p.young[at]; !ok && len(p.young) >= maxSeen/2 {
		p.old, p.young = p.young, map[peer]bool{}
	}
	p.young[at] = tls
}
