package verdict

import (
	"encoding/binary"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/weirmesh/weir/mesh"
)

// pattern is a set of strings.
type pattern struct {
	mesh.StringMatch
	fold bool // upper and lower case are one; not of regular expressions, which say so themselves
}

func exactly(s string) pattern {
	return pattern{StringMatch: mesh.StringMatch{Kind: mesh.Exact, Value: s}}
}
func like(expr string) pattern {
	return pattern{StringMatch: mesh.StringMatch{Kind: mesh.Regex, Value: expr}}
}

var anything = pattern{StringMatch: mesh.StringMatch{Kind: mesh.Any}}

// machine is a pattern that can be run, whole and letter by letter.
type machine struct {
	whole *regexp.Regexp
	prog  *syntax.Prog
	looks bool // at more than the letter itself: ^, $, \b
}

// expression is the pattern as a regular expression for the whole of a string.
func (p pattern) expression() string {
	e := "(?s:.*)"
	switch p.Kind {
	case mesh.Exact:
		e = regexp.QuoteMeta(p.Value)
	case mesh.Prefix:
		e = regexp.QuoteMeta(p.Value) + e
	case mesh.Regex:
		return "^(?:" + p.Value + ")$"
	case mesh.Any, mesh.Present:
	}
	if p.fold {
		e = "(?i:" + e + ")"
	}
	return "^" + e + "$"
}

// machines are those of patterns, made once, and what was searched with them.
type machines struct {
	made  map[pattern]*machine
	known map[string]answer
}

// answer is that of a search.
type answer struct {
	text  string
	state outcome
}

func newMachines() *machines { return &machines{map[pattern]*machine{}, map[string]answer{}} }

// of is nil for an expression that does not compile; nothing is said of such.
func (ms *machines) of(p pattern) *machine {
	m, ok := ms.made[p]
	if ok {
		return m
	}
	whole, err := regexp.Compile(p.expression())
	if err == nil {
		var tree *syntax.Regexp
		if tree, err = syntax.Parse(p.expression(), syntax.Perl); err == nil {
			m = &machine{whole: whole}
			m.prog, err = syntax.Compile(tree.Simplify())
		}
	}
	if err != nil {
		m = nil
	} else {
		for i := range m.prog.Inst {
			in := &m.prog.Inst[i]
			m.looks = m.looks || in.Op == syntax.InstEmptyWidth && syntax.EmptyOp(in.Arg)&(syntax.EmptyWordBoundary|syntax.EmptyNoWordBoundary) != 0
		}
	}
	ms.made[p] = m
	return m
}

// holds reports whether s is in p.
func (ms *machines) holds(p pattern, s string) bool {
	switch m := ms.of(p); {
	case p.Kind == mesh.Any, p.Kind == mesh.Present:
		return true
	case p.Kind == mesh.Exact && !p.fold:
		return s == p.Value
	case p.Kind == mesh.Prefix && !p.fold:
		return strings.HasPrefix(s, p.Value)
	case m == nil:
		return false
	default:
		return m.whole.MatchString(s)
	}
}

// maxStates bounds the search for one string: a few times what expressions that people write
// need. What is beyond is not decided.
const maxStates = 4096

// outcome of a search.
type outcome uint8

const (
	none    outcome = iota // there certainly is none
	found                  // here it is
	unknown                // the search was given up
)

// search finds the shortest string over letters that is in all of in, and in none of out;
// the first of prefer that is so comes before.
func (ms *machines) search(in, out []pattern, letters string, prefer ...string) (string, outcome) {
	fits := func(s string) bool {
		return !slices.ContainsFunc(in, func(p pattern) bool { return !ms.holds(p, s) }) && !slices.ContainsFunc(out, func(p pattern) bool { return ms.holds(p, s) })
	}
	for _, p := range in { // it can be nothing else
		if p.Kind == mesh.Exact && !p.fold {
			if fits(p.Value) {
				return p.Value, found
			}
			return "", none
		}
	}
	for _, s := range prefer {
		if fits(s) {
			return s, found
		}
	}
	key := append([]byte(letters), byte(len(in)))
	var run []*machine
	for _, p := range slices.Concat(in, out) {
		m := ms.of(p)
		if m == nil {
			return "", unknown
		}
		run = append(run, m)
		key = append(append(append(key, 0, byte(p.Kind)), strconv.FormatBool(p.fold)...), p.Value...)
	}
	a, ok := ms.known[string(key)]
	if !ok {
		a.text, a.state = walk(run, len(in), letters)
		ms.known[string(key)] = a
	}
	return a.text, a.state
}

// standing is where all machines are after some letters: for each the instructions it may go
// on with, as soon as the next letter is known.
type standing struct {
	at   [][]uint32
	last rune // before; -1 at the beginning
	text string
}

// walk searches breadth first through all machines at once, of which the first n must accept
// and the others must not.
func walk(run []*machine, n int, letters string) (string, outcome) {
	letters = telling(run, letters)
	begin := standing{last: -1}
	for _, m := range run {
		begin.at = append(begin.at, []uint32{uint32(m.prog.Start)})
	}
	queue, seen := []standing{begin}, map[string]bool{begin.key(run): true}
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		if s.accepted(run, n) {
			return s.text, found
		}
		for _, r := range letters {
			next := standing{last: r, text: s.text + string(r)}
			dead := false
			for i, m := range run {
				at := m.step(s.at[i], s.last, r)
				if dead = i < n && len(at) == 0; dead {
					break
				}
				next.at = append(next.at, at)
			}
			if dead {
				continue
			}
			if k := next.key(run); !seen[k] {
				if len(seen) == maxStates {
					return "", unknown
				}
				seen[k] = true
				queue = append(queue, next)
			}
		}
	}
	return "", none
}

func (s *standing) key(run []*machine) string {
	var b []byte
	looks := false
	for i, at := range s.at {
		for _, pc := range at {
			b = binary.AppendUvarint(b, uint64(pc)+1)
		}
		b = append(b, 0)
		looks = looks || run[i].looks
	}
	if looks && s.last >= 0 && syntax.IsWordChar(s.last) {
		b = append(b, 1)
	}
	if s.last < 0 {
		b = append(b, 2)
	}
	return string(b)
}

func (s *standing) accepted(run []*machine, n int) bool {
	for i, m := range run {
		ends := false
		m.follow(s.at[i], syntax.EmptyOpContext(s.last, -1), func(in *syntax.Inst) { ends = ends || in.Op == syntax.InstMatch })
		if ends != (i < n) {
			return false
		}
	}
	return true
}

// step is where a machine is after one more letter.
func (m *machine) step(at []uint32, last, r rune) []uint32 {
	var out []uint32
	m.follow(at, syntax.EmptyOpContext(last, r), func(in *syntax.Inst) {
		if takes(in, r) && !slices.Contains(out, in.Out) {
			out = append(out, in.Out)
		}
	})
	slices.Sort(out)
	return out
}

func takes(in *syntax.Inst, r rune) bool {
	switch in.Op {
	case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
		return in.MatchRune(r)
	default:
		return false
	}
}

// follow visits what is reached from at without a letter.
func (m *machine) follow(at []uint32, here syntax.EmptyOp, visit func(*syntax.Inst)) {
	done := map[uint32]bool{}
	left := slices.Clone(at)
	for len(left) > 0 {
		pc := left[len(left)-1]
		left = left[:len(left)-1]
		if done[pc] {
			continue
		}
		done[pc] = true
		switch in := &m.prog.Inst[pc]; in.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			left = append(left, in.Out, in.Arg)
		case syntax.InstCapture, syntax.InstNop:
			left = append(left, in.Out)
		case syntax.InstEmptyWidth:
			if syntax.EmptyOp(in.Arg)&^here == 0 {
				left = append(left, in.Out)
			}
		default:
			visit(in)
		}
	}
}

// telling leaves of letters the first of those that no machine tells from each other, and
// adds those outside of ASCII that machines name.
func telling(run []*machine, letters string) string {
	var all []*syntax.Inst
	foreign := ""
	for _, m := range run {
		for i := range m.prog.Inst {
			in := &m.prog.Inst[i]
			if len(in.Rune) == 0 {
				continue
			}
			all = append(all, in)
			if r := in.Rune[0]; r >= utf8.RuneSelf && len(foreign) < 64 && !strings.ContainsRune(foreign, r) {
				foreign += string(r)
			}
		}
	}
	var b strings.Builder
	known := map[string]bool{}
	for _, r := range letters + foreign {
		sign := make([]byte, 0, len(all)+1)
		for _, in := range all {
			if takes(in, r) {
				sign = append(sign, 1)
			} else {
				sign = append(sign, 0)
			}
		}
		if syntax.IsWordChar(r) {
			sign = append(sign, 1)
		}
		if !known[string(sign)] {
			known[string(sign)] = true
			b.WriteRune(r)
		}
	}
	return b.String()
}
