// Package store is the one writer of the plan: it turns what sources say into
// mesh.Snapshots.
//
// config.Units enter (Step, or Run from sources); Updates leave: the Snapshot, the state
// of every object, all findings. Only what changed is lowered, and what did not change
// is shared with the Snapshot before. An object with errors is quarantined: its last
// good version stays in force, also across restarts, because last good versions are
// kept in the state folder. Which order units arrive in does not matter.
//
// Step, Analyze and Save are for one goroutine; Run is that goroutine. An Update is
// immutable and may be read by any number.
package store

import (
	"cmp"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/analyze"
	"github.com/weirmesh/weir/config/kube"
	"github.com/weirmesh/weir/internal/persist"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/registry"
	registryfile "github.com/weirmesh/weir/registry/file"
)

// Options of a Store.
type Options struct {
	Settings mesh.Settings
	// State is the folder that keeps lastgood/ and registry/; empty keeps nothing.
	State  string
	Ranges registry.Ranges
	// Assume are workloads that will run whatever the files say (the ingress gateway of
	// the laptop mesh): selectors that pick them pick something.
	Assume []*mesh.Workload
	// Applied is the folder of what `weir apply` was given: a user knows the objects in it,
	// not the files.
	Applied string
	// Facts says what is really there; nil: Services, Pods and Secrets are among the objects.
	Facts Facts
	// Keys are those of token issuers; nil: none are fetched.
	Keys Keys
	// Publish takes every Update, from Run's goroutine and in order. It must not block
	// for long: configuration waits for it.
	Publish func(*Update)
	Log     *slog.Logger
}

// Update is everything that is known at one moment.
type Update struct {
	Snapshot *mesh.Snapshot
	Objects  persist.Map[string, *Object] // by config.ID.String()
	Findings []config.Finding             // of files, objects and across objects; sorted
	// Analyzed says that the findings across objects belong to this Snapshot. They
	// follow in an Update of their own, so that the change itself does not wait.
	Analyzed bool
}

// Object finds the object that a part of the Snapshot stands for.
func (u *Update) Object(ref mesh.Ref) *Object { return u.Objects.At(config.IDOf(ref).String()) }

// Object is one object and what became of it.
type Object struct {
	ID config.ID
	// Raw is what its file says now; nil if the file cannot be read as far as that.
	Raw *config.Object
	// Serving is the version in force and Lowered what it was lowered to; nil if none.
	// Without a version in force Lowered may be what must stay closed (istio.Refuse).
	Serving *config.Object
	Lowered any
	State   State
	// Findings about Raw, and about other definitions of the same object.
	Findings []config.Finding
}

// LastGood reports whether an older version than the written one is in force.
func (o *Object) LastGood() bool { return o.Serving != nil && o.State == Quarantined }

// InForce is the version in force; if there is none, what is written, by which its subject may be kept closed.
func (o *Object) InForce() *config.Object { return cmp.Or(o.Serving, o.Raw) }

// Ref is where the object stands: as written, or if it cannot be read, as it was.
func (o *Object) Ref() mesh.Ref {
	if o.Raw != nil {
		return o.Raw.Ref
	}
	return o.Serving.Ref
}

// Lowered yields the objects in force whose lowered form is a T, such as
// *appsv1.Deployment, in order of their IDs.
func Lowered[T any](u *Update) iter.Seq2[*Object, T] {
	return func(yield func(*Object, T) bool) {
		for o := range u.Objects.Values() {
			if v, ok := o.Lowered.(T); ok && !yield(o, v) {
				return
			}
		}
	}
}

// Store is the writer.
type Store struct {
	o   Options
	log *slog.Logger

	units      map[string]config.Unit
	incomplete map[string]bool // names of units, and of folders that could not be read
	claims     map[config.ID][]claim
	held       map[config.ID]bool // in force although no unit says so any more
	saved      map[config.ID]*config.Object
	noted      map[config.ID]bool        // objects with findings
	unitNotes  map[string]bool           // units with findings
	facts      persist.Map[string, fact] // what is really there, by config.ID.String()
	notedFacts map[config.ID][]config.Finding
	problems   []registry.Problem
	stale      bool             // own is
	own        []config.Finding // what units, objects, facts and problems say
	all        []config.Finding // that and analysis; nil: to be joined

	objects  persist.Map[string, *Object]
	outside  persist.Map[string, mesh.Ref] // in force in no namespace of the mesh
	registry *registry.Registry
	legacy   converting
	scope    scope
	next     mesh.Snapshot  // being built
	snapshot *mesh.Snapshot // published last
	analyzer analyze.Analyzer
	analysis []config.Finding
	// analysis is about these.
	analyzed        *mesh.Snapshot
	analyzedObjects persist.Map[string, *Object]

	disk  *lastGood
	alloc uint64 // version of the allocations saved
}

// claim is a unit's word about an object.
type claim struct {
	unit  string
	rank  int
	order int // inside the unit
	o     *config.Object
}

// New makes a Store with what the state folder kept.
func New(o Options) (*Store, error) {
	s := &Store{o: o, log: o.Log, units: map[string]config.Unit{}, incomplete: map[string]bool{}, claims: map[config.ID][]claim{},
		held: map[config.ID]bool{}, noted: map[config.ID]bool{}, unitNotes: map[string]bool{},
		notedFacts: map[config.ID][]config.Finding{}, scope: newScope()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	settings := o.Settings
	s.next.Settings = &settings
	if o.Keys != nil {
		s.next.KeySets = o.Keys.Known()
	}
	var given map[mesh.Key]registry.Allocation
	if o.State != "" {
		var err error
		if given, err = registryfile.Load(filepath.Join(o.State, "registry")); err != nil {
			// Services get new addresses; refusing to start would be worse.
			s.log.Error("virtual addresses of services may have changed", "err", err, "remedy", "restore the file from a copy, or restart workloads that keep addresses they looked up")
		}
		if s.disk, s.saved, err = openLastGood(filepath.Join(o.State, "lastgood"), s.log); err != nil {
			return nil, fmt.Errorf("opening the state folder: %w", err)
		}
	}
	s.registry = registry.New(settings.TrustDomain, o.Ranges, given)
	s.alloc = s.registry.Generation()
	return s, nil
}

// Step applies what units say now and returns the new state. The first Step has all
// units there are: what it does not name is gone.
func (s *Store) Step(units ...config.Unit) *Update {
	affected := map[config.ID]bool{}
	for _, u := range units {
		s.take(u, affected)
		if o := s.lost(u); o != nil {
			if s.saved == nil {
				s.saved = map[config.ID]*config.Object{}
			}
			s.saved[o.ID] = o
		}
	}
	for id := range s.held {
		affected[id] = true
	}
	for id := range s.saved { // after the first Step only what is lost
		affected[id] = true
	}
	for _, id := range slices.SortedFunc(maps.Keys(affected), config.ID.Compare) {
		s.resolve(id)
	}
	s.saved = nil
	s.rescope()
	s.assemble()
	return s.update()
}

// take replaces the word of one unit.
func (s *Store) take(u config.Unit, affected map[config.ID]bool) {
	for _, o := range s.units[u.Name].Objects {
		affected[o.ID] = true
		s.claims[o.ID] = slices.DeleteFunc(s.claims[o.ID], func(c claim) bool { return c.unit == u.Name })
	}
	delete(s.units, u.Name)
	delete(s.incomplete, u.Name)
	if s.unitNotes[u.Name] || len(u.Findings) > 0 {
		s.stale = true
	}
	delete(s.unitNotes, u.Name)
	if u.Gone {
		return
	}
	compact := make([]*config.Object, len(u.Objects))
	for i, o := range u.Objects {
		affected[o.ID] = true
		c := claim{u.Name, u.Rank, i, o}
		at, _ := slices.BinarySearchFunc(s.claims[o.ID], c, func(a, b claim) int {
			return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.unit, b.unit), cmp.Compare(a.order, b.order))
		})
		s.claims[o.ID] = slices.Insert(s.claims[o.ID], at, c)
		compact[i] = o.Compact()
	}
	u.Objects = compact
	s.units[u.Name] = u
	if u.Incomplete {
		s.incomplete[u.Name] = true
	}
	if len(u.Findings) > 0 {
		s.unitNotes[u.Name] = true
	}
}

// resolve decides anew which version of an object is in force.
func (s *Store) resolve(id config.ID) {
	key := id.String()
	old := s.objects.At(key)
	var next *Object
	if claims := s.claims[id]; len(claims) > 0 {
		next = s.judge(id, claims, old)
		for i := range claims {
			claims[i].o = claims[i].o.Compact()
		}
	} else {
		delete(s.claims, id)
		next = s.hold(id, old)
	}
	delete(s.held, id)
	if s.noted[id] || next != nil && len(next.Findings) > 0 {
		s.stale = true
	}
	delete(s.noted, id)
	var lowered, before any
	if old != nil {
		before = old.Lowered
	}
	if next == nil {
		s.objects = s.objects.Delete(key)
	} else {
		lowered = next.Lowered
		s.objects = s.objects.Set(key, next)
		if len(s.claims[id]) == 0 {
			s.held[id] = true
		}
		if len(next.Findings) > 0 {
			s.noted[id] = true
		}
	}
	if old == nil || next == nil || old.Serving != next.Serving || next.Serving == nil {
		s.disk.note(id, next)
	}
	if !identical(before, lowered) {
		s.read(id, lowered)
		s.set(id, lowered)
	}
	s.mark(id, next)
}

// judge lowers the first claim on an object and keeps what is in force if it fails.
func (s *Store) judge(id config.ID, claims []claim, old *Object) *Object {
	first := claims[0].o
	next := &Object{ID: id}
	if old != nil && old.Raw != nil && old.Raw.Place == first.Place && !s.held[id] {
		*next = *old
		next.Findings = slices.DeleteFunc(slices.Clone(old.Findings), func(f config.Finding) bool { return f.Code == config.Duplicate })
	} else {
		next.Lowered, next.State, next.Findings = Lower(first, s.next.Settings)
		next.Raw = first.Compact()
		switch next.State {
		case Compiled:
			next.Serving = next.Raw
		case Quarantined:
			if next.Serving, next.Lowered = s.lastGood(id, old); next.Serving == nil {
				var told []config.Finding
				next.Lowered, told = refuse(first, s.next.Settings)
				next.Findings = append(next.Findings, told...)
			}
		}
	}
	for _, c := range claims[1:] {
		if c.rank >= config.Fallback && claims[0].rank < config.Fallback {
			continue
		}
		next.Findings = append(next.Findings, config.New(config.Duplicate, c.o.Ref, "", c.o.Ref.Line,
			fmt.Sprintf("%s %s is already defined at %s:%d, which is used", id.Kind, strings.TrimPrefix(id.Namespace+"/"+id.Name, "/"), first.Ref.File, first.Ref.Line),
			s.remedy(c.o)))
	}
	if old != nil && next.Raw == old.Raw && slices.Equal(next.Findings, old.Findings) {
		return old
	}
	return next
}

// remedy says what to do about an object that is defined elsewhere, too.
func (s *Store) remedy(o *config.Object) string {
	switch {
	case s.o.Applied == "" || o.Ref.File != filepath.Join(s.o.Applied, o.ID.FileName()+".yaml"):
		return "remove one of the two, or rename it"
	case o.ID.Namespace == "":
		return fmt.Sprintf("it was applied before: weir delete %s/%s", o.ID.Kind, o.ID.Name)
	}
	return fmt.Sprintf("it was applied before: weir delete %s/%s -n %s", o.ID.Kind, o.ID.Name, o.ID.Namespace)
}

// lastGood is the version in force until now, in this process or the one before.
func (s *Store) lastGood(id config.ID, old *Object) (*config.Object, any) {
	if old != nil && old.Serving != nil {
		return old.Serving, old.Lowered
	}
	if o := s.saved[id]; o != nil {
		if lowered, state, _ := Lower(o, s.next.Settings); state == Compiled {
			return o.Compact(), lowered
		}
	}
	return nil, nil
}

// hold keeps an object that no unit names any more, if the place it stood in cannot be
// read completely; otherwise it is gone.
func (s *Store) hold(id config.ID, old *Object) *Object {
	held := &Object{ID: id, State: Quarantined}
	var told []config.Finding
	last := s.saved[id]
	if held.Serving, held.Lowered = s.lastGood(id, old); held.Serving != nil {
		last = held.Serving
	} else { // perhaps it was refused, and that stays
		if old != nil {
			last = old.Raw
		}
		if last != nil {
			held.Raw = last
			held.Lowered, told = refuse(last, s.next.Settings)
		}
	}
	if held.Lowered == nil || !s.unread(last.Ref.File) {
		return nil
	}
	held.Findings = append(told, config.New(config.LastGoodServed, last.Ref, "", last.Ref.Line,
		"cannot be found, because its file cannot be read completely; it stays in force as it was", "repair the file"))
	return held
}

// unread reports whether file, or a folder above it, could not be read completely.
func (s *Store) unread(file string) bool {
	if s.incomplete[file] {
		return true
	}
	for name := range s.incomplete {
		if strings.HasPrefix(file, name+string(filepath.Separator)) {
			return true
		}
	}
	return false
}

// assemble makes a Snapshot of what changed.
func (s *Store) assemble() {
	r := s.registry.Flush()
	s.next.Services, s.next.Endpoints, s.next.Workloads = r.Services, r.Endpoints, r.Workloads
	s.convert()
	n, old := &s.next, s.snapshot
	if old != nil && n.Settings == old.Settings && n.Services.Same(old.Services) && n.Endpoints.Same(old.Endpoints) && n.Workloads.Same(old.Workloads) &&
		n.VirtualServices.Same(old.VirtualServices) && n.DestinationRules.Same(old.DestinationRules) && n.Gateways.Same(old.Gateways) && n.PeerAuths.Same(old.PeerAuths) && n.Authorizations.Same(old.Authorizations) && n.RequestAuths.Same(old.RequestAuths) && n.KeySets.Same(old.KeySets) &&
		n.Sidecars.Same(old.Sidecars) && n.Secrets.Same(old.Secrets) {
		return
	}
	s.next.Version++
	published := s.next
	s.snapshot = &published
}

// update is the state as it is. Findings are collected when there are others: there are
// thousands in a large mesh, and few changes change them.
func (s *Store) update() *Update {
	problems := s.registry.Problems()
	if !slices.EqualFunc(problems, s.problems, func(a, b registry.Problem) bool {
		return a.Service == b.Service && a.TakenBy == b.TakenBy && a.Exhausted == b.Exhausted && slices.Equal(a.Unused, b.Unused)
	}) {
		s.problems, s.stale = problems, true
	}
	if s.stale {
		s.stale, s.own, s.all = false, s.collect(), nil
	}
	if s.all == nil {
		s.all = config.Merge(s.own, s.analysis)
	}
	return &Update{Snapshot: s.snapshot, Objects: s.objects, Findings: s.all, Analyzed: s.analyzed == s.snapshot && s.analyzedObjects.Same(s.objects)}
}

func (s *Store) collect() []config.Finding {
	var fs []config.Finding
	for name := range s.unitNotes {
		fs = append(fs, s.units[name].Findings...)
	}
	for id := range s.noted {
		fs = append(fs, s.objects.At(id.String()).Findings...)
	}
	for _, more := range s.notedFacts {
		fs = append(fs, more...)
	}
	fs = append(fs, s.legacy.findings...)
	for _, p := range s.problems {
		fs = append(fs, problemFindings(p)...)
	}
	return config.Tidy(fs)
}

// inForce says why one object is used and not the other.
func inForce(used, unused mesh.Ref) string {
	if used.Kind != unused.Kind {
		return "used"
	}
	return "older and used"
}

func problemFindings(p registry.Problem) []config.Finding {
	var out []config.Finding
	ref := p.Service.Ref
	if p.TakenBy != "" {
		_, host := p.TakenBy.Split()
		out = append(out, config.New(config.AddressTaken, ref, "", ref.Line, "the virtual address it asks for belongs to "+host+"; it got another one", "change or remove clusterIP"))
	}
	if p.Exhausted {
		out = append(out, config.New(config.AddressesExhausted, ref, "", ref.Line, "no virtual address is left", "delete services that are not needed, or give a larger range"))
	}
	for _, u := range p.Unused {
		what, hint := "host "+p.Service.Hostname, "keep one of the two"
		if u.Port != 0 {
			what = fmt.Sprintf("port %d of %s", u.Port, what)
		}
		if u.Why != "" {
			hint = "the two differ in " + u.Why + ": make them agree, and they are joined, or keep one"
		}
		out = append(out, config.New(config.HostDefinedTwice, u.Ref, "", u.Ref.Line,
			fmt.Sprintf("%s is defined by %s %s/%s, which is %s", what, u.By.Kind, u.By.Namespace, u.By.Name, inForce(u.By, u.Ref)), hint).Because(u.By, ""))
	}
	return out
}

// Analyze looks across objects and returns the state with what was found.
func (s *Store) Analyze() *Update {
	if s.analyzed != s.snapshot || !s.analyzedObjects.Same(s.objects) {
		found := s.analyzer.Run(s.input())
		if len(found) != len(s.analysis) || len(found) > 0 && &found[0] != &s.analysis[0] {
			s.analysis, s.all = found, nil
		}
		s.analyzed, s.analyzedObjects = s.snapshot, s.objects
	}
	return s.update()
}

// identical compares lowered forms by address.
func identical(a, b any) bool {
	if x, ok := a.([]*registry.Service); ok {
		y, ok := b.([]*registry.Service)
		return ok && slices.Equal(x, y)
	}
	if _, ok := b.([]*registry.Service); ok {
		return false
	}
	return a == b
}

// set brings a lowered object, or its absence, into the plan.
func (s *Store) set(id config.ID, lowered any) {
	k := mesh.NewKey(id.Namespace, id.Name)
	if id.Namespace != "" { // what has none is the whole mesh's
		lowered = s.scope.effective(id, lowered)
	}
	switch id.Group {
	case "rbac.istio.io", "authentication.istio.io":
		s.legacy.set(id, lowered)
		return
	}
	switch id.Group + "/" + id.Kind {
	case "networking.istio.io/VirtualService":
		put(&s.next.VirtualServices, k, lowered)
	case "networking.istio.io/DestinationRule":
		put(&s.next.DestinationRules, k, lowered)
	case "networking.istio.io/Gateway":
		put(&s.next.Gateways, k, lowered)
	case "networking.istio.io/Sidecar":
		put(&s.next.Sidecars, k, lowered)
	case "security.istio.io/PeerAuthentication":
		put(&s.next.PeerAuths, k, lowered)
	case "security.istio.io/AuthorizationPolicy":
		put(&s.next.Authorizations, k, lowered)
	case "security.istio.io/RequestAuthentication":
		put(&s.next.RequestAuths, k, lowered)
	case "/Secret":
		put(&s.next.Secrets, k, credential(id, lowered))
	case "/Service", "networking.istio.io/ServiceEntry":
		services, _ := lowered.([]*registry.Service)
		s.registry.SetService(id.String(), services)
	case "/Pod", "networking.istio.io/WorkloadEntry":
		w, _ := lowered.(*mesh.Workload)
		s.registry.SetWorkload(id.String(), w)
	case "discovery.k8s.io/EndpointSlice":
		slice, _ := lowered.(*registry.Slice)
		s.registry.SetSlice(id.String(), slice)
	}
}

// credential is a Secret as Gateways name it; nil if it holds no certificate.
func credential(id config.ID, lowered any) any {
	v, ok := lowered.(*kube.Secret)
	if !ok {
		return nil
	}
	// Both spellings of Istio's credentials.
	first := func(names ...string) []byte {
		for _, n := range names {
			if d := v.Data[n].Reveal(); len(d) > 0 {
				return d
			}
		}
		return nil
	}
	key := first("tls.key", "key")
	c := &mesh.Secret{
		Ref:         mesh.Ref{Kind: id.Kind, Namespace: id.Namespace, Name: id.Name},
		Certificate: first("tls.crt", "cert"), CA: first("ca.crt", "cacert"), CRL: first("ca.crl", "crl"), Key: func() []byte { return key },
	}
	if len(c.Certificate)+len(c.CA) == 0 {
		return nil
	}
	return c
}

func put[T any](m *persist.Map[mesh.Key, T], k mesh.Key, lowered any) {
	if v, ok := lowered.(T); ok {
		*m = m.Set(k, v)
	} else {
		*m = m.Delete(k)
	}
}
