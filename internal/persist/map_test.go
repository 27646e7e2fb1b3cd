package persist

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// Whatever is set and deleted, the persistent map and Go's map agree, earlier
// versions are untouched, the order is sorted and the tree is balanced.
func TestAgainstBuiltinMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m Map[int, int]
		want := map[int]int{}
		type version struct {
			m    Map[int, int]
			want map[int]int
		}
		var versions []version
		for range rapid.IntRange(0, 120).Draw(t, "steps") {
			k := rapid.IntRange(0, 40).Draw(t, "key")
			if rapid.Bool().Draw(t, "delete") {
				m = m.Delete(k)
				delete(want, k)
			} else {
				v := rapid.IntRange(0, 3).Draw(t, "value")
				m = m.Set(k, v)
				want[k] = v
			}
			versions = append(versions, version{m, maps.Clone(want)})
		}
		for _, v := range versions {
			if d := cmp.Diff(v.want, maps.Collect(v.m.All())); d != "" {
				t.Fatalf("version changed afterwards (-want +got):\n%s", d)
			}
			if v.m.Len() != len(v.want) {
				t.Fatalf("Len %d, want %d", v.m.Len(), len(v.want))
			}
			var keys []int
			for k := range v.m.All() {
				keys = append(keys, k)
			}
			if !slices.IsSorted(keys) {
				t.Fatalf("not in order: %v", keys)
			}
			balanced(t, v.m.root)
		}
		if len(versions) > 1 {
			i := rapid.IntRange(0, len(versions)-1).Draw(t, "from")
			old := versions[i]
			got := slices.Collect(m.Diff(old.m, func(a, b int) bool { return a == b }))
			var changed []int
			for k := range 41 {
				a, oka := old.want[k]
				b, okb := want[k]
				if oka != okb || a != b {
					changed = append(changed, k)
				}
			}
			if !slices.Equal(got, changed) {
				t.Fatalf("diff %v, want %v", got, changed)
			}
		}
	})
}

func balanced(t *rapid.T, n *node[int, int]) {
	if n == nil {
		return
	}
	if d := n.left.h() - n.right.h(); d < -1 || d > 1 {
		t.Fatalf("unbalanced at %v: %d and %d", n.key, n.left.h(), n.right.h())
	}
	balanced(t, n.left)
	balanced(t, n.right)
}

// One change in a large map costs about its depth, not its size.
func TestDiffSkipsWhatIsShared(t *testing.T) {
	var m Map[int, int]
	for i := range 10000 {
		m = m.Set(i, i)
	}
	n := m.Set(5000, -1)
	compared := 0
	got := slices.Collect(n.Diff(m, func(a, b int) bool { compared++; return a == b }))
	if !slices.Equal(got, []int{5000}) || compared > 40 {
		t.Fatalf("diff %v after %d comparisons, want [5000] after at most 40", got, compared)
	}
}

// Thousands of streams compare maps for each change.
func TestDiffDoesNotAllocate(t *testing.T) {
	var m Map[int, int]
	for i := range 10000 {
		m = m.Set(i, i)
	}
	n, found := m.Set(5000, -1), 0
	if allocs := testing.AllocsPerRun(10, func() {
		for range n.Diff(m, func(a, b int) bool { return a == b }) {
			found++
		}
	}); allocs > 0 || found != 11 {
		t.Fatalf("%v allocations, %d differences in 11 comparisons", allocs, found)
	}
}

func BenchmarkDiff(b *testing.B) {
	var m Map[int, int]
	for i := range 10000 {
		m = m.Set(i, i)
	}
	n := m.Set(5000, -1)
	b.ReportAllocs()
	for b.Loop() {
		for range n.Diff(m, func(a, b int) bool { return a == b }) {
		}
	}
}
