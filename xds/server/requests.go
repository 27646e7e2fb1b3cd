package server

import (
	"cmp"
	"slices"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weirmesh/weir/xds/resource"
)

// deltaRequest takes a request of DeltaAggregatedResources. An error ends the stream.
func (m *machine) deltaRequest(r *discoveryv3.DeltaDiscoveryRequest, now time.Time) ([]*response, error) {
	s, isNew, err := m.subscription(r.GetTypeUrl())
	if err != nil {
		return nil, err
	}
	// A stale nonce says nothing, but the subscriptions that come with it count
	// (xDS protocol, "Incremental xDS").
	if s.flight != nil && r.GetResponseNonce() == s.flight.nonce {
		m.answered(s, r.GetErrorDetail(), now)
	}
	if isNew && m.sendAll(s, r) {
		return m.advance(), nil
	}
	var known map[string]string
	if isNew {
		known = r.GetInitialResourceVersions()
		n := len(r.GetResourceNamesSubscribe())
		if max(n, len(known)) > m.limits.names {
			return nil, m.tooManyNames()
		}
		s.names.some, s.dirty = make(map[string]struct{}, n), make(map[string]held, n)
	}
	if isNew && resource.EmptyMeansAll(s.typeURL) && len(r.GetResourceNamesSubscribe()) == 0 && len(r.GetResourceNamesUnsubscribe()) == 0 {
		m.subscribeAll(s, known)
	}
	for _, n := range r.GetResourceNamesSubscribe() {
		if n == "*" {
			m.subscribeAll(s, known)
		} else {
			m.subscribe(s, n, known)
		}
	}
	for _, n := range r.GetResourceNamesUnsubscribe() {
		if n == "*" {
			s.unsubscribeAll()
		} else {
			m.unsubscribe(s, n)
		}
	}
	if m.names > m.limits.names {
		return nil, m.tooManyNames()
	}
	if len(r.GetResourceNamesSubscribe())+len(r.GetResourceNamesUnsubscribe()) > 0 {
		s.names.fit(m.base(s))
	}
	s.greet = s.greet || isNew && s.interested()
	return m.advance(), nil
}

// sotwRequest takes a request of StreamAggregatedResources. An error ends the stream.
func (m *machine) sotwRequest(r *discoveryv3.DiscoveryRequest, now time.Time) ([]*response, error) {
	s, isNew, err := m.subscription(r.GetTypeUrl())
	if err != nil {
		return nil, err
	}
	// A stale nonce was sent before our last response was read. It says nothing, but the
	// names count: the answer that comes repeats them, and does not show that one of them
	// was left and taken up again.
	if s.flight != nil && r.GetResponseNonce() == s.flight.nonce {
		m.answered(s, r.GetErrorDetail(), now)
	}
	names := r.GetResourceNames()
	if len(names) > m.limits.names {
		return nil, m.tooManyNames()
	}
	s.named = s.named || len(names) > 0
	all := slices.Contains(names, "*") || !s.named && resource.EmptyMeansAll(s.typeURL)
	switch {
	case all && !s.wildcard:
		m.subscribeAll(s, nil)
	case !all && s.wildcard:
		s.unsubscribeAll()
	}
	wanted := make(map[string]struct{}, len(names))
	for _, n := range names {
		if n != "*" {
			wanted[n] = struct{}{}
		}
	}
	for n := range s.names.all() {
		if _, ok := wanted[n]; !ok {
			m.unsubscribe(s, n)
		}
	}
	for n := range wanted {
		if !s.names.has(n) {
			m.subscribe(s, n, nil)
		}
	}
	if m.names > m.limits.names {
		return nil, m.tooManyNames()
	}
	s.names.fit(m.base(s))
	s.greet = s.greet || isNew && s.interested()
	return m.advance(), nil
}

func (m *machine) tooManyNames() error {
	return status.Errorf(codes.ResourceExhausted, "more than %d resource names on one stream", m.limits.names)
}

// find returns the subscription of a type, or nil.
func (m *machine) find(typeURL string) *subscription {
	for _, s := range m.subs {
		if s.typeURL == typeURL {
			return s
		}
	}
	return nil
}

func (m *machine) subscription(typeURL string) (s *subscription, isNew bool, err error) {
	if s := m.find(typeURL); s != nil {
		return s, false, nil
	}
	switch {
	case typeURL == "":
		return nil, false, status.Error(codes.InvalidArgument, "the request has no type_url")
	case len(m.subs) >= m.limits.types:
		return nil, false, status.Errorf(codes.ResourceExhausted, "more than %d resource types on one stream", m.limits.types)
	}
	s = newSubscription(typeURL)
	at, _ := slices.BinarySearchFunc(m.subs, s, func(a, b *subscription) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.typeURL, b.typeURL))
	})
	m.subs = slices.Insert(m.subs, at, s)
	if s.sequenced {
		// Listeners that are subscribed to right after the clusters wait for those.
		m.phase = min(m.phase, s.update)
	}
	return s, true, nil
}

// view is the View whose resources of a type the client should hold, were everything sent.
func (m *machine) view(s *subscription) *resource.View {
	if s.sequenced {
		return m.target
	}
	return m.latest
}

// base is the set of a type in it.
func (m *machine) base(s *subscription) resource.Set { return m.view(s).Set(s.typeURL) }

func (m *machine) subscribeAll(s *subscription, known map[string]string) {
	s.subscribeAll(m.view(s), known)
	m.owe(s)
}

// owe notes that more is owed of s than its View's changes, so that nothing counts as
// answered because it was before that.
func (m *machine) owe(s *subscription) {
	s.owing = true
	s.settled = min(s.settled, m.settled)
}

func (m *machine) subscribe(s *subscription, name string, known map[string]string) {
	isNew := false
	if s.isTable(name) {
		isNew = s.subscribeTable(m.base(s), name, known)
	} else {
		isNew = s.subscribe(m.base(s), name, known[name])
	}
	if isNew {
		m.names++
		m.note(s, name, true)
	}
	m.owe(s)
	if s.typeURL == resource.EndpointType {
		if _, ok := m.replaced[name]; ok {
			delete(m.replaced, name)
			s.force(name)
		}
	}
}

func (m *machine) unsubscribe(s *subscription, name string) {
	if s.unsubscribe(name, m.sotw) {
		m.names--
		m.note(s, name, false)
	}
}

func (m *machine) note(s *subscription, name string, asks bool) {
	if _, limited := m.latest.Wildcard(s.typeURL); limited {
		m.named = append(m.named, naming{s.typeURL, name, asks})
	}
}
