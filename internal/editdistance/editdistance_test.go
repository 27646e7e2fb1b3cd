package editdistance_test

import (
	"testing"

	"github.com/weirmesh/weir/internal/editdistance"
)

// What people mistype is near, and nothing is farther than the limit.
func TestOf(t *testing.T) {
	for _, c := range []struct {
		a, b        string
		limit, want int
	}{
		{"", "", 9, 0}, {"", "abc", 9, 3}, {"reviews", "reviews", 9, 0}, {"reviews", "review", 9, 1}, {"ratings", "ratnigs", 9, 1},
		{"reviews", "ratings", 9, 4}, {"reviews", "ratings", 3, 3}, {"ab", "ba", 2, 1}, {"abcd", "badc", 3, 2}, {"a", "b", 0, 0},
	} {
		if got, back := editdistance.Of(c.a, c.b, c.limit), editdistance.Of(c.b, c.a, c.limit); got != c.want || back != got {
			t.Errorf("%q and %q below %d: %d and %d, want %d", c.a, c.b, c.limit, got, back, c.want)
		}
	}
}
