package backoff_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirmesh/weir/internal/backoff"
)

func TestNext(t *testing.T) {
	b := backoff.Backoff{Min: 100 * time.Millisecond, Max: time.Second}
	for range 2 {
		if d := b.Next(); d != 0 {
			t.Errorf("the first retry waits %v", d)
		}
		for i, ceiling := range []time.Duration{100, 200, 400, 800, 1000, 1000} {
			ceiling *= time.Millisecond
			if d := b.Next(); d < ceiling/2 || d > ceiling {
				t.Errorf("retry %d waits %v, want %v to %v", i+2, d, ceiling/2, ceiling)
			}
		}
		b.Reset()
	}
}

func TestJitter(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 20 {
		b := backoff.Backoff{Min: time.Second, Max: time.Second}
		b.Next()
		seen[b.Next()] = true
	}
	if len(seen) < 2 {
		t.Error("all wait the same")
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := backoff.Backoff{Min: time.Minute, Max: time.Minute}
		start := time.Now()
		if err := errors.Join(b.Wait(t.Context()), b.Wait(t.Context())); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < 30*time.Second || d > time.Minute {
			t.Errorf("waited %v", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("wait gives %v when the context ends", err)
		}
	})
}
