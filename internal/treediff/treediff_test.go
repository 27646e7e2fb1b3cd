package treediff

import (
	"encoding/json"
	"slices"
	"testing"
)

// Differences are as deep as there is something on both sides, and no deeper.
func TestDifferences(t *testing.T) {
	for _, c := range []struct {
		a, b   string
		byName bool
		want   []string
	}{
		{`{"a":1}`, `{"a":1}`, false, nil},
		{`{"a":{"b":1},"c":2}`, `{"a":{"b":3},"d":4}`, false, []string{"a.b: 1 3", "c: 2 null", "d: null 4"}},
		{`[1,2]`, `[1,3,4]`, false, []string{"[1]: 2 3", "[2]: null 4"}},
		{`{"a":[{"b":1}]}`, `{"a":[{"b":2}]}`, true, []string{"a[0].b: 1 2"}},
		{`{"a":[1]}`, `{"a":{"b":1}}`, false, []string{`a: [1] {"b":1}`}},
		{`{"a":[{"name":"x"},{"name":"z","v":1}]}`, `{"a":[{"name":"w"},{"name":"x"},{"name":"z","v":2}]}`, true, []string{`a["z"].v: 1 2`, `a["w"]: null {"name":"w"}`}},
		{`[{"name":"x"}]`, `[{"name":"y"}]`, false, []string{`[0].name: "x" "y"`}},
		{`[{"name":"x"},{"name":"x"}]`, `[{"name":"x"}]`, true, []string{`[1]: {"name":"x"} null`}},
	} {
		var a, b any
		if err := json.Unmarshal([]byte(c.a), &a); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(c.b), &b); err != nil {
			t.Fatal(err)
		}
		var got []string
		for d := range Differences(a, b, c.byName) {
			got = append(got, d.Path+": "+Brief(d.A, 20)+" "+Brief(d.B, 20))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s and %s: %q, want %q", c.a, c.b, got, c.want)
		}
		for range Differences(a, b, c.byName) {
			break // who stops is asked no more
		}
	}
	if got := Brief("äöü", 4); got != "\"ä…" {
		t.Errorf("cut in a rune: %q", got)
	}
}
