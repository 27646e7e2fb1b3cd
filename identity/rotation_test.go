package identity

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// Transcripts of the machine. Rewritten by `go test ./identity -rewrite`: only
// commit the changes if you understand what caused them and if they are desired.
func TestRotation(t *testing.T) {
	datadriven.Walk(t, "testdata/rotation", func(t *testing.T, path string) {
		now := noon
		var r *Rotation
		begin := func(jitter float64) { r = &Rotation{Rand: func() float64 { return jitter }} }
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var life, age, by, starts string
			jitter, times := "0.5", 1
			d.MaybeScanArgs(t, "rand", &jitter)
			d.MaybeScanArgs(t, "times", &times)
			d.MaybeScanArgs(t, "life", &life)
			d.MaybeScanArgs(t, "age", &age)
			d.MaybeScanArgs(t, "by", &by)
			d.MaybeScanArgs(t, "starts", &starts)
			duration := func(s string) time.Duration {
				v, err := time.ParseDuration(s)
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				return v
			}
			outcome := ""
			switch d.Cmd {
			case "new": // nothing held
				var j float64
				if _, err := fmt.Sscan(jitter, &j); err != nil {
					d.Fatalf(t, "%v", err)
				}
				begin(j)
			case "held": // a certificate of an earlier run
				begin(0.5)
				r.Hold(now.Add(-duration(age)), now.Add(duration(life)-duration(age)))
			case "advance": // the clock, and what was due does not happen
				now = now.Add(duration(by))
			case "failed":
				for range times {
					r.Failed(now)
				}
			case "signed": // as our authority does, backdated by two minutes
				from := now.Add(-2 * time.Minute)
				if starts != "" {
					from = now.Add(duration(starts))
				}
				switch use, good := r.Signed(now, from, from.Add(duration(life))); {
				case use && good:
					outcome = "used; "
				case use:
					outcome = "used for want of a better one; "
				default:
					outcome = "not used; "
				}
			default:
				d.Fatalf(t, "unknown command %s", d.Cmd)
			}
			return outcome + r.describe(now) + "\n"
		})
	})
}

func (r *Rotation) describe(now time.Time) string {
	s := "nothing held; "
	switch {
	case r.Holding(now):
		s = fmt.Sprintf("holding for %s; ", r.until.Sub(now))
	case now.Before(r.from):
		s = fmt.Sprintf("holding one that begins in %s; ", r.from.Sub(now))
	case !r.until.IsZero():
		s = fmt.Sprintf("holding one that expired %s ago; ", now.Sub(r.until))
	}
	if r.failures > 0 {
		s += fmt.Sprintf("failure %d; ", r.failures)
	}
	if w := r.Wait(now); w > 0 {
		return s + fmt.Sprintf("ask in %s", w)
	}
	return s + "ask now"
}

// Ten years (of five machines, two years each) with an authority that
// is away 40 % of the time, for up to three days on end, and a machine that sleeps
// for up to 72 hours and whose clock is set back now and then: awake and with the
// authority there, a workload waits for its certificate no longer than one retry
// takes.
func TestTenYears(t *testing.T) {
	for seed := range uint64(5) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		between := func(lo, hi time.Duration) time.Duration { return lo + time.Duration(rnd.Int64N(int64(hi-lo))) }
		r := &Rotation{Rand: rnd.Float64}
		var (
			now           = noon
			end           = now.AddDate(2, 0, 0)
			away          = false
			turns         = now.Add(between(time.Hour, 107*time.Hour)) // when the authority goes or comes
			sleeps        = now.Add(between(time.Hour, 200*time.Hour))
			bare, longest time.Duration // without a certificate, for no good reason
			obtained      int
		)
		for now.Before(end) {
			if r.Wait(now) == 0 {
				if away {
					r.Failed(now)
				} else {
					r.Signed(now, now.Add(-2*time.Minute), now.Add(24*time.Hour))
					obtained++
				}
			}
			step := max(time.Millisecond, min(r.Wait(now), turns.Sub(now), sleeps.Sub(now)))
			if away || r.Holding(now) {
				bare = 0
			} else {
				bare += step
				longest = max(longest, bare)
			}
			now = now.Add(step)
			if !now.Before(turns) {
				// 54 hours there and 36 away on average.
				if away = !away; away {
					turns = now.Add(between(time.Minute, 72*time.Hour))
				} else {
					turns = now.Add(between(time.Hour, 107*time.Hour))
				}
			}
			if !now.Before(sleeps) {
				if rnd.IntN(10) == 0 {
					now = now.Add(-between(time.Second, 12*time.Hour)) // the clock is set back
				} else {
					now = now.Add(between(time.Minute, 72*time.Hour))
				}
				sleeps = now.Add(between(time.Hour, 200*time.Hour))
			}
		}
		if most := retryBare * 5 / 4; longest > most {
			t.Errorf("seed %d: awake, with the authority there, and without a certificate for %s; want at most %s", seed, longest, most)
		}
		// Awake two thirds of the time, and one for each twelve hours of the 60 %.
		if obtained < 400 || obtained > 1600 {
			t.Errorf("seed %d: %d certificates in two years; the simulation does not do what it says", seed, obtained)
		}
	}
}
