package runner

import (
	"context"
	"errors"
	"testing"
)

func untilEnd(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// The first failure ends the others and is what Wait returns, with the stage's name.
func TestFailure(t *testing.T) {
	g := New(context.Background())
	cause := errors.New("disk full")
	g.Go("reader", untilEnd)
	g.Go("writer", func(context.Context) error { return cause })
	g.Go("done early", func(context.Context) error { return nil })
	if err := g.Wait(); !errors.Is(err, cause) || err.Error() != "writer: disk full" {
		t.Errorf("%v", err)
	}
	select {
	case <-g.Done():
	default:
		t.Error("the group must have ended")
	}
}

// The end of the context is no failure.
func TestEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	g := New(ctx)
	g.Go("a", untilEnd)
	g.Go("b", untilEnd)
	cancel()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// Fail speaks for work that is no stage.
func TestFail(t *testing.T) {
	g := New(context.Background())
	g.Go("a", untilEnd)
	cause := errors.New("no state")
	g.Fail(cause)
	if err := g.Wait(); !errors.Is(err, cause) {
		t.Errorf("%v", err)
	}
}
