package dump

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/weirmesh/weir/xds/resource"
)

// Difference is one resource that two dumps do not agree about.
type Difference struct {
	TypeURL string `json:"type"`
	Name    string `json:"name"`
	// Sent and Held are the versions on the two sides; "" where there is none.
	Sent    string   `json:"sent,omitempty"`
	Held    string   `json:"held,omitempty"`
	Missing string   `json:"missing,omitempty"` // "held" or "sent": the side that has no such resource
	Refused *Refusal `json:"refused,omitempty"`
	Fields  []Field  `json:"fields,omitempty"`
}

// Field is one part of a resource that differs.
type Field struct {
	Path string `json:"path"` // "filter_chains[0].name"
	// Sent and Held are JSON; "" where there is nothing.
	Sent string `json:"sent,omitempty"`
	Held string `json:"held,omitempty"`
}

// maxFields is how many fields of one resource are listed: more is another resource.
const maxFields = 100

// Diff compares what was sent with what is held, resource by resource, those in both with
// equal content left out, whatever their versions: a version is the sender's name for a
// content, and two senders may use different ones. What has the version that was sent is
// equal, however a client shows messages of types it does not have; but for route tables,
// which are shown with virtual hosts that have versions of their own. A type of which
// nothing was sent is not compared: secrets that are the client's own.
func Diff(sent, held *Held) ([]Difference, error) {
	type key struct{ typeURL, name string }
	all, types := map[key][2]*HeldResource{}, map[string]bool{}
	for side, h := range []*Held{sent, held} {
		for i := range h.Resources {
			r := &h.Resources[i]
			if r.Static {
				continue
			}
			if side == 0 {
				types[r.TypeURL] = true
			}
			k := key{r.TypeURL, r.Name}
			pair := all[k]
			pair[side] = r
			all[k] = pair
		}
	}
	var out []Difference
	for k, pair := range all {
		d := Difference{TypeURL: k.typeURL, Name: k.name}
		s, h := pair[0], pair[1]
		switch {
		case !types[k.typeURL]:
			continue
		case h == nil || h.Body == nil:
			d.Missing, d.Sent = "held", s.version()
		case s == nil:
			d.Missing, d.Held = "sent", h.version()
		case s.Version != "" && s.Version == h.Version && k.typeURL != resource.RouteType:
			continue
		default:
			var a, b any
			if err := cmp.Or(json.Unmarshal(s.Body, &a), json.Unmarshal(h.Body, &b)); err != nil {
				return nil, fmt.Errorf("comparing %q: %w", k.name, err)
			}
			if reflect.DeepEqual(a, b) {
				continue
			}
			d.Sent, d.Held = s.version(), h.version()
			d.Fields = fields(nil, "", a, b)
		}
		if h != nil {
			d.Refused = h.Refused
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b Difference) int {
		return cmp.Or(strings.Compare(a.TypeURL, b.TypeURL), strings.Compare(a.Name, b.Name))
	})
	return out, nil
}

func (r *HeldResource) version() string {
	if r == nil {
		return ""
	}
	return r.Version
}

// fields lists where a and b differ.
func fields(out []Field, path string, a, b any) []Field {
	if len(out) >= maxFields || reflect.DeepEqual(a, b) {
		return out
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
			at := n
			if path != "" {
				at = path + "." + n
			}
			out = fields(out, at, x[n], y[n])
		}
		return out
	case []any:
		y, ok := b.([]any)
		if !ok {
			break
		}
		if named(x) && named(y) { // an inserted virtual host is one difference, not all that follow
			return byName(out, path, x, y)
		}
		for i := range max(len(x), len(y)) {
			var p, q any
			if i < len(x) {
				p = x[i]
			}
			if i < len(y) {
				q = y[i]
			}
			out = fields(out, path+"["+strconv.Itoa(i)+"]", p, q)
		}
		return out
	}
	return append(out, Field{path, short(a), short(b)})
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

func byName(out []Field, path string, x, y []any) []Field {
	other := map[string]any{}
	for _, e := range y {
		other[nameOf(e)] = e
	}
	for _, e := range x {
		out = fields(out, fmt.Sprintf("%s[%q]", path, nameOf(e)), e, other[nameOf(e)])
		delete(other, nameOf(e))
	}
	for _, n := range slices.Sorted(maps.Keys(other)) {
		out = fields(out, fmt.Sprintf("%s[%q]", path, n), nil, other[n])
	}
	return out
}

// short is a value as JSON, as long as fits a line of a terminal twice.
func short(v any) string {
	if v == nil {
		return ""
	}
	b, err := json.Marshal(v)
	const most = 160
	if err != nil || len(b) <= most {
		return string(b)
	}
	return strings.ToValidUTF8(string(b[:most]), "") + "…"
}
