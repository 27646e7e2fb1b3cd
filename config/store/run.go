package store

import (
	"context"
	"errors"
	"path/filepath"
	"sync"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/internal/persist"
	"github.com/weirmesh/weir/mesh"
	registryfile "github.com/weirmesh/weir/registry/file"
)

// Source is where objects come from. Run publishes all there is in one call, even if it
// is nothing, and then what changes, until ctx ends.
type Source interface {
	Run(ctx context.Context, publish func([]config.Unit)) error
}

// Facts is where the store learns what is really there, if that is not among the objects.
// Run publishes all there is in one call, and then what changes, until ctx ends.
type Facts interface {
	Run(ctx context.Context, publish func([]config.Fact)) error
}

// Keys is where the keys of token issuers come from. Known are those that are there at the beginning; Run publishes all there are whenever some
// are others, until ctx ends.
type Keys interface {
	Known() persist.Map[string, *mesh.KeySet]
	Run(ctx context.Context, publish func(persist.Map[string, *mesh.KeySet])) error
}

// Save writes what a restart needs: allocations at once with what they were given for,
// last good versions afterwards.
func (s *Store) Save() error { return errors.Join(s.saveAllocations(), s.disk.save()) }

func (s *Store) saveAllocations() error {
	now := s.registry.Generation()
	if s.o.State == "" || now == s.alloc {
		return nil
	}
	if err := registryfile.Save(filepath.Join(s.o.State, "registry"), s.registry.Allocations()); err != nil {
		return err
	}
	s.alloc = now
	return nil
}

// Run reads sources until ctx ends or one of them fails. The first Update comes when
// every source has said all it has: never a partial plan.
func (s *Store) Run(ctx context.Context, sources ...Source) error {
	ctx, cancel := context.WithCancel(ctx)
	type batch struct {
		source int
		units  []config.Unit
		facts  []config.Fact
		keys   *persist.Map[string, *mesh.KeySet] // nil: they are as they were
	}
	batches := make(chan batch)
	errs := make(chan error, len(sources)+2)
	take := func(b batch) {
		select {
		case batches <- b:
		case <-ctx.Done():
		}
	}
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel() // first
	for i, src := range sources {
		running.Go(func() {
			errs <- src.Run(ctx, func(units []config.Unit) { take(batch{source: i, units: units}) })
		})
	}
	expected := len(sources)
	if s.o.Facts != nil {
		running.Go(func() {
			errs <- s.o.Facts.Run(ctx, func(facts []config.Fact) { take(batch{source: len(sources), facts: facts}) })
		})
		expected++
	}
	if s.o.Keys != nil { // nobody waits for them
		running.Go(func() {
			errs <- s.o.Keys.Run(ctx, func(sets persist.Map[string, *mesh.KeySet]) { take(batch{source: -1, keys: &sets}) })
		})
	}

	heard := map[int]bool{}
	var units []config.Unit
	var facts []config.Fact
	for len(heard) < expected {
		select {
		case b := <-batches:
			if s.note(b.keys); b.source < 0 {
				continue
			}
			heard[b.source] = true
			units, facts = append(units, b.units...), append(facts, b.facts...)
		case err := <-errs:
			return err
		}
	}
	s.learn(facts)
	s.publish(s.Step(units...))
	analyzed := false
	for {
		if !analyzed {
			select {
			case b := <-batches: // a change goes first
				s.note(b.keys)
				s.learn(b.facts)
				s.publish(s.Step(b.units...))
				continue
			default:
			}
			s.o.Publish(s.Analyze())
			analyzed = true
		}
		select {
		case b := <-batches:
			s.note(b.keys)
			s.learn(b.facts)
			s.publish(s.Step(b.units...))
			analyzed = false
		case err := <-errs:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// note takes keys into the next Snapshot.
func (s *Store) note(keys *persist.Map[string, *mesh.KeySet]) {
	if keys != nil {
		s.next.KeySets = *keys
	}
}

// publish hands an Update on. What was allocated is on disk before anybody is told.
func (s *Store) publish(u *Update) {
	if err := s.saveAllocations(); err != nil {
		s.log.Error("virtual addresses may change with the next restart", "err", err)
	}
	s.o.Publish(u)
	if err := s.disk.save(); err != nil {
		s.log.Error("last good versions may be lost with the next restart", "err", err)
	}
}
