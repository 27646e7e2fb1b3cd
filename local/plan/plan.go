// Package plan says which programs should run on this machine: it turns Deployments, with
// the ConfigMaps, Secrets and Services they use, into groups of pods.
//
// Objects enter Make; a Plan and findings leave. A pod's own values (its name, its
// address, where it finds the services) are filled in by Template.Pod when it is started.
// Everything here is pure; a Plan is not modified after Make returned it.
package plan

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/config/kube"
	"github.com/weirmesh/weir/mesh"
)

// defaultGrace is shorter than Kubernetes' 30 s: a person waits for it.
const defaultGrace = 5 * time.Second

// Input is what a Plan is made of.
type Input struct {
	Deployments []Deployment
	ConfigMaps  map[mesh.Key]*corev1.ConfigMap
	Secrets     map[mesh.Key]*kube.Secret
	Services    []*mesh.Service
	Hosts       []*mesh.Service // these, and those that ServiceEntries define
	// Loopback says that pods share the machine's network (env capture): a pod's proxy
	// must know at its start where the application listens, so a Service that asks for
	// another port replaces the pods.
	Loopback bool
	// HighPorts says that services are called at other ports than those below 1024: env
	// capture by an ordinary user.
	HighPorts bool
}

// Deployment is one with the place it comes from.
type Deployment struct {
	Ref    mesh.Ref
	Object *appsv1.Deployment
	// LineOf finds the line of a field path; nil: findings have the object's line.
	LineOf func(path string) int
}

// Plan is what should run.
type Plan struct {
	Groups   []*Group // sorted by namespace and name
	Services []*mesh.Service
	Hosts    []*mesh.Service
	Findings []config.Finding
}

// Group is the pods of one Deployment.
type Group struct {
	Namespace, Name string
	Replicas        int
	// Blocked is what keeps it from being run, "" if nothing does; pods that run stay. There
	// is a finding about it, here or, for references, from config/analyze.
	Blocked  string
	Recreate bool // stop the old pods before new ones start
	Surge    int  // how many more than Replicas there may be during a replacement
	Hash     string
	Template Template
}

// Key is the Deployment's key.
func (g *Group) Key() mesh.Key { return mesh.NewKey(g.Namespace, g.Name) }

// Template is what a group's pods have in common.
type Template struct {
	Namespace      string
	Owner          string // the Deployment; "" for a pod of its own
	ServiceAccount string
	Labels         map[string]string
	Annotations    map[string]string
	Init           []Container // run one after the other, before the others
	Containers     []Container
	Grace          time.Duration
	NoServiceLinks bool
	// Gateway is a pod whose only program is a proxy that serves the outside.
	Gateway bool
}

// Container is one program of a pod.
type Container struct {
	Name, Image string
	Argv        []string // with $(VAR)
	Dir         string
	Env         []Variable
	Ports       []Port
	Ready       *Probe `json:",omitempty"`
}

// Variable is an environment variable: a value with $(VAR), or a field of the pod.
type Variable struct {
	Name, Value string
	Field       string `json:",omitempty"`
	Literal     bool   `json:",omitempty"` // the value comes from elsewhere: not expanded
}

// Port is a TCP port a program listens on.
type Port struct {
	Name   string
	Number uint16
	// Derived ports are not declared: a Service names them as its target.
	Derived bool
}

// Probe is a readinessProbe by HTTP or TCP.
type Probe struct {
	HTTP             *corev1.HTTPGetAction `json:",omitempty"` // nil: connecting is enough
	Port             uint16
	Delay            time.Duration
	Period, Timeout  time.Duration
	Success, Failure int
}

// Make plans.
func Make(in Input) *Plan {
	p := &Plan{Services: in.Services, Hosts: in.Hosts}
	for _, d := range in.Deployments {
		m := &maker{in: &in, d: d}
		p.Groups = append(p.Groups, m.group())
		p.Findings = append(p.Findings, m.findings...)
	}
	for _, s := range in.Services {
		for i, port := range s.Ports {
			if in.HighPorts && port.Number < 1024 {
				p.Findings = append(p.Findings, config.New(config.NoLocalEffect, s.Ref, document.Index("spec.ports", i)+".port", 0,
					fmt.Sprintf("workloads find port %d at another one, because without network namespaces ports below 1024 need root", port.Number),
					"call $"+HostVariable(s)+":$"+portVariable(s, i)+", or use --capture=netns"))
			}
		}
	}
	slices.SortFunc(p.Groups, func(a, b *Group) int { return cmp.Compare(a.Key(), b.Key()) })
	p.Findings = config.Tidy(p.Findings)
	return p
}

// Group returns the group of a Deployment, or nil.
func (p *Plan) Group(namespace, name string) *Group {
	for _, g := range p.Groups {
		if g.Namespace == namespace && g.Name == name {
			return g
		}
	}
	return nil
}

// maker plans one Deployment.
type maker struct {
	in       *Input
	d        Deployment
	findings []config.Finding
	blocked  string
}

// block says what keeps the Deployment from being run; the first reason is shown.
func (m *maker) block(format string, args ...any) {
	m.blocked = cmp.Or(m.blocked, fmt.Sprintf(format, args...))
}

func (m *maker) add(code config.Code, path, message, hint string) {
	line := 0
	if m.d.LineOf != nil {
		line = m.d.LineOf(path)
	}
	f := config.New(code, m.d.Ref, path, line, message, hint)
	if f.Severity == config.Error {
		m.block("%s", message)
	}
	m.findings = append(m.findings, f)
}

const templatePath = "spec.template.spec"

func (m *maker) group() *Group {
	d := m.d.Object
	spec := &d.Spec.Template.Spec
	g := &Group{Namespace: d.Namespace, Name: d.Name, Replicas: 1, Recreate: d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType}
	if d.Spec.Replicas != nil {
		g.Replicas = max(0, int(*d.Spec.Replicas))
	}
	g.Surge = surge(d.Spec.Strategy.RollingUpdate, g.Replicas)
	g.Template = Template{
		Namespace:      d.Namespace,
		Owner:          d.Name,
		ServiceAccount: cmp.Or(spec.ServiceAccountName, spec.DeprecatedServiceAccount, "default"),
		Labels:         d.Spec.Template.Labels,
		Annotations:    d.Spec.Template.Annotations,
		Grace:          defaultGrace,
		NoServiceLinks: spec.EnableServiceLinks != nil && !*spec.EnableServiceLinks,
	}
	if s := spec.TerminationGracePeriodSeconds; s != nil {
		g.Template.Grace = time.Duration(*s) * time.Second
	}
	m.unusedOfPod(spec, g.Template)
	g.Template.Init = m.containers(templatePath+".initContainers", spec.InitContainers)
	g.Template.Containers = m.containers(templatePath+".containers", spec.Containers)
	g.Blocked = m.blocked
	if !m.in.Loopback {
		g.Hash = hash(g.Template)
	}
	m.derivePorts(&g.Template)
	if m.in.Loopback {
		g.Hash = hash(g.Template)
	}
	return g
}

// surge is maxSurge, Kubernetes' default of 25 %, and at least 1: pods are never stopped
// before their successors are ready.
func surge(r *appsv1.RollingUpdateDeployment, replicas int) int {
	s := intstr.FromString("25%")
	if r != nil && r.MaxSurge != nil {
		s = *r.MaxSurge
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(&s, replicas, true)
	if err != nil {
		n = 1
	}
	return max(n, 1)
}

// hash names what a pod is started from.
func hash(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain data
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:5])
}

// derivePorts adds the ports that Services expect and no container declares, to the first
// container: declaring them is optional in Kubernetes.
func (m *maker) derivePorts(t *Template) {
	if len(t.Containers) == 0 {
		return
	}
	for _, s := range m.in.Services {
		if s.Namespace != t.Namespace || len(s.Selector) == 0 || !s.Selector.Selects(t.Labels) {
			continue
		}
		for _, p := range s.Ports {
			number := cmp.Or(p.Target, p.Number)
			if p.TargetName != "" || p.Protocol == mesh.UDP || t.has(number) {
				continue
			}
			t.Containers[0].Ports = append(t.Containers[0].Ports, Port{Number: number, Derived: true})
		}
	}
}

func (t *Template) has(number uint16) bool {
	return slices.ContainsFunc(t.Ports(), func(p Port) bool { return p.Number == number })
}

// Ports are the ports of all containers.
func (t *Template) Ports() []Port {
	var out []Port
	for _, c := range t.Containers {
		out = append(out, c.Ports...)
	}
	return out
}
