package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/weirmesh/weir/install"
)

// Remains is what an uninstallation would remove, and what it would leave.
type Remains struct {
	Objects   []*unstructured.Unstructured
	CRDs      []*unstructured.Unstructured // ours
	Namespace bool                         // is ours
	Others    []*unstructured.Unstructured // objects of Istio's kinds that people made
	Pods      []string                     // namespace/name, with a sidecar
}

// Find says what of an installation is in the cluster.
func (c *Cluster) Find(ctx context.Context, release, namespace string) (*Remains, error) {
	out := &Remains{}
	var err error
	if out.Objects, err = c.existing(ctx, release, ours); err != nil {
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
	ns, err := c.typed.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, err
	}
	out.Namespace = err == nil && ns.Labels[install.Owner] == release
	pods, err := c.typed.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("looking for sidecars: %w", err)
	}
	for _, p := range pods.Items {
		if p.Annotations["sidecar.istio.io/status"] != "" {
			out.Pods = append(out.Pods, p.Namespace+"/"+p.Name)
		}
	}
	return out, nil
}

// Uninstall removes what Find found: webhooks first, so that nothing is blocked meanwhile.
// The definitions go only with purge, or when nobody made objects of them.
func (c *Cluster) Uninstall(ctx context.Context, release, namespace string, found *Remains, purge bool) error {
	// The control plane makes some objects again as long as it runs: first it, then they.
	slices.SortStableFunc(found.Objects, func(a, b *unstructured.Unstructured) int { return place(a) - place(b) })
	for _, o := range found.Objects {
		if err := c.remove(ctx, o); err != nil {
			return err
		}
		if o.GetKind() == "Deployment" && o.GetName() == "istiod" {
			if err := c.ended(ctx, o.GetNamespace(), "app=istiod", "the control plane"); err != nil {
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
