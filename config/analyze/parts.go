package analyze

import (
	"slices"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/mesh"
)

// subject is what a part of the analysis is about: an object, by its key, or a name that
// objects share.
type subject struct {
	kind subjectKind
	name string
	of   string // where a name is not enough
}

type subjectKind uint8

const (
	virtualService subjectKind = iota // by key
	meshHost                          // of VirtualServices for sidecars
	gatewayHost                       // of VirtualServices for a Gateway, which is of
	destinationRule
	ruleHost // of the DestinationRules of a namespace, which is of
	gateway
	gatewayPort // by number
	service
	deployment  // by config.ID.String()
	policies    // PeerAuthentications of a namespace
	sidecars    // of a namespace
	sidecar     // by key
	outsider    // by config.ID.String()
	injection   // of a namespace
	custom      // AuthorizationPolicies that ask somebody, by key
	numSubjects = iota
)

// checks do the parts; they report whether there still is such a subject.
var checks = [numSubjects]func(*analysis, subject) bool{
	virtualService:  (*analysis).virtualService,
	meshHost:        (*analysis).meshHost,
	gatewayHost:     (*analysis).gatewayHost,
	destinationRule: (*analysis).destinationRule,
	ruleHost:        (*analysis).ruleHost,
	gateway:         (*analysis).gateway,
	gatewayPort:     (*analysis).gatewayConflicts,
	service:         (*analysis).checkService,
	deployment:      (*analysis).deployment,
	policies:        (*analysis).peerAuthentications,
	sidecars:        (*analysis).sidecarsOf,
	sidecar:         (*analysis).sidecar,
	outsider:        (*analysis).outsider,
	injection:       (*analysis).injection,
	custom:          (*analysis).custom,
}

// part is what was found about a subject, and what it depends on.
type part struct {
	subject  subject
	findings []config.Finding
	looked   []*seen
}

// thing is something that parts look at, such as the services of a host.
type thing struct {
	kind    thingKind
	a, b, c string
}

type thingKind uint8

const (
	anObject    thingKind = iota // by config.ID.String(): its text, or if nothing else tells, itself
	aService                     // by key
	servicesOf                   // a host
	servicesIn                   // a namespace
	allServices                  // whichever
	hostNames                    // all of them
	aVirtualService
	allVirtualServices
	delegatorsOf // a VirtualService, by key
	aGateway     // by key
	allGateways
	rulesFor   // a host
	wildRules  // those for wildcards
	policiesIn // a namespace
	authsIn    // a namespace: RequestAuthentications
	labelled   // what runs, by namespace or none, label and value, or none
)

// seen is a thing and the parts that looked at it.
type seen struct {
	thing thing
	by    []*part
}

// look notes down that the part that is being done depends on t.
func (a *analysis) look(t thing) {
	s := a.things[t]
	if s == nil {
		s = &seen{thing: t}
		a.things[t] = s
	}
	if n := len(s.by); n > 0 && s.by[n-1] == a.doing {
		return
	}
	s.by = append(s.by, a.doing)
	a.doing.looked = append(a.doing.looked, s)
}

// lookAway has a part depend on nothing.
func (a *analysis) lookAway(p *part) {
	for _, s := range p.looked {
		if i := slices.Index(s.by, p); i >= 0 {
			last := len(s.by) - 1
			s.by[i] = s.by[last]
			if s.by = slices.Delete(s.by, last, last+1); last == 0 {
				delete(a.things, s.thing)
			}
		}
	}
	p.looked = nil
}

// changed has everything done again that looked at t.
func (a *analysis) changed(t thing) {
	s := a.things[t]
	if s == nil {
		return
	}
	for _, p := range s.by {
		a.due[p] = struct{}{}
	}
	s.by = nil // they look again
	delete(a.things, t)
}

// again has a subject looked at (again), which may be gone.
func (a *analysis) again(kind subjectKind, name, of string) {
	s := subject{kind, name, of}
	p := a.parts[s]
	if p == nil {
		p = &part{subject: s}
		a.parts[s] = p
	}
	a.due[p] = struct{}{}
}

// do does the parts that are due.
func (a *analysis) do() {
	for p := range a.due {
		a.lookAway(p)
		before := p.findings
		p.findings, a.doing = nil, p
		there := checks[p.subject.kind](a, p.subject)
		if p.findings = config.Tidy(p.findings); !slices.Equal(p.findings, before) {
			a.stale = true
		}
		switch {
		case !there: // should it come back, that is another part
			a.lookAway(p)
			delete(a.parts, p.subject)
			delete(a.told, p)
		case len(p.findings) > 0:
			a.told[p] = struct{}{}
		default:
			delete(a.told, p)
		}
	}
	clear(a.due)
	a.doing = nil
}

// findings is what all parts found.
func (a *analysis) findings() []config.Finding {
	if a.stale {
		a.stale = false
		n := 0
		for p := range a.told {
			n += len(p.findings)
		}
		a.all = make([]config.Finding, 0, n)
		for p := range a.told {
			a.all = append(a.all, p.findings...)
		}
		a.all = config.Tidy(a.all)
	}
	return a.all
}

// object is that in force; nil if there is none.
func (a *analysis) object(id string) *config.Object {
	a.look(thing{kind: anObject, a: id})
	o, _ := a.Objects.At(id)
	return o
}

// named finds an object of the core group, lowered; nil if there is none.
func named[T any](a *analysis, kind, namespace, name string) (v T) {
	id := config.ID{Kind: kind, Namespace: namespace, Name: name}.String()
	a.look(thing{kind: anObject, a: id})
	_, lowered := a.Facts.At(id)
	if lowered == nil {
		_, lowered = a.Objects.At(id)
	}
	v, _ = lowered.(T)
	return v
}

func (a *analysis) servicesOf(host string) []*mesh.Service {
	a.look(thing{kind: servicesOf, a: host})
	return a.hosts[host]
}

func (a *analysis) policiesIn(namespace string) []*mesh.PeerAuthentication {
	a.look(thing{kind: policiesIn, a: namespace})
	return a.policies[namespace]
}

func (a *analysis) authsIn(namespace string) []*mesh.RequestAuthentication {
	a.look(thing{kind: authsIn, a: namespace})
	return a.auths[namespace]
}

// hostNames are those of all services, sorted.
func (a *analysis) hostNames() []string {
	a.look(thing{kind: hostNames})
	if a.names == nil {
		for h := range a.hosts {
			a.names = append(a.names, h)
		}
		slices.Sort(a.names)
	}
	return a.names
}
