package server

import (
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weirmesh/weir/xds/resource"
)

// subscription is the state of one type on one stream.
//
// What the client holds is not stored: it is what it should hold, filtered by what it
// subscribed to, except for the names in dirty. So an idle client costs its names.
type subscription struct {
	typeURL string
	class

	wildcard bool
	limited  bool         // to wild: see resource.View
	wild     resource.Set // while limited
	named    bool         // names were given once: an empty list no longer means everything
	names    names
	dirty    map[string]held // nil when empty: a map never gives its memory back
	greet    bool            // the first request is answered even if there is nothing to say
	flight   *flight
	retry    [][]string // parts of a rejected response, to be tried by themselves
	retries  int

	sent, acked uint64 // View versions of the last response sent and ACKed
	settled     uint64 // View version up to which everything was answered, unless owing
	owing       bool   // something was subscribed to since the last response
	nacked      map[string]struct{}
	lastNACK    *NACK
}

// held is what the client holds of a dirty name.
type held struct {
	version string             // "" for nothing, or it does not matter
	res     *resource.Resource // nil if only the version is known
	forced  bool               // send it even if it has it
}

// flight is a response that is not answered yet.
type flight struct {
	*response
	names   []string // what it changed, in order
	partial bool     // one of retry: it does not hold all that is dirty
}

func (f *flight) has(name string) bool {
	_, ok := slices.BinarySearch(f.names, name)
	return ok
}

// class is how a type is treated, see machine.
type class struct {
	rank            int  // place in the order of sending
	sequenced       bool // takes part in the phases
	update, removal phase
	whole           bool // in state of the world a response holds all
}

// classOf is the one table of types.
func classOf(typeURL string) class {
	switch typeURL {
	case resource.ClusterType:
		return class{rank: 0, sequenced: true, update: phaseClusters, removal: phaseUncluster, whole: true}
	case resource.EndpointType:
		return class{rank: 1, removal: phaseUncluster}
	case resource.ListenerType:
		return class{rank: 2, sequenced: true, update: phaseRoutes, removal: phaseUnroute, whole: true}
	case resource.VirtualHostType: // before the table in which a client would miss them
		return class{rank: 3, sequenced: true, update: phaseRoutes, removal: phaseUnroute}
	case resource.RouteType:
		return class{rank: 4, sequenced: true, update: phaseRoutes, removal: phaseUnroute}
	case resource.ScopedRouteType:
		return class{rank: 5, sequenced: true, update: phaseRoutes, removal: phaseUnroute}
	case resource.SecretType, resource.ExtensionConfigType:
		return class{rank: 6, removal: phaseUncluster}
	}
	return class{rank: 7}
}

func newSubscription(typeURL string) *subscription {
	return &subscription{
		typeURL: typeURL, class: classOf(typeURL),
		nacked: map[string]struct{}{},
	}
}

func (s *subscription) subscribed(name string) bool {
	if s.wildcard && (!s.limited || s.wild.Has(name)) {
		return true
	}
	return s.names.has(name) || s.typeURL == resource.VirtualHostType && s.names.has(tableOf(name))
}

// tableOf is the route configuration that a virtual host is in. Who subscribes to a route
// configuration's name among the virtual hosts, as Envoy does, means all of them.
func tableOf(virtualHost string) string {
	return virtualHost[:max(0, strings.LastIndexByte(virtualHost, '/'))]
}

func (s *subscription) isTable(name string) bool {
	return s.typeURL == resource.VirtualHostType && tableOf(name) == ""
}

// subscribeTable reports whether the table was new. known are versions that the client holds.
func (s *subscription) subscribeTable(base resource.Set, table string, known map[string]string) bool {
	for n, r := range base.All() {
		if tableOf(n) == table && !s.subscribed(n) {
			s.touch(n, r, held{version: known[n]})
		}
	}
	for n, v := range known {
		if tableOf(n) == table && !s.subscribed(n) && !base.Has(n) {
			s.touch(n, nil, held{version: v})
		}
	}
	s.named = true
	return s.names.add(table)
}

func (s *subscription) interested() bool { return s.wildcard || s.names.len() > 0 }

// coming reports whether an addition or change of name, or that there is none, is yet to
// be sent or answered. (A removal may have to wait, so nothing may wait for it.)
func (s *subscription) coming(name string, latest, target *resource.View) bool {
	if !s.subscribed(name) {
		return false
	}
	if h, ok := s.dirty[name]; ok && (h.version == "" || latest.Set(s.typeURL).Has(name) || h.forced && target.Set(s.typeURL).Has(name)) {
		return true
	}
	if s.flight != nil && s.flight.has(name) {
		return true
	}
	return slices.ContainsFunc(s.retry, func(batch []string) bool { return slices.Contains(batch, name) })
}

// everything reports a subscription to all there is.
func (s *subscription) everything() bool { return s.wildcard && !s.limited }

// visible is what the client should hold of a name, given what there is; nil for nothing.
func (s *subscription) visible(base resource.Set, name string) *resource.Resource {
	if r := base.At(name); r != nil && s.subscribed(name) {
		return r
	}
	return nil
}

// retarget notes what differs between what the client should hold by the old View and what
// it should hold by the new one.
func (s *subscription) retarget(oldView, view *resource.View) {
	old, base := oldView.Set(s.typeURL), view.Set(s.typeURL)
	wild, limited := view.Wildcard(s.typeURL)
	was := *s // the subscription under the old View
	if s.limited = limited; limited {
		s.wild = wild
	}
	if old.Same(base) && (!limited || was.wild.Same(wild)) {
		return
	}
	note := func(n string) {
		h, ok := s.dirty[n]
		if !ok {
			h.res = was.visible(old, n)
			h.version = versionOf(h.res)
		}
		s.touch(n, s.visible(base, n), h)
	}
	for n := range base.Diff(old, resource.Same) {
		if s.subscribed(n) || was.subscribed(n) {
			note(n)
		}
	}
	if limited && s.wildcard {
		for n := range wild.Diff(was.wild, resource.Same) {
			note(n)
		}
	}
	s.names.follow(base)
}

// busy reports whether there is something to send or to be answered.
func (s *subscription) busy() bool {
	return s.flight != nil || s.greet || len(s.dirty)+len(s.retry) > 0
}

// manyDifferences is where it is not worth while to look for one that matters.
const manyDifferences = 256

// concerns reports whether what the client should hold differs between two Views, or may.
func (s *subscription) concerns(oldView, view *resource.View) bool {
	wild, limited := view.Wildcard(s.typeURL)
	if limited != s.limited {
		return true
	}
	if limited && s.wildcard {
		for range wild.Diff(s.wild, resource.Same) {
			return true
		}
	}
	seen := 0
	for n := range view.Set(s.typeURL).Diff(oldView.Set(s.typeURL), resource.Same) {
		if seen++; seen > manyDifferences || s.subscribed(n) {
			return true
		}
	}
	return false
}

// move goes to a View that does not concern the client.
func (s *subscription) move(view *resource.View) {
	if s.limited {
		s.wild, _ = view.Wildcard(s.typeURL)
	}
	s.names.follow(view.Set(s.typeURL))
}

// touch makes name dirty, or clean if the client holds what it should, which is r.
func (s *subscription) touch(name string, r *resource.Resource, h held) {
	if !h.forced && h.version == versionOf(r) {
		delete(s.dirty, name)
		return
	}
	s.mark(name, h)
}

func (s *subscription) mark(name string, h held) {
	if s.dirty == nil {
		s.dirty = map[string]held{}
	}
	s.dirty[name] = h
}

// dirtyInOrder yields the dirty names with their resources in base: those there are in
// the order of their names, then those there are not.
func (s *subscription) dirtyInOrder(base resource.Set) iter.Seq2[string, *resource.Resource] {
	return func(yield func(string, *resource.Resource) bool) {
		var missing []string
		if 8*len(s.dirty) > base.Len() { // walking beats looking up and sorting
			for n, r := range base.All() {
				if _, ok := s.dirty[n]; ok && s.subscribed(n) && !yield(n, r) {
					return
				}
			}
			for n := range s.dirty {
				if s.visible(base, n) == nil {
					missing = append(missing, n)
				}
			}
		} else {
			for _, n := range slices.Sorted(maps.Keys(s.dirty)) {
				if r := s.visible(base, n); r == nil {
					missing = append(missing, n)
				} else if !yield(n, r) {
					return
				}
			}
		}
		slices.Sort(missing)
		for _, n := range missing {
			if !yield(n, nil) {
				return
			}
		}
	}
}

// force has name sent even if the client holds it.
func (s *subscription) force(name string) {
	h, ok := s.dirty[name]
	if !ok {
		h.version = unknownVersion
	}
	h.forced = true
	s.mark(name, h)
}

// unknownVersion stands for some version that the client holds.
const unknownVersion = "?"

// subscribeAll subscribes to every name there is, or to those that a wildcard means. known
// are versions that the client holds.
func (s *subscription) subscribeAll(view *resource.View, known map[string]string) {
	if s.wildcard {
		return
	}
	before := *s
	base := view.Set(s.typeURL)
	all, limited := view.Wildcard(s.typeURL)
	if s.wildcard, s.limited = true, limited; limited {
		s.wild = all
	}
	for n, v := range known {
		if !before.subscribed(n) {
			s.touch(n, s.visible(base, n), held{version: v})
		}
	}
	if s.dirty == nil {
		s.dirty = make(map[string]held, all.Len())
	}
	for n := range all.All() {
		if known[n] == "" && !before.subscribed(n) {
			s.mark(n, held{})
		}
	}
}

// subscribe reports whether the name was new. known is the version that the client
// holds; without one the resource is sent even if it has been before, because the client
// may have forgotten it (xDS protocol, "Subscribing to Resources").
func (s *subscription) subscribe(base resource.Set, name, known string) bool {
	r := base.At(name)
	if r != nil {
		name = r.Name() // the request's own string need not live as long as the stream
	}
	s.named = true
	isNew := s.names.add(name)
	h := s.dirty[name]
	if known != "" {
		h.version = known
	} else {
		h.forced = true
	}
	s.touch(name, r, h)
	return isNew
}

// unsubscribe reports whether the name was subscribed to.
func (s *subscription) unsubscribe(name string, sotw bool) bool {
	if !s.names.remove(name) {
		return false
	}
	switch {
	case s.isTable(name):
		s.forget()
	case !s.wildcard:
		delete(s.dirty, name)
		delete(s.nacked, name)
	case !sotw:
		// The client does not know whether the wildcard includes it
		// (xDS protocol, "Unsubscribing from Resources").
		s.mark(name, held{forced: true})
	}
	return true
}

func (s *subscription) unsubscribeAll() {
	s.wildcard, s.named = false, true
	s.forget()
}

// forget drops what is not subscribed to any more.
func (s *subscription) forget() {
	for n := range s.dirty {
		if !s.subscribed(n) {
			delete(s.dirty, n)
		}
	}
	for n := range s.nacked {
		if !s.subscribed(n) {
			delete(s.nacked, n)
		}
	}
}

// all is everything the client may hold, with the resources it keeps a little longer.
func (s *subscription) all(base resource.Set, kept []*resource.Resource) []*resource.Resource {
	out := make([]*resource.Resource, 0, base.Len()+len(kept))
	for n, r := range base.All() {
		if s.subscribed(n) {
			out = append(out, r)
		}
	}
	return append(out, kept...)
}

// maxMessage is what is kept of a client's words about what it rejects, until it takes it: as long as it names what is bad, all of it is read.
const maxMessage = 8 << 10

// maxRetries bounds the responses by which the bad resources of one type are looked for:
// eight bad ones among a thousand (2·8·log2 1000) are found.
const maxRetries = 160

// rejected takes a NACK. The client may have rejected all for one bad resource, so a
// response with several is tried again in parts: what the message names one by one and
// the rest together, or halves if it names nothing. What is rejected alone is bad, and is
// not sent again before it changes.
func (s *subscription) rejected(f *flight, message string, now time.Time, whole bool) {
	s.lastNACK = &NACK{Names: f.names, Version: f.version, Message: strings.ToValidUTF8(message[:min(len(message), maxMessage)], "�"), Time: now}
	var named, rest []string
	for _, n := range f.names {
		if mentions(message, n) {
			named = append(named, n)
		} else {
			rest = append(rest, n)
		}
	}
	if len(named) > 0 {
		s.lastNACK.Names = named
	}
	s.retries++
	switch {
	case whole || len(f.names) <= 1 || s.retries > maxRetries:
		for _, n := range s.lastNACK.Names {
			if s.subscribed(n) {
				s.nacked[n] = struct{}{}
			}
		}
	case len(named) == 0 || len(named) > maxRetries/4:
		half := len(f.names) / 2
		s.retry = append(s.retry, f.names[:half], f.names[half:])
	default:
		if len(rest) > 0 {
			s.retry = append(s.retry, rest)
		}
		for i := range named {
			s.retry = append(s.retry, named[i:i+1])
		}
	}
}

// nextRetry is the next part of a rejected response, as far as it is still wanted.
func (s *subscription) nextRetry(base resource.Set) (names []string, resources []*resource.Resource, removed []string) {
	for len(s.retry) > 0 && len(names) == 0 {
		for _, n := range s.retry[0] {
			if _, dirty := s.dirty[n]; dirty || !s.subscribed(n) {
				continue
			}
			names = append(names, n)
			if r := base.At(n); r != nil {
				resources = append(resources, r)
			} else {
				removed = append(removed, n)
			}
		}
		s.retry = s.retry[1:]
	}
	if len(s.retry) == 0 && len(names) == 0 {
		s.retry, s.retries = nil, 0
	}
	return names, resources, removed
}

// mentions reports whether name stands in text by itself, not as a part of a longer name.
func mentions(text, name string) bool {
	if name == "" {
		return false
	}
	inName := func(b byte) bool {
		return b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= 0x80 || b == '|' || b == '_' || b == '-' || b == '/'
	}
	for from := 0; ; {
		i := strings.Index(text[from:], name)
		if i < 0 {
			return false
		}
		start, end := from+i, from+i+len(name)
		if (start == 0 || !inName(text[start-1])) && (end == len(text) || !inName(text[end])) {
			return true
		}
		from = start + 1
	}
}

func versionOf(r *resource.Resource) string {
	if r == nil {
		return ""
	}
	return r.Version()
}
