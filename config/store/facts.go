package store

import "github.com/weirmesh/weir/config"

// learn takes up what is really there. It is in the plan after the next Step.
func (s *Store) learn(facts []config.Fact) {
	for _, f := range facts {
		if len(s.notedFacts[f.ID])+len(f.Findings) > 0 {
			s.stale = true
		}
		delete(s.notedFacts, f.ID)
		if f.Lowered == nil {
			s.facts = s.facts.Delete(f.ID.String())
		} else {
			s.facts = s.facts.Set(f.ID.String(), fact{f.ID, f.Lowered})
		}
		if len(f.Findings) > 0 {
			s.notedFacts[f.ID] = f.Findings
		}
		s.set(f.ID, f.Lowered)
	}
}
