package route

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// What is compared without an automaton is what the automaton says, of any text.
func TestWholeIsTheRegularExpression(t *testing.T) {
	parts := rapid.SampledFrom([]string{"a", "b", "/", "/a", "ab/", "ß", "\\.", "\\n", "[^/]+", "[^/]*", ".*", ".+", ".*?", "[^/]+?", "x?", "(?i:a)", "()", "\uFFFD", "(?s:.*)", "$", "^"})
	texts := rapid.SampledFrom([]string{"a", "b", "/", "/a", "ab/", "ß", ".", "\n", "x", "A", "\xff", "\xc3", "\uFFFD"})
	rapid.Check(t, func(t *rapid.T) {
		expr := strings.Join(rapid.SliceOfN(parts, 0, 7).Draw(t, "expression"), "")
		got, err := Whole(expr)
		if err != nil {
			t.Fatal(err)
		}
		want := regexp.MustCompile("^(?:" + expr + ")$")
		if got.String() != want.String() {
			t.Errorf("%q is called %q", expr, got)
		}
		for _, list := range rapid.SliceOfN(rapid.SliceOfN(texts, 0, 9), 1, 20).Draw(t, "texts") {
			if text := []byte(strings.Join(list, "")); got.Match(text) != want.Match(text) {
				t.Errorf("%q of %q: %v, and the automaton %v", expr, text, got.Match(text), want.Match(text))
			}
		}
	})
}

// Which expressions are compared without an automaton: those that translation and Istio write, and what it would be wrong for.
func TestWholeWithoutAutomaton(t *testing.T) {
	for _, c := range []struct {
		expr string
		want bool
	}{
		{"", true}, {"a", true}, {".*", true}, {".+", true}, {"/api/.*", true}, {"/api/[^/]+/items", true},
		{"spiffe://[^/]+/ns/shop/.*", true}, {"spiffe://[^/]+/ns/team-[^/]*/.*", true}, {"spiffe://[^/]+/ns/a/sa/b", true},
		{"spiffe://.*/sa/web", true}, {".*/ns/shop/.*", true},
		{"spiffe://[^/]+/ns/[^/]*-prod/.*", false}, // where the segment ends is a choice
		{"a|b", false}, {"(?i)a", false}, {"a?", false}, {"[0-9]+", false}, {"(a.*)", false}, {"a.*[^/]+", false}, {".*.*", false}, {"(?s).*", false},
	} {
		re, err := Whole(c.expr)
		if err != nil {
			t.Fatal(err)
		}
		if _, got := re.(*order); got != c.want {
			t.Errorf("%q without automaton: %v", c.expr, got)
		}
	}
	if _, err := Whole("("); err == nil {
		t.Error("a parenthesis that nobody closes is taken")
	}
}

func BenchmarkWhole(b *testing.B) {
	const expr = "spiffe://[^/]+/ns/team-07/.*"
	id := []byte("spiffe://cluster.local/ns/shop/sa/web")
	whole, err := Whole(expr)
	if err != nil {
		b.Fatal(err)
	}
	for name, re := range map[string]Regex{"in order": whole, "automaton": regexp.MustCompile("^(?:" + expr + ")$")} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				re.Match(id)
			}
		})
	}
}
