// Package registry is what is really there: which services exist, under which virtual
// addresses they are called, and which workloads serve them now.
//
// Services as they were asked for, workloads, and endpoints as somebody else counts them
// enter (SetService, SetWorkload, SetSlice); Flush turns what changed into the maps of a
// mesh.Snapshot, sharing the rest: a workload touches only the services that select it
// or list it. A Registry is a plain state machine for one
// goroutine: no clock, no files. registry/file keeps its allocations.
package registry

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/weirmesh/weir/internal/persist"
	"github.com/weirmesh/weir/mesh"
)

// Registry joins services and workloads.
type Registry struct {
	trustDomain string
	alloc       *allocator

	services  map[mesh.Key][]candidate[*Service]
	joined    map[mesh.Key]*joined // what is in force of them
	workloads map[mesh.Key][]candidate[*mesh.Workload]
	byService map[string][]mesh.Key // what each source object defines
	byWork    map[string]mesh.Key

	selectors map[pair]map[mesh.Key]bool // services by the first pair of their selector
	labelled  map[pair]map[mesh.Key]bool // workloads by each of their labels
	sliced    sliced

	dirtyServices, dirtyWorkloads, dirtyEndpoints map[mesh.Key]bool
	problems                                      map[mesh.Key]Problem

	result Result
}

// Result is the registry's part of a Snapshot.
type Result struct {
	Services  persist.Map[mesh.Key, *mesh.Service]
	Endpoints persist.Map[mesh.Key, *mesh.EndpointSet]
	Workloads persist.Map[mesh.Key, *mesh.Workload]
}

// Problem is what keeps a service from being what it asked for.
type Problem struct {
	Service   *mesh.Service
	TakenBy   mesh.Key // has the address it asked for
	Exhausted bool     // no virtual address or index is left
	Unused    []Unused
}

// candidate is one of several objects that define the same thing.
type candidate[T any] struct {
	id string
	v  T
}

// pair is one label in one namespace.
type pair struct{ namespace, key, value string }

// New makes an empty registry that gives again what it gave before.
func New(trustDomain string, ranges Ranges, given map[mesh.Key]Allocation) *Registry {
	return &Registry{
		trustDomain: trustDomain, alloc: newAllocator(ranges, given),
		services: map[mesh.Key][]candidate[*Service]{}, joined: map[mesh.Key]*joined{}, workloads: map[mesh.Key][]candidate[*mesh.Workload]{},
		byService: map[string][]mesh.Key{}, byWork: map[string]mesh.Key{},
		selectors: map[pair]map[mesh.Key]bool{}, labelled: map[pair]map[mesh.Key]bool{}, sliced: newSliced(),
		dirtyServices: map[mesh.Key]bool{}, dirtyWorkloads: map[mesh.Key]bool{}, dirtyEndpoints: map[mesh.Key]bool{},
		problems: map[mesh.Key]Problem{},
	}
}

// SetService says which services the object id defines now; none removes them.
func (r *Registry) SetService(id string, ss []*Service) {
	touched := map[mesh.Key]bool{}
	for _, k := range r.byService[id] {
		touched[k] = true
	}
	for _, s := range ss {
		touched[s.Mesh.Key()] = true
	}
	for k := range touched {
		r.dirtyServices[k] = true
		if in := r.service(k); in != nil {
			r.index(r.selectors, k, firstPair(in), false)
		}
		r.services[k] = without(r.services[k], id)
	}
	delete(r.byService, id)
	for _, s := range ss {
		k := s.Mesh.Key()
		r.services[k] = with(r.services[k], candidate[*Service]{id, s}, authority)
		r.byService[id] = append(r.byService[id], k)
	}
	for k := range touched {
		if in := join(r.services[k]); in != nil {
			r.joined[k] = in
			r.index(r.selectors, k, firstPair(in.Service), true)
		} else {
			delete(r.services, k)
			delete(r.joined, k)
		}
	}
}

// SetWorkload says which workload the object id defines now; nil removes it.
func (r *Registry) SetWorkload(id string, w *mesh.Workload) {
	if k, ok := r.byWork[id]; ok {
		r.label(k, false)
		r.workloads[k] = without(r.workloads[k], id)
		delete(r.byWork, id)
		r.label(k, true)
	}
	if w != nil {
		k := w.Key()
		r.label(k, false)
		r.workloads[k] = with(r.workloads[k], candidate[*mesh.Workload]{id, w}, func(a, b *mesh.Workload) int { return cmp.Compare(a.Ref.Created, b.Ref.Created) })
		r.byWork[id] = k
		r.label(k, true)
	}
}

// label enters or removes the workload k in the index of labels, and marks the services
// that select it.
func (r *Registry) label(k mesh.Key, add bool) {
	r.dirtyWorkloads[k] = true
	r.changedWorkload(k)
	w := r.workload(k)
	if w == nil {
		if len(r.workloads[k]) == 0 {
			delete(r.workloads, k)
		}
		return
	}
	for name, value := range w.Labels {
		p := pair{w.Namespace, name, value}
		r.index(r.labelled, k, p, add)
		for s := range r.selectors[p] {
			if r.service(s).Mesh.Selector.Selects(w.Labels) {
				r.dirtyEndpoints[s] = true
			}
		}
	}
}

func (r *Registry) index(m map[pair]map[mesh.Key]bool, k mesh.Key, p pair, add bool) {
	switch {
	case p == pair{}:
	case !add:
		if delete(m[p], k); len(m[p]) == 0 {
			delete(m, p)
		}
	default:
		if m[p] == nil {
			m[p] = map[mesh.Key]bool{}
		}
		m[p][k] = true
	}
}

// firstPair is the pair of a selector under which its service is found.
func firstPair(s *Service) pair {
	if len(s.Mesh.Selector) == 0 {
		return pair{}
	}
	name := slices.Min(slices.Collect(maps.Keys(s.Mesh.Selector)))
	return pair{s.Mesh.Namespace, name, s.Mesh.Selector[name]}
}

func (r *Registry) service(k mesh.Key) *Service {
	if j := r.joined[k]; j != nil {
		return j.Service
	}
	return nil
}

func (r *Registry) workload(k mesh.Key) *mesh.Workload {
	if c := r.workloads[k]; len(c) > 0 {
		return c[0].v
	}
	return nil
}

// with inserts c at its place, then by id.
func with[T any](cs []candidate[T], c candidate[T], compare func(a, b T) int) []candidate[T] {
	cs = append(without(cs, c.id), c)
	slices.SortFunc(cs, func(a, b candidate[T]) int { return cmp.Or(compare(a.v, b.v), cmp.Compare(a.id, b.id)) })
	return cs
}

func without[T any](cs []candidate[T], id string) []candidate[T] {
	return slices.DeleteFunc(slices.Clone(cs), func(c candidate[T]) bool { return c.id == id })
}

// Flush applies what was set since the last Flush.
func (r *Registry) Flush() Result {
	for _, k := range sorted(r.dirtyWorkloads) {
		if w := r.workload(k); w != nil {
			r.result.Workloads = r.result.Workloads.Set(k, w)
		} else {
			r.result.Workloads = r.result.Workloads.Delete(k)
		}
	}
	clear(r.dirtyWorkloads)
	r.placeServices()
	for _, k := range sorted(r.dirtyEndpoints) {
		j := r.joined[k]
		if j == nil {
			r.result.Endpoints = r.result.Endpoints.Delete(k)
			continue
		}
		set := r.endpoints(j, r.result.Services.At(k))
		if old, ok := r.result.Endpoints.Get(k); !ok || !same(old, set) {
			r.result.Endpoints = r.result.Endpoints.Set(k, set)
		}
	}
	clear(r.dirtyEndpoints)
	return r.result
}

// placeServices gives changed services their addresses: first those that ask for
// certain ones, so that the order of arrival does not decide.
func (r *Registry) placeServices() {
	asks := func(k mesh.Key) bool { s := r.service(k); return s != nil && len(s.Mesh.Addresses) > 0 }
	used := func(k mesh.Key) bool { return len(r.services[k]) > 0 }
	queue := sorted(r.dirtyServices)
	clear(r.dirtyServices)
	slices.SortStableFunc(queue, func(a, b mesh.Key) int {
		return -cmp.Compare(boolInt(asks(a)), boolInt(asks(b)))
	})
	for i := 0; i < len(queue); i++ {
		k := queue[i]
		r.dirtyEndpoints[k] = true
		delete(r.problems, k)
		s := r.service(k)
		if s == nil {
			r.result.Services = r.result.Services.Delete(k)
			continue
		}
		got, displaced, takenBy, ok := r.alloc.place(k, s, asks, used)
		queue = append(queue, displaced...)
		final := s.Mesh
		final.Addresses, final.Index = got.Addresses, got.Index
		final.Nominal = s.Allocate == FromExternal && len(s.Mesh.Addresses) == 0
		if old, have := r.result.Services.Get(k); !have || !reflect.DeepEqual(old, &final) {
			r.result.Services = r.result.Services.Set(k, &final)
		}
		p := Problem{Service: &final, TakenBy: takenBy, Exhausted: !ok, Unused: r.joined[k].unused}
		if takenBy != "" || !ok || len(p.Unused) > 0 {
			r.problems[k] = p
		}
	}
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Problems lists what is wrong, in order of keys.
func (r *Registry) Problems() []Problem {
	var out []Problem
	for _, k := range sorted(r.problems) {
		out = append(out, r.problems[k])
	}
	return out
}

// Allocations is what was given, to be given again after a restart.
func (r *Registry) Allocations() map[mesh.Key]Allocation {
	out := make(map[mesh.Key]Allocation, len(r.alloc.given))
	for k, a := range r.alloc.given {
		out[k] = Allocation{a.Index, slices.Clone(a.Addresses)}
	}
	return out
}

// Generation changes when Allocations does.
func (r *Registry) Generation() uint64 { return r.alloc.changes }

func sorted[V any](m map[mesh.Key]V) []mesh.Key { return slices.Sorted(maps.Keys(m)) }

// selected finds the workloads a selector picks.
func (r *Registry) selected(s *Service) []*mesh.Workload {
	var out []*mesh.Workload
	for k := range r.labelled[firstPair(s)] {
		if w := r.workload(k); s.Mesh.Selector.Selects(w.Labels) {
			out = append(out, w)
		}
	}
	slices.SortFunc(out, func(a, b *mesh.Workload) int { return strings.Compare(string(a.Key()), string(b.Key())) })
	return out
}
