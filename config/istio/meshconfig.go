package istio

import (
	"maps"
	"slices"
	"strings"

	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// MeshConfig is what Weir reads of Istio's MeshConfig: whom it is about, and what of it
// is seen where objects do not say so themselves. The zero value is Istio's default.
type MeshConfig struct {
	discovery                        []labels.Selector // nil: every namespace
	services, virtualServices, rules []string          // default exportTo
}

// MeshConfigName and MeshConfigKey say where it stands: in a ConfigMap of the root namespace.
const (
	MeshConfigName = "istio"
	MeshConfigKey  = "mesh"
)

// meshFields are the fields that are read.
var meshFields = []string{"discoverySelectors", "defaultServiceExportTo", "defaultVirtualServiceExportTo", "defaultDestinationRuleExportTo"}

// LowerMeshConfig reads the text of a MeshConfig, which stands at path in o.
func LowerMeshConfig(o *config.Object, path, text string) (*MeshConfig, []config.Finding) {
	r := config.NewReport(o)
	root, err := document.ParseYAML(text, 1)
	if err != nil {
		r.Invalid(path, "is not YAML: "+err.Error(), "repair the text")
		return nil, r.Findings
	}
	if root == nil || root.Kind == document.Null {
		return &MeshConfig{}, r.Findings
	}
	if root.Kind != document.Map {
		r.Invalid(path, "is not a map of fields", "write FIELD: VALUE")
		return nil, r.Findings
	}
	read := &document.Value{Kind: document.Map}
	var others []string
	for _, f := range root.Fields {
		if slices.Contains(meshFields, f.Name) {
			read.Fields = append(read.Fields, f)
		} else if s := document.Suggest(f.Name, meshFields); s != "" {
			r.Invalid(path, "there is no field "+f.Name, "did you mean "+s+"?")
		} else {
			others = append(others, f.Name)
		}
	}
	if len(others) > 0 {
		r.Add(config.FieldNotEnforced, path, strings.Join(others, ", ")+": not enforced in this version", "say it by flags of weir-control where there is one, and remove it here")
	}
	m := &meshv1alpha1.MeshConfig{}
	document.Proto(read, "", m, func(p document.Problem) { r.Invalid(path, p.Path+" "+p.Message, p.Hint) })
	out := &MeshConfig{services: m.DefaultServiceExportTo, virtualServices: m.DefaultVirtualServiceExportTo, rules: m.DefaultDestinationRuleExportTo}
	for i, list := range [][]string{out.services, out.virtualServices, out.rules} {
		if _, problem, hint := ExportTo(list, "own", i == 0); problem != "" {
			r.Invalid(path, meshFields[i+1]+": "+problem, hint)
		}
	}
	for i, s := range m.DiscoverySelectors {
		selector := &metav1.LabelSelector{MatchLabels: s.MatchLabels}
		for _, e := range s.MatchExpressions {
			selector.MatchExpressions = append(selector.MatchExpressions, metav1.LabelSelectorRequirement{Key: e.Key, Operator: metav1.LabelSelectorOperator(e.Operator), Values: e.Values})
		}
		parsed, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil {
			r.Invalid(path, document.Index("discoverySelectors", i)+": "+err.Error(), "write matchLabels, or matchExpressions with key, operator (In, NotIn, Exists, DoesNotExist) and values")
			continue
		}
		out.discovery = append(out.discovery, parsed)
	}
	if r.Failed() {
		return nil, r.Findings
	}
	return out, r.Findings
}

// Selective reports whether namespaces may be left out.
func (m *MeshConfig) Selective() bool { return len(m.discovery) > 0 }

// Discovers reports whether objects in a namespace with these labels are part of the mesh.
func (m *MeshConfig) Discovers(namespace string, l map[string]string) bool {
	all := labels.Set{"kubernetes.io/metadata.name": namespace} // as the API server labels it
	maps.Copy(all, l)
	return !m.Selective() || slices.ContainsFunc(m.discovery, func(s labels.Selector) bool { return s.Matches(all) })
}

// DefaultExportTo is what a Visibility comes to in an object of a kind and namespace.
func (m *MeshConfig) DefaultExportTo(v mesh.Visibility, kind, namespace string) mesh.Visibility {
	values := m.services
	switch kind {
	case "VirtualService":
		values = m.virtualServices
	case "DestinationRule":
		values = m.rules
	}
	if v.Limited || v.Public || len(values) == 0 {
		return v
	}
	v, _, _ = ExportTo(values, namespace, true) // checked before
	return v
}
