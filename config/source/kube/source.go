// Package kube reads objects from the API server of Kubernetes, and watches them: what
// the operator asked for, by the same door as config/source/file.
//
// Watched are all kinds of API groups that ask for routing or security and whose
// CustomResourceDefinitions are there, also those this version does not implement, which
// become findings; a definition that comes later is watched from then on. Beside them the
// ConfigMap of the mesh, Namespaces, and which revisions and tags there are: an object that asks
// for another revision does not leave, one that asks for none there is leaves as astray
// (config.Object.Strand). config.Units leave, one an object, each time its
// content changes; what the API server says about objects (status, versions, who owns
// which field) is no content. What runs in the cluster is the business of registry/kube.
//
// Run calls publish from its own goroutine, one call at a time.
package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/config/istio"
	"github.com/weirmesh/weir/internal/kubewatch"
	"github.com/weirmesh/weir/mesh"
)

// Options of a Source. All but Revision are required.
type Options struct {
	Server  *kubewatch.Server
	Client  kubernetes.Interface
	Objects dynamic.Interface
	Heads   metadata.Interface
	// Namespace is that of the installation; Revision, if not empty, says which of the
	// ConfigMaps there is meant: istio-REVISION, which is known as istio to the rest.
	Namespace, Revision string
	Log                 *slog.Logger
}

// Source watches an API server.
type Source struct {
	o     Options
	units *kubewatch.Batch[string, config.Unit]
	rev   *revisions
}

// New makes a Source.
func New(o Options) *Source {
	return &Source{o: o, units: kubewatch.NewBatch[string, config.Unit](), rev: &revisions{
		own: cmp.Or(o.Revision, "default"), leads: map[types.NamespacedName]lead{}, asking: map[config.ID]asking{}, told: map[config.ID]string{}}}
}

// Run publishes everything there is in one call, and then what changes, until ctx ends.
func (s *Source) Run(ctx context.Context, publish func([]config.Unit)) error {
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop() // first
	s.units.Await("definitions", "ConfigMap", "Namespace", "MutatingWebhookConfiguration")
	running.Go(func() { s.injectors(ctx) })
	running.Go(func() { s.definitions(ctx) })
	running.Go(func() { s.configMap(ctx) })
	running.Go(func() { s.namespaces(ctx) })
	return s.units.Run(ctx, publish)
}

func (s *Source) put(u config.Unit) { s.units.Put(u.Name, u) }

// kept is what of metadata says something to the mesh or to people.
var kept = []string{"name", "namespace", "labels", "annotations", "creationTimestamp", "generation"}

// lastApplied is kubectl's copy of the object.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// unit is an object as others read it from a file.
func unit(id config.ID, content map[string]any) config.Unit {
	delete(content, "status")
	if meta, ok := content["metadata"].(map[string]any); ok {
		for k := range meta {
			if !slices.Contains(kept, k) {
				delete(meta, k)
			}
		}
		if a, ok := meta["annotations"].(map[string]any); ok {
			if delete(a, lastApplied); len(a) == 0 {
				delete(meta, "annotations")
			}
		}
	}
	u := config.Unit{Name: id.String()}
	fail := func(message, hint string) config.Unit {
		u.Incomplete = true
		u.Findings = []config.Finding{config.New(config.SyntaxError, mesh.Ref{Kind: id.Kind, Namespace: id.Namespace, Name: id.Name}, "", 0, message, hint)}
		return u
	}
	text, err := json.Marshal(content)
	if err != nil {
		return fail(err.Error(), "")
	}
	part := document.Part{Text: string(text), Line: 1}
	root, err := document.Parse(part)
	if err != nil {
		return fail(err.Error(), "")
	}
	o, findings := config.NewObject(root, part, "", id.Namespace)
	if o == nil {
		u.Incomplete, u.Findings = true, findings
		return u
	}
	u.Objects = []*config.Object{o}
	return u
}

func gone(id config.ID) config.Unit { return config.Unit{Name: id.String(), Gone: true} }

// configMap watches what the mesh as a whole is configured by.
func (s *Source) configMap(ctx context.Context) {
	name := istio.MeshConfigName
	if s.o.Revision != "" {
		name += "-" + s.o.Revision
	}
	id := config.ID{Kind: "ConfigMap", Namespace: s.o.Namespace, Name: istio.MeshConfigName}
	kubewatch.Watch(ctx, s.o.Server, s.o.Client.CoreV1().ConfigMaps(s.o.Namespace), kubewatch.Mirror[*corev1.ConfigMap]{
		Kind: "ConfigMap", Fields: "metadata.name=" + name,
		Put: func(c *corev1.ConfigMap) {
			data := map[string]any{}
			for k, v := range c.Data {
				data[k] = v
			}
			s.put(unit(id, map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "data": data,
				"metadata": map[string]any{"name": id.Name, "namespace": id.Namespace, "creationTimestamp": c.CreationTimestamp.UTC().Format("2006-01-02T15:04:05Z")}}))
		},
		Drop:   func(types.NamespacedName) { s.put(gone(id)) },
		Synced: func() { s.units.Here("ConfigMap") },
	})
}

// namespaces watches which are there, their labels and Istio's annotations.
func (s *Source) namespaces(ctx context.Context) {
	id := func(name string) config.ID { return config.ID{Kind: "Namespace", Name: name} }
	kubewatch.Watch(ctx, s.o.Server, s.o.Heads.Resource(corev1.SchemeGroupVersion.WithResource("namespaces")), kubewatch.Mirror[*metav1.PartialObjectMetadata]{
		Kind: "Namespace",
		Put: func(n *metav1.PartialObjectMetadata) {
			labels, annotations := map[string]any{}, map[string]any{}
			for k, v := range n.Labels {
				labels[k] = v
			}
			for k, v := range n.Annotations { // others change often, and say nothing to the mesh
				if config.Istios(k) {
					annotations[k] = v
				}
			}
			s.tell(id(n.Name), config.AskedBy(n.Labels), map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": n.Name, "labels": labels, "annotations": annotations}})
		},
		Drop:   func(n types.NamespacedName) { s.drop(id(n.Name)) },
		Synced: func() { s.units.Here("Namespace") },
	})
}

// objects watches one kind of custom resource.
func (s *Source) objects(ctx context.Context, d *definition) {
	var refused func()
	if d.optional {
		refused = func() {}
	}
	kubewatch.Watch(ctx, s.o.Server, s.o.Objects.Resource(d.resource()), kubewatch.Mirror[*unstructured.Unstructured]{
		Refused: refused,
		Kind:    d.kind + "." + d.group,
		Trim:    func(u *unstructured.Unstructured) { delete(u.Object, "status") },
		Put: func(u *unstructured.Unstructured) {
			n := types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()}
			d.here[n] = true
			s.tell(d.id(n), u.GetLabels()[revisionLabel], u.Object)
		},
		Drop: func(n types.NamespacedName) {
			delete(d.here, n)
			s.drop(d.id(n))
		},
		Synced: func() {
			for n := range d.before {
				if !d.here[n] {
					s.drop(d.id(n))
				}
			}
			d.before = nil
			s.units.Here(d.name)
		},
	})
}
