package cluster

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/weirmesh/weir/install"
	"github.com/weirmesh/weir/internal/kubeconfig"
)

// Install makes what r consists of and waits until it is ready. It may be called again
// and again: what is there already is brought to what r says, what r has no more goes.
// Webhooks are registered last, when somebody can answer.
func (c *Cluster) Install(ctx context.Context, r *install.Release) error {
	crds, err := r.CRDs()
	if err != nil {
		return err
	}
	if err := c.define(ctx, r, crds); err != nil {
		return err
	}
	if err := c.namespace(ctx, r); err != nil {
		return err
	}
	hooks := slices.IndexFunc(r.Objects, isHook)
	if hooks < 0 {
		hooks = len(r.Objects)
	}
	for _, o := range r.Objects[:hooks] {
		if c.Replace && runs(o) {
			if err := c.retire(ctx, r.Name, o); err != nil {
				return err
			}
		}
		if err := c.apply(ctx, o); err != nil {
			return err
		}
	}
	c.say(fmt.Sprintf("%d objects in namespace %s", hooks, r.Namespace))
	for _, o := range r.Objects[:hooks] {
		if runs(o) {
			if err := c.rollout(ctx, o.GetKind(), o.GetNamespace(), o.GetName()); err != nil {
				return err
			}
		}
	}
	if err := c.bury(ctx, r); err != nil {
		return err
	}
	for _, o := range r.Objects[hooks:] {
		if err := c.apply(ctx, o); err != nil {
			return err
		}
	}
	for _, o := range r.Objects[hooks:] {
		if err := c.hooked(ctx, o); err != nil {
			return err
		}
	}
	if err := c.asked(ctx, r); err != nil {
		return err
	}
	return c.prune(ctx, r)
}

func isHook(o *unstructured.Unstructured) bool {
	return strings.HasSuffix(o.GetKind(), "WebhookConfiguration")
}

// define makes the definitions, but leaves those of somebody else as they are.
func (c *Cluster) define(ctx context.Context, r *install.Release, crds []*unstructured.Unstructured) error {
	if len(crds) == 0 {
		return nil
	}
	at, err := c.resource(crdKind, "")
	if err != nil {
		return err
	}
	kept := 0
	for _, crd := range crds {
		if err := c.gone(ctx, title(crd), func() (metav1.Object, error) { return at.Get(ctx, crd.GetName(), metav1.GetOptions{}) }); err != nil {
			return err
		}
		old, err := at.Get(ctx, crd.GetName(), metav1.GetOptions{})
		if err == nil && old.GetLabels()[install.Owner] != r.Name {
			kept++
			continue
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return c.refused(crd, err)
		}
		if err := c.apply(ctx, crd); err != nil {
			return err
		}
	}
	if kept > 0 {
		c.say(fmt.Sprintf("%d of Istio's definitions are there already and stay as they are", kept))
	}
	for _, crd := range crds {
		err := c.until(ctx, "definition "+crd.GetName(), func() (string, error) {
			o, err := at.Get(ctx, crd.GetName(), metav1.GetOptions{})
			if err != nil {
				return "", err
			}
			conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
			for _, x := range conditions {
				if m, _ := x.(map[string]any); m["type"] == "Established" && m["status"] == "True" {
					return "", nil
				}
			}
			return "not established yet", nil
		})
		if err != nil {
			return err
		}
	}
	c.mapper.Reset()
	c.say(fmt.Sprintf("%d definitions of Istio's kinds", len(crds)))
	return nil
}

func (c *Cluster) namespace(ctx context.Context, r *install.Release) error {
	get := func() (metav1.Object, error) {
		return c.typed.CoreV1().Namespaces().Get(ctx, r.Namespace, metav1.GetOptions{})
	}
	if err := c.gone(ctx, "namespace "+r.Namespace, get); err != nil {
		return err
	}
	_, err := get()
	if !apierrors.IsNotFound(err) {
		return err // somebody's, or none
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.Namespace, Labels: map[string]string{install.Owner: r.Name, "app.kubernetes.io/managed-by": "weir"}}}
	_, err = c.typed.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{FieldManager: Manager})
	if apierrors.IsAlreadyExists(err) {
		return nil // the answer to the same request was lost
	}
	if apierrors.IsForbidden(err) {
		return kubeconfig.Hinted("ask somebody who may for the namespace", "namespace %s: the cluster does not allow it: %w", r.Namespace, err)
	}
	return err
}

// gone waits for the end of an object that is being deleted: nothing can be made in it, or of it.
func (c *Cluster) gone(ctx context.Context, what string, get func() (metav1.Object, error)) error {
	return c.until(ctx, "the end of "+what, func() (string, error) {
		o, err := get()
		switch {
		case err != nil || o.GetDeletionTimestamp() == nil: // whoever asks next is told the error
			return "", nil
		case len(o.GetFinalizers()) > 0:
			return "it is being deleted, and waits for its finalizers (" + strings.Join(o.GetFinalizers(), ", ") + ")", nil
		}
		return "it is being deleted", nil
	})
}

// hooked waits until the control plane has written its root into a webhook: until then the
// API server would not believe it.
func (c *Cluster) hooked(ctx context.Context, hook *unstructured.Unstructured) error {
	at, err := c.resource(hook.GroupVersionKind(), "")
	if err != nil {
		return err
	}
	return c.until(ctx, title(hook), func() (string, error) {
		o, err := at.Get(ctx, hook.GetName(), metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		hooks, _, _ := unstructured.NestedSlice(o.Object, "webhooks")
		for _, h := range hooks {
			m, _ := h.(map[string]any)
			if ca, _, _ := unstructured.NestedString(m, "clientConfig", "caBundle"); ca == "" {
				return "the control plane has not written its root certificate into it yet", nil
			}
		}
		return "", nil
	})
}

// prune removes what an earlier installation of the name had and this one has not.
func (c *Cluster) prune(ctx context.Context, r *install.Release) error {
	gone, err := c.surplus(ctx, r)
	if err != nil {
		return err
	}
	for _, o := range gone {
		if err := c.remove(ctx, o); err != nil {
			return err
		}
		c.say(title(o) + " is not part of it any more: removed")
	}
	return nil
}

// surplus is what an earlier installation of the name had and this one has not.
func (c *Cluster) surplus(ctx context.Context, r *install.Release) (out []*unstructured.Unstructured, err error) {
	there, err := c.existing(ctx, r.Name, ours)
	for _, o := range there {
		// What the control plane makes is not in the chart.
		if o.GetLabels()["app.kubernetes.io/version"] != "" && !slices.ContainsFunc(r.Objects, func(w *unstructured.Unstructured) bool {
			return w.GetKind() == o.GetKind() && w.GetName() == o.GetName() && w.GetNamespace() == o.GetNamespace()
		}) {
			out = append(out, o)
		}
	}
	return out, err
}

func (c *Cluster) remove(ctx context.Context, o *unstructured.Unstructured) error {
	at, err := c.resource(o.GroupVersionKind(), o.GetNamespace())
	if err != nil {
		return err
	}
	background := metav1.DeletePropagationBackground
	err = at.Delete(ctx, o.GetName(), metav1.DeleteOptions{PropagationPolicy: &background})
	if err != nil && !apierrors.IsNotFound(err) {
		return c.refused(o, err)
	}
	return nil
}

// until asks again and again until pending is empty, and says what it waits for when that
// changes.
func (c *Cluster) until(ctx context.Context, what string, pending func() (string, error)) error {
	said := ""
	began := time.Now()
	for {
		why, err := pending()
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if err == nil && why == "" {
			return nil
		}
		if why != "" && why != said && time.Since(began) > time.Second {
			said = why
			c.say("waiting for " + what + ": " + why)
		}
		select {
		case <-ctx.Done():
			return kubeconfig.Hinted("--timeout gives it longer; called again it goes on from here", "waited in vain for %s: %s", what, cmp.Or(why, "the cluster does not answer"))
		case <-time.After(300 * time.Millisecond):
		}
	}
}
