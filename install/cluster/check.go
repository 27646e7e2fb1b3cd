package cluster

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/weirmesh/weir/install"
)

// Oldest is the oldest Kubernetes: the first with native sidecars switched on.
const Oldest = "1.29.0"

// Problem is what stands in the way of an installation, or, as a warning, what will not
// work afterwards.
type Problem struct {
	Warning bool   `json:"warning,omitempty"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// Check finds all that stands in the way, before anything is changed.
func (c *Cluster) Check(ctx context.Context, r *install.Release) ([]Problem, error) {
	var out []Problem
	if v, err := version.ParseGeneric(c.Version); err == nil && v.LessThan(version.MustParseGeneric(Oldest)) {
		out = append(out, Problem{Message: fmt.Sprintf("the cluster is Kubernetes %s; Weir needs %s or newer", c.Version, Oldest), Hint: "upgrade the cluster"})
	}
	for _, check := range []func(context.Context, *install.Release) ([]Problem, error){c.permissions, c.others, c.podSecurity, c.plugged, c.fixed} {
		more, err := check(ctx, r)
		if err != nil {
			return out, err
		}
		out = append(out, more...)
	}
	return out, nil
}

// permissions asks whether the caller may make what is to be made.
func (c *Cluster) permissions(ctx context.Context, r *install.Release) ([]Problem, error) {
	crds, err := r.CRDs()
	if err != nil {
		return nil, err
	}
	type kind struct {
		schema.GroupKind
		namespace string
	}
	var missing []string
	seen := map[kind]bool{}
	for _, o := range slices.Concat(crds, r.Objects) {
		k := kind{o.GroupVersionKind().GroupKind(), o.GetNamespace()}
		if seen[k] {
			continue
		}
		seen[k] = true
		plural, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind())
		for _, verb := range []string{"create", "patch"} {
			review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: k.namespace, Verb: verb, Group: k.Group, Resource: plural.Resource}}}
			answer, err := c.typed.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
			if err != nil {
				return nil, fmt.Errorf("asking the cluster what is allowed: %w", err)
			}
			if !answer.Status.Allowed {
				missing = append(missing, verb+" "+plural.GroupResource().String())
				break
			}
		}
	}
	if len(missing) == 0 {
		return nil, nil
	}
	return []Problem{{Message: fmt.Sprintf("context %s may not %s", c.Context, strings.Join(missing, ", ")), Hint: "an installation needs an administrator of the cluster: use another --context, or ask for these rights"}}, nil
}

// others finds an Istio, or another Weir.
func (c *Cluster) others(ctx context.Context, r *install.Release) ([]Problem, error) {
	ds, err := c.typed.AppsV1().Deployments(metav1.NamespaceAll).List(ctx, metav1.ListOptions{LabelSelector: "app in (istiod,istio-pilot,pilot)"})
	if apierrors.IsForbidden(err) {
		return nil, nil // said by permissions
	}
	if err != nil {
		return nil, fmt.Errorf("looking for an existing Istio: %w", err)
	}
	for _, d := range ds.Items {
		switch owner := d.Labels[install.Owner]; {
		case owner == "":
			return []Problem{{Message: fmt.Sprintf("Istio runs in this cluster: deployment %s in %s; its webhooks have the names of ours, and both would inject", d.Name, d.Namespace),
				Hint: "uninstall it first (`istioctl uninstall --purge`); its definitions and your objects can stay"}}, nil
		case d.Namespace == r.Namespace && cmp.Or(d.Labels[revision], "default") != cmp.Or(r.Revision, "default"): // another revision
		case owner != r.Name || d.Namespace != r.Namespace:
			return []Problem{{Message: fmt.Sprintf("Weir is installed already, as %s in namespace %s", owner, d.Namespace), Hint: "say --namespace " + d.Namespace + " to change it, or `weir uninstall` first"}}, nil
		}
	}
	return nil, nil
}

// podSecurity finds namespaces that are to be meshed and forbid what capture needs.
func (c *Cluster) podSecurity(ctx context.Context, r *install.Release) ([]Problem, error) {
	nss, err := c.typed.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if apierrors.IsForbidden(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking at namespaces: %w", err)
	}
	byNodes, _, _ := unstructured.NestedBool(r.Values, "cni", "enabled")
	var out []Problem
	for _, ns := range nss.Items {
		level := ns.Labels["pod-security.kubernetes.io/enforce"]
		switch {
		case level != "baseline" && level != "restricted":
		case byNodes && ns.Name == r.Namespace:
			out = append(out, Problem{Message: fmt.Sprintf("namespace %s enforces pod security %q, which forbids the node agent what it is for (cni.enabled)", ns.Name, level),
				Hint: "kubectl label namespace " + ns.Name + " pod-security.kubernetes.io/enforce=privileged --overwrite"})
		case !byNodes && ns.Labels["istio-injection"] == "enabled":
			out = append(out, Problem{Warning: true, Message: fmt.Sprintf("namespace %s enforces pod security %q, which forbids the capability NET_ADMIN of the init container: its pods will not start", ns.Name, level),
				Hint: "install with --set cni.enabled=true, label it pod-security.kubernetes.io/enforce=privileged, or leave it out of the mesh"})
		}
	}
	return out, nil
}

// plugged looks for the CA's certificate where one is asked for, and for the root of who signs in place of it.
func (c *Cluster) plugged(ctx context.Context, r *install.Release) ([]Problem, error) {
	signer, _, _ := unstructured.NestedString(r.Values, "ca", "signer")
	asks, hint := "ca.signer="+signer, ", with the root of the signer beside the mesh's own in root-cert.pem"
	if slices.ContainsFunc(r.Notices, func(n string) bool { return strings.HasPrefix(n, "security.selfSigned=false") }) {
		asks, hint = "security.selfSigned=false", ""
	} else if signer == "" {
		return nil, nil
	}
	_, err := c.typed.CoreV1().Secrets(r.Namespace).Get(ctx, "cacerts", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return []Problem{{Message: asks + ", and there is no Secret cacerts in " + r.Namespace,
			Hint: "make it first: kubectl create secret generic cacerts -n " + r.Namespace + " --from-file=ca-cert.pem --from-file=ca-key.pem --from-file=root-cert.pem --from-file=cert-chain.pem" + hint}}, nil
	}
	if err != nil && !apierrors.IsForbidden(err) {
		return nil, err
	}
	return nil, nil
}

// existing is what is in the cluster of an installation.
func (c *Cluster) existing(ctx context.Context, release string, kinds []schema.GroupVersionKind) ([]*unstructured.Unstructured, error) {
	return c.labelled(ctx, install.Owner+"="+release, kinds)
}

// labelled lists objects of all namespaces; kinds the cluster does not know have none.
func (c *Cluster) labelled(ctx context.Context, selector string, kinds []schema.GroupVersionKind) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	for _, gvk := range kinds {
		r, err := c.resource(gvk, metav1.NamespaceAll)
		if meta.IsNoMatchError(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		l, err := r.List(ctx, metav1.ListOptions{LabelSelector: selector})
		if apierrors.IsNotFound(err) {
			continue // its definition has just gone
		}
		if err != nil {
			return nil, fmt.Errorf("listing %s: %w", gvk.Kind, err)
		}
		for i := range l.Items {
			out = append(out, &l.Items[i])
		}
	}
	return out, nil
}

// Everything that an installation or its control plane makes is of one of these kinds, in
// the order in which it is removed: who would be asked goes first.
var ours = []schema.GroupVersionKind{
	{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "MutatingWebhookConfiguration"},
	{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingWebhookConfiguration"},
	{Group: "security.istio.io", Version: "v1", Kind: "PeerAuthentication"},
	{Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler"},
	{Group: "policy", Version: "v1", Kind: "PodDisruptionBudget"},
	{Group: "apps", Version: "v1", Kind: "Deployment"},
	{Group: "apps", Version: "v1", Kind: "DaemonSet"},
	corev1.SchemeGroupVersion.WithKind("ResourceQuota"),
	corev1.SchemeGroupVersion.WithKind("Service"),
	corev1.SchemeGroupVersion.WithKind("ConfigMap"),
	corev1.SchemeGroupVersion.WithKind("Secret"),
	{Group: "coordination.k8s.io", Version: "v1", Kind: "Lease"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "RoleBinding"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "Role"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRoleBinding"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"},
	corev1.SchemeGroupVersion.WithKind("ServiceAccount"),
}

var crdKind = schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}
