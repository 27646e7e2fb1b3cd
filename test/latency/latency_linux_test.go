package latency_test

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"
)

// measured says whether somebody wants the figures and has them judged.
func measured() bool { return os.Getenv("LATENCY") != "" }

// times is how often to do what is measured.
func times(often int) int {
	if measured() {
		return often
	}
	return 3
}

// figures are how long each of some equal things took.
type figures []time.Duration

func (f figures) at(share float64) time.Duration {
	slices.Sort(f)
	return f[min(int(share*float64(len(f))), len(f)-1)]
}

func (f figures) String() string {
	short := func(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/1e6) }
	return fmt.Sprintf("p50 %s, p99 %s, longest %s of %d", short(f.at(0.5)), short(f.at(0.99)), short(f.at(1)), len(f))
}

// judge logs what the figures are, and fails if the share of them took longer than the bar.
func judge(t *testing.T, what string, f figures, share float64, bar time.Duration) {
	t.Helper()
	t.Logf("%s: %v (bar: %v)", what, f, bar)
	if measured() && f.at(share) > bar {
		t.Errorf("%s took %v, the bar is %v", what, f.at(share), bar)
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); ; <-tick.C {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waiting until %s: %v", what, err)
		}
	}
}
