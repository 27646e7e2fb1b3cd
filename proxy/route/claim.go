package route

import (
	"encoding/json"
	"unsafe"

	"github.com/weirmesh/weir/proxy/http/message"
)

// ClaimMatch is a compiled MetadataMatcher, about what tokens say.
type ClaimMatch struct {
	Path   []string // in Request.Claims
	Value  ClaimTest
	Invert bool
}

// ClaimTest is a compiled ValueMatcher. A value is string, bool, json.Number, nil, []any or map[string]any;
// there says whether there is one.
type ClaimTest func(v any, there bool) bool

// HoldsFor reports whether the request's tokens say what m asks for.
func (m *ClaimMatch) HoldsFor(r *message.Request) bool {
	v, there := any(r.Claims), r.Claims != nil
	for _, name := range m.Path {
		claims, ok := v.(map[string]any)
		if v, there = claims[name], ok; ok {
			_, there = claims[name]
		}
	}
	return m.Value(v, there) != m.Invert
}

// ClaimText holds for strings.
func ClaimText(m ValueMatch) ClaimTest {
	return func(v any, _ bool) bool {
		s, ok := v.(string)
		return ok && m.Holds(bytesOf(s))
	}
}

// ClaimPresent holds for what is there.
func ClaimPresent() ClaimTest { return func(_ any, there bool) bool { return there } }

// ClaimNull holds for null.
func ClaimNull() ClaimTest { return func(v any, there bool) bool { return there && v == nil } }

// ClaimBool holds for yes.
func ClaimBool(yes bool) ClaimTest { return func(v any, _ bool) bool { return v == yes } }

// ClaimNumber holds for numbers from low to below high, or for low itself.
func ClaimNumber(low, high float64) ClaimTest {
	return func(v any, _ bool) bool {
		n, ok := v.(json.Number)
		f, err := n.Float64()
		return ok && err == nil && (f == low || f >= low && f < high)
	}
}

// ClaimAmong holds for lists of which one entry is as test says.
func ClaimAmong(test ClaimTest) ClaimTest {
	return func(v any, _ bool) bool {
		list, _ := v.([]any)
		for _, one := range list {
			if test(one, true) {
				return true
			}
		}
		return false
	}
}

// ClaimEither holds if one of tests does.
func ClaimEither(tests []ClaimTest) ClaimTest {
	return func(v any, there bool) bool {
		for _, t := range tests {
			if t(v, there) {
				return true
			}
		}
		return false
	}
}

// bytesOf are the bytes of s, which nobody changes.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
