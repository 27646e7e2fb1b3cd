package outlier

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func limits(fiveXX, gateway, local uint32) *Config {
	return &Config{Consecutive: [Reasons]uint32{fiveXX, gateway, local}, Split: local > 0, Interval: time.Second, BaseEjection: time.Second, MaxEjection: 5 * time.Second, MaxPercent: 100}
}

// Statuses replace what is an error. What is one below 500 is no gateway error.
func TestOfStatus(t *testing.T) {
	some := &Statuses{}
	some.Add(429)
	some.Add(503)
	for _, c := range []struct {
		status        int
		usual, listed Result
	}{{200, Success, Success}, {429, Success, ServerError}, {500, ServerError, Success}, {502, GatewayError, Success}, {503, GatewayError, GatewayError}, {599, ServerError, Success}, {0, Success, Success}, {-1, Success, Success}, {999, ServerError, Success}} {
		if got := (&Config{}).OfStatus(c.status); got != c.usual {
			t.Errorf("%d is %v, want %v", c.status, got, c.usual)
		}
		if got := (&Config{Statuses: some}).OfStatus(c.status); got != c.listed {
			t.Errorf("%d of 429 and 503 is %v, want %v", c.status, got, c.listed)
		}
	}
}

// What is one too many, by result: s is a success, e another 5xx, g a gateway error, l a failure of our own.
func TestCount(t *testing.T) {
	for _, c := range []struct {
		name    string
		config  *Config
		results string
		want    string // reasons: - for none, 5, g, l
	}{
		{"5xx in a row", limits(3, 0, 0), "eeseee", "-----5"},
		{"gateway errors are 5xx, too", limits(3, 0, 0), "ege", "--5"},
		{"and end the row of nobody", limits(0, 2, 0), "gegg", "---g"},
		{"each row begins anew", limits(2, 0, 0), "eeee", "-5-5"},
		{"the lower of two limits counts", limits(5, 2, 0), "ggeeeee", "-g----5"},
		{"failures of our own are gateway errors", limits(0, 2, 0), "gl", "-g"},
		{"unless they are split", limits(2, 2, 2), "glgl", "--g-"},
		{"an answer ends a row of them", limits(0, 0, 2), "lell", "---l"},
		{"0 is however many", limits(0, 0, 0), "eeeeegggg", "---------"},
	} {
		var h Host
		var got strings.Builder
		for _, r := range c.results {
			got.WriteByte("5gl-"[h.Count(c.config, map[rune]Result{'s': Success, 'e': ServerError, 'g': GatewayError, 'l': LocalFailure}[r])])
		}
		if got.String() != c.want {
			t.Errorf("%s: %s gave %s, want %s", c.name, c.results, got.String(), c.want)
		}
	}
}

// However many workers count, each row of errors has one end.
func TestCountFromManyWorkers(t *testing.T) {
	const workers, each, most = 8, 3000, 5
	c, h := limits(most, 0, 0), &Host{}
	var ends atomic.Int32
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				if h.Count(c, ServerError) != None {
					ends.Add(1)
				}
			}
		})
	}
	wg.Wait()
	// While one of them starts a new row, the others may have counted into the old one.
	if n := ends.Load(); n == 0 || n > workers*each/most {
		t.Errorf("%d rows of %d ended %d times", workers*each, most, n)
	}
}

// Times grow with every ejection, up to the maximum, and shrink with every sweep that finds the endpoint in use.
func TestTimes(t *testing.T) {
	d, h := Detector{}, &Host{}
	d.Set(limits(1, 0, 0), []*Host{h})
	now := int64(0)
	second := int64(time.Second)
	var took []string
	for range 7 {
		if !d.Eject(h, FiveXX, now) || d.Eject(h, FiveXX, now) {
			t.Fatal("it is to be ejected once")
		}
		n := 0
		for h.Phase() == Open {
			now, n = now+second, n+1
			d.Sweep(now)
		}
		took = append(took, fmt.Sprint(n))
	}
	for range 5 {
		d.Sweep(now)
	}
	d.Eject(h, FiveXX, now)
	n := 0
	for h.Phase() == Open {
		now, n = now+second, n+1
		d.Sweep(now)
	}
	if got := strings.Join(append(took, fmt.Sprint(n)), " "); got != "1 2 3 4 5 5 5 2" {
		t.Errorf("sweeps until it returned: %s", got)
	}
	for d.Busy() {
		d.Sweep(now)
	}
	if h.times != 0 {
		t.Error("sweeps ended too early")
	}
}

// An endpoint that returns half-open takes as many requests at once as may try it; the first answer decides.
func TestHalfOpen(t *testing.T) {
	c := limits(1, 0, 0)
	c.Probes = 2
	d, h := Detector{}, &Host{}
	d.Set(c, []*Host{h})
	d.Eject(h, FiveXX, 0)
	d.Sweep(int64(time.Second))
	if h.Phase() != HalfOpen || !h.Try(c) || !h.Try(c) || h.Try(c) {
		t.Fatalf("phase %d: two may try it", h.Phase())
	}
	h.Tried()
	if !h.Try(c) {
		t.Error("a place that was given back is taken")
	}
	why := h.Count(c, GatewayError)
	if why == None || !d.Eject(h, why, int64(time.Second)) || h.Phase() != Open {
		t.Error("a failure sets it aside again")
	}
	d.Sweep(int64(4 * time.Second))
	if h.Count(c, Success) != None || h.Phase() != Closed {
		t.Errorf("phase %d: a success ends it", h.Phase())
	}
}

// Whatever happens, no more are ejected than may be, and everybody returns.
func TestNeverTooMany(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := limits(1, 0, 0)
		c.MaxPercent = rapid.Uint32Range(0, 100).Draw(t, "percent")
		c.AlwaysOne = rapid.Bool().Draw(t, "always one")
		hosts := make([]*Host, rapid.IntRange(1, 12).Draw(t, "hosts"))
		for i := range hosts {
			hosts[i] = &Host{}
		}
		var d Detector
		d.Set(c, hosts)
		now := int64(0)
		open := func() (n int) {
			for _, h := range hosts {
				if h.Phase() == Open {
					n++
				}
			}
			return n
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "sweep") {
				now += int64(time.Second)
				d.Sweep(now)
			} else {
				d.Eject(rapid.SampledFrom(hosts).Draw(t, "host"), FiveXX, now)
			}
			most := len(hosts) * int(c.MaxPercent) / 100
			if c.AlwaysOne && c.MaxPercent > 0 {
				most = max(most, 1)
			}
			if n := open(); n > most || n != d.Stats().Active {
				t.Fatalf("%d of %d are ejected (it counts %d), %d %% may be", n, len(hosts), d.Stats().Active, c.MaxPercent)
			}
		}
		for i := 0; d.Busy(); i++ {
			if now += int64(time.Second); i > 100 {
				t.Fatal("somebody does not return")
			}
			d.Sweep(now)
		}
		if open() != 0 {
			t.Fatal("sweeps ended although somebody is ejected")
		}
	})
}
