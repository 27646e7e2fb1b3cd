package kube

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/internal/kubewatch"
)

// crds are the definitions of kinds. Their heads are watched, because the bodies are large;
// those of ours are fetched when they change.
var crds = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// definition is a kind that is watched.
type definition struct {
	name                         string // of its CustomResourceDefinition
	group, version, kind, plural string
	optional                     bool // nothing is waiting for its objects
	stop                         context.CancelFunc
	stopped                      chan struct{}
	// here are the names of its objects, before those it had in another version of the kind,
	// until they are seen again.
	here, before map[types.NamespacedName]bool
}

func (d *definition) resource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: d.group, Version: d.version, Resource: d.plural}
}

func (d *definition) id(n types.NamespacedName) config.ID {
	return config.ID{Group: d.group, Kind: d.kind, Namespace: n.Namespace, Name: n.Name}
}

// definitions watches which kinds there are, and their objects.
func (s *Source) definitions(ctx context.Context) {
	running := map[string]*definition{}
	var wg sync.WaitGroup
	defer wg.Wait()
	end := func(name string) (left map[types.NamespacedName]bool) {
		d := running[name]
		if d == nil {
			return nil
		}
		delete(running, name)
		d.stop()
		<-d.stopped
		s.units.Here(name)
		maps.Copy(d.here, d.before)
		return d.here
	}
	clear := func(name string) {
		d := running[name]
		for n := range end(name) {
			s.drop(d.id(n))
		}
	}
	kubewatch.Watch(ctx, s.o.Server, s.o.Heads.Resource(crds), kubewatch.Mirror[*metav1.PartialObjectMetadata]{
		Kind: "CustomResourceDefinition",
		Put: func(head *metav1.PartialObjectMetadata) {
			_, group, _ := strings.Cut(head.Name, ".")
			if !config.AsksForPolicy(group) {
				return
			}
			now := s.define(ctx, head.Name)
			if now == nil {
				clear(head.Name)
				return
			}
			if was := running[head.Name]; was != nil && was.resource() == now.resource() {
				return
			}
			now.here, now.before = map[types.NamespacedName]bool{}, end(head.Name)
			var own context.Context
			own, now.stop = context.WithCancel(ctx)
			now.stopped = make(chan struct{})
			running[head.Name] = now
			// What this version does not do anyway keeps nobody waiting.
			use, _, _ := config.Classify(now.group+"/"+now.version, now.kind)
			if now.optional = use != config.Enforced; !now.optional {
				s.units.Await(now.name)
			}
			wg.Go(func() {
				defer close(now.stopped)
				s.objects(own, now)
			})
		},
		Drop:   func(n types.NamespacedName) { clear(n.Name) },
		Synced: func() { s.units.Here("definitions") },
	})
}

// define reads a definition; nil if its kind is not served (yet), or not our business. It
// tries until it can: a policy that is not seen is not enforced.
func (s *Source) define(ctx context.Context, name string) *definition {
	for told := false; ; told = true {
		u, err := s.o.Objects.Resource(crds).Get(ctx, name, metav1.GetOptions{})
		switch {
		case err == nil:
			return define(u)
		case ctx.Err() != nil || apierrors.IsNotFound(err):
			return nil
		case !told:
			s.o.Log.Warn("cannot read the definition of a kind, whose objects are not seen until then", "definition", name, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

func define(u *unstructured.Unstructured) *definition {
	d := &definition{name: u.GetName()}
	d.group, _, _ = unstructured.NestedString(u.Object, "spec", "group")
	d.kind, _, _ = unstructured.NestedString(u.Object, "spec", "names", "kind")
	d.plural, _, _ = unstructured.NestedString(u.Object, "spec", "names", "plural")
	versions, _, _ := unstructured.NestedSlice(u.Object, "spec", "versions")
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	if !slices.ContainsFunc(conditions, func(c any) bool {
		m, _ := c.(map[string]any)
		return m["type"] == "Established" && m["status"] == "True"
	}) {
		return nil // its next change says so
	}
	var served []string
	for _, v := range versions {
		if m, _ := v.(map[string]any); m["served"] == true {
			version, _ := m["name"].(string)
			served = append(served, version)
		}
	}
	d.version = config.PreferredVersion(d.group, d.kind, served)
	if d.version == "" {
		return nil
	}
	return d
}
