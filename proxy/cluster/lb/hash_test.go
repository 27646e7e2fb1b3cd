package lb

import (
	"fmt"
	"math"
	"net/netip"
	"testing"

	"github.com/weirmesh/weir/proxy/cluster"
)

func makeHashed(policy cluster.Policy, weights ...uint32) *cluster.Cluster {
	c := makeCluster(policy)
	c.TableSize = map[cluster.Policy]uint32{cluster.RingHash: 1024, cluster.Maglev: 65537}[policy]
	for i := range weights {
		c.Endpoints = append(c.Endpoints, &cluster.Endpoint{ID: int32(i), Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 80)})
	}
	c.Weights = weights
	c.Seal()
	return c
}

func without(c *cluster.Cluster, gone int) *cluster.Cluster {
	next := &cluster.Cluster{Policy: c.Policy, TableSize: c.TableSize}
	for i, e := range c.Endpoints {
		if i != gone {
			next.Endpoints, next.Weights = append(next.Endpoints, e), append(next.Weights, c.Weights[i])
		}
	}
	next.Seal()
	return next
}

const keys = 20_000

func key(i int) uint64 { return cluster.Hash(fmt.Sprintf("user-%d", i)) }

// A key always finds the same endpoint, and endpoints get keys as their weights say.
func TestHashShares(t *testing.T) {
	for _, policy := range []cluster.Policy{cluster.RingHash, cluster.Maglev} {
		for _, weights := range [][]uint32{{1, 1, 1, 1}, {1, 3}, {100, 50, 50}} {
			c, again := makeHashed(policy, weights...), makeHashed(policy, weights...)
			got, sum := make([]float64, len(weights)), 0.0
			for _, w := range weights {
				sum += float64(w)
			}
			for i := range keys {
				e := (&Picker{}).Pick(c, key(i), nil, 0)
				if f := (&Picker{}).Pick(again, key(i), nil, 0); f.Addr != e.Addr {
					t.Fatalf("policy %v: key %d goes to %v in one proxy and to %v in another", policy, i, e.Addr, f.Addr)
				}
				got[e.ID]++
			}
			for i, w := range weights {
				within := 0.06
				if policy == cluster.RingHash {
					within = 0.4 // 64 points and more: shares differ by 1/8 in the root mean square
				}
				if share, want := got[i]/keys, float64(w)/sum; math.Abs(share-want) > within*want {
					t.Errorf("policy %v %v: endpoint %d has %.3f of the keys, want %.3f", policy, weights, i, share, want)
				}
			}
		}
	}
}

// When an endpoint goes, its keys go elsewhere and, on a ring, no others; a Maglev table moves about as many again.
func TestMinimalDisruption(t *testing.T) {
	for policy, besides := range map[cluster.Policy]float64{cluster.RingHash: 0, cluster.Maglev: 1.5} {
		for _, n := range []int{2, 3, 4, 5, 8, 9} {
			weights := make([]uint32, n)
			for i := range weights {
				weights[i] = 1
			}
			all := makeHashed(policy, weights...)
			less := without(all, n/2)
			moved, elsewhere := 0, map[int32]int{}
			for i := range keys {
				was, is := (&Picker{}).Pick(all, key(i), nil, 0), (&Picker{}).Pick(less, key(i), nil, 0)
				switch {
				case was.ID == int32(n/2):
					elsewhere[is.ID]++
				case is != was:
					moved++
				}
			}
			if share := float64(moved) / keys; share > besides/float64(n) {
				t.Errorf("policy %v: of %d endpoints one went, and %.3f of all keys moved that need not", policy, n, share)
			}
			if len(elsewhere) != n-1 {
				t.Errorf("policy %v: the keys of one of %d endpoints went to %d others", policy, n, len(elsewhere))
			}
		}
	}
}

// A retry goes to another endpoint, the same one for the same key.
func TestHashedRetry(t *testing.T) {
	for _, policy := range []cluster.Policy{cluster.RingHash, cluster.Maglev} {
		c := makeHashed(policy, 1, 1, 1)
		for i := range 500 {
			first := (&Picker{}).Pick(c, key(i), nil, 0)
			second := (&Picker{}).Pick(c, key(i), []*cluster.Endpoint{first}, 5)
			if second == first || second != (&Picker{}).Pick(c, key(i), []*cluster.Endpoint{first}, 5) {
				t.Fatalf("policy %v: key %d went to %v, then %v", policy, i, first.Addr, second.Addr)
			}
		}
		x := uint64(1)
		if n := testing.AllocsPerRun(1000, func() { x = mix(x); (&Picker{}).Pick(c, x, nil, 0) }); n != 0 {
			t.Errorf("policy %v: %v allocations a choice", policy, n)
		}
	}
}
