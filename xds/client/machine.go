package client

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/xds/resource"
)

// machine is the protocol of one client over all its streams: what to ask for, what a
// response means, how it is answered. It is pure (no connection, clock or goroutine) and
// not safe for concurrent use.
//
// It survives streams: what is held stays while nobody is connected, and the first
// requests of the next stream say what that is, so that only the difference is sent.
type machine struct {
	sotw      bool
	restored  map[string]map[string]string // versions held from an earlier life, by type and name
	announced map[string]string            // by type: see Options
	connected bool
	// identifier is what the control plane of this stream calls itself; "" before it has said so.
	identifier string
	subs       []*subscription // in the order in which types were first subscribed to
}

// subscription is the state of one type.
type subscription struct {
	typeURL  string
	wildcard bool
	names    map[string]bool   // wanted; true once the server said something about it
	held     map[string]string // version by name of what was accepted; "" of what is in force and was refused
	version  string            // of the last response accepted, as the server calls it
	answered bool              // a response was accepted, on whatever stream

	// Of the current stream:
	started   bool // a request was sent
	named     bool // names were given, so that an empty list does not mean everything
	add, drop map[string]struct{}
	again     map[string]struct{} // asked for twice, because it was not clear what the answer was about
	changed   bool                // state of the world: names differ from those sent
	nonce     string
}

// request is an effect: something to send.
type request struct {
	typeURL string
	nonce   string
	nack    string // with nonce: why the response is refused; "" accepts it

	subscribe, unsubscribe []string          // delta
	known                  map[string]string // delta, first request of a stream
	names                  []string          // state of the world
	version                string            // state of the world
}

func (m *machine) find(typeURL string) *subscription {
	for _, s := range m.subs {
		if s.typeURL == typeURL {
			return s
		}
	}
	return nil
}

func (m *machine) subscription(typeURL string) *subscription {
	s := m.find(typeURL)
	if s == nil {
		s = &subscription{
			typeURL: typeURL, names: map[string]bool{}, held: map[string]string{},
			add: map[string]struct{}{}, drop: map[string]struct{}{}, again: map[string]struct{}{},
		}
		maps.Copy(s.held, m.restored[typeURL])
		m.subs = append(m.subs, s)
	}
	return s
}

// subscribe wants names, or with none everything there is. Names already wanted stay as
// they are.
func (m *machine) subscribe(typeURL string, names ...string) {
	s := m.subscription(typeURL)
	if len(names) == 0 && !s.wildcard {
		s.wildcard = true
		s.change("*", s.add, s.drop)
	}
	for _, n := range names {
		if _, had := s.names[n]; !had {
			s.names[n] = false
			s.change(n, s.add, s.drop)
		}
	}
}

// unsubscribe drops names, or with none the wildcard.
func (m *machine) unsubscribe(typeURL string, names ...string) {
	s := m.find(typeURL)
	if s == nil {
		return
	}
	if len(names) == 0 && s.wildcard {
		s.wildcard = false
		s.change("*", s.drop, s.add)
		for n := range s.held {
			if _, ok := s.names[n]; !ok {
				delete(s.held, n)
			}
		}
	}
	for _, n := range names {
		if _, had := s.names[n]; !had {
			continue
		}
		delete(s.names, n)
		delete(s.again, n)
		s.change(n, s.drop, s.add)
		if !s.wildcard { // otherwise the server says whether it stays
			delete(s.held, n)
		}
	}
}

func (s *subscription) change(name string, to, from map[string]struct{}) {
	delete(from, name)
	to[name] = struct{}{}
	s.changed = true
}

func (s *subscription) wants(name string) bool {
	_, ok := s.names[name]
	return ok || s.wildcard
}

// connect begins a stream and returns its first requests.
func (m *machine) connect() []request {
	m.connected = true
	for _, s := range m.subs {
		s.started, s.named, s.changed, s.nonce = false, false, false, ""
		clear(s.add)
		clear(s.drop)
		clear(s.again)
	}
	return m.pending()
}

func (m *machine) disconnect() { m.connected, m.identifier = false, "" }

// due reports whether the control plane of this stream is one to ask for this type.
func (m *machine) due(s *subscription) bool {
	word, ok := m.announced[s.typeURL]
	return !ok || slices.Contains(strings.Fields(m.identifier), word)
}

// pending are the requests by which the server learns of changed subscriptions.
func (m *machine) pending() []request {
	if !m.connected {
		return nil
	}
	var out []request
	for _, s := range m.subs {
		if !m.due(s) || !s.changed && s.started || !s.started && !s.wildcard && len(s.names) == 0 {
			continue
		}
		if m.sotw {
			out = append(out, s.sotwRequest())
		} else {
			out = append(out, s.deltaRequest())
		}
	}
	return out
}

// deltaRequest is the request for the changes since the last.
func (s *subscription) deltaRequest() request {
	r := request{typeURL: s.typeURL}
	if s.started {
		r.subscribe, r.unsubscribe = slices.Sorted(maps.Keys(s.add)), slices.Sorted(maps.Keys(s.drop))
	} else {
		r.subscribe, r.known = s.list(), maps.Clone(s.held)
		maps.DeleteFunc(r.known, func(n, version string) bool { return version == "" || !s.wants(n) })
	}
	s.started, s.changed = true, false
	clear(s.add)
	clear(s.drop)
	return r
}

// sotwRequest is the request that repeats the subscription.
func (s *subscription) sotwRequest() request {
	s.started, s.changed = true, false
	return request{typeURL: s.typeURL, nonce: s.nonce, version: s.version, names: s.list()}
}

// list is the whole subscription. A wildcard alone is asked for by no names, which every
// server understands, while it still means that.
func (s *subscription) list() []string {
	names := slices.Sorted(maps.Keys(s.names))
	if s.wildcard && (s.named || len(names) > 0 || !resource.EmptyMeansAll(s.typeURL)) {
		names = append([]string{"*"}, names...)
	}
	s.named = s.named || len(names) > 0
	return names
}

// answer is the request that accepts the response with this nonce, or refuses it. In state
// of the world it is the nonce of what else is sent of this type only from now on: a
// request with it before would have been taken for this answer.
func (m *machine) answer(typeURL, nonce, nack string) request {
	if s := m.find(typeURL); m.sotw && s != nil {
		s.nonce = nonce
		r := s.sotwRequest()
		r.nack = nack
		return r
	}
	return request{typeURL: typeURL, nonce: nonce, nack: nack}
}

// received is a response whose contents are to be applied, or that is wrong by itself.
type received struct {
	Update
	nonce   string
	hashes  map[string]string // state of the world: versions by name
	problem error
	first   bool // of its type, ever
	// accepted is what of it is in effect although there is a problem with the rest.
	accepted *received
}

// without is r without the resources that an error is about, nil if that is nothing less,
// or nothing at all.
func (r *received) without(err error) *received {
	refused, ok := errors.AsType[Refuser](err)
	if !ok {
		return nil
	}
	wrong := refused.Refused()
	rest := *r
	rest.problem = nil
	rest.Set = slices.DeleteFunc(slices.Clone(r.Set), func(x Resource) bool { return slices.Contains(wrong, x.Name) })
	rest.hashes = maps.Clone(r.hashes)
	for _, n := range wrong {
		delete(rest.hashes, n)
	}
	if len(rest.Set) == len(r.Set) || rest.empty() {
		return nil
	}
	return &rest
}

// empty reports whether there is nothing to apply.
func (r *received) empty() bool { return len(r.Set) == 0 && len(r.Removed) == 0 }

// receiveDelta reads a response. What nobody wants any more is left out.
func (m *machine) receiveDelta(d *discoveryv3.DeltaDiscoveryResponse) *received {
	r := &received{Update: Update{TypeURL: d.GetTypeUrl(), Version: d.GetSystemVersionInfo()}, nonce: d.GetNonce()}
	s := m.find(r.TypeURL)
	if s == nil {
		r.problem = fmt.Errorf("resources of type %q were not asked for", r.TypeURL)
		return r
	}
	r.first = !s.answered
	seen := make(map[string]struct{}, len(d.GetResources()))
	for _, res := range d.GetResources() {
		n := res.GetName()
		if _, twice := seen[n]; twice {
			r.problem = fmt.Errorf("resource %q is in the response twice", n)
			return r
		}
		seen[n] = struct{}{}
		if res.GetResource() == nil || !s.wants(n) {
			continue // a heartbeat of its time to live, or it crossed our unsubscription
		}
		if t := res.GetResource().GetTypeUrl(); t != r.TypeURL {
			r.problem = fmt.Errorf("resource %q is of type %q in a response of type %q", n, t, r.TypeURL)
			return r
		}
		r.Set = append(r.Set, Resource{Name: n, Version: res.GetVersion(), Body: res.GetResource()})
	}
	for _, n := range d.GetRemovedResources() {
		if _, ok := seen[n]; ok {
			r.problem = fmt.Errorf("resource %q is in the response and removed by it", n)
			return r
		}
		_, held := s.held[n]
		if !held && !s.wants(n) {
			continue
		}
		told, named := s.names[n]
		if _, again := s.again[n]; named && !told && held && s.wildcard && !again {
			// Either it is gone, or the wildcard stopped to mean it, or our unsubscription
			// and subscription after that crossed this answer to the former. What is said
			// when it is asked for again is about the name.
			s.again[n] = struct{}{}
			s.change(n, s.add, s.drop)
			continue
		}
		r.Removed = append(r.Removed, n)
		if named {
			r.Absent = append(r.Absent, n)
		}
	}
	return r
}

// receiveSotW reads a response. What did not change is left out.
func (m *machine) receiveSotW(d *discoveryv3.DiscoveryResponse) *received {
	r := &received{
		Update: Update{TypeURL: d.GetTypeUrl(), Version: d.GetVersionInfo()}, nonce: d.GetNonce(),
		hashes: make(map[string]string, len(d.GetResources())),
	}
	s := m.find(r.TypeURL)
	if s == nil {
		r.problem = fmt.Errorf("resources of type %q were not asked for", r.TypeURL)
		return r
	}
	r.first = !s.answered
	for i, body := range d.GetResources() {
		name, body, err := unwrap(r.TypeURL, body)
		if err != nil {
			r.problem = fmt.Errorf("resource %d: %w", i, err)
			return r
		}
		if _, twice := r.hashes[name]; twice {
			r.problem = fmt.Errorf("resource %q is in the response twice", name)
			return r
		}
		if !s.wants(name) {
			continue
		}
		version := resource.Version(body.GetValue())
		r.hashes[name] = version
		if s.held[name] != version {
			r.Set = append(r.Set, Resource{Name: name, Version: version, Body: body})
		}
	}
	// Only these say what is gone (xDS protocol, "Deleting Resources").
	if s.wildcard || s.typeURL == resource.ClusterType || s.typeURL == resource.ListenerType {
		for n := range s.held {
			if _, ok := r.hashes[n]; !ok {
				r.Removed = append(r.Removed, n)
			}
		}
		slices.Sort(r.Removed)
	}
	return r
}

// accepted notes that r is in effect.
func (m *machine) accepted(r *received) {
	m.find(r.TypeURL).version = r.Version
	m.partly(r)
}

// partly notes that what r holds is in effect, and not all there was with it: the version
// of the server that counts is still the one before.
func (m *machine) partly(r *received) {
	s := m.find(r.TypeURL)
	s.answered = true
	for _, res := range r.Set {
		if s.wants(res.Name) { // it may have been dropped while it was applied
			s.held[res.Name] = res.Version
		}
	}
	for _, n := range r.Removed {
		delete(s.held, n)
	}
	told := func(n string) {
		if _, ok := s.names[n]; ok {
			s.names[n] = true
			delete(s.again, n)
		}
	}
	for _, res := range r.Set {
		told(res.Name)
	}
	for _, n := range r.Removed {
		told(n)
	}
	if m.sotw {
		for n := range r.hashes {
			told(n)
		}
	}
}

// impaired notes what is in force, so that its removal means something, and is to be sent again to the next stream.
func (m *machine) impaired(typeURL string, names []string) {
	s := m.find(typeURL)
	for _, n := range names {
		if s.wants(n) {
			s.held[n] = ""
		}
	}
}

const wrapperType = "type.googleapis.com/envoy.service.discovery.v3.Resource"

// unwrap finds the name of a resource in state of the world, where it is either wrapped
// in a message that has it, or the first field of the resource itself.
func unwrap(typeURL string, body *anypb.Any) (string, *anypb.Any, error) {
	if body.GetTypeUrl() == wrapperType {
		var w discoveryv3.Resource
		if err := proto.Unmarshal(body.GetValue(), &w); err != nil {
			return "", nil, err
		}
		if t := w.GetResource().GetTypeUrl(); t != typeURL {
			return "", nil, fmt.Errorf("%q is of type %q in a response of type %q", w.GetName(), t, typeURL)
		}
		return w.GetName(), w.GetResource(), nil
	}
	if t := body.GetTypeUrl(); t != typeURL {
		return "", nil, fmt.Errorf("it is of type %q in a response of type %q", t, typeURL)
	}
	name, err := resource.NameOf(typeURL, body.GetValue())
	if err != nil {
		return "", nil, fmt.Errorf("finding its name: %w", err)
	}
	return name, body, nil
}
