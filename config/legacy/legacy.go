// Package legacy says in today's words what objects of Istio before 1.5 ask for: who may call a service (ServiceRole,
// ServiceRoleBinding, ClusterRbacConfig, RbacConfig), and who has to prove what to it (Policy, MeshPolicy).
//
// Such objects, lowered one by one by config/istio, and the services and workloads of a Snapshot enter Convert; policies
// of the plan and findings leave. The old objects choose services, the plan chooses workloads by labels: a service stands
// for those its selector picks. Where the two differ nobody gets more than the old objects gave. Convert is pure; any
// goroutine may call it.
package legacy

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/mesh"
)

// Role is a ServiceRole: what may be done with services of its namespace.
type Role struct {
	Ref    mesh.Ref
	Access []Access
}

// Access is one rule of a Role.
type Access struct {
	Services []string // host names: exact, "prefix*", "*suffix", "*" for all of the namespace
	To, When mesh.AuthorizationClause
	// What can be told of services and workloads before anybody calls: destination.port, destination.namespace and
	// labels of workloads, by name. A condition's Attribute is a label in the last.
	Ports, Namespaces, Labels []mesh.AuthorizationCondition
}

// Binding is a ServiceRoleBinding: who has a Role.
type Binding struct {
	Ref      mesh.Ref
	Role     string
	RoleLine int
	Subjects []mesh.AuthorizationClause // one of which has to match
	Watched  bool                       // mode PERMISSIVE: it is only logged
}

// Config is a ClusterRbacConfig or RbacConfig: to which services Roles apply.
type Config struct {
	Ref                  mesh.Ref
	Mode                 Mode
	Services, Namespaces []string // of inclusion or exclusion
	Watched              bool
}

// Mode of a Config.
type Mode uint8

// Modes: for no service, all, those listed, and all others.
const (
	Off Mode = iota
	On
	OnlyListed
	AllButListed
)

// Policy is a Policy or, without namespace, a MeshPolicy: what callers of services have to prove.
type Policy struct {
	Ref     mesh.Ref
	Targets []Target // none: all services of the namespace, or of the mesh
	Mode    mesh.MTLSMode
	Origins []Origin
	// Required says that a request has to bring a token of one of Origins.
	Required bool
	// Closed says that what it asks of requests cannot be known: none is let in.
	Closed bool
}

// Target is a service, and if there are any some of its ports.
type Target struct {
	Service string // its short name
	Ports   []Port
	Path    string
	Line    int
}

// Port is a service's port, by number or name.
type Port struct {
	Number uint16
	Name   string
}

// Origin is an issuer of tokens.
type Origin struct {
	Rule     mesh.JWTRule
	Triggers []Trigger // requests of one of which need a token; none: all do
}

// Trigger matches requests by path.
type Trigger struct{ Paths, NotPaths []string }

// Converted is what objects come to.
type Converted struct {
	Authorizations map[mesh.Key]*mesh.AuthorizationPolicy
	PeerAuths      map[mesh.Key]*mesh.PeerAuthentication
	RequestAuths   map[mesh.Key]*mesh.RequestAuthentication
	Findings       []config.Finding
}

// Convert joins objects, which are *Role, *Binding, *Config and *Policy, with the services and workloads of a Snapshot.
func Convert(snap *mesh.Snapshot, objects iter.Seq[any]) *Converted {
	c := &conversion{snap: snap, roles: map[mesh.Key]*Role{}, known: map[string]*mesh.Service{}, Converted: &Converted{Authorizations: map[mesh.Key]*mesh.AuthorizationPolicy{},
		PeerAuths: map[mesh.Key]*mesh.PeerAuthentication{}, RequestAuths: map[mesh.Key]*mesh.RequestAuthentication{}}}
	for o := range objects {
		switch o := o.(type) {
		case *Role:
			c.roles[mesh.NewKey(o.Ref.Namespace, o.Ref.Name)] = o
		case *Binding:
			c.bindings = append(c.bindings, o)
		case *Config:
			c.configs = append(c.configs, o)
		case *Policy:
			c.policies = append(c.policies, o)
		}
	}
	slices.SortFunc(c.bindings, func(a, b *Binding) int { return mesh.Older(&a.Ref, &b.Ref) })
	slices.SortFunc(c.policies, func(a, b *Policy) int { return mesh.Older(&a.Ref, &b.Ref) })
	c.find()
	c.authorize()
	c.authenticate()
	config.Tidy(c.Findings)
	return c.Converted
}

// conversion is the work of one Convert.
type conversion struct {
	*Converted
	snap     *mesh.Snapshot
	roles    map[mesh.Key]*Role
	bindings []*Binding
	configs  []*Config
	policies []*Policy
	services []*service               // the oldest of a namespace first
	known    map[string]*mesh.Service // by host name, those without workloads, too
}

// service is one that workloads of the mesh serve.
type service struct {
	*mesh.Service
	pods     []*mesh.Workload
	selector mesh.Labels // nil: who serves it is listed, and all workloads of the namespace are taken for it
	targets  [][]uint16  // of each of Ports: the workloads' ports; none: it has a name that no workload is known to have
}

// unknown reports whether a port is not known: the proxy of a workload may come before the workload is seen.
func (s *service) unknown() bool {
	return slices.ContainsFunc(s.targets, func(numbers []uint16) bool { return len(numbers) == 0 })
}

// find lists the services that old objects can speak of. Of one that only lists who serves it, and that no workload of
// the mesh does, no proxy enforces anything.
func (c *conversion) find() {
	in := map[string][]*mesh.Workload{}
	for w := range c.snap.Workloads.Values() {
		in[w.Namespace] = append(in[w.Namespace], w)
	}
	for key, svc := range c.snap.Services.All() {
		if svc.External {
			continue
		}
		c.known[svc.Hostname] = svc
		s := &service{Service: svc, selector: svc.Selector}
		if len(svc.Selector) == 0 {
			s.selector = nil
		}
		if len(svc.Selector) > 0 {
			for _, w := range in[svc.Namespace] {
				if svc.Selector.Selects(w.Labels) {
					s.pods = append(s.pods, w)
				}
			}
		} else if eps := c.snap.Endpoints.At(key); eps != nil {
			for _, p := range svc.Ports {
				for _, e := range eps.Ports[p.Number] {
					if e.Workload != nil && !slices.Contains(s.pods, e.Workload) {
						s.pods = append(s.pods, e.Workload)
					}
				}
			}
		}
		if len(s.pods) == 0 && s.selector == nil {
			continue
		}
		for i := range svc.Ports {
			var numbers []uint16
			if svc.Ports[i].TargetName == "" {
				numbers = append(numbers, svc.Ports[i].TargetNumber())
			}
			for _, w := range s.pods {
				if n, ok := w.Serves(&svc.Ports[i]); ok && !slices.Contains(numbers, n) {
					numbers = append(numbers, n)
				}
			}
			slices.Sort(numbers)
			s.targets = append(s.targets, numbers)
		}
		c.services = append(c.services, s)
	}
	slices.SortFunc(c.services, func(a, b *service) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), mesh.Authority(a.Service, b.Service))
	})
}

// name is what a policy made of an object for a service is called.
func name(ref *mesh.Ref, s *service, more ...any) string {
	out := ref.Kind + "/" + ref.Name
	if s != nil {
		out += "/" + s.Name
	}
	if len(more) > 0 {
		out += fmt.Sprint(more...)
	}
	return out
}

// youngest makes what was converted give way where the oldest of several counts.
func youngest(ref mesh.Ref) mesh.Ref {
	ref.Created = math.MaxInt64
	return ref
}

// unselected tells that a service's workloads are not known by labels.
func (c *conversion) unselected(ref *mesh.Ref, s *service) {
	if s.selector == nil {
		c.Findings = append(c.Findings, config.New(config.LegacyClosed, *ref, "", ref.Line,
			fmt.Sprintf("Service %s/%s has no selector: who serves it is not known by labels, so all workloads of namespace %s are taken for it, on its ports", s.Namespace, s.Name, s.Namespace),
			"give the Service a selector, or write policies of security.istio.io"))
	}
}

func matches(pattern, text string) bool {
	if rest, ok := strings.CutPrefix(pattern, "*"); ok {
		return strings.HasSuffix(text, rest)
	}
	if rest, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(text, rest)
	}
	return pattern == text
}

// holds is a condition about something that is known.
func holds(c mesh.AuthorizationCondition, text string) bool {
	is := func(v string) bool { return matches(v, text) }
	return (len(c.Values) == 0 || slices.ContainsFunc(c.Values, is)) && !slices.ContainsFunc(c.NotValues, is)
}
