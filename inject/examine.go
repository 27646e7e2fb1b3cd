package inject

import (
	"maps"
	"slices"
	"strings"

	"istio.io/api/annotation"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/mesh"
)

// Examined is an object, or the template of pods in it, whose annotations may be Istio's.
type Examined struct {
	Object mesh.Ref
	Kind   string // whose metadata they are: "Pod" of a template, too
	Path   string // of the template; "" for the object itself
	Meta   *metav1.ObjectMeta
	Owner  *metav1.ObjectMeta // of the template; nil: not known, or the object itself
	Spec   *corev1.PodSpec    // of pods; nil of other objects
}

// Examine finds what is wrong with Istio's annotations of an object, and of pods whether they run as the proxy does: what does not
// depend on settings, and so can be said of files and of what runs. A value that the injector cannot read is a finding here; there
// it refuses the pod.
func Examine(o Examined) []config.Finding {
	w := &work{in: Input{Path: o.Path}, object: o.Object, pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: o.Meta.Labels, Annotations: o.Meta.Annotations}}}
	if o.Kind != "Pod" {
		for _, name := range slices.Sorted(maps.Keys(o.Meta.Annotations)) {
			w.foreign(o.Kind, name)
		}
		return w.heard(o.Meta, o.Owner)
	}
	w.readAnnotations()
	if text := o.Meta.Annotations[annotationProxyConfig]; text != "" {
		w.annotatedProxyConfig(text)
	}
	w.chooseTemplate()
	word := o.Meta.Annotations[annotationInject]
	_, labelled := o.Meta.Labels[labelInject]
	if spoken(word) == unclear && !labelled {
		w.add(config.InvalidAnnotation, annotationPath(annotationInject), neither(word), `write "true" or "false"`)
	}
	if asked, _ := w.asked(); o.Spec != nil && asked != no {
		w.pod.Spec = *o.Spec
		w.eachContainer(func(_, at string, c *corev1.Container) { w.checkIdentity(at, c, o.Spec.SecurityContext) })
	}
	for i, f := range w.findings {
		if f.Code == config.InjectionRefused {
			w.findings[i] = config.New(config.InvalidAnnotation, f.Object, f.FieldPath, 0, f.Message+": pods with it are refused", f.Hint)
		}
	}
	return w.heard(o.Meta, o.Owner)
}

// heard leaves the findings that nobody turns off.
func (w *work) heard(by ...*metav1.ObjectMeta) []config.Finding {
	return slices.DeleteFunc(w.findings, func(f config.Finding) bool {
		return slices.ContainsFunc(by, func(m *metav1.ObjectMeta) bool {
			return m != nil && config.Suppresses(m.Annotations[config.SuppressAnnotation], f.Code)
		})
	})
}

// served are annotations of other objects than pods that are in force, or of which somebody else says that they are not.
var served = []string{"networking.istio.io/exportTo", "networking.istio.io/traffic-distribution", "istio.io/dry-run"}

// foreign reports an annotation of a kind that the table of pods' annotations does not answer for.
func (w *work) foreign(kind, name string) {
	if !config.Istios(name) {
		return
	}
	switch kinds, path := kindsOf(name), annotationPath(name); {
	case len(kinds) == 0:
		w.add(config.UnknownAnnotation, path, "there is no such annotation", suggestion(name))
	case slices.Contains(kinds, annotation.Any.String()):
	case !slices.Contains(kinds, kind):
		hint := "move it to where it is looked for: " + strings.Join(kinds, ", ")
		switch {
		case kind == "Deployment" && slices.Contains(kinds, "Pod"):
			hint = "move it to spec.template.metadata.annotations"
		case kind == "Namespace" && name == annotationInject:
			hint = "label the namespace " + labelInjection + "=enabled, or pods " + labelInject + "=true"
		}
		w.add(config.MisplacedAnnotation, path, "is an annotation of "+strings.Join(kinds, ", ")+" and has no effect on a "+kind, hint)
	case !slices.Contains(served, name):
		w.add(config.AnnotationNotEnforced, path, "has no effect: this version does not know what it asks for", "remove it")
	}
}

// kindsOf are the kinds of objects that an annotation of Istio's is for; nil if there is no such annotation.
func kindsOf(name string) (out []string) {
	for _, a := range annotation.AllResourceAnnotations() {
		if a.Name == name {
			for _, r := range a.Resources {
				out = append(out, r.String())
			}
		}
	}
	if len(out) == 0 && slices.ContainsFunc(annotations, func(a Annotation) bool { return a.Name == name }) {
		return []string{"Pod"}
	}
	return out
}
