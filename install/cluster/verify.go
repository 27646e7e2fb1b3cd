package cluster

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/weirmesh/weir/install"
)

// Verify says what of an installation is missing or does not work.
func (c *Cluster) Verify(ctx context.Context, r *install.Release) ([]Problem, error) {
	crds, err := r.CRDs()
	if err != nil {
		return nil, err
	}
	var out []Problem
	for _, o := range append(crds, r.Objects...) {
		at, err := c.resource(o.GroupVersionKind(), o.GetNamespace())
		if err != nil {
			out = append(out, Problem{Message: fmt.Sprintf("the cluster does not know %s (%s)", o.GetKind(), o.GetAPIVersion()), Hint: "`weir install` defines it"})
			continue
		}
		there, err := at.Get(ctx, o.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			out = append(out, Problem{Message: title(o) + " is missing", Hint: "`weir install` makes it again"})
			continue
		}
		if err != nil {
			return nil, c.refused(o, err)
		}
		if isHook(o) {
			out = append(out, unhooked(there, r.Namespace)...)
		}
		if runs(o) {
			why, _, err := c.unready(ctx, o.GetKind(), o.GetNamespace(), o.GetName())
			if err != nil {
				return nil, err
			}
			if why != "" {
				out = append(out, Problem{Message: title(o) + ": " + why, Hint: "`kubectl describe pod -n " + o.GetNamespace() + "` says what they wait for"})
			}
		}
	}
	nobodys, err := c.nobodys(ctx)
	if err != nil {
		return nil, err
	}
	unasked, err := c.unasked(ctx, r)
	return slices.Concat(out, nobodys, unasked), err
}

func unhooked(o *unstructured.Unstructured, namespace string) []Problem {
	hooks, _, _ := unstructured.NestedSlice(o.Object, "webhooks")
	for _, h := range hooks {
		m, _ := h.(map[string]any)
		if ca, _, _ := unstructured.NestedString(m, "clientConfig", "caBundle"); ca == "" {
			return []Problem{{Message: title(o) + " has no root certificate: the API server cannot ask the control plane", Hint: "see the log of the control plane: kubectl logs -n " + namespace + " deploy/istiod"}}
		}
	}
	return nil
}

// Address is how an ingress gateway is reached.
type Address struct {
	URL     string `json:"url,omitempty"`     // from where the cluster's load balancer or nodes are reachable
	Pending string `json:"pending,omitempty"` // why there is no better one yet
	Forward string `json:"forward,omitempty"` // the command that makes http://localhost:8080 lead to it
}

// Ingress finds the address of a gateway's Service; it never waits for it.
func (c *Cluster) Ingress(ctx context.Context, namespace, name string) (Address, error) {
	s, err := c.typed.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return Address{}, err
	}
	out := Address{Forward: fmt.Sprintf("kubectl port-forward -n %s service/%s 8080:80", namespace, name)}
	var web *corev1.ServicePort
	for i, p := range s.Spec.Ports {
		if p.Port == 80 || p.Name == "http2" {
			web = &s.Spec.Ports[i]
			break
		}
	}
	if web == nil {
		return out, nil
	}
	at := func(host string, port int32) string {
		if port == 80 {
			return "http://" + bracket(host)
		}
		return fmt.Sprintf("http://%s:%d", bracket(host), port)
	}
	for _, i := range s.Status.LoadBalancer.Ingress {
		if host := i.IP + i.Hostname; host != "" {
			out.URL = at(host, web.Port)
			return out, nil
		}
	}
	if len(s.Spec.ExternalIPs) > 0 {
		out.URL = at(s.Spec.ExternalIPs[0], web.Port)
		return out, nil
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		out.Pending = "the cluster has given service " + name + " no load balancer yet"
	}
	if web.NodePort != 0 {
		nodes, err := c.typed.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: 1})
		if err == nil && len(nodes.Items) > 0 {
			for _, kind := range []corev1.NodeAddressType{corev1.NodeExternalIP, corev1.NodeInternalIP} {
				for _, a := range nodes.Items[0].Status.Addresses {
					if a.Type == kind {
						out.URL = at(a.Address, web.NodePort)
						return out, nil
					}
				}
			}
		}
	}
	return out, nil
}

func bracket(host string) string {
	for _, r := range host {
		if r == ':' {
			return "[" + host + "]"
		}
	}
	return host
}
