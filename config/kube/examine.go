package kube

import (
	"slices"

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
	o := inject.Examined{Object: refOf("Pod", p), Kind: "Pod", Meta: &p.ObjectMeta}
	if name, kind := owner(p); kind != "Pod" {
		o.Object, o.Path = mesh.Ref{Kind: kind, Namespace: p.Namespace, Name: name}, template
	}
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
