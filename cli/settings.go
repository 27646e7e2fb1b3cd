package cli

import (
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/config/istio"
	"github.com/weirmesh/weir/inject"
	"github.com/weirmesh/weir/install"
	"github.com/weirmesh/weir/mesh"
)

// settings reads the ConfigMaps of an installation as its control plane will, which would leave
// out a text with mistakes and inject no pod. What has no effect is said.
func (a *app) settings(r *install.Release) error {
	src := inject.Source{Namespace: r.Namespace}
	var findings []config.Finding
	for _, o := range r.Objects {
		if o.GetKind() != "ConfigMap" {
			continue
		}
		data, _, err := unstructured.NestedStringMap(o.Object, "data")
		if err != nil {
			return err
		}
		switch o.GetName() {
		case istio.MeshConfigName:
			src.Mesh = data[istio.MeshConfigKey]
			if findings, err = meshFindings(o, data, r); err != nil {
				return err
			}
		case inject.ConfigMapName:
			src.Config, src.Values = data[inject.ConfigKey], data[inject.ValuesKey]
		}
	}
	for _, f := range findings {
		if f.Code == config.SchemaError {
			return usage(f.Hint, "the settings meshConfig and global.meshNetworks: %s: %s", f.FieldPath, f.Message)
		}
	}
	_, more, err := inject.NewSettings(src, a.Version)
	if err != nil {
		return usage("with these settings no pod would get a proxy: correct what was set", "%w", err)
	}
	for _, f := range append(findings, more...) {
		a.errs.printf("%s %s\n", a.errs.paint(yellow, "note:"), clean(f.String()))
	}
	return nil
}

// meshFindings are those about the MeshConfig and the MeshNetworks in a ConfigMap.
func meshFindings(o *unstructured.Unstructured, data map[string]string, r *install.Release) ([]config.Finding, error) {
	text, err := json.Marshal(o.Object)
	if err != nil {
		return nil, err
	}
	part := document.Part{Text: string(text), Line: 1}
	root, err := document.Parse(part)
	if err != nil {
		return nil, err
	}
	object, problems := config.NewObject(root, part, "", r.Namespace)
	if object == nil {
		return nil, fmt.Errorf("rendering the chart: %s", problems[0])
	}
	// The control plane begins with what is said here of these.
	settings := &mesh.Settings{RootNamespace: r.Namespace}
	settings.ClusterID, _, _ = unstructured.NestedString(r.Values, "global", "multiCluster", "clusterName")
	started, _, _ := unstructured.NestedMap(r.Values, "meshConfig")
	settings.TrustDomain, _, _ = unstructured.NestedString(started, "trustDomain")
	_, findings := istio.LowerMeshConfig(object, "data."+istio.MeshConfigKey, data[istio.MeshConfigKey], settings)
	return append(findings, istio.CheckMeshNetworks(object, "data."+istio.MeshNetworksKey, data[istio.MeshNetworksKey], settings.ClusterID)...), nil
}
