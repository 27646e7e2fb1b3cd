package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirmesh/weir/install"
	"github.com/weirmesh/weir/internal/kubeconfig"
)

// Demo is the label of a demo's objects, with its name.
const Demo = "install.weir.dev/demo"

// Images is where an installation takes its images from.
type Images struct {
	Hub, Tag   string
	PullPolicy string `json:"imagePullPolicy"`
}

// Images asks the installation in a namespace.
func (c *Cluster) Images(ctx context.Context, namespace string) (Images, error) {
	m, err := c.typed.CoreV1().ConfigMaps(namespace).Get(ctx, "istio-sidecar-injector", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return Images{}, kubeconfig.Hinted("`weir install` first, or say --namespace", "there is no installation in namespace %s", namespace)
	}
	if err != nil {
		return Images{}, err
	}
	var values struct{ Global Images }
	if err := json.Unmarshal([]byte(m.Data["values"]), &values); err != nil {
		return Images{}, fmt.Errorf("configmap/istio-sidecar-injector in %s: values: %w", namespace, err)
	}
	return values.Global, nil
}

// InstallDemo meshes a namespace, makes a demo's objects in it, and waits for its pods.
// The name of the samples' image is replaced by that of the installation.
func (c *Cluster) InstallDemo(ctx context.Context, name string, yaml []byte, namespace string, images Images) error {
	objects, err := install.Decode(yaml)
	if err != nil {
		return err
	}
	if err := c.mesh(ctx, namespace); err != nil {
		return err
	}
	for _, o := range objects {
		o.SetNamespace(namespace)
		labels := o.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels[Demo] = name
		o.SetLabels(labels)
		if o.GetKind() == "Deployment" {
			if err := replaceImages(o, images); err != nil {
				return fmt.Errorf("%s: %w", title(o), err)
			}
		}
		if err := c.apply(ctx, o); err != nil {
			return err
		}
	}
	c.say(fmt.Sprintf("%d objects of %s in namespace %s", len(objects), name, namespace))
	for _, o := range objects {
		if o.GetKind() == "Deployment" {
			if err := c.rollout(ctx, o.GetKind(), namespace, o.GetName()); err != nil {
				return err
			}
		}
	}
	return nil
}

// mesh labels a namespace, unless somebody said that it stays out.
func (c *Cluster) mesh(ctx context.Context, namespace string) error {
	ns, err := c.typed.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		ns, err = c.typed.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{FieldManager: Manager})
	}
	if err != nil {
		return err
	}
	switch v := ns.Labels["istio-injection"]; {
	case v == "enabled" || ns.Labels["istio.io/rev"] != "":
		return nil
	case v != "":
		return kubeconfig.Hinted("kubectl label namespace "+namespace+" istio-injection=enabled --overwrite", "namespace %s is labelled istio-injection=%s: its pods would have no sidecars", namespace, v)
	}
	_, err = c.typed.CoreV1().Namespaces().Patch(ctx, namespace, types.MergePatchType, []byte(`{"metadata":{"labels":{"istio-injection":"enabled"}}}`), metav1.PatchOptions{FieldManager: Manager})
	if err == nil {
		c.say("namespace " + namespace + " is meshed from now on: istio-injection=enabled")
	}
	return err
}

func replaceImages(o *unstructured.Unstructured, images Images) error {
	at := []string{"spec", "template", "spec", "containers"}
	containers, _, err := unstructured.NestedSlice(o.Object, at...)
	if err != nil {
		return err
	}
	for _, x := range containers {
		m, _ := x.(map[string]any)
		if image, _ := m["image"].(string); !strings.Contains(image, "/") {
			m["image"] = images.Hub + "/" + image + ":" + images.Tag
			if images.PullPolicy != "" {
				m["imagePullPolicy"] = images.PullPolicy
			}
		}
	}
	return unstructured.SetNestedSlice(o.Object, containers, at...)
}

// RemoveDemo removes a demo's objects from all namespaces and returns how many there were.
func (c *Cluster) RemoveDemo(ctx context.Context, name string, yaml []byte) (int, error) {
	objects, err := install.Decode(yaml)
	if err != nil {
		return 0, err
	}
	var kinds []schema.GroupVersionKind
	for _, o := range objects {
		if gvk := o.GroupVersionKind(); !slices.Contains(kinds, gvk) {
			kinds = append(kinds, gvk)
		}
	}
	found, err := c.labelled(ctx, Demo+"="+name, kinds)
	if err != nil {
		return 0, err
	}
	for _, o := range found {
		if err := c.remove(ctx, o); err != nil {
			return 0, err
		}
	}
	return len(found), nil
}
