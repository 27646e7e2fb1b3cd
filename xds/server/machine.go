package server

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"

	"github.com/weirmesh/weir/xds/resource"
)

// machine decides what one stream is sent. It is pure: requests and Views go in, responses
// come out; it has no connection, clock or goroutine, and is not safe for concurrent use.
//
// A View is driven to the client in a round of phases, which make before they break:
//
//	clusters    additions and changes of clusters
//	routes      then of listeners, routes and virtual hosts
//	unroute     then removals of those (of virtual hosts, only where their table goes, too)
//	uncluster   then removals of clusters, endpoints, secrets and extensions
//
// A phase begins when everything sent in the one before is ACKed or NACKed; `routes` waits
// in addition until the endpoints of the clusters just sent are answered, because Envoy
// uses a cluster only then. (Deletions go from what refers to what is referred to. That is
// not the order of additions backwards: a route must never outlive its cluster.)
// Views that are published during a round merge: only the latest gets the next round.
//
// Endpoints, secrets and all types not named above are free: additions and changes take
// part in no phase and go out at once from the latest View.
//
// Of each type at most one response is unanswered; what changes meanwhile merges into the
// next. So a slow client costs memory in proportion to what is subscribed, not to what happens.
type machine struct {
	sotw        bool // state of the world instead of delta
	noncePrefix string
	limits      limits
	bundles     *bundles // shared by all machines; nil: each response is made by itself

	target *resource.View // being driven to the client by this round; nil before the first
	latest *resource.View // the newest published
	phase  phase
	subs   []*subscription // in the order in which they are sent
	names  int             // names subscribed to, all types

	// warming are the clusters sent in this round whose endpoints are on their way, but for
	// those in the response awaited.
	warming map[string]struct{}
	awaited *flight
	// replaced are the clusters that changed while their endpoints were not subscribed to:
	// those are sent again even to a client that says it has them.
	replaced map[string]struct{}

	nonces  uint64
	round   uint64 // Version of the last View whose round is done
	settled uint64 // Version of the last View of which everything is answered
	active  uint64 // the same, and nothing was rejected; see Client.Active
	out     []*response
	nacks   []rejection // for the log, until taken
	mended  []mending   // see Observer.Mended, until taken
	named   []naming    // see Feed.Named, until taken
	// accepted are the resources that were ACKed since settled grew last, see Observer.Applied.
	accepted []*resource.Resource
}

// maxAccepted is where a client that goes on to accept one type, but does not answer
// another, is no longer followed in detail.
const maxAccepted = 1 << 14

// naming is that the client begins or ends to ask by name for something.
type naming struct {
	typeURL, name string
	asks          bool
}

// limits is what a peer may make the machine hold.
type limits struct {
	types int // subscriptions by type
	names int // names subscribed to, and versions claimed, all types together
}

type phase uint8

const (
	phaseClusters phase = iota
	phaseRoutes
	phaseUnroute
	phaseUncluster
	phaseDone
)

func (p phase) String() string {
	return [...]string{"clusters", "routes", "unroute", "uncluster", "done"}[p]
}

// response is an effect of a step: something to send.
type response struct {
	typeURL   string
	nonce     string
	version   uint64
	resources []*resource.Resource
	removed   []string // delta only
	bundle    *bundle  // all that resources are, if not nil
}

// mending is that the client took what it had rejected.
type mending struct{ typeURL, name string }

type rejection struct {
	typeURL   string
	nack      *NACK
	resources []*resource.Resource
}

func newMachine(sotw bool, noncePrefix string, l limits, b *bundles) *machine {
	return &machine{sotw: sotw, noncePrefix: noncePrefix, limits: l, bundles: b, replaced: map[string]struct{}{}}
}

// publish makes v the View that the client should hold.
func (m *machine) publish(v *resource.View) []*response {
	if m.pass(v) {
		return nil
	}
	return m.drive(v)
}

// pass makes v the View of a client that has answered everything, if v has nothing else for
// it: most changes are so to most clients. It does what drive would do, or nothing.
func (m *machine) pass(v *resource.View) bool {
	if m.target == nil || m.target != m.latest || m.phase != phaseDone || len(m.subs) == 0 {
		return false
	}
	alike := v.Alike(m.latest)
	for _, s := range m.subs {
		if s.busy() || !alike && s.concerns(m.latest, v) {
			return false
		}
	}
	if !alike {
		for _, s := range m.subs {
			s.move(v)
		}
	}
	m.latest, m.target, m.round = v, v, v.Version
	m.warming, m.awaited = nil, nil
	m.settle()
	return true
}

// drive is publish for a client that v may have something for.
func (m *machine) drive(v *resource.View) []*response {
	old := m.latest
	m.latest = v
	for _, s := range m.subs {
		if !s.sequenced {
			s.retarget(old, v)
		}
	}
	if m.target == nil {
		m.nextRound()
	}
	return m.advance()
}

// answered takes the ACK or NACK of what is in flight.
func (m *machine) answered(s *subscription, nack *rpcstatus.Status, now time.Time) {
	f := s.flight
	s.flight = nil
	if nack == nil {
		s.acked = f.version
		// What a client gets first, or asks for later, is no news to anybody.
		if m.settled > 0 && f.version > m.settled && len(m.accepted) < maxAccepted {
			m.accepted = append(m.accepted, f.resources...)
		}
		if len(s.nacked) > 0 {
			for n := range s.nacked {
				if m.isWhole(s) || f.has(n) {
					delete(s.nacked, n)
					m.mended = append(m.mended, mending{s.typeURL, n})
				}
			}
		}
	} else {
		s.rejected(f, nack.GetMessage(), now, m.isWhole(s))
		m.nacks = append(m.nacks, rejection{s.typeURL, s.lastNACK, f.resources})
	}
	if !f.partial && !s.owing && len(s.retry) == 0 {
		s.settled = max(s.settled, f.version)
	}
	switch s.typeURL {
	case resource.EndpointType:
		// Whatever of it is dirty by now is a later change; to wait for that as well
		// would keep routes waiting for as long as endpoints come and go.
		if len(m.warming) > 0 {
			for _, n := range f.names {
				delete(m.warming, n)
			}
		}
	case resource.ClusterType:
		if eds := m.find(resource.EndpointType); eds != nil && nack == nil && m.phase == phaseClusters {
			m.warm(f, eds)
		}
	}
}

// warm notes which endpoints the clusters that were ACKed wait for.
func (m *machine) warm(f *flight, eds *subscription) {
	if eds.flight != nil && overlap(f.names, eds.flight.names) {
		m.awaited = eds.flight
	}
	note := func(n string) {
		if f.has(n) && !(eds.flight != nil && eds.flight.has(n)) && eds.coming(n, m.latest, m.target) {
			put(&m.warming, n) // as long as blocked agrees
		}
	}
	for n := range eds.dirty {
		note(n)
	}
	for _, batch := range eds.retry {
		for _, n := range batch {
			note(n)
		}
	}
}

// overlap reports whether two lists in order have a name in common.
func overlap(a, b []string) bool {
	for len(a) > 0 && len(b) > 0 {
		switch c := cmp.Compare(a[0], b[0]); {
		case c == 0:
			return true
		case c < 0:
			a = a[1:]
		default:
			b = b[1:]
		}
	}
	return false
}

// advance sends what may be sent and moves from phase to phase and round to round as far
// as it gets.
func (m *machine) advance() []*response {
	if m.latest == nil || len(m.subs) == 0 {
		return nil // nothing is in effect where nothing was asked for
	}
	for {
		for _, s := range m.subs {
			m.send(s)
		}
		if m.blocked() {
			break
		}
		if m.phase < phaseDone {
			m.phase++
			continue
		}
		m.round = m.target.Version
		if m.target == m.latest {
			break
		}
		m.nextRound()
	}
	m.settle()
	out := m.out
	m.out = nil
	return out
}

// blocked reports whether the phase must wait for an answer.
func (m *machine) blocked() bool {
	if m.phase == phaseClusters && (m.awaited != nil || len(m.warming) > 0) {
		eds := m.find(resource.EndpointType)
		if m.awaited == eds.flight && m.awaited != nil {
			return true
		}
		m.awaited = nil
		maps.DeleteFunc(m.warming, func(n string, _ struct{}) bool { return !eds.coming(n, m.latest, m.target) })
		if len(m.warming) > 0 {
			return true
		}
		m.warming = nil
	}
	for _, s := range m.subs {
		if s.sequenced && s.flight != nil {
			return true
		}
	}
	return false
}

func (m *machine) nextRound() {
	old := m.target
	m.target, m.phase = m.latest, phaseClusters
	for _, s := range m.subs {
		if s.sequenced {
			s.retarget(old, m.target)
		}
	}
	m.warming, m.awaited = nil, nil
}

// settle computes up to which View everything is answered, and everything is in effect.
// Removals of free types do not count: nothing refers to what is removed.
func (m *machine) settle() {
	settled := m.round
	for _, s := range m.subs {
		if s.flight == nil {
			s.settled = m.latest.Version
		}
		if !s.sequenced {
			settled = min(settled, s.settled)
		}
	}
	m.settled = max(m.settled, settled)
	if !m.rejects() {
		m.active = max(m.active, m.settled)
	}
}

// rejects reports whether the client refuses something that it should hold.
func (m *machine) rejects() bool {
	return slices.ContainsFunc(m.subs, func(s *subscription) bool { return len(s.nacked) > 0 })
}

// isWhole reports whether responses of this type hold all resources, changed or not: in
// state of the world that is how listeners and clusters, and wildcards, lose resources.
func (m *machine) isWhole(s *subscription) bool {
	return m.sotw && (s.whole || s.wildcard)
}

// send sends what is due and allowed of one type, if nothing of it is in flight.
func (m *machine) send(s *subscription) {
	if s.flight != nil || m.phase < s.update {
		return
	}
	base := m.base(s)
	d := m.due(s, base)
	if len(d.names) == 0 {
		d.names, d.resources, d.removed = s.nextRetry(base)
		d.partial = len(d.names) > 0
		for _, r := range d.resources {
			m.replacing(s, r.Name())
		}
	}
	switch greet := s.greet && (!m.sotw || m.isWhole(s)); {
	case len(d.names) == 0 && !greet:
		return
	case m.isWhole(s):
		d.resources, d.removed = s.all(base, d.kept), nil
	}
	slices.SortFunc(d.resources, func(a, b *resource.Resource) int { return cmp.Compare(a.Name(), b.Name()) })
	slices.Sort(d.removed)
	slices.Sort(d.names)
	m.emit(s, d, nil)
}

// emit sends d, which is in order.
func (m *machine) emit(s *subscription, d due, b *bundle) {
	m.nonces++
	nonce := m.noncePrefix + strconv.FormatUint(m.nonces, 10)
	version := m.latest.Version
	if s.sequenced {
		version = m.target.Version
	}
	s.greet, s.sent, s.owing = false, version, s.owing && d.partial
	r := &response{typeURL: s.typeURL, nonce: nonce, version: version, resources: d.resources, removed: d.removed, bundle: b}
	s.flight = &flight{response: r, names: d.names, partial: d.partial}
	m.out = append(m.out, r)
}

// due is the content of a response.
type due struct {
	names     []string // what it changes
	resources []*resource.Resource
	removed   []string
	kept      []*resource.Resource // to be removed, but not yet
	partial   bool                 // part of a rejected response
}

// due takes from dirty what may be sent now.
func (m *machine) due(s *subscription, base resource.Set) (d due) {
	if len(s.dirty) == 0 {
		s.dirty = nil
		return d
	}
	target := m.target.Set(s.typeURL)
	var later map[string]held
	keep := func(n string, h held) {
		if later == nil {
			later = map[string]held{}
		}
		later[n] = h
		if h.res != nil {
			d.kept = append(d.kept, h.res)
		}
	}
	for n, r := range s.dirtyInOrder(base) {
		h := s.dirty[n]
		inTarget := s.visible(target, n) != nil
		if r == nil && (h.version == "" || h.forced) && inTarget {
			// Gone from the newest View, but the round in progress still has what
			// refers to it.
			r = target.At(n)
			keep(n, held{version: r.Version(), res: r})
		}
		switch {
		case r != nil:
			d.resources = append(d.resources, r)
			if h.version != "" {
				m.replacing(s, n)
			}
		case h.version != "" && (m.phase < s.removal && !m.tableStays(s, n) || inTarget):
			keep(n, h) // something may refer to it
			continue
		case m.sotw && !m.isWhole(s):
			// There is no way to say that it is missing or gone; the client notices
			// by what refers to it.
			delete(s.nacked, n)
			continue
		default:
			d.removed = append(d.removed, n)
			if s.typeURL == resource.ClusterType {
				delete(m.replaced, n)
			}
		}
		d.names = append(d.names, n)
	}
	s.dirty = later
	return d
}

// tableStays reports whether n is a virtual host of a route configuration that stays. It
// goes together with what is added: the domains of a table belong to one virtual host each,
// and may pass from what goes to what comes.
func (m *machine) tableStays(s *subscription, n string) bool {
	if s.typeURL != resource.VirtualHostType {
		return false
	}
	table, _, _ := strings.Cut(n, "/")
	return m.target.Set(resource.RouteType).Has(table)
}

// replacing is called for a resource that takes the place of one that the client holds.
// Of a changed cluster Envoy makes a new one, which is not used before a load assignment
// has come, changed or not: so that is sent again.
func (m *machine) replacing(s *subscription, name string) {
	if s.typeURL != resource.ClusterType || !m.latest.Set(resource.EndpointType).Has(name) && !m.target.Set(resource.EndpointType).Has(name) {
		return
	}
	if eds := m.find(resource.EndpointType); eds != nil && eds.subscribed(name) {
		eds.force(name)
		m.owe(eds)
	} else {
		m.replaced[name] = struct{}{}
	}
}
