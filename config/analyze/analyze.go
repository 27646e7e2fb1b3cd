// Package analyze looks across objects: it finds references that lead nowhere, rules
// that are never used and policies that contradict each other.
//
// A Snapshot and the objects behind it enter (Input); findings leave. Nothing here
// changes what the mesh does. It says the same offline (weir analyze) and in a running
// mesh, because it asks what the files say will run, not what is healthy just now.
//
// What there is to find is divided into parts (parts.go), each about one object or one
// name that objects share. A part finds what it needs in indexes (index.go), which notes
// down what it looked at; when that changes, and only then, the part is done again. What
// an Analyzer finds is what a new one would find. It is for one goroutine.
package analyze

import (
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/internal/persist"
	"github.com/weirmesh/weir/mesh"
)

// Input is what is looked at. A run compares it with that of the run before: what did not
// change must be shared, as persist.Maps do.
type Input struct {
	Snapshot *mesh.Snapshot
	Objects  Objects                       // in force
	Facts    Objects                       // what is really there besides
	Outside  persist.Map[string, mesh.Ref] // objects in force that are in no namespace of the mesh
	Assume   []*mesh.Workload              // will run, too
}

// Objects are found by config.ID.String(). A value is immutable.
type Objects interface {
	At(id string) (text *config.Object, lowered any) // nil: there is none
	// Since yields the ids whose objects are others than in an earlier value; nil is empty.
	Since(earlier Objects) iter.Seq[string]
}

// LocalGateway is the ingress gateway that the laptop mesh always runs, for Assume.
func LocalGateway() *mesh.Workload {
	return &mesh.Workload{Name: "istio-ingressgateway-0", Namespace: "istio-system", Labels: mesh.Labels{"app": "istio-ingressgateway", "istio": "ingressgateway"}}
}

// Analyzer remembers what it found and what that depended on: a run costs what changed
// since the last one. The zero value is ready.
type Analyzer struct{ a *analysis }

// Run returns what was found, sorted; the very same list if it is as before.
func (z *Analyzer) Run(in Input) []config.Finding {
	if z.a == nil || z.a.Snapshot.Settings != in.Snapshot.Settings || !slices.Equal(z.a.Assume, in.Assume) {
		z.a = newAnalysis(in)
	}
	z.a.update(in)
	return z.a.findings()
}

// text is what findings need of an object's text. Reading it again is most of the cost.
type text struct {
	of         *config.Object
	suppressed string
	lines      map[string]int
}

// add reports a finding about a field of an object, unless the object suppresses it.
func (a *analysis) add(code config.Code, ref mesh.Ref, path, message, hint string) {
	line := ref.Line
	if t := a.textOf(config.IDOf(ref).String()); t != nil {
		if config.Suppresses(t.suppressed, code) {
			return
		}
		if path != "" {
			var ok bool
			if line, ok = t.lines[path]; !ok {
				line = t.of.LineOf(path)
				t.lines[path] = line
			}
		}
	}
	a.doing.findings = append(a.doing.findings, config.New(code, ref, path, line, message, hint))
}

func (a *analysis) textOf(id string) *text {
	o := a.object(id)
	if o == nil {
		return nil
	}
	t := a.texts[id]
	if t == nil || t.of != o {
		t = &text{of: o, suppressed: o.Root().Get("metadata").Get("annotations").Get(config.SuppressAnnotation).String(), lines: map[string]int{}}
		a.texts[id] = t
	}
	return t
}

// selected finds what a selector picks in a namespace ("" is all). No selector picks
// everything.
func (a *analysis) selected(namespace string, selector mesh.Labels) []*instance {
	p := pair{namespace: namespace}
	if len(selector) > 0 { // one pair narrows enough, Selects checks the others
		p.key = slices.Min(slices.Collect(maps.Keys(selector)))
		p.value = selector[p.key]
	}
	a.look(thing{labelled, p.namespace, p.key, p.value})
	var out []*instance
	for _, i := range a.labelled[p] {
		if selector.Selects(i.labels) {
			out = append(out, i)
		}
	}
	return out
}

// service finds the service that host means for an object in a namespace: its own
// namespace's first, then any that is visible. hidden says that there is one, but not
// for this namespace.
func (a *analysis) service(host, namespace string) (s *mesh.Service, hidden bool) {
	candidates := a.servicesOf(host)
	for rest := host; len(candidates) == 0; { // a wildcard entry covers it
		_, after, ok := strings.Cut(rest, ".")
		if !ok {
			break
		}
		candidates, rest = a.servicesOf("*."+after), after
	}
	for _, c := range candidates {
		switch {
		case !c.Visible.VisibleTo(namespace):
			hidden = true
		case s == nil || c.Namespace == namespace:
			s = c
		}
	}
	return s, s == nil && hidden
}

// inMesh reports whether a host name is one that only a Service gives.
func (a *analysis) inMesh(host string) bool {
	return strings.HasSuffix(host, ".svc."+a.Snapshot.Settings.DomainSuffix)
}

// short is how people call a host.
func (a *analysis) short(host string) string {
	return strings.TrimSuffix(host, ".svc."+a.Snapshot.Settings.DomainSuffix)
}
