package lb

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/weirmesh/weir/proxy/cluster"
)

func makeCluster(policy cluster.Policy, weights ...uint32) *cluster.Cluster {
	c := &cluster.Cluster{Policy: policy}
	for i := range weights {
		c.Endpoints = append(c.Endpoints, &cluster.Endpoint{ID: int32(i)})
	}
	c.Weights = weights
	c.Seal()
	return c
}

// Each endpoint gets its share, exactly for round robin, about for the others.
func TestShares(t *testing.T) {
	for _, c := range []struct {
		policy  cluster.Policy
		weights []uint32
		within  float64
	}{
		{cluster.RoundRobin, []uint32{1, 1, 1, 1}, 0},
		{cluster.RoundRobin, []uint32{1, 2, 5}, 0},
		{cluster.Random, []uint32{1, 1, 1}, 0.02},
		{cluster.Random, []uint32{3, 1}, 0.02},
		{cluster.LeastRequest, []uint32{1, 1, 1}, 0.02},
		{cluster.LeastRequest, []uint32{1, 3}, 0.02},
	} {
		t.Run(fmt.Sprint(c.policy, c.weights), func(t *testing.T) {
			cl := makeCluster(c.policy, c.weights...)
			var sum uint32
			for _, w := range c.weights {
				sum += w
			}
			r := rand.New(rand.NewPCG(1, 2))
			got := make([]int, len(c.weights))
			n := int(sum) * 10000
			var p Picker
			for range n {
				got[p.Pick(cl, r.Uint64(), nil, 0).ID]++
			}
			for i, w := range c.weights {
				want := float64(w) / float64(sum)
				if share := float64(got[i]) / float64(n); math.Abs(share-want) > c.within {
					t.Errorf("endpoint %d got %.3f, want %.3f", i, share, want)
				}
			}
		})
	}
}

// The busier of two draws loses.
func TestLeastRequestPrefersTheIdle(t *testing.T) {
	c := makeCluster(cluster.LeastRequest, 1, 1)
	c.Endpoints[0].Active.Store(10)
	r := rand.New(rand.NewPCG(1, 2))
	var p Picker
	busy := 0
	for range 4000 {
		if p.Pick(c, r.Uint64(), nil, 0).ID == 0 {
			busy++
		}
	}
	if share := float64(busy) / 4000; share > 0.28 { // both draws hit the busy one: 1/4
		t.Errorf("busy endpoint chosen %.2f of the time, want about 0.25", share)
	}
}

// A retry goes elsewhere as long as there is an elsewhere, then to whoever failed longest ago.
func TestRetryAvoidsTried(t *testing.T) {
	for _, policy := range []cluster.Policy{cluster.RoundRobin, cluster.LeastRequest, cluster.Random} {
		c := makeCluster(policy, 1, 1, 1)
		r := rand.New(rand.NewPCG(1, 2))
		var p Picker
		for range 500 {
			first := p.Pick(c, r.Uint64(), nil, 0)
			second := p.Pick(c, r.Uint64(), []*cluster.Endpoint{first}, 5)
			third := p.Pick(c, r.Uint64(), []*cluster.Endpoint{first, second}, 5)
			if first == second || third == first || third == second {
				t.Fatalf("policy %v: tried %d, %d, then %d", policy, first.ID, second.ID, third.ID)
			}
		}
		e := c.Endpoints
		e[1].Active.Store(1) // the others look idle
		for range 500 {
			if again := p.Pick(c, r.Uint64(), []*cluster.Endpoint{e[0], e[1], e[2], e[0]}, 5); again != e[1] {
				t.Fatalf("policy %v: tried 0, 1, 2, 0, then %d", policy, again.ID)
			}
		}
	}
	if (&Picker{}).Pick(makeCluster(cluster.Random), 1, nil, 0) != nil {
		t.Error("no endpoints: no choice")
	}
}

func TestPickDoesNotAllocate(t *testing.T) {
	for _, policy := range []cluster.Policy{cluster.RoundRobin, cluster.LeastRequest, cluster.Random} {
		c := makeCluster(policy, 1, 2, 3)
		var p Picker
		x := uint64(1)
		if n := testing.AllocsPerRun(1000, func() { x = mix(x); p.Pick(c, x, nil, 0) }); n != 0 {
			t.Errorf("policy %v: %v allocations a choice", policy, n)
		}
	}
}

// Two of a limit of two are granted, the third is not, and giving back frees one.
func TestAcquire(t *testing.T) {
	var l cluster.Limits
	l.MaxRequests.Store(2)
	got := []bool{
		cluster.Acquire(&l.Requests, &l.MaxRequests),
		cluster.Acquire(&l.Requests, &l.MaxRequests),
		cluster.Acquire(&l.Requests, &l.MaxRequests),
	}
	l.Requests.Add(-1)
	got = append(got, cluster.Acquire(&l.Requests, &l.MaxRequests))
	if fmt.Sprint(got) != "[true true false true]" {
		t.Errorf("granted %v", got)
	}
}
