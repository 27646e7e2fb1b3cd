package server

import (
	"iter"

	"github.com/weirmesh/weir/xds/resource"
)

// Standing is how one stream stands to what it is subscribed to. It is valid inside the
// visit of a Survey, and the same pointer in each Survey as long as the stream lives.
type Standing struct{ se *session }

// Survey visits every stream, in no order. A stream waits while it is visited, so visit
// must be quick; it must not call the Server.
func (s *Server) Survey(visit func(*Standing)) {
	s.mu.Lock()
	sessions := make([]*session, 0, len(s.sessions))
	for se := range s.sessions {
		sessions = append(sessions, se)
	}
	s.mu.Unlock()
	for _, se := range sessions {
		se.mu.Lock()
		if !se.gone {
			visit(&se.standing)
		}
		se.mu.Unlock()
	}
}

// Node is the id of the node.
func (t *Standing) Node() string { return t.se.node.GetId() }

// View is the newest that was published for it, nil before the first.
func (t *Standing) View() *resource.View { return t.se.m.latest }

// Subscriptions are those of the stream, one a type.
func (t *Standing) Subscriptions() iter.Seq[Subscribed] {
	return func(yield func(Subscribed) bool) {
		for _, s := range t.se.m.subs {
			if !yield(Subscribed{t.se.m, s}) {
				return
			}
		}
	}
}

// Subscribed is what a stream is subscribed to of one type.
type Subscribed struct {
	m *machine
	s *subscription
}

// TypeURL is the type.
func (x Subscribed) TypeURL() string { return x.s.typeURL }

// All reports a subscription to whatever there is.
func (x Subscribed) All() bool { return x.s.everything() }

// Len is the number of Names, or a little more: some may count twice.
func (x Subscribed) Len() int {
	if x.s.wildcard && x.s.limited {
		return x.s.names.len() + x.s.wild.Len()
	}
	return x.s.names.len()
}

// Has reports whether name is subscribed to.
func (x Subscribed) Has(name string) bool { return x.s.subscribed(name) }

// Names are those subscribed to by name, or by a wildcard that does not mean everything, in
// no order.
func (x Subscribed) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for n := range x.s.names.all() {
			if !yield(n) {
				return
			}
		}
		if !x.s.wildcard || !x.s.limited {
			return
		}
		for n := range x.s.wild.All() {
			if !x.s.names.has(n) && !yield(n) {
				return
			}
		}
	}
}

// ByName are those that the client itself named, in no order.
func (x Subscribed) ByName() iter.Seq[string] { return x.s.names.all() }

// Through is the version of the newest View of which the client has answered everything
// of this type.
func (x Subscribed) Through() uint64 {
	m, s := x.m, x.s
	switch busy := s.flight != nil || len(s.dirty) > 0 || len(s.retry) > 0; {
	case m.latest == nil:
		return 0
	case s.sequenced && busy:
		return m.round
	case s.sequenced:
		return m.target.Version
	case busy || s.owing:
		return s.settled
	}
	return m.latest.Version
}

// Outstanding are the names subscribed to of which the client does not have what the
// newest View has: because that was not sent or answered yet, or because the client
// refuses it (NACK). A name may come twice.
func (x Subscribed) Outstanding() iter.Seq2[string, *NACK] {
	return func(yield func(string, *NACK) bool) {
		s := x.s
		for n := range s.nacked {
			if !yield(n, s.lastNACK) {
				return
			}
		}
		for n := range s.dirty {
			if !yield(n, nil) {
				return
			}
		}
		if s.flight != nil {
			for _, n := range s.flight.names {
				if !yield(n, nil) {
					return
				}
			}
		}
		for _, batch := range s.retry {
			for _, n := range batch {
				if !yield(n, nil) {
					return
				}
			}
		}
		if !s.sequenced || x.m.latest == x.m.target {
			return
		}
		for n := range x.m.latest.Set(s.typeURL).Diff(x.m.target.Set(s.typeURL), resource.Same) {
			if s.subscribed(n) && !yield(n, nil) {
				return
			}
		}
	}
}
