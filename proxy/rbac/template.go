package rbac

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// Template is a path with wildcards (envoy.extensions.path.match.uri_template.v3): "*" or
// "{name}" is one segment, which is not empty, "**" or "{name=**}" any text, slashes included.
type Template struct {
	head, tail []string // segments before and after the wildcard of many; tail is nil without one
	many       bool     // there is one
}

// anySegment stands for a segment of any text; no segment is written so, since it has a slash.
const anySegment = "/"

// ParseTemplate reads a template: it begins with a slash, has at most one wildcard of many,
// and every wildcard is a whole segment.
func ParseTemplate(s string) (t Template, err error) {
	if !strings.HasPrefix(s, "/") {
		return t, fmt.Errorf("%q does not begin with a slash", s)
	}
	for segment := range strings.SplitSeq(s[1:], "/") {
		wild := segment
		if inner, ok := strings.CutPrefix(segment, "{"); ok {
			if inner, ok = strings.CutSuffix(inner, "}"); !ok {
				return t, fmt.Errorf("%q: a variable is a whole segment", segment)
			}
			name, pattern, has := strings.Cut(inner, "=")
			switch {
			case inner == "*", inner == "**": // as Istio writes them
				wild = inner
			case !identifier(name):
				return t, fmt.Errorf("%q: %q is not the name of a variable", segment, name)
			case !has:
				wild = "*"
			default:
				wild = pattern
			}
		}
		switch {
		case wild == "**" && t.many:
			return t, fmt.Errorf("%q has two wildcards of many segments", s)
		case wild == "**":
			t.many = true
			continue
		case wild == "*":
			segment = anySegment
		case strings.ContainsAny(segment, "*{}"):
			return t, fmt.Errorf("%q: a wildcard is a whole segment", segment)
		}
		if t.many {
			t.tail = append(t.tail, segment)
		} else {
			t.head = append(t.head, segment)
		}
	}
	return t, nil
}

func identifier(s string) bool {
	if s == "" || len(s) > 16 {
		return false
	}
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c != '_' && (c < '0' || c > '9')) {
			return false
		}
	}
	return true
}

// Fits reports whether a path, without query, fits.
func (t Template) Fits(path []byte) bool {
	if len(path) == 0 || path[0] != '/' {
		return false
	}
	rest, more := path[1:], true
	for _, want := range t.head {
		if !more {
			return false
		}
		var segment []byte
		segment, rest, more = bytes.Cut(rest, slash)
		if !same(segment, want) {
			return false
		}
	}
	if !t.many {
		return !more
	}
	if !more { // "/a/**" is what is below "/a/"
		return false
	}
	for _, want := range slices.Backward(t.tail) {
		at := bytes.LastIndexByte(rest, '/')
		if at < 0 || !same(rest[at+1:], want) {
			return false
		}
		rest = rest[:at]
	}
	return true
}

func same(segment []byte, want string) bool {
	if want == anySegment {
		return len(segment) > 0
	}
	return string(segment) == want
}

var slash = []byte{'/'}
