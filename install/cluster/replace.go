package cluster

import (
	"context"
	"fmt"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirmesh/weir/install"
)

// retired labels what runs on in place of what is made anew, until that is ready. It is found by it, too, when an installation was
// interrupted in between.
const retired = "install.weir.dev/retired"

// selector is which pods a Deployment or DaemonSet has.
func selector(o *unstructured.Unstructured) map[string]any {
	m, _, _ := unstructured.NestedMap(o.Object, "spec", "selector")
	return m
}

// there is the object as it is in the cluster; nil if it is not.
func (c *Cluster) there(ctx context.Context, o *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	at, err := c.resource(o.GroupVersionKind(), o.GetNamespace())
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	now, err := at.Get(ctx, o.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) { // the second is said by permissions
		return nil, nil
	}
	return now, err
}

// fixed finds what was made with another selector, as older versions had them: Kubernetes does not let that change.
func (c *Cluster) fixed(ctx context.Context, r *install.Release) (out []Problem, err error) {
	if c.Replace {
		return nil, nil
	}
	for _, o := range r.Objects {
		if !runs(o) {
			continue
		}
		now, err := c.there(ctx, o)
		if err != nil {
			return out, err
		}
		if now != nil && !reflect.DeepEqual(selector(now), selector(o)) {
			out = append(out, Problem{Message: fmt.Sprintf("%s was made with the selector %s and is to have %s, and Kubernetes does not let that change", title(o), brief(selector(now)), brief(selector(o))),
				Hint: "--replace makes it anew; its pods run until the new ones are ready"})
		}
	}
	return out, nil
}

// retire makes room for a Deployment or DaemonSet that cannot be changed into what it is to be. The pods of a Deployment run on.
func (c *Cluster) retire(ctx context.Context, release string, o *unstructured.Unstructured) error {
	now, err := c.there(ctx, o)
	if err != nil || now == nil || reflect.DeepEqual(selector(now), selector(o)) {
		return err
	}
	how := metav1.DeletePropagationBackground // pods of a DaemonSet would take the place of the new ones
	if o.GetKind() == "Deployment" {
		how = metav1.DeletePropagationOrphan
		sets, err := c.typed.AppsV1().ReplicaSets(o.GetNamespace()).List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("listing the ReplicaSets of %s: %w", title(o), err)
		}
		for i := range sets.Items {
			if !metav1.IsControlledBy(&sets.Items[i], now) {
				continue
			}
			mark := fmt.Sprintf(`{"metadata":{"labels":{%q:%q}}}`, retired, release)
			if _, err := c.typed.AppsV1().ReplicaSets(o.GetNamespace()).Patch(ctx, sets.Items[i].Name, types.MergePatchType, []byte(mark), metav1.PatchOptions{FieldManager: Manager}); err != nil {
				return fmt.Errorf("replicaset/%s in %s: %w", sets.Items[i].Name, o.GetNamespace(), err)
			}
		}
	}
	at, err := c.resource(o.GroupVersionKind(), o.GetNamespace())
	if err != nil {
		return err
	}
	if err := at.Delete(ctx, o.GetName(), metav1.DeleteOptions{PropagationPolicy: &how, Preconditions: &metav1.Preconditions{UID: new(now.GetUID())}}); err != nil && !apierrors.IsNotFound(err) {
		return c.refused(o, err)
	}
	err = c.until(ctx, "the end of the old "+title(o), func() (string, error) {
		still, err := c.there(ctx, o)
		if err != nil || still == nil || still.GetUID() != now.GetUID() {
			return "", err
		}
		return "it is being deleted", nil
	})
	if err == nil {
		c.say(title(o) + " is made anew: its selector is another")
	}
	return err
}

// bury ends the pods of what was retired, once others are ready.
func (c *Cluster) bury(ctx context.Context, r *install.Release) error {
	sets, err := c.typed.AppsV1().ReplicaSets(r.Namespace).List(ctx, metav1.ListOptions{LabelSelector: retired + "=" + r.Name})
	if apierrors.IsForbidden(err) && !c.Replace {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing what was replaced: %w", err)
	}
	background := metav1.DeletePropagationBackground
	for _, s := range sets.Items {
		if err := c.typed.AppsV1().ReplicaSets(r.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{PropagationPolicy: &background}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("replicaset/%s in %s: %w", s.Name, r.Namespace, err)
		}
	}
	return nil
}
