package server

import (
	"iter"

	"github.com/weirmesh/weir/xds/resource"
)

// names are those that a client subscribes to one by one. Of a client that asks for most
// of what there is, as sidecars do for the endpoints of all their clusters, only what is
// different is kept: the set it is compared with is shared by all.
type names struct {
	set  resource.Set        // all of these; empty for clients that ask for little
	but  map[string]struct{} // except these, all of them in set
	some map[string]struct{} // and these, none of them in set
}

const (
	// fewNames are kept as they are: a map of so many takes 10 KB.
	fewNames = 256
	// A client is one that asks for most if it leaves out no more than a quarter of what
	// there is, and is no longer when it leaves out more than half.
	mostBegin, mostEnd = 4, 2
)

func (x *names) has(name string) bool {
	if _, ok := x.some[name]; ok {
		return true
	}
	if !x.set.Has(name) {
		return false
	}
	_, but := x.but[name]
	return !but
}

func (x *names) len() int { return len(x.some) + x.set.Len() - len(x.but) }

// all yields the names, in no order. They may be removed meanwhile.
func (x *names) all() iter.Seq[string] {
	return func(yield func(string) bool) {
		for n := range x.some {
			if !yield(n) {
				return
			}
		}
		for n := range x.set.All() {
			if _, but := x.but[n]; !but && !yield(n) {
				return
			}
		}
	}
}

// add reports whether the name was new.
func (x *names) add(name string) bool {
	switch {
	case x.has(name):
		return false
	case x.set.Has(name):
		delete(x.but, name)
	default:
		put(&x.some, name)
	}
	return true
}

// remove reports whether the name was there.
func (x *names) remove(name string) bool {
	switch {
	case !x.has(name):
		return false
	case x.set.Has(name):
		put(&x.but, name)
	default:
		delete(x.some, name)
	}
	return true
}

// follow keeps the same names when what there is becomes base, so that no old set is
// held for them.
func (x *names) follow(base resource.Set) {
	if x.set.Len() == 0 {
		return
	}
	for n := range base.Diff(x.set, resource.Same) {
		switch was, is := x.set.Has(n), base.Has(n); {
		case was && !is:
			if _, but := x.but[n]; but {
				delete(x.but, n)
			} else {
				put(&x.some, n)
			}
		case is && !was:
			if _, some := x.some[n]; some {
				delete(x.some, n)
			} else {
				put(&x.but, n)
			}
		}
	}
	x.set = base
	x.fit(base)
}

// fit chooses what to keep, base being what there is.
func (x *names) fit(base resource.Set) {
	switch n := x.set.Len(); {
	case n > 0 && mostEnd*len(x.but) > n:
		all := make(map[string]struct{}, x.len())
		for name := range x.all() {
			all[name] = struct{}{}
		}
		*x = names{some: all}
	case n == 0 && len(x.some) >= fewNames && base.Len()-len(x.some) <= base.Len()/mostBegin:
		most := names{set: base}
		for name := range base.All() {
			if _, ok := x.some[name]; !ok {
				put(&most.but, name)
			}
		}
		if mostBegin*len(most.but) > base.Len() {
			return // many of the names mean nothing
		}
		for name := range x.some {
			if !base.Has(name) {
				put(&most.some, name)
			}
		}
		*x = most
	}
}

func put(m *map[string]struct{}, name string) {
	if *m == nil {
		*m = map[string]struct{}{}
	}
	(*m)[name] = struct{}{}
}
