// Package treediff says where two values of decoded JSON differ.
//
// Two trees enter (nil, booleans, strings, numbers, []any, map[string]any; neither is changed), paths with what stands there on either
// side leave, in order of path. Anybody may call it; nothing is kept and nothing is concurrent.
package treediff

import (
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Difference is a place where the trees differ, "a.b[0].c"; nil stands for nothing.
type Difference struct {
	Path string
	A, B any
}

// Differences yields where a and b differ, as deep in the trees as there is something on both sides. byName has lists whose elements all
// have names of their own compared by name, `a["x"]`, so that one more of them is one difference and not all that follow.
func Differences(a, b any, byName bool) iter.Seq[Difference] {
	return func(yield func(Difference) bool) { walker{byName, yield}.walk("", a, b) }
}

type walker struct {
	byName bool
	yield  func(Difference) bool
}

// walk reports whether to go on.
func (w walker) walk(path string, a, b any) bool {
	if reflect.DeepEqual(a, b) {
		return true
	}
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok {
			break
		}
		names := maps.Clone(x)
		maps.Copy(names, y)
		for _, n := range slices.Sorted(maps.Keys(names)) {
			if !w.walk(strings.TrimPrefix(path+"."+n, "."), x[n], y[n]) {
				return false
			}
		}
		return true
	case []any:
		y, ok := b.([]any)
		if !ok {
			break
		}
		if w.byName && named(x) && named(y) {
			return w.walkByName(path, x, y)
		}
		for i := range max(len(x), len(y)) {
			if !w.walk(path+"["+strconv.Itoa(i)+"]", at(x, i), at(y, i)) {
				return false
			}
		}
		return true
	}
	return w.yield(Difference{path, a, b})
}

func (w walker) walkByName(path string, x, y []any) bool {
	other := map[string]any{}
	for _, e := range y {
		other[nameOf(e)] = e
	}
	for _, e := range x {
		n := nameOf(e)
		if !w.walk(fmt.Sprintf("%s[%q]", path, n), e, other[n]) {
			return false
		}
		delete(other, n)
	}
	for _, n := range slices.Sorted(maps.Keys(other)) {
		if !w.walk(fmt.Sprintf("%s[%q]", path, n), nil, other[n]) {
			return false
		}
	}
	return true
}

func at(list []any, i int) any {
	if i < len(list) {
		return list[i]
	}
	return nil
}

// named reports whether every element has a name of its own.
func named(list []any) bool {
	seen := map[string]bool{}
	for _, e := range list {
		n := nameOf(e)
		if n == "" || seen[n] {
			return false
		}
		seen[n] = true
	}
	return len(list) > 0
}

func nameOf(e any) string {
	m, _ := e.(map[string]any)
	n, _ := m["name"].(string)
	return n
}

// Brief is a value as JSON, at most some bytes of it.
func Brief(v any, most int) string {
	b, err := json.Marshal(v)
	if err != nil || len(b) <= most {
		return string(b)
	}
	return strings.ToValidUTF8(string(b[:most]), "") + "…"
}
