package dump

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/weirmesh/weir/xds/resource"
)

// Held is a dump that was read.
type Held struct {
	Bootstrap json.RawMessage // nil if there was none
	Resources []HeldResource  // in order of type and name
}

// HeldResource is one resource of it.
type HeldResource struct {
	TypeURL, Name, Version string
	Static                 bool
	// Waiting says that the client holds it and does not work with it yet (warming).
	Waiting bool
	// Body is the resource as JSON with the names of the proto, null if there is none: only
	// a Refused one came.
	Body    json.RawMessage
	Refused *Refusal
}

// maxDump bounds what is read: a wildcard client of 5,000 services has a dump of about
// 200 MB.
const maxDump = 1 << 30

// Read reads a dump. Sections that it does not know are passed over.
func Read(r io.Reader) (*Held, error) {
	var top struct {
		Configs []json.RawMessage `json:"configs"`
	}
	if err := json.NewDecoder(io.LimitReader(r, maxDump)).Decode(&top); err != nil {
		return nil, fmt.Errorf("reading a dump: %w", err)
	}
	h := &Held{}
	for i, raw := range top.Configs {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(raw, &fields); err != nil {
			return nil, fmt.Errorf("reading a dump: configs[%d]: %w", i, err)
		}
		var typ string
		_ = json.Unmarshal(fields["@type"], &typ) // absent or strange: not known
		name := strings.TrimPrefix(typ, adminPrefix)
		if name == "BootstrapConfigDump" {
			h.Bootstrap = fields["bootstrap"]
			continue
		}
		for _, s := range sections {
			if s.name != name {
				continue
			}
			if err := s.read(h, fields); err != nil {
				return nil, fmt.Errorf("reading a dump: %s: %w", name, err)
			}
		}
	}
	slices.SortStableFunc(h.Resources, func(a, b HeldResource) int {
		if c := strings.Compare(a.TypeURL, b.TypeURL); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return h, nil
}

// state is a version of a resource within an element.
type state map[string]json.RawMessage

func (s state) text(field string) (out string) {
	_ = json.Unmarshal(s[field], &out)
	return out
}

func (s *section) read(h *Held, fields map[string]json.RawMessage) error {
	for field, raw := range fields {
		static := field == s.static && s.static != ""
		waiting := strings.HasPrefix(field, "dynamic_warming_")
		if !static && !waiting && field != s.dynamic {
			continue
		}
		var list []state
		if err := json.Unmarshal(raw, &list); err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
		for _, e := range list {
			r := HeldResource{TypeURL: s.typeURL, Static: static, Waiting: waiting, Name: e.text("name")}
			at := e
			if s.nested() && !static {
				for _, of := range []string{"active_state", "warming_state"} {
					if e[of] != nil {
						at = nil
						if err := json.Unmarshal(e[of], &at); err != nil {
							return fmt.Errorf("%s: %w", of, err)
						}
						r.Waiting = of == "warming_state"
						break
					}
				}
			}
			r.Version, r.Body = at.text("version_info"), at[s.body]
			if r.Name == "" {
				var named struct {
					Name        string `json:"name"`
					ClusterName string `json:"cluster_name"`
				}
				_ = json.Unmarshal(r.Body, &named)
				if r.Name = named.Name; s.typeURL == resource.EndpointType {
					r.Name = named.ClusterName
				}
			}
			if e["error_state"] != nil {
				r.Refused = &Refusal{}
				if err := json.Unmarshal(e["error_state"], r.Refused); err != nil {
					return fmt.Errorf("error_state: %w", err)
				}
			}
			h.Resources = append(h.Resources, r)
		}
	}
	return nil
}

// Of are the resources of one type.
func (h *Held) Of(typeURL string) []HeldResource {
	var out []HeldResource
	for _, r := range h.Resources {
		if r.TypeURL == typeURL {
			out = append(out, r)
		}
	}
	return out
}
