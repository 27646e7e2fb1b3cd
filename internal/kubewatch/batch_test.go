package kubewatch

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

// What is there at first comes in one piece, once everything awaited was read; afterwards
// each change comes at once, of each key the last, and nobody is waited for.
func TestBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBatch[string, string]()
		var got [][]string
		hold := make(chan struct{}, 10)
		go func() {
			_ = b.Run(t.Context(), func(values []string) {
				slices.Sort(values)
				got = append(got, values)
				<-hold
			})
		}()
		want := func(doing string, batches ...[]string) {
			t.Helper()
			synctest.Wait()
			if diff := cmp.Diff(batches, got); diff != "" {
				t.Errorf("%s: (-want +got)\n%s", doing, diff)
			}
			got = nil
		}
		b.Await("Pod", "Service")
		b.Put("a", "a1")
		b.Here("Pod")
		b.Put("b", "b1")
		want("Services are not read yet")
		b.Put("a", "a2")
		b.Here("Service")
		want("everything is read", []string{"a2", "b1"})
		b.Put("a", "a3") // while the reader is busy
		b.Put("a", "a4")
		b.Put("c", "c1")
		want("the reader is busy")
		hold <- struct{}{}
		want("the reader is back", []string{"a4", "c1"})
		hold <- struct{}{}
		b.Here("Service")
		want("another look at the whole without news")
		b.Await("Gateway")
		b.Put("b", "b2")
		want("a kind that comes later holds nobody up", []string{"b2"})
		hold <- struct{}{}
	})
}

// A cluster with nothing in it is said, once: whoever waits for the first word gets it.
func TestBatchOfNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBatch[int, int]()
		b.Await("Pod")
		calls := 0
		go func() {
			_ = b.Run(t.Context(), func(values []int) {
				if len(values) > 0 {
					t.Errorf("%v", values)
				}
				calls++
			})
		}()
		for _, want := range []int{0, 1, 1} {
			synctest.Wait()
			if calls != want {
				t.Errorf("%d calls, want %d", calls, want)
			}
			b.Here("Pod")
		}
	})
}
