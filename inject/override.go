package inject

import (
	"encoding/json"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirmesh/weir/config"
)

// overrides are what the pod itself says about containers that the injector adds.
type overrides struct {
	proxy, init *corev1.Container
	stored      storedOverrides
}

// storedOverrides is the value of the annotation proxy.istio.io/overrides.
type storedOverrides struct {
	Containers     []corev1.Container `json:"containers,omitempty"`
	InitContainers []corev1.Container `json:"initContainers,omitempty"`
}

// takeOverrides takes the pod's own containers of the injector's names out of the pod.
func (w *work) takeOverrides() overrides {
	var o overrides
	spec := &w.pod.Spec
	if c := find(spec.Containers, ProxyContainer); c != nil {
		o.proxy = c.DeepCopy()
		o.stored.Containers = append(o.stored.Containers, *o.proxy)
	}
	for _, name := range []string{ProxyContainer, w.captureContainer()} {
		c := find(spec.InitContainers, name)
		if c == nil || name != ProxyContainer && w.interception() == none {
			continue // without capture a container of that name is somebody else's
		}
		c = c.DeepCopy()
		o.stored.InitContainers = append(o.stored.InitContainers, *c)
		if name != ProxyContainer {
			o.init = c
		} else if o.proxy == nil {
			o.proxy = c
		}
	}
	spec.Containers = without(spec.Containers, ProxyContainer)
	for _, c := range o.stored.InitContainers {
		spec.InitContainers = without(spec.InitContainers, c.Name)
	}
	return o
}

func (w *work) merged(ours, own *corev1.Container) corev1.Container {
	if own == nil {
		return *ours
	}
	return overlay(*ours, *own)
}

// autoImage stands for the injector's image.
const autoImage = "auto"

// overlay puts what own says over ours: fields one by one, lists by the name of their
// entries, and a probe or hook as a whole.
func overlay(ours, own corev1.Container) corev1.Container {
	out := *ours.DeepCopy()
	own = *own.DeepCopy()
	if own.Image == autoImage {
		own.Image = ""
	}
	own.Env = byKey(out.Env, own.Env, func(e corev1.EnvVar) any { return e.Name })
	own.VolumeMounts = byKey(out.VolumeMounts, own.VolumeMounts, func(m corev1.VolumeMount) any { return m.MountPath })
	own.Ports = byKey(out.Ports, own.Ports, func(p corev1.ContainerPort) any { return [2]any{p.ContainerPort, p.Protocol} })
	own.Resources.Requests = quantities(out.Resources.Requests, own.Resources.Requests)
	own.Resources.Limits = quantities(out.Resources.Limits, own.Resources.Limits)
	if out.SecurityContext != nil && own.SecurityContext != nil {
		over(reflect.ValueOf(out.SecurityContext).Elem(), reflect.ValueOf(own.SecurityContext).Elem())
		own.SecurityContext = nil
	}
	if out.Lifecycle != nil && own.Lifecycle != nil {
		over(reflect.ValueOf(out.Lifecycle).Elem(), reflect.ValueOf(own.Lifecycle).Elem())
		own.Lifecycle = nil
	}
	if out.RestartPolicy == nil {
		own.RestartPolicy = nil // where it runs is not its own choice
	}
	over(reflect.ValueOf(&out).Elem(), reflect.ValueOf(&own).Elem())
	return out
}

// over sets every field that from has.
func over(to, from reflect.Value) {
	for i := range to.NumField() {
		if f := from.Field(i); !f.IsZero() {
			to.Field(i).Set(f)
		}
	}
}

func byKey[T any](ours, own []T, key func(T) any) []T {
	out := slices.DeleteFunc(slices.Clone(ours), func(o T) bool {
		return slices.ContainsFunc(own, func(t T) bool { return key(t) == key(o) })
	})
	return append(out, own...)
}

func quantities(ours, own corev1.ResourceList) corev1.ResourceList {
	if len(own) == 0 {
		return ours
	}
	out := ours.DeepCopy()
	if out == nil {
		out = corev1.ResourceList{}
	}
	maps.Copy(out, own)
	return out
}

// undo takes back an earlier injection, so that the pod is as its author wrote it.
func (w *work) undo() {
	text, ok := w.pod.Annotations[annotationStatus]
	if !ok {
		return
	}
	var old status
	if err := json.Unmarshal([]byte(text), &old); err != nil {
		w.add(config.InjectionRefused, annotationPath(annotationStatus), "was not written by the injector: "+err.Error(), "remove the annotation")
		return
	}
	delete(w.pod.Annotations, annotationStatus)
	spec := &w.pod.Spec
	if proxy := either(find(spec.InitContainers, ProxyContainer), find(spec.Containers, ProxyContainer)); proxy != nil && slices.Contains(slices.Concat(old.InitContainers, old.Containers), ProxyContainer) {
		w.restore(proxy, old.Metrics)
	}
	// Only what is the injector's: the annotation can be written by anybody.
	added := func(names []string) []string {
		return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !ours(n) })
	}
	spec.InitContainers = without(spec.InitContainers, added(old.InitContainers)...)
	spec.Containers = without(spec.Containers, added(old.Containers)...)
	spec.Volumes = slices.DeleteFunc(spec.Volumes, func(v corev1.Volume) bool { return slices.Contains(old.Volumes, v.Name) })
	spec.ImagePullSecrets = slices.DeleteFunc(spec.ImagePullSecrets, func(r corev1.LocalObjectReference) bool {
		return slices.Contains(old.ImagePullSecrets, r.Name)
	})
	if text, ok := w.pod.Annotations[annotationOverrides]; ok {
		var o storedOverrides
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			w.add(config.InjectionRefused, annotationPath(annotationOverrides), "was not written by the injector: "+err.Error(), "remove the annotation")
			return
		}
		delete(w.pod.Annotations, annotationOverrides)
		spec.InitContainers = append(spec.InitContainers, o.InitContainers...)
		spec.Containers = append(spec.Containers, o.Containers...)
	}
}

// either is the first pointer that leads somewhere.
func either[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

// handWritten reports whether the pod brings a proxy that starts itself, as manual
// injection of Istio 1.0 left it.
func (w *work) handWritten() bool {
	c := either(find(w.pod.Spec.Containers, ProxyContainer), find(w.pod.Spec.InitContainers, ProxyContainer))
	if c == nil || len(c.Command) == 0 {
		return false
	}
	return slices.ContainsFunc(words(c.Command, c.Args), func(word string) bool {
		switch path.Base(word) {
		case "pilot-agent", "weir-proxy":
			return true
		}
		return false
	})
}

// complete adds to a hand-written proxy what it lacks to prove who it is: the token, the
// root certificate, and the variables that its flags do not name. Its command line, its
// image and the pod's probes stay.
func (w *work) complete() {
	c := either(find(w.pod.Spec.Containers, ProxyContainer), find(w.pod.Spec.InitContainers, ProxyContainer))
	if w.s.compatible() && plaintext(c) {
		w.add(config.HandWrittenProxy, "", "container "+c.Name+" asks for a control plane without security (controlPlaneAuthPolicy NONE), which compatibilityVersion=1.0 serves: it gets no certificate", "remove the container: the injector adds a proxy with mutual TLS")
		return
	}
	w.native = find(w.pod.Spec.Containers, ProxyContainer) == nil
	for _, e := range w.environment() {
		if e.Name == dnsCapture && w.proxy.ProxyMetadata[dnsCapture] == "" {
			continue // the init container that was written with it leads no queries to it
		}
		if !slices.ContainsFunc(c.Env, func(have corev1.EnvVar) bool { return have.Name == e.Name }) {
			c.Env = append(c.Env, e)
		}
	}
	for _, m := range mounts() {
		if !slices.ContainsFunc(c.VolumeMounts, func(have corev1.VolumeMount) bool { return have.MountPath == m.MountPath }) {
			c.VolumeMounts = append(c.VolumeMounts, m)
		}
	}
	w.volumes()
	w.added.Volumes = nil // they belong to a container that stays
	w.labels()
	w.writeStatus(overrides{})
	w.add(config.HandWrittenProxy, "", "container "+c.Name+" is kept as it was written; it got the token, the root certificate and what its flags do not say", "remove it and "+InitContainer+": the injector adds both")
}

// plaintext reports whether flags ask for a control plane without TLS.
func plaintext(c *corev1.Container) bool {
	all := words(c.Command, c.Args)
	for i, word := range all {
		if word == "--controlPlaneAuthPolicy=NONE" || word == "--controlPlaneAuthPolicy" && slices.IndexFunc(all[i+1:], func(s string) bool { return s == "NONE" }) >= 0 {
			return true
		}
	}
	return false
}

// writeStatus records what was added.
func (w *work) writeStatus(own overrides) {
	if w.pod.Annotations == nil {
		w.pod.Annotations = map[string]string{}
	}
	w.added.Revision = w.s.revision()
	w.pod.Annotations[annotationStatus] = w.added.String()
	if len(own.stored.Containers)+len(own.stored.InitContainers) > 0 {
		data, err := json.Marshal(own.stored)
		if err != nil {
			panic(err) // containers always marshal
		}
		w.pod.Annotations[annotationOverrides] = string(data)
	}
}

// words of a command line, also of one that is written in a single string.
func words(lists ...[]string) []string {
	var out []string
	for _, l := range lists {
		for _, s := range l {
			out = append(out, strings.Fields(s)...)
		}
	}
	return out
}
