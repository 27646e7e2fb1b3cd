package mesh

import "testing"

// What a delegate's rule matches is counted by its own name, else by that of the rule that delegates.
func TestDelegatesAreCounted(t *testing.T) {
	for _, c := range []struct{ root, leaf, want string }{{"a", "", "a"}, {"", "b", "b"}, {"a", "b", "b"}, {"", "", ""}} {
		got, ok := meet(&HTTPMatch{StatPrefix: c.root}, &HTTPMatch{StatPrefix: c.leaf})
		if !ok || got.StatPrefix != c.want {
			t.Errorf("%q in %q: %q, %v", c.leaf, c.root, got.StatPrefix, ok)
		}
	}
}
