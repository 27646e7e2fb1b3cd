package install

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Values over a profile over the chart's: what is asked for wins, as with Helm.
func TestMerge(t *testing.T) {
	type m = map[string]any
	for _, c := range []struct {
		what              string
		over, under, want m
	}{
		{"tables are merged", m{"a": m{"x": 1}}, m{"a": m{"x": 2, "y": 3}, "b": 4}, m{"a": m{"x": 1, "y": 3}, "b": 4}},
		{"lists are not", m{"a": []any{1}}, m{"a": []any{2, 3}}, m{"a": []any{1}}},
		{"null takes a default away", m{"a": nil, "b": m{"x": nil}}, m{"a": 1, "b": m{"x": 1, "y": m{}}}, m{"b": m{"y": m{}}}},
		{"a default of null is none", m{}, m{"a": nil, "b": m{"x": nil}}, m{"b": m{}}},
		{"a table is no value, a value no table", m{"a": 1, "b": m{"x": 1}}, m{"a": m{"x": 1}, "b": 2}, m{"a": 1, "b": m{"x": 1}}},
	} {
		got := c.under
		merge(got, c.over)
		withoutNulls(got)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.what, diff)
		}
	}
}
