package translate

import (
	"maps"

	"github.com/weirmesh/weir/internal/persist"
)

// class is equal for scopes of which one may begin as a fork of another.
func (k scopeKey) class() scopeKey {
	k.namespace, k.selectors, k.place = "", "", ""
	return k
}

// fork makes the scope of key, of which nothing is true yet but that catchUp makes it so: that
// gives every host the place it has, whatever place it had. What namespaces see differs
// in little, so most has its place already, and what both see the same is held once.
func (c *Cache) fork(key scopeKey) *scope {
	s := &scope{tables: map[uint16]*table{}, doors: map[uint16]persist.Map[string, *door]{}, apart: map[spot]*gathering{}, stale: [forms]map[uint16]bool{{}, {}, {}}}
	if donor := c.donors[key.class()]; donor != nil {
		own := *donor
		s = &own
		s.doors = maps.Clone(s.doors)
		s.tables = make(map[uint16]*table, len(donor.tables))
		for port, t := range donor.tables {
			s.tables[port] = t.fork()
		}
		s.apart = make(map[spot]*gathering, len(donor.apart))
		for at, g := range donor.apart {
			s.apart[at] = g.fork()
		}
		for f, ports := range donor.stale {
			s.stale[f] = maps.Clone(ports)
		}
	}
	s.key, s.gen, s.used = key, 0, 0
	c.donors[key.class()] = s
	return s
}
