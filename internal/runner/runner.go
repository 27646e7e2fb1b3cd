// Package runner runs the stages of a program side by side: all of them until the
// context ends, or until one fails, which ends the others.
//
// Functions enter with a name for their error; the first failure leaves. A Group is
// used by one goroutine (the one that called New); the stages run on their own.
package runner

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Group is a set of running stages.
type Group struct {
	ctx    context.Context //nolint:containedctx // lives as long as the Group
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
}

// New starts an empty group that ends with ctx.
func New(ctx context.Context) *Group {
	g := &Group{}
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	return g
}

// Go runs a stage. A stage that returns nil has done its work; an error ends the group.
func (g *Group) Go(name string, f func(context.Context) error) {
	g.wg.Go(func() {
		if err := f(g.ctx); err != nil && !errors.Is(err, context.Canceled) {
			g.Fail(fmt.Errorf("%s: %w", name, err))
		}
	})
}

// Fail ends the group with err, unless it has ended before.
func (g *Group) Fail(err error) { g.cancel(err) }

// Done is closed when the group ends: its stages are about to return.
func (g *Group) Done() <-chan struct{} { return g.ctx.Done() }

// Wait returns when all stages have: nil if the context ended, else the first failure.
func (g *Group) Wait() error {
	g.wg.Wait()
	cause := context.Cause(g.ctx)
	g.cancel(nil)
	if cause == nil || errors.Is(cause, context.Canceled) {
		return nil
	}
	return cause
}
