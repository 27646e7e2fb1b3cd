package control

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// place finds the lines of the fields that decided what stories tell of, in the objects that are in force: of the rule, subset or port.
func (p *Plane) place(stories []apiv1.Story) {
	u := p.latest.Load()
	if u == nil {
		return
	}
	for i := range stories {
		s := &stories[i]
		for j := range s.Decided {
			d := &s.Decided[j]
			if d.Changed || d.Gone || d.Field == "" {
				continue
			}
			o := u.Object(mesh.Ref{Kind: d.Kind, Namespace: d.Namespace, Name: d.Name})
			if o == nil || o.Serving == nil || o.Serving.Ref.Line == 0 || d.File != "" && d.File != o.Serving.Ref.File {
				continue
			}
			spec := o.Serving.Root().Get("spec")
			for _, path := range paths(d, &s.Hops[s.Hop], spec) {
				if line, ok := locate(spec, path, d.Line); ok {
					d.Line = line
					break
				}
			}
		}
	}
}

// paths are where a field may stand, the place that goes before the others first.
func paths(d *apiv1.Decider, h *apiv1.Hop, spec *document.Value) []string {
	switch d.Kind {
	case "PeerAuthentication":
		if a, err := netip.ParseAddrPort(h.Asked); err == nil {
			return []string{"portLevelMtls." + strconv.Itoa(int(a.Port())) + ".mode", d.Field}
		}
	case "DestinationRule":
		of, isPolicy := strings.CutPrefix(d.Field, "trafficPolicy.")
		i := slices.IndexFunc(h.Decisions, func(x apiv1.Decision) bool { return x.Stage == "cluster" })
		if i < 0 {
			break
		}
		name := strings.Split(h.Decisions[i].Name, "|") // direction|port|subset|host
		if len(name) != 4 || !isPolicy && d.Field != "subsets" {
			break
		}
		var out []string
		within := func(at string, v *document.Value) {
			policy := v.Get("trafficPolicy")
			if ports := policy.Get("portLevelSettings"); ports != nil {
				for i, p := range ports.Items {
					if n := p.Get("port").Get("number"); n != nil && n.Text == name[1] {
						out = append(out, document.Index(at+"trafficPolicy.portLevelSettings", i)+"."+of)
					}
				}
			}
			out = append(out, at+d.Field)
		}
		if subsets := spec.Get("subsets"); subsets != nil && name[2] != "" {
			for i, v := range subsets.Items {
				switch {
				case v.Get("name").String() != name[2]:
				case !isPolicy:
					out = append(out, document.Index("subsets", i))
				default:
					within(document.Index("subsets", i)+".", v)
				}
			}
		}
		if !isPolicy {
			return append(out, d.Field)
		}
		within("", spec)
		return out
	}
	return []string{d.Field}
}

// locate is the line to which a path leads through a document. Of the first list whose item is left open ("http[]") the item in line is
// taken, of others the only one; where that is not clear, it is line itself. False: there is no such field.
func locate(v *document.Value, path string, line int) (found int, ok bool) {
	first := true
	for step := range strings.SplitSeq(path, ".") {
		name, index, isList := strings.Cut(strings.TrimSuffix(step, "]"), "[")
		if v == nil {
			return 0, false
		}
		i := slices.IndexFunc(v.Fields, func(f document.Field) bool { return f.Name == name })
		if i < 0 {
			return 0, false
		}
		found, v = v.Fields[i].Line, v.Fields[i].Value
		if !isList {
			continue
		}
		if v == nil {
			return 0, false
		}
		n, err := strconv.Atoi(index)
		switch {
		case index != "" && err != nil:
			return 0, false
		case index != "":
		case first:
			n = slices.IndexFunc(v.Items, func(x *document.Value) bool { return x.Line == line })
		case len(v.Items) != 1:
			n = -1
		}
		first = false
		if n < 0 {
			return cmp.Or(line, found), true
		}
		if n >= len(v.Items) {
			return 0, false
		}
		v = v.Items[n]
		found = v.Line
	}
	return found, true
}
