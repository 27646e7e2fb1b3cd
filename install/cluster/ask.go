package cluster

import (
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/weirmesh/weir/install"
	"github.com/weirmesh/weir/internal/kubeconfig"
)

// hookPatience is how long the way to a new webhook may take to be there: kube-proxy and the
// API server learn of the control plane's pods within a second or two.
const hookPatience = 15 * time.Second

// asked waits until the API server reaches the webhooks: if it cannot, no pod of the mesh
// would start.
func (c *Cluster) asked(ctx context.Context, r *install.Release) error {
	began := time.Now()
	return c.until(ctx, "the API server's way to the webhooks", func() (string, error) {
		found, err := c.unasked(ctx, r)
		for _, p := range found {
			if p.Warning {
				continue
			}
			if time.Since(began) > hookPatience {
				return "", kubeconfig.Hinted(p.Hint, "%s", p.Message)
			}
			return p.Message, nil
		}
		return "", err
	})
}

// unasked has the API server ask the webhooks of an installation, about objects that it is not
// to make, and says which it cannot ask.
func (c *Cluster) unasked(ctx context.Context, r *install.Release) (out []Problem, err error) {
	for _, o := range r.Objects {
		var try func(context.Context, string) error
		switch o.GetKind() {
		case "MutatingWebhookConfiguration":
			try = c.tryPod
		case "ValidatingWebhookConfiguration":
			try = c.tryPolicy
		default:
			continue
		}
		err := try(ctx, r.Namespace)
		if ctx.Err() != nil {
			return out, err
		}
		if p := unanswered(o, r.Namespace, err); p != nil {
			out = append(out, *p)
		}
	}
	return out, nil
}

// unanswered is what the outcome of a trial says about a webhook. Other reasons for which the
// object would not be made are none of its business.
func unanswered(hook *unstructured.Unstructured, namespace string, err error) *Problem {
	switch {
	case err == nil:
	case strings.Contains(err.Error(), "failed calling webhook") && strings.Contains(err.Error(), "istiod."+namespace+"."):
		_, why, _ := strings.Cut(err.Error(), "failed calling webhook ")
		return &Problem{Message: title(hook) + ": the API server cannot ask the control plane: " + why,
			Hint: "let it reach port 15017 of the pods of Service istiod in " + namespace + " (a firewall? a NetworkPolicy? its proxy?): until then pods of the mesh are not started, and objects are not checked"}
	case apierrors.IsForbidden(err):
		return &Problem{Warning: true, Message: title(hook) + ": whether the API server reaches it was not found out: " + err.Error()}
	}
	return nil
}

// trial is the name of what is not made.
const trial = "weir-verify"

// tryPod asks for a pod with a sidecar, where the label of the namespace does not decide.
func (c *Cluster) tryPod(ctx context.Context, namespace string) error {
	for _, name := range []string{namespace, metav1.NamespaceDefault} {
		ns, err := c.typed.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if ns.Labels["istio-injection"] != "" || ns.Labels["istio.io/rev"] != "" {
			continue
		}
		no := false
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: trial, Namespace: name, Labels: map[string]string{"sidecar.istio.io/inject": "true"}},
			Spec:       corev1.PodSpec{AutomountServiceAccountToken: &no, Containers: []corev1.Container{{Name: "none", Image: "none"}}},
		}
		_, err = c.typed.CoreV1().Pods(name).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	return nil
}

// tryPolicy asks for a policy that says nothing.
func (c *Cluster) tryPolicy(ctx context.Context, namespace string) error {
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "networking.istio.io/v1", "kind": "Sidecar", "metadata": map[string]any{"name": trial, "namespace": namespace},
		"spec": map[string]any{"workloadSelector": map[string]any{"labels": map[string]any{"app": trial}}, "egress": []any{map[string]any{"hosts": []any{"*/*"}}}}}}
	at, err := c.resource(o.GroupVersionKind(), namespace)
	if err != nil {
		return err
	}
	_, err = at.Create(ctx, o, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}
