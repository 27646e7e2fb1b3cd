package control

import (
	"cmp"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"weak"

	"github.com/weirmesh/weir/xds/resource"
	"github.com/weirmesh/weir/xds/server"
)

// census asks the streams who needs an object and who has it. A proxy needs an object if
// it is subscribed to a resource that was made of it; it has the object if it has ACKed
// every such resource in a version that is not older than the object's, and, on demand,
// what those name besides: until then it goes on with what was before.
type census struct {
	xds *server.Server

	mu sync.Mutex
	// places are where an object was ever found; an empty one: in too many to list. Some
	// are out of date; only what a View says now counts.
	places map[resource.Origin]map[place]struct{}
	listed int                                 // in places
	known  map[*server.Standing]*resource.View // whose resources are in places

	// refs are what resources refer to, as far as somebody asked; named counts them all.
	refs  map[weak.Pointer[resource.Resource]][]place
	named int
}

// place names a resource.
type place struct{ typeURL, name string }

// count is what a census finds about one object.
type count struct {
	needed, active int
	// unknown are proxies that have not been given the version of the configuration in
	// which the object came into force; on demand that is the index.
	unknown int
	missing []missing
}

// missing is a proxy that needs an object and does not have it.
type missing struct {
	node    string
	typeURL string
	names   []string
	nack    *server.NACK // nil: it has not answered yet
}

func newCensus(x *server.Server) *census {
	c := &census{xds: x, refs: map[weak.Pointer[resource.Resource]][]place{}}
	c.forget()
	return c
}

func (c *census) forget() {
	c.places, c.listed, c.known = map[resource.Origin]map[place]struct{}{}, 0, nil
}

const (
	// manyObjects is how many objects it takes that reading all resources is cheaper than
	// looking for those of each.
	manyObjects = 64
	// manyPlaces is the same for the resources of one object, such as a policy for the
	// whole mesh.
	manyPlaces = 1024
	// maxPlaces is what a mesh of 20,000 services needs (some 100 bytes each); places
	// out of date go when it is reached.
	maxPlaces = 400_000
	// maxNamed bounds what is kept of what resources refer to (some 100 bytes each).
	maxNamed = 50_000
)

// rows of a match: which objects a resource is made of.
type rows []int32

// match is what a set of resources has to do with the objects asked for.
type match struct {
	set   resource.Set
	names map[string]rows
	all   bitset // of all names together
}

// bitset is a set of small numbers.
type bitset []uint64

func (b bitset) set(i int32)      { b[i/64] |= 1 << (i % 64) }
func (b bitset) has(i int32) bool { return b[i/64]&(1<<(i%64)) != 0 }

// take counts for each of wanted; detail lists who is missing, up to a limit.
func (c *census) take(wanted []*receipt, detail int) (counts []count, connected int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	counts = make([]count, len(wanted))
	if len(wanted) == 0 {
		return counts, 0
	}
	index := make(map[resource.Origin]int32, len(wanted))
	newest := uint64(0)
	for i, x := range wanted {
		index[x.origin] = int32(i)
		newest = max(newest, x.mesh)
	}
	var lesson *lesson
	if len(wanted) < manyObjects && !slices.ContainsFunc(wanted, func(x *receipt) bool { return unlisted(x.origin) }) {
		lesson = c.learn()
	}
	words := (len(wanted) + 63) / 64
	matches := map[resource.Set]*match{}
	needs, lacks := make(bitset, words), make(bitset, words)
	c.xds.Survey(func(t *server.Standing) {
		connected++
		view := t.View()
		lesson.take(t, view)
		clear(needs)
		clear(lacks)
		knows := uint64(0)
		if view != nil {
			knows = view.Version
		}
		follow := c.follower(t, view)
		if follow != nil {
			knows = min(knows, follow.subs[resource.IndexType].Through())
		}
		for sub := range t.Subscriptions() {
			set := view.Set(sub.TypeURL())
			m := matches[set]
			if m == nil {
				m = &match{set: set, all: make(bitset, words)}
				if lesson != nil && !c.inTooMany(wanted) {
					m.look(set, sub.TypeURL(), wanted, c.places)
				} else {
					m.read(set, index)
				}
				matches[set] = m
			}
			m.mark(sub, needs)
			through := sub.Through()
			for name, nack := range sub.Outstanding() {
				for _, i := range m.names[name] {
					if nack == nil && through >= wanted[i].mesh {
						continue
					}
					lacks.set(i)
					if detail > 0 {
						counts[i].note(detail, t.Node(), sub.TypeURL(), name, nack)
					}
				}
			}
			if follow == nil || len(m.names) == 0 {
				continue
			}
			for name := range sub.Names() {
				is := m.names[name]
				if len(is) == 0 {
					continue
				}
				if p, nack, ok := follow.lacks(c.refersTo(set.At(name))); ok {
					for _, i := range is {
						lacks.set(i)
						if detail > 0 {
							counts[i].note(detail, t.Node(), p.typeURL, p.name, nack)
						}
					}
				}
			}
		}
		for w, word := range needs {
			for ; word != 0; word &= word - 1 {
				i := int32(w*64 + bits.TrailingZeros64(word))
				counts[i].needed++
				if !lacks.has(i) && knows >= wanted[i].mesh {
					counts[i].active++
				}
			}
		}
		if knows < newest {
			for i, x := range wanted {
				if knows < x.mesh {
					counts[i].unknown++
					if detail > 0 && needs.has(int32(i)) {
						counts[i].note(detail, t.Node(), "", "", nil)
					}
				}
			}
		}
	})
	if lesson != nil {
		c.known = lesson.known
	}
	return counts, connected
}

// inTooMany reports whether one of wanted was found in more places than are listed.
func (c *census) inTooMany(wanted []*receipt) bool {
	return slices.ContainsFunc(wanted, func(x *receipt) bool { p := c.places[x.origin]; return p != nil && len(p) == 0 })
}

// follower is for a client with configuration on demand; nil for others, which have
// everything that something they hold may name.
func (c *census) follower(t *server.Standing, view *resource.View) *follower {
	subs := map[string]server.Subscribed{}
	for sub := range t.Subscriptions() {
		subs[sub.TypeURL()] = sub
	}
	if _, ok := subs[resource.IndexType]; !ok || view == nil {
		return nil
	}
	return &follower{view: view, subs: subs, out: map[string]map[string]*server.NACK{}}
}

// nodes are those that are connected.
func (c *census) nodes() (out []string) {
	c.xds.Survey(func(t *server.Standing) { out = append(out, t.Node()) })
	return out
}

func (n *count) note(limit int, node, typeURL, name string, nack *server.NACK) {
	if i := slices.IndexFunc(n.missing, func(m missing) bool { return m.node == node && m.typeURL == typeURL }); i >= 0 {
		m := &n.missing[i]
		if m.nack == nil {
			m.nack = nack
		}
		if !slices.Contains(m.names, name) && len(m.names) < limit {
			m.names = append(m.names, name)
		}
		return
	}
	if len(n.missing) < limit {
		n.missing = append(n.missing, missing{node: node, typeURL: typeURL, names: []string{name}, nack: nack})
	}
}

// mark adds what a subscription makes its client need.
func (m *match) mark(sub server.Subscribed, needs bitset) {
	switch {
	case len(m.names) == 0:
	case sub.All():
		for w, word := range m.all {
			needs[w] |= word
		}
	case sub.Len() < len(m.names) && !m.tables(sub):
		for name := range sub.Names() {
			for _, i := range m.names[name] {
				needs.set(i)
			}
		}
	default:
		for name, is := range m.names {
			if sub.Has(name) {
				for _, i := range is {
					needs.set(i)
				}
			}
		}
	}
}

// tables reports whether some name may stand for more than itself: among virtual hosts
// that of a route configuration stands for all of its.
func (m *match) tables(sub server.Subscribed) bool {
	if sub.TypeURL() != resource.VirtualHostType {
		return false
	}
	for name := range sub.Names() {
		if !m.set.Has(name) {
			return true
		}
	}
	return false
}

// refersTo is what a resource refers to. It is looked at again and again while a change is
// under way, and to read a virtual host costs more than all the rest of a census in a small mesh.
func (c *census) refersTo(r *resource.Resource) []place {
	if r == nil {
		return nil
	}
	key := weak.Make(r) // what nobody is sent any more is not kept for this
	refs, ok := c.refs[key]
	if !ok {
		if c.named > maxNamed {
			clear(c.refs)
			c.named = 0
		}
		refs = refers(r)
		c.refs[key] = refs
		c.named += 1 + len(refs)
	}
	return refs
}

func (m *match) add(name string, i int32) {
	if m.names == nil {
		m.names = map[string]rows{}
	}
	m.names[name] = append(m.names[name], i)
	m.all.set(i)
}

// read fills m from all resources of a set.
func (m *match) read(set resource.Set, index map[resource.Origin]int32) {
	for name, r := range set.All() {
		for _, o := range r.Origins() {
			if i, ok := index[o]; ok {
				m.add(name, i)
			}
		}
	}
}

// look fills m from where the objects may be found.
func (m *match) look(set resource.Set, typeURL string, wanted []*receipt, places map[resource.Origin]map[place]struct{}) {
	for i, x := range wanted {
		for p := range places[x.origin] {
			if p.typeURL != typeURL {
				continue
			}
			if r := set.At(p.name); r != nil && slices.Contains(r.Origins(), x.origin) {
				m.add(p.name, int32(i))
			}
		}
	}
}

// namespaceOf is the part of a node's id that says where it is: <type>~<ip>~<name>~<domain>.
func namespaceOf(t *server.Standing) string {
	id := t.Node()
	return id[strings.LastIndexByte(id, '~')+1:]
}

// step is from one set to another that may hold more.
type step struct{ from, to resource.Set }

// lesson brings places up to the newest Views, at the cost of what changed in them: stream by
// stream, as each is looked at. (All of them before would leave out what is published meanwhile,
// and who has not got an object yet would count as one that does not need it.)
type lesson struct {
	c     *census
	known map[*server.Standing]*resource.View
	done  map[step]bool
	// Views of one namespace share most of their structure, others only most resources: to
	// compare those takes a walk through all.
	bases map[string]*resource.View
	any   *resource.View
}

func (c *census) learn() *lesson {
	if c.listed > maxPlaces {
		c.forget()
	}
	l := &lesson{c: c, known: make(map[*server.Standing]*resource.View, len(c.known)), done: map[step]bool{}, bases: map[string]*resource.View{}}
	for t, v := range c.known {
		l.bases[namespaceOf(t)], l.any = v, v
	}
	return l
}

// take is that of one stream; nothing is learned without a lesson or a View.
func (l *lesson) take(t *server.Standing, view *resource.View) {
	if l == nil || view == nil {
		return
	}
	l.known[t] = view
	ns := namespaceOf(t)
	was := cmp.Or(l.c.known[t], l.bases[ns], l.any)
	l.bases[ns], l.any = view, view
	if was.Alike(view) {
		return
	}
	for typeURL, set := range view.Sets {
		s := step{was.Set(typeURL), set}
		if s.from == s.to || l.done[s] {
			continue
		}
		l.done[s] = true
		for name := range s.to.Diff(s.from, func(a, b *resource.Resource) bool { return a == b }) {
			if r := set.At(name); r != nil {
				l.c.found(place{typeURL, r.Name()}, r.Origins())
			}
		}
	}
}

func (c *census) found(p place, origins []resource.Origin) {
	for _, o := range origins {
		list := c.places[o]
		switch _, have := list[p]; {
		case have, unlisted(o), list != nil && len(list) == 0:
		case list == nil:
			c.places[o] = map[place]struct{}{p: {}}
			c.listed++
		case len(list) >= manyPlaces:
			c.listed -= len(list)
			c.places[o] = map[place]struct{}{}
		default:
			list[p] = struct{}{}
			c.listed++
		}
	}
}

// unlisted are Pods: there are more of them than of all else, and nobody waits for one.
func unlisted(o resource.Origin) bool { return strings.HasPrefix(o.Value(), "Pod/") }
