package analyze

import (
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/config/kube"
	"github.com/weirmesh/weir/mesh"
)

// destinationRule checks whom a rule is for, and certificates that nobody checks.
func (a *analysis) destinationRule(s subject) bool {
	r, ok := a.Snapshot.DestinationRules.Get(mesh.Key(s.name))
	if !ok || r.Refused { // it has a finding that says more
		return ok
	}
	if !strings.HasPrefix(r.Host, "*") {
		if s, _ := a.service(r.Host, r.Ref.Namespace); s == nil {
			a.add(config.UnknownRuleHost, r.Ref, "spec.host", fmt.Sprintf("service %s does not exist", a.short(r.Host)), a.hostHint(r.Host, r.Ref.Namespace))
		}
	}
	const hint = "remove insecureSkipVerify; without caCertificates the system's are used"
	if r.Policy.TLS != nil && r.Policy.TLS.SkipVerify {
		a.add(config.NoServerVerification, r.Ref, "spec.trafficPolicy.tls.insecureSkipVerify", "the server's certificate is not verified", hint)
	}
	for port, p := range r.PortPolicies {
		if p.TLS != nil && p.TLS.SkipVerify {
			a.add(config.NoServerVerificationPt, r.Ref, "spec.trafficPolicy.portLevelSettings", fmt.Sprintf("the server's certificate is not verified on port %d", port), hint)
		}
	}
	a.contradictingTLS(r)
	return true
}

// checkService checks that something serves it, and how its ports are named.
func (a *analysis) checkService(x subject) bool {
	s, ok := a.Snapshot.Services.Get(mesh.Key(x.name))
	if !ok {
		return false
	}
	if s.Selector != nil {
		a.serviceWorkloads(s)
	}
	if s.Ref.Kind != "Service" {
		return true
	}
	for i, p := range s.Ports {
		if p.Protocol == mesh.Auto {
			at := document.Index("spec.ports", i)
			name := fmt.Sprintf("port %d is named %q", p.Number, p.Name)
			if p.Name == "" {
				name = fmt.Sprintf("port %d has no name", p.Number)
			}
			a.add(config.PortNameConvention, s.Ref, at, name+", so that its protocol is detected on each connection", "name it after its protocol, for example http-"+orWeb(p.Name)+", or set appProtocol")
		}
	}
	return true
}

func orWeb(name string) string {
	if name == "" {
		return "web"
	}
	return name
}

func (a *analysis) serviceWorkloads(s *mesh.Service) {
	path := "spec.selector"
	if s.Ref.Kind == "ServiceEntry" {
		path = "spec.workloadSelector"
	}
	picked := a.selected(s.Namespace, s.Selector)
	if len(picked) == 0 {
		a.add(config.ServiceWithoutEndpoints, s.Ref, path, fmt.Sprintf("no workload has the labels %s", pairs(s.Selector)), "correct the selector, or deploy the workload into namespace "+s.Namespace)
		return
	}
	for i, p := range s.Ports {
		if p.TargetName == "" {
			continue
		}
		if !slices.ContainsFunc(picked, func(in *instance) bool { _, ok := in.ports[p.TargetName]; return ok || in.entry }) {
			a.add(config.ServiceWithoutEndpoints, s.Ref, document.Index("spec.ports", i)+".targetPort", fmt.Sprintf("no container port of the workloads is named %s", p.TargetName),
				"name the container's port, or give its number")
		}
	}
}

func pairs(l mesh.Labels) string {
	var out []string
	for k, v := range l {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

const template = "spec.template.spec"

// autoImage finds a Deployment whose proxy nobody would complete.
func (a *analysis) autoImage(d deploymentAt) {
	i := slices.IndexFunc(d.Spec.Template.Spec.Containers, func(c corev1.Container) bool { return c.Image == kube.AutoImage })
	if i < 0 {
		return
	}
	n := named[*corev1.Namespace](a, "Namespace", "", d.Namespace)
	labels := d.Spec.Template.Labels
	asks, unknown := labels[labelInject] == "true" || labels[labelRevision] != "", n == nil
	if n != nil {
		switch says, labelled := n.Labels[labelInjection]; {
		case says == "disabled":
			asks = false
		case says == "enabled" || !labelled && n.Labels[labelRevision] != "":
			asks = true
		}
	}
	if labels[labelInject] == "false" || !asks && !unknown {
		a.add(config.AutoImageWarning, d.Ref, document.Index(template+".containers", i)+".image", "auto is what the injector replaces, and no injector is asked about these pods",
			"label the pod template sidecar.istio.io/inject=\"true\", or the namespace istio-injection=enabled")
	}
}

// deployment checks what a Deployment refers to, and Services that disagree about it.
func (a *analysis) deployment(s subject) bool {
	o, lowered := a.Objects.At(s.name)
	v, ok := lowered.(*appsv1.Deployment)
	if !ok {
		return false
	}
	d := deploymentAt{o.Ref, v}
	name := d.Spec.Template.Spec.ServiceAccountName
	switch {
	case name == "" || name == "default":
		a.add(config.DefaultServiceAccount, d.Ref, template, "runs as service account default, and so has one identity with all others that do", "give it a ServiceAccount of its own (serviceAccountName)")
	case named[*corev1.ServiceAccount](a, "ServiceAccount", d.Namespace, name) == nil:
		a.add(config.ReferenceNotFound, d.Ref, template+".serviceAccountName", fmt.Sprintf("ServiceAccount %s/%s does not exist", d.Namespace, name), "apply it: apiVersion v1, kind ServiceAccount")
	}
	for i, c := range d.Spec.Template.Spec.InitContainers {
		a.environment(d, document.Index(template+".initContainers", i), c)
	}
	for i, c := range d.Spec.Template.Spec.Containers {
		a.environment(d, document.Index(template+".containers", i), c)
	}
	a.autoImage(d)
	a.sharedDeployment(d, a.instances[instanceID{deployed, s.name}])
	return true
}

// deploymentAt is a Deployment and where it stands.
type deploymentAt struct {
	Ref mesh.Ref
	*appsv1.Deployment
}

func (a *analysis) environment(d deploymentAt, path string, c corev1.Container) {
	missing := func(at, kind, name, key string, optional *bool) {
		if optional != nil && *optional {
			return
		}
		if key != "" {
			a.add(config.ReferenceNotFound, d.Ref, at, fmt.Sprintf("%s %s/%s has no key %q", kind, d.Namespace, name, key), "add the key")
			return
		}
		a.add(config.ReferenceNotFound, d.Ref, at, fmt.Sprintf("%s %s/%s does not exist", kind, d.Namespace, name), "apply it, or mark the reference as optional")
	}
	for i, e := range c.Env {
		if e.ValueFrom == nil {
			continue
		}
		at := document.Index(path+".env", i) + ".valueFrom"
		if r := e.ValueFrom.ConfigMapKeyRef; r != nil {
			if m := named[*corev1.ConfigMap](a, "ConfigMap", d.Namespace, r.Name); m == nil {
				missing(at, "ConfigMap", r.Name, "", r.Optional)
			} else if _, ok := m.Data[r.Key]; !ok {
				missing(at, "ConfigMap", r.Name, r.Key, r.Optional)
			}
		}
		if r := e.ValueFrom.SecretKeyRef; r != nil {
			if s := named[*kube.Secret](a, "Secret", d.Namespace, r.Name); s == nil {
				missing(at, "Secret", r.Name, "", r.Optional)
			} else if _, ok := s.Data[r.Key]; !ok {
				missing(at, "Secret", r.Name, r.Key, r.Optional)
			}
		}
	}
	for i, e := range c.EnvFrom {
		at := document.Index(path+".envFrom", i)
		if r := e.ConfigMapRef; r != nil && named[*corev1.ConfigMap](a, "ConfigMap", d.Namespace, r.Name) == nil {
			missing(at, "ConfigMap", r.Name, "", r.Optional)
		}
		if r := e.SecretRef; r != nil && named[*kube.Secret](a, "Secret", d.Namespace, r.Name) == nil {
			missing(at, "Secret", r.Name, "", r.Optional)
		}
	}
}

// sharedDeployment finds Services that disagree about a Deployment.
func (a *analysis) sharedDeployment(d deploymentAt, in *instance) {
	type use struct {
		s *mesh.Service
		p mesh.Port
	}
	byTarget, byNumber := map[uint16]use{}, map[uint16]use{}
	a.look(thing{kind: servicesIn, a: d.Namespace})
	for _, s := range a.services[d.Namespace] {
		if s.Selector == nil || s.Ref.Kind != "Service" || !s.Selector.Selects(in.labels) {
			continue
		}
		for _, p := range s.Ports {
			target := p.Target
			if p.TargetName != "" {
				target = in.ports[p.TargetName]
			} else if target == 0 {
				target = p.Number
			}
			if o, ok := byTarget[target]; ok && o.s != s && o.p.Protocol != p.Protocol {
				a.add(config.DeploymentManyServices, d.Ref, "", fmt.Sprintf("Services %s and %s declare different protocols for its port %d", o.s.Name, s.Name, target), "declare the same in both")
			} else if !ok {
				byTarget[target] = use{s, p}
			}
			if o, ok := byNumber[p.Number]; ok && o.s != s && o.p.Target != p.Target && o.p.TargetName == "" && p.TargetName == "" {
				a.add(config.DeploymentPortConflict, d.Ref, "", fmt.Sprintf("Services %s and %s map port %d to different ports of it", o.s.Name, s.Name, p.Number), "use different port numbers")
			} else if !ok {
				byNumber[p.Number] = use{s, p}
			}
		}
	}
}
