package store

import (
	"maps"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/istio"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/registry"
)

// scope is what the MeshConfig among the objects says about others: which namespaces are
// part of the mesh, and what exportTo is where it is not given.
type scope struct {
	config *istio.MeshConfig
	labels map[string]map[string]string // by namespace
	// What has to be brought into the plan anew.
	everything bool
	stale      map[string]bool // namespaces
}

func newScope() scope {
	return scope{config: &istio.MeshConfig{}, labels: map[string]map[string]string{}, stale: map[string]bool{}}
}

func isMeshConfig(id config.ID, root string) bool {
	return id.Group == "" && id.Kind == "ConfigMap" && id.Namespace == root && id.Name == istio.MeshConfigName
}

// meshConfig says what there is to say about a ConfigMap, if it is the one that has the
// MeshConfig.
func meshConfig(o *config.Object, lowered any, settings *mesh.Settings) []config.Finding {
	m, ok := lowered.(*corev1.ConfigMap)
	if !ok || !isMeshConfig(o.ID, settings.RootNamespace) {
		return nil
	}
	_, findings := istio.LowerMeshConfig(o, "data."+istio.MeshConfigKey, m.Data[istio.MeshConfigKey], settings)
	return append(findings, istio.CheckMeshNetworks(o, "data."+istio.MeshNetworksKey, m.Data[istio.MeshNetworksKey], settings.ClusterID)...)
}

// read takes up what an object says, which may be gone.
func (s *Store) read(id config.ID, lowered any) {
	sc := &s.scope
	switch {
	case isMeshConfig(id, s.next.Settings.RootNamespace):
		sc.config, sc.everything = &istio.MeshConfig{}, true
		if m, ok := lowered.(*corev1.ConfigMap); ok {
			if c, _ := istio.LowerMeshConfig(s.objects.At(id.String()).Serving, "", m.Data[istio.MeshConfigKey], &s.o.Settings); c != nil {
				sc.config = c
			}
		}
		if now := sc.config.Settings(&s.o.Settings); !reflect.DeepEqual(now, s.next.Settings) {
			s.next.Settings = now
		}
	case id.Group == "" && id.Kind == "Namespace":
		before := sc.labels[id.Name]
		delete(sc.labels, id.Name)
		if ns, ok := lowered.(*corev1.Namespace); ok && len(ns.Labels) > 0 {
			sc.labels[id.Name] = ns.Labels
		}
		if !maps.Equal(before, sc.labels[id.Name]) && sc.config.Discovers(id.Name, before) != sc.config.Discovers(id.Name, sc.labels[id.Name]) {
			sc.stale[id.Name] = true
		}
	}
}

// rescope brings into the plan what is judged otherwise than before.
func (s *Store) rescope() {
	sc := &s.scope
	if !sc.everything && len(sc.stale) == 0 {
		return
	}
	for o := range s.objects.Values() {
		if sc.everything || sc.stale[o.ID.Namespace] {
			s.set(o.ID, o.Lowered)
			s.mark(o.ID, o)
		}
	}
	for f := range s.facts.Values() {
		if sc.everything || sc.stale[f.id.Namespace] {
			s.set(f.id, f.lowered)
		}
	}
	sc.everything = false
	clear(sc.stale)
}

// mark keeps count of the objects that are in force in no namespace of the mesh; o is nil if
// there is none.
func (s *Store) mark(id config.ID, o *Object) {
	switch key := id.String(); {
	case o != nil && o.Serving != nil && strings.HasSuffix(id.Group, ".istio.io") && id.Namespace != "" && !s.scope.discovers(id.Namespace):
		s.outside = s.outside.Set(key, o.Serving.Ref)
	case s.outside.Has(key):
		s.outside = s.outside.Delete(key)
	}
}

func (sc *scope) discovers(namespace string) bool {
	return sc.config.Discovers(namespace, sc.labels[namespace])
}

// effective is what comes of a lowered object in the mesh as it is set up; nil if it is no
// part of it.
func (sc *scope) effective(id config.ID, lowered any) any {
	if !sc.discovers(id.Namespace) {
		return nil
	}
	visible := func(v mesh.Visibility) (now mesh.Visibility, other bool) {
		now = sc.config.DefaultExportTo(v, id.Kind, id.Namespace)
		return now, now.Limited != v.Limited
	}
	switch v := lowered.(type) {
	case *mesh.VirtualService:
		if now, other := visible(v.Visible); other {
			own := *v
			own.Visible = now
			return &own
		}
	case *mesh.DestinationRule:
		if now, other := visible(v.Visible); other {
			own := *v
			own.Visible = now
			return &own
		}
	case []*registry.Service:
		var out []*registry.Service
		for _, s := range v {
			if now, other := visible(s.Mesh.Visible); other {
				own := *s
				own.Mesh.Visible = now
				s = &own
			}
			out = append(out, s)
		}
		return out
	}
	return lowered
}
