package skew

import (
	"os"
	"strings"
	"testing"
)

// Proxies may be two minor versions behind their control plane, and not before it; of builds that are no release nothing is said.
func TestUnsupported(t *testing.T) {
	for _, tc := range []struct{ proxy, plane, want string }{
		{"v1.4.0", "v1.4.9", ""},
		{"v1.2.7", "v1.4.0", ""},
		{"1.2.7", "v1.4.0-3-gabc", ""},
		{"v1.1.9", "v1.4.0", "more than 2 minor versions older"},
		{"v0.9", "v1.0.0", "more than 2 minor versions older"},
		{"v1.5.0", "v1.4.0", "newer"},
		{"v2.0.0", "v1.4.0", "newer"},
		{"dev", "v1.4.0", ""},
		{"v1.1.0", "4ca1ab1e", ""},
		{"", "v1.4.0", ""},
		{"v1", "v1.4.0", ""},
		{"v1.9999999.0", "v1.4.0", ""},
	} {
		if got := Unsupported(tc.proxy, tc.plane); (got == "") != (tc.want == "") || !strings.HasPrefix(got, tc.want) {
			t.Errorf("proxy %s, control plane %s: %q, want %q", tc.proxy, tc.plane, got, tc.want)
		}
	}
}

// What is built of this tree has a version that is counted: otherwise nobody is told of proxies that are too old for it.
func TestVersionOfTree(t *testing.T) {
	text, err := os.ReadFile("../../VERSION")
	if err != nil {
		t.Fatal(err)
	}
	tree := strings.TrimSpace(string(text)) + ".g4ca1ab1e-dirty"
	r, ok := releaseOf(tree)
	if !ok || strings.ContainsAny(tree, "+ \n") {
		t.Fatalf("%q is no version, or none that an image's tag can be", tree)
	}
	if r.major > 0 || r.minor > Behind {
		if Unsupported("0.0.1", tree) == "" {
			t.Errorf("version 0.0.1 counts as near to %s", tree)
		}
	}
	if why := Unsupported(tree, tree); why != "" {
		t.Errorf("%s is %s", tree, why)
	}
}
