package cluster

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/install"
)

// Remains is what an uninstallation would remove, and what it would leave.
type Remains struct {
	Objects   []*unstructured.Unstructured
	CRDs      []*unstructured.Unstructured // ours
	Namespace bool                         // is ours
	Others    []*unstructured.Unstructured // objects of Istio's kinds that people made
	Pods      []string                     // namespace/name, with a sidecar
	// Heir is another revision's installation than that of Revision, which gets what there is one of in the mesh (Shared).
	Heir, Revision string
	Shared         []*unstructured.Unstructured
	// Tags lead to this revision.
	Tags []*unstructured.Unstructured
	// Asking are the namespaces that ask for this revision by its own name.
	Asking []string
}

// revision and tag are labels of Istio's.
const (
	revision = "istio.io/rev"
	tag      = "istio.io/tag"
)

// shared is what control planes of all revisions have in common: who takes the CA's key away from
// the others ends the mesh.
func shared(o *unstructured.Unstructured) bool {
	switch o.GetKind() {
	case "Secret":
		return slices.Contains([]string{"istio-ca-secret", "istio-ca-handover", "istio-ca-used-tokens", "istio-plaintext-callers"}, o.GetName())
	case "ConfigMap":
		return o.GetName() == "istio-ca-root-cert"
	case "Lease":
		return o.GetName() == "istio-leader"
	}
	return o.GetKind() == crdKind.Kind
}

// Find says what of an installation is in the cluster.
func (c *Cluster) Find(ctx context.Context, release, namespace string) (*Remains, error) {
	out := &Remains{}
	var err error
	if out.Objects, err = c.existing(ctx, release, ours); err != nil {
		return nil, err
	}
	if err := c.revisions(ctx, release, namespace, out); err != nil {
		return nil, err
	}
	if out.CRDs, err = c.existing(ctx, release, []schema.GroupVersionKind{crdKind}); err != nil {
		return nil, err
	}
	for _, crd := range out.CRDs {
		group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "kind")
		versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
		if len(versions) == 0 {
			continue
		}
		first, _ := versions[0].(map[string]any)
		version, _ := first["name"].(string)
		r, err := c.resource(schema.GroupVersionKind{Group: group, Version: version, Kind: kind}, metav1.NamespaceAll)
		if meta.IsNoMatchError(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		l, err := r.List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("listing %s: %w", kind, err)
		}
		for i := range l.Items {
			if l.Items[i].GetLabels()[install.Owner] != release {
				out.Others = append(out.Others, &l.Items[i])
			}
		}
	}
	if out.Heir != "" {
		out.Shared = append(out.Shared, out.CRDs...)
		out.CRDs = nil
	}
	ns, err := c.typed.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, err
	}
	if out.Namespace = err == nil && ns.Labels[install.Owner] == release; out.Namespace && out.Heir != "" {
		o := &unstructured.Unstructured{}
		o.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
		o.SetName(namespace)
		out.Shared, out.Namespace = append(out.Shared, o), false
	}
	pods, err := c.typed.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("looking for sidecars: %w", err)
	}
	for _, p := range pods.Items {
		// Those of another revision lose nothing.
		if p.Annotations["sidecar.istio.io/status"] != "" && (out.Heir == "" || cmp.Or(p.Annotations[revision], "default") == out.Revision) {
			out.Pods = append(out.Pods, p.Namespace+"/"+p.Name)
		}
	}
	return out, nil
}

// revisions finds other installations beside one, and the tags that lead to it.
func (c *Cluster) revisions(ctx context.Context, release, namespace string, out *Remains) error {
	ds, err := c.typed.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=istiod"})
	if err != nil {
		return fmt.Errorf("looking for other revisions: %w", err)
	}
	for _, d := range ds.Items {
		switch owner := d.Labels[install.Owner]; owner {
		case release:
			out.Revision = d.Labels[revision]
		case "":
		default:
			if out.Heir == "" || owner < out.Heir {
				out.Heir = owner
			}
		}
	}
	if out.Heir != "" {
		out.Objects = slices.DeleteFunc(out.Objects, func(o *unstructured.Unstructured) bool {
			if shared(o) {
				out.Shared = append(out.Shared, o)
			}
			return shared(o)
		})
	}
	if out.Revision != "" {
		namespaces, err := c.typed.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("looking for who asks for the revision: %w", err)
		}
		for _, ns := range namespaces.Items {
			if config.AskedBy(ns.Labels) == out.Revision {
				out.Asking = append(out.Asking, ns.Name)
			}
		}
		slices.Sort(out.Asking)
		out.Tags, err = c.labelled(ctx, tag+","+revision+"="+out.Revision, ours)
		return err
	}
	return nil
}

// inherit makes somebody else the owner of objects.
func (c *Cluster) inherit(ctx context.Context, heir string, objects []*unstructured.Unstructured) error {
	patch := []byte(fmt.Sprintf(`{"metadata":{"labels":{%q:%q}}}`, install.Owner, heir))
	for _, o := range objects {
		at, err := c.resource(o.GroupVersionKind(), o.GetNamespace())
		if err != nil {
			return err
		}
		if _, err := at.Patch(ctx, o.GetName(), types.MergePatchType, patch, metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return c.refused(o, err)
		}
	}
	return nil
}

// Uninstall removes what Find found: webhooks first, so that nothing is blocked meanwhile.
// The definitions go only with purge, or when nobody made objects of them.
func (c *Cluster) Uninstall(ctx context.Context, release, namespace string, found *Remains, purge bool) error {
	// The control plane makes some objects again as long as it runs: first it, then they.
	if found.Heir != "" {
		if err := c.inherit(ctx, found.Heir, found.Shared); err != nil {
			return err
		}
	} else {
		found.Objects = append(found.Objects, found.Tags...) // they would ask nobody, and so let no pod in
	}
	slices.SortStableFunc(found.Objects, func(a, b *unstructured.Unstructured) int { return place(a) - place(b) })
	for _, o := range found.Objects {
		if err := c.remove(ctx, o); err != nil {
			return err
		}
		if selector, _, _ := unstructured.NestedStringMap(o.Object, "spec", "selector", "matchLabels"); o.GetKind() == "Deployment" && selector["app"] == "istiod" {
			if err := c.ended(ctx, o.GetNamespace(), metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: selector}), "the control plane"); err != nil {
				return err
			}
		}
		if o.GetKind() == "DaemonSet" { // they take their plugin from the nodes, and ask who they are meanwhile
			if err := c.ended(ctx, o.GetNamespace(), "k8s-app="+o.GetName(), "the node agents"); err != nil {
				return err
			}
		}
	}
	again, err := c.existing(ctx, release, ours) // what was made meanwhile
	if err != nil {
		return err
	}
	for _, o := range again {
		if found.Heir != "" && shared(o) {
			continue
		}
		if err := c.remove(ctx, o); err != nil {
			return err
		}
	}
	c.say(fmt.Sprintf("%d objects removed", len(found.Objects)))
	kinds := ours
	if len(found.Others) == 0 || purge {
		// Definitions go after their objects: an installation that comes at once would keep them, and lose them.
		kinds = append(slices.Clone(ours), crdKind)
		for _, crd := range found.CRDs {
			if err := c.remove(ctx, crd); err != nil {
				return err
			}
		}
		if len(found.CRDs) > 0 {
			c.say(fmt.Sprintf("%d definitions of Istio's kinds removed", len(found.CRDs)))
		}
	}
	if found.Namespace {
		if err := c.typed.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return c.until(ctx, "the end of everything", func() (string, error) {
		left, err := c.existing(ctx, release, kinds)
		if err != nil {
			return "", err
		}
		if found.Heir != "" {
			left = slices.DeleteFunc(left, shared)
		}
		if len(left) > 0 {
			var names []string
			for _, o := range left[:min(len(left), 3)] {
				names = append(names, title(o))
			}
			return fmt.Sprintf("%d are still there: %s", len(left), strings.Join(names, ", ")), nil
		}
		if !found.Namespace {
			return "", nil
		}
		_, err = c.typed.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "", nil
		}
		return "namespace " + namespace + " is still there", err
	})
}

func place(o *unstructured.Unstructured) int {
	return slices.IndexFunc(ours, func(k schema.GroupVersionKind) bool { return k.Kind == o.GetKind() })
}

// ended waits until no pod of a selector is left.
func (c *Cluster) ended(ctx context.Context, namespace, selector, who string) error {
	return c.until(ctx, "the end of "+who, func() (string, error) {
		pods, err := c.typed.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil || len(pods.Items) == 0 {
			return "", err
		}
		return fmt.Sprintf("%d pods left", len(pods.Items)), nil
	})
}
