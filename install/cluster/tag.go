package cluster

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/inject"
	"github.com/weirmesh/weir/install"
	"github.com/weirmesh/weir/internal/kubeconfig"
)

// Tag is a name for a revision. A revision that is installed is one without a tag, too, and a name that
// namespaces ask for and that leads nowhere one without a revision.
type Tag struct {
	Tag        string   `json:"tag,omitempty"`
	Revision   string   `json:"revision"`
	Namespaces []string `json:"namespaces"` // that ask for it by their labels
}

// Tags lists the revisions that are installed, and the tags that lead to them; last the names that lead nowhere.
func (c *Cluster) Tags(ctx context.Context) ([]Tag, error) {
	list, err := c.typed.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{LabelSelector: revision})
	if err != nil {
		return nil, fmt.Errorf("listing revisions: %w", err)
	}
	namespaces, err := c.typed.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing namespaces: %w", err)
	}
	var out []Tag
	known := map[string]bool{"": true}
	for i := range list.Items {
		known[cmp.Or(list.Items[i].Labels[tag], list.Items[i].Labels[revision])] = true
		if list.Items[i].Labels["app"] != "istiod" {
			continue // Istio's own
		}
		t := Tag{Tag: list.Items[i].Labels[tag], Revision: list.Items[i].Labels[revision], Namespaces: []string{}}
		name := cmp.Or(t.Tag, t.Revision)
		for _, ns := range namespaces.Items {
			if config.AskedBy(ns.Labels) == name {
				t.Namespaces = append(t.Namespaces, ns.Name)
			}
		}
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b Tag) int { return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.Tag, b.Tag)) })
	for _, ns := range namespaces.Items {
		name := config.AskedBy(ns.Labels)
		if known[name] {
			continue
		}
		i := slices.IndexFunc(out, func(t Tag) bool { return t.Revision == "" && t.Tag == name })
		if i < 0 {
			i, out = len(out), append(out, Tag{Tag: name})
		}
		out[i].Namespaces = append(out[i].Namespaces, ns.Name)
	}
	return out, nil
}

// nobodys are problems of namespaces that ask for nobody: the API server asks no injector about their pods.
func (c *Cluster) nobodys(ctx context.Context) (out []Problem, err error) {
	tags, err := c.Tags(ctx)
	for _, t := range tags {
		if t.Revision == "" {
			out = append(out, Problem{Message: fmt.Sprintf("namespaces ask for revision or tag %s, which is not there: %s; pods that start in them get no proxy", t.Tag, strings.Join(t.Namespaces, ", ")),
				Hint: "`weir tag set " + t.Tag + " --revision REVISION` makes it, or label them otherwise; then restart their pods"})
		}
	}
	return out, err
}

// Tagging is what makes a tag, rendered; nothing is changed. An error says why it must not be.
func (c *Cluster) Tagging(ctx context.Context, s install.Settings, name, to string, overwrite bool) ([]*unstructured.Unstructured, error) {
	tags, err := c.Tags(ctx)
	if err != nil {
		return nil, err
	}
	for _, t := range tags {
		switch {
		case t.Tag == "" && t.Revision == name:
			return nil, kubeconfig.Hinted("take another name, or `weir uninstall"+revisionFlag(name)+"` first", "%s is a revision that is installed", name)
		case t.Tag == name && t.Revision != "" && t.Revision != to && !overwrite:
			return nil, kubeconfig.Hinted("--overwrite moves it", "tag %s leads to revision %s", name, t.Revision)
		}
	}
	plain := inject.ConfigMapName
	if to != "default" {
		plain += "-" + to
	}
	hooks, err := c.typed.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, plain, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && ca(hooks) == nil {
		return nil, kubeconfig.Hinted("`weir install"+revisionFlag(to)+"` installs it; `weir tag list` shows what there is", "there is no revision %s that could take pods", to)
	}
	if err != nil {
		return nil, err
	}
	s.Set = append(slices.Clone(s.Set), "revision="+to, "revisionTags[0]="+name)
	if m, err := c.typed.CoreV1().ConfigMaps(s.Namespace).Get(ctx, plain, metav1.GetOptions{}); err == nil {
		var values struct {
			SidecarInjectorWebhook struct{ EnableNamespacesByDefault bool }
		}
		if json.Unmarshal([]byte(m.Data[inject.ValuesKey]), &values) == nil && values.SidecarInjectorWebhook.EnableNamespacesByDefault {
			s.Set = append(s.Set, "sidecarInjectorWebhook.enableNamespacesByDefault=true")
		}
	}
	r, err := install.Render(s)
	if err != nil {
		return nil, err
	}
	var out []*unstructured.Unstructured
	for _, o := range r.Objects {
		labels := o.GetLabels()
		if labels[tag] != name {
			continue
		}
		// Not of the revision's installation: it stays when that is changed.
		labels[install.Owner] = "weir-tag-" + name
		o.SetLabels(labels)
		doors, _, _ := unstructured.NestedSlice(o.Object, "webhooks")
		for _, d := range doors {
			if m, ok := d.(map[string]any); ok {
				if err := unstructured.SetNestedField(m, base64.StdEncoding.EncodeToString(ca(hooks)), "clientConfig", "caBundle"); err != nil {
					return nil, err
				}
			}
		}
		if doors != nil {
			o.Object["webhooks"] = doors
		}
		out = append(out, o)
	}
	return out, nil
}

func revisionFlag(name string) string {
	if name == "default" {
		return ""
	}
	return " --revision " + name
}

func ca(hooks *admissionregistrationv1.MutatingWebhookConfiguration) []byte {
	for _, h := range hooks.Webhooks {
		if len(h.ClientConfig.CABundle) > 0 {
			return h.ClientConfig.CABundle
		}
	}
	return nil
}

// SetTag makes what Tagging rendered.
func (c *Cluster) SetTag(ctx context.Context, objects []*unstructured.Unstructured) error {
	for _, o := range objects {
		if err := c.apply(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// RemoveTag removes a tag, and reports whether there was one.
func (c *Cluster) RemoveTag(ctx context.Context, name string) (bool, error) {
	objects, err := c.labelled(ctx, tag+"="+name, ours)
	for _, o := range objects {
		if err == nil {
			err = c.remove(ctx, o)
		}
	}
	return len(objects) > 0, err
}
