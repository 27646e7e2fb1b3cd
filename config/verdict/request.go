package verdict

import (
	"maps"
	"slices"
	"strings"

	"github.com/weirmesh/weir/mesh"
)

// field is something that a request has, or may have.
type field struct {
	kind fieldKind
	name string
}

type fieldKind uint8

const (
	path fieldKind = iota
	scheme
	method
	authority
	header
	claim // of the token; its name is the path to it: [a][b]
	parameter
	label // of the client
)

// optional reports whether there are requests without the field.
func (f field) optional() bool { return f.kind >= header }

const (
	lower    = "abcdefghijklmnopqrstuvwxyz0123456789"
	upper    = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	segments = "/" + lower + "-_.~" + upper + "!$&'()*+,;=:@" // RFC 3986 section 3.3, without escapes: those are decoded
)

// letters that a field is made of.
func (f field) letters() string {
	switch f.kind {
	case path:
		return segments
	case scheme, authority:
		return lower + "-.:" + upper + "_"
	case method:
		return upper + lower + "-_"
	case parameter:
		return lower + "-_.~" + upper + "!$'()*,;:@/?"
	case header, claim, label:
	}
	return lower + "-_.~/" + upper + "!$&'()*+,;=:@#%?\"<>[]\\^`{|} "
}

// never is what no request has, where paths are made canonical as paths says.
func (f field) never(paths mesh.PathNormalization) []pattern {
	switch f.kind {
	case path:
		out := []pattern{like(`[^/].*|`), like(`.*[?#[:cntrl:] ].*`)}
		if paths != mesh.PathsAsTheyCome { // RFC 3986 sections 6.2.2.2 and 6.2.2.3
			out = append(out, like(`.*/\.\.?(/.*)?`), like(`.*\\.*`),
				like(`.*%(2[dDeE]|3[0-9]|[46][1-9a-fA-F]|5[0-9aA]|7[0-9aA]|5[fF]|7[eE]).*`))
		}
		if paths == mesh.PathsMerged || paths == mesh.PathsDecoded {
			out = append(out, like(`.*//.*`))
		}
		if paths == mesh.PathsDecoded {
			out = append(out, like(`.*%(2[fF]|5[cC]).*`))
		}
		return out
	case method:
		return []pattern{exactly(""), exactly("CONNECT")} // which no rule matches
	case header:
		return []pattern{like(` .*|.* `)}
	case scheme, authority, claim, parameter, label:
	}
	return nil
}

func (f field) prefer() []string {
	switch f.kind {
	case path:
		return []string{"/"}
	case method:
		return []string{"GET", "POST", "PUT", "DELETE"}
	case header, claim, parameter:
		return []string{"1"}
	case scheme, authority, label:
	}
	return nil
}

// atom is one condition of a match: that the field is there and in the pattern, or, without,
// not so.
type atom struct {
	field   field
	pattern pattern
	without bool
}

// named is what the name of a match of headers is about: "@request.auth.claims.a.b" and "@request.auth.claims[a][b]" are a claim.
func named(name string) field {
	path, ok := strings.CutPrefix(name, mesh.ClaimPrefix)
	switch {
	case !ok:
		return field{header, name}
	case strings.HasPrefix(path, "["): // in which names may have dots
		return field{claim, path}
	}
	return field{claim, "[" + strings.ReplaceAll(strings.TrimPrefix(path, "."), ".", "][") + "]"}
}

// atoms are the conditions of a match about a request and the labels of its client.
func atoms(m *mesh.HTTPMatch) []atom {
	var out []atom
	add := func(f field, s mesh.StringMatch, fold, without bool) {
		if s.Kind != mesh.Any {
			out = append(out, atom{f, pattern{s, fold && s.Kind != mesh.Regex}, without})
		}
	}
	add(field{kind: path}, m.URI, m.IgnoreURICase, false)
	add(field{kind: scheme}, m.Scheme, false, false)
	add(field{kind: method}, m.Method, false, false)
	add(field{kind: authority}, m.Authority, false, false)
	for _, h := range m.Headers {
		add(named(h.Name), h.Match, false, false)
	}
	for _, h := range m.WithoutHeaders {
		add(named(h.Name), h.Match, false, true)
	}
	for _, q := range m.QueryParams {
		add(field{parameter, q.Name}, q.Match, false, false)
	}
	for _, k := range slices.Sorted(maps.Keys(m.SourceLabels)) {
		out = append(out, atom{field{label, k}, exactly(m.SourceLabels[k]), false})
	}
	return out
}

// limits are what a value must be and must not be.
type limits struct {
	in, out []pattern
	gone    bool   // it must not be there
	try     string // what is likely to do
	// value that keeps within the limits; there is none, yet, if state is not found.
	value string
	more  []string // a claim that is a list has these, too
	there bool
	state outcome
}

func (l *limits) with(a atom, holds bool) *limits {
	next := &limits{}
	if l != nil {
		*next = *l
	}
	switch {
	case holds != a.without:
		next.in = append(slices.Clip(next.in), a.pattern)
	case a.pattern.Kind == mesh.Present:
		next.gone = true
	default:
		next.out = append(slices.Clip(next.out), a.pattern)
	}
	return next
}

// settle finds a value.
func (s *search) settle(f field, l *limits) {
	switch {
	case f.optional() && len(l.in) == 0:
		l.state = found
	case l.gone:
		l.state = none
	default:
		l.there = true
		l.more = nil
		never := slices.Concat(f.never(s.paths), l.out)
		l.value, l.state = s.machines.search(l.in, never, f.letters(), append(f.prefer(), l.try)...)
		if f.kind != claim || len(l.in) < 2 || l.state == found {
			return
		}
		// A list is in a pattern if one of its values is, and in none of others if none is.
		for _, p := range l.in {
			v, state := s.machines.search([]pattern{p}, never, f.letters(), append(f.prefer(), l.try)...)
			if state != found {
				l.state = state
				return
			}
			l.more = append(l.more, v)
		}
		l.value, l.more, l.state = l.more[0], l.more[1:], found
	}
}

// request is one that is looked for: its fields, those that matter.
type request map[field]*limits

// values are those of a field: several of a claim that is a list.
func (r request) values(f field) []string {
	if l := r[f]; l != nil && l.there {
		return append([]string{l.value}, l.more...)
	}
	return nil
}

// get is the value of a field, and whether there is one.
func (r request) get(f field) (string, bool) {
	if l := r[f]; l != nil {
		return l.value, l.there
	}
	return "", false
}

// search is for a request that some conditions hold for, and others not.
type search struct {
	machines *machines
	paths    mesh.PathNormalization
	steps    int // left
}

// maxSteps bounds a search for a request.
const maxSteps = 2000

// holds reports whether all conditions hold for r.
func (s *search) holds(conditions []atom, r request) bool {
	return !slices.ContainsFunc(conditions, func(a atom) bool {
		return slices.ContainsFunc(r.values(a.field), func(v string) bool { return s.machines.holds(a.pattern, v) }) == a.without
	})
}

// limit is r with one more condition, or with its contrary.
func (s *search) limit(r request, a atom, holds bool) (request, outcome) {
	next := maps.Clone(r)
	l := r[a.field].with(a, holds)
	s.settle(a.field, l)
	next[a.field] = l
	return next, l.state
}

// reach finds a request within r for which none of earlier holds wholly.
func (s *search) reach(r request, earlier [][]atom) (request, outcome) {
	if s.steps--; s.steps < 0 {
		return nil, unknown
	}
	i := slices.IndexFunc(earlier, func(conditions []atom) bool { return s.holds(conditions, r) })
	if i < 0 {
		return r, found
	}
	out := none
	for _, a := range earlier[i] {
		next, state := s.limit(r, a, false)
		if state == found {
			if next, state = s.reach(next, earlier); state == found {
				return next, found
			}
		}
		if state == unknown {
			out = unknown
		}
	}
	return nil, out
}

// room is where rules are tried in order.
type room struct {
	scheme      string
	authorities []way
	labels      mesh.Labels // of the client, beside those that a rule asks for
}

// way to ask for a host: the names that are meant, and those of them that somebody else has.
// try is a name that is likely to do.
type way struct {
	in, out []pattern
	try     string
}

// begin is the empty request in a room, asked for in one of its ways.
func (s *search) begin(in *room, way *way) (request, outcome) {
	r := request{}
	conditions := []atom{{field{kind: path}, anything, false}, {field{kind: method}, anything, false}, {field{kind: scheme}, exactly(in.scheme), false}}
	for k, v := range in.labels {
		conditions = append(conditions, atom{field{label, k}, exactly(v), false})
	}
	for _, p := range way.in {
		conditions = append(conditions, atom{field{kind: authority}, p, false})
	}
	for _, p := range way.out {
		conditions = append(conditions, atom{field{kind: authority}, p, true})
	}
	r[field{kind: authority}] = &limits{try: way.try}
	return s.all(r, conditions)
}

// all is r with more conditions.
func (s *search) all(r request, conditions []atom) (request, outcome) {
	state := found
	for _, a := range conditions {
		if r, state = s.limit(r, a, true); state != found {
			break
		}
	}
	return r, state
}

// entry is one match of a rule in a room.
type entry struct {
	rule  *rule
	match *mesh.HTTPMatch
}

// reachable finds a request that gets to e, which is behind earlier. If there is none, by is
// the entry that takes the last of them; nil if e would have none even if it were first.
func (s *search) reachable(in *room, earlier []entry, e *entry) (r request, state outcome, by *entry) {
	try := func(earlier []entry) (request, outcome) {
		var before [][]atom
		for i := range earlier {
			before = append(before, atoms(earlier[i].match))
		}
		out := none
		for i := range in.authorities {
			r, state := s.begin(in, &in.authorities[i])
			if state == found {
				r, state = s.all(r, atoms(e.match))
			}
			if state == found {
				r, state = s.reach(r, before)
			}
			if state == found {
				return r, found
			}
			if state == unknown {
				out = unknown
			}
		}
		return nil, out
	}
	s.steps = maxSteps
	if r, state = try(earlier); state != none {
		return r, state, nil
	}
	for n := range len(earlier) + 1 {
		if _, now := try(earlier[:n]); now == none {
			if n > 0 {
				by = &earlier[n-1]
			}
			break
		}
	}
	return nil, none, by
}

func labelsOf(r request) mesh.Labels {
	out := mesh.Labels{}
	for f, l := range r {
		if f.kind == label && l.there {
			out[f.name] = l.value
		}
	}
	return out
}

// example is the request in words.
func (r request) example() *Example {
	out := &Example{Labels: labelsOf(r)}
	out.Path, _ = r.get(field{kind: path})
	out.Method, _ = r.get(field{kind: method})
	out.Host, _ = r.get(field{kind: authority})
	var query []string
	for f, l := range r {
		switch {
		case !l.there:
		case f.kind == header:
			if out.Headers == nil {
				out.Headers = map[string]string{}
			}
			out.Headers[f.name] = l.value
		case f.kind == claim:
			if out.Claims == nil {
				out.Claims = map[string]string{}
			}
			out.Claims[f.name] = strings.Join(r.values(f), ",")
		case f.kind == parameter:
			query = append(query, f.name+"="+l.value)
		}
	}
	if len(query) > 0 {
		slices.Sort(query)
		out.Path += "?" + strings.Join(query, "&")
	}
	return out
}
