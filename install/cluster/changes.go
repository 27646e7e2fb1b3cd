package cluster

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/weirmesh/weir/install"
	"github.com/weirmesh/weir/internal/treediff"
)

// Change is what an installation would do to one object.
type Change struct {
	Object string   `json:"object"` // "deployment/istiod in istio-system"
	What   string   `json:"what"`   // made, changed, removed
	Fields []string `json:"fields,omitempty"`
}

// Changes says what Install would do, by asking the API server for each object without making it: what it answers is compared with what is
// there, so that defaults are no difference. Nothing is changed. refused are objects that the cluster would not take.
func (c *Cluster) Changes(ctx context.Context, r *install.Release) (changes []Change, refused []Problem, err error) {
	crds, err := r.CRDs()
	if err != nil {
		return nil, nil, err
	}
	changes = []Change{}
	for _, o := range slices.Concat(crds, r.Objects) {
		at, err := c.resource(o.GroupVersionKind(), o.GetNamespace())
		if meta.IsNoMatchError(err) {
			changes = append(changes, Change{Object: title(o), What: "made"})
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		now, err := at.Get(ctx, o.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			changes = append(changes, Change{Object: title(o), What: "made"})
			continue
		}
		if err != nil {
			return nil, nil, c.refused(o, err)
		}
		if runs(o) && !reflect.DeepEqual(selector(now), selector(o)) {
			continue // said by Check
		}
		if o.GetKind() == crdKind.Kind && now.GetLabels()[install.Owner] != r.Name {
			if lacking := versionsLacking(o, now); len(lacking) > 0 {
				refused = append(refused, Problem{Message: fmt.Sprintf("%s belongs to somebody else and does not have %s: objects of that version cannot be written", title(o), strings.Join(lacking, ", ")),
					Hint: "have its owner bring it up to date, or label it " + install.Owner + "=" + r.Name + ", and it is taken over"})
			}
			continue
		}
		then, err := at.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: Manager, Force: true, DryRun: []string{metav1.DryRunAll}})
		if fixed := immutable(err); len(fixed) > 0 {
			refused = append(refused, Problem{Message: fmt.Sprintf("%s cannot be changed in %s", title(o), strings.Join(fixed, ", ")), Hint: "remove it, and `weir install` makes it anew"})
			continue
		}
		if err != nil {
			return nil, nil, c.refused(o, err)
		}
		if fields := apart(content(now), content(then)); len(fields) > 0 {
			changes = append(changes, Change{Object: title(o), What: "changed", Fields: fields})
		}
	}
	gone, err := c.surplus(ctx, r)
	for _, o := range gone {
		changes = append(changes, Change{Object: title(o), What: "removed"})
	}
	return changes, refused, err
}

// versionsLacking are those that a definition has and the one that is there has not.
func versionsLacking(want, there *unstructured.Unstructured) (out []string) {
	names := func(o *unstructured.Unstructured) (out []string) {
		list, _, _ := unstructured.NestedSlice(o.Object, "spec", "versions")
		for _, v := range list {
			m, _ := v.(map[string]any)
			name, _ := m["name"].(string)
			out = append(out, name)
		}
		return out
	}
	has := names(there)
	return slices.DeleteFunc(names(want), func(v string) bool { return slices.Contains(has, v) })
}

// content is what of an object people write: not what the API server says about it.
func content(o *unstructured.Unstructured) map[string]any {
	out := o.DeepCopy().Object
	delete(out, "status")
	if hooks, ok := out["webhooks"].([]any); ok { // the control plane writes these
		for _, h := range hooks {
			if m, ok := h.(map[string]any); ok {
				delete(m, "failurePolicy")
				unstructured.RemoveNestedField(m, "clientConfig", "caBundle")
			}
		}
	}
	delete(out, "metadata")
	for _, field := range []string{"labels", "annotations"} {
		if m, ok, _ := unstructured.NestedMap(o.Object, "metadata", field); ok {
			out[field] = m
		}
	}
	return out
}

// mostFields bounds what is said about one object.
const mostFields = 40

// apart lists where a and b differ, as "PATH: A → B".
func apart(a, b any) (out []string) {
	for d := range treediff.Differences(a, b, false) {
		if len(out) == mostFields {
			break
		}
		out = append(out, d.Path+": "+brief(d.A)+" → "+brief(d.B))
	}
	return out
}

func brief(v any) string {
	if v == nil {
		return "nothing"
	}
	return treediff.Brief(v, 120)
}

// immutable are the fields that an answer says cannot be changed.
func immutable(err error) (fields []string) {
	var status apierrors.APIStatus
	if !apierrors.IsInvalid(err) || !errors.As(err, &status) || status.Status().Details == nil {
		return nil
	}
	for _, cause := range status.Status().Details.Causes {
		if strings.Contains(cause.Message, "field is immutable") {
			fields = append(fields, cause.Field)
		}
	}
	slices.Sort(fields)
	return slices.Compact(fields)
}
