// Package verdict says of every rule of every object whether it is used, and if it is not,
// why not.
//
// A Snapshot enters (On); for each rule of a VirtualService, at the sidecars and at each
// Gateway it is bound to, for each server of a Gateway and each part of a DestinationRule one
// Verdict leaves: Active, with an example of what gets there, Shadowed, with who has what the
// rule would get, or Rejected, with the reason. Of objects that are not in force at all
// Refused tells the same.
//
// What is judged is whether anything can get to a rule, from whatever client there may be: not
// whether anybody asks. Everything is a function of the Snapshot; a View is for one goroutine.
package verdict

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// State is what became of a rule.
type State uint8

// States, the better ones first: a rule that is active anywhere is active.
const (
	Active State = iota
	Shadowed
	Rejected
)

// String is the word for it.
func (s State) String() string { return [...]string{"active", "shadowed", "rejected"}[s] }

// Verdict is what became of one rule in one place.
type Verdict struct {
	Object mesh.Ref
	Part   string // field path: spec.http[2]
	At     string // "mesh", or "namespace/name" of a Gateway; "" where there is but one place
	State  State
	By     mesh.Ref // of what is Shadowed: the object that has what this one would get
	ByPart string
	Why    string   // it is not Active
	Sample *Example // of what is Active; nil if none was found in time
}

// Example is a call that gets to a rule.
type Example struct {
	Namespace string // of the client
	Labels    mesh.Labels
	To        netip.AddrPort // the address is invalid if any will do that the mesh does not know
	SNI       string         // where the client speaks TLS

	Method, Host, Path string // of a request, Path with its query; empty of what is not HTTP
	Headers            map[string]string
	Claims             map[string]string // of its token, by path
}

// String is the call in one line.
func (e *Example) String() string {
	var b strings.Builder
	word := func(format string, args ...any) {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, format, args...)
	}
	switch port := e.To.Port(); {
	case e.Method != "":
		scheme := "http"
		if e.SNI != "" {
			scheme = "https"
		}
		host, path := e.Host, e.Path
		if !strings.Contains(host, ":") && port != 0 {
			host = fmt.Sprintf("%s:%d", host, port)
		}
		word("%s %s://%s%s", e.Method, scheme, host, path)
		for _, k := range slices.Sorted(maps.Keys(e.Headers)) {
			word("%s=%q", k, e.Headers[k])
		}
		for _, k := range slices.Sorted(maps.Keys(e.Claims)) {
			word("claim%s=%q", k, e.Claims[k])
		}
	case e.Host != "":
		word("%s", e.Host)
	case e.To.IsValid():
		word("%s", e.To)
	default:
		word("port %d", port)
	}
	if e.SNI != "" {
		word("with server name %s", e.SNI)
	}
	word("from namespace %s", e.Namespace)
	for _, k := range slices.Sorted(maps.Keys(e.Labels)) {
		word("%s=%s", k, e.Labels[k])
	}
	return b.String()
}

// View is a Snapshot in which rules are found.
type View struct {
	snap      *mesh.Snapshot
	machines  *machines
	hosts     map[string][]*mesh.Service // the most authoritative first
	virtuals  []*expanded                // oldest first
	byHost    map[string][]*expanded     // those for sidecars
	rules     map[inNamespace][]*mesh.DestinationRule
	sidecars  map[string][]*mesh.Sidecar
	gateways  []*mesh.Gateway
	namespace []string // all there are, sorted
}

type inNamespace struct{ namespace, host string }

// expanded is a VirtualService with the rules of its delegates.
type expanded struct {
	*mesh.VirtualService
	rules  []*rule
	absent map[int]string      // rules that delegate, but not to anybody, and why
	lost   []mesh.Undelegated  // rules of delegates that are within nothing
	places map[string]struct{} // it is bound to, as a whole or by some match
}

// rule is one rule of a VirtualService, where it is applied.
type rule struct {
	*mesh.HTTPRoute
	of   *expanded
	root int       // index in of
	ref  *mesh.Ref // of the object that has it
	part string
}

// On makes the View of a Snapshot.
func On(snap *mesh.Snapshot) *View {
	v := &View{snap: snap, machines: newMachines(), hosts: map[string][]*mesh.Service{}, byHost: map[string][]*expanded{},
		rules: map[inNamespace][]*mesh.DestinationRule{}, sidecars: map[string][]*mesh.Sidecar{}}
	known := map[string]bool{}
	for s := range snap.Services.Values() {
		v.hosts[s.Hostname] = append(v.hosts[s.Hostname], s)
		known[s.Namespace] = true
		listed(known, s.Visible)
	}
	for h := range v.hosts {
		slices.SortFunc(v.hosts[h], mesh.Authority)
	}
	for vs := range snap.VirtualServices.Values() {
		v.virtuals = append(v.virtuals, v.expand(vs))
		known[vs.Ref.Namespace] = true
		listed(known, vs.Visible)
		for i := range vs.HTTP {
			for _, m := range vs.HTTP[i].Matches {
				known[m.SourceNamespace] = true
			}
		}
		for _, m := range l4Matches(vs) {
			known[m.SourceNamespace] = true
		}
	}
	slices.SortFunc(v.virtuals, func(a, b *expanded) int { return mesh.Older(&a.Ref, &b.Ref) })
	for _, x := range v.virtuals {
		if _, ok := x.places[mesh.Mesh]; ok {
			for _, h := range slices.Compact(slices.Sorted(slices.Values(x.Hosts))) {
				v.byHost[h] = append(v.byHost[h], x)
			}
		}
	}
	for r := range snap.DestinationRules.Values() {
		k := inNamespace{r.Ref.Namespace, r.Host}
		v.rules[k] = append(v.rules[k], r)
		known[r.Ref.Namespace] = true
		listed(known, r.Visible)
	}
	for k := range v.rules {
		slices.SortFunc(v.rules[k], func(a, b *mesh.DestinationRule) int { return mesh.Older(&a.Ref, &b.Ref) })
	}
	for s := range snap.Sidecars.Values() {
		v.sidecars[s.Ref.Namespace] = append(v.sidecars[s.Ref.Namespace], s)
		known[s.Ref.Namespace] = true
	}
	for ns := range v.sidecars {
		slices.SortFunc(v.sidecars[ns], func(a, b *mesh.Sidecar) int { return mesh.Older(&a.Ref, &b.Ref) })
	}
	for g := range snap.Gateways.Values() {
		v.gateways = append(v.gateways, g)
	}
	slices.SortFunc(v.gateways, func(a, b *mesh.Gateway) int { return mesh.Older(&a.Ref, &b.Ref) })
	for w := range snap.Workloads.Values() {
		known[w.Namespace] = true
	}
	delete(known, "")
	for ns := range known {
		v.namespace = append(v.namespace, ns)
	}
	slices.Sort(v.namespace)
	return v
}

func listed(known map[string]bool, v mesh.Visibility) {
	for _, ns := range v.Namespaces {
		known[ns] = true
	}
}

func l4Matches(vs *mesh.VirtualService) []mesh.L4Match {
	var out []mesh.L4Match
	for i := range vs.TLS {
		out = append(out, vs.TLS[i].Matches...)
	}
	for i := range vs.TCP {
		out = append(out, vs.TCP[i].Matches...)
	}
	return out
}

// expand puts the rules of delegates in their places.
func (v *View) expand(vs *mesh.VirtualService) *expanded {
	find := func(k mesh.Key) *mesh.VirtualService { return v.snap.VirtualServices.At(k) }
	all, lost := vs.Delegated(find)
	x := &expanded{VirtualService: vs, absent: map[int]string{}, lost: lost, places: map[string]struct{}{}}
	n := 0
	put := func(root, i int) {
		r := &rule{HTTPRoute: &all.HTTP[n], of: x, root: root, ref: &vs.Ref, part: document.Index("spec.http", i)}
		if r.From != nil {
			r.ref = r.From
		}
		x.rules = append(x.rules, r)
		n++
	}
	for i := range vs.HTTP {
		to := vs.HTTP[i].Action.Delegate
		if to == "" {
			put(i, i)
			continue
		}
		d := find(to)
		switch {
		case d == nil:
			x.absent[i] = fmt.Sprintf("VirtualService %s, to which it delegates, does not exist", to)
		case !d.IsDelegate():
			x.absent[i] = fmt.Sprintf("VirtualService %s, to which it delegates, has hosts of its own", to)
		case !d.Visible.VisibleTo(vs.Ref.Namespace):
			x.absent[i] = fmt.Sprintf("VirtualService %s, to which it delegates, is not visible in namespace %s", to, vs.Ref.Namespace)
		default:
			for j := range d.HTTP {
				if !slices.ContainsFunc(lost, func(l mesh.Undelegated) bool { return l.Root == i && l.Rule == j }) {
					put(i, j)
				}
			}
		}
	}
	for _, g := range vs.Gateways {
		x.places[g] = struct{}{}
	}
	for _, r := range x.rules {
		for _, m := range r.Matches {
			for _, g := range m.Gateways {
				x.places[g] = struct{}{}
			}
		}
	}
	for _, m := range l4Matches(vs) {
		for _, g := range m.Gateways {
			x.places[g] = struct{}{}
		}
	}
	return x
}

// better keeps the better of two: what is Active comes before what is Shadowed, of equals the
// first stays.
func (d *Verdict) better(o Verdict) {
	if d.Why == "" && d.State != Active || o.State < d.State || o.State == Active && d.Sample == nil {
		o.Object, o.Part, o.At = d.Object, d.Part, d.At
		*d = o
	}
}

func rejected(format string, args ...any) Verdict {
	return Verdict{State: Rejected, Why: fmt.Sprintf(format, args...)}
}

func shadowed(by *mesh.Ref, part, format string, args ...any) Verdict {
	return Verdict{State: Shadowed, By: *by, ByPart: part, Why: fmt.Sprintf(format, args...)}
}

func active(e *Example) Verdict { return Verdict{State: Active, Sample: e} }

// pending is a verdict on a rule of which nothing is known yet: anything is better.
func pending(ref *mesh.Ref, part, at string) Verdict {
	return Verdict{Object: *ref, Part: part, At: at, State: Rejected}
}

// VirtualService judges each rule of a VirtualService at each place it is bound to; of one
// without hosts each rule wherever somebody delegates to it.
func (v *View) VirtualService(key mesh.Key) []Verdict {
	vs := v.snap.VirtualServices.At(key)
	if vs == nil {
		return nil
	}
	if vs.IsDelegate() {
		return v.delegate(key, vs)
	}
	x := v.virtuals[slices.IndexFunc(v.virtuals, func(x *expanded) bool { return x.VirtualService == vs })]
	var out []Verdict
	for _, place := range x.bound() {
		found := v.judge(x, place)
		for i := range vs.HTTP {
			d := pending(&vs.Ref, document.Index("spec.http", i), place)
			if why := x.absent[i]; why != "" {
				d.better(rejected("%s", why))
			}
			for n, r := range x.rules {
				if r.root == i {
					d.better(found.http[n])
				}
			}
			for _, l := range x.lost {
				if l.Root == i {
					d.better(rejected("no rule of VirtualService %s, to which it delegates, matches anything that it matches", l.To))
				}
			}
			d.better(rejected("VirtualService %s, to which it delegates, has no rules", vs.HTTP[i].Action.Delegate))
			out = append(out, d)
		}
		for i := range vs.TLS {
			d := pending(&vs.Ref, document.Index("spec.tls", i), place)
			d.better(found.tls[i])
			out = append(out, d)
		}
		for i := range vs.TCP {
			d := pending(&vs.Ref, document.Index("spec.tcp", i), place)
			d.better(found.tcp[i])
			out = append(out, d)
		}
	}
	return out
}

// bound are the places of a VirtualService, the sidecars first.
func (x *expanded) bound() []string {
	var out []string
	for p := range x.places {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b string) int {
		return cmp.Or(cmp.Compare(strings.Count(a, "/"), strings.Count(b, "/")), strings.Compare(a, b))
	})
	return out
}

// delegate judges rules that stand where others delegate to them.
func (v *View) delegate(key mesh.Key, vs *mesh.VirtualService) []Verdict {
	type spot struct {
		rule  int
		place string
	}
	var out []Verdict
	at := map[spot]int{}
	note := func(i int, place string, d Verdict) {
		n, ok := at[spot{i, place}]
		if !ok {
			n = len(out)
			at[spot{i, place}] = n
			out = append(out, pending(&vs.Ref, document.Index("spec.http", i), place))
		}
		out[n].better(d)
	}
	used := false
	for _, x := range v.virtuals {
		if !slices.Contains(x.Delegates(), key) {
			continue
		}
		used = true
		for _, place := range x.bound() {
			found := v.judge(x, place)
			for i := range x.HTTP {
				if x.HTTP[i].Action.Delegate != key {
					continue
				}
				for j := range vs.HTTP {
					n := slices.IndexFunc(x.rules, func(r *rule) bool { return r.root == i && r.ref == &vs.Ref && r.part == document.Index("spec.http", j) })
					switch {
					case n >= 0:
						note(j, place, found.http[n])
					case x.absent[i] != "":
						note(j, place, rejected("it is not visible in namespace %s, where VirtualService %s delegates to it", x.Ref.Namespace, x.Ref.Name))
					default:
						note(j, place, rejected("its match is not within that of spec.http[%d] of VirtualService %s/%s, which delegates to it", i, x.Ref.Namespace, x.Ref.Name))
					}
				}
			}
		}
	}
	if !used {
		for i := range vs.HTTP {
			note(i, "", rejected("it has no hosts, and no VirtualService delegates to it"))
		}
	}
	return out
}

// findings of one VirtualService at one place.
type judged struct {
	http     []Verdict // as expanded.rules
	tls, tcp []Verdict
}

func (v *View) judge(x *expanded, place string) *judged {
	out := &judged{http: make([]Verdict, len(x.rules)), tls: make([]Verdict, len(x.TLS)), tcp: make([]Verdict, len(x.TCP))}
	for _, list := range [][]Verdict{out.http, out.tls, out.tcp} {
		for i := range list {
			list[i].State = Rejected
		}
	}
	if place == mesh.Mesh {
		v.inMesh(x, out)
	} else {
		v.atGateway(x, place, out)
	}
	return out
}

// all is a verdict on everything that has none better.
func (j *judged) all(d Verdict) {
	for _, list := range [][]Verdict{j.http, j.tls, j.tcp} {
		for i := range list {
			list[i].better(d)
		}
	}
}

// settled reports whether all is active: it does not get better.
func (j *judged) settled() bool {
	for _, list := range [][]Verdict{j.http, j.tls, j.tcp} {
		if slices.ContainsFunc(list, func(d Verdict) bool { return d.State != Active || d.Sample == nil }) {
			return false
		}
	}
	return true
}
