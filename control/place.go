package control

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/weirmesh/weir/api/causes"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/control/why"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
)

// mostGuards is how many objects of one kind are named for a workload.
const mostGuards = 5

// place completes who decided what stories tell of: the objects that hold for the workload, where no record names one, and of each field
// its place in the object, with the line.
func (p *Plane) place(stories []apiv1.Story) {
	u := p.latest.Load()
	if u == nil {
		return
	}
	now := placing{snap: u.Snapshot, objects: p.lookUp(),
		accepts: sync.OnceValue(func() translate.Accepts { return translate.NewAccepts(u.Snapshot) }),
		guards:  sync.OnceValue(func() translate.Guards { return translate.NewGuards(u.Snapshot) })}
	for i := range stories {
		s := &stories[i]
		if len(s.Hops) == 0 {
			continue
		}
		h := &s.Hops[s.Hop]
		s.Decided = append(slices.DeleteFunc(now.holding(s, h), func(d apiv1.Decider) bool {
			return slices.ContainsFunc(s.Decided, func(there apiv1.Decider) bool {
				return there.Kind == d.Kind && there.Namespace == d.Namespace && there.Name == d.Name
			})
		}), s.Decided...)
		for j := range s.Decided {
			d := &s.Decided[j]
			if kind, rest, ok := strings.Cut(d.Name, "/"); ok && d.Gone { // made of an object of Istio before 1.5
				name, _, _ := strings.Cut(rest, "/")
				*d = apiv1.Decider{Kind: kind, Namespace: d.Namespace, Name: name}
				now.known(d, s)
			}
			if d.Changed || d.Gone || d.Field == "" {
				continue
			}
			o := u.Object(mesh.Ref{Kind: d.Kind, Namespace: d.Namespace, Name: d.Name})
			if o == nil || o.Serving == nil || d.File != "" && d.File != o.Serving.Ref.File {
				continue
			}
			spec := o.Serving.Root().Get("spec")
			for _, path := range paths(d, h, spec) {
				at, line, ok := locate(spec, path, d.Line)
				if !ok {
					continue
				}
				if d.Field = at; o.Serving.Ref.Line > 0 {
					d.Line = line
				}
				break
			}
		}
	}
}

// placing is the configuration of now; answers are made when they are first needed.
type placing struct {
	snap    *mesh.Snapshot
	objects why.Objects
	accepts func() translate.Accepts
	guards  func() translate.Guards
}

// holding are the objects that hold for the workload at a hop, of the kind that the cause is about.
func (x *placing) holding(s *apiv1.Story, h *apiv1.Hop) (out []apiv1.Decider) {
	c, ok := causes.Named(s.Cause)
	if !ok {
		return nil
	}
	_, name, ok := nodeName(h.Proxy)
	if !ok {
		return nil
	}
	w := x.snap.Workloads.At(mesh.Key(name))
	if w == nil {
		return nil
	}
	add := func(r *mesh.Ref, field string) {
		if len(out) < mostGuards {
			d := apiv1.Decider{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name, Field: field}
			x.known(&d, s)
			out = append(out, d)
		}
	}
	action, field := mesh.AuthorizationAllow, "rules"
	switch c {
	case causes.FilterChainNotFound:
		a, err := netip.ParseAddrPort(h.Asked)
		if err != nil || h.Side != "destination" {
			return nil
		}
		if mode, by := x.accepts().On(w.Namespace, w.Labels, a.Port()); mode == mesh.MTLSStrict {
			for i := range by {
				add(&by[i].Ref, "mtls.mode")
			}
		}
		return out
	case causes.TokenRefused, causes.TokenMissing, causes.TokenExpired, causes.TokenKeyUnknown, causes.TokenKeysUnavailable:
		_, tokens := x.guards().On(w.Namespace, w.Labels)
		for _, r := range tokens {
			add(&r.Ref, "jwtRules")
		}
		return out
	case causes.NotAllowed:
	case causes.ExtAuthzDenied, causes.ExtAuthzError, causes.ExtAuthzTooLarge:
		action, field = mesh.AuthorizationCustom, "provider"
	default:
		return nil
	}
	policies, _ := x.guards().On(w.Namespace, w.Labels)
	for _, p := range policies {
		if p.Action == action && !p.DryRun {
			add(&p.Ref, field)
		}
	}
	return out
}

// known says what is known of an object now.
func (x *placing) known(d *apiv1.Decider, s *apiv1.Story) {
	o, ok := x.objects.Object(d.Kind, d.Namespace, d.Name)
	if d.Gone = !ok; !ok {
		return
	}
	if d.File, d.Line = o.File, o.Line; !o.Since.IsZero() {
		d.Since = &o.Since
		d.Changed = o.Since.After(s.Time)
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
		if !isPolicy || i < 0 {
			break
		}
		name := strings.Split(h.Decisions[i].Name, "|") // direction|port|subset|host
		if len(name) != 4 {
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
				if v.Get("name").String() == name[2] {
					within(document.Index("subsets", i)+".", v)
				}
			}
		}
		within("", spec)
		return out
	}
	return []string{d.Field}
}

// locate follows a path through a document. Of the first list whose item is left open ("http[]") the item in line is taken, of others the
// only one; where that is not clear, the path stays open from there on. False: there is no such field.
func locate(v *document.Value, path string, line int) (at string, found int, ok bool) {
	first := true
	for step := range strings.SplitSeq(path, ".") {
		name, index, isList := strings.Cut(strings.TrimSuffix(step, "]"), "[")
		if at != "" {
			at += "."
		}
		at += name
		if v == nil {
			return "", 0, false
		}
		i := slices.IndexFunc(v.Fields, func(f document.Field) bool { return f.Name == name })
		if i < 0 {
			return "", 0, false
		}
		found, v = v.Fields[i].Line, v.Fields[i].Value
		if !isList {
			continue
		}
		if v == nil {
			return "", 0, false
		}
		n, err := strconv.Atoi(index)
		switch {
		case index != "" && err != nil:
			return "", 0, false
		case index != "":
		case first:
			n = slices.IndexFunc(v.Items, func(x *document.Value) bool { return x.Line == line })
		case len(v.Items) != 1:
			n = -1
		}
		first = false
		if n < 0 {
			return path, cmp.Or(line, found), true
		}
		if n >= len(v.Items) {
			return "", 0, false
		}
		at, v = document.Index(at, n), v.Items[n]
		found = v.Line
	}
	return at, found, true
}
