// Package analyze looks across objects: it finds references that lead nowhere, rules
// that are never used and policies that contradict each other.
//
// A Snapshot and the objects behind it enter (Input); findings leave. Nothing here
// changes what the mesh does. It says the same offline (weir analyze) and in a running
// mesh, because it asks what the files say will run, not what is healthy just now.
// What an Analyzer keeps only saves work; it is for one goroutine.
package analyze

import (
	"iter"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/kube"
	"github.com/weirmesh/weir/mesh"
)

// Input is what is looked at.
type Input struct {
	Snapshot    *mesh.Snapshot
	Deployments []Deployment
	Accounts    map[mesh.Key]bool
	ConfigMaps  map[mesh.Key]*corev1.ConfigMap
	Secrets     map[mesh.Key]*kube.Secret
	Assume      []*mesh.Workload // will run, too
	Outside     []mesh.Ref       // objects in force that are in no namespace of the mesh
	// Object finds the object in force behind a Ref, for lines; nil if there is none.
	Object func(mesh.Ref) *config.Object
}

// LocalGateway is the ingress gateway that the laptop mesh always runs, for Assume.
func LocalGateway() *mesh.Workload {
	return &mesh.Workload{Name: "istio-ingressgateway-0", Namespace: "istio-system", Labels: mesh.Labels{"app": "istio-ingressgateway", "istio": "ingressgateway"}}
}

// Deployment is a Deployment and where it stands.
type Deployment struct {
	Ref mesh.Ref
	*appsv1.Deployment
}

// Analyzer remembers where fields stand in objects that did not change since its last
// run: reading them again is most of the cost. The zero value is ready.
type Analyzer struct{ facts map[*config.Object]*facts }

// facts are what findings need of an object's text.
type facts struct {
	suppressed []string
	lines      map[string]int
}

// checks is everything Run does.
var checks = []func(*analysis){
	(*analysis).virtualServiceReferences,
	(*analysis).virtualServiceRules,
	(*analysis).virtualServiceConflicts,
	(*analysis).gatewayRules,
	(*analysis).ruleConflicts,
	(*analysis).destinationRules,
	(*analysis).gateways,
	(*analysis).gatewayConflicts,
	(*analysis).services,
	(*analysis).deployments,
	(*analysis).sharedDeployments,
	(*analysis).peerAuthentications,
	(*analysis).contradictingTLS,
	(*analysis).sidecars,
	(*analysis).outsiders,
}

// Run returns what was found, sorted.
func (z *Analyzer) Run(in Input) []config.Finding {
	a := newAnalysis(in)
	a.old = z.facts
	for _, check := range checks {
		check(a)
	}
	z.facts = a.facts
	return config.Tidy(a.findings)
}

// suppress is Istio's annotation by which an object turns findings off, by code or "*".
const suppress = "galley.istio.io/analyze-suppress"

// add reports a finding about a field of an object, unless the object suppresses it.
func (a *analysis) add(code config.Code, ref mesh.Ref, path, message, hint string) {
	line := ref.Line
	if o := a.Object(ref); o != nil {
		f := a.factsOf(o)
		if slices.Contains(f.suppressed, "*") || slices.Contains(f.suppressed, string(code)) {
			return
		}
		if path != "" {
			var ok bool
			if line, ok = f.lines[path]; !ok {
				line = o.LineOf(path)
				f.lines[path] = line
			}
		}
	}
	a.findings = append(a.findings, config.New(code, ref, path, line, message, hint))
}

func (a *analysis) factsOf(o *config.Object) *facts {
	f := a.facts[o]
	if f != nil {
		return f
	}
	if f = a.old[o]; f == nil {
		f = &facts{lines: map[string]int{}}
		for s := range strings.SplitSeq(o.Root().Get("metadata").Get("annotations").Get(suppress).String(), ",") {
			f.suppressed = append(f.suppressed, strings.TrimSpace(s))
		}
	}
	a.facts[o] = f
	return f
}

type analysis struct {
	Input
	findings []config.Finding
	facts    map[*config.Object]*facts
	old      map[*config.Object]*facts // of the last run

	hosts     map[string][]*mesh.Service // by host name
	names     []string                   // of all hosts
	rules     map[string][]*mesh.DestinationRule
	wildRules []*mesh.DestinationRule
	instances []instance
	labelled  map[pair][]int // instances by label
}

// instance is a workload that runs or will run.
type instance struct {
	namespace string
	labels    mesh.Labels
	ports     map[string]uint16 // named; nil of a kind that has no names
	numbers   map[uint16]bool   // declared container ports; nil if unknown
	entry     bool              // a WorkloadEntry
	deployed  *Deployment
}

type pair struct{ namespace, key, value string }

func newAnalysis(in Input) *analysis {
	a := &analysis{Input: in, facts: map[*config.Object]*facts{}, hosts: map[string][]*mesh.Service{}, rules: map[string][]*mesh.DestinationRule{}, labelled: map[pair][]int{}}
	for s := range in.Snapshot.Services.Values() {
		a.hosts[s.Hostname] = append(a.hosts[s.Hostname], s)
	}
	for h := range a.hosts {
		a.names = append(a.names, h)
	}
	slices.Sort(a.names)
	for r := range a.rulesInForce() {
		a.rules[r.Host] = append(a.rules[r.Host], r)
		if strings.HasPrefix(r.Host, "*") {
			a.wildRules = append(a.wildRules, r)
		}
	}
	for w := range in.Snapshot.Workloads.Values() {
		a.workload(w)
	}
	for _, w := range in.Assume {
		a.workload(w)
	}
	for i := range in.Deployments {
		d := &in.Deployments[i]
		inst := instance{namespace: d.Namespace, labels: d.Spec.Template.Labels, ports: map[string]uint16{}, deployed: d}
		for _, c := range d.Spec.Template.Spec.Containers {
			for _, p := range c.Ports {
				if inst.numbers == nil {
					inst.numbers = map[uint16]bool{}
				}
				inst.numbers[uint16(p.ContainerPort)] = true
				if p.Name != "" {
					inst.ports[p.Name] = uint16(p.ContainerPort)
				}
			}
		}
		a.instance(inst)
	}
	return a
}

// rulesInForce leaves out those that are refused: they have a finding that says more.
func (a *analysis) rulesInForce() iter.Seq[*mesh.DestinationRule] {
	return func(yield func(*mesh.DestinationRule) bool) {
		for r := range a.Snapshot.DestinationRules.Values() {
			if !r.Refused && !yield(r) {
				return
			}
		}
	}
}

func (a *analysis) workload(w *mesh.Workload) {
	a.instance(instance{namespace: w.Namespace, labels: w.Labels, ports: w.Ports, entry: w.OwnerKind == "WorkloadEntry"})
}

func (a *analysis) instance(i instance) {
	for k, v := range i.labels {
		// In its namespace, and for selectors that reach across namespaces in all.
		for _, p := range []pair{{i.namespace, k, v}, {"", k, v}} {
			a.labelled[p] = append(a.labelled[p], len(a.instances))
		}
	}
	a.instances = append(a.instances, i)
}

// selected finds what a selector picks in a namespace ("" is all). No selector picks
// everything.
func (a *analysis) selected(namespace string, selector mesh.Labels) []*instance {
	var out []*instance
	take := func(i int) {
		if in := &a.instances[i]; (namespace == "" || in.namespace == namespace) && selector.Selects(in.labels) {
			out = append(out, in)
		}
	}
	if len(selector) == 0 {
		for i := range a.instances {
			take(i)
		}
		return out
	}
	for k, v := range selector {
		for _, i := range a.labelled[pair{namespace, k, v}] {
			take(i)
		}
		break // one pair narrows enough, Selects checks the others
	}
	return out
}

// service finds the service that host means for an object in a namespace: its own
// namespace's first, then any that is visible. hidden says that there is one, but not
// for this namespace.
func (a *analysis) service(host, namespace string) (s *mesh.Service, hidden bool) {
	candidates := a.hosts[host]
	if len(candidates) == 0 {
		// A wildcard entry covers it.
		for rest := host; rest != "" && len(candidates) == 0; {
			_, after, ok := strings.Cut(rest, ".")
			if !ok {
				break
			}
			candidates, rest = a.hosts["*."+after], after
		}
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
