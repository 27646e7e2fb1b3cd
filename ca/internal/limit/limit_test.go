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
	l.Allow(now.Add(time.Minute), "later")
	if n := len(l.buckets); n != 1 {
		t.Errorf("a minute later %d callers are remembered", n)
	}
	if !l.Allow(now.Add(-time.Hour), "later") {
		t.Error("a clock that went back locks callers out")
	}
}
