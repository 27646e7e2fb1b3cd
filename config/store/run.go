package store

import (
	"context"
	"errors"
	"path/filepath"
	"sync"

	"github.com/weirmesh/weir/config"
	registryfile "github.com/weirmesh/weir/registry/file"
)

// Source is where objects come from. Run publishes all there is in one call, even if it
// is nothing, and then what changes, until ctx ends.
type Source interface {
	Run(ctx context.Context, publish func([]config.Unit)) error
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
	}
	batches := make(chan batch)
	errs := make(chan error, len(sources))
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel() // first
	for i, src := range sources {
		running.Go(func() {
			errs <- src.Run(ctx, func(units []config.Unit) {
				select {
				case batches <- batch{i, units}:
				case <-ctx.Done():
				}
			})
		})
	}

	heard := map[int]bool{}
	var units []config.Unit
	for len(heard) < len(sources) {
		select {
		case b := <-batches:
			heard[b.source] = true
			units = append(units, b.units...)
		case err := <-errs:
			return err
		}
	}
	s.publish(s.Step(units...))
	analyzed := false
	for {
		if !analyzed {
			select {
			case b := <-batches: // a change goes first
				s.publish(s.Step(b.units...))
				continue
			default:
			}
			s.o.Publish(s.Analyze())
			analyzed = true
		}
		select {
		case b := <-batches:
			s.publish(s.Step(b.units...))
			analyzed = false
		case err := <-errs:
			return err
		case <-ctx.Done():
			return nil
		}
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
