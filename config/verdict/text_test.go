package verdict

import (
	"slices"
	"strings"
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

// A claim that is a list has several values: what asks for two of them can be met, what also asks for none such cannot.
func TestClaimsThatAreLists(t *testing.T) {
	is := func(value string) mesh.HeaderMatch {
		return mesh.HeaderMatch{Name: mesh.ClaimPrefix + ".group", Match: mesh.StringMatch{Kind: mesh.Exact, Value: value}}
	}
	in := &room{scheme: "http", authorities: []way{{in: []pattern{exactly("a")}}}}
	plain := is("dev")
	plain.Name = "group"
	for _, c := range []struct {
		name           string
		earlier, match mesh.HTTPMatch
		want           outcome
		claims         string
	}{
		{name: "behind a rule for those who have not the one, the one for those who have the other", earlier: mesh.HTTPMatch{WithoutHeaders: []mesh.HeaderMatch{is("admin")}}, match: mesh.HTTPMatch{Headers: []mesh.HeaderMatch{is("dev")}}, want: found, claims: "dev,admin"},
		{name: "two at once, as a delegate asks for", match: mesh.HTTPMatch{Headers: []mesh.HeaderMatch{is("admin"), is("dev")}}, want: found, claims: "admin,dev"},
		{name: "the one without the other", match: mesh.HTTPMatch{Headers: []mesh.HeaderMatch{is("dev")}, WithoutHeaders: []mesh.HeaderMatch{is("admin")}}, want: found, claims: "dev"},
		{name: "one that there must not be", match: mesh.HTTPMatch{Headers: []mesh.HeaderMatch{is("dev"), is("admin")}, WithoutHeaders: []mesh.HeaderMatch{is("admin")}}, want: none},
		{name: "all who have it are taken already", earlier: mesh.HTTPMatch{Headers: []mesh.HeaderMatch{is("dev")}}, match: mesh.HTTPMatch{Headers: []mesh.HeaderMatch{is("dev"), is("admin")}}, want: none},
		{name: "a header has one value", match: mesh.HTTPMatch{Headers: []mesh.HeaderMatch{plain, {Name: "group", Match: mesh.StringMatch{Kind: mesh.Exact, Value: "admin"}}}}, want: none},
	} {
		s := &search{machines: newMachines()}
		var earlier []entry
		if c.earlier.Headers != nil || c.earlier.WithoutHeaders != nil {
			earlier = []entry{{match: &c.earlier}}
		}
		r, state, _ := s.reachable(in, earlier, &entry{match: &c.match})
		if state != c.want {
			t.Errorf("%s: %v, want %v", c.name, state, c.want)
		} else if state == found && r.example().Claims["[group]"] != c.claims {
			t.Errorf("%s: %v, want %s", c.name, r.example().Claims, c.claims)
		}
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

// A rule about a spelling of a path is used where, and only where, paths keep it.
func TestSpellingsOfPaths(t *testing.T) {
	in := &room{scheme: "http", authorities: []way{{in: []pattern{exactly("a")}}}}
	for _, c := range []struct {
		path string
		kept string // in the modes NONE, BASE, MERGE_SLASHES, DECODE_AND_MERGE_SLASHES
	}{
		{"/a/b", "yes yes yes yes"},
		{"/a%2Fb", "yes yes yes no"},
		{"/a%5cb", "yes yes yes no"},
		{"/a//b", "yes yes no no"},
		{"/a/../b", "yes no no no"},
		{`/a\b`, "yes no no no"},
		{"/%61", "yes no no no"},
		{"/a?b", "no no no no"},
	} {
		var kept []string
		for _, paths := range []mesh.PathNormalization{mesh.PathsAsTheyCome, mesh.PathsBase, mesh.PathsMerged, mesh.PathsDecoded} {
			s := &search{machines: newMachines(), paths: paths}
			_, state, _ := s.reachable(in, nil, &entry{match: &mesh.HTTPMatch{URI: mesh.StringMatch{Kind: mesh.Exact, Value: c.path}}})
			kept = append(kept, map[outcome]string{found: "yes", none: "no"}[state])
		}
		if got := strings.Join(kept, " "); got != c.kept {
			t.Errorf("%s: %s, want %s", c.path, got, c.kept)
		}
	}
}
