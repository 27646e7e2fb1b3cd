package store

import (
	"iter"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/analyze"
	"github.com/weirmesh/weir/internal/persist"
)

// input is what the findings across objects are about: what is in force.
func (s *Store) input() analyze.Input {
	return analyze.Input{Snapshot: s.snapshot, Objects: serving{s.objects}, Facts: really{s.facts}, Outside: s.outside, Assume: s.o.Assume}
}

// serving are objects as analyze looks at them.
type serving struct{ m persist.Map[string, *Object] }

func (f serving) At(id string) (*config.Object, any) {
	if o := f.m.At(id); o != nil {
		return o.Serving, o.Lowered
	}
	return nil, nil
}

func (f serving) Since(earlier analyze.Objects) iter.Seq[string] {
	was, _ := earlier.(serving)
	return f.m.Diff(was.m, func(a, b *Object) bool { return a.Serving == b.Serving })
}

// really is what is really there, as analyze looks at it: nobody wrote it.
type really struct{ m persist.Map[string, fact] }

// fact is a config.Fact in force.
type fact struct {
	id      config.ID
	lowered any
}

func (r really) At(id string) (*config.Object, any) { return nil, r.m.At(id).lowered }

func (r really) Since(earlier analyze.Objects) iter.Seq[string] {
	was, _ := earlier.(really)
	return r.m.Diff(was.m, func(a, b fact) bool { return identical(a.lowered, b.lowered) })
}
