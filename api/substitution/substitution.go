// Package substitution is the language of access logs and header values: text with %OPERATORS%, Envoy's substitution
// format strings (as of Envoy 1.37). It is a contract of both planes: the control plane says what is wrong with a format
// where somebody wrote it, the data plane evaluates it.
//
// Text enters, a list of Parts or an error leaves. Pure functions; everything may be used concurrently.
package substitution

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Part is literal text or one operator.
type Part struct {
	Literal string
	Op      Op
	Name    string // of the operator, as written
	Arg     string // what stands in parentheses; of Header operators the first name, in lower case
	Alt     string // the second name of REQ(a?b)
	Max     int    // at most so many bytes; 0: no limit
}

// Parse reads a format. "%%" is a percent sign. The error names an operator that is not finished, not known or not
// supported, and says why; nothing of such a format can be used, as in Envoy.
func Parse(s string) ([]Part, error) {
	var out []Part
	lit := ""
	for rest := s; rest != ""; {
		i := strings.IndexByte(rest, '%')
		if i < 0 {
			lit += rest
			break
		}
		lit += rest[:i]
		rest = rest[i:]
		if strings.HasPrefix(rest, "%%") {
			lit += "%"
			rest = rest[2:]
			continue
		}
		p, n, err := operator(rest)
		if err != nil {
			return nil, fmt.Errorf("format %q: %w", short(s), err)
		}
		if lit != "" {
			out = append(out, Part{Literal: lit})
			lit = ""
		}
		out = append(out, p)
		rest = rest[n:]
	}
	if lit != "" {
		out = append(out, Part{Literal: lit})
	}
	return out, nil
}

// short keeps an error readable: formats are long.
func short(s string) string {
	const most = 300
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// operator reads one at the beginning of s, and says how long it is. The grammar is %NAME(argument):length%, of which the
// last two may be missing; an argument ends at the first parenthesis after which the operator can end.
func operator(s string) (p Part, n int, err error) {
	n = 1
	for n < len(s) && (s[n] >= 'A' && s[n] <= 'Z' || s[n] >= '0' && s[n] <= '9' || s[n] == '_') {
		n++
	}
	p.Name = s[1:n]
	if p.Name == "" || n == len(s) {
		return p, 0, fmt.Errorf("%q begins no operator that ends; write %%%% for a percent sign", short(s))
	}
	arg, given := "", false
	switch s[n] {
	case '(':
		given = true
		for from := n + 1; ; {
			i := strings.IndexByte(s[from:], ')')
			if i < 0 {
				return p, 0, fmt.Errorf("operator %%%s lacks its closing parenthesis and %%", p.Name)
			}
			if m, end, ok := tail(s[from+i+1:]); ok {
				arg, p.Max = s[n+1:from+i], m
				n = from + i + 1 + end
				break
			}
			from += i + 1
		}
	default:
		m, end, ok := tail(s[n:])
		if !ok {
			return p, 0, fmt.Errorf("%q is no operator; write %%NAME%%, %%NAME(ARGUMENT)%% or %%NAME(ARGUMENT):LENGTH%%, and %%%% for a percent sign", short(s))
		}
		p.Max = m
		n += end
	}
	return p, n, p.check(arg, given)
}

// tail reads what ends an operator: % or :LENGTH%.
func tail(s string) (length, n int, ok bool) {
	if strings.HasPrefix(s, "%") {
		return 0, 1, true
	}
	if !strings.HasPrefix(s, ":") {
		return 0, 0, false
	}
	i := strings.IndexByte(s, '%')
	if i < 2 {
		return 0, 0, false
	}
	length, err := strconv.Atoi(s[1:i])
	return length, i + 1, err == nil && length > 0
}

// check settles what the operator is and what its argument says.
func (p *Part) check(arg string, given bool) error {
	known, ok := operators[p.Name]
	if !ok {
		if why := refused[p.Name]; why != "" {
			return fmt.Errorf("operator %%%s%% is not supported: %s", p.Name, why)
		}
		return fmt.Errorf("there is no operator %%%s%%", p.Name)
	}
	p.Op, p.Arg = known.op, arg
	switch known.takes {
	case nothing:
		if given && arg != "" {
			return fmt.Errorf("operator %%%s%% takes no argument, and %q is one", p.Name, arg)
		}
	case header:
		first, second, _ := strings.Cut(strings.ToLower(arg), "?")
		p.Arg, p.Alt = first, second
		if p.Arg == "" {
			return fmt.Errorf("operator %%%s%% needs the name of a header: %%%s(NAME)%%", p.Name, p.Name)
		}
	case one:
		if arg == "" {
			return fmt.Errorf("operator %%%s%% needs an argument: %%%s(NAME)%%", p.Name, p.Name)
		}
		if op, ok := marks[arg]; ok && p.Name == "DYNAMIC_METADATA" {
			p.Op = op
		}
	case choice:
		if arg != "" && !slices.Contains(known.choices, arg) {
			return fmt.Errorf("operator %%%s%%: %q is none of %s", p.Name, arg, strings.Join(known.choices, ", "))
		}
	case layout:
		if err := checkTime(arg); err != nil {
			return fmt.Errorf("operator %%%s%%: %w", p.Name, err)
		}
	case anything:
	}
	return nil
}

// Header reports whether the operator's argument names headers.
func (o Op) Header() bool { return o == Req || o == ReqWithoutQuery || o == Resp || o == Trailer }

// Empty lists the operators of a format that never have a value here, in the order they stand, each once.
func Empty(parts []Part) []string {
	var out []string
	for _, p := range parts {
		if p.Op == Nothing && !slices.Contains(out, p.Name) {
			out = append(out, p.Name)
		}
	}
	return out
}
