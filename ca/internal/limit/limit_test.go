package limit

import (
	"fmt"
	"testing"
	"time"
)

func TestForgets(t *testing.T) {
	var l Limiter[string]
	now := time.Now()
	for i := range maxCallers + 100 {
		l.Allow(now, fmt.Sprint(i))
	}
	if n := len(l.buckets); n > maxCallers {
		t.Errorf("%d callers are remembered, at most %d should be", n, maxCallers)
	}
	for i := range maxCallers / 10 {
		l.Allow(now.Add(time.Minute), fmt.Sprint("later", i))
	}
	if n := len(l.buckets); n > maxCallers/10 {
		t.Errorf("a minute later %d callers are remembered", n)
	}
	if !l.Allow(now.Add(-time.Hour), "later0") {
		t.Error("a clock that went back locks callers out")
	}
}

// Who is refused again and again is told of every ten seconds, whatever the clock does.
func TestTell(t *testing.T) {
	var l Limiter[string]
	now := time.Now()
	if l.Tell(now, "unknown") {
		t.Error("nobody was refused")
	}
	for range Burst {
		l.Allow(now, "loop")
	}
	var told []int
	for second := range 35 {
		at := now.Add(time.Duration(second) * time.Second)
		for range 3 * Rate {
			if !l.Allow(at, "loop") && l.Tell(at, "loop") {
				told = append(told, second)
			}
		}
	}
	if fmt.Sprint(told) != "[0 10 20 30]" {
		t.Errorf("told at %v", told)
	}
	if !l.Tell(now.Add(-time.Hour), "loop") {
		t.Error("a clock that went back keeps refusals secret")
	}
}
