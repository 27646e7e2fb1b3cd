package verdict

import (
	"slices"
	"testing"

	"github.com/weirmesh/weir/mesh"
)

// Matches about claims are no matches about headers, and the two ways to write one claim mean the same.
func TestClaims(t *testing.T) {
	match := func(name string) *mesh.HTTPMatch {
		return &mesh.HTTPMatch{Headers: []mesh.HeaderMatch{{Name: name, Match: mesh.StringMatch{Kind: mesh.Exact, Value: "admin"}}}}
	}
	want := field{claim, "[realm][roles]"}
	for _, name := range []string{"@request.auth.claims.realm.roles", "@request.auth.claims[realm][roles]"} {
		if got := atoms(match(name)); len(got) != 1 || got[0].field != want {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := named("@request.auth.claims[plan.name]"); got != (field{claim, "[plan.name]"}) {
		t.Errorf("%+v", got)
	}
	e := request{want: {there: true, value: "admin"}}.example()
	if e.Namespace, e.Method, e.Host, e.Path = "default", "GET", "a", "/"; e.Headers != nil || e.String() != `GET http://a/ claim[realm][roles]="admin" from namespace default` {
		t.Errorf("%s", e)
	}
}

// What is left of some strings without others is found, or it is certain that there is nothing.
func TestSearch(t *testing.T) {
	starts := func(s string) pattern { return pattern{StringMatch: mesh.StringMatch{Kind: mesh.Prefix, Value: s}} }
	folded := exactly("/a")
	folded.fold = true
	for _, c := range []struct {
		in, out []pattern
		want    outcome
	}{
		{[]pattern{like("/a.*")}, []pattern{exactly("/a")}, found},
		{[]pattern{like("/(a|b)")}, []pattern{exactly("/a"), exactly("/b")}, none},
		{[]pattern{starts("/a")}, []pattern{like("/a.*")}, none},
		{[]pattern{like("[0-9]+"), like(".{3}")}, []pattern{starts("0"), starts("1")}, found},
		{[]pattern{like("[0-9]")}, []pattern{like("[0-4]"), like("[5-9]")}, none},
		{[]pattern{folded}, []pattern{exactly("/a")}, found},
		{[]pattern{like("(?i)/a")}, []pattern{exactly("/a"), exactly("/A")}, none},
		{[]pattern{like(`a\b.*`)}, []pattern{like(`a(\W.*)?`)}, none},
		{[]pattern{like(`a\B.*`)}, nil, found},
		{[]pattern{like(".*x.{12}")}, []pattern{like(".*y.{12}"), like(".*[^y].{12}")}, unknown},
	} {
		ms := newMachines()
		s, state := ms.search(c.in, c.out, lower+upper+"/-")
		if state != c.want {
			t.Errorf("%v but %v: %q %v, want %v", c.in, c.out, s, state, c.want)
		}
		if state == found && (slices.ContainsFunc(c.in, func(p pattern) bool { return !ms.holds(p, s) }) || slices.ContainsFunc(c.out, func(p pattern) bool { return ms.holds(p, s) })) {
			t.Errorf("%v but %v: %q is not so", c.in, c.out, s)
		}
	}
}
