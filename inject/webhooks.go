package inject

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/mesh"
)

// Webhooks are what an object says that the API server asks about others.
type Webhooks struct {
	Object     mesh.Ref
	Meta       metav1.ObjectMeta
	Line       func(path string) int // nil: it is in no file
	Mutating   []admissionv1.MutatingWebhook
	Validating []admissionv1.ValidatingWebhook
}

// hook is a webhook of the mesh.
type hook struct {
	of      *Webhooks
	path    string
	client  admissionv1.WebhookClientConfig
	ignored bool                         // without an answer what it was asked about goes on
	injects *admissionv1.MutatingWebhook // nil: it is not about pods, or about some that its conditions choose
}

// ExamineWebhooks finds what is wrong with the mesh's webhooks: nobody is there to answer, the API server has nothing to know by who
// answers, two of them give a pod a proxy. serves says whether there is a Service, and whether that is known. running: the API server uses them as
// they are; in files the caBundle is missing, because whoever answers writes it.
func ExamineWebhooks(all []Webhooks, serves func(namespace, name string) (there, known bool), running bool) (out []config.Finding) {
	var injectors []*hook
	for i := range all {
		w := &all[i]
		add := func(path, message, hint string) {
			if config.Suppresses(w.Meta.Annotations[config.SuppressAnnotation], config.InvalidWebhook) {
				return
			}
			line := 0
			if w.Line != nil {
				line = w.Line(path)
			}
			out = append(out, config.New(config.InvalidWebhook, w.Object, path, line, message, hint))
		}
		silent, unknown := map[string]bool{}, false // what is said already
		for _, h := range w.hooks() {
			what := "what it is asked about is refused"
			if h.ignored {
				what = "what it is asked about goes on unasked (failurePolicy Ignore)"
			}
			if s := h.client.Service; s != nil && !silent[s.Namespace+"/"+s.Name] {
				if there, known := serves(s.Namespace, s.Name); known && !there {
					silent[s.Namespace+"/"+s.Name] = true
					of, hint := "", "install who answers, or delete this configuration"
					if rev := w.Meta.Labels[labelRevision]; rev != "" {
						of, hint = " of revision "+rev, "install revision "+rev+", lead its tags to another (`weir tag set TAG --revision REVISION --overwrite`), or delete this configuration"
					}
					add(h.path+".clientConfig.service", fmt.Sprintf("there is no Service %s/%s%s: nobody answers, and %s", s.Namespace, s.Name, of, what), hint)
				}
			}
			if running && len(h.client.CABundle) == 0 && !unknown && h.client.Service != nil {
				unknown = true
				add(h.path+".clientConfig.caBundle", "it is empty, so that the API server cannot know who answers: "+what, "the control plane writes it: see whether it runs, and may change this object")
			}
			if h.injects == nil {
				continue
			}
			for _, other := range injectors {
				if other.of == w || target(other.client) == target(h.client) {
					continue
				}
				if where, both := overlap(other.injects, h.injects); both {
					add(h.path, fmt.Sprintf("a pod %s is given a proxy by %s, too (%s), which leads to another control plane", where, other.of.Object.Name, other.injects.Name),
						"let labels ask for one of them: istio-injection, or istio.io/rev with a revision or tag (`weir tag list`), and delete the configuration that is not used any more")
					break
				}
			}
			injectors = append(injectors, h)
		}
	}
	return config.Tidy(out)
}

// hooks are the mesh's of a configuration: it has the label of a revision, or they have Istio's names.
func (w *Webhooks) hooks() (out []*hook) {
	_, ours := w.Meta.Labels[labelRevision]
	ignores := func(p *admissionv1.FailurePolicyType) bool { return p != nil && *p == admissionv1.Ignore }
	at := func(i int) string { return fmt.Sprintf("webhooks[%d]", i) }
	for i := range w.Mutating {
		m := &w.Mutating[i]
		if !ours && !strings.HasSuffix(m.Name, ".istio.io") {
			continue
		}
		h := &hook{of: w, path: at(i), client: m.ClientConfig, ignored: ignores(m.FailurePolicy)}
		if slices.ContainsFunc(m.Rules, func(r admissionv1.RuleWithOperations) bool { return slices.Contains(r.Resources, "pods") }) && len(m.MatchConditions) == 0 {
			h.injects = m
		}
		out = append(out, h)
	}
	for i := range w.Validating {
		if v := &w.Validating[i]; ours || strings.HasSuffix(v.Name, ".istio.io") {
			out = append(out, &hook{of: w, path: at(i), client: v.ClientConfig, ignored: ignores(v.FailurePolicy)})
		}
	}
	return out
}

// target is who is asked.
func target(c admissionv1.WebhookClientConfig) string {
	switch {
	case c.Service != nil:
		return c.Service.Namespace + "/" + c.Service.Name
	case c.URL != nil:
		return *c.URL
	}
	return ""
}

// overlap says which pod both of two webhooks are asked about, if there can be one.
func overlap(a, b *admissionv1.MutatingWebhook) (where string, both bool) {
	namespace, one := common(a.NamespaceSelector, b.NamespaceSelector)
	pod, two := common(a.ObjectSelector, b.ObjectSelector)
	return fmt.Sprintf("%s in a namespace %s", cmp.Or(pod, "without labels"), cmp.Or(namespace, "without labels")), one && two
}

// common are labels that both of two selectors take, the fewest; "" none.
func common(selectors ...*metav1.LabelSelector) (labels string, exist bool) {
	type wish struct {
		in                      []string // nil: any
		not                     []string
		present, absent, listed bool
	}
	wishes := map[string]*wish{}
	of := func(key string) *wish {
		if wishes[key] == nil {
			wishes[key] = &wish{}
		}
		return wishes[key]
	}
	only := func(w *wish, values ...string) {
		if w.present = true; !w.listed {
			w.in, w.listed = slices.Clone(values), true
			return
		}
		w.in = slices.DeleteFunc(w.in, func(v string) bool { return !slices.Contains(values, v) })
	}
	for _, s := range selectors {
		if s == nil {
			continue
		}
		for k, v := range s.MatchLabels {
			only(of(k), v)
		}
		for _, e := range s.MatchExpressions {
			switch w := of(e.Key); e.Operator {
			case metav1.LabelSelectorOpIn:
				only(w, e.Values...)
			case metav1.LabelSelectorOpNotIn:
				w.not = append(w.not, e.Values...)
			case metav1.LabelSelectorOpExists:
				w.present = true
			case metav1.LabelSelectorOpDoesNotExist:
				w.absent = true
			}
		}
	}
	var said []string
	for _, key := range slices.Sorted(maps.Keys(wishes)) {
		w := wishes[key]
		w.in = slices.DeleteFunc(w.in, func(v string) bool { return slices.Contains(w.not, v) })
		switch {
		case !w.present: // without it
		case w.absent, w.listed && len(w.in) == 0:
			return "", false
		case w.listed:
			said = append(said, key+"="+slices.Min(w.in))
		default:
			said = append(said, key)
		}
	}
	if len(said) == 0 {
		return "", true
	}
	return "labelled " + strings.Join(said, ", "), true
}
