package cluster_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/cluster/outlier"
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

// Whoever finds no endpoint hears whether there are none, none is known by name, or all are set aside.
func TestMissing(t *testing.T) {
	n := mem.New()
	with := func(k cluster.Kind, health *cluster.Health, es ...*cluster.Endpoint) *cluster.Cluster {
		c := &cluster.Cluster{Kind: k, Health: health, Endpoints: es, Outlier: &outlier.Config{Consecutive: [outlier.Reasons]uint32{outlier.FiveXX: 1}, BaseEjection: time.Minute, MaxPercent: 100}}
		c.Seal()
		return c
	}
	health := func() *cluster.Health { return cluster.NewHealth(n.Loop(loop.Options{}), nil) }
	one, two := &cluster.Endpoint{ID: 1}, &cluster.Endpoint{ID: 2}
	some := with(cluster.Static, health(), one, two)
	check := func(c *cluster.Cluster, want causes.Cause) {
		t.Helper()
		if got := c.Missing(); got != want {
			t.Errorf("%s, want %s", got.Name(), want.Name())
		}
	}
	check(with(cluster.Static, health()), causes.NoEndpoints)
	check(with(cluster.StrictDNS, health()), causes.NameNotResolved)
	check(with(cluster.OriginalDst, health()), causes.NoHealthyUpstream)
	some.Report(one, (&outlier.Config{}).OfStatus(500), 500, 1)
	check(some, causes.NoHealthyUpstream)
	some.Report(two, (&outlier.Config{}).OfStatus(500), 500, 1)
	check(some, causes.EndpointsEjected)
}

// Who is set aside is told when it is learned and when its time is over, with why and until when; who asks learns the same.
func TestAside(t *testing.T) {
	n := mem.New()
	l := n.Loop(loop.Options{})
	e := &cluster.Endpoint{ID: 1}
	c := &cluster.Cluster{Name: "c", Health: cluster.NewHealth(l, nil), Endpoints: []*cluster.Endpoint{e, {ID: 2}},
		Outlier: &outlier.Config{Consecutive: [outlier.Reasons]uint32{outlier.FiveXX: 2}, Interval: time.Second, BaseEjection: 10 * time.Second, MaxEjection: time.Minute, MaxPercent: 100}}
	var told []string
	say := func(a *cluster.Aside) string {
		if a.Endpoint != e {
			return "another"
		}
		return fmt.Sprint(a.State, " because ", a.Reason, " ", a.InARow, " times, last ", a.Status, ", for ", time.Duration(a.Until-a.Since), ", ", a.Times)
	}
	c.Health.Tell(func(_ *cluster.Cluster, a *cluster.Aside) { told = append(told, say(a)) })
	c.Seal()
	for _, status := range []int{500, 503} {
		c.Report(e, c.Outlier.OfStatus(status), status, l.Now())
	}
	const ejected, returned = "1 because 0 2 times, last 503, for 10s, 1", "0 because 0 2 times, last 503, for 10s, 1"
	now := func(want string) {
		t.Helper()
		if all := c.Health.Aside(l.Now()); len(all) != 1 || say(&all[0]) != want {
			t.Errorf("%+v, want %s", all, want)
		}
	}
	now(ejected)
	for range 12 {
		n.Step()
		n.Advance(time.Second)
	}
	n.Step()
	now(returned)
	// One that does not answer to connections is set aside for as long as others are preferred to it, since when that began.
	silent := c.Endpoints[1]
	began := l.Now()
	silent.Hush(began, began+int64(time.Second))
	silent.Hush(began+1, began+int64(5*time.Second))
	if all := c.Health.Aside(began + 2); len(all) != 2 || all[1].Endpoint != silent || all[1].State != cluster.Unreached || all[1].Since != began || all[1].Until != began+int64(5*time.Second) {
		t.Errorf("silent: %+v", all)
	}
	if all := c.Health.Aside(began + int64(5*time.Second)); len(all) != 1 {
		t.Errorf("not silent any more: %+v", all)
	}
	if got := strings.Join(told, "; "); got != ejected+"; "+returned {
		t.Errorf("told: %s", got)
	}
}
