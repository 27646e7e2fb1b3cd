package share

import "testing"

// Nobody gets more than his share, nor all together more than there is, and what is given back may be taken again.
func TestShares(t *testing.T) {
	s := Shares[string]{Each: 10, All: 15}
	for i, c := range []struct {
		who  string
		n    int
		want bool
	}{
		{"a", 6, true}, {"a", 5, false}, {"a", 4, true}, {"b", 6, false}, {"b", 5, true}, {"c", 1, false}, {"a", -4, true}, {"c", 4, true}, {"a", 1, false}, {"b", -5, true}, {"a", 4, true},
	} {
		got := true
		if c.n < 0 {
			s.Give(c.who, -c.n)
		} else {
			got = s.Take(c.who, c.n)
		}
		if got != c.want {
			t.Errorf("step %d: %s %d: %v", i, c.who, c.n, got)
		}
	}
	s.Give("a", 10)
	s.Give("c", 4)
	if len(s.of) != 0 || s.taken != 0 {
		t.Errorf("%v", s)
	}
}
