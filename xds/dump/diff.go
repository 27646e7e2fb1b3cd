package dump

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/weirmesh/weir/internal/treediff"
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
			d.Fields = fields(a, b)
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

// fields lists where a and b differ. An inserted virtual host is one difference, not all that follow.
func fields(a, b any) (out []Field) {
	for d := range treediff.Differences(a, b, true) {
		if len(out) == maxFields {
			break
		}
		out = append(out, Field{d.Path, short(d.A), short(d.B)})
	}
	return out
}

// short is a value as JSON, as long as fits a line of a terminal twice.
func short(v any) string {
	if v == nil {
		return ""
	}
	return treediff.Brief(v, 160)
}
