// Package persist holds an immutable ordered map: every change returns a new map
// that shares what did not change with the old one.
//
// Keys and values enter, maps leave. Anybody may call it. A Map is never modified
// after it was returned, so any number of goroutines may read it without locks.
// Iteration is in key order, which makes everything built from a Map deterministic.
package persist

import (
	"cmp"
	"iter"
)

// Map is an immutable ordered map (a height-balanced tree with path copying).
// The zero value is the empty map. Set and Delete cost O(log n) time and memory.
type Map[K cmp.Ordered, V any] struct {
	root *node[K, V]
}

type node[K cmp.Ordered, V any] struct {
	left, right *node[K, V]
	key         K
	val         V
	height      int8
	size        int32
}

// Len is the number of entries.
func (m Map[K, V]) Len() int { return int(m.root.len()) }

// Same reports whether both maps are the very same value: a cheap "nothing changed".
// Maps with equal content built separately are not the same.
func (m Map[K, V]) Same(o Map[K, V]) bool { return m.root == o.root }

// Get returns the value under k.
func (m Map[K, V]) Get(k K) (V, bool) {
	n := m.root
	for n != nil {
		switch c := cmp.Compare(k, n.key); {
		case c < 0:
			n = n.left
		case c > 0:
			n = n.right
		default:
			return n.val, true
		}
	}
	var zero V
	return zero, false
}

// At returns the value under k, or the zero value.
func (m Map[K, V]) At(k K) V { v, _ := m.Get(k); return v }

// Has reports whether k is present.
func (m Map[K, V]) Has(k K) bool { _, ok := m.Get(k); return ok }

// Set returns the map with v under k.
func (m Map[K, V]) Set(k K, v V) Map[K, V] { return Map[K, V]{m.root.set(k, v)} }

// Delete returns the map without k (the same map if k is not there).
func (m Map[K, V]) Delete(k K) Map[K, V] {
	if !m.Has(k) {
		return m
	}
	return Map[K, V]{m.root.del(k)}
}

// All yields every entry in key order.
func (m Map[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) { m.root.walk(yield) }
}

// Values yields every value in key order.
func (m Map[K, V]) Values() iter.Seq[V] {
	return func(yield func(V) bool) {
		m.root.walk(func(_ K, v V) bool { return yield(v) })
	}
}

// Diff yields the keys whose entries differ between old and m, in key order, skipping
// shared subtrees, so that it costs about what changed. same decides equality of two
// values present in both.
func (m Map[K, V]) Diff(old Map[K, V], same func(a, b V) bool) iter.Seq[K] {
	return func(yield func(K) bool) { diff(old.root, m.root, same, yield) }
}

func (n *node[K, V]) len() int32 {
	if n == nil {
		return 0
	}
	return n.size
}

func (n *node[K, V]) h() int8 {
	if n == nil {
		return 0
	}
	return n.height
}

func (n *node[K, V]) walk(yield func(K, V) bool) bool {
	return n == nil || n.left.walk(yield) && yield(n.key, n.val) && n.right.walk(yield)
}

func make2[K cmp.Ordered, V any](l *node[K, V], k K, v V, r *node[K, V]) *node[K, V] {
	return &node[K, V]{left: l, right: r, key: k, val: v, height: max(l.h(), r.h()) + 1, size: l.len() + r.len() + 1}
}

// balance joins l, (k, v) and r whose heights differ by at most two.
func balance[K cmp.Ordered, V any](l *node[K, V], k K, v V, r *node[K, V]) *node[K, V] {
	switch {
	case l.h() > r.h()+1:
		if l.left.h() >= l.right.h() {
			return make2(l.left, l.key, l.val, make2(l.right, k, v, r))
		}
		m := l.right
		return make2(make2(l.left, l.key, l.val, m.left), m.key, m.val, make2(m.right, k, v, r))
	case r.h() > l.h()+1:
		if r.right.h() >= r.left.h() {
			return make2(make2(l, k, v, r.left), r.key, r.val, r.right)
		}
		m := r.left
		return make2(make2(l, k, v, m.left), m.key, m.val, make2(m.right, r.key, r.val, r.right))
	}
	return make2(l, k, v, r)
}

func (n *node[K, V]) set(k K, v V) *node[K, V] {
	if n == nil {
		return make2[K, V](nil, k, v, nil)
	}
	switch c := cmp.Compare(k, n.key); {
	case c < 0:
		return balance(n.left.set(k, v), n.key, n.val, n.right)
	case c > 0:
		return balance(n.left, n.key, n.val, n.right.set(k, v))
	}
	return make2(n.left, k, v, n.right)
}

func (n *node[K, V]) del(k K) *node[K, V] {
	switch c := cmp.Compare(k, n.key); {
	case c < 0:
		return balance(n.left.del(k), n.key, n.val, n.right)
	case c > 0:
		return balance(n.left, n.key, n.val, n.right.del(k))
	}
	if n.right == nil {
		return n.left
	}
	first := n.right
	for first.left != nil {
		first = first.left
	}
	return balance(n.left, first.key, first.val, n.right.del(first.key))
}

// cursor walks a tree in order and can skip a whole subtree it is about to enter.
type cursor[K cmp.Ordered, V any] struct {
	// stack holds subtrees still to be visited: a frame with whole=true is an
	// unopened subtree, otherwise it is the node itself (its left side is done). There are
	// at most two a level, and a tree of 2^31 entries has 45. It is no slice, so that a
	// comparison allocates nothing.
	stack [96]frame[K, V]
	n     int
}

type frame[K cmp.Ordered, V any] struct {
	n     *node[K, V]
	whole bool
}

func (c *cursor[K, V]) push(n *node[K, V], whole bool) {
	if n != nil {
		c.stack[c.n] = frame[K, V]{n, whole}
		c.n++
	}
}

func (c *cursor[K, V]) pop() { c.n-- }

// open replaces the top frame, an unopened subtree, by its parts.
func (c *cursor[K, V]) open() {
	n := c.stack[c.n-1].n
	c.pop()
	c.push(n.right, true)
	c.push(n, false)
	c.push(n.left, true)
}

func (c *cursor[K, V]) top() (frame[K, V], bool) {
	if c.n == 0 {
		return frame[K, V]{}, false
	}
	return c.stack[c.n-1], true
}

func diff[K cmp.Ordered, V any](old, cur *node[K, V], same func(a, b V) bool, yield func(K) bool) {
	if old == cur {
		return
	}
	var a, b cursor[K, V]
	a.push(old, true)
	b.push(cur, true)
	for {
		fa, oka := a.top()
		fb, okb := b.top()
		switch {
		case !oka && !okb:
			return
		case oka && okb && fa.whole && fb.whole && fa.n == fb.n:
			a.pop()
			b.pop()
		case oka && fa.whole && (!okb || !fb.whole || fa.n.height >= fb.n.height):
			a.open()
		case okb && fb.whole:
			b.open()
		default:
			c := 0
			switch {
			case !oka:
				c = 1
			case !okb:
				c = -1
			default:
				c = cmp.Compare(fa.n.key, fb.n.key)
			}
			k := fa.n
			if c > 0 {
				k = fb.n
			}
			if c <= 0 {
				a.pop()
			}
			if c >= 0 {
				b.pop()
			}
			if (c != 0 || !same(fa.n.val, fb.n.val)) && !yield(k.key) {
				return
			}
		}
	}
}
