package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/sample"
)

func (m *maker) containers(path string, cs []corev1.Container) []Container {
	var out []Container
	for i := range cs {
		out = append(out, m.container(document.Index(path, i), &cs[i]))
	}
	return out
}

func (m *maker) container(path string, c *corev1.Container) Container {
	out := Container{Name: c.Name, Image: c.Image}
	argv, known := sample.ByImage(c.Image, c.Command, c.Args)
	switch {
	case known:
		out.Argv = argv
	case len(c.Command) > 0:
		out.Argv = slices.Concat(c.Command, c.Args)
	default:
		m.add(config.ImageNotRunnable, path+".image", fmt.Sprintf("%q is none of the built-in samples, and the container has no command", c.Image),
			"give command, or start the program yourself: "+m.runLine())
	}
	isSample := known && out.Argv[0] == sample.Binary
	if !isSample {
		out.Dir = c.WorkingDir
		m.unusedOfContainer(path, c)
	}
	for _, p := range c.Ports {
		if p.Protocol == "" || p.Protocol == corev1.ProtocolTCP {
			out.Ports = append(out.Ports, Port{Name: p.Name, Number: uint16(p.ContainerPort)})
		}
	}
	out.Env = m.environment(path, c)
	out.Ready = m.probe(path, c)
	return out
}

// runLine is the command that starts the Deployment's program by hand: what else it needs
// to know it takes from the Deployment.
func (m *maker) runLine() string {
	return fmt.Sprintf("weir run --as %s/%s -- CMD...", m.d.Object.Namespace, m.d.Object.Name)
}

func (m *maker) environment(path string, c *corev1.Container) []Variable {
	var out []Variable
	for _, from := range c.EnvFrom {
		var values map[string]string
		switch {
		case from.ConfigMapRef != nil:
			values, _ = m.values("ConfigMap", from.ConfigMapRef.Name, from.ConfigMapRef.Optional)
		case from.SecretRef != nil:
			values, _ = m.values("Secret", from.SecretRef.Name, from.SecretRef.Optional)
		}
		for _, k := range slices.Sorted(maps.Keys(values)) {
			out = append(out, Variable{Name: from.Prefix + k, Value: values[k], Literal: true})
		}
	}
	for i, e := range c.Env {
		at := document.Index(path+".env", i)
		if e.ValueFrom == nil {
			out = append(out, Variable{Name: e.Name, Value: e.Value})
			continue
		}
		if v, ok := m.valueFrom(at+".valueFrom", e); ok {
			out = append(out, v)
		}
	}
	return out
}

func (m *maker) valueFrom(path string, e corev1.EnvVar) (Variable, bool) {
	switch from := e.ValueFrom; {
	case from.ConfigMapKeyRef != nil:
		r := from.ConfigMapKeyRef
		return m.key(e.Name, "ConfigMap", r.Name, r.Key, r.Optional)
	case from.SecretKeyRef != nil:
		r := from.SecretKeyRef
		return m.key(e.Name, "Secret", r.Name, r.Key, r.Optional)
	case from.FieldRef != nil:
		if field := from.FieldRef.FieldPath; knownField(field) {
			return Variable{Name: e.Name, Field: field}, true
		}
		m.add(config.ValueNotAvailable, path+".fieldRef.fieldPath", fmt.Sprintf("%q is not known on this machine", from.FieldRef.FieldPath),
			"use metadata.name, metadata.namespace, metadata.labels['…'], metadata.annotations['…'], spec.serviceAccountName, spec.nodeName, status.podIP or status.hostIP")
	case from.ResourceFieldRef != nil:
		m.add(config.ValueNotAvailable, path+".resourceFieldRef", "local programs have no resource limits", "give the variable a value")
	default:
		m.add(config.ValueNotAvailable, path, "names no source that is known here", "give the variable a value")
	}
	return Variable{}, false
}

func (m *maker) key(variable, kind, name, key string, optional *bool) (Variable, bool) {
	values, ok := m.values(kind, name, optional)
	if !ok {
		return Variable{}, false
	}
	if v, ok := values[key]; ok {
		return Variable{Name: variable, Value: v, Literal: true}, true
	}
	if optional == nil || !*optional {
		m.block("%s %s has no key %q", kind, name, key)
	}
	return Variable{}, false
}

// values are the entries of a ConfigMap or Secret.
func (m *maker) values(kind, name string, optional *bool) (map[string]string, bool) {
	key := mesh.NewKey(m.d.Object.Namespace, name)
	values := map[string]string{}
	switch kind {
	case "ConfigMap":
		if c, ok := m.in.ConfigMaps[key]; ok {
			return c.Data, true
		}
	case "Secret":
		if s, ok := m.in.Secrets[key]; ok {
			for k, v := range s.Data {
				values[k] = string(v.Reveal())
			}
			return values, true
		}
	}
	if optional == nil || !*optional {
		m.block("%s %s does not exist in namespace %s", kind, name, m.d.Object.Namespace)
	}
	return nil, false
}

// probe is the container's readinessProbe, as far as it can be asked from here.
func (m *maker) probe(path string, c *corev1.Container) *Probe {
	r := c.ReadinessProbe
	if r == nil {
		return nil
	}
	seconds := func(n, otherwise int32) time.Duration { return time.Duration(cmp.Or(n, otherwise)) * time.Second }
	p := &Probe{
		Delay: seconds(r.InitialDelaySeconds, 0), Period: seconds(r.PeriodSeconds, 10), Timeout: seconds(r.TimeoutSeconds, 1),
		Success: int(cmp.Or(r.SuccessThreshold, 1)), Failure: int(cmp.Or(r.FailureThreshold, 3)),
	}
	var port intstr.IntOrString
	at := path + ".readinessProbe"
	switch {
	case r.HTTPGet != nil:
		p.HTTP, port, at = r.HTTPGet, r.HTTPGet.Port, at+".httpGet.port"
	case r.TCPSocket != nil:
		port, at = r.TCPSocket.Port, at+".tcpSocket.port"
	default:
		m.add(config.NoLocalEffect, at, "only httpGet and tcpSocket are asked here", "the workload is ready when it accepts connections on its ports")
		return nil
	}
	if port.Type == intstr.Int {
		p.Port = uint16(port.IntVal)
	}
	for _, have := range c.Ports {
		if have.Name != "" && have.Name == port.StrVal {
			p.Port = uint16(have.ContainerPort)
		}
	}
	if p.Port == 0 {
		m.add(config.SchemaError, at, fmt.Sprintf("%q is not a port of the container", port.String()), "use a number, or the name of one of its ports")
		return nil
	}
	return p
}

// unusedOfPod reports what has no meaning for processes of this machine and somebody may
// rely on.
func (m *maker) unusedOfPod(spec *corev1.PodSpec, t Template) {
	if spec.HostNetwork {
		m.add(config.NoLocalEffect, templatePath+".hostNetwork", "has no effect: every workload has an address of its own", "")
	}
	const inject = "sidecar.istio.io/inject"
	for _, place := range []struct {
		path   string
		values map[string]string
	}{{"spec.template.metadata.labels", t.Labels}, {"spec.template.metadata.annotations", t.Annotations}} {
		if place.values[inject] == "false" {
			m.add(config.NoLocalEffect, document.Key(place.path, inject), "has no effect: without a proxy a local workload would reach nobody", "")
		}
		for _, k := range slices.Sorted(maps.Keys(place.values)) {
			if strings.HasPrefix(k, "traffic.sidecar.istio.io/") {
				m.add(config.NoLocalEffect, document.Key(place.path, k), "has no effect: the proxy is the only way out of a local workload", "")
			}
		}
	}
}

func (m *maker) unusedOfContainer(path string, c *corev1.Container) {
	for i, v := range c.VolumeMounts {
		m.add(config.NoLocalEffect, document.Index(path+".volumeMounts", i), fmt.Sprintf("nothing is mounted at %s: the program sees the files of this machine", v.MountPath), "")
	}
	if c.LivenessProbe != nil {
		m.add(config.NoLocalEffect, path+".livenessProbe", "is not asked: a program is started again when it ends", "")
	}
	if c.Lifecycle != nil {
		m.add(config.NoLocalEffect, path+".lifecycle", "hooks are not run", "")
	}
	if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
		m.add(config.NoLocalEffect, path+".restartPolicy", "the init container must end before the others start", "make it one of containers")
	}
}
