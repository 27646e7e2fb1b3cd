package cluster_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
)

// An endpoint that comes later takes its share step by step; one that was there has it all the time, also when another
// change comes between.
func TestWarmUp(t *testing.T) {
	n := mem.New()
	c := &cluster.Cluster{Health: cluster.NewHealth(n.Loop(loop.Options{}), nil), SlowStart: cluster.SlowStart{Window: 10 * time.Second, Aggression: 1, MinPercent: 10}}
	old := &cluster.Endpoint{ID: 1}
	c.Endpoints = []*cluster.Endpoint{old}
	c.Seal()
	n.Advance(time.Minute)
	share := func() string {
		g := c.View().Group(0)
		if !g.Weighted {
			return "equal"
		}
		fresh := 0
		for at := range g.TotalWeight {
			if g.Pick(at) != old {
				fresh++
			}
		}
		return fmt.Sprintf("%.0f %%", 100*float64(fresh)/float64(int(g.TotalWeight)-fresh))
	}
	next := *c
	next.Endpoints = []*cluster.Endpoint{old, {ID: 2}}
	c = &next
	c.Seal()
	n.Step()
	var got []string
	got = append(got, share())
	n.Advance(5*time.Second + 10*time.Millisecond)
	got = append(got, share())
	again := *c
	c = &again
	c.Seal() // something else of the cluster changed
	got = append(got, share())
	n.Step()
	got = append(got, share())
	n.Advance(6 * time.Second)
	got = append(got, share())
	if want := "[10 % 50 % 50 % 50 % equal]"; fmt.Sprint(got) != want {
		t.Errorf("the new endpoint's part of the old one's share: %v, want %s", got, want)
	}
}
