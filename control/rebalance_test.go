package control

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestSurplus(t *testing.T) {
	for _, c := range []struct {
		intent string
		own    int
		others []int
		want   int
	}{
		{"the only one has nobody to give to", 1000, nil, 0},
		{"even is even", 500, []int{500, 500}, 0},
		{"chance makes some difference, which is left alone", 560, []int{470, 470}, 0},
		{"who has too few gives nothing", 100, []int{900}, 0},
		{"a few proxies may all be in one place", 10, []int{0, 0, 0}, 0},
		{"a new replica is filled by a tenth at a time", 1000, []int{0}, 100},
		{"in a small mesh by ten", 30, []int{0}, 10},
		{"not more than it takes", 630, []int{500, 370}, 63},
		{"all go where they are missing, nearly", 25, []int{0}, 10},
	} {
		if got := surplus(c.own, c.others); got != c.want {
			t.Errorf("%s: of %d, where others have %v, %d go; want %d", c.intent, c.own, c.others, got, c.want)
		}
	}
}

// It always ends: whoever gives, wherever each goes, the round after the last finds nothing to do, and nobody was made empty.
func TestSurplusSettles(t *testing.T) {
	for _, start := range [][]int{{1000, 0}, {5000, 0, 0, 0, 0}, {300, 300, 0}, {40, 0, 0}} {
		now, rounds := append([]int(nil), start...), 0
		for moved := true; moved; rounds++ {
			moved = false
			next := append([]int(nil), now...)
			for i, own := range now {
				var others []int
				for j, n := range now {
					if j != i {
						others = append(others, n)
					}
				}
				n := surplus(own, others)
				moved = moved || n > 0
				next[i] -= n
				for k := range n { // evenly: what chance does on the whole
					next[(i+k)%len(next)]++
				}
			}
			if now = next; rounds > 200 {
				t.Fatalf("from %v: no end at %v", start, now)
			}
		}
		t.Logf("%v: %v after %d rounds", start, now, rounds)
	}
}

// All proxies are at one replica, as after a restart of the other: some of them are asked to connect anew, no more than a round
// allows, and lose nothing of what they have; once the rest is a fair share, or came just now, everybody stays.
func TestRebalance(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "config")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "shop.yaml"), []byte(shop), 0o600); err != nil {
		t.Fatal(err)
	}
	b := startReplica(t, filepath.Join(dir, "b"), folder, 0)
	copyAuthority(t, filepath.Join(dir, "b"), filepath.Join(dir, "a"))
	a := startReplica(t, filepath.Join(dir, "a"), folder, 0, func(o *Options) { o.Replicas = []string{o.GRPC[0].Addr().String(), b.grpc} })
	const many = 30
	all := make([]*subscriber, many)
	for i := range all {
		all[i] = subscribe(t, a, fmt.Sprintf("shop-%d", i), nil, nil)
	}
	eventually(t, "all are at the first replica", func() error { return a.active(many) })

	a.giveAway(t.Context(), time.Hour, 0)
	if n := len(a.xds.Clients()); n != many {
		t.Fatalf("%d of %d are left, of whom nobody has settled", n, many)
	}
	before := make([]int, many)
	for i, s := range all {
		before[i] = s.received()
		s.move(b)
	}
	a.giveAway(t.Context(), 0, 0)
	eventually(t, "ten have moved", func() error { return b.active(10) })
	if err := a.active(many - 10); err != nil {
		t.Fatal(err)
	}
	for i, s := range all {
		if n := s.received(); n != before[i] {
			t.Errorf("proxy %d was sent %d resources again", i, n-before[i])
		}
	}
	a.giveAway(t.Context(), 0, 0)
	if err := a.active(many - 10); err != nil {
		t.Errorf("20 beside 10 is what chance makes: %v", err)
	}
}
