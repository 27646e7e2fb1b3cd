package kube

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/inject"
	"github.com/weirmesh/weir/mesh"
)

const template = "spec.template"

// examine reports what is wrong with Istio's annotations of the object, or of a template in it.
func (l *lowerer) examine(o inject.Examined) {
	o.Object = l.o.Ref
	for _, f := range inject.Examine(o) {
		l.Add(f.Code, f.FieldPath, f.Message, f.Hint)
	}
}

// examine says of a pod's owner what is wrong with the pod: all pods of an owner say the same.
func examine(p *corev1.Pod) []config.Finding {
	o := inject.Examined{Kind: "Pod", Meta: &p.ObjectMeta}
	o.Object, o.Path = author(p)
	proxied := func(c corev1.Container) bool { return c.Name == inject.ProxyContainer }
	added := func(c corev1.Container) bool {
		return proxied(c) || c.Name == inject.InitContainer || c.Name == inject.ValidationContainer
	}
	if slices.ContainsFunc(p.Spec.InitContainers, proxied) || slices.ContainsFunc(p.Spec.Containers, proxied) {
		spec := p.Spec // without what the injector added, so that places are those that the owner's author knows
		spec.InitContainers, spec.Containers = slices.DeleteFunc(slices.Clone(spec.InitContainers), added), slices.DeleteFunc(slices.Clone(spec.Containers), added)
		o.Spec = &spec
	}
	return inject.Examine(o)
}

// author is the object in which people say what is in a pod, and the field of it where they do.
func author(p *corev1.Pod) (mesh.Ref, string) {
	if name, kind := owner(p); kind != "Pod" {
		return mesh.Ref{Kind: kind, Namespace: p.Namespace, Name: name}, template
	}
	return refOf("Pod", p), ""
}

// hostNetwork finds a pod that asks for a proxy itself, and cannot have one.
func hostNetwork(p *corev1.Pod) []config.Finding {
	_, label := config.AskedByPod(p.Labels)
	if label == "" || !p.Spec.HostNetwork {
		return nil
	}
	ref, path := author(p)
	return []config.Finding{config.New(config.NotInjectable, ref, strings.TrimPrefix(path+".spec.hostNetwork", "."), 0,
		"its label "+label+" asks for a proxy, and it uses the host's network, where capturing traffic would capture that of the whole node: it runs without", "remove hostNetwork, or the label")}
}
