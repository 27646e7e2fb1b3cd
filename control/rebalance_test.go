package control

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
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
		{"a tenth more is left alone", 548, []int{476, 476}, 0},
		{"who has too few gives nothing", 100, []int{900}, 0},
		{"a few proxies may all be in one place", 10, []int{0, 0, 0}, 0},
		{"a new replica is filled by a fifth at a time", 1000, []int{0}, 200},
		{"in a small mesh by as many as are too many", 31, []int{0}, 15},
		{"not more than are too many", 630, []int{500, 370}, 126},
		{"what remains of a surplus goes, too", 19, []int{12}, 0},
		{"as long as it is more than three", 20, []int{11}, 4},
	} {
		if got := surplus(c.own, c.others); got != c.want {
			t.Errorf("%s: of %d, where others have %v, %d go; want %d", c.intent, c.own, c.others, got, c.want)
		}
	}
}

// Wherever those go who are asked (to any replica by chance, to the one with the fewest, to others in turn), and although only streams that
// have been where they are for a minute are asked: replicas are about even within three minutes (twelve rounds), a new one of a large mesh
// within five, nobody was made empty, not many more moved than had to, and then nobody moves any more.
func TestSurplusSettles(t *testing.T) {
	type landing func(rnd *rand.Rand, from int, now []int) int
	for name, where := range map[string]landing{
		"by chance": func(rnd *rand.Rand, _ int, now []int) int { return rnd.IntN(len(now)) },
		"to the fewest": func(_ *rand.Rand, _ int, now []int) int {
			return slices.Index(now, slices.Min(now))
		},
		"elsewhere": func(rnd *rand.Rand, from int, now []int) int { return (from + 1 + rnd.IntN(len(now)-1)) % len(now) },
	} {
		for _, start := range [][]int{{31, 0}, {12, 12, 0}, {40, 0, 0}, {300, 300, 0}, {1000, 0}, {5000, 0, 0, 0, 0}, {20000, 0}} {
			for seed := range uint64(20) {
				rnd := rand.New(rand.NewPCG(seed, 1))
				const settle = int(settledAfter / balanceEvery)
				// came[i] are the rounds in which the streams of replica i came.
				came, total := make([][]int, len(start)), 0
				for i, n := range start {
					came[i] = slices.Repeat([]int{-settle}, n)
					total += n
				}
				counts := func() (out []int) {
					for _, s := range came {
						out = append(out, len(s))
					}
					return out
				}
				lasting, moved, round := 0, 0, 0
				for ; lasting <= settle && round < 40; round++ {
					now := counts()
					var going []int // from where
					for i := range came {
						n := surplus(now[i], slices.Concat(now[:i], now[i+1:]))
						came[i] = slices.DeleteFunc(came[i], func(at int) bool {
							if n == 0 || round-at < settle {
								return false
							}
							n--
							going = append(going, i)
							return true
						})
					}
					for _, from := range going {
						to := where(rnd, from, counts())
						came[to] = append(came[to], round)
					}
					if moved += len(going); len(going) > 0 {
						lasting = 0
					} else {
						lasting++
					}
				}
				rounds := 12
				if total > 3000 {
					rounds = 20
				}
				now, fair := counts(), (total+len(start)-1)/len(start)
				if most := fair + max(fair/10, 3); slices.Max(now) > max(most, fewStreams) || round-lasting > rounds {
					t.Errorf("%v, where they go %s (%d): %v after %d rounds", start, name, seed, now, round-lasting)
				}
				had := 0
				for _, n := range start {
					had += max(0, n-fair)
				}
				if slices.Min(now) == 0 || moved > 3*had+20 {
					t.Errorf("%v, where they go %s (%d): %v after %d were moved", start, name, seed, now, moved)
				}
			}
		}
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
	eventually(t, "half have moved", func() error { return b.active(many / 2) })
	if err := a.active(many / 2); err != nil {
		t.Fatal(err)
	}
	for i, s := range all {
		if n := s.received(); n != before[i] {
			t.Errorf("proxy %d was sent %d resources again", i, n-before[i])
		}
	}
	a.giveAway(t.Context(), 0, 0)
	if err := a.active(many / 2); err != nil {
		t.Errorf("even is even: %v", err)
	}
}
