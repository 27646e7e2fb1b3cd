package cluster_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
)

// prober notes who is asked and answers when it is told to.
type prober struct{ under []*asked }

type asked struct {
	p    *prober
	at   netip.AddrPort
	done func(cluster.CheckResult)
}

func (p *prober) Probe(_ *cluster.Cluster, e *cluster.Endpoint, _ *cluster.Check, done func(cluster.CheckResult)) cluster.Probing {
	a := &asked{p, e.Addr, done}
	p.under = append(p.under, a)
	return a
}

func (a *asked) Cancel() {
	for i, u := range a.p.under {
		if u == a {
			a.p.under = append(a.p.under[:i], a.p.under[i+1:]...)
			return
		}
	}
}

// answer ends all checks under way.
func (p *prober) answer(r cluster.CheckResult) (n int) {
	all := p.under
	p.under = nil
	for _, a := range all {
		a.done(r)
	}
	return len(all)
}

func checked(h *cluster.Health, endpoints int, key string) *cluster.Cluster {
	c := &cluster.Cluster{Health: h, Check: &cluster.Check{Key: key, Interval: 10 * time.Second, Timeout: time.Second, Unhealthy: 2, Healthy: 1}}
	for i := range endpoints {
		c.Endpoints = append(c.Endpoints, &cluster.Endpoint{ID: int32(i), Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 80)})
	}
	c.Seal()
	return c
}

// An endpoint in several clusters is asked once for all of them, as long as it is in one of them.
func TestChecksAreShared(t *testing.T) {
	n := mem.New()
	l, p := n.Loop(loop.Options{}), &prober{}
	checks := cluster.NewChecks(l, p)
	ha, hb, hc := cluster.NewHealth(l, checks), cluster.NewHealth(l, checks), cluster.NewHealth(l, checks)
	whole, subset, other := checked(ha, 3, "k"), checked(hb, 1, "k"), checked(hc, 1, "another check")
	usable := func() string {
		n.Step()
		return fmt.Sprint(whole.View().Usable(), subset.View().Usable(), other.View().Usable())
	}
	n.Advance(time.Second)
	if len(p.under) != 4 {
		t.Fatalf("%d checks are under way, want 4", len(p.under))
	}
	for range 2 {
		p.answer(cluster.CheckFailed)
		n.Advance(10 * time.Second)
	}
	if got := usable(); got != "0 0 0" {
		t.Errorf("usable after two failures: %s", got)
	}
	if a := ha.Checked.Attempts.Load() + hb.Checked.Attempts.Load(); a != 3*3+3 {
		t.Errorf("%d attempts are counted", a)
	}
	// One that joins later is taken for what is known of it.
	hd := cluster.NewHealth(l, checks)
	late := checked(hd, 1, "k")
	n.Step()
	if late.View().Usable() != 0 {
		t.Error("in another cluster the endpoint is taken to be well")
	}
	// So is one that takes another's place at the same address.
	moved := *late
	moved.Endpoints = []*cluster.Endpoint{{ID: 9, Addr: late.Endpoints[0].Addr}}
	hb.End()
	moved.Seal()
	n.Step()
	if moved.View().Usable() != 0 {
		t.Error("the endpoint that follows at the same address is taken to be well")
	}
	hd.End()
	next := *whole
	next.Check, next.Endpoints = nil, whole.Endpoints
	next.Seal()
	whole = &next
	if got := usable(); got != "3 1 0" { // without a check nobody is sick
		t.Errorf("usable without checks: %s", got)
	}
	if len(p.under) != 1 {
		t.Errorf("%d checks are under way, of one endpoint", len(p.under))
	}
	p.answer(cluster.CheckPassed)
	if got := usable(); got != "3 1 1" {
		t.Errorf("usable after a success: %s", got)
	}
	hc.End()
	n.Advance(time.Minute)
	if len(p.under) != 0 {
		t.Errorf("%d checks are under way, of nobody", len(p.under))
	}
}

// An endpoint that says so itself is out at once, wherever it is, and does not count where it is judged how many are well; it is back when
// its checks pass again.
func TestEndpointsWithdraw(t *testing.T) {
	n := mem.New()
	l, p := n.Loop(loop.Options{}), &prober{}
	checks := cluster.NewChecks(l, p)
	ha, hb := cluster.NewHealth(l, checks), cluster.NewHealth(l, checks)
	whole, subset := checked(ha, 4, "k"), checked(hb, 1, "k")
	whole.PanicAt = 50
	whole.Seal()
	usable := func() string {
		n.Step()
		return fmt.Sprint(whole.View().Usable(), subset.View().Usable())
	}
	step := func(want, why string) {
		t.Helper()
		if got := usable(); got != want {
			t.Errorf("%s: usable are %s, want %s", why, got, want)
		}
	}
	n.Advance(time.Second)
	p.answer(cluster.CheckPassed)
	for i := range 3 {
		ha.Withdraw(whole.Endpoints[i])
	}
	step("1 0", "three of four withdraw in answers to requests: who is left is all that counts")
	ha.Withdraw(whole.Endpoints[3])
	step("4 0", "none is left: all are used rather than none")
	n.Advance(10 * time.Second)
	p.answer(cluster.CheckPassed)
	step("4 1", "their checks pass")
	n.Advance(10 * time.Second)
	p.answer(cluster.CheckWithdrawn)
	step("4 0", "all withdraw in answers to checks, the first time")
	n.Advance(10 * time.Second)
	p.answer(cluster.CheckFailed)
	step("4 0", "they stay away")
	n.Advance(10 * time.Second)
	p.answer(cluster.CheckPassed)
	step("4 1", "and are back")
	if f := ha.Checked.Failures.Load(); f != 8 {
		t.Errorf("%d failures are counted", f)
	}
	ha.End()
	n.Step()
	ha.Withdraw(whole.Endpoints[0])
	(*cluster.Health)(nil).Withdraw(whole.Endpoints[0])
	step("4 1", "nobody is asked any more")
}

// However many endpoints there are, so many checks are under way at most, and everybody has a turn.
func TestChecksAreBounded(t *testing.T) {
	n := mem.New()
	l, p := n.Loop(loop.Options{}), &prober{}
	h := cluster.NewHealth(l, cluster.NewChecks(l, p))
	c := checked(h, 700, "k")
	n.Advance(time.Second)
	if len(p.under) != 256 {
		t.Fatalf("%d checks are under way", len(p.under))
	}
	total := 0
	for len(p.under) > 0 {
		total += p.answer(cluster.CheckPassed)
		if len(p.under) > 256 {
			t.Fatalf("%d checks are under way", len(p.under))
		}
	}
	if total != 700 {
		t.Errorf("%d endpoints were asked, want 700", total)
	}
	n.Advance(10 * time.Second)
	h.End() // with checks under way and others waiting
	n.Step()
	if len(p.under) != 0 {
		t.Errorf("%d checks are under way of a cluster that is gone", len(p.under))
	}
	_ = c
}

// Failures count towards the threshold, but for those that leave nothing to ask again: those take the endpoint out at
// once. It comes back like any other, and counts where it is judged how many are well.
func TestChecksThatNeedNoSecond(t *testing.T) {
	n := mem.New()
	l, p := n.Loop(loop.Options{}), &prober{}
	h := cluster.NewHealth(l, cluster.NewChecks(l, p))
	c := checked(h, 1, "k")
	n.Advance(time.Second)
	for i, x := range []struct {
		result cluster.CheckResult
		usable int
	}{
		{cluster.CheckFailed, 0}, {cluster.CheckPassed, 1}, // the first one decides alone, until one passed
		{cluster.CheckFailed, 1}, {cluster.CheckPassed, 1},
		{cluster.CheckDown, 0}, {cluster.CheckDown, 0}, {cluster.CheckFailed, 0}, {cluster.CheckPassed, 1},
		{cluster.CheckFailed, 1}, {cluster.CheckDown, 0}, {cluster.CheckPassed, 1},
		{cluster.CheckNetwork, 1}, {cluster.CheckNetwork, 0},
	} {
		p.answer(x.result)
		n.Advance(10 * time.Second)
		if got := c.View().Usable(); got != x.usable {
			t.Errorf("after check %d: %d are usable, want %d", i, got, x.usable)
		}
	}
	if f := h.Checked.Failures.Load(); f != 9 {
		t.Errorf("%d failures are counted, want 9", f)
	}
}

// An endpoint that comes to others which are checked is used when its first check passes, or when there is nobody else; until then it does not
// count where it is judged how many are well. Those that come together with their cluster are used at once.
func TestNewcomersAreChecked(t *testing.T) {
	n := mem.New()
	l, p := n.Loop(loop.Options{}), &prober{}
	h := cluster.NewHealth(l, cluster.NewChecks(l, p))
	c := checked(h, 2, "k")
	c.PanicAt = 50
	c.Seal()
	expect := func(why string, want ...int) {
		t.Helper()
		n.Step()
		var got []int
		for _, g := range c.View().Groups {
			for _, e := range g.Endpoints {
				got = append(got, int(e.ID))
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v are used, want %v", why, got, want)
		}
	}
	// swap has the cluster go on with some of its endpoints and new ones.
	swap := func(keep int, fresh ...int) {
		next := *c
		next.Endpoints = slices.Clone(c.Endpoints[:keep])
		for _, id := range fresh {
			next.Endpoints = append(next.Endpoints, &cluster.Endpoint{ID: int32(id), Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(id)}), 80)})
		}
		next.Seal()
		c = &next
	}
	expect("at first", 0, 1)
	n.Advance(time.Second)
	p.answer(cluster.CheckPassed)
	expect("checked", 0, 1)
	swap(2, 2, 3, 4)
	expect("others came, whom nobody has asked, and who are the most", 0, 1)
	one := func(id int, r cluster.CheckResult) {
		for i, a := range p.under {
			if a.at == c.Endpoints[id].Addr {
				p.under = slices.Delete(p.under, i, i+1)
				a.done(r)
				return
			}
		}
		t.Errorf("nobody asks %d", id)
	}
	n.Advance(time.Second)
	one(2, cluster.CheckFailed)
	p.answer(cluster.CheckPassed)
	expect("one of them failed its first check", 0, 1, 3, 4)
	n.Advance(10 * time.Second)
	p.answer(cluster.CheckDegraded)
	expect("all say they are degraded: there is no other", 0, 1, 2, 3, 4)
	n.Advance(10 * time.Second)
	one(1, cluster.CheckPassed)
	p.answer(cluster.CheckDegraded)
	n.Step()
	if v := c.View(); len(v.Groups) != 2 || len(v.Groups[0].Endpoints) != 1 || len(v.Groups[1].Endpoints) != 4 {
		t.Errorf("one is well again, and is not preferred: %+v", v.Groups)
	}
	swap(0, 5, 6)
	expect("all are others", 5, 6)
	n.Advance(time.Second)
	one(0, cluster.CheckPassed)
	expect("one of those that came together was asked", 5, 6)
	p.answer(cluster.CheckPassed)
	expect("and well", 5, 6)
	swap(2, 7)
	next := *c
	next.Check = nil
	next.Seal()
	c = &next
	expect("nobody is asked any more", 5, 6, 7)
}

// A status is expected, or counts, or is enough; what is in both lists is expected
// (envoy.config.core.v3.HealthCheck.HttpHealthCheck.retriable_statuses).
func TestCheckJudgesStatuses(t *testing.T) {
	for _, c := range []struct {
		expected, retriable [][2]int
		want                map[int]cluster.CheckResult
	}{
		{nil, nil, map[int]cluster.CheckResult{200: cluster.CheckPassed, 204: cluster.CheckDown, 503: cluster.CheckDown}},
		{[][2]int{{201, 300}}, nil, map[int]cluster.CheckResult{200: cluster.CheckDown, 201: cluster.CheckPassed, 299: cluster.CheckPassed, 300: cluster.CheckDown}},
		{nil, [][2]int{{100, 600}}, map[int]cluster.CheckResult{200: cluster.CheckPassed, 204: cluster.CheckFailed, 599: cluster.CheckFailed}},
		{[][2]int{{200, 201}, {404, 405}}, [][2]int{{400, 500}, {503, 504}}, map[int]cluster.CheckResult{200: cluster.CheckPassed, 404: cluster.CheckPassed, 400: cluster.CheckFailed, 503: cluster.CheckFailed, 502: cluster.CheckDown, 504: cluster.CheckDown}},
	} {
		k := cluster.Check{Statuses: c.expected, Retriable: c.retriable}
		for status, want := range c.want {
			if got := k.Judge(status); got != want {
				t.Errorf("expected %v, retriable %v: %d is %v, want %v", c.expected, c.retriable, status, got, want)
			}
		}
	}
}
